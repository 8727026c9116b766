//! The rows of a log in a segment as the runs of records that they name.

use super::Part;
use super::source::batch_end;
use crate::log::format::row::Row;
use crate::log::segment::directory::LogRows;
use crate::log::{Error, LogState, Position};

/// The runs of a log in a segment, one after the other.
pub(super) struct Rows<'a> {
    pub state: &'a LogState,
    pub segment: usize,
    pub rows: LogRows<'a>,
    /// How many of the rows are passed.
    pub at: usize,
    /// The next one, if it was read.
    pub ahead: Option<(Row, usize)>,
    /// What is behind that one, if it was looked for.
    pub behind: Option<(Option<Row>, Position)>,
}

impl Rows<'_> {
    /// The next row, and its number.
    fn row(&mut self) -> Result<Option<(Row, usize)>, Error> {
        if let Some(ahead) = self.ahead.take() {
            return Ok(Some(ahead));
        }
        let Some(number) = self.rows.number(self.at)? else {
            return Ok(None);
        };
        self.at += 1;
        let index = &self.state.segments[self.segment].index;
        Ok(Some((index.row_of(&self.rows, number)?, number)))
    }

    fn part(&mut self) -> Result<Option<Part>, Error> {
        let Some((row, number)) = self.row()? else {
            return Ok(None);
        };
        let (behind, next) = match self.behind.take() {
            Some(known) => known,
            None => self.state.behind(self.segment, number)?,
        };
        // Where a log is alone the next row of all is also its own: it need not be read twice.
        if let Some(behind) = behind.filter(|behind| behind.log == row.log)
            && self.rows.number(self.at)? == Some(number + 1)
        {
            if behind.offset <= row.offset {
                return Err(Error::Malformed("the rows are not in order"));
            }
            self.ahead = Some((behind, number + 1));
            self.at += 1;
        }
        let segment = &self.state.segments[self.segment];
        let end = batch_end(segment, &row, behind.as_ref(), || self.next_in_store());
        Ok(Some(Part {
            end,
            row,
            next,
            from: row.offset,
        }))
    }

    /// The row whose batch stands next in a rewritten segment.
    fn next_in_store(&mut self) -> Option<Row> {
        if self.ahead.is_none() {
            let at = self.at;
            match self.row() {
                Ok(ahead) => self.ahead = ahead,
                // Whoever reads on is told.
                Err(_) => self.at = at,
            }
        }
        let index = &self.state.segments[self.segment].index;
        match self.ahead {
            Some((next, _)) => Some(next),
            None => index.next_in_store(&self.rows, self.at),
        }
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<Part, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.part().transpose()
    }
}
