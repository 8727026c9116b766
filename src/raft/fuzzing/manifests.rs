//! A snapshot's manifest and the parts of its segments, whole and spoiled.

use std::path::Path;
use std::sync::Arc;

use prost::Message;

use crate::disk::memory::MemoryDisk;
use crate::log::fuzzing::{self, Input, Kept, config, read_all, seal_file, write_log};
use crate::log::{
    self, Checkpoint, Ends, Floor, Index, Log, LogId, Position, Seal, SegmentCopy, Term,
};
use crate::proto::raft_v1 as pb;
use crate::raft::error::FetchError;
use crate::raft::peer::fetch;
use crate::raft::snapshot;
use crate::raft::state::fsm::Fsm;
use crate::raft::state::logs::DEFAULT_NAME;

use super::{COPY_BYTES_MAX, LOGS, STAGING};

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
    let covered = kept.checkpoint.as_ref()?;
    let seals = log.manifest(Index(covered.applied.0 + 1)).ok()?;
    let floor = (kept.floor.index > Index(0)).then(|| snapshot::floor_to_pb(kept.floor, Term(1)));
    Some(pb::InstallSnapshotRequest {
        checkpoint: Some(pb::Checkpoint {
            applied: Some(pb::LogId {
                term: 1,
                index: covered.applied.0,
            }),
            next_position: covered.next_position.0,
            next_log: LOGS,
            ..pb::Checkpoint::default()
        }),
        rows: covered.logs.iter().map(row_of).collect(),
        floor,
        segments: seals.iter().map(timeless).collect(),
        ..pb::InstallSnapshotRequest::default()
    })
}

/// A log's row.
fn row_of((log, ends): (&LogId, &Ends)) -> pb::StateRow {
    let name = match *log {
        LogId::DEFAULT => DEFAULT_NAME.to_owned(),
        LogId(number) => number.to_string(),
    };
    let log = pb::Log {
        id: log.0,
        name,
        epoch: 1,
        first_offset: ends.first.0,
        next_offset: ends.next.0,
        ..pb::Log::default()
    };
    pb::StateRow {
        row: Some(pb::state_row::Row::Log(log)),
    }
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
        position: row.position.0,
        index: row.index.0,
        check: row.check,
        log: row.log.0,
        offset: row.offset.0,
    };
    let rows = log.rows(from, to).ok()?.into_iter().map(row).collect();
    Some(pb::SegmentPart {
        entries,
        rows,
        ..pb::SegmentPart::default()
    })
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
    if what & 15 == 10
        && let Some(pb::state_row::Row::Log(log)) =
            request.rows.get_mut(place).and_then(|row| row.row.as_mut())
    {
        log.next_offset = number;
    }
    match (&mut request.checkpoint, &mut request.floor) {
        (Some(checkpoint), _) if what & 15 == 9 => checkpoint.next_position = number,
        (Some(checkpoint), _) if what & 15 == 11 => {
            checkpoint.applied.get_or_insert_default().index = number;
        }
        (_, floor) if what & 15 == 12 => {
            let floor = floor.get_or_insert_default();
            floor.last.get_or_insert_default().index = number;
        }
        (_, floor) if what & 15 == 13 => floor.get_or_insert_default().next_position = number,
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
        6 => seal.first_position = number,
        7 => seal.next_position = number,
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
        (0, Some(row), _) => row.position = input.u64(),
        (1, Some(row), _) => row.offset = input.u8().into(),
        (2, Some(row), _) => row.index = input.u8().into(),
        (3, Some(row), _) => row.check = input.u32(),
        (4, Some(row), _) if other == place => row.log = input.u8().into(),
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
    let rows = request.rows.iter().cloned().collect();
    let Ok(data) = snapshot::manifest_from_pb(request, rows) else {
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
    let next = Position(data.checkpoint.next_position);
    let Ok(fsm) = Fsm::restore(data.checkpoint.clone(), data.rows.iter()) else {
        return;
    };
    let covered = fsm.covered(next).expect("it was checked");
    adopt(&disk, &data, &covered);
}

fn adopt(disk: &MemoryDisk, data: &snapshot::SnapshotData, covered: &Checkpoint) {
    let floor = snapshot::floor_of(data.floor.as_ref());
    let here = Path::new(fuzzing::DIR);
    let names: Vec<_> = data.segments.iter().map(|seal| seal.name()).collect();
    let disk = Arc::new(disk.clone());
    let opened = Log::open(disk, here, config(), Floor::default(), None);
    let (log, _) = opened.expect("an empty directory opens");
    if log
        .adopt(Path::new(STAGING), &names, floor, covered)
        .is_ok()
    {
        assert_eq!(log.next_index(), Index(covered.applied.0 + 1));
        read_all(&log);
    }
}
