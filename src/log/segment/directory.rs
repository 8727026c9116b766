//! Which rows of a segment belong to which log.
//!
//! Rows stand in the order of commit, those of all logs among each other. The directory leads from a log to
//! its own. It follows from the rows and is kept in memory alone: with an open index, and with the map of
//! a sealed one. That of a sealed one is made whenever a reader comes back to its segment, so it must be made
//! quickly: rows that were all found whole before are looked at for their logs alone.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::index_file::{place, row_in};
use crate::log::format::row::{Bases, Row, log_of};
use crate::log::{Error, LogId, Offset};

const BAD_ROW: &str = "a row does not check, or goes back in its log";

/// The rows of each log.
#[derive(Debug, Default)]
pub struct Directory {
    logs: HashMap<LogId, LogRows, BuildHasherDefault<OfId>>,
    rows: u32,
}

/// Spreads the ids of logs, which a counter gives: nobody chooses them to collide.
#[derive(Debug, Default)]
struct OfId(u64);

impl Hasher for OfId {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32((*byte).into()));
    }

    fn write_u32(&mut self, id: u32) {
        // The golden ratio, whose multiples are far apart: Knuth, volume 3, section 6.4.
        let spread = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ (spread >> 32);
    }
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
    /// Those at these places of a list that all logs of a sealed index share.
    Part(Arc<[u32]>, Range<usize>),
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
            Numbers::Part(_, part) => part.len() * size_of::<u32>(),
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
            Numbers::Part(_, part) => part.len(),
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
            Numbers::Part(all, part) => all[part.clone()].get(at).map(|number| *number as usize),
        }
    }
}

impl Numbers {
    fn push(&mut self, number: u32) {
        match self {
            Self::Run(run) if run.end == number => run.end += 1,
            Self::Run(run) => *self = Self::List(run.clone().chain([number]).collect()),
            Self::List(list) => list.push(number),
            Self::Part(all, part) => {
                let list = all[part.clone()].iter().copied();
                *self = Self::List(list.chain([number]).collect());
            }
        }
    }
}

/// The directory of so many rows of a sealed index. Each row is checked, unless all of them are `known`: then these
/// bytes passed before.
pub fn directory_of_sealed(
    bytes: &[u8],
    bases: &Bases,
    rows: usize,
    path: &Path,
    known: bool,
) -> Result<Directory, Error> {
    let corrupt = |number: usize| Error::Corrupt {
        path: path.to_owned(),
        position: place(number) as u64,
        what: BAD_ROW,
    };
    if !known {
        check_rows(bytes, bases, rows).map_err(corrupt)?;
    }
    // Logs are numbered as they come, so that each row is looked up once.
    let mut places: HashMap<LogId, u32, BuildHasherDefault<OfId>> = HashMap::default();
    let mut found: Vec<(LogId, Offset, usize)> = Vec::new();
    let mut of_rows = Vec::with_capacity(rows);
    for number in 0..rows {
        let log = bytes.get(place(number)..).and_then(log_of);
        let log = log.ok_or_else(|| corrupt(number))?;
        let next = u32::try_from(found.len()).map_err(|_| corrupt(number))?;
        let at = *places.entry(log).or_insert(next);
        if at == next {
            let first = row_in(bytes, bases, number).ok_or_else(|| corrupt(number))?;
            found.push((log, first.offset, 0));
        }
        found[at as usize].2 += 1;
        of_rows.push(at);
    }
    let mut ends = Vec::with_capacity(found.len());
    let mut begins = 0;
    for (.., count) in &found {
        ends.push(begins);
        begins += count;
    }
    let mut numbers = vec![0; rows];
    for (number, at) in (0..).zip(of_rows) {
        let end = &mut ends[at as usize];
        numbers[*end] = number;
        *end += 1;
    }
    let numbers: Arc<[u32]> = numbers.into();
    let logs = found
        .into_iter()
        .zip(ends)
        .map(|((log, first, count), end)| {
            let part = end - count..end;
            let is_run = numbers[part.end - 1] - numbers[part.start] == (count - 1) as u32;
            let rows = LogRows {
                first,
                last: first,
                numbers: match is_run {
                    true => Numbers::Run(numbers[part.start]..numbers[part.end - 1] + 1),
                    false => Numbers::Part(numbers.clone(), part),
                },
            };
            (log, rows)
        });
    Ok(Directory {
        logs: logs.collect(),
        rows: u32::try_from(rows).map_err(|_| corrupt(0))?,
    })
}

/// Whether each row checks, and goes on in its log; the number of one that does not.
fn check_rows(bytes: &[u8], bases: &Bases, rows: usize) -> Result<(), usize> {
    let mut lasts: HashMap<LogId, Offset, BuildHasherDefault<OfId>> = HashMap::default();
    for number in 0..rows {
        let row = row_in(bytes, bases, number).ok_or(number)?;
        let last = lasts.insert(row.log, row.offset);
        if last.is_some_and(|last| last >= row.offset) {
            return Err(number);
        }
    }
    Ok(())
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

    #[test]
    fn a_sealed_index_has_the_same_directory() {
        let bases = Bases::new(Index(0), Position(0));
        let logs = (0..500u32).map(|number| match number {
            0..9 => 3,
            9..400 => number * number % 37,
            _ => number,
        });
        let rows: Vec<_> = logs.zip(0..).map(|(log, at)| row(log, at)).collect();
        let mut bytes = vec![0; place(0)];
        bytes.extend(rows.iter().flat_map(|row| bases.encode(row).unwrap()));
        let path = Path::new("/a.index");
        let checked = directory_of(&bytes, &bases, rows.len(), path).unwrap();
        let sealed =
            |bytes: &[u8], known| directory_of_sealed(bytes, &bases, rows.len(), path, known);
        for known in [false, true] {
            let sealed = sealed(&bytes, known).unwrap();
            assert_eq!((sealed.rows, sealed.logs.len()), (500, checked.logs.len()));
            for (log, rows) in &checked.logs {
                let same = sealed.rows_of(*log).unwrap();
                assert_eq!((rows.first, rows.len()), (same.first, same.len()));
                assert!((0..=rows.len()).all(|at| rows.number(at) == same.number(at)));
            }
        }
        for at in (place(0)..bytes.len()).step_by(29) {
            bytes[at] ^= 1;
            assert!(sealed(&bytes, false).is_err(), "byte {at}");
            bytes[at] ^= 1;
        }
    }
}
