//! `ferrolog log watch`: the logs that there are, and what becomes of them, a line each.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::catalogue::of_log;
use crate::cli::Format;
use crate::cli::connection::{ConnectionArgs, LogPrefix};
use crate::cli::output::{print_as, reader_gone};
use crate::client::{LogChange, LogInfo};

const HELP: &str = "\
Each line tells a log that there is (`existing`), or one that was `created`, `updated` or `deleted`, then its id, its name
and, once all were told that there are, the position in parentheses. With --output json
it is an object with `change`, `log` and `position`; behind those that there are stands one with the change `current`.
A watch that ended goes on at --since with the last `position`, at any node. Several changes of one log that were missed
come as the last of them. What was deleted long ago is forgotten: --since then fails, and a watch without it begins with
the logs that there are.";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct WatchArgs {
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
    #[command(flatten)]
    of: LogPrefix,
    /// Go on behind this position, as an earlier watch told it
    #[arg(long, value_name = "POSITION")]
    since: Option<u64>,
    /// End after this many lines
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

pub(super) async fn run(args: &WatchArgs, format: Format) -> anyhow::Result<ExitCode> {
    let client = args.connection.client(None)?;
    let mut watch = client.watch_logs(&args.of.prefix, args.since.map(Into::into))?;
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let change = tokio::select! {
            change = watch.next() => change?,
            gone = reader_gone() => return Err(gone.into()),
        };
        // Until all were told that there are, there is no position to go on from.
        let at = watch.position().filter(|at| at.listed.is_none());
        let position = at.map(|at| at.index);
        let (change, text, log) = match &change {
            LogChange::Current if format == Format::Text => continue,
            LogChange::Current => ("current", String::new(), Value::Null),
            LogChange::Existing(log) => of("existing", log),
            LogChange::Created(log) => of("created", log),
            LogChange::Updated(log) => of("updated", log),
            LogChange::Deleted { name, id } => (
                "deleted",
                shown("deleted", name, *id),
                json!({ "name": name, "id": id }),
            ),
        };
        let text = match position {
            Some(at) => format!("{text}  ({at})"),
            None => text,
        };
        let told = json!({ "change": change, "log": log, "position": position });
        print_as(format, (text, told))?;
        left -= 1;
    }
    Ok(ExitCode::SUCCESS)
}

fn of(change: &'static str, log: &LogInfo) -> (&'static str, String, Value) {
    (change, shown(change, &log.name, log.id), of_log(log))
}

fn shown(change: &str, name: &str, id: u32) -> String {
    format!("{change:<9} {id:>6}  {name}")
}
