//! What an operator is told of logs, epochs, cursors and sessions.

use std::collections::BTreeMap;

use super::{Compaction, Retention};
use crate::proto::v1::{Cursor, HeldFence, Log, LogConfig, Session};

/// A name that was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The epoch that this claim gave: one above the last.
    pub epoch: u64,
    /// No record of an older epoch comes at or after this offset of the log that the client is for.
    pub next_offset: u64,
}

/// What is set for a log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogSettings {
    /// How much of the log is kept.
    pub retention: Retention,
    /// Its owner's notes about it, each under a key: at most 8, of 192 bytes in all.
    pub labels: BTreeMap<String, String>,
    /// The largest record that it takes, in bytes; 0: what the nodes take.
    pub record_bytes_max: u32,
    /// Whether it takes only records with a [`client_timestamp_ms`](super::Record::client_timestamp_ms).
    pub timestamps_required: bool,
    /// Whether records give way to later ones of their keys. Then it takes only records with a
    /// [`key`](super::Record::key).
    pub compaction: Option<Compaction>,
}

impl From<LogSettings> for LogConfig {
    fn from(settings: LogSettings) -> Self {
        Self {
            retention: Some(settings.retention),
            labels: settings.labels.into_iter().collect(),
            record_bytes_max: settings.record_bytes_max,
            timestamps_required: settings.timestamps_required,
            compaction: settings.compaction,
        }
    }
}

/// A log of the cluster, as far as the node that answered has applied.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogInfo {
    /// The log's name.
    pub name: String,
    /// The log's id. A log that is made anew under the name has another one.
    pub id: u32,
    /// What is set for it.
    pub settings: LogSettings,
    /// Counts the changes of the settings, from 1.
    pub epoch: u64,
    /// The first offset that can be read.
    pub first_offset: u64,
    /// The offset that the next record gets.
    pub next_offset: u64,
    /// The bytes of all records that were ever appended, as they were sent.
    pub appended_bytes: u64,
    /// When its last batch was appended, in milliseconds since 1970; 0 before the first one.
    pub last_append_ms: u64,
    /// When it was made, in milliseconds since 1970; 0 for the default log, which is there from the start.
    pub created_ms: u64,
    /// How many of the appended bytes are kept, from about the first offset on. It may be up to an eighth more if the
    /// log was trimmed by hand.
    pub kept_bytes: u64,
    /// The cursor of the log that is furthest behind. `None` if there is none, or the caller may not consume. Only
    /// [`get_log`](super::Admin::get_log) and [`list_logs`](super::Admin::list_logs) tell it.
    pub slowest_cursor: Option<CursorInfo>,
    /// The bytes that its batches take in full segments on the disk of the node that answered, those of which a record
    /// can be read. Only [`get_log`](super::Admin::get_log) and [`list_logs`](super::Admin::list_logs) tell it.
    pub stored_bytes: u64,
}

impl LogInfo {
    /// How many records its slowest cursor has not passed; `None` if no cursor is known.
    pub fn lag(&self) -> Option<u64> {
        let slowest = self.slowest_cursor.as_ref()?;
        Some(self.next_offset.saturating_sub(slowest.offset))
    }
}

impl From<Log> for LogInfo {
    fn from(log: Log) -> Self {
        let config = log.config.unwrap_or_default();
        Self {
            name: log.name,
            id: log.id,
            settings: LogSettings {
                retention: config.retention.unwrap_or_default(),
                labels: config.labels.into_iter().collect(),
                record_bytes_max: config.record_bytes_max,
                timestamps_required: config.timestamps_required,
                compaction: config.compaction,
            },
            epoch: log.epoch,
            first_offset: log.first_offset,
            next_offset: log.next_offset,
            appended_bytes: log.appended_bytes,
            last_append_ms: log.last_append_ms,
            created_ms: log.created_ms,
            kept_bytes: log.kept_bytes,
            slowest_cursor: log.slowest_cursor.map(CursorInfo::from),
            stored_bytes: log.stored_bytes,
        }
    }
}

/// A consumer's named position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CursorInfo {
    /// The cursor's name.
    pub name: String,
    /// The offset of the record that is read next.
    pub offset: u64,
    /// When the cursor was last set, in milliseconds since 1970.
    pub updated_ms: u64,
}

/// A name that was claimed, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceInfo {
    /// The name.
    pub name: String,
    /// Its present epoch.
    pub epoch: u64,
    /// What the holder calls itself.
    pub holder: String,
    /// The name in the holder's certificate; empty without TLS.
    pub subject: String,
}

impl From<HeldFence> for FenceInfo {
    fn from(held: HeldFence) -> Self {
        Self {
            name: held.name,
            epoch: held.epoch,
            holder: held.holder,
            subject: held.subject,
        }
    }
}

/// A producer's session that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// The session's number, for [`close_session`](super::Admin::close_session).
    pub id: u64,
    /// The name in its producer's certificate; empty without TLS.
    pub subject: String,
    /// How many records were appended under the session.
    pub records: u64,
    /// When the last batch came under the session, in milliseconds since 1970.
    pub last_used_ms: u64,
}

impl From<Session> for SessionInfo {
    fn from(session: Session) -> Self {
        Self {
            id: session.session,
            subject: session.subject,
            records: session.records,
            last_used_ms: session.last_used_ms,
        }
    }
}

impl From<Cursor> for CursorInfo {
    fn from(cursor: Cursor) -> Self {
        Self {
            name: cursor.name,
            offset: cursor.offset,
            updated_ms: cursor.updated_ms,
        }
    }
}
