//! How an entry becomes a frame of the log, and how it travels: one form for both.

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use prost::Message;

use crate::log::{self, Index, Kind, Offset, Term};
use crate::proto::raft_v1::{self as pb, control_entry::Command as Control};
use crate::raft::entry::wire_error::WireError;

use super::admission::{Admission, Entrance};
use super::command::{ClaimEpoch, CloseSession, Command, CommitCursor, OpenSession, Retention};
use super::owner;
use super::types::{self, Entry};

/// A payload of at least this size fills most of the buffer that it came in.
const COPIED_BYTES_MAX: usize = 256 << 10;

/// The entry as the log keeps it.
pub fn to_log(entry: &Entry) -> log::Entry {
    let (kind, payload) = match &entry.payload {
        EntryPayload::Normal(Command::Append(payload)) => (Kind::Records, payload.clone()),
        EntryPayload::Normal(command) => (Kind::Control, encode(to_control(command))),
        EntryPayload::Blank => (Kind::Control, encode(Some(Control::Blank(pb::Blank {})))),
        EntryPayload::Membership(membership) => {
            let membership = Control::Membership(types::membership_to_pb(membership));
            (Kind::Control, encode(Some(membership)))
        }
    };
    log::Entry {
        term: Term(entry.log_id.leader_id.term),
        index: Index(entry.log_id.index),
        kind,
        payload,
    }
}

fn encode(command: Option<Control>) -> Bytes {
    pb::ControlEntry { command }.encode_to_vec().into()
}

/// A command as a control entry; `None` for records, which are no such.
pub fn to_control(command: &Command) -> Option<Control> {
    Some(match command {
        Command::Append(_) => return None,
        Command::Register {
            name,
            directory_id,
            entrance,
        } => Control::RegisterNode(pb::RegisterNode {
            name: name.clone(),
            directory_id: directory_id.clone(),
            entrance: entrance.to_pb(),
        }),
        Command::Admission(change) => Control::Admission(change.to_pb()),
        Command::RegisterStart { node_id, start } => Control::RegisterStart(pb::RegisterStart {
            node_id: *node_id,
            start: *start,
        }),
        Command::Forget { name } => Control::ForgetNode(pb::ForgetNode { name: name.clone() }),
        Command::Trim(first) => Control::Trim(pb::Trim {
            first_offset: first.0,
        }),
        Command::SetRetention(retention) => Control::SetRetention(retention.to_pb()),
        Command::OpenSession(open) => Control::OpenSession(pb::OpenSession {
            subject: open.subject.clone(),
            owner: owner::to_pb(open.owner),
            now_ms: open.now_ms,
            idle_before_ms: open.idle_before_ms,
        }),
        Command::CloseSession(close) => Control::CloseSession(pb::CloseSession {
            session: close.session,
            owner: close.owner.map_or_else(Bytes::new, owner::to_pb),
        }),
        Command::ExpireSessions(before) => Control::ExpireSessions(pb::ExpireSessions {
            idle_before_ms: *before,
        }),
        Command::ClaimEpoch(claim) => Control::ClaimEpoch(pb::ClaimEpoch {
            name: claim.name.clone(),
            holder: claim.holder.clone(),
            subject: claim.subject.clone(),
            token: claim.token.to_be_bytes().to_vec().into(),
            expected_epoch: claim.expected,
        }),
        Command::DeleteFence(name) => Control::DeleteFence(pb::DeleteFence { name: name.clone() }),
        Command::CommitCursor(commit) => Control::CommitCursor(pb::CommitCursor {
            name: commit.name.clone(),
            subject: commit.subject.clone(),
            offset: commit.offset.0,
            expected_offset: commit.expected.map(|offset| offset.0),
            create_only: commit.create_only,
            now_ms: commit.now_ms,
        }),
        Command::DeleteCursor(name) => {
            Control::DeleteCursor(pb::DeleteCursor { name: name.clone() })
        }
    })
}

/// The entry as the engine keeps it.
pub fn from_log(entry: log::Entry) -> Result<Entry, WireError> {
    let id = types::log_id(entry.term, entry.index);
    let payload = match entry.kind {
        Kind::Records => EntryPayload::Normal(Command::Append(entry.payload)),
        Kind::Control => from_control(pb::ControlEntry::decode(entry.payload)?)?,
    };
    Ok(Entry::new(id, payload))
}

/// What a control entry holds.
pub fn from_control(entry: pb::ControlEntry) -> Result<types::EntryPayload, WireError> {
    // A newer version's command: this one cannot apply it.
    let command = match entry.command.ok_or(WireError::Unknown("command"))? {
        Control::Blank(_) => return Ok(EntryPayload::Blank),
        Control::Membership(membership) => {
            let membership = types::membership_from_pb(membership)?;
            return Ok(EntryPayload::Membership(membership));
        }
        Control::RegisterNode(node) => Command::Register {
            name: node.name,
            directory_id: node.directory_id,
            entrance: Entrance::from_pb(node.entrance)?,
        },
        Control::Admission(change) => Command::Admission(Admission::from_pb(change)?),
        Control::RegisterStart(pb::RegisterStart { node_id, start }) => {
            Command::RegisterStart { node_id, start }
        }
        Control::ForgetNode(node) => Command::Forget { name: node.name },
        Control::Trim(trim) => Command::Trim(Offset(trim.first_offset)),
        Control::SetRetention(retention) => Command::SetRetention(Retention::from_pb(retention)),
        Control::OpenSession(open) => Command::OpenSession(OpenSession {
            subject: open.subject,
            owner: owner::from_pb(&open.owner)?,
            now_ms: open.now_ms,
            idle_before_ms: open.idle_before_ms,
        }),
        Control::CloseSession(close) => {
            let owner = owner::from_pb(&close.owner)?;
            Command::CloseSession(CloseSession {
                session: close.session,
                owner: (owner != owner::NOBODY).then_some(owner),
            })
        }
        Control::ExpireSessions(expire) => Command::ExpireSessions(expire.idle_before_ms),
        Control::ClaimEpoch(claim) => Command::ClaimEpoch(ClaimEpoch {
            name: claim.name,
            holder: claim.holder,
            subject: claim.subject,
            token: token(&claim.token)?,
            expected: claim.expected_epoch,
        }),
        Control::DeleteFence(delete) => Command::DeleteFence(delete.name),
        Control::CommitCursor(commit) => Command::CommitCursor(CommitCursor {
            name: commit.name,
            subject: commit.subject,
            offset: Offset(commit.offset),
            expected: commit.expected_offset.map(Offset),
            create_only: commit.create_only,
            now_ms: commit.now_ms,
        }),
        Control::DeleteCursor(delete) => Command::DeleteCursor(delete.name),
    };
    Ok(EntryPayload::Normal(command))
}

fn token(bytes: &[u8]) -> Result<u128, WireError> {
    let bytes = bytes.try_into();
    let bytes = bytes.map_err(|_| WireError::Unknown("token"))?;
    Ok(u128::from_be_bytes(bytes))
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
