//! What a log holds in memory: its segments, its last entries, and how far it is published.

use std::collections::VecDeque;
use std::sync::Arc;

use super::format::frame::Entry;
use super::open::recovery::{Checkpoint, Recovered};
use super::segment::Segment;
use super::segment::store::Store;
use super::{Index, Offset, Term};

#[derive(Debug)]
pub struct LogState {
    /// Where the log begins while it holds no entry.
    pub floor: Index,
    pub segments: VecDeque<Segment>,
    /// The last entries, without a gap, up to the last one.
    pub tail: VecDeque<Entry>,
    pub tail_bytes: usize,
    pub last_term: Term,
    /// The latest time of the entries, as far as they were read, in milliseconds since 1970.
    pub last_timestamp_ms: u64,
    /// The first offset that may be read.
    pub first_offset: Offset,
    pub next_offset: Offset,
    /// The first raft index that is not published yet.
    pub next_publish: Index,
    /// For each pin, the raft index from which on entries must stay.
    pub pins: Vec<Index>,
}

impl LogState {
    pub fn new(found: Recovered, checkpoint: Option<Checkpoint>) -> Self {
        let floor = found.floor;
        let covered = checkpoint.filter(|_| found.rows_hold);
        let first_offset = covered.map_or(Offset(0), |covered| covered.first_offset);
        Self {
            floor: floor.index,
            segments: found.segments,
            tail: VecDeque::new(),
            tail_bytes: 0,
            last_term: found.last_term,
            last_timestamp_ms: found.last_timestamp_ms,
            first_offset: first_offset.max(floor.offset),
            next_offset: found.next_offset,
            next_publish: covered.map_or(floor.index, |covered| Index(covered.applied.0 + 1)),
            pins: Vec::new(),
        }
    }

    /// The raft index that the next entry gets.
    pub fn next_index(&self) -> Index {
        self.segments.back().map_or(self.floor, Segment::next_index)
    }

    pub fn first_index(&self) -> Index {
        self.segments.front().map_or(self.floor, Segment::base)
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

    /// The entry, if it is among the last ones held in memory.
    pub fn cached(&self, index: Index) -> Option<usize> {
        let first = self.tail.front()?.index;
        let number = usize::try_from(index.0.checked_sub(first.0)?).ok()?;
        (number < self.tail.len()).then_some(number)
    }

    pub fn forget_tail(&mut self, from: Index) {
        while let Some(entry) = self.tail.pop_back_if(|entry| entry.index >= from) {
            self.tail_bytes -= entry.payload.len();
        }
    }

    /// Drops the oldest entries from memory, never one that is not on disk yet.
    pub fn evict(&mut self, bytes_max: usize, durable: Index) {
        while self.tail_bytes > bytes_max {
            match self.tail.pop_front_if(|entry| entry.index < durable) {
                Some(entry) => self.tail_bytes -= entry.payload.len(),
                None => return,
            }
        }
    }

    /// The segment that a store belongs to.
    pub fn segment_with(&mut self, store: &Arc<Store>) -> Option<&mut Segment> {
        let mut segments = self.segments.iter_mut();
        segments.find(|segment| Arc::ptr_eq(&segment.store, store))
    }

    /// The segment that would hold `offset`: the last that begins at or before it.
    pub fn holder_of(&self, offset: Offset) -> Option<usize> {
        // An open segment without records, of control entries or of retries, begins where the next
        // one with records does: else the segments would not be in order.
        let begins_by = |number: usize| {
            let mut from_here = self.segments.range(number..);
            let first = from_here.find_map(Segment::first_offset);
            first.is_some_and(|first| first <= offset)
        };
        let (mut low, mut high) = (0, self.segments.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if begins_by(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1)
    }
}
