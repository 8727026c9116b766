//! What the fuzzer throws at the raft layer's messages, and what must hold of them: no panic.
//!
//! What decodes is applied to a state machine over a log in memory, which then survives a restart.
//! Entries take the next raft index, whatever they say: the engine lets no other ones through. A
//! manifest must name nothing that takes room before it was seen to be possible.

use std::path::Path;
use std::sync::Arc;

use openraft::entry::RaftEntry;
use openraft::raft::AppendEntriesRequest;
use prost::Message;

use crate::disk::memory::MemoryDisk;
use crate::log::fuzzing::{self, Input, Kept, batch_of, config, read_all, seal_file, write_log};
use crate::log::{
    self, Checkpoint, Floor, Index, Log, NUMBER_MAX, Offset, Seal, SegmentCopy, Term,
};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::admission::Entrance;
use crate::raft::entry::codec;
use crate::raft::entry::command::{self, Command};
use crate::raft::entry::types::{self, Entry, EntryPayload, TypeConfig};
use crate::raft::entry::wire_error::WireError;
use crate::raft::error::FetchError;
use crate::raft::peer::checks::Pair;
use crate::raft::peer::{fetch, wire};
use crate::raft::snapshot;
use crate::raft::state::fsm::Fsm;

/// Where a snapshot's segments wait.
const STAGING: &str = "/log/staging";
/// A copy of a larger segment is not tried: the disk in memory holds every byte of it.
const COPY_BYTES_MAX: u32 = 1 << 20;

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
                let entry = codec::from_wire(pb::Entry {
                    log_id: Some(pb::LogId::default()),
                    kind,
                    payload: input.part().to_vec().into(),
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
            if let Ok(kept) = empty_log_at(&checkpoint)
                && let Ok(fsm) = Fsm::restore(checkpoint, state.rows)
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
fn empty_log_at(checkpoint: &pb::Checkpoint) -> Result<Kept, WireError> {
    let covered = snapshot::covered_by(checkpoint).ok_or(WireError::Missing("log id"))?;
    let floor = Floor {
        index: Index(covered.applied.0.saturating_add(1)),
        offset: covered.next_offset,
    };
    Ok(Kept {
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
            0 => Command::Trim(Offset(input.u8().into())),
            1 => Command::Register {
                name: (what >> 6).to_string(),
                directory_id: (what >> 4 & 3).to_string(),
                entrance: Entrance::Open,
            },
            2 => Command::Forget {
                name: (what >> 6).to_string(),
            },
            3 => Command::SetRetention(command::Retention::from_pb(pb::Retention {
                max_bytes: input.u64(),
                max_age_ms: input.u8().into(),
                ..pb::Retention::default()
            })),
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
    let checkpoint = fsm.to_checkpoint(log.offsets().1);
    let again = Fsm::restore(checkpoint.clone(), fsm.to_rows()).expect("it was made here");
    assert_eq!(again.to_checkpoint(log.offsets().1), checkpoint);
    assert!(again.to_rows().eq(fsm.to_rows()));
    kept.checkpoint = snapshot::covered_by(&checkpoint);
    let (again, opened) = kept.open().expect("what was left by a log opens");
    assert_eq!(again.offsets(), log.offsets());
    assert!(opened.rows_hold || kept.checkpoint.is_none());
}

/// The target: what says of what a snapshot consists, and the segments that come then.
pub fn manifests(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() % 4 {
        0 => {
            let Ok(request) = pb::InstallSnapshotRequest::decode(input.part()) else {
                return;
            };
            install(&request, |_| pb::SegmentPart::decode(input.part()).ok());
        }
        1 => drop(seal_file(input.0, false)),
        2 => drop(seal_file(input.0, true)),
        _ => {
            let (kept, log) = write_log(&mut input);
            let Some(mut request) = manifest_of(&kept, &log) else {
                return;
            };
            let changes = input.u8();
            for _ in 0..changes % 4 {
                change(&mut request, &mut input);
            }
            let changed = changes >= 128;
            install(&request, |seal| {
                let mut part = part_of(&log, seal)?;
                if changed {
                    change_part(&mut part, &mut input);
                }
                Some(part)
            });
        }
    }
}

pub fn manifest_of(kept: &Kept, log: &Log) -> Option<pb::InstallSnapshotRequest> {
    let covered = kept.checkpoint?;
    let seals = log.manifest(Index(covered.applied.0 + 1)).ok()?;
    let floor = (kept.floor.index > Index(0)).then(|| snapshot::floor_to_pb(kept.floor, Term(1)));
    Some(pb::InstallSnapshotRequest {
        checkpoint: Some(pb::Checkpoint {
            applied: Some(pb::LogId {
                term: 1,
                index: covered.applied.0,
            }),
            first_offset: covered.first_offset.0,
            next_offset: covered.next_offset.0,
            ..pb::Checkpoint::default()
        }),
        floor,
        segments: seals.iter().map(timeless).collect(),
        ..pb::InstallSnapshotRequest::default()
    })
}

/// The same input must make the same bytes.
fn timeless(seal: &Seal) -> pb::SegmentSeal {
    let mut seal = snapshot::seal_to_pb(seal);
    seal.sealed_ms = 0;
    seal
}

pub fn part_of(log: &Log, seal: &Seal) -> Option<pb::SegmentPart> {
    let (from, to) = (seal.base, seal.next_index().min(log.next_index()));
    let mut entries = Vec::new();
    let mut at = from;
    while at < to {
        for entry in log.entries(at, to, usize::MAX).ok()? {
            at = Index(entry.index.0 + 1);
            let log_id = Some(pb::LogId {
                term: entry.term.0,
                index: entry.index.0,
            });
            entries.push(pb::Entry {
                log_id,
                kind: entry.kind as u32,
                payload: entry.payload,
            });
        }
    }
    let row = |row: log::Placed| pb::PlacedRow {
        offset: row.offset.0,
        index: row.index.0,
        skip: row.skip,
    };
    let rows = log.rows(from, to).ok()?.into_iter().map(row).collect();
    Some(pb::SegmentPart { entries, rows })
}

fn change(request: &mut pb::InstallSnapshotRequest, input: &mut Input<'_>) {
    let what = input.u8();
    let number = match what >> 6 {
        0 => u64::from(input.u8()),
        1 => u64::from(input.u32()),
        2 => input.u64(),
        _ => u64::MAX - u64::from(input.u8()),
    };
    let place = input.below(request.segments.len());
    match (&mut request.checkpoint, &mut request.floor) {
        (Some(checkpoint), _) if what & 15 == 9 => checkpoint.next_offset = number,
        (Some(checkpoint), _) if what & 15 == 10 => checkpoint.first_offset = number,
        (Some(checkpoint), _) if what & 15 == 11 => {
            checkpoint.applied.get_or_insert_default().index = number;
        }
        (_, floor) if what & 15 == 12 => {
            let floor = floor.get_or_insert_default();
            floor.last.get_or_insert_default().index = number;
        }
        (_, floor) if what & 15 == 13 => floor.get_or_insert_default().next_offset = number,
        _ => {}
    }
    let Some(seal) = request.segments.get_mut(place) else {
        return;
    };
    match what & 15 {
        0 => seal.base = number,
        1 => seal.entries = number as u32,
        2 => seal.end = number as u32,
        3 => seal.rows = number as u32,
        4 => seal.entries_digest = number as u32,
        5 => seal.rows_digest = number as u32,
        6 => seal.first_offset = number,
        7 => seal.next_offset = number,
        8 => drop(request.segments.remove(place)),
        _ => {}
    }
}

fn change_part(part: &mut pb::SegmentPart, input: &mut Input<'_>) {
    let (what, rows, entries) = (input.u8(), part.rows.len(), part.entries.len());
    let (place, other) = (input.below(rows.max(entries)), input.below(rows));
    match (
        what & 7,
        part.rows.get_mut(place),
        part.entries.get_mut(place),
    ) {
        (0, Some(row), _) => row.offset = input.u64(),
        (1, Some(row), _) => row.offset = input.u8().into(),
        (2, Some(row), _) => row.index = input.u8().into(),
        (3, Some(row), _) => row.skip = input.u32(),
        (4, Some(_), _) => part.rows.swap(place, other),
        (5, _, Some(entry)) => entry.kind = input.u8().into(),
        (6, _, Some(entry)) => entry.payload = input.part().to_vec().into(),
        (_, _, Some(_)) => drop(part.entries.remove(place)),
        _ => {}
    }
}

/// Takes a manifest as a node does that lacks everything; `part` is what the sender then gives.
fn install(
    request: &pb::InstallSnapshotRequest,
    mut part: impl FnMut(&Seal) -> Option<pb::SegmentPart>,
) {
    let Ok(data) = snapshot::manifest_from_pb(request) else {
        return;
    };
    if snapshot::meta(&data.checkpoint).is_err() {
        return;
    }
    let disk = MemoryDisk::default();
    let staging = Path::new(STAGING);
    for seal in data.segments.iter() {
        assert!(seal.end <= log::STORE_BYTES_MAX, "no such segment");
        assert!(
            seal.rows < seal.end && seal.entries < seal.end,
            "they take bytes"
        );
        if seal.end > COPY_BYTES_MAX {
            return;
        }
        let builder =
            SegmentCopy::new(Arc::new(disk.clone()), staging, seal).expect("it was checked");
        let Some(part) = part(seal) else {
            return;
        };
        let built = fetch::add(builder, part).and_then(|builder| Ok(builder.finish()?));
        match built {
            Ok(()) => assert!(log::is_copied(&disk, staging, seal).expect("a good disk")),
            Err(FetchError::Wire(_) | FetchError::Log(log::Error::Mismatch { .. })) => return,
            Err(error) => panic!("not the copy's fault: {error:?}"),
        }
    }
    let covered = snapshot::covered_by(&data.checkpoint).expect("it was checked");
    adopt(&disk, &data, covered);
}

fn adopt(disk: &MemoryDisk, data: &snapshot::SnapshotData, covered: Checkpoint) {
    let floor = snapshot::floor_of(data.floor.as_ref());
    let here = Path::new(fuzzing::DIR);
    let bases: Vec<_> = data.segments.iter().map(|seal| seal.base).collect();
    let disk = Arc::new(disk.clone());
    let opened = Log::open(disk, here, config(), Floor::default(), None);
    let (log, _) = opened.expect("an empty directory opens");
    if log
        .adopt(Path::new(STAGING), &bases, floor, covered)
        .is_ok()
    {
        assert_eq!(log.next_index(), Index(covered.applied.0 + 1));
        read_all(&log);
    }
}
