//! Asked before what cannot be undone: the flags of it, and the question.

use std::io::{self, BufRead, IsTerminal};

use anyhow::Context;

use crate::cli::output;
use crate::stderr;

/// Whether to do it, and whether to ask first.
#[derive(Debug, clap::Args)]
pub(super) struct Consent {
    /// Do not ask, also on a terminal
    #[arg(long, short = 'y')]
    yes: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// Whoever was asked did not say yes.
#[derive(Debug, thiserror::Error)]
#[error("it was not confirmed, so nothing was done; --yes confirms it, --dry-run only looks")]
struct NotConfirmed;

impl Consent {
    /// Whether somebody is there to be asked, who did not say yes before.
    pub(super) fn asks(&self) -> bool {
        !self.yes && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks whether to do `what`, such as "delete the log orders".
    ///
    /// # Errors
    ///
    /// Unless the answer is `y` or `yes`.
    pub(super) fn ask(what: &str) -> anyhow::Result<()> {
        output::say(&format!(
            "{what}? This cannot be undone. Type y to do it, anything else to leave it."
        ));
        stderr::flush();
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer);
        read.context("read the answer from standard input")?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(NotConfirmed.into()),
        }
    }
}
