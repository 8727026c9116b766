//! Which records are superseded: for a later one of their key stands behind them in their log.
//!
//! All keys of a log do not fit into memory. So the keys are shared out by their digests, and each share is looked for in
//! a walk of its own over all records; how many shares there are follows from how many keys were met. A digest stands
//! for a key: 128 bits of SHA-256, which nobody can make collide.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;

use super::digest::{Digest, digest_of};
use super::marked::{BatchSize, InSegment, Segment, Size};
use crate::batch;
use crate::log::format::files::SegmentName;
use crate::log::format::record;
use crate::log::format::row::Row;
use crate::log::{Error, Index, Log, LogId, Offset, Position};

/// Bytes of batches that one step reads, about.
const STEP_BYTES: usize = 1 << 20;
/// Keys that are held at a time: 32 MB of them, and half as much beside while there is more room made.
const KEYS_MAX: usize = if cfg!(test) { 5 } else { 400_000 };
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
    /// Of so many shares of the keys this one is looked for.
    shares: u64,
    share: u64,
    keys: HashMap<Digest, Last>,
    /// How many keys there are in the shares that were looked for.
    keys_seen: u64,
    /// The last record of each log, which stays: what a log has behind it would have no end.
    lasts: BTreeMap<LogId, Position>,
    at: At,
    left: Left,
    /// How many records are superseded, so far.
    marked: usize,
    is_cut: bool,
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

/// The last record of a key, as far as the walk is. There are many of them, so they are small.
#[derive(Debug, Clone, Copy)]
struct Last {
    /// Where it stands: a segment's number, and how far its position is behind the first there.
    segment: u32,
    behind: u32,
    size: Size,
    log: LogId,
    /// Whether no other record of the key is stored before it.
    is_first: bool,
    /// When it was taken, if it is a tombstone; at least 1.
    tombstone_ms: Option<NonZeroU64>,
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
            keys: HashMap::new(),
            keys_seen: 0,
            lasts: BTreeMap::new(),
            at: At::default(),
            left: Left::default(),
            marked: 0,
            looked_at: 0,
            is_cut: false,
        })
    }
}

/// Into how many shares so many keys go: an eighth more than there are fit, since shares are unlike and keys come.
fn shares_of(keys: u64) -> u64 {
    (keys + keys / 8).div_ceil(KEYS_MAX as u64).max(1)
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
                return Ok(self.end_share().then_some(bytes));
            };
            let Some(log) = segment.logs.get(self.at.log).copied() else {
                self.at = At {
                    segment: self.at.segment + 1,
                    ..At::default()
                };
                continue;
            };
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
                if row.offset.0 + u64::from(count) > first.0 {
                    bytes += self.take(log, &row, count, first)?;
                }
                // The first segments alone: what is found in them is to be worth rewriting them.
                if self.marked == GONE_MAX && self.segments.len() > 1 {
                    self.segments.truncate(self.segments.len() / 2);
                    self.is_cut = true;
                    self.begin_shares(self.shares);
                    return Ok(Some(bytes));
                }
                if self.keys.len() > KEYS_MAX {
                    self.begin_shares(self.shares * 2);
                    return Ok(Some(bytes));
                }
            }
        }
        Ok(Some(bytes))
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
        (walked * 100 / (self.shares * segments)) as u32
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

    /// How many keys it met.
    pub fn keys(&self) -> u64 {
        self.keys_seen
    }

    /// Whether it looked at the first segments alone, since it would have found more than it may.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The bytes of the batches of compacted logs that it looked at.
    pub fn looked_at(&self) -> u64 {
        self.looked_at
    }

    fn mark(&mut self, last: &Last) {
        if self.marked == GONE_MAX {
            return;
        }
        self.segments[last.segment as usize].mark(last.behind, last.log, last.size);
        self.marked += 1;
    }

    /// What was found, segment by segment.
    pub fn found(&self) -> BTreeMap<SegmentName, InSegment> {
        let of = |segment: &Segment| (segment.seal.name(), segment.found());
        self.segments.iter().map(of).collect()
    }

    /// Begins anew, with so many shares.
    fn begin_shares(&mut self, shares: u64) {
        self.segments.iter_mut().for_each(Segment::clear);
        self.keys = HashMap::new();
        (self.shares, self.share, self.at) = (shares, 0, At::default());
        self.keys_seen = 0;
        (self.left, self.marked, self.looked_at) = (Left::default(), 0, 0);
    }

    /// Ends the walk over one share of the keys; false if it was the last.
    fn end_share(&mut self) -> bool {
        self.keys_seen += self.keys.len() as u64;
        for last in std::mem::take(&mut self.keys).into_values() {
            let Some(time_ms) = last.tombstone_ms else {
                continue;
            };
            let time_ms = time_ms.get();
            let position = self.segments[last.segment as usize].position(last.behind);
            let is_last = self.lasts.get(&last.log) == Some(&position);
            let is_old = time_ms < self.bounds(last.log).tombstones_before_ms;
            if is_old && last.is_first && !is_last {
                self.mark(&last);
            } else if !is_last {
                self.left.is_held_back |= is_old;
                let known = self.left.tombstones.entry(last.log).or_insert(u64::MAX);
                *known = if is_old { *known } else { time_ms.min(*known) };
            }
        }
        (self.share, self.at) = (self.share + 1, At::default());
        self.share < self.shares
    }

    /// Takes the records of a batch from an offset on; gives how many bytes were read.
    fn take(&mut self, log: LogId, row: &Row, count: u32, first: Offset) -> Result<usize, Error> {
        let segment = &self.segments[self.at.segment];
        let read = segment.store.batch(row.place);
        let bytes = read.map_err(|error| self.log.note_damage(&segment.store, error))?;
        let stored = record::stored(&bytes, row, count.into());
        let stored = stored.map_err(|error| self.log.note_bad_rows(segment.seal.name(), error))?;
        if self.share == 0 {
            self.looked_at += bytes.len() as u64;
        }
        let is_young = stored.timestamp_ms >= self.bounds(log).before_ms;
        // Plain records have no keys. One that is young may not be the last of its log that a search finds: the last
        // that it takes stays.
        if stored.packed.is_none() || is_young {
            return Ok(bytes.len());
        }
        let plain = stored.plain()?;
        let head = bytes.len() - stored.bytes.len();
        let size = BatchSize {
            stored: bytes.len(),
            plain: head + plain.len(),
            records: count,
        };
        if self.share == 0 {
            self.segments[self.at.segment].take(size);
        }
        let mut number = 0;
        let keys = batch::keys(&plain, |key, is_tombstone, bytes| {
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
            let tombstone_ms = is_tombstone.then_some(stored.timestamp_ms);
            let last = Last {
                segment: self.at.segment as u32,
                behind,
                size: size.of_one(bytes + head / count.max(1) as usize),
                log,
                is_first: true,
                tombstone_ms: tombstone_ms.and_then(|time_ms| NonZeroU64::new(time_ms.max(1))),
            };
            match self.keys.entry(digest) {
                Entry::Vacant(vacant) => drop(vacant.insert(last)),
                Entry::Occupied(mut known) => {
                    let is_first = false;
                    let gone = known.insert(Last { is_first, ..last });
                    self.mark(&gone);
                }
            }
        });
        keys.map_err(Error::Unreadable)?;
        Ok(bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_shared_out_with_room_to_spare() {
        let max = KEYS_MAX as u64;
        let shares = [0, 1, max - 1, 8 * max].map(shares_of);
        assert_eq!(shares, [1, 1, 1, 9]);
    }
}
