//! Reading the log: entries by raft index, records by offset.
//!
//! The lock is held to find a place, in memory and in mapped rows, never while a store is read.
//! Every byte is checked before it is handed out. A sealed segment that does not check is marked,
//! and waits for repair.

use std::sync::Arc;

use super::format::frame::{Entry, Kind};
use super::format::record::{self, Record, Stored};
use super::format::row::Row;
use super::format::seal;
use super::segment::Damage;
use super::segment::lazy_map::LazyMap;
use super::segment::store::{Span, Store};
use super::{Error, Index, Log, Offset, Segment, State, Term};

/// Bytes that one read of a store asks for, unless a single frame is longer.
const READ_BYTES_MAX: usize = 256 << 10;

/// Takes what stands at an offset and a budget; gives where to read on and what is left.
type Take<'a> = dyn FnMut(Vec<Stored>, Offset, usize) -> Result<(Offset, usize), Error> + 'a;

/// Where entries or records are to be read from.
enum Source {
    Memory(Vec<Entry>),
    Disk(Arc<Store>, Span),
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
        loop {
            let source = {
                let state = self.0.state.read();
                state.entry_source(from, to, bytes_max)?
            };
            let (store, span) = match source {
                Source::Memory(entries) => return Ok(entries),
                Source::Disk(store, span) => (store, span),
            };
            let read = store.entries(span);
            if read.as_ref().is_err_and(|error| !error.is_short_of_files()) {
                // The place may be out of date by the time it is read, after a cut or a repair. That is no
                // damage.
                let state = self.0.state.read();
                let number = state.segment_number(from);
                let segment = number.map(|number| &state.segments[number]);
                if segment.is_some_and(|now| !Arc::ptr_eq(&now.store, &store)) {
                    continue;
                }
                let now = segment.and_then(|segment| segment.span(from, to, bytes_max));
                if now.is_none_or(|now| now.position != span.position) {
                    return Err(state.no_entry(from));
                }
            }
            let read = read.map_err(|error| self.note_damage(&store, error))?;
            let wanted = |entry: &Entry| entry.index >= from && entry.index < to;
            let wanted: Vec<_> = read.into_iter().filter(wanted).collect();
            if wanted.is_empty() {
                let what = "the entries are not where the seal says";
                let error = store.corrupt(span.position.into(), what);
                return Err(self.note_damage(&store, error));
            }
            return Ok(wanted);
        }
    }

    /// Whether an entry is held in memory, so that reading it waits for no disk.
    pub fn entry_in_memory(&self, index: Index) -> bool {
        self.0.state.read().cached(index).is_some()
    }

    /// The term of an entry. Known without a look at the disk.
    pub fn term(&self, index: Index) -> Result<Term, Error> {
        let state = self.0.state.read();
        state.term_of(index).ok_or_else(|| state.no_entry(index))
    }

    /// The last entry of each term, from `from` on, in order.
    pub fn term_ends(&self, from: Index) -> Vec<(Term, Index)> {
        let state = self.0.state.read();
        let mut ends: Vec<(Term, Index)> = Vec::new();
        for segment in &state.segments {
            for end in segment.term_ends() {
                let index = Index(segment.base().0 + u64::from(end.entry));
                match ends.last_mut() {
                    Some(last) if last.0 == end.term => last.1 = index,
                    _ => ends.push((end.term, index)),
                }
            }
        }
        ends.retain(|(_, index)| *index >= from);
        ends
    }

    /// Whether the record at `offset` is held in memory, so that reading it waits for no disk.
    pub fn in_memory(&self, offset: Offset) -> bool {
        let state = self.0.state.read();
        let segment = state
            .holder_of(offset)
            .map(|number| &state.segments[number]);
        // Looking for its row would wait for the disk.
        let segment = segment.filter(|segment| segment.index.unloaded().is_none());
        let row = segment.and_then(|segment| segment.row_of(offset).ok()?);
        row.is_some_and(|(row, _)| state.cached(row.index).is_some())
    }

    /// Records from `offset` on, of about `bytes_max` bytes: at least one.
    pub fn read(&self, offset: Offset, bytes_max: usize) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        self.read_on(offset, bytes_max, &mut |parts, at, mut budget| {
            for part in parts {
                let read = part.read_into(at.max(part.first), budget, &mut records);
                budget = read.map_err(|error| self.note_bad_rows(at, error))?;
                if budget == 0 {
                    break;
                }
            }
            let next = records
                .last()
                .map_or(at.0, |last: &Record| last.offset.0 + 1);
            Ok((Offset(next), budget))
        })?;
        Ok(records)
    }

    /// The same as they are kept, side by side: the first may hold records before `offset`.
    pub fn read_stored(&self, offset: Offset, bytes_max: usize) -> Result<Vec<Stored>, Error> {
        let mut stored = Vec::new();
        self.read_on(offset, bytes_max, &mut |parts, mut at, mut budget| {
            for part in parts {
                // Many small records take more memory than their bytes.
                budget = budget.saturating_sub(part.bytes.len() + size_of::<Stored>());
                at = part.next();
                stored.push(part);
                if budget == 0 {
                    break;
                }
            }
            Ok((at, budget))
        })?;
        Ok(stored)
    }

    /// Reads from `offset` on until `take`, which gets what stands at an offset and the budget,
    /// leaves nothing of it.
    fn read_on(&self, offset: Offset, bytes_max: usize, take: &mut Take<'_>) -> Result<(), Error> {
        let (mut at, mut budget) = (offset, bytes_max.max(1));
        while budget > 0 {
            let taken = match self.read_some(at, budget) {
                Ok(Some(parts)) => take(parts, at, budget),
                Ok(None) => break,
                Err(error) => Err(error),
            };
            (at, budget) = match taken {
                Ok(taken) => taken,
                // Records that were read before the damage are whole: hand them out.
                Err(_) if at > offset => break,
                Err(error) => return Err(error),
            };
        }
        if at == offset {
            let (first, next) = self.offsets();
            let asked = offset;
            return Err(Error::OutOfRange { asked, first, next });
        }
        Ok(())
    }

    /// What stands from `at` on, about `budget` bytes of it; `None` at the log's end.
    pub(super) fn read_some(
        &self,
        at: Offset,
        budget: usize,
    ) -> Result<Option<Vec<Stored>>, Error> {
        let found = self.with_rows(
            |state| state.unloaded_at(at),
            |state| {
                let (first, next) = (state.first_offset, state.next_offset);
                if at < first {
                    let asked = at;
                    return Err(Error::Trimmed { asked, first, next });
                }
                let is_there = at < next;
                is_there
                    .then(|| state.record_source(at, budget))
                    .transpose()
            },
        );
        let found =
            found.map_err(|error| self.unless_trimmed(at, self.note_bad_rows(at, error)))?;
        let Some((source, parts)) = found else {
            return Ok(None);
        };
        let frames = match source {
            Source::Memory(entries) => entries,
            Source::Disk(store, span) => store
                .entries(span)
                .map_err(|error| self.unless_trimmed(at, self.note_damage(&store, error)))?,
        };
        let stored = parts.iter().map(|part| stored_in(&frames, part)).collect();
        let stored: Result<Vec<_>, _> = stored;
        stored
            .and_then(|stored| side_by_side(stored, at))
            .map(Some)
            .map_err(|error| self.note_bad_rows(at, error))
    }
}

impl Log {
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

impl State {
    pub(super) fn term_of(&self, index: Index) -> Option<Term> {
        let segment = &self.segments[self.segment_number(index)?];
        seal::term_at(segment.term_ends(), index.0 - segment.base().0)
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
        if segment.damage == Some(Damage::Store) {
            return Err(segment.damaged());
        }
        // What is in memory may not be on disk yet.
        let on_disk = self.tail.front().map_or(to, |entry| to.min(entry.index));
        let bytes_max = bytes_max.min(READ_BYTES_MAX);
        let span = segment.span(from, on_disk, bytes_max);
        let span = span.ok_or_else(|| self.no_entry(from))?;
        Ok(Source::Disk(segment.store.clone(), span))
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

    /// The rows that must be mapped to find a record, if they are not. Those of a damaged segment are
    /// not looked at.
    fn unloaded_at(&self, offset: Offset) -> Option<Arc<LazyMap>> {
        let is_there = (self.first_offset..self.next_offset).contains(&offset);
        let number = self.holder_of(offset).filter(|_| is_there)?;
        let whole = Some(&self.segments[number]).filter(|segment| segment.damage.is_none());
        whole.and_then(|segment| segment.index.unloaded())
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
