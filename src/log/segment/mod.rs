//! A segment: one store, its index, and where in the store each entry begins.
//!
//! While a segment is open, the place of each frame is known. Once every entry in it is applied and
//! covered by a checkpoint it is sealed: its seal keeps a mark now and then, and never changes.

pub mod batches;
pub mod directory;
pub mod handles;
pub mod index;
pub mod index_file;
pub mod lazy_map;
mod locate;
pub mod search;
pub mod segment_file;
pub mod store;

#[cfg(test)]
mod handles_tests;

use std::path::Path;
use std::sync::Arc;

use crate::env::Instant;

use super::format::file_header::FILE_HEADER_BYTES;
use super::format::files::SegmentName;
use super::format::frame::{self, Entry, ROLL_FRAME_BYTES};
use super::format::log_set::LogSet;
use super::format::room::{POSITIONS_MAX, Room};
use super::format::row::Row;
use super::format::seal::{self, Seal, Sum, TermEnd};
use super::{Config, Error, Index, LogId, Position, Term};
use handles::Handles;
use index::RowIndex;
use store::Store;

/// The log is to end a segment of which no more is left than this part. What comes until it has done so takes from the
/// rest, and a segment that is full before ends by itself.
const LEFT_SHARE: u64 = 8;

/// A run of consecutive raft entries and the records in them.
#[derive(Debug)]
pub struct Segment {
    pub store: Arc<Store>,
    pub index: RowIndex,
    frames: Frames,
    /// Where the next frame will begin.
    end: u32,
    /// What the entries held can need at most.
    reserved: Room,
    /// What its last entry names, if that ends it.
    pub roll: Option<Index>,
    /// Since when this process has it.
    pub opened: Instant,
    /// Whether a start found the segment or another node sent it. It is then older than `opened` says.
    pub found: bool,
    /// The log's time when it was sealed, or while it is open that of its first records, in
    /// milliseconds since 1970; 0 before any.
    pub since_ms: u64,
    /// Why it may not be read: it waits for repair.
    pub damage: Option<Damage>,
    /// It is being sealed, and takes no entry more, even if it becomes the last one again.
    pub closing: bool,
}

/// What is wrong with a sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// The store: entries are needed from another replica.
    Store,
    /// The index alone: it can be derived anew.
    Index,
}

#[derive(Debug)]
enum Frames {
    Open(Vec<Frame>, Vec<TermEnd>),
    Sealed(Arc<Seal>),
}

/// One frame of an open segment.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    pub position: u32,
    pub crc: u32,
    /// The positions that its records take at most.
    pub positions: u32,
}

impl Segment {
    /// A segment whose entries are yet to be told by `add`.
    pub fn open(store: Store, index: RowIndex, found: bool) -> Self {
        Self {
            store: Arc::new(store),
            index,
            frames: Frames::Open(Vec::new(), Vec::new()),
            end: FILE_HEADER_BYTES as u32,
            reserved: Room::default(),
            roll: None,
            opened: Instant::now(),
            found,
            since_ms: 0,
            damage: None,
            closing: false,
        }
    }

    /// A segment that is summed up by its seal.
    pub fn sealed(store: Store, index: RowIndex, seal: Arc<Seal>, damage: Option<Damage>) -> Self {
        Self {
            store: Arc::new(store),
            index,
            end: seal.end,
            reserved: Room {
                rows: seal.rows.into(),
                positions: seal.next_position.0 - seal.first_position.0,
            },
            roll: None,
            opened: Instant::now(),
            found: true,
            since_ms: seal.sealed_ms,
            frames: Frames::Sealed(seal),
            damage,
            closing: true,
        }
    }

    /// The raft index of the first entry.
    pub fn base(&self) -> Index {
        self.store.base()
    }

    /// The raft index after the last entry.
    pub fn next_index(&self) -> Index {
        match &self.frames {
            Frames::Open(frames, _) => Index(self.base().0 + frames.len() as u64),
            Frames::Sealed(seal) => seal.next_index(),
        }
    }

    /// What its files are called after. What was found in a segment says nothing of one of another name.
    pub fn name(&self) -> SegmentName {
        match self.seal() {
            Some(seal) => seal.name(),
            None => self.base().into(),
        }
    }

    /// Whether it was rewritten: its store holds no entries of the raft log.
    pub fn is_rewritten(&self) -> bool {
        self.name().rewritten.is_some()
    }

    /// Where the next frame will begin.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Its seal, if it has one.
    pub fn seal(&self) -> Option<&Arc<Seal>> {
        match &self.frames {
            Frames::Open(..) => None,
            Frames::Sealed(seal) => Some(seal),
        }
    }

    /// The bytes that it takes on disk, about.
    pub fn bytes(&self) -> u64 {
        u64::from(self.end) + self.index.file_bytes()
    }

    /// The position of the first record in it; `None` if it is open and has none yet.
    pub fn first_position(&self) -> Option<Position> {
        match &self.frames {
            Frames::Sealed(seal) => Some(seal.first_position),
            Frames::Open(..) => self.index.base_position(),
        }
    }

    /// Whether it may hold records of a log.
    pub fn has_log(&self, log: LogId) -> bool {
        match &self.frames {
            Frames::Sealed(seal) => seal.logs.contains(log),
            Frames::Open(..) => self.index.has(log),
        }
    }

    /// Whether it takes entries: it is open, and nothing ended it.
    pub fn takes_more(&self) -> bool {
        matches!(self.frames, Frames::Open(..)) && !self.closing && self.roll.is_none()
    }

    /// Whether the log says that it ends where it does.
    pub fn is_rolled(&self) -> bool {
        self.roll.is_some() || self.seal().is_some_and(|seal| seal.rolled)
    }

    /// Whether another entry fits; an empty segment takes any, one that was ended none. `ends` is the entry that ends
    /// it: room is kept for that.
    pub fn fits(&self, entry: &Entry, ends: bool, config: &Config) -> bool {
        if ends || self.next_index() == self.base() {
            return self.takes_more();
        }
        let bytes = u64::from(self.end) + frame::frame_bytes(entry.payload.len()) as u64;
        let bytes = bytes + u64::from(ROLL_FRAME_BYTES);
        let needs = self.reserved.and(Room::of(entry.kind, &entry.payload));
        // Use the file's own length, and not the configured one: a crash may have left an index cut to its
        // rows.
        let rows_max = self.index.capacity() as u64;
        let has_room = bytes <= config.segment_bytes_max.into()
            && needs.rows <= rows_max
            && needs.positions <= POSITIONS_MAX;
        self.takes_more() && has_room
    }

    /// Whether the log should end it, so that all nodes do at the same entry: little is left of what it takes.
    pub fn is_full(&self, config: &Config) -> bool {
        let most = |all: u64| all - all / LEFT_SHARE;
        self.takes_more()
            && (u64::from(self.end) > most(config.segment_bytes_max.into())
                || self.reserved.rows > most(self.index.capacity() as u64)
                || self.reserved.positions > most(POSITIONS_MAX))
    }

    /// The bytes of a file of so many that entries may take yet; 0 if it takes no entry more.
    pub fn left(&self, bytes_max: u32) -> u64 {
        let left = bytes_max.saturating_sub(self.end.saturating_add(ROLL_FRAME_BYTES));
        if self.takes_more() { left.into() } else { 0 }
    }

    /// How long its store is while it is open: the first frame may be larger than a segment, and behind it is room for
    /// the one that ends it.
    pub fn room(&self, config: &Config) -> u32 {
        let filled = self.end.saturating_add(ROLL_FRAME_BYTES);
        config.segment_bytes_max.max(filled)
    }

    /// Makes room for an entry's rows: an entry may need more than an empty index has.
    pub fn reserve(&mut self, needs: Room) -> Result<(), Error> {
        self.index.reserve(self.reserved.and(needs).rows)
    }

    /// Takes note of the next entry; gives the place of its frame.
    pub fn add(&mut self, term: Term, payload_bytes: usize, needs: Room, crc: u32) -> u32 {
        let position = self.end;
        // A start takes every Roll for the end of the segment until a later entry shows that it ended nothing.
        self.roll = None;
        match &mut self.frames {
            Frames::Open(frames, terms) => {
                let entry = u32::try_from(frames.len()).expect("frames are more than a byte long");
                seal::extend_terms(terms, entry, term);
                frames.push(Frame {
                    position,
                    crc,
                    positions: u32::try_from(needs.positions).unwrap_or(u32::MAX),
                });
            }
            Frames::Sealed(_) => unreachable!("a sealed segment takes no entry"),
        }
        self.end += u32::try_from(frame::frame_bytes(payload_bytes)).expect("entries are limited");
        self.reserved = self.reserved.and(needs);
        position
    }

    /// The positions that its entries from `from` on take at most, while it is open.
    pub fn positions_from(&self, from: Index) -> u64 {
        let Frames::Open(frames, _) = &self.frames else {
            return 0;
        };
        let number = usize::try_from(from.0.saturating_sub(self.base().0)).unwrap_or(usize::MAX);
        let frames = frames.get(number..).unwrap_or_default();
        frames.iter().map(|frame| u64::from(frame.positions)).sum()
    }

    /// The terms of its entries: the last entry of each.
    pub fn term_ends(&self) -> &[TermEnd] {
        match &self.frames {
            Frames::Open(_, terms) => terms,
            Frames::Sealed(seal) => &seal.term_ends,
        }
    }

    /// Forgets the entries from `index` on; gives the place where the file now ends.
    pub fn forget_from(&mut self, index: Index) -> u32 {
        let keep = usize::try_from(index.0.saturating_sub(self.base().0)).unwrap_or(usize::MAX);
        match &mut self.frames {
            Frames::Open(frames, terms) => {
                if let Some(first) = frames.get(keep) {
                    self.end = first.position;
                    frames.truncate(keep);
                    self.roll = None;
                    cut_terms(terms, keep);
                    if keep == 0 {
                        self.since_ms = 0;
                    }
                }
            }
            Frames::Sealed(_) => assert!(index >= self.next_index(), "I5: sealed is committed"),
        }
        self.end
    }

    /// Writes the row of a run of records.
    pub fn publish(&mut self, row: Row) -> Result<(), Error> {
        self.index.push(row)
    }

    /// Walks on over the entries before `to` and their rows, over at most so many of each; true once it is through.
    pub fn sum_some(&self, sum: &mut Sum, to: Index, most: usize) -> Result<bool, Error> {
        let Frames::Open(frames, _) = &self.frames else {
            unreachable!("a sealed segment is summed up already");
        };
        let count = usize::try_from(to.0 - self.base().0).expect("they are in memory");
        for frame in frames[sum.entries..count].iter().take(most) {
            sum.add_entry(frame.position, frame.crc);
        }
        let rows = self.index.partition(|row| row.index < to)?;
        for number in (sum.rows..rows).take(most) {
            sum.add_row(&self.index.row(number)?);
        }
        Ok((sum.entries, sum.rows) == (count, rows))
    }

    /// Sums up what was walked, but for the directory of the rows: all there is, or the part that a snapshot covers.
    /// `next_position` is the one after the last record in it, and none of them is later than `sealed_ms`.
    pub fn sum_up(&self, sum: Sum, next_position: Position, sealed_ms: u64) -> Seal {
        let Frames::Open(frames, terms) = &self.frames else {
            unreachable!("a sealed segment is summed up already");
        };
        let (count, rows) = (sum.entries, sum.rows);
        let first_position = self.index.base_position().filter(|_| rows > 0);
        let mut term_ends = terms.clone();
        cut_terms(&mut term_ends, count);
        Seal {
            base: self.base(),
            rewritten: None,
            rolled: self.roll.is_some() && count == frames.len(),
            entries: u32::try_from(count).expect("frames are more than a byte long"),
            end: frames.get(count).map_or(self.end, |frame| frame.position),
            rows: u32::try_from(rows).expect("rows are fewer than records"),
            entries_digest: sum.entries_digest,
            rows_digest: sum.rows_digest,
            term_ends,
            first_position: first_position.unwrap_or(next_position),
            next_position,
            sealed_ms,
            marks: sum.marks,
            logs: LogSet::default(),
            listed: 0,
        }
    }

    /// Takes note of damage; a damaged store is the worse. Gives the error of it.
    pub fn mark(&mut self, damage: Damage) -> Error {
        if self.damage != Some(Damage::Store) {
            self.damage = Some(damage);
        }
        self.damaged()
    }

    /// The error of a segment that waits for repair.
    pub fn damaged(&self) -> Error {
        Error::Damaged {
            path: self.store.path().to_owned(),
            first: self.base(),
            next: self.next_index(),
        }
    }

    /// Lets go of the frames' places, to which the seal's marks lead from now on, and of the open
    /// files.
    pub fn become_sealed(&mut self, seal: Seal, seal_path: &Path, handles: &Arc<Handles>) {
        let seal = Arc::new(seal);
        self.since_ms = seal.sealed_ms;
        self.store.let_go(handles);
        self.index.let_go(seal_path, &seal, handles);
        self.frames = Frames::Sealed(seal);
    }

    /// Takes note of the time of its next records.
    pub fn saw(&mut self, timestamp_ms: u64) {
        if self.since_ms == 0 && self.seal().is_none() {
            self.since_ms = timestamp_ms;
        }
    }
}

/// Forgets the terms of the entries from number `keep` on.
fn cut_terms(terms: &mut Vec<TermEnd>, keep: usize) {
    let kept = terms.partition_point(|end| (end.entry as usize) < keep);
    let cut_through = terms.get(kept).map(|end| end.term);
    terms.truncate(kept);
    let begins = terms.last().map_or(0, |end| end.entry as usize + 1);
    if let (Some(term), Some(last)) = (cut_through, keep.checked_sub(1))
        && begins <= last
    {
        let entry = u32::try_from(last).expect("frames are more than a byte long");
        terms.push(TermEnd { entry, term });
    }
}
