//! What the fuzzer throws at the raft layer's messages, and what must hold of them: no panic.
//!
//! What decodes is applied to a state machine over a log in memory, which then survives a restart.
//! Entries take the next raft index, whatever they say: the engine lets no other ones through. A
//! manifest must name nothing that takes room before it was seen to be possible.

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::raft::AppendEntriesRequest;
use prost::Message;

use crate::disk::memory::MemoryDisk;
use crate::log::fuzzing::{Input, Kept, batch_of, read_all};
use crate::log::{self, Floor, Index, LogId, NUMBER_MAX, Offset, Position, Term};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::admission::Entrance;
use crate::raft::entry::catalog::{CreateLog, DeleteLog, LogConfig, SetRetention, Trim};
use crate::raft::entry::codec;
use crate::raft::entry::command::{Command, CommitCursor, OpenSession};
use crate::raft::entry::owner;
use crate::raft::entry::types::{self, Entry, EntryPayload, TypeConfig};
use crate::raft::peer::checks::Pair;
use crate::raft::peer::wire;
use crate::raft::state::fsm::Fsm;

mod manifests;

pub use manifests::*;

/// Where a snapshot's segments wait.
const STAGING: &str = "/log/staging";
/// A copy of a larger segment is not tried: the disk in memory holds every byte of it.
const COPY_BYTES_MAX: u32 = 1 << 20;
/// More than the logs that a script writes to.
const LOGS: u32 = 8;

/// The target: what a leader sends, applied.
pub fn raft_frames(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() % 4 {
        0 => {
            let Ok(request) = pb::AppendEntriesRequest::decode(input.0) else {
                return;
            };
            if let Ok(request) = wire::append_from_pb(request) {
                hear(&request);
                apply(Kept::default(), Fsm::default(), request.entries);
            }
        }
        1 => {
            let mut entries = Vec::new();
            while !input.is_empty() {
                let kind = u32::from(input.u8());
                let mut payload = input.part().to_vec();
                // What lies behind the checksums is looked at as well.
                log::record::mend(&mut payload);
                let entry = codec::from_wire(pb::Entry {
                    log_id: Some(pb::LogId::default()),
                    kind,
                    payload: payload.into(),
                });
                entries.extend(entry.and_then(codec::from_log));
            }
            apply(Kept::default(), Fsm::default(), entries);
        }
        2 => apply(Kept::default(), Fsm::default(), entries_of(&mut input)),
        _ => {
            let Ok(state) = pb::InstallSnapshotRequest::decode(input.part()) else {
                return;
            };
            let checkpoint = state.checkpoint.unwrap_or_default();
            let next = Position(checkpoint.next_position);
            if let Ok(fsm) = Fsm::restore(checkpoint, state.rows)
                && let Some(kept) = empty_log_at(&fsm, next)
            {
                apply(kept, fsm, entries_of(&mut input));
            }
        }
    }
}

/// What a follower lets through may be appended as it is.
fn hear(request: &AppendEntriesRequest<TypeConfig>) {
    let leader = request.vote.leader_id;
    let pair = Pair {
        me: leader.voted_for ^ 1,
        peer: leader.voted_for,
        term: leader.term.saturating_sub(1),
    };
    if pair.append(request).is_err() {
        return;
    }
    let mut last = request.prev_log_id;
    for entry in &request.entries {
        assert_eq!(entry.log_id.index, last.map_or(0, |last| last.index + 1));
        assert!(Some(entry.log_id) > last && entry.log_id.index <= NUMBER_MAX);
        last = Some(entry.log_id);
    }
    assert!(last.is_none_or(|last| last.leader_id.term <= leader.term));
}

/// A log from which everything before a checkpoint was trimmed.
fn empty_log_at(fsm: &Fsm, next: Position) -> Option<Kept> {
    let covered = fsm.covered(next)?;
    let floor = Floor {
        index: Index(covered.applied.0.saturating_add(1)),
        position: covered.next_position,
    };
    Some(Kept {
        disk: MemoryDisk::default(),
        floor,
        checkpoint: Some(covered),
    })
}

/// Entries by the book: batches of few sessions, and every command.
pub fn entries_of(input: &mut Input<'_>) -> Vec<Entry> {
    let mut entries = Vec::new();
    while !input.is_empty() && entries.len() < 200 {
        let what = input.u8();
        let command = match what & 15 {
            0 => Command::Trim(Trim {
                log: LogId((what >> 6).into()),
                first: Offset(input.u8().into()),
            }),
            1 => Command::Register {
                name: (what >> 6).to_string(),
                directory_id: (what >> 4 & 3).to_string(),
                entrance: Entrance::Open,
            },
            2 => Command::Forget {
                name: (what >> 6).to_string(),
            },
            3 => Command::SetRetention(SetRetention::from_pb(pb::SetRetention {
                max_bytes: input.u64(),
                max_age_ms: input.u8().into(),
                log: (what >> 6).into(),
                ..pb::SetRetention::default()
            })),
            4 => {
                let trim = |_| Trim {
                    log: LogId((input.u8() & 3).into()),
                    first: Offset(input.u8().into()),
                };
                Command::TrimLogs((0..1 + (what >> 6)).map(trim).collect())
            }
            // The first few entries make sessions that batches may name.
            8 => Command::OpenSession(OpenSession {
                subject: String::new(),
                owner: owner::NOBODY,
                now_ms: 0,
                idle_before_ms: 0,
            }),
            // A batch is for the default log or for the first that is made.
            5 => Command::CreateLog(CreateLog {
                name: (what >> 6).to_string(),
                config: LogConfig::default(),
                token: Bytes::new(),
                subject: String::new(),
                now_ms: 0,
                logs_max: 3,
            }),
            6 => Command::DeleteLog(DeleteLog {
                name: (what >> 6).to_string(),
                log: LogId((what >> 4 & 3).into()),
            }),
            7 => Command::CommitCursor(CommitCursor {
                log: LogId((what >> 6).into()),
                name: (what >> 4 & 3).to_string(),
                subject: String::new(),
                offset: Offset(input.u8().into()),
                expected: None,
                create_only: false,
                now_ms: 0,
            }),
            _ => {
                let batches: Vec<_> = (0..1 + (what >> 6)).map(|_| batch_of(input)).collect();
                Command::Append(log::record::join(batches.iter(), None))
            }
        };
        let id = types::log_id(Term(1), Index(0));
        entries.push(Entry::new(id, EntryPayload::Normal(command)));
    }
    entries
}

/// Applies entries as they come, restarts, and compares.
fn apply(mut kept: Kept, mut fsm: Fsm, entries: Vec<Entry>) {
    let Ok((log, _)) = kept.open() else {
        return;
    };
    for mut entry in entries {
        let term = entry.log_id.leader_id.term.min(NUMBER_MAX);
        let last = fsm.applied.map_or(0, |applied| applied.leader_id.term);
        entry.log_id = types::log_id(Term(term.max(last)), log.next_index());
        let sent = codec::to_log(&entry);
        let came = codec::from_wire(codec::to_wire(sent.clone())).expect("it was made here");
        assert_eq!(came, sent, "an entry comes back as it went");
        let read = codec::from_log(came).expect("it decoded before");
        assert_eq!(codec::to_log(&read), sent, "and is read as it was");
        assert!(read.payload() == entry.payload());
        let done = Box::new(|result: Result<(), log::Error>| result.expect("a good disk"));
        match log.append(vec![codec::to_log(&entry)], done) {
            Err(log::Error::TooLarge { .. }) => continue,
            appended => appended.expect("a good disk"),
        }
        match fsm.apply(&log, &entry) {
            // It stops the node; proposals are checked on the way in.
            Err(log::Error::Malformed(_)) => return,
            applied => drop(applied.expect("a good disk")),
        }
    }
    read_all(&log);
    log.sync_index().expect("a good disk");
    let (_, next) = log.positions();
    let checkpoint = fsm.to_checkpoint(next);
    let again = Fsm::restore(checkpoint.clone(), fsm.to_rows()).expect("it was made here");
    assert_eq!(again.to_checkpoint(next), checkpoint);
    assert!(again.to_rows().eq(fsm.to_rows()));
    assert_eq!(log.all_ends(), *fsm.logs.ends(), "they count alike");
    kept.checkpoint = again.covered(next);
    let (again, opened) = kept.open().expect("what was left by a log opens");
    assert_eq!(again.positions(), log.positions());
    assert_eq!(again.all_ends(), log.all_ends());
    assert!(opened.rows_hold || kept.checkpoint.is_none());
}
