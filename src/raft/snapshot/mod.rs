//! Snapshots: the FSM's state and a manifest of the segments that hold the records.
//!
//! A snapshot copies no record. It holds a seal for each segment, so building it takes as long for large segments as
//! for small ones. A follower that lags behind the first entry of the leader's log compares the seals with its own,
//! fetches the segments that it lacks into a staging directory, and takes all of them over at once.

pub mod gather;
pub mod rows;

use std::iter::{self, Peekable};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use prost::Message;

use crate::disk::Disk;
use crate::log::{self, Floor, Index, Position, Seal, SegmentName, Term};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::types::{self, CommittedLeaderId, Member, SnapshotMeta};
use crate::raft::entry::wire_error::WireError;
use crate::raft::error::Error;
use crate::raft::state::checkpoint::membership_of;

use rows::Rows;

pub type Snapshot = openraft::Snapshot<CommittedLeaderId, u64, Member, SnapshotData>;

/// Where a snapshot's segments wait until all have come, below the log's directory.
pub const STAGING: &str = "staging";
const REPAIR: &str = "repair";
/// No checkpoint is written unless the disk has this many bytes free, and room for the checkpoint.
const CHECKPOINT_ROOM: u64 = 4 << 20;
/// How much of the state or the manifest travels in one message, in bytes.
const STATE_PART_BYTES: usize = 1 << 20;
/// What a field in a message takes beside the message in it, in bytes: its tag and its length.
const PART_OVERHEAD_BYTES: usize = 6;
/// The most that state and manifest may take together, in bytes: enough for full tables and for the largest
/// number of segments.
pub const STATE_BYTES_MAX: usize = 128 << 20;
/// The most segments in a manifest.
const SEGMENTS_MAX: usize = 1 << 20;

/// The FSM's state, and what the segments hold that lead up to it.
#[derive(Debug, Clone)]
pub struct SnapshotData {
    pub checkpoint: pb::Checkpoint,
    /// The rows of the checkpoint's tables.
    pub rows: Rows,
    /// Where the log begins; `None` if nothing of it was ever given up.
    pub floor: Option<pb::Floor>,
    pub segments: Arc<Vec<Seal>>,
}

/// Where the log begins, as it was made durable; `None` if nothing of it was ever given up. Clones share it.
pub type DurableFloor = Arc<Mutex<Option<pb::Floor>>>;

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

    /// The snapshot that was built or installed last. After a start on a trimmed log it is that of the checkpoint.
    pub fn current(&self) -> Option<Snapshot> {
        self.current.lock().clone()
    }

    pub fn set_current(&self, snapshot: Snapshot) {
        *self.current.lock() = Some(snapshot);
    }

    /// Whether the disk is too full for a checkpoint of so many bytes. redb writes the new one before it frees the old
    /// one, and takes no more writes once one has failed.
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

    /// Removes what is left of copies that a mend or a rewriting had wanted. None is under way.
    pub fn clear_repair(&self) -> Result<(), Error> {
        let dir = self.repair();
        match self.disk.list(&dir) {
            Ok(_) => Ok(log::remove(&*self.disk, &dir)?),
            // It is made when it is needed.
            Err(_) => Ok(()),
        }
    }

    /// Where copies of damaged segments are built, and of those that another node rewrote.
    pub fn repair(&self) -> PathBuf {
        self.dir.join(REPAIR)
    }

    /// Where segments wait.
    pub fn staging(&self) -> PathBuf {
        self.dir.join(STAGING)
    }
}

/// The meta data that the engine wants of a checkpoint.
pub fn meta(checkpoint: &pb::Checkpoint) -> Result<SnapshotMeta, WireError> {
    Ok(SnapshotMeta {
        last_log_id: checkpoint.applied.as_ref().map(types::log_id_from_pb),
        last_membership: membership_of(checkpoint)?,
    })
}

/// The floor of a message or checkpoint, in the log's own type.
pub fn floor_of(floor: Option<&pb::Floor>) -> Floor {
    floor.map_or_else(Floor::default, |floor| Floor {
        index: Index(
            floor
                .last
                .as_ref()
                .map_or(0, |last| last.index.saturating_add(1)),
        ),
        position: Position(floor.next_position),
    })
}

pub fn floor_to_pb(floor: Floor, term: Term) -> pb::Floor {
    pb::Floor {
        last: Some(pb::LogId {
            term: term.0,
            index: floor.index.0 - 1,
        }),
        next_position: floor.position.0,
    }
}

pub fn seal_to_pb(seal: &Seal) -> pb::SegmentSeal {
    pb::SegmentSeal {
        base: seal.base.0,
        entries: seal.entries,
        end: seal.end,
        rows: seal.rows,
        entries_digest: seal.entries_digest,
        rows_digest: seal.rows_digest,
        first_position: seal.first_position.0,
        next_position: seal.next_position.0,
        sealed_ms: seal.sealed_ms,
        rolled: seal.rolled,
        rewritten: seal.rewritten.map_or(0, |at| at.0),
        term_ends: match seal.rewritten {
            Some(_) => seal.term_ends.iter().map(term_end_to_pb).collect(),
            // The receiver finds them in the entries.
            None => Vec::new(),
        },
    }
}

fn term_end_to_pb(end: &log::TermEnd) -> pb::TermEnd {
    pb::TermEnd {
        entry: end.entry,
        term: end.term.0,
    }
}

pub fn seal_from_pb(seal: &pb::SegmentSeal) -> Seal {
    let end = |end: &pb::TermEnd| log::TermEnd {
        entry: end.entry,
        term: Term(end.term),
    };
    Seal {
        base: Index(seal.base),
        rewritten: (seal.rewritten > 0).then_some(Index(seal.rewritten)),
        rolled: seal.rolled,
        entries: seal.entries,
        end: seal.end,
        rows: seal.rows,
        entries_digest: seal.entries_digest,
        rows_digest: seal.rows_digest,
        first_position: Position(seal.first_position),
        next_position: Position(seal.next_position),
        sealed_ms: seal.sealed_ms,
        term_ends: seal.term_ends.iter().map(end).collect(),
        marks: Vec::new(),
        logs: log::LogSet::default(),
        listed: 0,
    }
}

/// Cuts a snapshot's state and manifest into messages. The first one holds the single fields; each later one holds as
/// many rows and seals as fit. Rows become messages part by part.
pub fn to_parts(
    mut request: pb::InstallSnapshotRequest,
    rows: &Rows,
) -> impl Iterator<Item = pb::InstallSnapshotRequest> + use<> {
    let mut rows = rows.iter().peekable();
    let segments = std::mem::take(&mut request.segments);
    let mut segments = segments.into_iter().peekable();
    let mut head = Some(request);
    std::iter::from_fn(move || {
        if let Some(head) = head.take() {
            return Some(head);
        }
        let mut part = pb::InstallSnapshotRequest::default();
        let mut room = STATE_PART_BYTES;
        take_part(&mut rows, &mut part.rows, &mut room);
        take_part(&mut segments, &mut part.segments, &mut room);
        let is_empty = part.rows.is_empty() && part.segments.is_empty();
        (!is_empty).then_some(part)
    })
}

/// Moves messages into a part while there is room for them. An empty part takes at least one.
fn take_part<M: Message>(
    all: &mut Peekable<impl Iterator<Item = M>>,
    part: &mut Vec<M>,
    room: &mut usize,
) {
    while let Some(next) = all.peek() {
        let bytes = next.encoded_len() + PART_OVERHEAD_BYTES;
        if bytes > *room && *room < STATE_PART_BYTES {
            *room = 0;
            break;
        }
        *room = room.saturating_sub(bytes);
        part.extend(all.next());
    }
}

/// Reads a manifest.
///
/// # Errors
///
/// [`WireError`] unless the segments reach from the floor to the checkpoint without a gap, in entries and in positions.
pub fn manifest_from_pb(
    request: &pb::InstallSnapshotRequest,
    rows: Rows,
) -> Result<SnapshotData, WireError> {
    const BROKEN: WireError = WireError::Unknown("manifest: its segments do not follow each other");
    let checkpoint = request.checkpoint.clone();
    let checkpoint = checkpoint.ok_or(WireError::Missing("checkpoint"))?;
    let floor = floor_of(request.floor.as_ref());
    let applied = checkpoint.applied.as_ref();
    let applied = applied
        .ok_or(WireError::Missing("checkpoint's log id"))?
        .index;
    let (mut index, mut position) = (floor.index, floor.position);
    if request.segments.len() > SEGMENTS_MAX {
        return Err(BROKEN);
    }
    let segments: Vec<_> = request.segments.iter().map(seal_from_pb).collect();
    for seal in &segments {
        let follows = (seal.base, seal.first_position) == (index, position);
        if !seal.is_possible() || !follows {
            return Err(BROKEN);
        }
        (index, position) = (seal.next_index(), seal.next_position);
    }
    let reaches = index.0.checked_sub(1) == Some(applied);
    if index.0 > log::NUMBER_MAX || position.0 > log::NUMBER_MAX {
        return Err(BROKEN);
    }
    if !reaches || position.0 != checkpoint.next_position {
        return Err(BROKEN);
    }
    Ok(SnapshotData {
        checkpoint,
        rows,
        floor: request.floor,
        segments: Arc::new(segments),
    })
}

/// Makes a directory below the log's, and syncs the log's, so that it is still there after a crash.
pub fn make_dir(disk: &dyn Disk, dir: &std::path::Path) -> Result<(), log::Error> {
    disk.create_dir(dir)
        .map_err(log::Error::io("create", dir))?;
    let parent = dir.parent().unwrap_or(dir);
    disk.sync_dir(parent)
        .map_err(log::Error::io("sync", parent))
}

/// What the segments are called that are put in place.
pub fn names_of(adoption: &pb::Adoption) -> Vec<SegmentName> {
    let rewritten = adoption.rewritten.iter().copied();
    let all = adoption.bases.iter().zip(rewritten.chain(iter::repeat(0)));
    let named = all.map(|(base, at)| SegmentName {
        base: Index(*base),
        rewritten: (at > 0).then_some(Index(at)),
    });
    named.collect()
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
    let names = names_of(&adoption);
    let staging = snapshots.staging();
    make_dir(&*snapshots.disk, &staging)?;
    log::adopt_files(&*snapshots.disk, &staging, &snapshots.dir, &names)?;
    stable.end_adoption(&adoption)?;
    snapshots.clear_staging()
}
