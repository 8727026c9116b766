//! The superseded records of a segment, and what the rest of it will take.

use std::collections::BTreeSet;
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::gone::{GONE_BYTES_MAX, Gone, GoneWriter};
use crate::log::format::seal::Seal;
use crate::log::segment::store::Store;
use crate::log::{LogId, Position};

/// The most that a batch takes beside its records, and what tells its place, twice: the rest of a batch whose first part
/// goes has a head of its own, and one that is cut in the middle has two.
const CUT_BYTES: u64 = 64;

/// What was found of a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InSegment {
    /// The records that are superseded, and how many bytes they take as they are stored.
    pub gone: Gone,
    pub records: u64,
    pub bytes: u64,
    /// How many bytes at most the others of their batches take more than now: what is left of a batch is not compressed.
    pub more_bytes: u64,
    /// Of which logs they are.
    pub logs: BTreeSet<LogId>,
}

/// A segment that is searched.
#[derive(Debug)]
pub struct Segment {
    pub seal: Arc<Seal>,
    pub store: Arc<Store>,
    /// The compacted logs that it holds.
    pub logs: Vec<LogId>,
    /// The superseded records, by how far their positions are behind the segment's first.
    gone: RoaringBitmap,
    /// Of which logs they are.
    of: BTreeSet<LogId>,
    taken: Taken,
    /// The same of what goes.
    going: Taken,
}

/// What records take. All but `bytes` leaves out those that have a batch for themselves: such a batch is not cut.
#[derive(Debug, Default, Clone, Copy)]
struct Taken {
    /// As they are stored.
    bytes: u64,
    /// How much more without compression: they alone, and their whole batches.
    more: u64,
    more_of_batches: u64,
    records: u64,
}

/// What a record takes.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Its share of the batch as it is stored.
    bytes: u32,
    /// How much more it takes without compression, and how much more its whole batch.
    more: u32,
    more_of_batch: u32,
    is_alone: bool,
}

/// What a batch takes.
#[derive(Debug, Clone, Copy)]
pub struct BatchSize {
    /// As it is stored, and that without compression.
    pub stored: usize,
    pub plain: usize,
    pub records: u32,
}

impl BatchSize {
    fn more(&self) -> usize {
        self.plain.saturating_sub(self.stored)
    }

    /// Of one of its records, which takes so many bytes without compression.
    pub fn of_one(&self, bytes: usize) -> Size {
        let share = (bytes as u64 * self.stored as u64) / (self.plain as u64).max(1);
        let to_u32 = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let share = share.min(bytes as u64) as usize;
        Size {
            bytes: to_u32(share),
            more: to_u32(bytes - share),
            more_of_batch: to_u32(self.more()),
            is_alone: self.records == 1,
        }
    }
}

impl Segment {
    pub fn new(seal: Arc<Seal>, store: Arc<Store>, logs: Vec<LogId>) -> Self {
        Self {
            seal,
            store,
            logs,
            gone: RoaringBitmap::new(),
            of: BTreeSet::new(),
            taken: Taken::default(),
            going: Taken::default(),
        }
    }

    /// Forgets what was found.
    pub fn clear(&mut self) {
        self.gone.clear();
        self.of.clear();
        (self.taken, self.going) = (Taken::default(), Taken::default());
    }

    /// Takes note of a batch of compacted logs.
    pub fn take(&mut self, batch: BatchSize) {
        if batch.records > 1 {
            self.taken.more += batch.more() as u64;
            self.taken.records += u64::from(batch.records);
        }
    }

    /// How far a position is behind the segment's first; `None` if that is no number that marks have: no such segment is
    /// rewritten.
    pub fn behind(&self, position: Position) -> Option<u32> {
        let behind = position.0.checked_sub(self.seal.first_position.0)?;
        u32::try_from(behind).ok()
    }

    pub fn position(&self, behind: u32) -> Position {
        Position(self.seal.first_position.0 + u64::from(behind))
    }

    /// Marks a record that goes.
    pub fn mark(&mut self, behind: u32, log: LogId, size: Size) {
        self.gone.insert(behind);
        self.of.insert(log);
        self.going.bytes += u64::from(size.bytes);
        if !size.is_alone {
            self.going.more += u64::from(size.more);
            self.going.more_of_batches += u64::from(size.more_of_batch);
            self.going.records += 1;
        }
    }

    /// What was found.
    pub fn found(&self) -> InSegment {
        let mut gone = GoneWriter::default();
        let mut said = 0;
        for behind in &self.gone {
            // What is too scattered to be said at once is said the next time.
            if gone.bytes() > GONE_BYTES_MAX / 2 {
                break;
            }
            said += 1;
            gone.push(self.position(behind));
        }
        let all = self.gone.len();
        InSegment {
            gone: gone.finish(),
            records: said,
            bytes: self.going.bytes * said / all.max(1),
            more_bytes: if said == 0 { 0 } else { self.more(said == all) },
            logs: self.of.clone(),
        }
    }

    /// How many bytes at most the rests take more than now. Which batches are cut is not known, so it is at most what all
    /// take, and what those take that the marks are in, as if each were in another one.
    fn more(&self, is_all: bool) -> u64 {
        let (taken, going) = (&self.taken, &self.going);
        let staying = taken.records.saturating_sub(going.records);
        let heads = going.records.min(if is_all { staying } else { u64::MAX }) * CUT_BYTES;
        let more = match is_all {
            true => (taken.more.saturating_sub(going.more)).min(going.more_of_batches),
            false => taken.more.min(going.more_of_batches),
        };
        more + heads
    }
}
