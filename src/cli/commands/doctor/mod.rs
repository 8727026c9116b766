//! `ferrolog doctor`: what is wrong with a cluster, and the command to type next; `ferrolog health` for probes.

mod findings;
mod kinds;
mod means;

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::cluster::survey::Survey;
use crate::cli::Format;
use crate::cli::connection::ConnectionArgs;
use crate::cli::exit::{EXIT_FAILURE, EXIT_NO_QUORUM};
use crate::cli::output::print_as;
use crate::cli::output::quantities::parse_wait;
use kinds::{Bounds, Finding};

const HELP: &str = "\
Asks all nodes at the same time and names each fault with the command to type next. It changes nothing.
Exit codes: 0 nothing is wrong, 1 something is, 6 there is no quorum, 3 no node answers.

Examples:
  ferrolog doctor --servers n1:7400,n2:7400,n3:7400
  ferrolog doctor --output json | jq -r '.findings[].kind'";

/// As [`Bounds::USUAL`] has it.
const SLOW_FSYNC: &str = "250ms";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct DoctorArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// A node that lacks more entries than this lags
    #[arg(long, value_name = "ENTRIES", default_value_t = Bounds::USUAL.lag)]
    max_lag: u64,
    /// A cursor that is further than this behind its log's end is worth a word
    #[arg(long, value_name = "RECORDS", default_value_t = Bounds::USUAL.cursor_lag)]
    max_cursor_lag: u64,
    /// A disk is slow of whose syncs one of 100 takes longer than this
    #[arg(long, value_name = "TIME", default_value = SLOW_FSYNC, value_parser = parse_wait)]
    max_fsync: Duration,
}

pub(in crate::cli) async fn run(args: DoctorArgs, format: Format) -> anyhow::Result<ExitCode> {
    let client = args.connection.client(None)?;
    let bounds = Bounds {
        lag: args.max_lag,
        cursor_lag: args.max_cursor_lag,
        fsync: args.max_fsync,
    };
    let survey = Survey::take(&client, &args.connection.addrs()).await?;
    // A cluster without a leader tells its logs to nobody.
    let logs = match survey.leader() {
        Some(_) => client.admin().list_logs("").await,
        None => Ok(Vec::new()),
    };
    let found = findings::of(&survey, &logs.unwrap_or_default(), &bounds);
    let quorum = survey.quorum();
    let text = match &found[..] {
        [] => format!("{quorum}; nothing is wrong"),
        found => found.iter().map(shown).collect::<Vec<_>>().join("\n\n"),
    };
    let told: Vec<_> = found.iter().map(to_json).collect();
    print_as(
        format,
        (
            text,
            json!({ "quorum": quorum.is_there(), "findings": told }),
        ),
    )?;
    Ok(match found[..] {
        _ if !quorum.is_there() => ExitCode::from(EXIT_NO_QUORUM),
        [] => ExitCode::SUCCESS,
        _ => ExitCode::from(EXIT_FAILURE),
    })
}

fn shown(finding: &Finding) -> String {
    let Finding {
        node, what, next, ..
    } = finding;
    let of = node
        .as_ref()
        .map_or(String::new(), |node| format!("{node}: "));
    format!("{of}{what}\n  next: {next}")
}

fn to_json(finding: &Finding) -> Value {
    let Finding {
        kind,
        node,
        what,
        next,
    } = finding;
    json!({ "kind": kind.name(), "node": node, "what": what, "next": next })
}
