//! Which rows of a segment belong to which log.
//!
//! Rows stand in the order of commit, those of all logs among each other. The directory leads from a log to
//! its own. That of an open index is kept in memory with its rows. That of a sealed one stands in the seal, and is
//! read from a map of it, by pieces that are checked each time.

use std::ops::Range;
use std::path::Path;

use super::index_file::{place, row_in};
use crate::log::format::directory::{ByLog, Listed, Listing, Place};
use crate::log::format::log_set::LogSet;
use crate::log::format::row::{Bases, Row};
use crate::log::{Error, LogId, Offset};

const BAD_ROW: &str = "a row does not check, or goes back in its log";
const BAD_PIECE: &str = "a part of the directory does not check";

/// The rows of each log, as they come.
#[derive(Debug, Default)]
pub struct Directory {
    logs: ByLog<OpenRows>,
    rows: u32,
}

/// The rows of one log: at least one.
#[derive(Debug)]
struct OpenRows {
    first: Offset,
    /// The offset of the last row.
    last: Offset,
    numbers: OpenNumbers,
}

/// The numbers of rows, in order. Where one log has all rows, as one often does, they take no memory.
#[derive(Debug)]
enum OpenNumbers {
    Run(Range<u32>),
    List(Vec<u32>),
}

/// The directory in the map of a seal.
#[derive(Debug, Clone, Copy)]
pub struct Sealed<'a> {
    pub listed: Listed<'a>,
    /// The logs that it lists.
    pub logs: &'a LogSet,
    pub path: &'a Path,
    /// Where it begins in its file.
    pub begins: usize,
}

/// A directory to look into.
#[derive(Debug, Clone, Copy)]
pub enum View<'a> {
    Open(&'a Directory),
    Sealed(Sealed<'a>),
}

/// The rows of one log: at least one.
#[derive(Debug, Clone)]
pub struct LogRows<'a> {
    /// Which log.
    pub log: LogId,
    /// The offset of the first record.
    pub first: Offset,
    /// The offset after the last record, if that is known.
    pub next: Option<Offset>,
    numbers: Numbers<'a>,
}

/// Where the numbers of its rows are.
#[derive(Debug, Clone)]
enum Numbers<'a> {
    Run(Range<u32>),
    List(&'a [u32]),
    Sealed(Sealed<'a>, Range<u32>),
}

impl Directory {
    /// Takes note of the next row; false if it goes back in its log.
    pub fn push(&mut self, row: &Row) -> bool {
        let number = self.rows;
        self.rows += 1;
        let new = || OpenRows {
            first: row.offset,
            last: row.offset,
            numbers: OpenNumbers::Run(number..number),
        };
        let rows = self.logs.entry(row.log).or_insert_with(new);
        let is_first = rows.numbers.is_empty();
        rows.numbers.push(number);
        let follows = is_first || rows.last < row.offset;
        rows.last = row.offset;
        follows
    }

    fn rows_of(&self, log: LogId) -> Option<LogRows<'_>> {
        let rows = self.logs.get(&log)?;
        Some(LogRows {
            log,
            first: rows.first,
            next: None,
            numbers: match &rows.numbers {
                OpenNumbers::Run(run) => Numbers::Run(run.clone()),
                OpenNumbers::List(list) => Numbers::List(list),
            },
        })
    }

    /// Whether a log has rows.
    pub fn has(&self, log: LogId) -> bool {
        self.logs.contains_key(&log)
    }
}

impl OpenNumbers {
    fn is_empty(&self) -> bool {
        matches!(self, Self::Run(run) if run.is_empty())
    }

    fn push(&mut self, number: u32) {
        match self {
            Self::Run(run) if run.end == number => run.end += 1,
            Self::Run(run) => *self = Self::List(run.clone().chain([number]).collect()),
            Self::List(list) => list.push(number),
        }
    }
}

impl<'a> Sealed<'a> {
    fn listing(self, log: LogId) -> Result<Option<Listing>, Error> {
        let Some(place) = self.logs.place_of(log) else {
            return Ok(None);
        };
        let entry = self.listed.entry(place).filter(|entry| entry.log == log);
        entry.ok_or_else(|| self.corrupt()).map(Some)
    }

    fn rows_of(self, log: LogId) -> Result<Option<LogRows<'a>>, Error> {
        Ok(self.listing(log)?.map(|entry| self.rows_in(&entry)))
    }

    fn rows_behind(self, log: LogId) -> Result<Option<LogRows<'a>>, Error> {
        let place = self.logs.place_of(log).map(|place| place + 1);
        let Some(place) = place.filter(|place| *place < self.logs.len()) else {
            return Ok(None);
        };
        let entry = self.listed.entry(place).filter(|entry| entry.log > log);
        let entry = entry.ok_or_else(|| self.corrupt())?;
        Ok(Some(self.rows_in(&entry)))
    }

    fn rows_in(self, entry: &Listing) -> LogRows<'a> {
        let from = |first: u32| first..first.saturating_add(entry.rows);
        LogRows {
            log: entry.log,
            first: entry.first,
            next: Some(entry.next),
            numbers: match entry.place {
                Place::Run(row) => Numbers::Run(from(row)),
                Place::List(place) => Numbers::Sealed(self, from(place)),
            },
        }
    }

    fn corrupt(&self) -> Error {
        Error::Corrupt {
            path: self.path.to_owned(),
            position: self.begins as u64,
            what: BAD_PIECE,
        }
    }
}

impl<'a> View<'a> {
    /// What a sealed segment's directory says of a log; `None` if it has no rows here, or the segment is open.
    pub fn listing(self, log: LogId) -> Result<Option<Listing>, Error> {
        match self {
            Self::Open(_) => Ok(None),
            Self::Sealed(sealed) => sealed.listing(log),
        }
    }

    /// The rows of a log; `None` if it has none here.
    pub fn rows_of(self, log: LogId) -> Result<Option<LogRows<'a>>, Error> {
        match self {
            Self::Open(directory) => Ok(directory.rows_of(log)),
            Self::Sealed(sealed) => sealed.rows_of(log),
        }
    }

    /// The rows of the log that a sealed segment's directory lists next; `None` behind the last, or if the segment is open.
    pub fn rows_behind(self, log: LogId) -> Result<Option<LogRows<'a>>, Error> {
        match self {
            Self::Open(_) => Ok(None),
            Self::Sealed(sealed) => sealed.rows_behind(log),
        }
    }

    /// How many logs have rows.
    pub fn logs(self) -> usize {
        match self {
            Self::Open(directory) => directory.logs.len(),
            Self::Sealed(sealed) => sealed.logs.len(),
        }
    }

    /// Up to so many of the logs with rows of which `holds` is true.
    pub fn logs_of(self, holds: &dyn Fn(LogId) -> bool, logs_max: usize) -> Vec<LogId> {
        let holds = |log: &LogId| holds(*log);
        match self {
            Self::Open(directory) => {
                let logs = directory.logs.keys().copied();
                logs.filter(holds).take(logs_max).collect()
            }
            Self::Sealed(sealed) => sealed.logs.iter().filter(holds).take(logs_max).collect(),
        }
    }
}

impl LogRows<'_> {
    /// How many.
    pub fn len(&self) -> usize {
        match &self.numbers {
            Numbers::Run(run) | Numbers::Sealed(_, run) => run.len(),
            Numbers::List(list) => list.len(),
        }
    }

    /// The number among all rows of the log's row `at`; `None` behind the last.
    pub fn number(&self, at: usize) -> Result<Option<usize>, Error> {
        if at >= self.len() {
            return Ok(None);
        }
        let number = match &self.numbers {
            Numbers::Run(run) => run.start as usize + at,
            Numbers::List(list) => list[at] as usize,
            Numbers::Sealed(sealed, part) => {
                let number = sealed.listed.number(part.start + at as u32);
                number.ok_or_else(|| sealed.corrupt())? as usize
            }
        };
        Ok(Some(number))
    }
}

/// The directory of so many rows, each of which is checked.
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
                what: BAD_ROW,
            });
        }
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::format::directory::Builder;
    use crate::log::format::directory::Shape;
    use crate::log::{Index, Position};

    fn row(log: u32, offset: u64, position: u64) -> Row {
        Row {
            position: Position(position),
            index: Index(0),
            place: 32,
            check: 0,
            log: LogId(log),
            offset: Offset(offset),
        }
    }

    fn numbers(view: View<'_>, log: u32) -> Option<(Offset, Vec<usize>)> {
        let rows = view.rows_of(LogId(log)).unwrap()?;
        let numbers = (0..rows.len()).map(|at| rows.number(at).unwrap().unwrap());
        assert_eq!(rows.number(rows.len()).unwrap(), None);
        Some((rows.first, numbers.collect()))
    }

    #[test]
    fn each_log_finds_its_rows() {
        let mut directory = Directory::default();
        let rows = [(7, 0), (7, 3), (1, 9), (7, 4), (1, 11)];
        assert!(
            rows.iter()
                .all(|(log, at)| directory.push(&row(*log, *at, *at)))
        );
        let open = View::Open(&directory);
        assert_eq!(numbers(open, 7), Some((Offset(0), vec![0, 1, 3])));
        assert_eq!(numbers(open, 1), Some((Offset(9), vec![2, 4])));
        assert_eq!(numbers(open, 2), None);
        assert!(directory.has(LogId(1)) && !directory.has(LogId(2)));
        assert!(!directory.push(&row(1, 11, 5)), "it goes back");
    }

    #[test]
    fn a_sealed_segment_says_the_same() {
        let logs = (0..500u32).map(|number| match number {
            0..9 => 3,
            9..400 => number * number % 37,
            _ => number,
        });
        let (mut open, mut builder) = (Directory::default(), Builder::default());
        for (log, at) in logs.zip(0..) {
            assert!(open.push(&row(log, at, at)));
            builder.push(&row(log, at, at), 1);
        }
        let made = builder.finish(Index(0), 5, Position(500));
        let shape = Shape::new(Index(0), 500, 5, made.logs.len(), made.numbers);
        let view = |bytes| {
            View::Sealed(Sealed {
                listed: Listed::new(bytes, shape),
                logs: &made.logs,
                path: Path::new("/a.seal"),
                begins: 0,
            })
        };
        for log in 0..600 {
            let wanted = numbers(View::Open(&open), log);
            assert_eq!(numbers(view(&made.bytes), log), wanted, "log {log}");
        }
        let listed: Vec<_> = made.logs.iter().collect();
        for (place, log) in listed.iter().enumerate() {
            let behind = view(&made.bytes).rows_behind(*log).unwrap();
            let next = listed.get(place + 1).copied();
            assert_eq!(behind.map(|rows| rows.log), next);
        }
        // A log that is there, and whose entry does not check, is not told to have no rows.
        let mut bytes = made.bytes.clone();
        bytes[4] ^= 1;
        let first = made.logs.iter().next().unwrap();
        let refused = view(&bytes).rows_of(first).unwrap_err();
        assert!(matches!(refused, Error::Corrupt { .. }), "{refused}");
    }
}
