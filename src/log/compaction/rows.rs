//! The rows of one log in a segment, some at a time.

use crate::log::format::row::Row;
use crate::log::format::seal::Seal;
use crate::log::index_maps::Looked;
use crate::log::{Error, Log, LogId, LogState};

/// Rows that are looked up at a time.
const STEP_ROWS: usize = 256;

impl Log {
    /// Some of a log's rows in a segment, from number `at` on, each with how many records it covers; none at the end.
    pub(super) fn rows_of(
        &self,
        seal: &Seal,
        log: LogId,
        at: usize,
    ) -> Result<Vec<(Row, u32)>, Error> {
        self.with_directories(|state| state.rows_of_log(seal, log, at))
    }
}

impl LogState {
    fn rows_of_log(
        &self,
        seal: &Seal,
        log: LogId,
        at: usize,
    ) -> Result<Looked<Vec<(Row, u32)>>, Error> {
        const ILL: Error = Error::Malformed("the rows are not in order");
        let number = self.segment_number(seal.base);
        let number = number.filter(|number| self.segments[*number].name() == seal.name());
        let Some(number) = number else {
            // What was trimmed away meanwhile supersedes nothing, and is superseded by nothing.
            return match seal.next_index() <= self.first_base() {
                true => Ok(Looked::Found(Vec::new())),
                false => Err(self.no_entry(seal.base)),
            };
        };
        let segment = &self.segments[number];
        if segment.damage.is_some() {
            return Err(segment.damaged());
        }
        if let Some(lazy) = segment.index.undirected() {
            return Ok(Looked::Needs(lazy));
        }
        let directory = segment.index.directory();
        let rows = directory
            .map(|directory| directory.rows_of(log))
            .transpose()?;
        let Some(rows) = rows.flatten() else {
            return Ok(Looked::Found(Vec::new()));
        };
        let mut found = Vec::new();
        for at in at..rows.len().min(at + STEP_ROWS) {
            let place = rows.number(at)?.ok_or(ILL)?;
            let row = segment.index.row_of(&rows, place)?;
            let (_, next) = self.behind(number, place)?;
            let count = next.0.checked_sub(row.position.0).ok_or(ILL)?;
            found.push((row, u32::try_from(count).map_err(|_| ILL)?));
        }
        Ok(Looked::Found(found))
    }
}
