//! `ferrolog log create`, `list`, `show`, `set`, `trim` and `delete`: the logs of a cluster.

use anyhow::Context;
use serde_json::{Value, json};

use super::settings::{SettingsArgs, compaction_text, retention_json, retention_text};
use crate::cli::UsageError;
use crate::cli::commands::consent::Consent;
use crate::cli::commands::cursor::stands;
use crate::cli::commands::rewriting;
use crate::cli::connection::{ConnectionArgs, LogPrefix, OfLog};
use crate::cli::output::{Cell, Column, Told, counted, deleted, grouped, held, listed, size, time};
use crate::client::{ClientError, LogInfo, LogSettings};

#[derive(Debug, clap::Args)]
pub(super) struct CreateArgs {
    /// What it is called: 1 to 128 bytes, no space at either end, not beginning with _
    name: String,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct SetArgs {
    /// Which log
    name: String,
    #[command(flatten)]
    settings: SettingsArgs,
    /// Take this label away; may be given several times
    #[arg(long = "remove-label", value_name = "KEY")]
    removed: Vec<String>,
    /// Only if the settings have this epoch, as `ferrolog log show` tells it
    #[arg(long, value_name = "N")]
    expected_epoch: Option<u64>,
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    of: LogPrefix,
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// Which log
    name: String,
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct DeleteArgs {
    /// Which log
    name: String,
    /// Only the log with this id, as `ferrolog log show` tells it; without it, the one that has the name now
    #[arg(long, value_name = "N")]
    id: Option<u32>,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct CompactArgs {
    /// Which log
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct TrimArgs {
    /// The first offset that stays: at most the one after the last record
    #[arg(value_name = "OFFSET")]
    first: u64,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
    #[command(flatten)]
    log: OfLog,
}

pub(super) async fn create(args: CreateArgs) -> anyhow::Result<Told> {
    let settings = args.settings.apply(LogSettings::default())?;
    if !settings.retention.wait_for_cursors.is_empty() {
        let text = "a new log has no cursor to wait for; make the log, then the cursor, then use `ferrolog log set`";
        return Err(UsageError(text.to_owned()).into());
    }
    let admin = args.connection.client(None)?.admin();
    let made = admin.create_log(&args.name, settings).await;
    let made = made.with_context(|| format!("make the log {}", args.name))?;
    let text = format!("the log {} is there, with id {}", made.name, made.id);
    Ok((text, of_log(&made)))
}

pub(super) async fn set(args: SetArgs) -> anyhow::Result<Told> {
    if args.settings.is_empty() && args.removed.is_empty() {
        let text = "nothing is to be set; name a setting, or look with `ferrolog log show`";
        return Err(UsageError(text.to_owned()).into());
    }
    let client = args.connection.client(None)?;
    let admin = client.admin();
    let known = admin.get_log(&args.name).await?;
    let named = client.log(&args.name);
    for cursor in args.settings.waited_for() {
        stands(&named.admin(), cursor, false).await?;
    }
    let mut settings = args.settings.apply(known.settings)?;
    for key in &args.removed {
        if settings.labels.remove(key).is_none() {
            let text = format!("the log has no label {key}; see `ferrolog log show`");
            return Err(UsageError(text).into());
        }
    }
    // What was looked at is what is changed: nobody else's change is lost.
    let epoch = args.expected_epoch.unwrap_or(known.epoch);
    let set = admin.update_log(&args.name, settings, Some(epoch)).await;
    let set = set.with_context(|| format!("set up the log {}", args.name))?;
    Ok((described(&set), of_log(&set)))
}

pub(super) async fn list(args: &ListArgs) -> anyhow::Result<Told> {
    let admin = args.connection.client(None)?.admin();
    let logs = admin.list_logs(&args.of.prefix).await?;
    let columns = [
        Column("NAME", "name", |log: &LogInfo| Cell::Text(log.name.clone())),
        Column("ID", "id", |log| Cell::Number(log.id.into())),
        Column("FIRST", "first_offset", |log| Cell::Count(log.first_offset)),
        Column("NEXT", "next_offset", |log| Cell::Count(log.next_offset)),
        Column("RECORDS", "records", |log| match log.settings.compaction {
            Some(_) => Cell::AtMost(records(log)),
            None => Cell::Count(records(log)),
        }),
        Column("BYTES", "kept_bytes", |log| Cell::Bytes(log.kept_bytes)),
        Column("ON DISK", "stored_bytes", |log| {
            Cell::Bytes(log.stored_bytes)
        }),
        Column("LAST APPEND", "last_append_ms", |log| {
            Cell::Time(log.last_append_ms)
        }),
        Column("LAG", "lag", |log| Cell::CountOrNone(log.lag())),
        Column("SLOWEST CURSOR", "slowest_cursor", |log| {
            let slowest = log.slowest_cursor.as_ref();
            Cell::TextOrNone(slowest.map(|cursor| cursor.name.clone()))
        }),
    ];
    Ok(listed("logs", &logs, &columns))
}

pub(super) async fn show(args: &ShowArgs) -> anyhow::Result<Told> {
    let admin = args.connection.client(None)?.admin();
    let log = admin.get_log(&args.name).await?;
    let (mut text, mut told) = (described(&log), of_log(&log));
    if log.settings.compaction.is_some()
        && let Some(progress) = rewriting::of_leader(&admin).await
    {
        text = format!("{text}\n{:<16}{}", "progress", rewriting::text(&progress));
        told["rewriting"] = rewriting::json(&progress);
    }
    Ok((text, told))
}

pub(super) async fn delete(args: &DeleteArgs) -> anyhow::Result<Told> {
    let admin = args.connection.client(None)?.admin();
    let looks = args.consent.dry_run || args.consent.asks();
    let known = match args.id {
        Some(_) if !looks => None,
        _ => match admin.get_log(&args.name).await {
            Ok(log) => Some(log),
            Err(ClientError::NoSuchLog { .. }) => return Ok(deleted("log", &args.name, false)),
            Err(error) => return Err(error.into()),
        },
    };
    let id = args
        .id
        .or(known.as_ref().map(|log| log.id))
        .unwrap_or_default();
    let known = known.filter(|log| looks && log.id == id);
    let what = known.as_ref().map(|log| {
        let goes = held(log.first_offset, log.next_offset);
        format!(
            "delete the log {} (id {id}: {goes}) and its cursors",
            log.name
        )
    });
    if args.consent.dry_run {
        let text = what.map_or_else(
            || format!("there is no log {} with id {id}", args.name),
            |what| format!("it would {what}; nothing was done"),
        );
        let records = known.as_ref().map(records);
        return Ok((
            text,
            json!({ "dry_run": true, "name": args.name, "id": id, "records": records }),
        ));
    }
    if let Some(what) = what {
        Consent::ask(&what)?;
    }
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

pub(super) async fn compact(args: &CompactArgs) -> anyhow::Result<Told> {
    let admin = args.connection.client(None)?.admin();
    admin.compact_log(&args.name).await?;
    let name = &args.name;
    let text = format!(
        "the log {name} is being compacted; `ferrolog log show {name}` tells what it takes on disk"
    );
    Ok((text, json!({ "name": name, "asked": true })))
}

pub(super) async fn trim(args: &TrimArgs) -> anyhow::Result<Told> {
    let client = args.log.of(&args.connection.client(None)?);
    let admin = client.admin();
    if args.consent.dry_run || args.consent.asks() {
        let log = admin.get_log(args.log.name()).await?;
        let first = args.first.clamp(log.first_offset, log.next_offset);
        let goes = first - log.first_offset;
        let stays = counted(log.next_offset - first, "record", "records");
        let (name, held) = (&log.name, held(log.first_offset, first));
        let what = format!("give up {held} of the log {name}, and keep {stays}");
        if args.consent.dry_run {
            let text = match goes {
                0 => format!("no record would go: the log {name} begins at offset {first}"),
                _ => format!("it would {what}; nothing was done"),
            };
            let told = json!({ "dry_run": true, "first_offset": first, "records": goes });
            return Ok((text, told));
        }
        if goes > 0 {
            Consent::ask(&what)?;
        }
    }
    let first = admin.trim(args.first).await?;
    let shown = format!("the log begins at offset {first} now");
    Ok((shown, json!({ "first_offset": first })))
}

/// How many records can be read; of a log that is compacted, at most.
fn records(log: &LogInfo) -> u64 {
    log.next_offset.saturating_sub(log.first_offset)
}

/// Offsets do not tell how many records gave way to later ones.
fn records_text(log: &LogInfo) -> String {
    let records = grouped(records(log));
    match log.settings.compaction {
        Some(_) => format!("{records} at most: some may have given way to later ones"),
        None => records,
    }
}

/// What is in the segment that is written to is not counted.
fn on_disk(log: &LogInfo) -> String {
    format!("{} in full segments", size(log.stored_bytes))
}

fn described(log: &LogInfo) -> String {
    let labels = log.settings.labels.iter();
    let labels: Vec<_> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let largest = match log.settings.record_bytes_max {
        0 => "what the nodes take".to_owned(),
        bytes => size(bytes.into()),
    };
    let timestamps = match log.settings.timestamps_required {
        true => "required of each record",
        false => "as clients like",
    };
    let slowest = log.slowest_cursor.as_ref().zip(log.lag());
    let slowest = slowest.map_or("none".to_owned(), |(cursor, lag)| {
        format!(
            "{}, {} behind",
            cursor.name,
            counted(lag, "record", "records")
        )
    });
    let rows = [
        ("name", log.name.clone()),
        ("id", log.id.to_string()),
        ("first offset", grouped(log.first_offset)),
        ("next offset", grouped(log.next_offset)),
        ("records", records_text(log)),
        ("bytes kept", size(log.kept_bytes)),
        ("bytes appended", size(log.appended_bytes)),
        ("bytes on disk", on_disk(log)),
        ("last append", time(log.last_append_ms)),
        ("made", time(log.created_ms)),
        ("settings' epoch", log.epoch.to_string()),
        ("retention", retention_text(&log.settings.retention)),
        ("largest record", largest),
        ("timestamps", timestamps.to_owned()),
        ("compaction", compaction_text(log.settings.compaction)),
        ("labels", labels.join(", ")),
        ("slowest cursor", slowest),
    ];
    let rows = rows.map(|(what, value)| format!("{what:<16}{value}"));
    rows.map(|line| line.trim_end().to_owned()).join("\n")
}

pub(super) fn of_log(log: &LogInfo) -> Value {
    json!({
        "name": log.name,
        "id": log.id,
        "first_offset": log.first_offset,
        "next_offset": log.next_offset,
        "records": records(log),
        "kept_bytes": log.kept_bytes,
        "stored_bytes": log.stored_bytes,
        "appended_bytes": log.appended_bytes,
        "last_append_ms": log.last_append_ms,
        "created_ms": log.created_ms,
        "epoch": log.epoch,
        "retention": retention_json(&log.settings.retention),
        "record_bytes_max": Some(log.settings.record_bytes_max).filter(|bytes| *bytes > 0),
        "timestamps_required": log.settings.timestamps_required,
        "compaction": log.settings.compaction.map(|set| json!({
            "by": "key",
            "min_age_ms": set.min_age_ms,
            "tombstone_ms": set.tombstone_ms,
        })),
        "labels": log.settings.labels,
        "slowest_cursor": log.slowest_cursor.as_ref().map(|cursor| &cursor.name),
        "lag": log.lag(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::client::{Compaction, CursorInfo};

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
            kept_bytes: 1 << 19,
            stored_bytes: 3 << 18,
            slowest_cursor: Some(CursorInfo {
                name: "billing".to_owned(),
                offset: 600,
                updated_ms: 0,
            }),
        };
        let shown = described(&log);
        for part in [
            "records         2,000",
            "1.50MiB",
            "2000-02-29T12:34:56Z",
            "team=sales",
            "bytes kept      512KiB",
            "bytes on disk   768KiB in full segments",
            "slowest cursor  billing, 1,500 records behind",
        ] {
            assert!(shown.contains(part), "no {part:?} in {shown}");
        }
        let compacted = LogInfo {
            settings: LogSettings {
                compaction: Some(Compaction::default()),
                ..LogSettings::default()
            },
            ..log.clone()
        };
        assert!(described(&compacted).contains("records         2,000 at most"));
        let told = of_log(&log);
        assert_eq!(told["appended_bytes"], 3 << 19);
        assert_eq!(told["last_append_ms"], 951_827_696_999_u64);
        assert_eq!(told["labels"]["team"], "sales");
        assert_eq!(told["stored_bytes"], 3 << 18);
        assert_eq!(
            (&told["lag"], &told["kept_bytes"]),
            (&json!(1500), &json!(1 << 19))
        );
    }
}
