//! `ferrolog log create`, `list`, `show` and `delete`: the logs of a cluster.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::{Value, json};

use crate::cli::connection::ConnectionArgs;
use crate::cli::output::{Cell, Column, Told, deleted, grouped, listed, size, time};
use crate::client::{ClientError, LogInfo, LogSettings};

#[derive(Debug, clap::Args)]
pub(super) struct CreateArgs {
    /// What it is called: 1 to 255 bytes, no space at either end, not beginning with _
    name: String,
    /// A word of yours about it; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Only those whose names begin so
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    prefix: String,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    name: String,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct DeleteArgs {
    name: String,
    /// Only the log with this id, as `ferrolog log show` tells it; without it, the one that has the name now
    #[arg(long, value_name = "N")]
    id: Option<u32>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = parts.ok_or("write KEY=VALUE, such as team=sales")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) async fn create(args: CreateArgs) -> anyhow::Result<Told> {
    let mut labels = BTreeMap::new();
    for (key, value) in args.labels {
        anyhow::ensure!(
            labels.insert(key.clone(), value).is_none(),
            "the label {key} is given twice; give it once"
        );
    }
    let settings = LogSettings {
        labels,
        ..LogSettings::default()
    };
    let admin = args.connection.client(None)?.admin();
    let made = admin.create_log(&args.name, settings).await;
    let made = made.with_context(|| format!("make the log {}", args.name))?;
    let text = format!("the log {} is there, with id {}", made.name, made.id);
    Ok((text, of_log(&made)))
}

pub(super) async fn list(args: &ListArgs) -> anyhow::Result<Told> {
    let admin = args.connection.client(None)?.admin();
    let logs = admin.list_logs(&args.prefix).await?;
    let columns = [
        Column("NAME", "name", |log: &LogInfo| Cell::Text(log.name.clone())),
        Column("ID", "id", |log| Cell::Number(log.id.into())),
        Column("FIRST", "first_offset", |log| Cell::Count(log.first_offset)),
        Column("NEXT", "next_offset", |log| Cell::Count(log.next_offset)),
        Column("RECORDS", "records", |log| Cell::Count(records(log))),
        Column("BYTES", "appended_bytes", |log| {
            Cell::Bytes(log.appended_bytes)
        }),
        Column("LAST APPEND", "last_append_ms", |log| {
            Cell::Time(log.last_append_ms)
        }),
    ];
    Ok(listed("logs", &logs, &columns))
}

pub(super) async fn show(args: &ShowArgs) -> anyhow::Result<Told> {
    let admin = args.connection.client(None)?.admin();
    let log = admin.get_log(&args.name).await?;
    Ok((described(&log), of_log(&log)))
}

pub(super) async fn delete(args: &DeleteArgs) -> anyhow::Result<Told> {
    let admin = args.connection.client(None)?.admin();
    let id = match args.id {
        Some(id) => id,
        None => match admin.get_log(&args.name).await {
            Ok(log) => log.id,
            Err(ClientError::NoSuchLog { .. }) => return Ok(deleted("log", &args.name, false)),
            Err(error) => return Err(error.into()),
        },
    };
    let gone = admin.delete_log(&args.name, id).await;
    let gone = gone.with_context(|| format!("delete the log {}", args.name))?;
    let (text, mut told) = deleted("log", &args.name, gone);
    told["id"] = id.into();
    // Another log may have the name.
    let text = match (gone, args.id) {
        (false, Some(id)) => format!(
            "there is no log {} with id {id}; nothing was changed",
            args.name
        ),
        _ => text,
    };
    Ok((text, told))
}

/// How many records can be read.
fn records(log: &LogInfo) -> u64 {
    log.next_offset.saturating_sub(log.first_offset)
}

fn described(log: &LogInfo) -> String {
    let labels = log.settings.labels.iter();
    let labels: Vec<_> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let rows = [
        ("name", log.name.clone()),
        ("id", log.id.to_string()),
        ("first offset", grouped(log.first_offset)),
        ("next offset", grouped(log.next_offset)),
        ("records", grouped(records(log))),
        ("bytes appended", size(log.appended_bytes)),
        ("last append", time(log.last_append_ms)),
        ("made", time(log.created_ms)),
        ("settings' epoch", log.epoch.to_string()),
        ("labels", labels.join(", ")),
    ];
    let rows = rows.map(|(what, value)| format!("{what:<16}{value}"));
    rows.map(|line| line.trim_end().to_owned()).join("\n")
}

fn of_log(log: &LogInfo) -> Value {
    json!({
        "name": log.name,
        "id": log.id,
        "first_offset": log.first_offset,
        "next_offset": log.next_offset,
        "records": records(log),
        "appended_bytes": log.appended_bytes,
        "last_append_ms": log.last_append_ms,
        "created_ms": log.created_ms,
        "epoch": log.epoch,
        "labels": log.settings.labels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_a_key() {
        let label = |key: &str, value: &str| Ok((key.to_owned(), value.to_owned()));
        assert_eq!(parse_label("team=a=b"), label("team", "a=b"));
        assert_eq!(parse_label("note="), label("note", ""));
        assert!(parse_label("=x").is_err() && parse_label("team").is_err());
    }

    #[test]
    fn people_see_sizes_and_dates_and_programs_the_numbers() {
        let log = LogInfo {
            name: "orders".to_owned(),
            id: 7,
            settings: LogSettings {
                labels: BTreeMap::from([("team".to_owned(), "sales".to_owned())]),
                ..LogSettings::default()
            },
            epoch: 1,
            first_offset: 100,
            next_offset: 2100,
            appended_bytes: 3 << 19,
            last_append_ms: 951_827_696_999,
            created_ms: 951_827_696_000,
        };
        let shown = described(&log);
        for part in [
            "records         2,000",
            "1.50 MiB",
            "2000-02-29T12:34:56Z",
            "team=sales",
        ] {
            assert!(shown.contains(part), "no {part:?} in {shown}");
        }
        let told = of_log(&log);
        assert_eq!(told["appended_bytes"], 3 << 19);
        assert_eq!(told["last_append_ms"], 951_827_696_999_u64);
        assert_eq!(told["labels"]["team"], "sales");
    }
}
