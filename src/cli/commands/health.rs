//! `ferrolog health`: whether one node serves, for probes.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::cluster::survey::ask;
use crate::cli::connection::ConnectionArgs;
use crate::cli::exit::{EXIT_FAILURE, EXIT_TIMEOUT};
use crate::cli::output::{print_as, span};
use crate::cli::{Format, UsageError};
use crate::proto::v1::GetStatusResponse;

const HELP: &str = "\
Exit codes: 0 it answers, and is ready if that is asked; 1 it is not ready; 3 it does not answer within 1.5 s.

Examples:
  ferrolog health --server 127.0.0.1:7400           (is the process alive: restart it if not)
  ferrolog health --server 127.0.0.1:7400 --ready   (may clients be sent to it: it knows a leader and does not lag)";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct HealthArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// The node; without it, the first of --servers
    #[arg(long, value_name = "HOST:PORT")]
    server: Option<String>,
    /// Whether it also knows a leader, and lags no more than --max-lag-ms
    #[arg(long)]
    ready: bool,
    /// All that was acknowledged so long ago must be readable there
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    max_lag_ms: u64,
}

pub(in crate::cli) async fn run(args: HealthArgs, format: Format) -> anyhow::Result<ExitCode> {
    let server = args
        .server
        .or_else(|| args.connection.addrs().into_iter().next());
    let Some(server) = server else {
        return Err(UsageError("no node was named; add --server HOST:PORT".to_owned()).into());
    };
    let client = args.connection.client(Some(&server))?;
    let asked = ask(&client, server).await;
    let (name, silence) = match &asked.answer {
        Ok(status) => (Some(&*status.node_name), None),
        Err(silence) => (None, Some(silence.to_string())),
    };
    let lacks = match &asked.answer {
        Ok(status) if args.ready => unready(status, args.max_lag_ms),
        _ => None,
    };
    let text = match (name, &silence, &lacks) {
        (Some(name), _, None) if args.ready => format!("{name} is ready"),
        (Some(name), _, None) => format!("{name} answers"),
        (Some(name), _, Some(lacks)) => format!("{name} is not ready: {lacks}"),
        (None, silence, _) => {
            let silence = silence.as_deref().unwrap_or_default();
            format!("{} does not answer: {silence}", asked.addr)
        }
    };
    let told = json!({ "server": asked.addr, "name": name, "silence": silence, "lacks": lacks });
    print_as(format, (text, told))?;
    Ok(match (name, lacks) {
        (None, _) => ExitCode::from(EXIT_TIMEOUT),
        (_, Some(_)) => ExitCode::from(EXIT_FAILURE),
        _ => ExitCode::SUCCESS,
    })
}

/// What a node lacks that clients need.
fn unready(status: &GetStatusResponse, lag_ms_max: u64) -> Option<String> {
    if status.leader_id == 0 {
        return Some("it knows no leader".to_owned());
    }
    match status.staleness_ms {
        None => Some("no leader has confirmed yet how far it is".to_owned()),
        Some(ms) if ms > lag_ms_max => {
            let behind = span(Duration::from_millis(ms));
            Some(format!(
                "what was acknowledged in the last {behind} may be missing: no leader has confirmed since how far it is"
            ))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_that_knows_a_leader_and_does_not_lag() {
        let status = |leader_id, staleness_ms| GetStatusResponse {
            leader_id,
            staleness_ms,
            ..GetStatusResponse::default()
        };
        assert_eq!(unready(&status(1, Some(5000)), 5000), None);
        for (status, word) in [
            (status(0, Some(1)), "no leader"),
            (status(1, None), "confirmed"),
            (status(1, Some(5001)), "the last 5.00s may"),
        ] {
            let lacks = unready(&status, 5000).expect("it lacks something");
            assert!(lacks.contains(word), "{lacks}");
        }
    }
}
