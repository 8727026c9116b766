//! Reading the log: entries by raft index, records by offset.
//!
//! The lock is held to find a place, never while the disk is read. Every byte is checked before it
//! is handed out.

use std::sync::Arc;

use bytes::Bytes;

use super::frame::{Entry, Kind};
use super::index::Row;
use super::record::{self, Record};
use super::store::{self, Store};
use super::{Error, Index, Log, Offset, Segment, State, Term};

/// Bytes that one read of a store asks for, unless a single frame is longer.
const READ_BYTES_MAX: usize = 256 << 10;

/// Where entries or records are to be read from.
enum Source {
    Memory(Vec<Entry>),
    Disk(Arc<Store>, u32, usize),
}

/// A run of records: its row, and the offset after it.
struct Part {
    row: Row,
    next: Offset,
}

impl Log {
    /// The entries from `from` on, before `to`, of about `bytes_max` bytes: at least one, unless
    /// the range is empty.
    pub fn entries(&self, from: Index, to: Index, bytes_max: usize) -> Result<Vec<Entry>, Error> {
        if from >= to {
            return Ok(Vec::new());
        }
        let source = {
            let state = self.0.state.read();
            state.entry_source(from, to, bytes_max)?
        };
        match source {
            Source::Memory(entries) => Ok(entries),
            Source::Disk(store, position, length) => {
                let read = read_entries(&store, position, length, from);
                // A cut that came between finding the place and reading it is no damage.
                let state = self.0.state.read();
                let moved = state
                    .place_of(from)
                    .is_none_or(|(now, at)| !Arc::ptr_eq(&now, &store) || at != position);
                if read.is_err() && moved {
                    return Err(state.no_entry(from));
                }
                read
            }
        }
    }

    /// The term of an entry.
    pub fn term(&self, index: Index) -> Result<Term, Error> {
        self.term_of(&self.0.state.read(), index)
    }

    pub(super) fn term_of(&self, state: &State, index: Index) -> Result<Term, Error> {
        if let Some(number) = state.cached(index) {
            return Ok(state.tail[number].term);
        }
        match state.entry_source(index, Index(index.0 + 1), 0)? {
            Source::Memory(entries) => Ok(entries[0].term),
            Source::Disk(store, position, length) => {
                Ok(read_entries(&store, position, length, index)?[0].term)
            }
        }
    }

    /// Whether the record at `offset` is held in memory, so that reading it waits for no disk.
    pub fn in_memory(&self, offset: Offset) -> bool {
        let state = self.0.state.read();
        let mut latest = state.segments.iter().rev();
        let row = latest.find_map(|segment| segment.row_of(offset));
        row.is_some_and(|(row, _)| state.cached(row.index).is_some())
    }

    /// Records from `offset` on, of about `bytes_max` bytes: at least one.
    pub fn read(&self, offset: Offset, bytes_max: usize) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        let mut budget = bytes_max.max(1);
        let mut at = offset;
        while budget > 0 {
            let (source, parts) = {
                let state = self.0.state.read();
                if at >= state.next_offset {
                    break;
                }
                state.record_source(at, budget)?
            };
            let frames = match source {
                Source::Memory(entries) => entries,
                Source::Disk(store, position, length) => {
                    read_entries(&store, position, length, parts[0].row.index)?
                }
            };
            budget = collect(&frames, &parts, at, budget, &mut records)?;
            at = match records.last() {
                Some(last) => Offset(last.offset.0 + 1),
                None => break,
            };
        }
        if records.is_empty() {
            let (first, next) = self.offsets();
            return Err(Error::OutOfRange {
                asked: offset,
                first,
                next,
            });
        }
        Ok(records)
    }
}

impl State {
    fn place_of(&self, index: Index) -> Option<(Arc<Store>, u32)> {
        let segment = &self.segments[self.segment_number(index)?];
        Some((segment.store.clone(), segment.position(index)?))
    }

    fn no_entry(&self, asked: Index) -> Error {
        Error::NoEntry {
            asked,
            first: self.first_index(),
            next: self.next_index(),
        }
    }

    fn entry_source(&self, from: Index, to: Index, bytes_max: usize) -> Result<Source, Error> {
        if let Some(first) = self.cached(from) {
            return Ok(Source::Memory(self.cached_entries(first, to, bytes_max)));
        }
        let number = self
            .segment_number(from)
            .ok_or_else(|| self.no_entry(from))?;
        let segment = &self.segments[number];
        // What is in memory may not be on disk yet.
        let on_disk = self.tail.front().map_or(to, |entry| to.min(entry.index));
        let bytes_max = bytes_max.min(READ_BYTES_MAX);
        let span = segment.span(from, on_disk, bytes_max);
        let (position, length) = span.ok_or_else(|| self.no_entry(from))?;
        Ok(Source::Disk(segment.store.clone(), position, length))
    }

    fn cached_entries(&self, first: usize, to: Index, bytes_max: usize) -> Vec<Entry> {
        let mut left = bytes_max;
        let mut entries = Vec::new();
        for entry in self.tail.range(first..) {
            if entry.index >= to || (!entries.is_empty() && entry.payload.len() > left) {
                break;
            }
            left = left.saturating_sub(entry.payload.len());
            entries.push(entry.clone());
        }
        entries
    }

    /// Where the records from `offset` on stand, and the runs they form, about `budget` bytes of
    /// them. The caller has checked that the offset is below `next_offset`.
    fn record_source(&self, offset: Offset, budget: usize) -> Result<(Source, Vec<Part>), Error> {
        let holds = |segment: &&Segment| segment.row_of(offset).is_some();
        let holder = self.segments.iter().rev().find(holds);
        let segment = holder.ok_or(Error::Malformed("no row covers a published offset"))?;
        let mut parts = Vec::new();
        let mut at = offset;
        let mut bytes = 0;
        while let Some((row, next)) = segment.row_of(at) {
            let end = next
                .or_else(|| self.next_base_offset(segment))
                .unwrap_or(self.next_offset);
            let entry_end = segment
                .position(Index(row.index.0 + 1))
                .unwrap_or(segment.end());
            let first = parts
                .first()
                .map_or(row.position, |part: &Part| part.row.position);
            parts.push(Part { row, next: end });
            bytes = (entry_end - first) as usize;
            if next.is_none() || bytes >= budget.min(READ_BYTES_MAX) {
                break;
            }
            at = end;
        }
        let (first, last) = (parts[0].row, parts[parts.len() - 1].row);
        let source = match self.cached(first.index) {
            Some(number) => {
                let to = Index(last.index.0 + 1);
                Source::Memory(self.cached_entries(number, to, usize::MAX))
            }
            None => Source::Disk(segment.store.clone(), first.position, bytes),
        };
        Ok((source, parts))
    }

    /// The first offset of the segments after this one.
    fn next_base_offset(&self, segment: &Segment) -> Option<Offset> {
        let after = self.segment_number(segment.base())? + 1;
        let mut later = self.segments.range(after..);
        let with_rows = later.find(|segment| segment.index.rows() > 0)?;
        Some(with_rows.index.row(0).offset)
    }
}

/// Reads and checks the frames in a span of a store; the first must have this index.
fn read_entries(
    store: &Store,
    position: u32,
    length: usize,
    first: Index,
) -> Result<Vec<Entry>, Error> {
    let mut bytes = store.read(position, length)?;
    let mut entries = Vec::new();
    let mut at = u64::from(position);
    while !bytes.is_empty() {
        let index = Index(first.0 + entries.len() as u64);
        let (entry, length) = store::parse(&bytes)
            .filter(|(entry, length)| entry.index == index && *length <= bytes.len())
            .ok_or_else(|| store.corrupt(at, "a frame does not check"))?;
        entries.push(entry);
        bytes = bytes.slice(length..);
        at += length as u64;
    }
    Ok(entries)
}

/// Takes the records of `parts` from `at` on out of the frames; gives what is left of the budget.
fn collect(
    frames: &[Entry],
    parts: &[Part],
    at: Offset,
    mut budget: usize,
    records: &mut Vec<Record>,
) -> Result<usize, Error> {
    const MISMATCH: Error = Error::Malformed("a row names no records");
    for part in parts {
        let first = frames.first().ok_or(MISMATCH)?.index;
        let number = part.row.index.0.checked_sub(first.0).ok_or(MISMATCH)?;
        let frame = usize::try_from(number)
            .ok()
            .and_then(|number| frames.get(number));
        let entry = frame
            .filter(|entry| entry.kind == Kind::Records)
            .ok_or(MISMATCH)?;
        let payload: &Bytes = &entry.payload;
        let passed = at.0.saturating_sub(part.row.offset.0);
        let from = Offset(part.row.offset.0 + passed);
        let skipped = u32::try_from(passed).map_err(|_| MISMATCH)?;
        let start = record::skip(payload, part.row.skip as usize, skipped)?;
        let count = part.next.0.checked_sub(from.0).ok_or(MISMATCH)?;
        budget = record::read_into(payload, start, from, count, budget, records)?;
        if budget == 0 {
            break;
        }
    }
    Ok(budget)
}
