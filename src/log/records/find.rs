//! Where the records of a log stand: in which segment, and by which rows.
//!
//! Only some segments hold records of a log. A segment's seal names its logs, and its directory tells at which offset
//! of a log the segment begins. It ends at the offset at which the next segment with records of that log begins.

use super::rows::Rows;
use super::{Found, Rest};
use crate::log::format::row::Row;
use crate::log::index_maps::Looked;
use crate::log::segment::Segment;
use crate::log::segment::search::InLog;
use crate::log::{Error, Index, LogId, LogState, Offset, Position};

pub(super) const NO_ROW: Error = Error::Malformed("no row covers a published offset");

/// Where a record is.
enum Near {
    /// In this segment.
    In(usize),
    /// Most likely in this one.
    Likely(usize),
}

impl LogState {
    /// Where the records of a log from `at` on stand; `None` at the log's end. Where compaction removed the record at
    /// `at`, the next one that lives comes first.
    pub(in crate::log) fn find(
        &self,
        log: LogId,
        at: Offset,
        budget: usize,
    ) -> Result<Looked<Option<Found>>, Error> {
        let Some(part) = self.logs.get(&log) else {
            return Err(Error::NoLog(log));
        };
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
            Looked::Found(Err(held)) if held < next && self.may_have_gaps(log) => {
                let first = self.next_of(0, log).ok_or(NO_ROW)?;
                return self.find_in(first, log, held, budget);
            }
            // The floor is durable before the checkpoint that holds the trims behind it.
            Looked::Found(Err(held)) if self.floor > Index(0) => {
                let (asked, first) = (at, held.min(next));
                return Err(Error::Trimmed { asked, first, next });
            }
            Looked::Found(Err(_)) => return Err(NO_ROW),
            Looked::Needs(lazy) => return Ok(Looked::Needs(lazy)),
        };
        match self.find_in(number, log, at, budget)? {
            Looked::Found(None) => self.find_behind(number, log, (at, next), budget),
            found => Ok(found),
        }
    }

    /// The same in a segment with records of the log; `None` if all of them stand before `at`.
    fn find_in(
        &self,
        number: usize,
        log: LogId,
        at: Offset,
        budget: usize,
    ) -> Result<Looked<Option<Found>>, Error> {
        let segment = &self.segments[number];
        if let Some(part) = self.logs.get(&log) {
            part.look(segment.base());
        }
        if segment.damage.is_some() {
            return Err(segment.damaged());
        }
        // Errors are made where they are told: to drop one each time that all is well is work.
        let Some(directory) = segment.index.directory() else {
            return Err(NO_ROW);
        };
        let Some(rows) = directory.rows_of(log)? else {
            return Err(NO_ROW);
        };
        let Some((found, next)) = segment.index.find_in(&rows, at)? else {
            return Err(NO_ROW);
        };
        let may_leave_gaps = segment.is_rewritten() && self.may_have_gaps(log);
        let (mut first, mut behind) = (found, self.behind_of(number, &found, next)?);
        let count = behind.1.0.saturating_sub(first.row.position.0);
        if first.row.offset.0.saturating_add(count) <= at.0 {
            if first.at + 1 == rows.len() {
                return Ok(Looked::Found(None));
            }
            if !may_leave_gaps {
                return Err(NO_ROW);
            }
            first = segment.index.row_in(&rows, first.at + 1)?;
            behind = self.behind_of(number, &first, None)?;
        }
        let rows = Rows {
            state: self,
            segment: number,
            rows,
            at: first.at + 1,
            ahead: Some((first.row, first.number)),
            behind: Some(behind),
        };
        let (source, mut parts) = self.record_source(number, rows, budget)?;
        if let Some(first) = parts.first_mut() {
            first.from = first.from.max(at);
        }
        Ok(Looked::Found(Some(Found {
            segment: segment.name(),
            source,
            parts,
            may_leave_gaps,
            rest: Rest::Log(log, at),
        })))
    }

    /// The same in the next segment with records of the log, if compaction removed those in between.
    fn find_behind(
        &self,
        number: usize,
        log: LogId,
        (at, next): (Offset, Offset),
        budget: usize,
    ) -> Result<Looked<Option<Found>>, Error> {
        // Where a damaged segment begins is not known, so the one before it was taken.
        if let Some(damaged) = self.damaged_behind(number, log) {
            return Err(damaged);
        }
        let Some(behind) = self.next_with(number, log) else {
            return Err(NO_ROW);
        };
        let mut between = self.segments.range(number..=behind);
        // What nothing removed is missing (I5): to go on behind it would lose it without a word.
        if !self.may_have_gaps(log) || !between.any(Segment::is_rewritten) {
            return Err(NO_ROW);
        }
        let begins = match self.begins_in(behind, log)? {
            Looked::Found((begins, _)) => begins,
            Looked::Needs(lazy) => return Ok(Looked::Needs(lazy)),
        };
        if begins <= at || begins >= next {
            return Err(NO_ROW);
        }
        self.find_in(behind, log, begins, budget)
    }

    /// The row behind a row, of which the next one of its log is known or not, and the position behind its records.
    fn behind_of(
        &self,
        number: usize,
        found: &InLog,
        next: Option<InLog>,
    ) -> Result<(Option<Row>, Position), Error> {
        match next.filter(|next| next.number == found.number + 1) {
            Some(next) => Ok((Some(next.row), next.row.position)),
            None => self.behind(number, found.number),
        }
    }

    /// The segment that holds a log's record: of those with records of the log the last that begins at or
    /// before it. If all begin behind it, where the first one does.
    fn holder_in(
        &self,
        log: LogId,
        at: Offset,
        looked: Index,
    ) -> Result<Looked<Result<usize, Offset>>, Error> {
        let has_log = |number: &usize| self.segments[*number].has_log(log);
        let hint = self.segment_number(looked).filter(has_log);
        let mut middle = match hint.map(|hint| self.near(hint, log, at)).transpose()? {
            Some(Near::In(number)) => return Ok(Looked::Found(Ok(number))),
            Some(Near::Likely(number)) => number,
            // The newest is asked most.
            None => self.segments.len().saturating_sub(1),
        };
        // Looks at segments, of which some have no records of the log: at the likely one, then close to it, then twice
        // as far away each time, until bisecting is quicker.
        let (mut low, mut high, mut step) = (0, self.segments.len(), 1);
        let (mut holder, mut held) = (None, Offset(u64::MAX));
        while low < high {
            let number = (middle..high).find(has_log);
            let begins = match number
                .map(|number| self.begins_in(number, log))
                .transpose()?
            {
                Some(Looked::Needs(lazy)) => return Ok(Looked::Needs(lazy)),
                Some(Looked::Found(begins)) => number.zip(Some(begins)),
                None => None,
            };
            match begins {
                Some((number, (begins, next))) if begins <= at => {
                    if next.is_some_and(|next| at < next) {
                        return Ok(Looked::Found(Ok(number)));
                    }
                    (low, holder) = (number + 1, Some(number));
                    middle = low + (step - 1).min((high - low) / 2);
                }
                behind => {
                    held = behind.map_or(held, |(_, (begins, _))| begins);
                    high = middle;
                    middle = high.saturating_sub(step).max(low + (high - low) / 2);
                }
            }
            step *= 2;
        }
        // None is before a first one that is damaged.
        let is_damaged = |number: &usize| self.segments[*number].damage.is_some();
        let first = || self.next_of(0, log).filter(is_damaged);
        Ok(Looked::Found(holder.or_else(first).ok_or(held)))
    }

    /// Where a log's record is, by what a segment with records of the log tells without a look at the disk.
    fn near(&self, number: usize, log: LogId, at: Offset) -> Result<Near, Error> {
        let last = self.segments.len() - 1;
        let Some((first, next)) = self.known_ends(number, log)? else {
            return Ok(Near::Likely(last));
        };
        // Segments hold about as many records of a log each.
        let each = next.map_or(u64::MAX, |next| next.0.saturating_sub(first.0).max(1));
        let segments = |records: u64| usize::try_from(records / each).unwrap_or(usize::MAX);
        if at < first {
            let back = segments(first.0 - at.0 - 1).saturating_add(1);
            return Ok(Near::Likely(number.saturating_sub(back)));
        }
        match next {
            Some(next) if at < next => return Ok(Near::In(number)),
            Some(next) if at > next => {
                let on = segments(at.0 - next.0).saturating_add(1);
                return Ok(Near::Likely(number.saturating_add(on).min(last)));
            }
            // Most reads go on where the last one ended: in that segment, or in the next.
            _ => {}
        }
        let Some(behind) = self.next_with(number, log) else {
            return Ok(Near::In(number));
        };
        Ok(match self.known_ends(behind, log)? {
            Some((first, _)) if at < first => Near::In(number),
            Some((_, Some(next))) if at < next => Near::In(behind),
            _ => Near::Likely(behind),
        })
    }

    /// The error of the next segment with records of a log, if it is damaged.
    fn damaged_behind(&self, number: usize, log: LogId) -> Option<Error> {
        let next = &self.segments[self.next_with(number, log)?];
        next.damage.is_some().then(|| next.damaged())
    }

    /// The next segment behind one that has records of a log.
    fn next_with(&self, number: usize, log: LogId) -> Option<usize> {
        self.next_of(number + 1, log)
    }

    /// The first segment from number `from` on that has records of a log.
    fn next_of(&self, from: usize, log: LogId) -> Option<usize> {
        (from..self.segments.len()).find(|number| self.segments[*number].has_log(log))
    }

    /// Where a segment begins in a log, and where it ends there if it is sealed; `None` if that is not known without a
    /// look at the disk, or the segment is not whole.
    fn known_ends(
        &self,
        number: usize,
        log: LogId,
    ) -> Result<Option<(Offset, Option<Offset>)>, Error> {
        let segment = &self.segments[number];
        let directory = segment
            .index
            .directory()
            .filter(|_| segment.damage.is_none());
        let rows = directory.map(|directory| directory.rows_of(log));
        let rows = rows.transpose()?.flatten();
        Ok(rows.map(|rows| (rows.first, rows.next)))
    }

    /// Where a segment begins in a log of which it has records. Of a damaged one it is not known: it begins
    /// where the one before ends, or later. And where a sealed one ends in it.
    fn begins_in(
        &self,
        number: usize,
        log: LogId,
    ) -> Result<Looked<(Offset, Option<Offset>)>, Error> {
        if let Some(known) = self.known_ends(number, log)? {
            return Ok(Looked::Found(known));
        }
        if let Some(unknown) = self.unknown_of(number) {
            return unknown;
        }
        Ok(match self.end_in(number, log)? {
            Looked::Found(end) => Looked::Found((end, None)),
            Looked::Needs(lazy) => Looked::Needs(lazy),
        })
    }

    /// What is to be done before it is known where a segment begins in its logs; `None` if it is damaged, or open.
    fn unknown_of<T>(&self, number: usize) -> Option<Result<Looked<T>, Error>> {
        let segment = &self.segments[number];
        let lazy = segment.index.lazy().filter(|_| segment.damage.is_none())?;
        Some(match lazy.directory() {
            None => Ok(Looked::Needs(lazy.clone())),
            Some(_) => Err(NO_ROW),
        })
    }

    /// The offset in a log behind a segment's records of it.
    pub(in crate::log) fn end_in(
        &self,
        number: usize,
        log: LogId,
    ) -> Result<Looked<Offset>, Error> {
        let mut at = number;
        // There may be thousands of damaged ones side by side.
        while let Some(next) = self.next_with(at, log) {
            if let Some((begins, _)) = self.known_ends(next, log)? {
                return Ok(Looked::Found(begins));
            }
            if let Some(unknown) = self.unknown_of(next) {
                return unknown;
            }
            at = next;
        }
        Ok(Looked::Found(self.ends(log).unwrap_or_default().next))
    }

    /// The row behind a segment's row, and the position behind that one's records.
    pub(in crate::log) fn behind(
        &self,
        number: usize,
        row: usize,
    ) -> Result<(Option<Row>, Position), Error> {
        let index = &self.segments[number].index;
        let behind = (row + 1 < index.rows()).then(|| index.row(row + 1));
        let behind = behind.transpose()?;
        let next = behind.map_or_else(|| self.end_of_rows(number), |behind| behind.position);
        Ok((behind, next))
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
