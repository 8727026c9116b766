//! `ferrolog log`: what is kept of the log, and a look at its files.

use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use serde_json::{Value, json};

use super::connection::ConnectionArgs;
use super::log_files::{self, DumpArgs, VerifyArgs};
use super::output::{grouped, print};
use super::{Format, UsageError};
use crate::client::Client;
use crate::proto::v1::Retention;

const HELP: &str = "\
Examples:
  ferrolog log trim 100000 --servers n1:8400            (records before offset 100000 go)
  ferrolog log retention                                (show what is set)
  ferrolog log retention --max-bytes 50GiB --max-age 7d
  ferrolog log retention --max-age none
  ferrolog log verify data/n1                           (of a node that is stopped)
  ferrolog log dump data/n1 --from 1000 --count 10 --output json
  ferrolog log dump data/n1 --entries

Records go on every node alike. Their room on disk is given back a whole segment at a time, once a
snapshot covers it.

verify and dump read files and change none. verify exits 1 if something is damaged; what a crash
leaves and the next start puts right, such as a torn tail, is told and is no damage.";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct LogArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Give up the records before an offset
    Trim {
        /// The first offset that stays
        #[arg(value_name = "OFFSET")]
        first: u64,
        #[command(flatten)]
        connection: ConnectionArgs,
    },
    /// Show or set how much of the log is kept
    Retention {
        /// Bytes of segments to keep, such as 50GiB or 1000000, or `none`
        #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
        max_bytes: Option<u64>,
        /// For how long records are kept, such as 7d, 12h, 30m or 45s, or `none`
        #[arg(long, value_name = "TIME", value_parser = parse_age)]
        max_age: Option<u64>,
        #[command(flatten)]
        connection: ConnectionArgs,
    },
    /// Check every byte of a stopped node's log
    Verify(VerifyArgs),
    /// Print records or raft entries from a stopped node's files
    Dump(DumpArgs),
}

pub(super) async fn run(args: LogArgs, format: Format) -> anyhow::Result<ExitCode> {
    let (shown, result) = match args.action {
        Action::Trim { first, connection } => trim(&connection.client(None)?, first).await?,
        Action::Retention {
            max_bytes,
            max_age,
            connection,
        } => retention(&connection.client(None)?, max_bytes, max_age).await?,
        Action::Verify(args) => return log_files::verify(&args, format),
        Action::Dump(args) => return log_files::dump(&args, format),
    };
    let text = if format == Format::Json {
        result.to_string()
    } else {
        shown
    };
    print(&text).context("write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

async fn trim(client: &Client, first: u64) -> anyhow::Result<(String, Value)> {
    let first = client.trim(first).await?;
    let shown = format!("the log begins at offset {first} now");
    Ok((shown, json!({ "first_offset": first })))
}

async fn retention(
    client: &Client,
    max_bytes: Option<u64>,
    max_age: Option<u64>,
) -> anyhow::Result<(String, Value)> {
    let mut kept = client.retention().await?;
    if max_bytes.is_some() || max_age.is_some() {
        kept = Retention {
            max_bytes: max_bytes.unwrap_or(kept.max_bytes),
            max_age_ms: max_age.unwrap_or(kept.max_age_ms),
        };
        client.set_retention(kept).await?;
    }
    let limit = |value: u64| Some(value).filter(|value| *value > 0);
    let (bytes, age) = (limit(kept.max_bytes), limit(kept.max_age_ms));
    let shown = format!(
        "kept: {}, {}",
        bytes.map_or("any number of bytes".to_owned(), |bytes| {
            format!("{} bytes", grouped(bytes))
        }),
        age.map_or("for ever".to_owned(), |age| format!(
            "for {} s",
            grouped(age / 1000)
        )),
    );
    Ok((shown, json!({ "max_bytes": bytes, "max_age_ms": age })))
}

/// A number with a unit; 0 for `none`.
fn parse(text: &str, units: &[(&str, u64)], example: &str) -> Result<u64, UsageError> {
    if text == "none" {
        return Ok(0);
    }
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = units
        .iter()
        .find(|(name, _)| *name == &text[digits.len()..]);
    let number = digits.parse::<u64>().ok().filter(|number| *number > 0);
    let value = number
        .zip(unit)
        .and_then(|(number, (_, unit))| number.checked_mul(*unit));
    value.ok_or_else(|| UsageError(format!("{text:?} is not a limit: {example}")))
}

fn parse_bytes(text: &str) -> Result<u64, UsageError> {
    let units = [
        ("", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
    ];
    parse(
        text,
        &units,
        "write bytes such as 1000000, 512MiB or 50GiB, or none",
    )
}

fn parse_age(text: &str) -> Result<u64, UsageError> {
    let units = [
        ("ms", 1),
        ("s", 1000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ];
    parse(
        text,
        &units,
        "write a time such as 45s, 30m, 12h or 7d, or none",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_with_their_units() {
        assert_eq!(parse_bytes("1000").unwrap(), 1000);
        assert_eq!(parse_bytes("2GiB").unwrap(), 2 << 30);
        assert_eq!(parse_bytes("none").unwrap(), 0);
        assert_eq!(parse_age("7d").unwrap(), 7 * 86_400_000);
        assert_eq!(parse_age("250ms").unwrap(), 250);
        for bad in ["", "0", "GiB", "1GB", "-1", "1.5GiB", "99999999999TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert!(parse_age("7").is_err(), "a time needs its unit");
    }
}
