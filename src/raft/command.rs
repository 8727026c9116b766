//! What is replicated: the commands, their outcomes, and how an entry becomes a frame.

use std::fmt;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use prost::Message;

use crate::log::{self, Index, Kind, Offset, Term};
use crate::proto::raft_v1::{self as pb, control_entry};

use super::types::{self, Entry, WireError};

/// A payload of at least this size fills most of the buffer that it came in.
const COPIED_BYTES_MAX: usize = 256 << 10;

/// A command of the replicated state machine.
#[derive(Clone, PartialEq, Eq)]
pub enum Command {
    /// Append batches of records: the payload of a frame, as `log::record` draws it.
    Append(Bytes),
    /// Give a name and a directory a node id.
    Register {
        /// The node's name.
        name: String,
        /// Its data directory's id.
        directory_id: String,
    },
    /// Forget a name.
    Forget {
        /// The node's name.
        name: String,
    },
    /// Give up the records before an offset.
    Trim(Offset),
    /// Keep so much of the log from now on.
    SetRetention(Retention),
}

/// How much of the log is kept; `None` is without a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Of segments, in bytes.
    pub max_bytes: Option<u64>,
    /// In milliseconds.
    pub max_age_ms: Option<u64>,
}

impl Retention {
    pub fn to_pb(self) -> pb::Retention {
        pb::Retention {
            max_bytes: self.max_bytes.unwrap_or(0),
            max_age_ms: self.max_age_ms.unwrap_or(0),
        }
    }

    pub fn from_pb(retention: pb::Retention) -> Self {
        Self {
            max_bytes: Some(retention.max_bytes).filter(|bytes| *bytes > 0),
            max_age_ms: Some(retention.max_age_ms).filter(|age| *age > 0),
        }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Append(payload) => write!(f, "append of {} bytes", payload.len()),
            Self::Register { name, .. } => write!(f, "register {name}"),
            Self::Forget { name } => write!(f, "forget {name}"),
            Self::Trim(first) => write!(f, "trim to {first}"),
            Self::SetRetention(retention) => write!(f, "{retention:?}"),
        }
    }
}

/// What a command came to: the same on every replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to tell.
    Done,
    /// One outcome for each batch, in order.
    Appended(Vec<BatchOutcome>),
    /// The first offset that may be read now.
    Trimmed(Offset),
    /// The node id, or why there is none.
    Registered(Result<u64, NameTaken>),
}

/// Where a batch's records stand, or why they were not appended.
pub type BatchOutcome = Result<Ranges, Refusal>;

/// The offsets of a batch's records, in order. One range, unless an earlier try had appended a
/// part of the batch.
pub type Ranges = Vec<OffsetRange>;

/// Consecutive records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetRange {
    /// The first record's offset.
    pub first: Offset,
    /// How many records.
    pub count: u32,
}

/// Why the state machine did not append a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A record of the session before this batch was never appended.
    #[error("the batch skips records of its session: sequence number {expected} comes next")]
    SequenceGap {
        /// The sequence number that comes next.
        expected: u64,
    },
    /// The session is not known, or the batch is older than what is remembered of it.
    #[error("the session is unknown or the batch too old to tell whether it was appended")]
    SessionExpired,
}

/// Another directory holds the name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node {node_id} is known under this name with another data directory")]
pub struct NameTaken {
    /// The node that holds it.
    pub node_id: u64,
}

/// The entry as the log keeps it.
pub fn to_log(entry: &Entry) -> log::Entry {
    let (kind, payload) = match &entry.payload {
        EntryPayload::Normal(Command::Append(payload)) => (Kind::Records, payload.clone()),
        EntryPayload::Normal(Command::Register { name, directory_id }) => {
            control(control_entry::Command::RegisterNode(pb::RegisterNode {
                name: name.clone(),
                directory_id: directory_id.clone(),
            }))
        }
        EntryPayload::Normal(Command::Forget { name }) => {
            control(control_entry::Command::ForgetNode(pb::ForgetNode {
                name: name.clone(),
            }))
        }
        EntryPayload::Normal(Command::Trim(first)) => {
            control(control_entry::Command::Trim(pb::Trim {
                first_offset: first.0,
            }))
        }
        EntryPayload::Normal(Command::SetRetention(retention)) => {
            control(control_entry::Command::SetRetention(retention.to_pb()))
        }
        EntryPayload::Blank => control(control_entry::Command::Blank(pb::Blank {})),
        EntryPayload::Membership(membership) => control(control_entry::Command::Membership(
            types::membership_to_pb(membership),
        )),
    };
    log::Entry {
        term: Term(entry.log_id.leader_id.term),
        index: Index(entry.log_id.index),
        kind,
        payload,
    }
}

fn control(command: control_entry::Command) -> (Kind, Bytes) {
    let entry = pb::ControlEntry {
        command: Some(command),
    };
    (Kind::Control, entry.encode_to_vec().into())
}

/// The entry as the engine keeps it.
pub fn from_log(entry: log::Entry) -> Result<Entry, WireError> {
    let id = types::log_id(entry.term, entry.index);
    let payload = match entry.kind {
        Kind::Records => EntryPayload::Normal(Command::Append(entry.payload)),
        Kind::Control => control_payload(entry.payload)?,
    };
    Ok(Entry::new(id, payload))
}

fn control_payload(payload: Bytes) -> Result<types::EntryPayload, WireError> {
    let command = pb::ControlEntry::decode(payload)?.command;
    // A newer version's command: this one cannot apply it.
    Ok(match command.ok_or(WireError::Unknown("command"))? {
        control_entry::Command::Blank(_) => EntryPayload::Blank,
        control_entry::Command::Membership(membership) => {
            EntryPayload::Membership(types::membership_from_pb(membership)?)
        }
        control_entry::Command::RegisterNode(node) => EntryPayload::Normal(Command::Register {
            name: node.name,
            directory_id: node.directory_id,
        }),
        control_entry::Command::ForgetNode(node) => {
            EntryPayload::Normal(Command::Forget { name: node.name })
        }
        control_entry::Command::Trim(trim) => {
            EntryPayload::Normal(Command::Trim(Offset(trim.first_offset)))
        }
        control_entry::Command::SetRetention(retention) => {
            EntryPayload::Normal(Command::SetRetention(Retention::from_pb(retention)))
        }
    })
}

/// The entry as it travels.
pub fn to_wire(entry: &Entry) -> pb::Entry {
    let entry = to_log(entry);
    pb::Entry {
        log_id: Some(pb::LogId {
            term: entry.term.0,
            index: entry.index.0,
        }),
        kind: entry.kind as u32,
        payload: entry.payload,
    }
}

/// The entry as it came.
pub fn from_wire(entry: pb::Entry) -> Result<Entry, WireError> {
    let id = entry.log_id.ok_or(WireError::Missing("log id"))?;
    let kind = u8::try_from(entry.kind).ok().and_then(Kind::new);
    from_log(log::Entry {
        term: Term(id.term),
        index: Index(id.index),
        kind: kind.ok_or(WireError::Unknown("kind"))?,
        payload: own(entry.payload),
    })
}

/// A payload that is kept must not hold the whole buffer that it was read into.
fn own(payload: Bytes) -> Bytes {
    if payload.len() < COPIED_BYTES_MAX {
        Bytes::copy_from_slice(&payload)
    } else {
        payload
    }
}
