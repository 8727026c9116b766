//! Why a call was not carried out, or may not have been: of batches, commands and strong reads.

use crate::log::Offset;
use crate::proto::raft_v1 as pb;
use crate::raft::entry::outcome::{Refusal, Refused, StateRefusal};

/// A batch was not appended, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader took it: surely not appended.
    #[error("no leader took the record{}; it was not appended", within(*waited_ms))]
    NoLeader {
        /// How long the node waited for one.
        waited_ms: u64,
        /// Where the leader was last seen.
        leader: Option<String>,
    },
    /// The leader was lost with the batch under way: it may or may not have been appended.
    #[error("the leader was lost while the record was under way; it may have been appended")]
    Unknown,
    /// Too few disks have room: surely not appended.
    #[error(
        "{0}; the record was not appended: make room, or trim the log with `ferrolog log trim`; records are taken again by themselves"
    )]
    DiskFull(#[from] DiskFull),
    /// The state machine refused it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The bytes are not a batch.
    #[error("the bytes are not a batch of records")]
    Malformed,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// What came behind another one of the same caller may not have waited at all.
fn within(waited_ms: u64) -> String {
    match waited_ms {
        0 => String::new(),
        _ => format!(" within {waited_ms} ms"),
    }
}

impl From<Refusal> for ProposeError {
    fn from(why: Refusal) -> Self {
        Self::Refused(why.into())
    }
}

/// A command of sessions, fences or cursors was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError {
    /// The state machine refused it.
    #[error(transparent)]
    Refused(#[from] StateRefusal),
    /// No leader took it: surely nothing was changed.
    #[error("no leader took the command, and nothing was changed: {reason}; try again")]
    NoLeader {
        /// What happened.
        reason: String,
    },
    /// Too few disks have room, and the command takes some: surely not carried out.
    #[error(
        "{0}; the command was not carried out: make room, or trim the log with `ferrolog log trim`; commands are taken again by themselves"
    )]
    DiskFull(#[from] DiskFull),
    /// The leader was lost, or took too long, with the command under way.
    #[error("the command may have been carried out or not: {reason}; it may be given again")]
    Unknown {
        /// What happened.
        reason: String,
    },
}

impl ExecuteError {
    pub(crate) fn other_answer() -> Self {
        Self::Unknown {
            reason: OTHER_ANSWER.to_owned(),
        }
    }
}

/// A reply of the state machine that does not fit the command.
pub(crate) const OTHER_ANSWER: &str = "the state machine gave another answer";

/// A strong read cannot be answered now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader confirmed its reign in time.
    #[error("no leader confirmed the read within {waited_ms} ms; a relaxed read works meanwhile")]
    NoLeader {
        /// How long the node waited.
        waited_ms: u64,
    },
    /// This node may be further behind than the read allows.
    #[error(
        "this node cannot tell that it is at most {bound_ms} ms behind: the leader has not \
         confirmed it in time; ask another node, or allow more"
    )]
    Stale {
        /// What the read allows.
        bound_ms: u64,
        /// How far behind the node may be; `None` if it never heard.
        staleness_ms: Option<u64>,
    },
    /// This node has not applied an offset in time.
    #[error("this node has not applied offset {offset} within {waited_ms} ms; ask another node")]
    Behind {
        /// The offset.
        offset: Offset,
        /// How long the node waited.
        waited_ms: u64,
    },
    /// The leader confirmed, but this node did not catch up with it in time.
    #[error("this node did not catch up with the leader within {waited_ms} ms")]
    Lagging {
        /// How long the node waited.
        waited_ms: u64,
    },
}

/// The engine did not carry out what it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WriteFailure {
    /// It was refused before it was written.
    Nothing(String),
    /// It may be written, and be carried out yet.
    Unknown(String),
}

impl From<WriteFailure> for ExecuteError {
    fn from(failure: WriteFailure) -> Self {
        match failure {
            WriteFailure::Nothing(reason) => Self::NoLeader { reason },
            WriteFailure::Unknown(reason) => Self::Unknown { reason },
        }
    }
}

/// Too few disks have room: surely nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the disk of {} is full", voter.as_deref().unwrap_or("the leader"))]
pub struct DiskFull {
    /// The leader's room, in bytes.
    pub available: u64,
    /// Below this it takes nothing that needs room, in bytes.
    pub reserve: u64,
    /// The follower whose disk is full; `None` if the leader's is.
    pub voter: Option<String>,
}

impl From<DiskFull> for pb::DiskFull {
    fn from(full: DiskFull) -> Self {
        Self {
            available_bytes: full.available,
            reserve_bytes: full.reserve,
            voter: full.voter.unwrap_or_default(),
        }
    }
}

impl From<pb::DiskFull> for DiskFull {
    fn from(full: pb::DiskFull) -> Self {
        Self {
            available: full.available_bytes,
            reserve: full.reserve_bytes,
            voter: Some(full.voter).filter(|voter| !voter.is_empty()),
        }
    }
}
