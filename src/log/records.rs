//! Reading records by their offset: first where they stand is looked up, then they are read.
//!
//! Between the two, a reader can take room for the records: the look tells how many bytes they are, and holds none.
//! The lock is held for the look, in memory and in mapped rows, never while a store is read. Every byte is
//! checked before it is handed out. A sealed segment that does not check is marked, and waits for repair.

use std::sync::Arc;

use super::format::frame::{Entry, Kind};
use super::format::record::{self, Record, Stored};
use super::format::row::Row;
use super::read::{READ_BYTES_MAX, Source};
use super::segment::lazy_map::LazyMap;
use super::segment::store::Span;
use super::{Error, Index, Log, LogState, Offset, Segment};

/// Where records stand.
pub struct Found {
    /// The offset that was asked for.
    at: Offset,
    source: Source,
    parts: Vec<Part>,
}

/// Records as they are kept, side by side: the first may hold records before the offset that was asked for.
#[derive(Debug, Default)]
pub struct Read {
    pub stored: Vec<Stored>,
    /// The bytes that they keep in memory: those of whole frames.
    pub kept_bytes: usize,
}

impl Read {
    /// The bytes of the records, and of what holds them.
    pub fn bytes(&self) -> usize {
        let parts = self.stored.iter();
        let bytes = parts.map(|part| part.bytes.len() + size_of::<Stored>());
        bytes.sum()
    }
}

/// A run of records: its row, and the offset after it.
struct Part {
    row: Row,
    next: Offset,
}

impl Found {
    /// Whether reading them waits for no disk.
    pub fn in_memory(&self) -> bool {
        matches!(self.source, Source::Memory(_))
    }

    /// The bytes that reading them brings into memory.
    pub fn bytes(&self) -> usize {
        match &self.source {
            Source::Memory(_) => 0,
            Source::Disk(_, span) => span.length,
        }
    }
}

impl Log {
    /// Where the records from `offset` on stand, if that can be told without a look at the disk: `None` if an
    /// index must be mapped first.
    pub fn find_now(&self, offset: Offset, bytes_max: usize) -> Result<Option<Found>, Error> {
        let state = self.0.state.read();
        if state.unloaded_at(offset).is_some() {
            return Ok(None);
        }
        let found = state.find(offset, bytes_max);
        drop(state);
        self.found(offset, found).map(Some)
    }

    /// Where the records from `offset` on stand, about `bytes_max` bytes of them: at least one record. The one
    /// after the last is an error, as any other that is not there.
    pub fn find(&self, offset: Offset, bytes_max: usize) -> Result<Found, Error> {
        let found = self.with_rows(
            |state| state.unloaded_at(offset),
            |state| state.find(offset, bytes_max),
        );
        self.found(offset, found)
    }

    fn found(&self, at: Offset, found: Result<Option<Found>, Error>) -> Result<Found, Error> {
        let found =
            found.map_err(|error| self.unless_trimmed(at, self.note_bad_rows(at, error)))?;
        found.ok_or_else(|| {
            let (first, next) = self.offsets();
            let asked = at;
            Error::OutOfRange { asked, first, next }
        })
    }

    /// Reads what was found, and what follows it as far as it is not more than `bytes_max` together.
    pub fn read_found(&self, found: Found, bytes_max: usize) -> Result<Read, Error> {
        let from_memory = found.in_memory();
        let mut read = Read::default();
        let mut budget = self.read_one(found, bytes_max.max(1), &mut read)?;
        while budget > 0 {
            let Some(next) = read.stored.last().map(Stored::next) else {
                break;
            };
            // Records before a damage are whole: hand them out.
            let Ok(found) = self.find(next, budget) else {
                break;
            };
            let is_as_fast = found.in_memory() || !from_memory;
            if !is_as_fast || found.bytes() > budget {
                break;
            }
            let Ok(left) = self.read_one(found, budget, &mut read) else {
                break;
            };
            budget = left;
        }
        Ok(read)
    }

    /// Reads what was found; gives what is left of the budget.
    fn read_one(&self, found: Found, mut budget: usize, read: &mut Read) -> Result<usize, Error> {
        let at = found.at;
        let frames = match found.source {
            Source::Memory(entries) => entries,
            Source::Disk(store, span) => store
                .entries(span)
                .map_err(|error| self.unless_trimmed(at, self.note_damage(&store, error)))?,
        };
        let stored = found.parts.iter().map(|part| stored_in(&frames, part));
        let stored: Result<Vec<_>, _> = stored.collect();
        let stored = stored
            .and_then(|stored| side_by_side(stored, at))
            .map_err(|error| self.note_bad_rows(at, error))?;
        for part in stored {
            // Many small records take more memory than their bytes.
            budget = budget.saturating_sub(part.bytes.len() + size_of::<Stored>());
            read.stored.push(part);
            if budget == 0 {
                break;
            }
        }
        let kept = frames.iter().map(|frame| frame.payload.len());
        read.kept_bytes += kept.sum::<usize>();
        Ok(budget)
    }

    /// Records from `offset` on, of about `bytes_max` bytes: at least one.
    pub fn read(&self, offset: Offset, bytes_max: usize) -> Result<Vec<Record>, Error> {
        let read = self.read_found(self.find(offset, bytes_max)?, bytes_max)?;
        let (mut records, mut budget) = (Vec::new(), bytes_max.max(1));
        for part in read.stored {
            let left = part.read_into(offset.max(part.first), budget, &mut records);
            budget = match left {
                Ok(left) => left,
                Err(_) if !records.is_empty() => break,
                Err(error) => return Err(self.note_bad_rows(offset, error)),
            };
            if budget == 0 {
                break;
            }
        }
        Ok(records)
    }

    /// A file that a trim took away in the midst of a read is no failure of the log.
    fn unless_trimmed(&self, asked: Offset, error: Error) -> Error {
        let (first, next) = self.offsets();
        if asked < first {
            Error::Trimmed { asked, first, next }
        } else {
            error
        }
    }
}

impl LogState {
    /// The rows that must be mapped to find a record, if they are not. Those of a damaged segment are
    /// not looked at.
    fn unloaded_at(&self, offset: Offset) -> Option<Arc<LazyMap>> {
        let is_there = (self.first_offset..self.next_offset).contains(&offset);
        let number = self.holder_of(offset).filter(|_| is_there)?;
        let whole = Some(&self.segments[number]).filter(|segment| segment.damage.is_none());
        whole.and_then(|segment| segment.index.unloaded())
    }

    /// Where the records from `at` on stand; `None` at the log's end.
    fn find(&self, at: Offset, budget: usize) -> Result<Option<Found>, Error> {
        let (first, next) = (self.first_offset, self.next_offset);
        if at < first {
            let asked = at;
            return Err(Error::Trimmed { asked, first, next });
        }
        if at >= next {
            return Ok(None);
        }
        let (source, parts) = self.record_source(at, budget)?;
        Ok(Some(Found { at, source, parts }))
    }

    /// Where the records from `offset` on stand, and the runs they form, about `budget` bytes of
    /// them. The caller has checked that the offset is in the log.
    fn record_source(&self, offset: Offset, budget: usize) -> Result<(Source, Vec<Part>), Error> {
        const NO_ROW: Error = Error::Malformed("no row covers a published offset");
        let number = self.holder_of(offset).ok_or(NO_ROW)?;
        let segment = &self.segments[number];
        if segment.damage.is_some() {
            return Err(segment.damaged());
        }
        let (mut row, mut next_row) = segment.row_of(offset)?.ok_or(NO_ROW)?;
        let (first, rows) = (row, segment.index.rows());
        // An entry in memory may not be on this disk yet, though the other nodes committed it. A read of the
        // disk ends before it.
        let cached = self.cached(first.index);
        let on_disk = self.tail.front().filter(|_| cached.is_none());
        let (mut parts, mut behind) = (Vec::new(), None);
        loop {
            let next = (next_row < rows).then(|| segment.index.row(next_row));
            let next = next.transpose()?;
            if next.is_some_and(|next| next.offset <= row.offset) {
                return Err(Error::Malformed("the rows are not in order"));
            }
            parts.push(Part {
                row,
                next: next.map_or_else(|| self.end_of_rows(number), |next| next.offset),
            });
            let Some(next) = next else { break };
            let passed = if next.position > first.position {
                next.position - first.position
            } else {
                record::bytes_before(next.skip).saturating_sub(record::bytes_before(first.skip))
            };
            let is_unwritten = on_disk.is_some_and(|entry| entry.index <= next.index);
            if is_unwritten || passed as usize >= budget.min(READ_BYTES_MAX) {
                behind = Some(next);
                break;
            }
            (row, next_row) = (next, next_row + 1);
        }
        // A row that checks and still names a place behind the last frame must not take room for it.
        let end = segment.entry_end(row.index, next_row, behind)?;
        let end = end.min(segment.end());
        let last = parts[parts.len() - 1].row;
        let source = match cached {
            Some(number) => {
                let to = Index(last.index.0 + 1);
                Source::Memory(self.cached_entries(number, to, usize::MAX))
            }
            None => {
                let span = Span {
                    first: first.index,
                    position: first.position,
                    length: end.saturating_sub(first.position) as usize,
                };
                Source::Disk(segment.store.clone(), span)
            }
        };
        Ok((source, parts))
    }

    /// The offset after the last row of a segment.
    pub(super) fn end_of_rows(&self, number: usize) -> Offset {
        if let Some(seal) = self.segments[number].seal() {
            return seal.next_offset;
        }
        let mut later = self.segments.range(number + 1..);
        // A damaged segment's index may not be there; its seal is.
        let next = later.find_map(Segment::first_offset);
        next.unwrap_or(self.next_offset)
    }
}

/// The records of a run, out of the frames.
fn stored_in(frames: &[Entry], part: &Part) -> Result<Stored, Error> {
    const MISMATCH: Error = Error::Malformed("a row names no records");
    let first = frames.first().ok_or(MISMATCH)?.index;
    let number = part.row.index.0.checked_sub(first.0).ok_or(MISMATCH)?;
    let frame = usize::try_from(number)
        .ok()
        .and_then(|number| frames.get(number));
    let entry = frame.filter(|entry| entry.kind == Kind::Records);
    // A row without a record would make a reader loop for ever.
    let count = part.next.0.checked_sub(part.row.offset.0);
    let count = count.filter(|count| *count > 0).ok_or(MISMATCH)?;
    let payload = &entry.ok_or(MISMATCH)?.payload;
    record::stored(payload, part.row.skip, part.row.offset, count)
}

/// Gives back what rows led to, if it holds the record at `at` and goes on from there without a gap.
fn side_by_side(stored: Vec<Stored>, at: Offset) -> Result<Vec<Stored>, Error> {
    let mut next = at;
    for (number, part) in stored.iter().enumerate() {
        let begins = part.first == next || (number == 0 && part.first < next);
        if !begins || part.next() <= next {
            return Err(Error::Malformed("rows that follow each other leave a gap"));
        }
        next = part.next();
    }
    Ok(stored)
}
