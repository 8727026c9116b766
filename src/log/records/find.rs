//! Where the records of a log stand: in which segment, and by which rows.
//!
//! A log's records are in some segments and in others not. Each segment's seal names its logs; where in the
//! log it begins, its directory tells. Where it ends in the log, the next one that has records of it begins.

use super::{Found, Part, Rest};
use crate::log::format::record;
use crate::log::format::row::Row;
use crate::log::index_maps::Looked;
use crate::log::read::{READ_BYTES_MAX, Source};
use crate::log::segment::Segment;
use crate::log::segment::directory::LogRows;
use crate::log::segment::store::Span;
use crate::log::{Entry, Error, Index, LogId, LogState, Offset, Position};

pub(super) const NO_ROW: Error = Error::Malformed("no row covers a published offset");
/// Bytes between two wanted entries that are read over; further apart, they are read one after the other.
const GAP_BYTES_MAX: u32 = 64 << 10;

impl LogState {
    /// Where the records of a log from `at` on stand; `None` at the log's end.
    pub(in crate::log) fn find(
        &self,
        log: LogId,
        at: Offset,
        budget: usize,
    ) -> Result<Looked<Option<Found>>, Error> {
        let part = self.logs.get(&log).ok_or(Error::NoLog(log))?;
        let (first, next) = (part.ends.first, part.ends.next);
        if at < first {
            let asked = at;
            return Err(Error::Trimmed { asked, first, next });
        }
        if at >= next {
            return Ok(Looked::Found(None));
        }
        let number = match self.holder_in(log, at, part.looked())? {
            Looked::Found(Ok(number)) => number,
            // The floor is durable before the checkpoint that holds the trims behind it.
            Looked::Found(Err(held)) if self.floor > Index(0) => {
                let (asked, first) = (at, held.min(next));
                return Err(Error::Trimmed { asked, first, next });
            }
            Looked::Found(Err(_)) => return Err(NO_ROW),
            Looked::Needs(lazy) => return Ok(Looked::Needs(lazy)),
        };
        let segment = &self.segments[number];
        part.look(segment.base());
        if segment.damage.is_some() {
            return Err(segment.damaged());
        }
        let rows = segment.index.directory();
        let rows = rows.and_then(|rows| rows.rows_of(log)).ok_or(NO_ROW)?;
        let row = segment.index.find_in(rows, at)?.ok_or(NO_ROW)?;
        if self.end_of_row(number, rows, row)? <= at {
            // Where a damaged segment begins is not known, so the one before it was taken.
            return Err(self.damaged_behind(number, log).unwrap_or(NO_ROW));
        }
        let rows = Rows {
            state: self,
            segment: number,
            rows,
            at: row,
            ahead: None,
        };
        let (source, mut parts) = self.record_source(number, rows, budget)?;
        if let Some(first) = parts.first_mut() {
            first.from = at;
        }
        Ok(Looked::Found(Some(Found {
            base: segment.base(),
            source,
            parts,
            rest: Rest::Log(log, at),
        })))
    }

    /// The segment that holds a log's record: of those with records of the log the last that begins at or
    /// before it. If all begin behind it, where the first one does.
    fn holder_in(
        &self,
        log: LogId,
        at: Offset,
        looked: Index,
    ) -> Result<Looked<Result<usize, Offset>>, Error> {
        // Most reads go on where the last one ended: in that segment, or in the next.
        let hint = self.segment_number(looked);
        if let Some(number) = hint.filter(|number| self.segments[*number].has_log(log))
            && let Some(begins) = self.known_first(number, log)
            && begins <= at
        {
            let behind = self.next_with(number, log);
            match behind.map(|behind| self.known_first(behind, log)) {
                None => return Ok(Looked::Found(Ok(number))),
                Some(Some(end)) if at < end => return Ok(Looked::Found(Ok(number))),
                _ => {}
            }
        }
        let has_log = |number: &usize| self.segments[*number].has_log(log);
        let all: Vec<_> = (0..self.segments.len()).filter(has_log).collect();
        // The newest first: it is asked most.
        let (mut low, mut high) = (0, all.len());
        let mut held = Offset(u64::MAX);
        let mut middle = high.saturating_sub(1);
        while low < high {
            match self.first_in(all[middle], log)? {
                Looked::Found(begins) if begins <= at => low = middle + 1,
                Looked::Found(begins) => (high, held) = (middle, begins),
                Looked::Needs(lazy) => return Ok(Looked::Needs(lazy)),
            }
            middle = low + (high - low) / 2;
        }
        let is_damaged = |number: &usize| self.segments[*number].damage.is_some();
        let first = all.first().copied().filter(is_damaged);
        // None is before a first one that is damaged.
        let holder = low.checked_sub(1).map(|holder| all[holder]).or(first);
        Ok(Looked::Found(holder.ok_or(held)))
    }

    /// The offset behind one of a log's rows in a segment.
    fn end_of_row(&self, number: usize, rows: &LogRows, at: usize) -> Result<Offset, Error> {
        let index = &self.segments[number].index;
        let row = index.row_in(rows, at)?;
        let behind = self.position_behind(number, rows.number(at).unwrap_or(0))?;
        let count = behind.0.saturating_sub(row.position.0);
        Ok(Offset(row.offset.0.saturating_add(count)))
    }

    /// The error of the next segment with records of a log, if it is damaged.
    fn damaged_behind(&self, number: usize, log: LogId) -> Option<Error> {
        let next = &self.segments[self.next_with(number, log)?];
        next.damage.is_some().then(|| next.damaged())
    }

    /// The next segment behind one that has records of a log.
    fn next_with(&self, number: usize, log: LogId) -> Option<usize> {
        (number + 1..self.segments.len()).find(|number| self.segments[*number].has_log(log))
    }

    /// Where a segment begins in a log, if that is known without a look at the disk.
    fn known_first(&self, number: usize, log: LogId) -> Option<Offset> {
        let directory = self.segments[number].index.directory()?;
        directory.rows_of(log).map(|rows| rows.first)
    }

    /// Where a segment begins in a log of which it has records. Of a damaged one it is not known: it begins
    /// where the one before ends, or later.
    fn first_in(&self, number: usize, log: LogId) -> Result<Looked<Offset>, Error> {
        let segment = &self.segments[number];
        if let Some(first) = self.known_first(number, log) {
            return Ok(Looked::Found(first));
        }
        match segment.index.lazy() {
            Some(lazy) if segment.damage.is_none() && lazy.directory().is_none() => {
                Ok(Looked::Needs(lazy.clone()))
            }
            Some(_) if segment.damage.is_none() => Err(NO_ROW),
            _ => self.end_in(number, log),
        }
    }

    /// The offset in a log behind a segment's records of it.
    pub(in crate::log) fn end_in(
        &self,
        number: usize,
        log: LogId,
    ) -> Result<Looked<Offset>, Error> {
        match self.next_with(number, log) {
            Some(next) => self.first_in(next, log),
            None => Ok(Looked::Found(self.ends(log).unwrap_or_default().next)),
        }
    }

    /// Where the records of these runs of a segment stand, and which of them are read at once: about `budget`
    /// bytes, and no long way over what is not wanted.
    pub(super) fn record_source(
        &self,
        number: usize,
        mut wanted: impl Iterator<Item = Result<Part, Error>>,
        budget: usize,
    ) -> Result<(Source, Vec<Part>), Error> {
        let segment = &self.segments[number];
        let first = wanted.next().ok_or(NO_ROW)??;
        let begin = first.row;
        // An entry in memory may not be on this disk yet, though the other nodes committed it. A read of the
        // disk ends before it.
        let cached = self.cached(begin.index);
        let on_disk = self.tail.front().filter(|_| cached.is_none());
        let budget = budget.min(READ_BYTES_MAX);
        let (mut last, mut last_at) = (begin, first.number);
        let (mut parts, mut whole) = (vec![first], None);
        for part in wanted {
            let part = part?;
            let row = part.row;
            let is_unwritten = on_disk.is_some_and(|entry| entry.index <= row.index);
            let is_apart = cached.is_none() && is_beyond_gap(segment, (last, last_at), row)?;
            if is_unwritten || is_apart {
                break;
            }
            if row.frame_at > last.frame_at {
                let frames = row.frame_at.saturating_sub(begin.frame_at);
                whole = Some((parts.len(), last, last_at, frames as usize));
            }
            if taken(begin, row, parts.len()) >= budget {
                // An entry is read whole: rather end before one than in its midst, to read it again.
                let much = whole.filter(|(.., frames)| *frames >= budget / 2);
                if let Some((count, row, number, _)) = much {
                    parts.truncate(count);
                    (last, last_at) = (row, number);
                }
                break;
            }
            (last, last_at) = (row, part.number);
            parts.push(part);
        }
        let source = match cached {
            Some(_) => Source::Memory(self.cached_of(&parts)),
            None => {
                // A row that checks and still names a place behind the last frame must not take room for it.
                let end = end_of_entry(segment, last, last_at)?.min(segment.end());
                let span = Span {
                    first: begin.index,
                    position: begin.frame_at,
                    length: end.saturating_sub(begin.frame_at) as usize,
                };
                Source::Disk(segment.store.clone(), span)
            }
        };
        Ok((source, parts))
    }

    /// The entries in memory that rows name.
    fn cached_of(&self, parts: &[Part]) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for part in parts {
            let is_last = |last: &Entry| last.index == part.row.index;
            if entries.last().is_some_and(is_last) {
                continue;
            }
            let entry = self.cached(part.row.index);
            entries.extend(entry.map(|number| self.tail[number].clone()));
        }
        entries
    }

    /// The position behind the records of a segment's row.
    pub(super) fn position_behind(&self, number: usize, row: usize) -> Result<Position, Error> {
        let index = &self.segments[number].index;
        if row + 1 < index.rows() {
            return Ok(index.row(row + 1)?.position);
        }
        Ok(self.end_of_rows(number))
    }

    /// The position after the last row of a segment.
    pub(in crate::log) fn end_of_rows(&self, number: usize) -> Position {
        if let Some(seal) = self.segments[number].seal() {
            return seal.next_position;
        }
        let mut later = self.segments.range(number + 1..);
        // A damaged segment's index may not be there; its seal is.
        let next = later.find_map(Segment::first_position);
        next.unwrap_or(self.next_position)
    }
}

/// The bytes that so many runs take once they are read, from the first to the row behind them: many small ones take
/// more memory than their bytes.
fn taken(first: Row, behind: Row, runs: usize) -> usize {
    let passed = if behind.frame_at > first.frame_at {
        behind.frame_at - first.frame_at
    } else {
        record::bytes_before(behind.skip).saturating_sub(record::bytes_before(first.skip))
    };
    passed as usize + runs * size_of::<record::Stored>()
}

/// Whether so much lies between a row's entry and a later row's that a read of the disk is better ended.
fn is_beyond_gap(segment: &Segment, (row, at): (Row, usize), later: Row) -> Result<bool, Error> {
    if later.frame_at.saturating_sub(row.frame_at) <= GAP_BYTES_MAX {
        return Ok(false);
    }
    let end = end_of_entry(segment, row, at)?;
    Ok(later.frame_at.saturating_sub(end) > GAP_BYTES_MAX)
}

/// Where the entry of a segment's row ends, or a place soon behind it; `at` is the row's number.
fn end_of_entry(segment: &Segment, row: Row, at: usize) -> Result<u32, Error> {
    let known = (at + 1 < segment.index.rows()).then(|| segment.index.row(at + 1));
    segment.entry_end(row.index, at + 1, known.transpose()?)
}

/// The runs of a log in a segment, one after the other.
struct Rows<'a> {
    state: &'a LogState,
    segment: usize,
    rows: &'a LogRows,
    /// How many of the rows are passed.
    at: usize,
    /// The next one, if it was read.
    ahead: Option<(Row, usize)>,
}

impl Rows<'_> {
    /// The next row, and its number.
    fn row(&mut self) -> Result<Option<(Row, usize)>, Error> {
        let Some(number) = self.rows.number(self.at) else {
            return Ok(None);
        };
        self.at += 1;
        let index = &self.state.segments[self.segment].index;
        Ok(Some((index.row(number)?, number)))
    }

    fn part(&mut self) -> Result<Option<Part>, Error> {
        let next = match self.ahead.take() {
            Some(next) => Some(next),
            None => self.row()?,
        };
        let Some((row, number)) = next else {
            return Ok(None);
        };
        self.ahead = self.row()?;
        // Where a log is alone its next row is also the next of all: it need not be read twice.
        let next = match self.ahead {
            Some((behind, _)) if behind.offset <= row.offset => {
                return Err(Error::Malformed("the rows are not in order"));
            }
            Some((behind, at)) if at == number + 1 => behind.position,
            _ => self.state.position_behind(self.segment, number)?,
        };
        let from = row.offset;
        Ok(Some(Part {
            row,
            number,
            next,
            from,
        }))
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<Part, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.part().transpose()
    }
}
