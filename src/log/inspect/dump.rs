//! Reading records and entries from a log's files as they are, without opening the log.
//!
//! A log that is opened is repaired first. This reads what stands there: records as far as rows
//! lead to them, entries as far as frames check.

use std::path::{Path, PathBuf};

use super::verify::{Bounds, Files, look, read_rows};
use crate::disk::Disk;
use crate::log::format::frame::Entry;
use crate::log::format::record::{self, Stored};
use crate::log::format::row::Row;
use crate::log::segment::store::{Found, Store};
use crate::log::{Error, Index, LogId, Offset, Position};

/// The files of a directory, to be read: the records of one of its logs, and the entries.
#[derive(Debug)]
pub struct Reader<'a> {
    disk: &'a dyn Disk,
    dir: PathBuf,
    log: LogId,
    first_offset: Offset,
    /// Rows below this are durable, and so is what they name.
    covered: Position,
    files: Vec<Files>,
    /// The log's rows in the segment with this number.
    loaded: Option<(usize, Vec<Row>)>,
}

impl<'a> Reader<'a> {
    /// Finds the segments in a directory; the bounds are the stable store's, if there is one.
    pub fn new(
        disk: &'a dyn Disk,
        dir: &Path,
        log: LogId,
        bounds: Option<&Bounds>,
    ) -> Result<Self, Error> {
        let covered = bounds.and_then(|bounds| bounds.checkpoint.as_ref());
        let ends = covered.and_then(|covered| covered.logs.get(&log));
        Ok(Self {
            disk,
            dir: dir.to_owned(),
            log,
            first_offset: ends.map_or(Offset(0), |ends| ends.first),
            covered: covered.map_or(Position(0), |covered| covered.next_position),
            files: look(disk, dir, bounds)?.files,
            loaded: None,
        })
    }

    /// The first offset that rows lead to, and the one after the last.
    pub fn offsets(&mut self) -> Result<(Offset, Offset), Error> {
        let mut first = None;
        for number in 0..self.files.len() {
            if let Some(row) = self.rows(number)?.first() {
                first = Some(row.offset);
                break;
            }
        }
        let Some(first) = first.map(|first| first.max(self.first_offset)) else {
            return Ok((self.first_offset, self.first_offset));
        };
        for number in (0..self.files.len()).rev() {
            // A row past the last frame may stand there after a power cut.
            let mut rows = self.rows(number)?.clone();
            while let Some(row) = rows.pop() {
                match self.batch_of(number, &row) {
                    Ok(stored) => return Ok((first, stored.next())),
                    Err(error) if row.position < self.covered => return Err(error),
                    Err(_) => {}
                }
            }
        }
        Ok((first, first))
    }

    /// What is kept of the batch that holds the record at `at`.
    pub fn read(&mut self, at: Offset) -> Result<Stored, Error> {
        for number in self.candidates(at)? {
            let rows = self.rows(number)?;
            let behind = rows.partition_point(|row| row.offset <= at);
            let Some(row) = behind.checked_sub(1).and_then(|row| rows.get(row)).copied() else {
                continue;
            };
            let stored = self.batch_of(number, &row)?;
            if at < stored.next() {
                return Ok(stored);
            }
        }
        Err(Error::Corrupt {
            path: self.dir.clone(),
            position: 0,
            what: "no row leads to an offset between the first and the last",
        })
    }

    /// Hands out entries from raft index `from` on, until `each` says no or they end.
    pub fn entries(&self, from: Index, each: &mut dyn FnMut(Entry) -> bool) -> Result<(), Error> {
        let first = self.files.first().map_or(Index(0), |files| files.base);
        let behind = self.files.partition_point(|files| files.base <= from);
        let mut next = first;
        let mut handed = false;
        for (number, files) in self.files.iter().enumerate().skip(behind.saturating_sub(1)) {
            // It holds records, and no entries.
            if files.name.rewritten.is_some() {
                continue;
            }
            let Some(store) = Store::open(self.disk, &files.paths.store, files.base)? else {
                break;
            };
            if handed && files.base != next {
                return Err(store.corrupt(0, "entries are missing before this file"));
            }
            let len = u32::try_from(store.len()?).unwrap_or(u32::MAX);
            let mut scan = store.scan_to(files.end.map_or(len, |end| end.min(len)));
            next = files.base;
            loop {
                let at = scan.position();
                let header = match scan.next()? {
                    Found::Frame(header) => header,
                    Found::End => break,
                    Found::Bad => {
                        let is_last = number + 1 == self.files.len();
                        if is_last && scan.synced_after(at, next)?.is_none() {
                            break;
                        }
                        return Err(store.corrupt(at, "a frame does not check"));
                    }
                };
                next = Index(header.index.0 + 1);
                if header.index < from {
                    continue;
                }
                handed = true;
                let entry = Entry {
                    term: header.term,
                    index: header.index,
                    kind: header.kind,
                    payload: scan.payload(&header)?.to_vec().into(),
                };
                if !each(entry) {
                    return Ok(());
                }
            }
        }
        if handed || (from == first && next == first) {
            return Ok(());
        }
        let asked = from;
        Err(Error::NoEntry { asked, first, next })
    }

    /// The first raft index held.
    pub fn first_index(&self) -> Index {
        self.files.first().map_or(Index(0), |files| files.base)
    }

    /// The segments that may hold an offset, the likeliest first: the last that begins at or before
    /// it, by its first row.
    fn candidates(&mut self, at: Offset) -> Result<Vec<usize>, Error> {
        if let Some((number, rows)) = &self.loaded
            && rows.first().is_some_and(|row| row.offset <= at)
            && rows.last().is_some_and(|row| row.offset > at)
        {
            return Ok(vec![*number]);
        }
        let mut holds = None;
        for number in 0..self.files.len() {
            match self.rows(number)?.first() {
                Some(row) if row.offset <= at => holds = Some(number),
                Some(_) => break,
                None => {}
            }
        }
        Ok(holds.into_iter().collect())
    }

    /// The log's rows in a segment.
    fn rows(&mut self, number: usize) -> Result<&Vec<Row>, Error> {
        if self.loaded.as_ref().is_none_or(|loaded| loaded.0 != number) {
            let files = &self.files[number];
            let rows = read_rows(self.disk, &files.paths.index, files.base)?;
            let mut rows = rows.unwrap_or_default().rows;
            rows.retain(|row| row.log == self.log);
            self.loaded = Some((number, rows));
        }
        Ok(&self.loaded.as_ref().expect("it was loaded above").1)
    }

    /// What is kept of the batch that a row names, from the row's first record on.
    fn batch_of(&self, number: usize, row: &Row) -> Result<Stored, Error> {
        let files = &self.files[number];
        let store = Store::open(self.disk, &files.paths.store, files.base)?;
        let store = store.ok_or_else(|| Error::Corrupt {
            path: files.paths.store.clone(),
            position: 0,
            what: "it holds no frame, and rows name some",
        })?;
        let corrupt = |what| store.corrupt(row.place.into(), what);
        let bytes = store.batch(row.place)?;
        let covered = record::covered_by(&bytes, row)?;
        let count = covered
            .ok_or_else(|| corrupt("a row names another batch than the one that stands there"))?;
        record::stored(&bytes, row, count.into())
    }
}
