//! The rows of an index file, read without mapping it, and held against the frames that they name.

use std::collections::HashMap;
use std::path::Path;

use super::finding::What;
use crate::disk::Disk;
use crate::log::format::directory::Builder;
use crate::log::format::file_header::{self, FILE_HEADER_BYTES, Magic};
use crate::log::format::frame::{HEADER_BYTES, Header};
use crate::log::format::record;
use crate::log::format::row::{Bases, ROW_BYTES, Row};
use crate::log::open::derive::place_of;
use crate::log::segment::index::BASE_POSITION_AT;
use crate::log::{Error, Index, LogId, Offset, Position};

/// The rows in an index file, up to the first that does not check.
#[derive(Debug, Default)]
pub struct Rows {
    pub rows: Vec<Row>,
    /// Whether bytes that are no row, and not zero, stand behind the last one.
    pub ends_badly: bool,
    /// Whether rows that check stand behind these.
    pub goes_on: bool,
}

/// Reads an index file; `None` if it is missing or was never finished.
pub fn read(disk: &dyn Disk, path: &Path, base: Index) -> Result<Option<Rows>, Error> {
    let file = match disk.open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        done => done.map_err(Error::io("open", path))?,
    };
    if file_header::read(&*file, path, Magic::Index, base)?.is_none() {
        return Ok(None);
    }
    let len = file.len().map_err(Error::io("measure", path))?;
    let corrupt = |what| Error::Corrupt {
        path: path.to_owned(),
        position: 0,
        what,
    };
    let len = usize::try_from(len).map_err(|_| corrupt("the index is larger than any"))?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0)
        .map_err(Error::io("read", path))?;
    let written = bytes[BASE_POSITION_AT..].first_chunk();
    let written = written.map_or(0, |written| u64::from_le_bytes(*written));
    let chunks = bytes[FILE_HEADER_BYTES..].chunks_exact(ROW_BYTES);
    let bases = Bases::new(base, Position(written));
    let decode = |chunk: &[u8]| bases.decode(chunk.first_chunk()?);
    let rows: Vec<_> = chunks.clone().map_while(decode).collect();
    let mut rest = chunks.skip(rows.len());
    Ok(Some(Rows {
        ends_badly: rest
            .clone()
            .any(|chunk| chunk.iter().any(|byte| *byte != 0)),
        goes_on: rest.any(|chunk| decode(chunk).is_some()),
        rows,
    }))
}

/// Where a row's bytes stand in its file.
pub fn position(number: usize) -> u64 {
    (FILE_HEADER_BYTES + number * ROW_BYTES) as u64
}

/// Holds rows against frames, which come in order.
#[derive(Debug)]
pub struct RowCursor<'a> {
    rows: &'a [Row],
    at: usize,
    /// The position that the next row must have, if it is known.
    pub next: Option<Position>,
    /// The offsets that the next rows of logs must have.
    next_of: HashMap<LogId, Offset>,
    /// Records in the frames so far, and in their rows.
    pub records: u64,
    pub covered: u64,
    /// Numbers of rows, and what is wrong with them.
    pub wrong: Vec<(usize, What)>,
    /// Which log has which rows.
    pub listing: Builder,
}

impl<'a> RowCursor<'a> {
    pub fn new(rows: &'a [Row]) -> Self {
        Self {
            rows,
            at: 0,
            next: rows.first().map(|row| row.position),
            next_of: HashMap::new(),
            records: 0,
            covered: 0,
            wrong: Vec::new(),
            listing: Builder::default(),
        }
    }

    fn disagrees(&mut self, what: &'static str) {
        let number = self.at;
        self.wrong
            .push((number, What::RowDisagrees { number, what }));
    }

    /// The frames before `index` are lost, or over: rows of theirs are not held against any.
    pub fn pass(&mut self, index: Index, lost: bool) {
        while let Some(row) = self.rows.get(self.at).filter(|row| row.index < index) {
            if !lost {
                self.disagrees("it names an entry without records, or stands out of order");
            }
            self.next = None;
            self.next_of.clear();
            self.listing.push(row, 0);
            self.at += 1;
        }
    }

    /// Takes the rows of the next frame.
    pub fn frame(&mut self, header: &Header, at: u64, payload: &[u8]) -> Result<(), Error> {
        self.pass(header.index, false);
        if !header.kind.has_batches() {
            return Ok(());
        }
        let mut batches = record::batches(payload)?;
        batches.drain(..batches.len().min(header.kind.rowless()));
        self.records += batches
            .iter()
            .map(|batch| u64::from(batch.count))
            .sum::<u64>();
        let mut batches = batches.into_iter();
        let payload_at = u32::try_from(at).unwrap_or(u32::MAX);
        let payload_at = payload_at.saturating_add(HEADER_BYTES as u32);
        while let Some(row) = self
            .rows
            .get(self.at)
            .filter(|row| row.index == header.index)
        {
            if self.next.is_some_and(|next| next != row.position) {
                self.disagrees("its position does not follow the row before");
            }
            let batch = batches.find(|batch| place_of(payload_at, batch) == row.place);
            if batch.is_some_and(|batch| batch.log != row.log) {
                self.disagrees("it names another log than its batch");
            }
            let left = batch.and_then(|batch| batch.covered_by(row.check));
            let next_of = self.next_of.get(&row.log);
            if next_of.is_some_and(|next| *next != row.offset) {
                self.disagrees("its offset does not follow the row before in its log");
            }
            let behind = left.map(|left| Offset(row.offset.0.saturating_add(left.into())));
            match behind {
                Some(behind) => drop(self.next_of.insert(row.log, behind)),
                None => drop(self.next_of.remove(&row.log)),
            }
            match (batch, left) {
                (None, _) => self.disagrees("no batch begins where it says"),
                (Some(_), None) => self.disagrees("it is of another batch than the one there"),
                (Some(_), Some(_)) => {}
            }
            let length = batch.and_then(|batch| record::length_of(&payload[batch.at..]));
            let length = length.and_then(|length| u32::try_from(length).ok());
            self.listing.push(row, length.unwrap_or(0));
            self.covered += u64::from(left.unwrap_or(0));
            self.next = left.map(|left| Position(row.position.0 + u64::from(left)));
            self.at += 1;
        }
        Ok(())
    }

    /// Rows that no frame came for.
    pub fn left(&self) -> usize {
        self.rows.len() - self.at
    }
}
