//! Which records are superseded: for a later one of their key stands behind them in their log.
//!
//! All keys of a log do not fit into memory. So the keys are shared out by their digests, and each share is looked for in
//! a walk of its own over all records; how many shares there are follows from how many keys were met. A digest stands
//! for a key: 128 bits of SHA-256, which nobody can make collide. Of a key's last record its place alone is held: what the
//! superseded ones take is found in one more walk, which reads only the batches that they stand in.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::digest::digest_of;
use super::keys::{Keys, Spot, Tombstone, shares_of};
use super::marked::{Batch, InSegment, Segment};
use crate::batch;
use crate::log::format::files::SegmentName;
use crate::log::format::record::{self, Stored};
use crate::log::format::row::{ROW_BYTES, Row};
use crate::log::index_maps::Visit;
use crate::log::{Error, Index, Log, LogId, Offset, Position};

/// Bytes of batches that one step reads, about.
const STEP_BYTES: usize = 1 << 20;
/// Superseded records that one search finds at most: up to 2 bytes of memory each. The next one finds the others.
const GONE_MAX: usize = 1 << 23;

/// What is looked for.
#[derive(Debug, Clone, Default)]
pub struct Superseded {
    /// The logs that are compacted.
    pub logs: BTreeMap<LogId, Bounds>,
    /// No record of entries from here on goes, or has others go.
    pub before: Index,
    /// How many keys there are, about, so that a search need not find out that there are more than it holds; 0 if that is
    /// not known.
    pub keys: u64,
}

/// What of a log may go: times are the log's, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// No record from this time on goes, or has others go.
    pub before_ms: u64,
    /// A tombstone from before this time goes, too.
    pub tombstones_before_ms: u64,
}

/// A search that is under way, a step at a time.
#[derive(Debug)]
pub struct Search {
    log: Log,
    wanted: Superseded,
    segments: Vec<Segment>,
    /// Of so many shares of the keys this one is looked for; behind the last one superseded records are weighed.
    shares: u64,
    share: u64,
    /// The last record of each key of the share, as far as the walk is.
    keys: Keys,
    /// How many keys there are in the shares that were looked for.
    keys_seen: u64,
    /// The last record of each log, which stays: what a log has behind it would have no end.
    lasts: BTreeMap<LogId, Position>,
    at: At,
    /// The segment that the walk is in.
    visit: Option<Visit>,
    left: Left,
    /// How many records are superseded, so far.
    marked: usize,
    is_cut: bool,
    unsaid: BTreeSet<SegmentName>,
    /// The bytes of the batches that it looked at, each counted once.
    looked_at: u64,
}

/// The tombstones that stay for now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Left {
    /// For each log the time of its first one that is too young, in milliseconds since 1970; [`u64::MAX`] if none is.
    pub tombstones: BTreeMap<LogId, u64>,
    /// Whether one would go, but for records of its key that stand before it.
    pub is_held_back: bool,
}

/// Where the walk is.
#[derive(Debug, Default, Clone, Copy)]
struct At {
    segment: usize,
    /// The log's number among those that the segment holds, and the row's among the log's.
    log: usize,
    row: usize,
}

impl Log {
    /// Looks for what is superseded; `None` if no segment holds any of the logs.
    pub fn search(&self, wanted: &Superseded) -> Option<Search> {
        let state = self.0.state.read();
        let mut segments = Vec::new();
        for segment in &state.segments {
            let seal = segment.seal().filter(|_| segment.damage.is_none());
            let Some(seal) = seal.filter(|seal| seal.next_index() <= wanted.before) else {
                break;
            };
            let logs: Vec<_> = wanted.logs.keys().copied().collect();
            let logs: Vec<_> = logs
                .into_iter()
                .filter(|log| seal.logs.contains(*log))
                .collect();
            segments.push(Segment::new(seal.clone(), segment.store.clone(), logs));
        }
        drop(state);
        let any = segments.iter().any(|segment| !segment.logs.is_empty());
        any.then(|| Search {
            log: self.clone(),
            wanted: wanted.clone(),
            segments,
            shares: shares_of(wanted.keys),
            share: 0,
            keys: Keys::default(),
            keys_seen: 0,
            lasts: BTreeMap::new(),
            at: At::default(),
            visit: None,
            left: Left::default(),
            marked: 0,
            looked_at: 0,
            is_cut: false,
            unsaid: BTreeSet::new(),
        })
    }
}

impl Search {
    /// Goes on for about a mebibyte; gives how many bytes were read, `None` once all is found.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] if a segment waits for repair, [`Error::NoEntry`] if one is here no more: then it is to be begun
    /// again.
    pub fn step(&mut self) -> Result<Option<usize>, Error> {
        let mut bytes = 0;
        while bytes < STEP_BYTES {
            let Some(segment) = self.segments.get(self.at.segment) else {
                return Ok(self.end_walk().then_some(bytes));
            };
            let is_passed = self.is_weighing() && !segment.is_any_marked();
            let log = segment.logs.get(self.at.log).filter(|_| !is_passed);
            let Some(log) = log.copied() else {
                self.visit = None;
                self.at = At {
                    segment: self.at.segment + 1,
                    ..At::default()
                };
                continue;
            };
            let enter = || self.log.visit(segment.seal.base);
            self.visit.get_or_insert_with(enter);
            let rows = self.log.rows_of(&segment.seal, log, self.at.row)?;
            if rows.is_empty() {
                self.at = At {
                    log: self.at.log + 1,
                    row: 0,
                    ..self.at
                };
                continue;
            }
            let first = self
                .log
                .ends(log)
                .map_or(Offset(u64::MAX), |ends| ends.first);
            for (row, count) in rows {
                self.at.row += 1;
                bytes += match self.is_weighing() {
                    true => self.weigh(log, (&row, count), first)?,
                    false if row.offset.0 + u64::from(count) > first.0 => {
                        self.take(log, (&row, count), first)?
                    }
                    false => 0,
                };
                if self.begins_anew() {
                    return Ok(Some(bytes));
                }
            }
        }
        Ok(Some(bytes))
    }

    fn is_weighing(&self) -> bool {
        self.share == self.shares
    }

    /// Begins anew, if more was found than is held at a time.
    fn begins_anew(&mut self) -> bool {
        // The first segments alone: what is found in them is to be worth rewriting them.
        if self.marked == GONE_MAX && self.segments.len() > 1 && !self.is_weighing() {
            self.segments.truncate(self.segments.len() / 2);
            self.is_cut = true;
            self.begin_shares(self.shares);
            return true;
        }
        let are_too_many = self.keys.are_too_many();
        if are_too_many {
            self.begin_shares(self.shares * 2);
        }
        are_too_many
    }

    fn bounds(&self, log: LogId) -> Bounds {
        self.wanted.logs.get(&log).copied().unwrap_or_default()
    }

    /// The tombstones that stay for now.
    pub fn left(&self) -> &Left {
        &self.left
    }

    /// How far it is, in percent: it begins anew where it finds more keys than it holds.
    pub fn percent(&self) -> u32 {
        let segments = self.segments.len().max(1) as u64;
        let walked = self.share * segments + self.at.segment as u64;
        (walked * 100 / ((self.shares + 1) * segments)) as u32
    }

    /// The raft index before which all that it covers stands.
    pub fn before(&self) -> Index {
        self.segments
            .last()
            .map_or(Index(0), |last| last.seal.next_index())
    }

    /// How many records are superseded, of those that it found.
    pub fn records(&self) -> usize {
        self.marked
    }

    /// How many keys it met, those that are removed counted twice.
    pub fn keys(&self) -> u64 {
        self.keys_seen
    }

    /// Whether it looked at the first segments alone, since it would have found more than it may.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The segments in which it found more than can be said at once.
    pub fn unsaid(&self) -> &BTreeSet<SegmentName> {
        &self.unsaid
    }

    /// The bytes of the batches of compacted logs that it looked at.
    pub fn looked_at(&self) -> u64 {
        self.looked_at
    }

    fn mark(&mut self, spot: Spot) {
        if self.marked == GONE_MAX {
            return;
        }
        self.segments[spot.segment as usize].mark(spot.behind);
        self.marked += 1;
    }

    /// What was found, segment by segment.
    pub fn found(&mut self) -> BTreeMap<SegmentName, InSegment> {
        let of = |segment: &mut Segment| (segment.seal.name(), segment.found());
        self.segments.iter_mut().map(of).collect()
    }

    /// Begins anew, with so many shares.
    fn begin_shares(&mut self, shares: u64) {
        self.segments.iter_mut().for_each(Segment::clear);
        self.keys = Keys::default();
        (self.shares, self.share, self.at) = (shares, 0, At::default());
        self.visit = None;
        self.keys_seen = 0;
        (self.left, self.marked, self.looked_at) = (Left::default(), 0, 0);
    }

    /// Ends a walk; false if it was the last.
    fn end_walk(&mut self) -> bool {
        if self.is_weighing() {
            return false;
        }
        self.end_share();
        (self.share, self.at) = (self.share + 1, At::default());
        if self.is_weighing() {
            for segment in &mut self.segments {
                if !segment.end_marking() {
                    self.unsaid.insert(segment.seal.name());
                }
            }
        }
        true
    }

    fn end_share(&mut self) {
        self.keys_seen += self.keys.held() as u64;
        for (spot, tombstone) in std::mem::take(&mut self.keys).into_tombstones() {
            let Tombstone {
                log,
                time_ms,
                is_first,
            } = tombstone;
            let position = self.segments[spot.segment as usize].position(spot.behind);
            let is_last = self.lasts.get(&log) == Some(&position);
            let is_old = time_ms < self.bounds(log).tombstones_before_ms;
            if is_old && is_first && !is_last {
                self.mark(spot);
            } else if !is_last {
                self.left.is_held_back |= is_old;
                let known = self.left.tombstones.entry(log).or_insert(u64::MAX);
                *known = if is_old { *known } else { time_ms.min(*known) };
            }
        }
    }

    /// A batch as it is stored, with what stands there.
    fn read(&self, row: &Row, count: u32) -> Result<(Bytes, Stored), Error> {
        let segment = &self.segments[self.at.segment];
        let read = segment.store.batch(row.place);
        let bytes = read.map_err(|error| self.log.note_damage(&segment.store, error))?;
        let stored = record::stored(&bytes, row, count.into());
        let stored = stored.map_err(|error| self.log.note_bad_rows(segment.seal.name(), error))?;
        Ok((bytes, stored))
    }

    /// Takes the records of a batch from an offset on; gives how many bytes were read.
    fn take(
        &mut self,
        log: LogId,
        (row, count): (&Row, u32),
        first: Offset,
    ) -> Result<usize, Error> {
        let (bytes, stored) = self.read(row, count)?;
        if self.share == 0 {
            self.looked_at += bytes.len() as u64;
        }
        let is_young = stored.timestamp_ms >= self.bounds(log).before_ms;
        // Plain records have no keys. One that is young may not be the last of its log that a search finds: the last
        // that it takes stays.
        if stored.packed.is_none() || is_young {
            return Ok(bytes.len());
        }
        let mut number = 0;
        let keys = batch::keys(&stored.plain()?, |key, is_tombstone, _| {
            let (offset, position) = (row.offset.0 + number, Position(row.position.0 + number));
            number += 1;
            if offset < first.0 {
                return;
            }
            self.lasts.insert(log, position);
            let Some(key) = key else {
                return;
            };
            let digest = digest_of(log, key);
            if digest[0] % self.shares != self.share {
                return;
            }
            let Some(behind) = self.segments[self.at.segment].behind(position) else {
                return;
            };
            let segment = self.at.segment as u32;
            let time_ms = is_tombstone.then_some(stored.timestamp_ms);
            let spot = Spot { segment, behind };
            if let Some(before) = self.keys.take(digest, spot, (log, time_ms)) {
                self.mark(before);
            }
        });
        keys.map_err(Error::Unreadable)?;
        Ok(bytes.len())
    }

    /// Finds what the superseded records of a batch take; gives how many bytes were read for it.
    fn weigh(
        &mut self,
        log: LogId,
        (row, count): (&Row, u32),
        first: Offset,
    ) -> Result<usize, Error> {
        if !self.segments[self.at.segment].is_marked(row.position, count) {
            return Ok(ROW_BYTES);
        }
        let (bytes, stored) = self.read(row, count)?;
        let plain = stored.plain()?;
        let batch = Batch {
            log,
            position: row.position,
            dead: first.0.saturating_sub(row.offset.0),
            stored: bytes.len(),
            head: bytes.len() - stored.bytes.len(),
            plain: &plain,
        };
        let weighed = self.segments[self.at.segment].weigh(&batch);
        weighed.map_err(Error::Unreadable)?;
        Ok(bytes.len())
    }
}
