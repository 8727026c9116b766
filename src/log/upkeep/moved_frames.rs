//! Writes the frames of a rewritten segment: batches, then what tells where they stood.

use std::sync::Arc;

use bytes::Bytes;

use crate::log::format::file_header::FILE_HEADER_BYTES;
use crate::log::format::frame::{self, Entry, Kind};
use crate::log::format::gather::Gathered;
use crate::log::format::moved::{Cover, Of, Place, PlacesWriter};
use crate::log::format::record;
use crate::log::segment::store::Store;
use crate::log::{Error, Index, LogId, Offset, Position, STORE_BYTES_MAX, Term};

/// A frame of batches is cut once it has so many bytes: what is read between two marks stays as short as in other
/// segments. All nodes cut alike.
const FRAME_BYTES: usize = if cfg!(test) { 128 } else { 32 << 10 };
/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;
/// The number of batches before those of a frame.
const COUNT_BYTES: usize = 4;

/// A batch of which a record lives.
#[derive(Debug)]
pub struct Live {
    pub log: LogId,
    pub offset: Offset,
    pub position: Position,
    /// Which of the sources it stands in.
    pub source: usize,
    pub place: u32,
    pub check: u32,
    pub records: u32,
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
        }
    }

    pub fn add(&mut self, live: &Live, bytes: &[u8]) -> Result<(), Error> {
        let batch = record::lone(bytes)?;
        let covered = batch
            .covered_by(live.check)
            .filter(|_| batch.log == live.log);
        if covered != Some(live.records) {
            return Err(Error::Malformed("a row names another batch than it should"));
        }
        if self.payload.len() + bytes.len() > FRAME_BYTES {
            self.end_frame()?;
        }
        self.payload.extend_from_slice(bytes);
        self.batches += 1;
        let (log, count) = (batch.log, batch.count);
        let place = Place {
            position: live.position,
            offset: live.offset,
            known: batch.count - live.records,
        };
        self.places.push(Of { log, count }, &place);
        Ok(())
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
