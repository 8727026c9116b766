//! Which rows of a segment belong to which log.
//!
//! Rows stand in the order of commit, those of all logs among each other. The directory leads from a log to
//! its own. It follows from the rows and is kept in memory alone: with an open index, and with the map of
//! a sealed one.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use super::index_file::{place, row_in};
use crate::log::format::row::{Bases, Row};
use crate::log::{Error, LogId, Offset};

/// The rows of each log.
#[derive(Debug, Default)]
pub struct Directory {
    logs: HashMap<LogId, LogRows>,
    rows: u32,
}

/// The rows of one log: at least one.
#[derive(Debug)]
pub struct LogRows {
    /// The offset of the first record.
    pub first: Offset,
    /// The offset of the last row.
    last: Offset,
    numbers: Numbers,
}

/// The numbers of rows, in order. Where one log has all rows, as one often does, they take no memory.
#[derive(Debug)]
enum Numbers {
    Run(Range<u32>),
    List(Vec<u32>),
}

impl Directory {
    /// Takes note of the next row; false if it goes back in its log.
    pub fn push(&mut self, row: &Row) -> bool {
        let number = self.rows;
        self.rows += 1;
        let new = || LogRows {
            first: row.offset,
            last: row.offset,
            numbers: Numbers::Run(number..number),
        };
        let rows = self.logs.entry(row.log).or_insert_with(new);
        let is_first = rows.is_empty();
        rows.numbers.push(number);
        let follows = is_first || rows.last < row.offset;
        rows.last = row.offset;
        follows
    }

    /// The memory that it takes, in bytes, about.
    pub fn bytes(&self) -> usize {
        let lists = self.logs.values().map(|rows| match &rows.numbers {
            Numbers::Run(_) => 0,
            Numbers::List(list) => list.capacity() * size_of::<u32>(),
        });
        lists.sum::<usize>() + self.logs.capacity() * size_of::<(LogId, LogRows)>()
    }

    /// The rows of a log; `None` if it has none here.
    pub fn rows_of(&self, log: LogId) -> Option<&LogRows> {
        self.logs.get(&log)
    }
}

impl LogRows {
    /// How many.
    pub fn len(&self) -> usize {
        match &self.numbers {
            Numbers::Run(run) => run.len(),
            Numbers::List(list) => list.len(),
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number among all rows of the log's row `at`.
    pub fn number(&self, at: usize) -> Option<usize> {
        match &self.numbers {
            Numbers::Run(run) => (at < run.len()).then(|| run.start as usize + at),
            Numbers::List(list) => list.get(at).map(|number| *number as usize),
        }
    }
}

impl Numbers {
    fn push(&mut self, number: u32) {
        match self {
            Self::Run(run) if run.end == number => run.end += 1,
            Self::Run(run) => *self = Self::List(run.clone().chain([number]).collect()),
            Self::List(list) => list.push(number),
        }
    }
}

/// The directory of so many rows.
pub fn directory_of(
    bytes: &[u8],
    bases: &Bases,
    rows: usize,
    path: &Path,
) -> Result<Directory, Error> {
    let mut directory = Directory::default();
    for number in 0..rows {
        let row = row_in(bytes, bases, number);
        if !row.is_some_and(|row| directory.push(&row)) {
            return Err(Error::Corrupt {
                path: path.to_owned(),
                position: place(number) as u64,
                what: "a row does not check, or goes back in its log",
            });
        }
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Index, Position};

    fn row(log: u32, offset: u64) -> Row {
        Row {
            position: Position(0),
            index: Index(0),
            place: 32,
            check: 0,
            log: LogId(log),
            offset: Offset(offset),
        }
    }

    #[test]
    fn each_log_finds_its_rows() {
        let mut directory = Directory::default();
        let rows = [(7, 0), (7, 3), (1, 9), (7, 4), (1, 11)];
        assert!(rows.iter().all(|(log, at)| directory.push(&row(*log, *at))));
        let numbers = |log| {
            let rows = directory.rows_of(LogId(log)).unwrap();
            let numbers = (0..rows.len()).map(|at| rows.number(at).unwrap());
            (
                rows.first,
                numbers.collect::<Vec<_>>(),
                rows.number(rows.len()),
            )
        };
        assert_eq!(numbers(7), (Offset(0), vec![0, 1, 3], None));
        assert_eq!(numbers(1), (Offset(9), vec![2, 4], None));
        assert!(directory.rows_of(LogId(2)).is_none());
        assert!(!directory.push(&row(1, 11)), "it goes back");
    }
}
