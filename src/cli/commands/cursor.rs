//! `ferrolog cursor`: consumers' named positions, kept by the cluster.

use anyhow::Context;
use clap::Subcommand;
use serde_json::json;

use crate::cli::Format;
use crate::cli::connection::{ConnectionArgs, OfLog};
use crate::cli::output::{Cell, Column, Told, deleted, listed, print_as};
use crate::client::{Admin, CursorInfo};

const HELP: &str = "\
A cursor holds the offset of the record that is read next: at most the one behind the last record. It never expires.
It belongs to one log: the same name in another log is another cursor. With --of-selections it belongs to none, and
holds a position among the records of all logs, as `consume --prefix orders/ --cursor NAME` moves it; it holds back no
log's retention.

Examples:
  ferrolog cursor set billing 0 --create
  ferrolog consume --cursor billing --follow      (reads on from it, and moves it)
  ferrolog cursor list --servers n1:7400
  ferrolog cursor list --log orders
  ferrolog cursor set billing 1000
  ferrolog cursor list --of-selections
  ferrolog cursor set billing 1000 --expected 900 (only if nobody moved it meanwhile)
  ferrolog cursor delete billing
  ferrolog log retention --wait-for-cursor billing --wait-max-bytes 100GiB";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct CursorArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    log: OfLog,
    /// Cursors of several logs that are read as one, and of no log
    #[arg(long, global = true)]
    of_selections: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show all cursors
    List,
    /// Move a cursor, or make one with --create
    Set {
        /// Which cursor
        name: String,
        /// The offset of the record that is read next
        offset: u64,
        #[command(flatten)]
        from: From,
    },
    /// Forget a cursor
    Delete {
        /// Which cursor
        name: String,
    },
}

/// The condition of a move.
#[derive(Debug, clap::Args)]
struct From {
    /// Only if the cursor stands here
    #[arg(long, value_name = "N")]
    expected: Option<u64>,
    /// Make the cursor, if there is none of this name
    #[arg(long, conflicts_with = "expected")]
    create: bool,
}

impl CursorArgs {
    pub(in crate::cli) fn connection(&self) -> &ConnectionArgs {
        &self.connection
    }
}

pub(in crate::cli) async fn run(args: CursorArgs, format: Format) -> anyhow::Result<()> {
    let admin = args.log.of(&args.connection.client(None)?).admin();
    let admin = match args.of_selections {
        true => admin.of_selections(),
        false => admin,
    };
    let told = match args.action {
        Action::List => list(&admin.cursors().await?),
        Action::Set { name, offset, from } => set(&admin, &name, offset, from).await?,
        Action::Delete { name } => deleted("cursor", &name, admin.delete_cursor(&name).await?),
    };
    print_as(format, told)
}

/// There is no cursor of this name. None is made unasked, since the name may be misspelt.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no cursor {name}{}: see `ferrolog cursor list{option}` for those that there are, or make it with \
     `ferrolog cursor set {name} 0 --create{option}`",
    if option.is_empty() { "" } else { " there" }
)]
pub(in crate::cli) struct NoCursor {
    name: String,
    /// What the commands need besides, behind a space: the log, unless it is the default one.
    option: String,
}

/// The log that is always there, and that is meant if none is named.
const DEFAULT_LOG: &str = "default";

fn option_of(admin: &Admin) -> String {
    match (admin.is_of_selections(), admin.log_name()) {
        (true, _) => " --of-selections".to_owned(),
        (false, "" | DEFAULT_LOG) => String::new(),
        (false, log) => format!(" --log {log}"),
    }
}

/// Where a cursor stands; `None` if there is none and it is to be made.
pub(in crate::cli) async fn stands(
    admin: &Admin,
    name: &str,
    create: bool,
) -> anyhow::Result<Option<u64>> {
    let cursor = admin.cursor(name).await;
    let cursor = cursor.with_context(|| format!("read the cursor {name}"))?;
    if cursor.is_none() && !create {
        let (name, option) = (name.to_owned(), option_of(admin));
        return Err(NoCursor { name, option }.into());
    }
    Ok(cursor.map(|cursor| cursor.offset))
}

fn list(cursors: &[CursorInfo]) -> Told {
    let columns = [
        Column("NAME", "name", |cursor: &CursorInfo| {
            Cell::Text(cursor.name.clone())
        }),
        Column("OFFSET", "offset", |cursor| Cell::Count(cursor.offset)),
        Column("UPDATED", "updated_ms", |cursor| {
            Cell::Time(cursor.updated_ms)
        }),
    ];
    listed("cursors", cursors, &columns)
}

async fn set(admin: &Admin, name: &str, offset: u64, from: From) -> anyhow::Result<Told> {
    // With an expected place there must be a cursor, and the cluster looks itself.
    if from.expected.is_none() {
        stands(admin, name, from.create).await?;
    }
    let set = admin.commit_cursor(name, offset, from.expected).await;
    set.with_context(|| format!("set the cursor {name}"))?;
    let shown = format!("{name} stands at {offset} now");
    Ok((shown, json!({ "name": name, "offset": offset })))
}
