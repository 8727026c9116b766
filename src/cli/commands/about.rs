//! `ferrolog version`, `completions` and `man`: what the program says of itself.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use serde_json::json;

use crate::cli::output::{Told, counted, print, print_as};
use crate::cli::{Format, files};
use crate::{log, raft};

/// The commit that this program was built from, if the build knew it.
const COMMIT: Option<&str> = option_env!("FERROLOG_COMMIT");

pub(in crate::cli) const VERSION_HELP: &str = "\
Examples:
  ferrolog version
  ferrolog version --output json";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ferrolog completions bash > ~/.local/share/bash-completion/completions/ferrolog
  ferrolog completions zsh > ~/.zfunc/_ferrolog
  ferrolog completions fish > ~/.config/fish/completions/ferrolog.fish")]
pub(in crate::cli) struct CompletionsArgs {
    /// The shell that is to complete words
    shell: Shell,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ferrolog man | man -l -
  ferrolog man --out ~/.local/share/man/man1")]
pub(in crate::cli) struct ManArgs {
    /// Write a page for each command into this directory, made if missing, in place of one to standard output
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(in crate::cli) fn version(format: Format) -> anyhow::Result<()> {
    print_as(format, version_told())
}

fn version_told() -> Told {
    let version = env!("CARGO_PKG_VERSION");
    let (wire, segments) = (raft::WIRE, log::FORMAT_VERSION);
    let text = format!(
        "ferrolog {version}, commit {}\nbetween nodes: wire version {wire}; on disk: format version {segments}; for \
         clients: ferrolog.v1, log.v1",
        COMMIT.unwrap_or("unknown"),
    );
    let told = json!({
        "version": version,
        "commit": COMMIT,
        "wire_version": wire,
        "format_version": segments,
        "apis": ["ferrolog.v1", "log.v1"],
    });
    (text, told)
}

/// Prints the script by which a shell completes this command line.
pub(in crate::cli) fn completions(args: &CompletionsArgs, mut of: Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut of, "ferrolog", &mut script);
    let script = String::from_utf8(script).context("the script is no text")?;
    print(script.trim_end()).context("write to standard output")
}

/// Prints or writes the manual.
pub(in crate::cli) fn man(args: &ManArgs, of: Command, format: Format) -> anyhow::Result<()> {
    // Without a name of its own, a command's page would be called as its last word alone.
    let mut of = of.disable_help_subcommand(true);
    of.build();
    let Some(out) = &args.out else {
        let page = page(&of)?;
        return print(page.trim_end()).context("write to standard output");
    };
    files::create_dir(out)?;
    let mut pages = Vec::new();
    write_pages(&of, out, &mut pages)?;
    let count = counted(pages.len() as u64, "page", "pages");
    let text = format!("wrote {count} to {}", out.display());
    print_as(format, (text, json!({ "files": pages })))
}

fn page(of: &Command) -> anyhow::Result<String> {
    let mut page = Vec::new();
    let written = Man::new(of.clone()).render(&mut page);
    written.context("make a page of the manual")?;
    String::from_utf8(page).context("the page is no text")
}

/// Writes the page of a command, then those of its own commands.
fn write_pages(of: &Command, out: &Path, written: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let name = of.get_display_name().unwrap_or(of.get_name());
    let path = out.join(format!("{name}.1"));
    files::write(&path, &page(of)?)?;
    written.push(path);
    for sub in of.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        write_pages(sub, out, written)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_command_has_a_page_and_every_shell_a_script() {
        let mut of = crate::cli::Cli::command().disable_help_subcommand(true);
        of.build();
        let mut left = vec![&of];
        let mut pages = 0;
        while let Some(command) = left.pop() {
            let page = page(command).unwrap();
            let about = command
                .get_about()
                .map(ToString::to_string)
                .unwrap_or_default();
            let first = about.split(['\'', '-']).next().unwrap();
            assert!(page.contains(first), "{}: {page}", command.get_name());
            pages += 1;
            left.extend(command.get_subcommands());
        }
        assert!(pages > 30, "{pages}");
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut of.clone(), "ferrolog", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("wait-for-cursor"), "{shell}");
        }
    }

    #[test]
    fn the_version_tells_what_must_fit_together() {
        let (text, told) = version_told();
        assert!(text.starts_with(&format!("ferrolog {}", env!("CARGO_PKG_VERSION"))));
        assert_eq!(told["wire_version"], raft::WIRE);
        assert_eq!(told["format_version"], log::FORMAT_VERSION);
    }
}
