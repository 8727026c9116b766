//! The pages and the help against the command line: each command that they show is one, with those flags.
#![allow(clippy::disallowed_methods, reason = "it reads the pages themselves")]

use std::collections::BTreeSet;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::cli::logging::LoggingArgs;
use crate::config::Options;

use super::Cli;

const PAGES: [&str; 5] = [
    "README.md",
    "docs/architecture.md",
    "docs/errors.md",
    "docs/operations.md",
    "docs/security.md",
];

fn page(path: &str) -> String {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path}: {error}"))
}

/// The commands that stand on lines of their own in a text, continued lines joined.
fn shown_on_lines(text: &str) -> Vec<String> {
    let lines: Vec<_> = text.split("\\\n").map(str::trim_start).collect();
    let joined = lines.concat();
    let commands = joined.lines().filter_map(|line| {
        // What feeds the command stands before a bar.
        let line = line.rsplit("| ").next()?.trim();
        let command = line.strip_prefix("ferrolog ")?;
        // A manifest of cargo begins so, too.
        let is_command = !command.starts_with('=');
        // Behind it stands what the shell does with it, or a remark.
        let ends = [";", "#", ">", "&", "  ", " ("];
        let end = ends.iter().filter_map(|end| command.find(end)).min();
        is_command.then(|| command[..end.unwrap_or(command.len())].trim().to_owned())
    });
    commands.collect()
}

/// Words as a shell takes them: what stands in quotes is one.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, ' ') => words.push(String::new()),
            (_, c) => words.last_mut().expect("there is one").push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The commands that stand in a sentence.
fn shown_in_sentences(text: &str) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    let commands = quoted.filter_map(|quoted| quoted.strip_prefix("ferrolog "));
    commands.map(|words| words.replace('\n', " ")).collect()
}

/// Why a line is no command line. In a sentence what a command needs may be left out.
fn wrong(line: &str, in_sentence: bool) -> Option<String> {
    // `COMMAND` stands for all of them.
    let line = format!("ferrolog {}", line.replace("COMMAND", "serve"));
    let error = Cli::try_parse_from(words(&line)).err()?;
    let is_fine = match error.kind() {
        ErrorKind::DisplayHelp => true,
        ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => in_sentence,
        // A name in capitals stands for a number.
        ErrorKind::ValueValidation => in_sentence,
        _ => false,
    };
    (!is_fine).then(|| error.to_string())
}

#[test]
fn every_command_that_a_page_shows_is_one() {
    let mut seen = 0;
    for path in PAGES {
        let text = page(path);
        let (fenced, prose): (Vec<_>, Vec<_>) = text
            .split("```")
            .enumerate()
            .partition(|(number, _)| number % 2 == 1);
        let fenced = fenced
            .into_iter()
            .flat_map(|(_, text)| shown_on_lines(text));
        let indented = prose.iter().flat_map(|(_, text)| shown_on_lines(text));
        for words in fenced.chain(indented) {
            seen += 1;
            assert_eq!(wrong(&words, false), None, "{path}: ferrolog {words}");
        }
        for words in prose.iter().flat_map(|(_, text)| shown_in_sentences(text)) {
            seen += 1;
            assert_eq!(wrong(&words, true), None, "{path}: `ferrolog {words}`");
        }
    }
    assert!(seen > 25, "only {seen} commands were found");
}

#[test]
fn every_command_that_the_help_shows_is_one() {
    let mut seen = 0;
    let mut commands = vec![Cli::whole()];
    while let Some(command) = commands.pop() {
        let help = command.get_after_help().map(ToString::to_string);
        for words in shown_on_lines(&help.unwrap_or_default()) {
            seen += 1;
            assert_eq!(wrong(&words, false), None, "ferrolog {words}");
        }
        commands.extend(command.get_subcommands().cloned());
    }
    assert!(seen > 15, "only {seen} examples were found");
}

/// Whoever asks for the help of a command learns what each word of it is, and sees it used.
#[test]
fn every_command_explains_its_arguments_and_shows_an_example() {
    let mut whole = Cli::whole().disable_help_subcommand(true);
    whole.build();
    let mut commands: Vec<_> = whole.get_subcommands().collect();
    let mut seen = 0;
    while let Some(command) = commands.pop() {
        seen += 1;
        let name = command.get_bin_name().expect("it is built");
        let help = command.get_after_help().map(ToString::to_string);
        let examples = help.unwrap_or_default();
        assert!(
            examples.contains(&format!("\n  {name}")) || examples.contains(&format!("| {name}")),
            "no example of {name}"
        );
        for arg in command.get_arguments() {
            let id = arg.get_id();
            assert!(arg.get_help().is_some(), "{name}: what is {id}?");
        }
        commands.extend(command.get_subcommands());
    }
    assert!(seen > 40, "{seen} commands");
}

/// The cells of the rows of a table of the README, from a title on.
fn rows(title: &str) -> Vec<Vec<String>> {
    let text = page("README.md");
    let begin = text.find(title).unwrap_or_else(|| panic!("no {title}"));
    let lines = text[begin..]
        .lines()
        .skip(2)
        .take_while(|line| !line.starts_with("## "));
    let rows = lines.filter(|line| line.starts_with("| `"));
    // A bar within a cell is escaped.
    let cells = |line: &str| {
        let line = line.replace("\\|", "\u{1}");
        let cells = line.trim_matches('|').split('|').map(str::trim);
        cells.map(|cell| cell.replace('\u{1}', "|")).collect()
    };
    rows.map(cells).collect()
}

fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_readme_lists_the_commands_that_there_are() {
    let mut listed = BTreeSet::new();
    let command = Cli::command();
    for row in rows("\n## Commands") {
        for name in quoted(&row[0]) {
            let mut words = name.split([' ', ',']);
            let first = words.next().expect("a command").to_owned();
            let of = command.find_subcommand(&first);
            let of = of.unwrap_or_else(|| panic!("there is no command {first}"));
            match words.next().filter(|_| of.has_subcommands()) {
                Some(subs) => listed.extend(subs.split('|').map(|sub| format!("{first} {sub}"))),
                None => assert!(listed.insert(first), "{name} is listed twice"),
            }
            for flag in quoted(&row[1])
                .iter()
                .filter_map(|word| word.strip_prefix("--"))
            {
                let is_there = of.get_arguments().any(|arg| arg.get_long() == Some(flag));
                assert!(is_there, "{name} has no --{flag}");
            }
        }
    }
    let mut there = BTreeSet::new();
    for of in command
        .get_subcommands()
        .filter(|of| of.get_name() != "help")
    {
        match of.has_subcommands() {
            false => drop(there.insert(of.get_name().to_owned())),
            true => {
                // It does something by itself, too.
                if !of.is_subcommand_required_set() {
                    there.insert(of.get_name().to_owned());
                }
                there.extend(
                    of.get_subcommands()
                        .filter(|sub| sub.get_name() != "help")
                        .map(|sub| format!("{} {}", of.get_name(), sub.get_name())),
                );
            }
        }
    }
    assert_eq!(listed, there);
}

#[test]
fn the_readme_lists_the_settings_that_there_are() {
    let serve = <Options as clap::Args>::augment_args(clap::Command::new("serve"));
    let serve = <LoggingArgs as clap::Args>::augment_args(serve);
    let rows = rows("\n## Settings of a node");
    let told = |column: usize| -> BTreeSet<String> {
        let words = rows.iter().flat_map(|row| quoted(&row[column]));
        words.map(str::to_owned).collect()
    };
    let (flags, variables, keys) = (told(0), told(1), told(2));
    let mut there = BTreeSet::new();
    // A flag without a variable is one of the command line alone.
    for arg in serve.get_arguments().filter(|arg| arg.get_env().is_some()) {
        let flag = format!("--{}", arg.get_long().expect("a setting has a flag"));
        let variable = arg
            .get_env()
            .and_then(|name| name.to_str())
            .expect("and a variable");
        // The three files of a certificate share a row, which names the first of each.
        if !matches!(&*flag, "--tls-cert" | "--tls-key") {
            assert!(
                variables.contains(variable),
                "{variable} is not in the README"
            );
            assert!(
                keys.contains(arg.get_id().as_str()),
                "{} is not in the README",
                arg.get_id()
            );
        }
        there.insert(flag);
    }
    assert_eq!(flags, there);
    assert_eq!(variables.len(), rows.len());
    assert_eq!(keys.len(), rows.len());
}
