//! The commands: what is replicated besides memberships.

use std::fmt;

use bytes::Bytes;

use crate::log::{Index, LogId, Offset, Rewrite};
use crate::proto::raft_v1 as pb;

use super::admission::{Admission, Entrance};
use super::audited::{Audited, Note};
use super::catalog::{CreateLog, DeleteLog, SetRetention, Trim, UpdateLog};

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
        /// How it is let in.
        entrance: Entrance,
    },
    /// Forget a name.
    Forget {
        /// The node's name.
        name: String,
    },
    /// Make a log.
    CreateLog(CreateLog),
    /// Configure a log.
    UpdateLog(UpdateLog),
    /// Delete a log.
    DeleteLog(DeleteLog),
    /// Look for what of a log can be compacted as soon as may be.
    CompactLog(LogId),
    /// What entries up to this one asked for by [`Self::CompactLog`] is in rewritings that were decided on.
    Compacted(Index),
    /// Give up the records of a log before an offset.
    Trim(Trim),
    /// Give up the first records of several logs.
    TrimLogs(Vec<Trim>),
    /// Keep so much of a log from now on.
    SetRetention(SetRetention),
    /// Give a producer a session.
    OpenSession(OpenSession),
    /// Forget a session.
    CloseSession(CloseSession),
    /// Forget the sessions that were last used before this, in milliseconds since 1970.
    ExpireSessions(u64),
    /// Give a name to a new holder.
    ClaimEpoch(ClaimEpoch),
    /// Forget a name that was claimed.
    DeleteFence(String),
    /// Set a cursor.
    CommitCursor(CommitCursor),
    /// Forget a cursor of a log.
    DeleteCursor(LogId, String),
    /// Say who may join.
    Admission(Admission),
    /// Note that a node was started, and which number it drew.
    RegisterStart {
        /// The node.
        node_id: u64,
        /// Its number.
        start: u64,
    },
    /// End the segment of the log that counts from this entry on, on every node.
    Roll(Index),
    /// Have what lives of sealed segments take their place, on every node in its own time.
    Rewrite(Rewrite),
    /// Tell these in the log of changes. Nothing else changes.
    Notes(Vec<Note>),
    /// A command, and what is told of it in the log of changes.
    Audited(Audited),
}

impl Command {
    /// Whether a node passes this command on to the leader as it is, for clients and operators. The other commands have
    /// calls of their own, which check more.
    pub fn is_passed_on(&self) -> bool {
        match self {
            Self::OpenSession(_)
            | Self::CloseSession(_)
            | Self::ClaimEpoch(_)
            | Self::DeleteFence(_)
            | Self::CommitCursor(_)
            | Self::DeleteCursor(..)
            | Self::CreateLog(_)
            | Self::UpdateLog(_)
            | Self::DeleteLog(_)
            | Self::CompactLog(_)
            | Self::Trim(_)
            | Self::SetRetention(_)
            | Self::Notes(_)
            | Self::Admission(_) => true,
            Self::Append(_)
            | Self::Register { .. }
            | Self::Forget { .. }
            | Self::ExpireSessions(_)
            | Self::TrimLogs(_)
            | Self::RegisterStart { .. }
            | Self::Audited(_)
            | Self::Rewrite(_)
            | Self::Compacted(_)
            | Self::Roll(_) => false,
        }
    }

    /// Whether it is told in the log of changes when somebody asked for it. Records, cursors that move and sessions of
    /// producers are too many.
    pub fn is_told(&self) -> bool {
        match self {
            Self::CreateLog(_)
            | Self::UpdateLog(_)
            | Self::DeleteLog(_)
            | Self::CompactLog(_)
            | Self::Trim(_)
            | Self::SetRetention(_)
            | Self::ClaimEpoch(_)
            | Self::DeleteFence(_)
            | Self::DeleteCursor(..)
            | Self::Admission(_)
            | Self::Register { .. }
            | Self::Forget { .. } => true,
            // Its owner closes it all the time; another one is an administrator.
            Self::CloseSession(close) => close.owner.is_none(),
            Self::Append(_)
            | Self::TrimLogs(_)
            | Self::OpenSession(_)
            | Self::ExpireSessions(_)
            | Self::CommitCursor(_)
            | Self::RegisterStart { .. }
            | Self::Roll(_)
            | Self::Rewrite(_)
            | Self::Compacted(_)
            | Self::Notes(_)
            | Self::Audited(_) => false,
        }
    }
}

/// How much of a log is kept. `None` is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Retention {
    /// The most bytes, counted as the batches came.
    pub max_bytes: Option<u64>,
    /// The greatest age of a record, in milliseconds.
    pub max_age_ms: Option<u64>,
    /// Records that these cursors have not passed stay, whatever the limits say.
    pub wait_for_cursors: Vec<String>,
    /// They stay only until the log has more bytes than this.
    pub wait_bytes_max: u64,
}

impl Retention {
    pub fn to_pb(&self) -> pb::Retention {
        pb::Retention {
            max_bytes: self.max_bytes.unwrap_or(0),
            max_age_ms: self.max_age_ms.unwrap_or(0),
            wait_for_cursors: self.wait_for_cursors.clone(),
            wait_bytes_max: self.wait_bytes_max,
        }
    }

    pub fn from_pb(retention: pb::Retention) -> Self {
        Self {
            max_bytes: Some(retention.max_bytes).filter(|bytes| *bytes > 0),
            max_age_ms: Some(retention.max_age_ms).filter(|age| *age > 0),
            wait_for_cursors: retention.wait_for_cursors,
            wait_bytes_max: retention.wait_bytes_max,
        }
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.max_bytes {
            Some(bytes) => write!(f, "{bytes} bytes")?,
            None => write!(f, "any number of bytes")?,
        }
        match self.max_age_ms {
            Some(age) => write!(f, ", for {age} ms")?,
            None => write!(f, ", of any age")?,
        }
        if self.wait_for_cursors.is_empty() {
            return Ok(());
        }
        let names = self.wait_for_cursors.join(", ");
        write!(f, ", and up to {} bytes for {names}", self.wait_bytes_max)
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
            Self::CreateLog(create) => write!(f, "create log {}", create.name),
            Self::UpdateLog(update) => write!(f, "configure log {}", update.log),
            Self::DeleteLog(delete) => write!(f, "delete log {}", delete.log),
            Self::CompactLog(log) => write!(f, "compact log {log}"),
            Self::Compacted(asked) => write!(f, "compacted, as was asked up to {asked}"),
            Self::Trim(trim) => write!(f, "trim log {} to {}", trim.log, trim.first),
            Self::TrimLogs(trims) => write!(f, "trim {} logs", trims.len()),
            Self::Rewrite(plan) => write!(f, "rewrite {}..{}", plan.base, plan.next),
            Self::SetRetention(set) => write!(f, "keep of log {}: {}", set.log, set.retention),
            Self::OpenSession(_) => write!(f, "open a session"),
            Self::CloseSession(close) => write!(f, "close session {}", close.session),
            Self::ExpireSessions(before) => write!(f, "expire sessions idle since {before}"),
            Self::ClaimEpoch(claim) => write!(f, "claim {} for {}", claim.name, claim.holder),
            Self::DeleteFence(name) => write!(f, "delete fence {name}"),
            Self::CommitCursor(commit) => {
                let CommitCursor {
                    log, name, offset, ..
                } = commit;
                write!(f, "set cursor {name} of log {log} to {offset}")
            }
            Self::DeleteCursor(log, name) => write!(f, "delete cursor {name} of log {log}"),
            Self::Admission(change) => write!(f, "{change}"),
            Self::RegisterStart { node_id, .. } => write!(f, "a start of node {node_id}"),
            Self::Roll(since) => write!(f, "end of the segment that counts from {since}"),
            Self::Notes(notes) => write!(f, "{} notes", notes.len()),
            Self::Audited(audited) => audited.command.fmt(f),
        }
    }
}

/// A session to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSession {
    /// Who opens it; empty without TLS.
    pub subject: String,
    /// The proof of who opens it. A retry has the same one.
    pub owner: u128,
    /// The leader's time, in milliseconds since 1970.
    pub now_ms: u64,
    /// Sessions that were last used before this may give way.
    pub idle_before_ms: u64,
}

/// A session to be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseSession {
    pub session: u64,
    /// The proof of its opener; `None` if an administrator closes it.
    pub owner: Option<u128>,
}

/// A claim, and on what it depends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimEpoch {
    /// The name.
    pub name: String,
    /// Who claims it, in its own words.
    pub holder: String,
    /// Who claims it, by its certificate.
    pub subject: Option<String>,
    /// Tells a retry of this claim from other claims: a retry has the same token.
    pub token: u128,
    /// The claim holds only if this is the present epoch; 0 if nobody claimed the name yet.
    pub expected: Option<u64>,
    /// The log whose end is answered.
    pub log: LogId,
}

/// A change of a cursor, and on what it depends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitCursor {
    /// The log that it stands in.
    pub log: LogId,
    /// The cursor.
    pub name: String,
    /// Who sets it; empty without TLS.
    pub subject: String,
    /// Where it is to stand.
    pub offset: Offset,
    /// Set only if the cursor stands here.
    pub expected: Option<Offset>,
    /// Set only if there is no cursor of the name yet.
    pub create_only: bool,
    /// The leader's time, in milliseconds since 1970.
    pub now_ms: u64,
}
