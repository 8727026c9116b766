//! Reading the records of many logs in one order: that of their positions.
//!
//! A look at the rows from a position on copies out those of logs that may be wanted. Which of these are read, the
//! caller then says: names are no affair of the log. Each look is bounded: by the rows that it walks under
//! the lock, and by the segments that it passes because their seals name no log that may be wanted. Records that
//! were given up are passed over. Whether all rows are walked or some, `course.rs` decides.

use std::sync::Arc;

use super::course::{Course, Wanted, first_from};
use super::find::NO_ROW;
use super::source::{Source, batch_end};
use super::{Found, Part, Rest};
use crate::log::damage::of_directory;
use crate::log::format::directory::ByLog;
use crate::log::format::files::SegmentName;
use crate::log::format::row::Row;
use crate::log::index_maps::Looked;
use crate::log::read::READ_BYTES_MAX;
use crate::log::segment::Segment;
use crate::log::{Error, Index, Log, LogId, LogState, Offset, Position, Seal};

/// Rows that one look walks.
pub(super) const ROWS_MAX: usize = 1024;
/// Sealed segments without a wanted log that one look passes.
const SEGMENTS_MAX: usize = 64;

/// What a look at the rows of all logs finds, from a position on.
#[derive(Debug, Clone)]
pub struct Stretch {
    /// The segment that it is in.
    segment: SegmentName,
    /// The runs of records that may be wanted, in order.
    parts: Vec<Part>,
    /// The position behind all that was looked at, wanted or not.
    passed: Position,
}

impl Stretch {
    fn empty(passed: Position) -> Self {
        Self::empty_in(Index(0).into(), passed)
    }

    /// Nothing yet, of this segment.
    pub(super) fn empty_in(segment: SegmentName, passed: Position) -> Self {
        Self {
            segment,
            parts: Vec::new(),
            passed,
        }
    }

    /// Moves behind a row, whose records end before `next`.
    fn go_to(&mut self, row: &Row, next: Position) -> Result<(), Error> {
        // A run without a record would make a reader loop for ever.
        if next <= row.position.max(self.passed) {
            return Err(Error::Malformed("the rows are not in order"));
        }
        self.passed = next;
        Ok(())
    }

    /// Nothing that is wanted stands before a position.
    pub(super) fn pass(&mut self, position: Position) {
        self.passed = self.passed.max(position);
    }

    /// Whether there is nothing to be read in it.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The position behind it.
    pub fn passed(&self) -> Position {
        self.passed
    }

    /// The log of each run of records.
    pub fn logs(&self) -> impl Iterator<Item = LogId> + '_ {
        self.parts.iter().map(|part| part.row.log)
    }

    /// Keeps the records of these logs.
    pub fn retain(&mut self, is_wanted: impl Fn(LogId) -> bool) {
        self.parts.retain(|part| is_wanted(part.row.log));
    }

    /// Where to look on, once the records before `next` were read of it.
    pub fn behind(&self, next: Position) -> Position {
        match self.parts.last() {
            Some(last) if next < last.next => next,
            _ => self.passed,
        }
    }
}

impl Log {
    /// Looks at the rows from a position on, of the logs that may be wanted; `None` if that waits for the
    /// disk. A position before the first record that is held stands for that one's; one behind the end is an
    /// error. The course is what the reader's last look left.
    pub fn stretch_now(
        &self,
        from: Position,
        wanted: &Wanted<'_>,
        course: &mut Course,
    ) -> Result<Option<Stretch>, Error> {
        let (from, is_there) = self.pass_segments(from, wanted);
        if !is_there {
            return Ok(Some(Stretch::empty(from)));
        }
        let looked = self.0.state.read().stretch(from, wanted, course);
        match looked {
            Ok(Looked::Needs(_)) => Ok(None),
            Ok(Looked::Found(found)) => Ok(Some(found)),
            // It is marked by those who may wait.
            Err(error) if of_directory(&error).is_some() => Ok(None),
            Err(error) => self.looked(from, Err(error)),
        }
    }

    /// As [`Log::stretch_now`], but it waits for the disk.
    pub fn stretch(
        &self,
        from: Position,
        wanted: &Wanted<'_>,
        course: &mut Course,
    ) -> Result<Stretch, Error> {
        let (mut from, is_there) = self.pass_segments(from, wanted);
        if !is_there {
            return Ok(Stretch::empty(from));
        }
        loop {
            let looked = self.with_directories(|state| state.stretch(from, wanted, course));
            if let Some(stretch) = self.looked(from, looked)? {
                return Ok(stretch);
            }
            from = self.positions().0;
        }
    }

    /// What a look came to; `None` if its segment went meanwhile. Rows that do not check mark their segment.
    fn looked(
        &self,
        from: Position,
        looked: Result<Stretch, Error>,
    ) -> Result<Option<Stretch>, Error> {
        match looked {
            Ok(stretch) => Ok(Some(stretch)),
            Err(_) if from < self.positions().0 => Ok(None),
            Err(error) => {
                let segment = {
                    let state = self.0.state.read();
                    let number = state.segment_with_position(from);
                    number.map(|number| state.segments[number].name())
                };
                Err(match segment {
                    Some(segment) => self.note_bad_rows(segment, error),
                    None => error,
                })
            }
        }
    }

    /// Passes over segments that hold nothing that may be wanted; gives the position behind them, and whether
    /// the next one may hold something.
    fn pass_segments(&self, mut from: Position, wanted: &Wanted<'_>) -> (Position, bool) {
        for _ in 0..SEGMENTS_MAX {
            // A seal can name many logs: the lock is not held while they are looked at.
            let Some(seal) = self.0.state.read().seal_at(&mut from) else {
                return (from, true);
            };
            if wanted.may_be_of(&seal.logs) {
                return (from, true);
            }
            from = seal.next_position;
        }
        (from, false)
    }

    /// Where the records of a stretch stand, about `bytes_max` bytes of them: at least one record, or none if
    /// they were given up meanwhile.
    pub fn find_stretch(&self, stretch: &Stretch, bytes_max: usize) -> Result<Found, Error> {
        let found = self.find_parts(stretch.segment, &stretch.parts, bytes_max);
        let found = found.map_err(|error| self.note_bad_rows(stretch.segment, error))?;
        Ok(found.unwrap_or_else(|| Found {
            segment: stretch.segment,
            source: Source::Memory(Vec::new(), 0),
            parts: Vec::new(),
            may_leave_gaps: false,
            rest: Rest::Parts(Vec::new()),
        }))
    }

    /// Whether that can be told without a look at the disk.
    pub fn is_at_hand(&self, stretch: &Stretch) -> bool {
        let state = self.0.state.read();
        let segment = state.segment_named(stretch.segment);
        segment.is_none_or(|(_, segment)| segment.index.unloaded().is_none())
    }

    /// Where these runs of a segment stand; `None` if there are none, or the segment went.
    pub(super) fn find_parts(
        &self,
        name: SegmentName,
        parts: &[Part],
        budget: usize,
    ) -> Result<Option<Found>, Error> {
        if parts.is_empty() {
            return Ok(None);
        }
        self.with_rows(
            |state| state.segment_named(name)?.1.index.unloaded(),
            |state| {
                let Some((number, segment)) = state.segment_named(name) else {
                    return Ok(None);
                };
                if segment.damage.is_some() {
                    return Err(segment.damaged());
                }
                let wanted = parts.iter().map(|part| Ok(*part));
                let (source, found) = state.record_source(number, wanted, budget)?;
                let rest = parts[found.len()..].to_vec();
                Ok(Some(Found {
                    segment: name,
                    source,
                    parts: found,
                    may_leave_gaps: false,
                    rest: Rest::Parts(rest),
                }))
            },
        )
    }

    /// Whether a segment is still held.
    pub(in crate::log) fn has_segment(&self, name: SegmentName) -> bool {
        self.0.state.read().segment_named(name).is_some()
    }
}

impl LogState {
    /// The segment that is called so.
    fn segment_named(&self, name: SegmentName) -> Option<(usize, &Segment)> {
        let number = self.segment_number(name.base)?;
        let segment = &self.segments[number];
        (segment.name() == name).then_some((number, segment))
    }

    /// The segment that holds the record with a position, or would.
    fn segment_with_position(&self, position: Position) -> Option<usize> {
        let begins = |segment: &Segment| {
            let first = segment.first_position();
            first.is_some_and(|first| first <= position)
        };
        // Where an open segment without records begins is not known, and behind it there may be some.
        let is_open = |number: &usize| self.segments[*number].seal().is_none();
        let mut open = (0..self.segments.len()).rev().take_while(is_open);
        let last = open.find(|number| begins(&self.segments[*number]));
        // Segments without records that follow each other begin at one position: the last of those is meant.
        let sealed = |segment: &Segment| segment.seal().is_some() && begins(segment);
        last.or_else(|| self.segments.partition_point(sealed).checked_sub(1))
    }

    /// The seal of the segment that begins at a position, if it is sealed and holds anything.
    fn seal_at(&self, from: &mut Position) -> Option<Arc<Seal>> {
        *from = (*from).max(self.first_position);
        let segment = &self.segments[self.segment_with_position(*from)?];
        let seal = segment.seal().filter(|seal| seal.first_position == *from)?;
        (seal.first_position < seal.next_position).then(|| seal.clone())
    }

    fn stretch(
        &self,
        from: Position,
        wanted: &Wanted<'_>,
        course: &mut Course,
    ) -> Result<Looked<Stretch>, Error> {
        let (asked, end) = (from, self.next_position);
        let from = from.max(self.first_position);
        if from >= end {
            return match asked > end {
                true => Err(Error::PastEnd { asked, next: end }),
                false => Ok(Looked::Found(Stretch::empty(end))),
            };
        }
        let number = self.segment_with_position(from).ok_or(NO_ROW)?;
        let segment = &self.segments[number];
        if segment.damage.is_some() {
            return Err(segment.damaged());
        }
        if let Some(lazy) = segment.index.undirected() {
            return Ok(Looked::Needs(lazy));
        }
        let begin = segment.index.partition(|row| row.position <= from)?;
        let begin = begin.checked_sub(1).ok_or(NO_ROW)?;
        let found = match self.walk_some(number, (begin, from), wanted, course)? {
            Some(found) => found,
            None => self.walk_all(number, (begin, from), wanted)?,
        };
        Ok(Looked::Found(found))
    }

    /// Walks the rows of a segment from row `at` on, in which position `from` is.
    fn walk_all(
        &self,
        number: usize,
        (mut at, from): (usize, Position),
        wanted: &Wanted<'_>,
    ) -> Result<Stretch, Error> {
        let segment = &self.segments[number];
        let mut row = segment.index.row(at)?;
        let mut found = Stretch::empty_in(segment.name(), from);
        let mut passed = ByLog::<usize>::default();
        let mut bytes = 0;
        for _ in 0..ROWS_MAX {
            let (behind, next) = self.behind(number, at)?;
            if wanted.may_be(row.log) {
                let next_in_store = || {
                    let rows = segment.index.directory()?.rows_of(row.log).ok()??;
                    let passed = passed.entry(row.log).or_default();
                    *passed = first_from(&rows, *passed, at + 1).ok()?;
                    segment.index.next_in_store(&rows, *passed)
                };
                let behind = (behind.as_ref(), next);
                bytes += self.take(segment, &row, behind, next_in_store, &mut found)?;
            } else {
                found.go_to(&row, next)?;
            }
            match behind.filter(|_| bytes < READ_BYTES_MAX) {
                Some(behind) => (row, at) = (behind, at + 1),
                None => break,
            }
        }
        Ok(found)
    }

    /// Takes the records of a row as far as they may be read; gives the bytes to read for them. The row behind comes with
    /// the position behind the row's own records; `next_in_store` is for [`batch_end`].
    pub(super) fn take(
        &self,
        segment: &Segment,
        row: &Row,
        (behind, next): (Option<&Row>, Position),
        next_in_store: impl FnOnce() -> Option<Row>,
        found: &mut Stretch,
    ) -> Result<usize, Error> {
        let wanted = self.wanted_of(row, found.passed, next);
        found.go_to(row, next)?;
        let Some(from) = wanted else {
            return Ok(0);
        };
        let (row, end) = (*row, batch_end(segment, row, behind, next_in_store));
        found.parts.push(Part {
            row,
            next,
            from,
            end,
        });
        Ok(end.saturating_sub(row.place) as usize)
    }

    /// The offset of the first record of a row, from a position on, that may still be read.
    fn wanted_of(&self, row: &Row, from: Position, next: Position) -> Option<Offset> {
        let first = self.ends(row.log)?.first;
        let passed = from.0.saturating_sub(row.position.0);
        let from = Offset(row.offset.0 + passed).max(first);
        let end = Offset(row.offset.0 + (next.0 - row.position.0));
        (from < end).then_some(from)
    }
}
