//! The superseded records of a segment, and what the rest of it will take.

use std::collections::BTreeSet;
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::gone::{GONE_BYTES_MAX, Gone, GoneWriter};
use crate::batch::{self, BatchError};
use crate::log::format::seal::Seal;
use crate::log::segment::store::Store;
use crate::log::{LogId, Position};

/// What the head of a part of a batch takes at most, with what tells its place.
const CUT_BYTES: u64 = 64;

/// What was found of a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InSegment {
    /// The records that are superseded, and how many bytes they take as they are stored.
    pub gone: Gone,
    pub records: u64,
    /// How many runs of positions these are.
    pub runs: u64,
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
    found: InSegment,
}

/// A batch with superseded records.
#[derive(Debug)]
pub struct Batch<'a> {
    pub log: LogId,
    /// Of its first record.
    pub position: Position,
    /// How many of its first records are given up anyway.
    pub dead: u64,
    /// What it takes as it is stored, and of that its head.
    pub stored: usize,
    pub head: usize,
    /// Its records without compression.
    pub plain: &'a [u8],
}

impl Segment {
    pub fn new(seal: Arc<Seal>, store: Arc<Store>, logs: Vec<LogId>) -> Self {
        Self {
            seal,
            store,
            logs,
            gone: RoaringBitmap::new(),
            found: InSegment::default(),
        }
    }

    /// Forgets what was found.
    pub fn clear(&mut self) {
        self.gone.clear();
        self.found = InSegment::default();
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
    pub fn mark(&mut self, behind: u32) {
        self.gone.insert(behind);
    }

    /// Says what goes, once all is marked; false if that is too scattered to be said at once, and the rest is for the next
    /// time.
    pub fn end_marking(&mut self) -> bool {
        let mut said = GoneWriter::default();
        let (mut left, mut next) = (None, None);
        for behind in &self.gone {
            if said.bytes() > GONE_BYTES_MAX / 2 {
                left = Some(behind);
                break;
            }
            self.found.records += 1;
            self.found.runs += u64::from(next != Some(behind));
            next = behind.checked_add(1);
            said.push(self.position(behind));
        }
        if let Some(left) = left {
            self.gone.remove_range(left..);
        }
        self.found.gone = said.finish();
        left.is_none()
    }

    pub fn is_any_marked(&self) -> bool {
        !self.gone.is_empty()
    }

    /// Whether one of so many records from a position on goes.
    pub fn is_marked(&self, position: Position, count: u32) -> bool {
        let Some(first) = self.behind(position) else {
            return false;
        };
        let end = first.saturating_add(count);
        self.gone.range_cardinality(first..end) > 0
    }

    /// Adds up what the marked records of a batch take, and how much more its others take once it is cut: they are not
    /// compressed.
    pub fn weigh(&mut self, batch: &Batch<'_>) -> Result<(), BatchError> {
        let mut number = 0;
        let (mut going, mut staying, mut heads) = (0, 0, 0);
        // A stretch of records that stay is written whole, if its last one lives.
        let mut stretch = 0;
        let mut end_stretch = |stretch: &mut u64, next: u64| {
            if *stretch > 0 && next > batch.dead {
                staying += *stretch;
                heads += 1;
            }
            *stretch = 0;
        };
        batch::keys(batch.plain, |_, _, bytes| {
            let behind = self.behind(Position(batch.position.0 + number));
            if behind.is_some_and(|behind| self.gone.contains(behind)) {
                end_stretch(&mut stretch, number);
                going += bytes as u64;
            } else {
                stretch += bytes as u64;
            }
            number += 1;
        })?;
        end_stretch(&mut stretch, number);
        let stored = batch.stored as u64;
        let goes = match heads {
            0 => stored,
            _ => {
                let plain = (batch.head + batch.plain.len()) as u64;
                (going * stored / plain.max(1)).min(going)
            }
        };
        let stays = staying + heads * CUT_BYTES;
        self.found.bytes += goes;
        self.found.more_bytes += stays.saturating_sub(stored - goes);
        self.found.logs.insert(batch.log);
        Ok(())
    }

    /// What was found; the marks go.
    pub fn found(&mut self) -> InSegment {
        self.gone = RoaringBitmap::new();
        std::mem::take(&mut self.found)
    }
}
