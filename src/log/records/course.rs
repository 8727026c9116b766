//! Which rows of a segment a reader of several logs walks: all of them, or those of its logs alone.
//!
//! Where its logs have few of a segment's rows, the reader walks those rows. The directory gives their numbers, whose
//! order is that of positions. Where they have many, walking all rows is as quick. The choice is made once for many looks.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::find::NO_ROW;
use super::stretch::{ROWS_MAX, Stretch};
use crate::log::format::files::SegmentName;
use crate::log::format::log_set::LogSet;
use crate::log::read::READ_BYTES_MAX;
use crate::log::segment::directory::LogRows;
use crate::log::{Error, LogId, LogState, Position};

/// Rows of which all are walked, whatever is wanted of them.
const FEW_ROWS: usize = if cfg!(test) { 4 } else { ROWS_MAX };
/// The most logs whose rows are walked one beside the other.
const RUNS_MAX: usize = 1024;
/// All rows are walked if one in so many is wanted.
const WANTED_SHARE: usize = if cfg!(test) { 1 } else { 4 };
/// To ask of each log of a directory whether it is wanted, takes about as long as to walk so many rows.
const ROWS_OF_LOOK: usize = if cfg!(test) { 1 } else { 8 };

/// Which logs a reader wants.
#[derive(Clone, Copy)]
pub enum Wanted<'a> {
    /// These, in order.
    These(&'a [LogId]),
    /// The logs for which this says true, at most. Once it says false of a log, it says so for good.
    Those(&'a dyn Fn(LogId) -> bool),
}

impl Wanted<'_> {
    /// Whether a log may be wanted.
    pub(super) fn may_be(&self, log: LogId) -> bool {
        match self {
            Self::These(logs) => logs.binary_search(&log).is_ok(),
            Self::Those(holds) => log != LogId::GONE && holds(log),
        }
    }

    /// Whether any of a set may be.
    pub(super) fn may_be_of(&self, set: &LogSet) -> bool {
        match self {
            Self::These(logs) => logs.iter().any(|log| set.contains(*log)),
            Self::Those(_) => set.iter().any(|log| self.may_be(log)),
        }
    }
}

/// What was decided of a segment, to be kept from one look to the next.
#[derive(Debug, Default)]
pub struct Course {
    /// The segment.
    segment: Option<SegmentName>,
    /// It holds for the rows before this one.
    until: usize,
    /// The logs whose rows are walked; `None` if all rows are.
    runs: Option<Vec<Run>>,
}

/// A log that has rows in the segment.
#[derive(Debug)]
struct Run {
    log: LogId,
    /// How many of its rows were passed by the last look.
    at: usize,
}

impl LogState {
    /// Walks the rows of the logs that are wanted, from row `begin` on, in which or behind which position `from` is; `None`
    /// if all rows are to be walked.
    pub(super) fn walk_some(
        &self,
        number: usize,
        (begin, from): (usize, Position),
        wanted: &Wanted<'_>,
        course: &mut Course,
    ) -> Result<Option<Stretch>, Error> {
        let segment = &self.segments[number];
        let left = segment.index.rows().saturating_sub(begin);
        if left <= FEW_ROWS {
            return Ok(None);
        }
        if course.segment != Some(segment.name()) || begin >= course.until {
            *course = self.course(number, begin, wanted)?;
        }
        let until = course.until;
        let Some(runs) = &mut course.runs else {
            return Ok(None);
        };
        runs.retain(|run| wanted.may_be(run.log));
        let mut lists = Vec::with_capacity(runs.len());
        let directory = segment.index.directory().ok_or(NO_ROW)?;
        for run in runs.iter_mut() {
            let rows = directory.rows_of(run.log)?.ok_or(NO_ROW)?;
            run.at = first_from(&rows, run.at, begin)?;
            lists.push(rows);
        }
        self.merge(number, from, (runs, &lists), until).map(Some)
    }

    /// Decides which rows to walk of those from `begin` on.
    fn course(&self, number: usize, begin: usize, wanted: &Wanted<'_>) -> Result<Course, Error> {
        let segment = &self.segments[number];
        let index = &segment.index;
        let (all, directory) = (index.rows(), index.directory().ok_or(NO_ROW)?);
        let looks = directory.logs().saturating_mul(ROWS_OF_LOOK);
        let mut until = all;
        let logs = match wanted {
            Wanted::These(logs) => {
                let here = logs.iter().copied().filter(|log| segment.has_log(*log));
                here.take(RUNS_MAX + 1).collect()
            }
            // As more of them are known not to be meant, fewer may be wanted.
            Wanted::Those(_) => {
                until = begin.saturating_add(looks.max(ROWS_MAX)).min(all);
                match looks <= all - begin {
                    true => directory.logs_of(&|log| wanted.may_be(log), RUNS_MAX + 1),
                    false => Vec::new(),
                }
            }
        };
        let mut rows = 0;
        for log in &logs {
            rows += directory.rows_of(*log)?.map_or(0, |rows| rows.len());
        }
        let segment = Some(segment.name());
        let is_few = !logs.is_empty() && logs.len() <= RUNS_MAX && rows * WANTED_SHARE < all;
        if !is_few {
            let runs = None;
            return Ok(Course {
                segment,
                until,
                runs,
            });
        }
        let runs = logs.into_iter().map(|log| Run { log, at: 0 });
        Ok(Course {
            segment,
            until: all,
            runs: Some(runs.collect()),
        })
    }

    /// The rows of these logs that are before row `until`, in order.
    fn merge(
        &self,
        number: usize,
        from: Position,
        (runs, lists): (&mut [Run], &[LogRows<'_>]),
        until: usize,
    ) -> Result<Stretch, Error> {
        let segment = &self.segments[number];
        let index = &segment.index;
        let next_of = |run: &Run, list: &LogRows<'_>| {
            let next = list.number(run.at)?;
            Ok::<_, Error>(next.filter(|next| *next < until))
        };
        let mut heads = Vec::with_capacity(runs.len());
        for (place, (run, list)) in runs.iter().zip(lists).enumerate() {
            heads.extend(next_of(run, list)?.map(|row| Reverse((row, place))));
        }
        let mut heads = BinaryHeap::from(heads);
        let mut found = Stretch::empty_in(segment.name(), from);
        let mut bytes = 0;
        for _ in 0..ROWS_MAX {
            let Some(Reverse((at, place))) = heads.pop() else {
                break;
            };
            let row = index.row_of(&lists[place], at)?;
            let (behind, next) = self.behind(number, at)?;
            runs[place].at += 1;
            let next_in_store = || index.next_in_store(&lists[place], runs[place].at);
            let behind = (behind.as_ref(), next);
            bytes += self.take(segment, &row, behind, next_in_store, &mut found)?;
            match next_of(&runs[place], &lists[place])? {
                Some(next) if next > at => heads.push(Reverse((next, place))),
                Some(_) => return Err(Error::Malformed("the rows of a log are not in order")),
                None => {}
            }
            if bytes >= READ_BYTES_MAX {
                break;
            }
        }
        if heads.is_empty() {
            let end = match until < index.rows() {
                true => index.row(until)?.position,
                false => self.end_of_rows(number),
            };
            found.pass(end);
        }
        Ok(found)
    }
}

/// How many of a log's rows are before row `begin`. As many as before, or a few more, is the likeliest.
pub(super) fn first_from(rows: &LogRows<'_>, likely: usize, begin: usize) -> Result<usize, Error> {
    let is_before = |at: usize| Ok::<_, Error>(rows.number(at)?.is_some_and(|row| row < begin));
    let (mut low, mut high) = match likely.checked_sub(1) {
        Some(last) if !is_before(last)? => (0, last),
        _ => {
            let (mut low, mut step) = (likely, 1);
            while low + step <= rows.len() && is_before(low + step - 1)? {
                low += step;
                step *= 2;
            }
            (low, (low + step - 1).min(rows.len()))
        }
    };
    while low < high {
        let middle = low + (high - low) / 2;
        match is_before(middle)? {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    Ok(low)
}
