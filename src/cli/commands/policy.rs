//! `ferrolog policy`: whether a policy's file is one, and what it allows.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use serde_json::json;

use super::serve;
use crate::agent::{Action, On, Rule};
use crate::cli::exit::EXIT_FAILURE;
use crate::cli::output::{counted, print_as};
use crate::cli::{Format, UsageError};

const HELP: &str = "\
Looks at a file on this machine and asks no node. Exit code 1: the file is no policy, or what is asked is denied.

Examples:
  ferrolog policy check acl.csv
  ferrolog policy check acl.csv --subject billing --action consume --log orders/eu
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
    /// The common name of a certificate
    #[arg(long, value_name = "NAME", requires = "action")]
    subject: Option<String>,
    /// What it would do: produce, consume, commit, admin or metrics
    #[arg(long, value_name = "ACTION", requires = "subject")]
    action: Option<String>,
    /// The log, or the name of a fence; without it, the cluster itself
    #[arg(long, value_name = "NAME", requires = "subject")]
    log: Option<String>,
}

pub(in crate::cli) fn run(args: PolicyArgs, format: Format) -> anyhow::Result<ExitCode> {
    let Verb::Check(args) = args.action;
    let text = serve::read(&args.file)?;
    let rules: Result<Vec<_>, _> = Rule::all(&text).collect();
    let rules = rules.with_context(|| args.file.display().to_string())?;
    let (Some(subject), Some(action)) = (&args.subject, &args.action) else {
        let text = format!(
            "{} and no fault",
            counted(rules.len() as u64, "rule", "rules")
        );
        print_as(format, (text, json!({ "rules": rules.len() })))?;
        return Ok(ExitCode::SUCCESS);
    };
    let Some(known) = Action::new(action) else {
        let text =
            format!("{action:?} is no action; give produce, consume, commit, admin or metrics");
        return Err(UsageError(text).into());
    };
    let on = args.log.as_deref().map_or(On::Cluster, On::Name);
    let deciding = rules.iter().find(|rule| rule.allows(subject, known, on));
    let text = match deciding {
        Some(rule) => format!("allowed by line {}: {}", rule.line, rule.text),
        None => format!("denied: no line allows {subject} to {action} {on}"),
    };
    let told = json!({
        "allowed": deciding.is_some(),
        "line": deciding.map(|rule| rule.line),
        "rule": deciding.map(|rule| rule.text),
    });
    print_as(format, (text, told))?;
    Ok(match deciding {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::from(EXIT_FAILURE),
    })
}
