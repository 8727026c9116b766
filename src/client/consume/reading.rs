//! What a reader asks for: where to begin, how fresh the answer must be, and how to go on.

use std::time::Duration;

use crate::proto::v1;

const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(1);
/// The shortest and the longest heartbeat that servers accept.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
const HEARTBEAT_MAX: Duration = Duration::from_secs(60);

/// Where a read begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// The first record the log still holds.
    Earliest,
    /// The record that comes next.
    Latest,
    /// The record with this offset, counted from 0.
    Offset(u64),
    /// The first record that was appended at or after this, in milliseconds since 1970.
    Timestamp(u64),
    /// This many records before the end of the log.
    Tail(u64),
    /// Where the cursor of this name stands: a cursor of the log, or in a selection of logs one of
    /// [`Client::selection_cursors`](crate::client::Client::selection_cursors).
    Cursor(String),
    /// In a selection of logs: the record with this position, or the next one behind it.
    Position(u64),
}

/// Several logs that are read together: their records come in the order in which they were committed.
///
/// Records that were given up, by a trim or by retention, are passed over without an error. A read of one log ends with
/// [`ClientError::Trimmed`](crate::client::ClientError::Trimmed) instead. To notice what is missing, compare the
/// offsets of each log, which have no gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// These logs. The read ends with an error once one of them is deleted.
    Logs(Vec<String>),
    /// All logs whose names begin with this, also those that are made later. A deleted log drops out without an error.
    Prefix(String),
}

/// How fresh the answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Whatever the answering node has applied. Records are in order; the newest ones may be missing.
    #[default]
    Relaxed,
    /// The node has at least every record before this offset.
    AtLeast(u64),
    /// The node has at least every record that was acknowledged longer ago than this, for as long as the read
    /// lasts.
    Bounded(Duration),
    /// The node has at least every record that was acknowledged before the call: a linearizable read.
    Strong,
}

/// What to read, and how.
#[derive(Clone, Debug)]
pub struct ConsumeOptions {
    /// Several logs to be read instead of the client's own.
    pub selection: Option<Selection>,
    /// Where the read begins; at the first record unless said otherwise.
    pub from: Start,
    /// How fresh the answers must be; relaxed unless said otherwise.
    pub consistency: Consistency,
    /// Waits for new records at the end, instead of ending there.
    pub follow: bool,
    /// Reads from this server, `host:port`, and no other. `None`: from whichever answers.
    pub server: Option<String>,
    /// How often a server without new records sends a heartbeat: 0.1 s to 60 s; 1 s unless said otherwise.
    pub heartbeat: Duration,
}

impl Default for ConsumeOptions {
    fn default() -> Self {
        Self {
            selection: None,
            from: Start::Earliest,
            consistency: Consistency::Relaxed,
            follow: false,
            server: None,
            heartbeat: HEARTBEAT_DEFAULT,
        }
    }
}

impl ConsumeOptions {
    /// The time between two heartbeats, within what servers accept, in milliseconds.
    pub(super) fn heartbeat_ms(&self) -> u32 {
        let heartbeat = self.heartbeat.clamp(HEARTBEAT_MIN, HEARTBEAT_MAX);
        u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX)
    }
}

impl From<&Start> for v1::Start {
    fn from(start: &Start) -> Self {
        use v1::start::At;
        let at = match start {
            Start::Earliest => At::Edge(v1::Edge::Earliest.into()),
            Start::Latest => At::Edge(v1::Edge::Latest.into()),
            Start::Offset(offset) => At::Offset(*offset),
            Start::Timestamp(ms) => At::TimestampMs(*ms),
            Start::Tail(count) => At::Tail(*count),
            Start::Cursor(name) => At::Cursor(name.clone()),
            Start::Position(position) => At::Position(*position),
        };
        Self { at: Some(at) }
    }
}

impl From<&Selection> for v1::Selection {
    fn from(selection: &Selection) -> Self {
        use v1::selection::Of;
        let of = match selection {
            Selection::Logs(names) => {
                let names = names.clone();
                Of::Logs(v1::LogNames { names })
            }
            Selection::Prefix(prefix) => Of::Prefix(prefix.clone()),
        };
        Self { of: Some(of) }
    }
}

impl From<Consistency> for v1::Consistency {
    fn from(consistency: Consistency) -> Self {
        use v1::consistency::Level;
        let level = match consistency {
            Consistency::Relaxed => Level::Relaxed(v1::Relaxed {}),
            Consistency::AtLeast(offset) => Level::AtLeastOffset(offset),
            Consistency::Bounded(bound) => {
                Level::BoundedMs(u64::try_from(bound.as_millis()).unwrap_or(u64::MAX))
            }
            Consistency::Strong => Level::Strong(v1::Strong {}),
        };
        Self { level: Some(level) }
    }
}
