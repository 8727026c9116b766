//! Snapshots: the FSM's state and a manifest of the segments that hold the records.
//!
//! A snapshot copies nothing and is built in O(1) of the log's length: a seal for each segment. A
//! follower that fell off the log compares the seals with what it has, fetches the segments that it
//! lacks into a staging directory, and takes all of them over at once.

pub mod staging;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use openraft::RaftSnapshotBuilder;
use parking_lot::Mutex;
use prost::Message;

use crate::disk::Disk;
use crate::log::{self, Floor, Index, Offset, Seal, Term};
use crate::proto::raft_v1 as pb;
use crate::raft::engine::state_machine::StateMachine;
use crate::raft::entry::codec;
use crate::raft::entry::types::{
    self, CommittedLeaderId, Member, SnapshotMeta, TypeConfig, WireError,
};
use crate::raft::error::Error;
use crate::raft::home::blocking::{on_disk, with_descriptors};
use crate::raft::state::fsm::Fsm;

pub type Snapshot = openraft::Snapshot<CommittedLeaderId, u64, Member, SnapshotData>;

/// Entries applied at a time, in bytes.
const PART_BYTES: usize = 1 << 20;
/// Where a snapshot's segments wait until all have come, below the log's directory.
pub const STAGING: &str = "staging";
/// Below this room on the disk no checkpoint is written, in bytes.
const CHECKPOINT_ROOM: u64 = 4 << 20;
/// Of the state and the manifest in one message on their way.
const STATE_PART_BYTES: usize = 1 << 20;
/// Of both in all: of full tables, and of as many segments as there may be.
pub const STATE_BYTES_MAX: usize = 128 << 20;
/// Segments in a manifest.
const SEGMENTS_MAX: usize = 1 << 20;

/// The FSM's state, and what the segments hold that lead up to it.
#[derive(Debug, Clone)]
pub struct SnapshotData {
    pub checkpoint: pb::Checkpoint,
    /// Where the log began; `None` at its very beginning.
    pub floor: Option<pb::Floor>,
    pub segments: Arc<Vec<Seal>>,
}

/// Where snapshots are kept and staged.
#[derive(Debug, Clone)]
pub struct Snapshots {
    pub disk: Arc<dyn Disk>,
    /// The log's directory.
    pub dir: PathBuf,
    current: Arc<Mutex<Option<Snapshot>>>,
}

impl Snapshots {
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        Self {
            disk,
            dir,
            current: Arc::default(),
        }
    }

    /// The last one built or installed, or the one that the checkpoint of a trimmed log is.
    pub fn current(&self) -> Option<Snapshot> {
        self.current.lock().clone()
    }

    pub fn set_current(&self, snapshot: Snapshot) {
        *self.current.lock() = Some(snapshot);
    }

    /// Whether the disk is too full for a checkpoint of so many bytes: redb writes it anew before it
    /// frees the old one, and trusts nothing any more once a write failed.
    pub fn has_little_room(&self, bytes: usize) -> bool {
        let wanted = CHECKPOINT_ROOM + 3 * bytes as u64;
        let available = self.disk.available(&self.dir);
        available.is_ok_and(|available| available < wanted)
    }

    /// Forgets what was staged: it is in place, or not needed.
    pub fn clear_staging(&self) -> Result<(), Error> {
        let dir = self.staging();
        make_dir(&*self.disk, &dir)?;
        Ok(log::remove(&*self.disk, &dir)?)
    }

    /// Where segments wait.
    pub fn staging(&self) -> PathBuf {
        self.dir.join(STAGING)
    }
}

/// Builds a snapshot of the state when it was made.
#[derive(Debug)]
pub struct Builder {
    snapshot: Result<Snapshot, log::Error>,
    snapshots: Snapshots,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let taken = std::mem::replace(&mut self.snapshot, Err(log::Error::Stopped));
        let snapshot = taken.map_err(io::Error::other)?;
        self.snapshots.set_current(snapshot.clone());
        Ok(snapshot)
    }
}

/// The meta data that the engine wants of a checkpoint.
pub fn meta(checkpoint: &pb::Checkpoint) -> Result<SnapshotMeta, WireError> {
    let fsm = Fsm::from_checkpoint(checkpoint.clone())?;
    Ok(SnapshotMeta {
        last_log_id: fsm.applied,
        last_membership: fsm.membership,
    })
}

/// A floor, as the log wants it.
pub fn floor_of(floor: Option<&pb::Floor>) -> Floor {
    floor.map_or_else(Floor::default, |floor| Floor {
        index: Index(
            floor
                .last
                .as_ref()
                .map_or(0, |last| last.index.saturating_add(1)),
        ),
        offset: Offset(floor.next_offset),
    })
}

pub fn floor_to_pb(floor: Floor, term: Term) -> pb::Floor {
    pb::Floor {
        last: Some(pb::LogId {
            term: term.0,
            index: floor.index.0 - 1,
        }),
        next_offset: floor.offset.0,
    }
}

/// What the log wants to know of a checkpoint; `None` if it covers no entry.
pub fn covered_by(checkpoint: &pb::Checkpoint) -> Option<log::Checkpoint> {
    let applied = checkpoint.applied.as_ref()?;
    Some(log::Checkpoint {
        applied: Index(applied.index),
        first_offset: Offset(checkpoint.first_offset),
        next_offset: Offset(checkpoint.next_offset),
    })
}

pub fn seal_to_pb(seal: &Seal) -> pb::SegmentSeal {
    pb::SegmentSeal {
        base: seal.base.0,
        entries: seal.entries,
        end: seal.end,
        rows: seal.rows,
        entries_digest: seal.entries_digest,
        rows_digest: seal.rows_digest,
        first_offset: seal.first_offset.0,
        next_offset: seal.next_offset.0,
        sealed_ms: seal.sealed_ms,
    }
}

fn seal_from_pb(seal: &pb::SegmentSeal) -> Seal {
    Seal {
        base: Index(seal.base),
        entries: seal.entries,
        end: seal.end,
        rows: seal.rows,
        entries_digest: seal.entries_digest,
        rows_digest: seal.rows_digest,
        first_offset: Offset(seal.first_offset),
        next_offset: Offset(seal.next_offset),
        sealed_ms: seal.sealed_ms,
        term_ends: Vec::new(),
        marks: Vec::new(),
    }
}

/// Cuts up what says of what a snapshot consists.
pub fn to_parts(
    request: &pb::InstallSnapshotRequest,
) -> impl Iterator<Item = pb::SnapshotPart> + use<> {
    let mut left = Bytes::from(request.encode_to_vec());
    std::iter::from_fn(move || {
        let bytes = left.split_to(left.len().min(STATE_PART_BYTES));
        (!bytes.is_empty()).then_some(pb::SnapshotPart { bytes })
    })
}

/// Reads a manifest: segments without a gap, from the floor to the checkpoint, in entries and in
/// offsets.
pub fn manifest_from_pb(request: &pb::InstallSnapshotRequest) -> Result<SnapshotData, WireError> {
    const BROKEN: WireError = WireError::Unknown("manifest: its segments do not follow each other");
    let checkpoint = request.checkpoint.clone();
    let checkpoint = checkpoint.ok_or(WireError::Missing("checkpoint"))?;
    let floor = floor_of(request.floor.as_ref());
    let covered = covered_by(&checkpoint).ok_or(WireError::Missing("checkpoint's log id"))?;
    let (mut index, mut offset) = (floor.index, floor.offset);
    if request.segments.len() > SEGMENTS_MAX {
        return Err(BROKEN);
    }
    let segments: Vec<_> = request.segments.iter().map(seal_from_pb).collect();
    for seal in &segments {
        let follows = (seal.base, seal.first_offset) == (index, offset);
        if !seal.is_possible() || !follows {
            return Err(BROKEN);
        }
        (index, offset) = (seal.next_index(), seal.next_offset);
    }
    let reaches = index.0.checked_sub(1) == Some(covered.applied.0);
    if index.0 > log::NUMBER_MAX || offset.0 > log::NUMBER_MAX {
        return Err(BROKEN);
    }
    if !reaches || offset != covered.next_offset || covered.first_offset > offset {
        return Err(BROKEN);
    }
    Ok(SnapshotData {
        checkpoint,
        floor: request.floor,
        segments: Arc::new(segments),
    })
}

impl StateMachine {
    /// The state and the segments as they are now.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, log::Error> {
        let meta = self.meta();
        let end = meta.last_log_id.map_or(0, |id| id.index + 1);
        let floor = *self.floor.lock();
        let begins = floor_of(floor.as_ref()).index;
        let mut segments = self.log().manifest(Index(end))?;
        segments.retain(|seal| seal.base >= begins);
        Ok(Snapshot {
            meta,
            snapshot: SnapshotData {
                checkpoint: self.checkpoint(),
                floor,
                segments: Arc::new(segments),
            },
        })
    }

    pub(crate) fn snapshot_builder(&self) -> Builder {
        Builder {
            snapshot: self.snapshot(),
            snapshots: self.snapshots.clone(),
        }
    }

    /// Takes over a snapshot's state.
    pub(crate) async fn install(
        &mut self,
        meta: &SnapshotMeta,
        data: SnapshotData,
    ) -> Result<(), Error> {
        let Some(last) = meta.last_log_id else {
            return Ok(());
        };
        // An entry that this node holds with its term is part of an equal log (log matching), and
        // this node promised it to a leader: then the log stays, and only apply has to go on.
        let end = Index(last.index + 1);
        let held = self
            .log()
            .last()
            .is_some_and(|(_, held)| held.0 >= last.index);
        let same =
            held && types::log_id(self.log().term(Index(last.index))?, Index(last.index)) == last;
        let reached = data.segments.last().map(Seal::next_index);
        let reached = reached.unwrap_or(floor_of(data.floor.as_ref()).index);
        if same {
            self.apply_up_to(end).await?;
            self.snapshots.clear_staging()?;
        } else if reached < end && data.checkpoint.next_offset == 0 {
            // Only the engine's suite: it applies entries that it never appended.
            self.replace(Fsm::from_checkpoint(data.checkpoint.clone())?);
        } else {
            self.adopt(&data).await?;
        }
        self.publish();
        let current = Snapshot {
            meta: meta.clone(),
            snapshot: data,
        };
        self.snapshots.set_current(current);
        Ok(())
    }

    /// Puts the staged segments in the place of this node's log. A crash in between is finished on
    /// the next start.
    async fn adopt(&mut self, data: &SnapshotData) -> Result<(), Error> {
        let checkpoint = data.checkpoint.clone();
        let Some(covered) = covered_by(&checkpoint) else {
            return Ok(());
        };
        let bases: Vec<_> = data.segments.iter().map(|seal| seal.base).collect();
        let adoption = pb::Adoption {
            checkpoint: Some(checkpoint.clone()),
            floor: data.floor,
            bases: bases.iter().map(|base| base.0).collect(),
        };
        let (stable, log) = (self.stable.clone(), self.log().clone());
        let (staging, floor) = (self.snapshots.staging(), floor_of(data.floor.as_ref()));
        let (disk, shared) = (self.snapshots.disk.clone(), self.shared());
        let (segments, kept, begins) = (data.segments.clone(), self.floor.clone(), data.floor);
        let adopted = on_disk(move || -> Result<(), Error> {
            let mut reached = shared.covered.lock();
            with_descriptors(|| make_dir(&*disk, &staging))?;
            for seal in segments.iter() {
                let is_copied = with_descriptors(|| log::is_copied(&*disk, &staging, seal))?;
                if !is_copied && !log.holds(seal) {
                    let (base, what) = (seal.base, "it is neither staged nor held any more");
                    return Err(log::Error::Mismatch { base, what }.into());
                }
            }
            stable.begin_adoption(&adoption)?;
            with_descriptors(|| log.adopt(&staging, &bases, floor, covered))?;
            stable.end_adoption(&adoption)?;
            *reached = covered.applied.0 + 1;
            *kept.lock() = begins;
            with_descriptors(|| log::remove(&*disk, &staging))?;
            Ok(())
        });
        adopted.await?;
        self.replace(Fsm::from_checkpoint(checkpoint)?);
        Ok(())
    }

    async fn apply_up_to(&mut self, end: Index) -> Result<(), Error> {
        let mut at = self.applied().map_or(0, |id| id.index + 1);
        while at < end.0 {
            let log = self.log().clone();
            let read = move || with_descriptors(|| log.entries(Index(at), end, PART_BYTES));
            for entry in on_disk(read).await? {
                let entry = codec::from_log(entry)?;
                self.apply_one(&entry)?;
                at += 1;
            }
            // It may be a long way.
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

/// Makes a directory below the log's, for good.
pub fn make_dir(disk: &dyn Disk, dir: &std::path::Path) -> Result<(), log::Error> {
    disk.create_dir(dir)
        .map_err(log::Error::io("create", dir))?;
    let parent = dir.parent().unwrap_or(dir);
    disk.sync_dir(parent)
        .map_err(log::Error::io("sync", parent))
}

/// Finishes the adoption that a crash cut short, before the log is opened.
pub fn finish_adoption(
    snapshots: &Snapshots,
    stable: &crate::raft::home::stable_store::StableStore,
) -> Result<(), Error> {
    let Some(adoption) = stable.adoption()? else {
        return Ok(());
    };
    tracing::info!("finishing the installation of a snapshot");
    let bases: Vec<_> = adoption.bases.iter().map(|base| Index(*base)).collect();
    let staging = snapshots.staging();
    make_dir(&*snapshots.disk, &staging)?;
    log::adopt_files(&*snapshots.disk, &staging, &snapshots.dir, &bases)?;
    stable.end_adoption(&adoption)?;
    snapshots.clear_staging()
}
