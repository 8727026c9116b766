//! What a log holds in memory: its segments, its last entries, and how far it is published.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::format::files::SegmentName;
use super::format::frame::Entry;
use super::open::recovery::{Checkpoint, Recovered};
use super::segment::Segment;
use super::segment::store::Store;
use super::{AllEnds, Ends, Index, LogId, Position, Term};

#[derive(Debug)]
pub struct LogState {
    /// Where the log begins while it holds no entry.
    pub floor: Index,
    /// The raft index behind the last rewritten segment; 0 without one.
    pub rewritten_to: Index,
    pub segments: VecDeque<Segment>,
    /// The last entries, without a gap, up to the last one.
    pub tail: VecDeque<Held>,
    pub tail_bytes: usize,
    pub last_term: Term,
    /// From where on the last segment counts, as far as the log says: the entry behind the last one that ended a
    /// segment, 0 before any.
    pub rolled: Index,
    /// The latest time of the entries, as far as they were read, in milliseconds since 1970.
    pub last_timestamp_ms: u64,
    /// The position of the first record held.
    pub first_position: Position,
    pub next_position: Position,
    pub logs: BTreeMap<LogId, LogPart>,
    /// The logs that compaction may have left gaps in.
    pub compacted: BTreeSet<LogId>,
    /// How often logs went.
    pub forgotten: u64,
    /// How often records were given up: by a trim, or with their log.
    pub given_up: u64,
    /// The bytes of all payloads that were appended since the log was opened, or taken over from another node.
    pub appended_bytes: u64,
    /// The first raft index that is not published yet.
    pub next_publish: Index,
    /// The log that kept a segment from going when that was looked at last.
    pub keeper: AtomicU32,
    /// Where the log of a leader began, as an entry said that was applied. What stands before is trimmed, or later records
    /// stand for it.
    pub given_up_before: Index,
    /// For each pin, the raft index from which on entries must stay.
    pub pins: Vec<Index>,
}

/// An entry in memory.
#[derive(Debug)]
pub struct Held {
    pub entry: Entry,
    /// Where its payload begins in its store.
    pub payload_at: u32,
}

/// What is known of one log.
#[derive(Debug)]
pub struct LogPart {
    pub ends: Ends,
    /// The first raft index of the segment that was read last: most reads go on from where one ended.
    looked: AtomicU64,
}

impl LogPart {
    pub fn new(ends: Ends) -> Self {
        Self {
            ends,
            looked: AtomicU64::new(u64::MAX),
        }
    }

    /// The segment that was read last, if one was.
    pub fn looked(&self) -> Index {
        Index(self.looked.load(Ordering::Relaxed))
    }

    /// Takes note of the segment that is read.
    pub fn look(&self, base: Index) {
        self.looked.store(base.0, Ordering::Relaxed);
    }
}

impl Default for LogPart {
    fn default() -> Self {
        Self::new(Ends::default())
    }
}

/// The parts of logs with these ends; the default one is always there.
pub fn parts(ends: &AllEnds) -> BTreeMap<LogId, LogPart> {
    let parts = ends.iter().map(|(log, ends)| (*log, LogPart::new(*ends)));
    let mut parts: BTreeMap<_, _> = parts.collect();
    let default = parts.entry(LogId::DEFAULT);
    default.or_insert_with(|| LogPart::new(Ends::default()));
    parts
}

/// The raft index behind the last rewritten segment; 0 without one.
fn rewritten_to(segments: &VecDeque<Segment>) -> Index {
    let last = segments.iter().rev().find(|segment| segment.is_rewritten());
    last.map_or(Index(0), Segment::next_index)
}

impl LogState {
    pub fn new(found: Recovered, checkpoint: Option<&Checkpoint>) -> Self {
        let floor = found.floor;
        let covered = checkpoint.filter(|_| found.rows_hold);
        let nothing = AllEnds::new();
        let logs = parts(covered.map_or(&nothing, |covered| &covered.logs));
        Self {
            floor: floor.index,
            rewritten_to: rewritten_to(&found.segments),
            segments: found.segments,
            tail: VecDeque::new(),
            tail_bytes: 0,
            last_term: found.last_term,
            rolled: found.rolled,
            last_timestamp_ms: found.last_timestamp_ms,
            first_position: floor.position,
            next_position: found.next_position,
            logs,
            compacted: BTreeSet::new(),
            forgotten: 0,
            given_up: 0,
            appended_bytes: 0,
            next_publish: covered.map_or(floor.index, |covered| Index(covered.applied.0 + 1)),
            keeper: AtomicU32::new(u32::MAX),
            given_up_before: Index(0),
            pins: Vec::new(),
        }
    }

    /// The raft index that the next entry gets.
    pub fn next_index(&self) -> Index {
        self.segments.back().map_or(self.floor, Segment::next_index)
    }

    /// Whether compaction may have removed records in the midst of a log. Of any other, the records that are held follow
    /// each other.
    pub fn may_have_gaps(&self, log: LogId) -> bool {
        self.compacted.contains(&log)
    }

    pub fn first_base(&self) -> Index {
        self.segments.front().map_or(self.floor, Segment::base)
    }

    /// The first raft index whose entry is held, or will be: rewritten segments hold none.
    pub fn first_entry(&self) -> Index {
        self.first_base().max(self.rewritten_to)
    }

    /// The segment whose range holds `index`.
    pub fn segment_number(&self, index: Index) -> Option<usize> {
        let after = self
            .segments
            .partition_point(|segment| segment.base() <= index);
        after.checked_sub(1)
    }

    pub fn segment_of(&mut self, index: Index) -> Option<&mut Segment> {
        let number = self.segment_number(index)?;
        self.segments.get_mut(number)
    }

    /// What [`Self::rolled`] was when the log ended before `index`.
    pub fn rolled_at(&self, index: Index) -> Index {
        let behind = self.segments.iter().rev();
        let behind = behind.take_while(|segment| segment.next_index() > index);
        let taken_back = behind.filter_map(|segment| segment.roll).last();
        taken_back.unwrap_or(self.rolled)
    }

    /// The entry, if it is among the last ones held in memory.
    pub fn cached(&self, index: Index) -> Option<usize> {
        let first = self.tail.front()?.entry.index;
        let number = usize::try_from(index.0.checked_sub(first.0)?).ok()?;
        (number < self.tail.len()).then_some(number)
    }

    pub fn forget_tail(&mut self, from: Index) {
        while let Some(held) = self.tail.pop_back_if(|held| held.entry.index >= from) {
            self.tail_bytes -= held.entry.payload.len();
        }
    }

    /// Drops the oldest entries from memory, never one that is not on disk yet.
    pub fn evict(&mut self, bytes_max: usize, durable: Index) {
        while self.tail_bytes > bytes_max {
            match self.tail.pop_front_if(|held| held.entry.index < durable) {
                Some(held) => self.tail_bytes -= held.entry.payload.len(),
                None => return,
            }
        }
    }

    /// Puts a rewritten segment in the place of those from number `first` on that it stands for.
    pub fn swap(&mut self, first: usize, rewritten: Segment) {
        let next = rewritten.next_index();
        let behind = self.segments.partition_point(|held| held.base() < next);
        let mut rest = self.segments.split_off(behind);
        self.segments.truncate(first);
        self.segments.push_back(rewritten);
        self.segments.append(&mut rest);
        self.rewritten_to = self.rewritten_to.max(next);
        self.forget_tail_before(next);
    }

    pub fn forget_tail_before(&mut self, index: Index) {
        while let Some(held) = self.tail.pop_front_if(|held| held.entry.index < index) {
            self.tail_bytes -= held.entry.payload.len();
        }
    }

    /// The segment that a log was read in last.
    pub fn looked(&self, log: LogId) -> Option<SegmentName> {
        let number = self.segment_number(self.logs.get(&log)?.looked())?;
        Some(self.segments[number].name())
    }

    /// The segment that a store belongs to.
    pub fn segment_with(&mut self, store: &Arc<Store>) -> Option<&mut Segment> {
        let mut segments = self.segments.iter_mut();
        segments.find(|segment| Arc::ptr_eq(&segment.store, store))
    }

    /// Where a log begins and ends; `None` if it is not there.
    pub fn ends(&self, log: LogId) -> Option<Ends> {
        self.logs.get(&log).map(|part| part.ends)
    }
}
