//! How an entry becomes a frame of the log, and how it travels: one form for both. An entry is encoded once; from then
//! on its bytes stay as they are.

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use prost::Message;

use crate::log::{self, Index, Kind, LogId, Offset, Term};
use crate::proto::raft_v1::{self as pb, control_entry::Command as Control};
use crate::raft::entry::wire_error::{WireError, number_of};

use super::admission::{Admission, Entrance};
use super::audited::{Audited, Note};
use super::catalog::{
    CreateLog, DeleteLog, SetRetention, Trim, UpdateLog, rewrite_from_pb, rewrite_to_pb,
};
use super::command::{ClaimEpoch, CloseSession, Command, CommitCursor, OpenSession};
use super::owner;
use super::types::{self, Entry};

/// A payload below this size, in bytes, is copied out of the buffer that it came in. A larger one fills most of it.
const COPIED_BYTES_MAX: usize = 256 << 10;

/// The entry as the log keeps it.
pub fn to_log(entry: &Entry) -> log::Entry {
    let (term, index) = (Term(entry.log_id.leader_id.term), Index(entry.log_id.index));
    let (kind, payload) = match (entry.payload(), entry.control()) {
        (EntryPayload::Normal(Command::Roll(since)), _) => {
            return log::Entry::roll(term, index, *since);
        }
        (_, Some(control)) => (Kind::Control, control.clone()),
        (EntryPayload::Normal(Command::Append(payload)), None) => (Kind::Records, payload.clone()),
        (EntryPayload::Normal(Command::Audited(audited)), _) => {
            (Kind::Audited, audited.payload.clone())
        }
        (made, None) => (Kind::Control, encode(to_control(made))),
    };
    log::Entry {
        term,
        index,
        kind,
        payload,
    }
}

fn encode(command: Option<Control>) -> Bytes {
    pb::ControlEntry { command }.encode_to_vec().into()
}

/// What a control entry says; `None` for records and ends of segments, which are no control entries.
fn to_control(payload: &types::EntryPayload) -> Option<Control> {
    match payload {
        EntryPayload::Normal(command) => command_to_control(command),
        EntryPayload::Blank => Some(Control::Blank(pb::Blank {})),
        EntryPayload::Membership(membership) => {
            Some(Control::Membership(types::membership_to_pb(membership)))
        }
    }
}

/// A command as a control entry; `None` for records and ends of segments, which are no control entries.
pub fn command_to_control(command: &Command) -> Option<Control> {
    Some(match command {
        Command::Append(_) | Command::Roll(_) | Command::Audited(_) => return None,
        Command::Notes(notes) => Control::Notes(pb::Notes {
            notes: notes.iter().map(Note::to_pb).collect(),
        }),
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
        Command::CreateLog(create) => Control::CreateLog(create.to_pb()),
        Command::UpdateLog(update) => Control::UpdateLog(update.to_pb()),
        Command::DeleteLog(delete) => Control::DeleteLog(delete.to_pb()),
        Command::CompactLog(log) => Control::CompactLog(pb::CompactLog { log: log.0 }),
        Command::Compacted(asked) => Control::Compacted(pb::Compacted { asked: asked.0 }),
        Command::Trim(trim) => Control::Trim(trim.to_pb()),
        Command::TrimLogs(trims) => Control::TrimLogs(pb::TrimLogs {
            trims: trims.iter().map(|trim| trim.to_pb()).collect(),
        }),
        Command::Rewrite(plan) => Control::Rewrite(rewrite_to_pb(plan)),
        Command::SetRetention(set) => Control::SetRetention(set.to_pb()),
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
            log: claim.log.0,
        }),
        Command::DeleteFence(name) => Control::DeleteFence(pb::DeleteFence { name: name.clone() }),
        Command::CommitCursor(commit) => Control::CommitCursor(pb::CommitCursor {
            name: commit.name.clone(),
            subject: commit.subject.clone(),
            offset: commit.offset.0,
            expected_offset: commit.expected.map(|offset| offset.0),
            create_only: commit.create_only,
            now_ms: commit.now_ms,
            log: commit.log.0,
        }),
        Command::DeleteCursor(log, name) => Control::DeleteCursor(pb::DeleteCursor {
            name: name.clone(),
            log: log.0,
        }),
    })
}

/// The entry as the engine keeps it.
pub fn from_log(entry: log::Entry) -> Result<Entry, WireError> {
    let id = types::log_id(entry.term, entry.index);
    Ok(match entry.kind {
        Kind::Records => Entry::new(id, EntryPayload::Normal(Command::Append(entry.payload))),
        Kind::Control => {
            let says = from_control(pb::ControlEntry::decode(entry.payload.clone())?)?;
            Entry::read(id, says, entry.payload)
        }
        Kind::Audited => {
            let audited = Audited::read(entry.payload)?;
            Entry::new(id, EntryPayload::Normal(Command::Audited(audited)))
        }
        Kind::Roll => {
            let since = entry.rolls().ok_or(WireError::Missing("segment"))?;
            Entry::new(id, EntryPayload::Normal(Command::Roll(since)))
        }
        // It stands in rewritten segments, of which the engine reads nothing.
        Kind::Moved => return Err(WireError::Unknown("kind")),
    })
}

/// What a control entry holds.
pub fn from_control(entry: pb::ControlEntry) -> Result<types::EntryPayload, WireError> {
    // A command of a newer version decodes as none: this version cannot apply it.
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
        Control::CreateLog(create) => Command::CreateLog(CreateLog::from_pb(create)),
        Control::UpdateLog(update) => Command::UpdateLog(UpdateLog::from_pb(update)),
        Control::DeleteLog(delete) => Command::DeleteLog(DeleteLog::from_pb(delete)),
        Control::CompactLog(compact) => Command::CompactLog(LogId(compact.log)),
        Control::Compacted(compacted) => Command::Compacted(Index(compacted.asked)),
        Control::Trim(trim) => Command::Trim(Trim::from_pb(trim)),
        Control::TrimLogs(all) => {
            Command::TrimLogs(all.trims.into_iter().map(Trim::from_pb).collect())
        }
        // Which entry says so, it knows itself.
        Control::Rewrite(plan) => Command::Rewrite(rewrite_from_pb(plan, Index(0))?),
        Control::SetRetention(set) => Command::SetRetention(SetRetention::from_pb(set)),
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
            token: number_of(&claim.token, "token")?,
            expected: claim.expected_epoch,
            log: LogId(claim.log),
        }),
        Control::DeleteFence(delete) => Command::DeleteFence(delete.name),
        Control::CommitCursor(commit) => Command::CommitCursor(CommitCursor {
            name: commit.name,
            subject: commit.subject,
            offset: Offset(commit.offset),
            expected: commit.expected_offset.map(Offset),
            create_only: commit.create_only,
            now_ms: commit.now_ms,
            log: LogId(commit.log),
        }),
        Control::DeleteCursor(delete) => Command::DeleteCursor(LogId(delete.log), delete.name),
        Control::Notes(notes) => {
            Command::Notes(notes.notes.into_iter().map(Note::from_pb).collect())
        }
    };
    Ok(EntryPayload::Normal(command))
}

/// The log's entry as it travels.
pub fn to_wire(entry: log::Entry) -> pb::Entry {
    pb::Entry {
        log_id: Some(pb::LogId {
            term: entry.term.0,
            index: entry.index.0,
        }),
        kind: entry.kind as u32,
        payload: entry.payload,
    }
}

/// An entry that a peer sent, for the log. The checksums of its batches are checked; what a control entry says is not.
pub fn from_wire(entry: pb::Entry) -> Result<log::Entry, WireError> {
    let id = entry.log_id.ok_or(WireError::Missing("log id"))?;
    let kind = u8::try_from(entry.kind).ok().and_then(Kind::new);
    let kind = kind.filter(|kind| *kind != Kind::Moved);
    let kind = kind.ok_or(WireError::Unknown("kind"))?;
    let entry = log::Entry {
        term: Term(id.term),
        index: Index(id.index),
        kind,
        payload: own(entry.payload),
    };
    if entry.is_whole() {
        Ok(entry)
    } else {
        Err(WireError::Changed)
    }
}

/// A payload that is kept must not hold the whole buffer that it was read into.
fn own(payload: Bytes) -> Bytes {
    if payload.len() < COPIED_BYTES_MAX {
        Bytes::copy_from_slice(&payload)
    } else {
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trim() -> Command {
        let (log, first) = (LogId(4), Offset(3));
        Command::Trim(Trim { log, first })
    }

    /// As a node of a later version writes it: with a field that this one does not know.
    #[test]
    fn a_control_entry_goes_from_log_to_log_as_the_bytes_it_is() {
        let control = to_control(&EntryPayload::Normal(trim()));
        let mut bytes = encode(control).to_vec();
        let (field, varint) = (1000 << 3, 0);
        prost::encoding::encode_varint(field | varint, &mut bytes);
        prost::encoding::encode_varint(7, &mut bytes);
        let written = log::Entry {
            term: Term(2),
            index: Index(5),
            kind: Kind::Control,
            payload: bytes.into(),
        };
        let leaders = from_log(written.clone()).unwrap();
        let sent = to_wire(to_log(&leaders));
        let followers = from_log(from_wire(sent).unwrap()).unwrap();
        assert!(matches!(followers.payload(), EntryPayload::Normal(command) if *command == trim()));
        assert_eq!(to_log(&followers), written);
    }

    #[test]
    fn the_end_of_a_segment_goes_from_log_to_log_and_nothing_else_is_taken_for_one() {
        let written = log::Entry::roll(Term(2), Index(5), Index(3));
        let leaders = from_log(written.clone()).unwrap();
        let says: types::EntryPayload = EntryPayload::Normal(Command::Roll(Index(3)));
        assert_eq!(format!("{leaders}"), format!("{}: {says}", leaders.log_id));
        let sent = to_wire(to_log(&leaders));
        let followers = from_log(from_wire(sent.clone()).unwrap()).unwrap();
        assert_eq!(to_log(&followers), written);
        let payload = sent.payload.slice(1..);
        assert!(from_wire(pb::Entry { payload, ..sent }).is_err());
    }
}
