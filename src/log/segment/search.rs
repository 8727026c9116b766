//! Finding rows of an index: by offset, by raft index.

use super::index::OffsetIndex;
use crate::log::format::row::Row;
use crate::log::{Error, Index, Offset};

/// Guesses before a search bisects.
const GUESSES: usize = 3;

impl OffsetIndex {
    /// The number of the last row at or before `offset`.
    ///
    /// Offsets grow evenly as a rule, so a few guesses come close before the rest is bisected.
    pub fn find(&self, offset: Offset) -> Result<Option<usize>, Error> {
        let first = self.first_offset();
        if self.rows() == 0 || offset < first {
            return Ok(None);
        }
        // The row `low` is at or before the offset; the row `high` is not, or is behind the last.
        let (mut low, mut high) = (0, self.rows());
        let (mut low_offset, mut high_offset) = (first.0, None);
        for _ in 0..GUESSES {
            if high - low <= 1 {
                break;
            }
            let last = match high_offset {
                Some(last) => last,
                None => self
                    .row(self.rows() - 1)?
                    .offset
                    .0
                    .max(offset.0)
                    .saturating_add(1),
            };
            let share = u128::from(offset.0 - low_offset) * (high - low) as u128;
            let guess = share / u128::from((last - low_offset).max(1));
            let guess = usize::try_from(guess).unwrap_or(0);
            // A step further than the guess: the row looked for is most likely the one before.
            for number in [low + guess, low + guess + 1] {
                let number = number.clamp(low + 1, high - 1);
                let row = self.row(number)?;
                if row.offset <= offset {
                    (low, low_offset) = (number, row.offset.0);
                } else {
                    (high, high_offset) = (number, Some(row.offset.0));
                    break;
                }
                if high - low <= 1 {
                    break;
                }
            }
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.row(middle)?.offset <= offset {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(Some(low))
    }

    /// The first row of an entry behind `index`; row `from` is most likely the one.
    pub fn row_after(&self, index: Index, from: usize) -> Result<Option<Row>, Error> {
        if from < self.rows() {
            let row = self.row(from)?;
            if row.index > index {
                return Ok(Some(row));
            }
        }
        let number = self.partition(|row| row.index <= index)?;
        (number < self.rows()).then(|| self.row(number)).transpose()
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
