//! Finding rows of an index: by a log's offset, by raft index.

use super::directory::LogRows;
use super::index::RowIndex;
use crate::log::format::row::Row;
use crate::log::{Error, Offset};

/// Guesses before a search bisects.
const GUESSES: usize = 3;

/// The number of the last of `count` keys at or before `wanted`. Keys grow; the first is known.
///
/// They grow evenly as a rule, so a few guesses come close before the rest is bisected.
fn last_at(
    count: usize,
    first: u64,
    wanted: u64,
    key: impl Fn(usize) -> Result<u64, Error>,
) -> Result<Option<usize>, Error> {
    if count == 0 || wanted < first {
        return Ok(None);
    }
    // The key `low` is at or before the wanted one; the key `high` is not, or is behind the last.
    let (mut low, mut high) = (0, count);
    let (mut low_key, mut high_key) = (first, None);
    for _ in 0..GUESSES {
        if high - low <= 1 {
            break;
        }
        let last = match high_key {
            Some(last) => last,
            None => key(count - 1)?.max(wanted).saturating_add(1),
        };
        // Keys that do not grow are damage, which is found when the row is looked at.
        let spread = last.saturating_sub(low_key).max(1);
        let share = u128::from(wanted - low_key) * (high - low) as u128;
        let guess = usize::try_from(share / u128::from(spread)).unwrap_or(0);
        // A step further than the guess: the one looked for is most likely the one before.
        for number in [low + guess, low + guess + 1] {
            let number = number.clamp(low + 1, high - 1);
            let found = key(number)?;
            if found <= wanted {
                (low, low_key) = (number, found);
            } else {
                (high, high_key) = (number, Some(found));
                break;
            }
            if high - low <= 1 {
                break;
            }
        }
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if key(middle)? <= wanted {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(Some(low))
}

impl RowIndex {
    /// Which of a log's rows is the last at or before `offset`.
    pub fn find_in(&self, rows: &LogRows<'_>, offset: Offset) -> Result<Option<usize>, Error> {
        last_at(rows.len(), rows.first.0, offset.0, |at| {
            Ok(self.row_in(rows, at)?.offset.0)
        })
    }

    /// The row with this number among a log's.
    pub fn row_in(&self, rows: &LogRows<'_>, at: usize) -> Result<Row, Error> {
        let number = rows.number(at)?;
        self.row_of(
            rows,
            number.ok_or(Error::Malformed("a log has fewer rows"))?,
        )
    }

    /// The row with this number among all, which is one of a log's.
    pub fn row_of(&self, rows: &LogRows<'_>, number: usize) -> Result<Row, Error> {
        let row = self.row(number)?;
        match row.log == rows.log {
            true => Ok(row),
            false => Err(Error::Malformed("the directory names a row of another log")),
        }
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
