//! What is told in the log of changes: one line of JSON a record. `docs/format.md` has its fields.

use serde::Serialize;

use crate::env::utc;
use crate::log::LogId;

use super::audited::{Note, Origin};
use super::command::Command;

/// The longest text of a field, in bytes: names are shorter, and what a client sent may be longer.
const TEXT_BYTES_MAX: usize = 512;

/// A record's value. What is empty is left out.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(skip_serializing_if = "is_empty")]
    subject: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    address: &'a str,
    node: &'a str,
    verb: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<&'a str>,
    #[serde(skip_serializing_if = "is_empty")]
    change: &'a str,
    outcome: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "is_one")]
    count: u64,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over references"
)]
fn is_one(count: &u64) -> bool {
    *count <= 1
}

fn is_empty(text: &str) -> bool {
    text.is_empty()
}

/// What is told of a command that did what it was to do, at a time in milliseconds since 1970. `name_of` gives the
/// names of logs.
pub fn of_command(
    command: &Command,
    origin: &Origin,
    time_ms: u64,
    name_of: impl Fn(LogId) -> Option<String>,
) -> String {
    let (log, change) = told(command);
    let log = match log {
        Some(Of::Named(name)) => Some(name.to_owned()),
        Some(Of::Id(LogId::SEVERAL)) | None => None,
        // One that is gone is told by its number.
        Some(Of::Id(id)) => Some(name_of(id).unwrap_or_else(|| format!("log {id}"))),
    };
    line(&Line {
        time: utc(time_ms),
        subject: cut(&origin.subject),
        address: cut(&origin.address),
        node: cut(&origin.node),
        verb: cut(&origin.verb),
        log: log.as_deref().map(cut),
        change: cut(&change),
        outcome: "done",
        reason: "",
        count: 1,
    })
}

/// What a note tells.
pub fn of_note(note: &Note, time_ms: u64) -> String {
    line(&Line {
        time: utc(time_ms),
        subject: cut(&note.origin.subject),
        address: cut(&note.origin.address),
        node: cut(&note.origin.node),
        verb: cut(&note.origin.verb),
        log: None,
        change: cut(&note.change),
        outcome: cut(&note.outcome),
        reason: cut(&note.reason),
        count: note.count,
    })
}

fn line(line: &Line<'_>) -> String {
    // Texts and numbers alone: there is nothing in it that has no form in JSON.
    serde_json::to_string(line).unwrap_or_default()
}

/// The beginning of a text.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

/// Of which log a command is.
enum Of<'a> {
    Named(&'a str),
    Id(LogId),
}

/// Of which log a command is, and what it does, for people.
fn told(command: &Command) -> (Option<Of<'_>>, String) {
    match command {
        Command::CreateLog(create) => (
            Some(Of::Named(&create.name)),
            format!("create log, keep {}", create.config.retention),
        ),
        Command::UpdateLog(update) => (
            Some(Of::Id(update.log)),
            format!("configure log, keep {}", update.config.retention),
        ),
        Command::DeleteLog(delete) => (
            Some(Of::Named(&delete.name)),
            format!("delete log {}", delete.log),
        ),
        Command::CompactLog(log) => (Some(Of::Id(*log)), "compact log".to_owned()),
        Command::Trim(trim) => (Some(Of::Id(trim.log)), format!("trim to {}", trim.first)),
        Command::SetRetention(set) => (Some(Of::Id(set.log)), format!("keep {}", set.retention)),
        Command::DeleteCursor(log, name) => (Some(Of::Id(*log)), format!("delete cursor {name}")),
        Command::ClaimEpoch(claim) => (
            None,
            format!("claim fence {} for {}", claim.name, claim.holder),
        ),
        Command::Register { name, .. } => (None, format!("join of node {name}")),
        other => (None, other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Offset;
    use crate::raft::entry::catalog::Trim;

    fn origin() -> Origin {
        Origin {
            subject: "ops".to_owned(),
            address: "127.0.0.1:7000".to_owned(),
            node: "n1".to_owned(),
            verb: "ferrolog.v1.ClusterService/Trim".to_owned(),
            ..Origin::default()
        }
    }

    #[test]
    fn a_record_is_one_line_with_its_fields_in_order() {
        let (log, first) = (LogId(3), Offset(9));
        let trim = Command::Trim(Trim { log, first });
        let name = |id| (id == LogId(3)).then(|| "orders".to_owned());
        let line = of_command(&trim, &origin(), 951_827_696_999, name);
        let wanted = r#"{"time":"2000-02-29T12:34:56Z","subject":"ops","address":"127.0.0.1:7000","node":"n1","verb":"ferrolog.v1.ClusterService/Trim","log":"orders","change":"trim to 9","outcome":"done"}"#;
        assert_eq!(line, wanted);
        let log = LogId(4);
        let gone = of_command(&Command::Trim(Trim { log, first }), &origin(), 0, name);
        assert!(gone.contains(r#""log":"log 4""#), "{gone}");
    }

    #[test]
    fn what_a_client_sent_stays_one_short_line() {
        let note = Note {
            origin: Origin {
                subject: "a\n\"b\u{1b}".to_owned(),
                ..origin()
            },
            change: String::new(),
            outcome: "denied".to_owned(),
            reason: "\u{e9}".repeat(100_000),
            count: 7,
        };
        let line = of_note(&note, 0);
        assert!(!line.contains('\n') && !line.contains('\u{1b}') && line.len() < 1024);
        assert!(line.ends_with(r#"","count":7}"#), "{line}");
        assert!(!line.contains("change"), "{line}");
    }
}
