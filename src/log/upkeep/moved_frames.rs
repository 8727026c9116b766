//! Writes the frames of a rewritten segment: batches, then what tells where they stood.

use std::sync::Arc;

use bytes::Bytes;

use crate::batch;
use crate::log::format::file_header::FILE_HEADER_BYTES;
use crate::log::format::frame::{self, Entry, Kind};
use crate::log::format::gather::Gathered;
use crate::log::format::moved::{Cover, Of, Place, PlacesWriter};
use crate::log::format::record::{self, Stored};
use crate::log::format::row::Row;
use crate::log::segment::store::Store;
use crate::log::{Error, Index, LogId, Offset, Position, STORE_BYTES_MAX, Term};

/// A frame of batches is cut once it has so many bytes: what is read between two marks stays as short as in other
/// segments. All nodes cut alike.
const FRAME_BYTES: usize = if cfg!(test) { 128 } else { 32 << 10 };
/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;
/// The number of batches before those of a frame.
const COUNT_BYTES: usize = 4;

/// Records of a batch that live, side by side.
#[derive(Debug)]
pub struct Live {
    /// The row of the batch.
    pub row: Row,
    /// How many records it covers.
    pub of: u32,
    /// Which of the sources it stands in.
    pub source: u32,
    /// How many of the records that the row covers stand before these.
    pub first: u32,
    pub count: u32,
}

impl Live {
    pub fn offset(&self) -> Offset {
        Offset(self.row.offset.0 + u64::from(self.first))
    }

    /// Log by log, and in each log in order.
    pub fn order(&self) -> (LogId, Offset) {
        (self.row.log, self.offset())
    }

    fn is_whole(&self) -> bool {
        self.count == self.of
    }
}

/// A batch of which parts are taken, in order.
#[derive(Debug)]
struct Cut {
    source: u32,
    /// What stands there, and its records as they are without compression from number `at` on.
    stored: Stored,
    rest: Bytes,
    at: u32,
}

/// Writes the frames of a rewritten segment.
#[derive(Debug)]
pub struct Writer {
    pub store: Arc<Store>,
    entries: u64,
    /// The batches of the next frame, behind their number.
    payload: Vec<u8>,
    batches: u32,
    gathered: Gathered,
    written: u64,
    places: PlacesWriter,
    cut: Option<Cut>,
}

impl Writer {
    pub fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            entries: 0,
            payload: vec![0; COUNT_BYTES],
            batches: 0,
            gathered: Gathered::default(),
            written: FILE_HEADER_BYTES as u64,
            places: PlacesWriter::default(),
            cut: None,
        }
    }

    /// How many bytes were added.
    pub fn bytes(&self) -> u64 {
        self.written + self.gathered.len() as u64
    }

    /// Adds records that live, of a batch which `read` gives; gives how many bytes that are.
    pub fn add(
        &mut self,
        live: &Live,
        read: impl FnOnce() -> Result<Bytes, Error>,
    ) -> Result<u64, Error> {
        let bytes = match live.is_whole() {
            true => read()?,
            false => self.part_of(live, read)?,
        };
        let batch = record::lone(&bytes)?;
        let known = match live.is_whole() {
            true => known(live, &batch)?,
            false => 0,
        };
        if self.payload.len() + bytes.len() > FRAME_BYTES {
            self.end_frame()?;
        }
        self.payload.extend_from_slice(&bytes);
        self.batches += 1;
        let (log, count) = (batch.log, batch.count);
        let place = Place {
            position: Position(live.row.position.0 + u64::from(live.first)),
            offset: live.offset(),
            known,
        };
        self.places.push(Of { log, count }, &place);
        Ok(bytes.len() as u64)
    }

    /// A batch of its own for a part of one. It is not compressed: what a compressor makes depends on its version, and
    /// all nodes are to write the same.
    fn part_of(
        &mut self,
        live: &Live,
        read: impl FnOnce() -> Result<Bytes, Error>,
    ) -> Result<Bytes, Error> {
        let is_it = |cut: &Cut| {
            let same = (cut.source, cut.stored.position) == (live.source, live.row.position);
            same && cut.at <= live.first
        };
        let cut = self.cut.take().filter(is_it);
        let mut cut = match cut {
            Some(cut) => cut,
            None => {
                let stored = record::stored(&read()?, &live.row, live.of.into())?;
                let rest = stored.plain()?;
                Cut {
                    source: live.source,
                    stored,
                    rest,
                    at: 0,
                }
            }
        };
        let (_, rest) = batch::split(&cut.rest, live.first - cut.at).map_err(Error::Unreadable)?;
        let (records, rest) = batch::split(&rest, live.count).map_err(Error::Unreadable)?;
        (cut.rest, cut.at) = (rest, live.first + live.count);
        let made = record::part(live.row.log, cut.stored.timestamp_ms, live.count, &records);
        self.cut = Some(cut);
        Ok(made)
    }

    fn end_frame(&mut self) -> Result<(), Error> {
        if self.batches == 0 {
            return Ok(());
        }
        self.payload[..COUNT_BYTES].copy_from_slice(&self.batches.to_le_bytes());
        let payload = std::mem::replace(&mut self.payload, vec![0; COUNT_BYTES]);
        self.batches = 0;
        self.push(Kind::Records, payload.into())
    }

    fn push(&mut self, kind: Kind, payload: Bytes) -> Result<(), Error> {
        let entry = Entry {
            term: Term(0),
            index: Index(self.store.base().0 + self.entries),
            kind,
            payload,
        };
        self.entries += 1;
        self.gathered.push(&entry, frame::entry_crc(&entry), 0);
        match self.gathered.len() >= WRITE_BYTES {
            true => self.write_out(),
            false => Ok(()),
        }
    }

    fn write_out(&mut self) -> Result<(), Error> {
        let bytes = self.gathered.len() as u64;
        if self.written + bytes > STORE_BYTES_MAX.into() {
            let base = self.store.base();
            let what = "what lives of the segments does not fit into one";
            return Err(Error::Mismatch { base, what });
        }
        self.store.write(&self.gathered.parts(), self.written)?;
        self.written += bytes;
        self.gathered.clear(WRITE_BYTES);
        Ok(())
    }

    pub fn finish(&mut self, cover: &Cover) -> Result<(), Error> {
        self.end_frame()?;
        for payload in std::mem::take(&mut self.places).finish(cover) {
            self.push(Kind::Moved, payload)?;
        }
        self.write_out()
    }
}

/// How many of the first records of a batch its row leaves out.
fn known(live: &Live, batch: &record::Batch<'_>) -> Result<u32, Error> {
    let covered = batch.covered_by(live.row.check);
    let covered = covered.filter(|covered| *covered == live.of && batch.log == live.row.log);
    match covered {
        Some(covered) => Ok(batch.count - covered),
        None => Err(Error::Malformed("a row names another batch than it should")),
    }
}
