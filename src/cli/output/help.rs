//! The help of a command: it shows examples of itself.
//!
//! Examples are written once, at the command that has others below it, where one reads on to the next. Whoever asks for the
//! help of one of those sees the lines that are of it.

use clap::Command;

const TITLE: &str = "Examples:\n";
/// Between a line and the remark on it.
const GAP: &str = "  ";

/// Gives each command without examples of its own those of the command above that are of it.
pub(in crate::cli) fn with_examples(command: Command) -> Command {
    let path = command.get_name().to_owned();
    below(command, &path)
}

fn below(command: Command, path: &str) -> Command {
    let shown = after_help(&command);
    command.mut_subcommands(|sub| {
        let path = format!("{path} {}", sub.get_name());
        let own = after_help(&sub);
        let examples = examples_of(&shown, &path);
        let sub = match own.contains(TITLE) || examples.is_empty() {
            true => sub,
            false => sub.after_help(format!("{own}\n\n{examples}").trim_start().to_owned()),
        };
        below(sub, &path)
    })
}

fn after_help(command: &Command) -> String {
    let help = command.get_after_help();
    help.map(ToString::to_string).unwrap_or_default()
}

/// The lines of a help that show this command, their remarks below each other; empty if there are none.
fn examples_of(help: &str, path: &str) -> String {
    let is_of = |line: &&str| {
        let rest = line.strip_prefix(path);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    let split = |line: &str| {
        let (words, remark) = line.split_at(line.find(" (").unwrap_or(line.len()));
        (words.trim_end().to_owned(), remark.trim_start().to_owned())
    };
    let lines: Vec<_> = help
        .lines()
        .map(str::trim)
        .filter(is_of)
        .map(split)
        .collect();
    let remarked = lines.iter().filter(|(_, remark)| !remark.is_empty());
    let width = remarked.map(|(words, _)| words.chars().count()).max();
    let mut text = String::new();
    for (words, remark) in &lines {
        text.push_str(if text.is_empty() { TITLE } else { "\n" });
        text.push_str(GAP);
        text.push_str(words);
        if let (Some(width), false) = (width, remark.is_empty()) {
            let room = width.saturating_sub(words.chars().count());
            text.extend([&" ".repeat(room), GAP, remark]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "\
What it is about.

Examples:
  tool log set a --by b
  tool log setup                     (another one)
  tool log set other --limit 3       (of this one alone)
  tool log set x                     (once; then: log show)";

    #[test]
    fn a_command_shows_the_examples_of_the_one_above_that_are_of_it() {
        let own = Command::new("setup").after_help("Examples:\n  tool log setup --own");
        let show = Command::new("show").after_help("Exit code 6: none.");
        let set = Command::new("set").after_help("It waits.");
        let log = Command::new("log")
            .after_help(HELP)
            .subcommands([set, own, show]);
        let tool = with_examples(Command::new("tool").subcommand(log));
        let log = tool.find_subcommand("log").unwrap();
        let help = |name| after_help(log.find_subcommand(name).unwrap());
        assert_eq!(
            help("set"),
            "It waits.\n\nExamples:\n  tool log set a --by b\n  \
             tool log set other --limit 3  (of this one alone)\n  \
             tool log set x                (once; then: log show)"
        );
        assert_eq!(help("setup"), "Examples:\n  tool log setup --own");
        assert_eq!(help("show"), "Exit code 6: none.", "it is not shown");
        assert_eq!(after_help(log), HELP);
    }
}
