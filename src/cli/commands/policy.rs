//! `ferrolog policy`: whether a policy's file is one, and what it allows.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use serde_json::json;

use super::serve;
use crate::agent::{Action, Lines, On};
use crate::cli::exit::EXIT_FAILURE;
use crate::cli::output::{counted, print_as};
use crate::cli::{Format, UsageError};

const HELP: &str = "\
Looks at a file on this machine and asks no node. Exit code 1: the file is no policy, or what is asked is denied.

A line gives a right, or makes a subject one of a role:
  p, SUBJECT, OBJECT, ACTIONS
  g, SUBJECT, role:ROLE
SUBJECT is the common name of a certificate, a URI among its names, such as spiffe://prod/billing or
spiffe://prod/*, or in a p line role:ROLE. OBJECT is log:NAME, cursor:NAME, fence:NAME, each perhaps with * at
its end, cluster, a plain NAME for all that have it, or * for everything. ACTIONS are produce, consume,
commit, admin and metrics, with | between them, or * for all. What no line allows is denied.

Examples:
  ferrolog policy check acl.csv
  ferrolog policy check acl.csv --subject billing --action consume --log orders/eu
  ferrolog policy check acl.csv --subject spiffe://prod/billing --action commit --log orders --cursor billing
  ferrolog policy check acl.csv --subject ops --action admin           (of the cluster)";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct PolicyArgs {
    #[command(subcommand)]
    action: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Read a policy, and tell which line allows something
    Check(CheckArgs),
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// The policy, as `serve --acl` takes it
    file: PathBuf,
    /// The common name of a certificate, or a URI among its names
    #[arg(long, value_name = "NAME", requires = "action")]
    subject: Option<String>,
    /// What it would do: produce, consume, commit, admin or metrics
    #[arg(long, value_name = "ACTION", requires = "subject")]
    action: Option<String>,
    /// The log; without it and those below, the cluster itself
    #[arg(long, value_name = "NAME", requires = "subject")]
    log: Option<String>,
    /// A cursor: of the log, or else of selections
    #[arg(long, value_name = "NAME", requires = "subject")]
    cursor: Option<String>,
    /// A fence
    #[arg(long, value_name = "NAME", requires = "subject", conflicts_with_all = ["log", "cursor"])]
    fence: Option<String>,
}

impl CheckArgs {
    fn on(&self) -> On<'_> {
        let log = self.log.as_deref();
        match (&self.fence, &self.cursor, log) {
            (Some(name), _, _) => On::Fence(name),
            (None, Some(name), log) => On::Cursor { log, name },
            (None, None, Some(log)) => On::Log(log),
            (None, None, None) => On::Cluster,
        }
    }
}

pub(in crate::cli) fn run(args: PolicyArgs, format: Format) -> anyhow::Result<ExitCode> {
    let Verb::Check(args) = args.action;
    let text = serve::read(&args.file)?;
    let lines = Lines::parse(&text).with_context(|| args.file.display().to_string())?;
    let rules = lines.rules.len() as u64;
    let (Some(subject), Some(action)) = (&args.subject, &args.action) else {
        let text = format!("{} and no fault", counted(rules, "rule", "rules"));
        print_as(format, (text, json!({ "rules": rules })))?;
        return Ok(ExitCode::SUCCESS);
    };
    let Some(known) = Action::new(action) else {
        let text =
            format!("{action:?} is no action; give produce, consume, commit, admin or metrics");
        return Err(UsageError(text).into());
    };
    let on = args.on();
    let deciding = lines.deciding(subject, known, on);
    let text = match deciding {
        Some((rule, None)) => format!("allowed by line {}: {}", rule.line, rule.text),
        Some((rule, Some(by))) => format!(
            "allowed by line {}: {}\nthrough line {}: {}",
            rule.line, rule.text, by.line, by.text
        ),
        None => format!("denied: no line allows {subject} to {action} {on}"),
    };
    let through = deciding.and_then(|(_, by)| by);
    let rule = deciding.map(|(rule, _)| rule);
    let told = json!({
        "allowed": rule.is_some(),
        "line": rule.map(|rule| rule.line),
        "rule": rule.map(|rule| rule.text),
        "through_line": through.map(|by| by.line),
        "through": through.map(|by| by.text),
    });
    print_as(format, (text, told))?;
    Ok(match rule {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::from(EXIT_FAILURE),
    })
}
