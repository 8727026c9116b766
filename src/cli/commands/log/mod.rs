//! `ferrolog log`: the logs of the cluster, what is kept of one, and a look at a node's files.

mod catalogue;
mod files;
mod settings;
mod watch;

use std::process::ExitCode;

use clap::Subcommand;

use super::cursor::stands;
use crate::cli::Format;
use crate::cli::connection::{ConnectionArgs, OfLog};
use crate::cli::output::quantities::{parse_age, parse_bytes};
use crate::cli::output::{Told, print_as};
use crate::client::Client;
use catalogue::{CompactArgs, CreateArgs, DeleteArgs, ListArgs, SetArgs, ShowArgs, TrimArgs};
use files::{DumpArgs, VerifyArgs};
use settings::{Change, retention_json, retention_text};
use watch::WatchArgs;

const HELP: &str = "\
Examples:
  ferrolog log create orders --label team=sales --servers n1:7400
  ferrolog log list
  ferrolog log list --prefix orders --output json
  ferrolog log show orders
  ferrolog log set orders --retention-bytes 50GiB --retention-age 7d --label tier=gold
  ferrolog log set orders --retention-wait-for billing --retention-cap 100GiB
  ferrolog log set orders --record-bytes-max 64KiB --timestamps-required true
  ferrolog log set orders --retention-age none --remove-label tier
  ferrolog log set prices --compact key --min-compaction-age 1h --tombstone-retention 1d
  ferrolog log compact prices                           (now; `log show` tells what it takes on disk)
  ferrolog log watch --prefix orders/ --output json
  ferrolog log watch --since 1200                       (what became of the logs since then)
  ferrolog log delete orders                            (with its records and cursors)
  ferrolog log delete orders --id 7                     (only if that is still the one)
  ferrolog log trim 100000                              (records before offset 100000 go)
  ferrolog log trim 5000 --log orders --dry-run         (only says what would go)
  ferrolog log retention                                (show what is set)
  ferrolog log retention --log orders --max-bytes 50GiB --max-age 7d
  ferrolog log retention --max-age none
  ferrolog log retention --wait-for-cursor billing --wait-for-cursor audit --wait-max-bytes 100GiB
  ferrolog log retention --wait-for-cursor none
  ferrolog log verify data/n1                           (of a node that is stopped)
  ferrolog log dump data/n1 --from 1000 --count 10 --output json
  ferrolog log dump data/n1 --log-id 7                  (as `log show` told it)
  ferrolog log dump data/n1 --entries

A log has offsets and cursors of its own. One that is made anew under a name is another log, with another id.
`default` is there from the start, and stays. On a terminal trim and delete ask first, unless --yes says so already.

With --wait-for-cursor, records that a cursor has not read yet stay whatever the limits say, until the
log has more bytes than --wait-max-bytes.

Records go on every node alike. Their room on disk is given back a whole segment at a time, once a
snapshot covers it.

verify and dump read files and change none. verify exits 1 if something is damaged; what a crash
leaves and the next start puts right, such as a torn tail, is told and is no damage.";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct LogArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a log
    Create(CreateArgs),
    /// Show the logs that there are
    List(ListArgs),
    /// Show all that is known of a log
    Show(ShowArgs),
    /// Change what is set for a log; what is not named stays
    Set(SetArgs),
    /// Show the logs that there are, and what becomes of them as it happens
    Watch(WatchArgs),
    /// Delete a log, with its records and cursors
    Delete(DeleteArgs),
    /// Have a log that is compacted by key compacted now
    Compact(CompactArgs),
    /// Give up the records before an offset
    Trim(TrimArgs),
    /// Show or set how much of a log is kept
    Retention {
        /// Bytes of its batches to keep, such as 50GiB or 1000000, or `none`
        #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
        max_bytes: Option<u64>,
        /// For how long records are kept, such as 7d, 12h, 30m or 45s, or `none`
        #[arg(long, value_name = "TIME", value_parser = parse_age)]
        max_age: Option<u64>,
        /// Keep what this cursor has not read; may be given several times, `none` for no cursor
        #[arg(long, value_name = "NAME")]
        wait_for_cursor: Vec<String>,
        /// Do not wait once the log has more than this, such as 100GiB, or `none`
        #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
        wait_max_bytes: Option<u64>,
        #[command(flatten)]
        connection: ConnectionArgs,
        #[command(flatten)]
        log: OfLog,
    },
    /// Check every byte of a stopped node's log
    Verify(VerifyArgs),
    /// Print records or raft entries from a stopped node's files
    Dump(DumpArgs),
}

impl LogArgs {
    /// How it reaches a cluster, if it calls one.
    pub(in crate::cli) fn connection(&self) -> Option<&ConnectionArgs> {
        Some(match &self.action {
            Action::Create(args) => &args.connection,
            Action::List(args) => &args.connection,
            Action::Show(args) => &args.connection,
            Action::Set(args) => &args.connection,
            Action::Delete(args) => &args.connection,
            Action::Compact(args) => &args.connection,
            Action::Trim(args) => &args.connection,
            Action::Watch(args) => &args.connection,
            Action::Retention { connection, .. } => connection,
            Action::Verify(_) | Action::Dump(_) => return None,
        })
    }
}

pub(in crate::cli) async fn run(args: LogArgs, format: Format) -> anyhow::Result<ExitCode> {
    let told = match args.action {
        Action::Create(args) => catalogue::create(args).await?,
        Action::List(args) => catalogue::list(&args).await?,
        Action::Show(args) => catalogue::show(&args).await?,
        Action::Set(args) => catalogue::set(args).await?,
        Action::Delete(args) => catalogue::delete(&args).await?,
        Action::Watch(args) => return watch::run(&args, format).await,
        Action::Compact(args) => catalogue::compact(&args).await?,
        Action::Trim(args) => catalogue::trim(&args).await?,
        Action::Retention {
            max_bytes,
            max_age,
            wait_for_cursor,
            wait_max_bytes,
            connection,
            log,
        } => {
            let change = Change {
                max_bytes,
                max_age,
                wait_for_cursor,
                wait_max_bytes,
                cap_option: "--wait-max-bytes",
            };
            retention(&log.of(&connection.client(None)?), change).await?
        }
        Action::Verify(args) => return files::verify(&args, format),
        Action::Dump(args) => return files::dump(&args, format),
    };
    print_as(format, told)?;
    Ok(ExitCode::SUCCESS)
}

async fn retention(client: &Client, change: Change) -> anyhow::Result<Told> {
    let admin = client.admin();
    let mut kept = admin.retention().await?;
    if !change.is_nothing() {
        // A cursor that does not exist keeps no record, and its later reader would miss those that were removed.
        for name in change.wait_for_cursor.iter().filter(|name| *name != "none") {
            stands(&client.admin(), name, false).await?;
        }
        kept = change.apply(kept)?;
        admin.set_retention(kept.clone()).await?;
    }
    Ok((retention_text(&kept), retention_json(&kept)))
}
