//! Finding rows of an index: by a log's offset, by raft index.

use std::sync::Arc;

use super::directory::LogRows;
use super::index::RowIndex;
use super::lazy_map::LazyMap;
use crate::log::format::row::Row;
use crate::log::{Error, Offset};

/// Guesses before a search bisects.
const GUESSES: usize = 3;

/// The keys that are searched: they grow; the first one is known, and perhaps what is behind the last.
struct Keys {
    count: usize,
    first: u64,
    behind: Option<u64>,
}

/// Where a search ended.
struct Ended<T> {
    /// The number of the last key that is not behind the wanted one.
    at: usize,
    /// What was read with it, and with the next one, as far as they were read.
    read: Option<T>,
    next: Option<T>,
}

/// The last key at or before `wanted`.
///
/// They grow evenly as a rule, so a few guesses come close before the rest is bisected.
fn last_at<T>(
    keys: &Keys,
    wanted: u64,
    read: impl Fn(usize) -> Result<(u64, T), Error>,
) -> Result<Option<Ended<T>>, Error> {
    if keys.count == 0 || wanted < keys.first {
        return Ok(None);
    }
    // The key `low` is at or before the wanted one; the key `high` is not, or is behind the last.
    let (mut low, mut high) = (0, keys.count);
    let (mut low_key, mut high_key) = (keys.first, keys.behind.filter(|behind| *behind > wanted));
    let (mut found, mut next) = (None, None);
    for _ in 0..GUESSES {
        if high - low <= 1 {
            break;
        }
        let last = match high_key {
            Some(last) => last,
            None => read(keys.count - 1)?.0.max(wanted).saturating_add(1),
        };
        // Keys that do not grow are damage, which is found when the row is looked at.
        let spread = last.saturating_sub(low_key).max(1);
        let share = u128::from(wanted - low_key) * (high - low) as u128;
        let guess = usize::try_from(share / u128::from(spread)).unwrap_or(0);
        // A step further than the guess: the one looked for is most likely the one before.
        for number in [low + guess, low + guess + 1] {
            let number = number.clamp(low + 1, high - 1);
            let (key, what) = read(number)?;
            if key <= wanted {
                (low, low_key, found) = (number, key, Some(what));
            } else {
                (high, high_key, next) = (number, Some(key), Some(what));
                break;
            }
            if high - low <= 1 {
                break;
            }
        }
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let (key, what) = read(middle)?;
        if key <= wanted {
            (low, found) = (middle, Some(what));
        } else {
            (high, next) = (middle, Some(what));
        }
    }
    Ok(Some(Ended {
        at: low,
        read: found,
        next,
    }))
}

/// One of a log's rows.
#[derive(Debug, Clone, Copy)]
pub struct InLog {
    /// Which of the log's rows it is.
    pub at: usize,
    /// Its number among all rows.
    pub number: usize,
    pub row: Row,
}

impl RowIndex {
    /// The last of a log's rows at or before `offset`, and the log's next one if it was read.
    pub fn find_in(
        &self,
        rows: &LogRows<'_>,
        offset: Offset,
    ) -> Result<Option<(InLog, Option<InLog>)>, Error> {
        let keys = Keys {
            count: rows.len(),
            first: rows.first.0,
            behind: rows.next.map(|next| next.0),
        };
        let read = |at: usize| {
            let found = self.row_in(rows, at)?;
            Ok((found.row.offset.0, found))
        };
        let Some(ended) = last_at(&keys, offset.0, read)? else {
            return Ok(None);
        };
        let found = match ended.read {
            Some(found) => found,
            None => self.row_in(rows, ended.at)?,
        };
        Ok(Some((found, ended.next)))
    }

    /// The row with this number among a log's.
    pub fn row_in(&self, rows: &LogRows<'_>, at: usize) -> Result<InLog, Error> {
        let Some(number) = rows.number(at)? else {
            return Err(Error::Malformed("a log has fewer rows"));
        };
        let row = self.row_of(rows, number)?;
        Ok(InLog { at, number, row })
    }

    /// The row with this number among all, which is one of a log's.
    pub fn row_of(&self, rows: &LogRows<'_>, number: usize) -> Result<Row, Error> {
        let row = self.row(number)?;
        match row.log == rows.log {
            true => Ok(row),
            false => Err(Error::Malformed("the directory names a row of another log")),
        }
    }

    /// The row behind the first `at` of a log, or the first one of the next log: in a store that holds its batches log by
    /// log, that one's batch stands next. `None` if there is none, or it does not check: whoever reads it is told.
    pub fn next_in_store(&self, rows: &LogRows<'_>, at: usize) -> Option<Row> {
        if let Some(number) = rows.number(at).ok()? {
            return self.row_of(rows, number).ok();
        }
        let behind = self.directory()?.rows_behind(rows.log).ok()??;
        self.row_of(&behind, behind.number(0).ok()??).ok()
    }

    /// What must be loaded first, so that looking for rows waits for no disk.
    pub fn unloaded(&self) -> Option<Arc<LazyMap>> {
        self.lazy().filter(|lazy| !lazy.is_loaded()).cloned()
    }

    /// What must be loaded first, so that looking for the rows of a log waits for no disk.
    pub fn undirected(&self) -> Option<Arc<LazyMap>> {
        let lazy = self.lazy()?;
        let is_there = lazy.is_loaded() && lazy.directory().is_some();
        (!is_there).then(|| lazy.clone())
    }

    /// How many rows, from the first, `holds` is true for.
    pub fn partition(&self, holds: impl Fn(Row) -> bool) -> Result<usize, Error> {
        let (mut low, mut high) = (0, self.rows());
        while low < high {
            let middle = low + (high - low) / 2;
            if holds(self.row(middle)?) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}
