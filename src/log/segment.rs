//! A segment: one store, its index, and where in the store each entry begins.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Disk;
use super::file_header::FILE_HEADER_BYTES;
use super::frame::{self, Entry, Kind};
use super::index::{OffsetIndex, Row};
use super::store::Store;
use super::{Config, Error, Index, Offset, record};

/// A run of consecutive raft entries and the records in them.
#[derive(Debug)]
pub struct Segment {
    pub store: Arc<Store>,
    pub index: OffsetIndex,
    /// Where each entry's frame begins.
    frames: Vec<u32>,
    /// Where the next frame will begin.
    end: u32,
    /// Rows that the entries held can need at most.
    rows_reserved: u64,
    sealed: bool,
}

/// The paths of a segment's two files.
pub fn paths(dir: &Path, base: Index) -> (PathBuf, PathBuf) {
    let name = |suffix| dir.join(format!("{:020}.{suffix}", base.0));
    (name("store"), name("index"))
}

impl Segment {
    /// Makes both files, with room for a whole segment.
    pub fn create(
        disk: &dyn Disk,
        dir: &Path,
        base: Index,
        config: &Config,
    ) -> Result<Self, Error> {
        let (store, index) = paths(dir, base);
        let rows = OffsetIndex::create(disk, &index, base, config.index_bytes_max)?;
        let store = Store::create(disk, &store, base, config.segment_bytes_max)?;
        Ok(Self::new(store, rows))
    }

    /// A segment whose entries are yet to be told by `add`.
    pub fn new(store: Store, index: OffsetIndex) -> Self {
        Self {
            store: Arc::new(store),
            index,
            frames: Vec::new(),
            end: FILE_HEADER_BYTES as u32,
            rows_reserved: 0,
            sealed: false,
        }
    }

    /// The raft index of the first entry.
    pub fn base(&self) -> Index {
        self.store.base()
    }

    /// The raft index after the last entry.
    pub fn next_index(&self) -> Index {
        Index(self.base().0 + self.frames.len() as u64)
    }

    /// Where the next frame will begin.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Whether another entry fits; an empty segment takes any.
    pub fn fits(&self, entry: &Entry, config: &Config) -> bool {
        let bytes = u64::from(self.end) + frame::frame_bytes(entry.payload.len()) as u64;
        let rows = self.rows_reserved + rows_of(entry.kind, &entry.payload);
        // Not the configured room: a crash may have left an index sealed in the last segment.
        let room = self.index.capacity() as u64;
        self.frames.is_empty() || (bytes <= config.segment_bytes_max.into() && rows <= room)
    }

    /// Takes note of the next entry; gives the place of its frame.
    pub fn add(&mut self, kind: Kind, payload_bytes: usize, rows: u64) -> u32 {
        let position = self.end;
        debug_assert!(kind == Kind::Records || rows == 0);
        self.frames.push(position);
        self.end += u32::try_from(frame::frame_bytes(payload_bytes)).expect("entries are limited");
        self.rows_reserved += rows;
        position
    }

    /// Where an entry's frame begins.
    pub fn position(&self, index: Index) -> Option<u32> {
        let number = index.0.checked_sub(self.base().0)?;
        self.frames.get(usize::try_from(number).ok()?).copied()
    }

    /// The frames from `from` on that end within `bytes_max` of it: at least one. Their place,
    /// their length in bytes.
    pub fn span(&self, from: Index, to: Index, bytes_max: usize) -> Option<(u32, usize)> {
        let start = self.position(from)?;
        let mut length = None;
        for index in from.0..to.0.min(self.next_index().0) {
            let end = self.position(Index(index + 1)).unwrap_or(self.end);
            let bytes = (end - start) as usize;
            if length.is_some() && bytes > bytes_max {
                break;
            }
            length = Some(bytes);
        }
        length.map(|length| (start, length))
    }

    /// Forgets the entries from `index` on; gives the place where the file now ends.
    pub fn forget_from(&mut self, index: Index) -> u32 {
        let keep = usize::try_from(index.0.saturating_sub(self.base().0)).unwrap_or(usize::MAX);
        if let Some(end) = self.frames.get(keep) {
            self.end = *end;
            self.frames.truncate(keep);
        }
        self.end
    }

    /// Writes the row of a run of records.
    pub fn publish(&mut self, row: Row) -> Result<(), Error> {
        self.index.push(row)
    }

    /// The row that covers `offset`, and the offset where the next row begins, if there is one.
    pub fn row_of(&self, offset: Offset) -> Option<(Row, Option<Offset>)> {
        let number = self.index.find(offset)?;
        let next = (number + 1 < self.index.rows()).then(|| self.index.row(number + 1).offset);
        Some((self.index.row(number), next))
    }

    /// Gives the index's spare room back, once every entry is applied and no other comes.
    pub fn seal(&mut self) -> Result<(), Error> {
        if !self.sealed {
            self.index.seal()?;
            self.sealed = true;
        }
        Ok(())
    }
}

/// The rows that an entry can need at most: one a batch.
pub fn rows_of(kind: Kind, payload: &[u8]) -> u64 {
    match kind {
        Kind::Control => 0,
        Kind::Records => record::declared_count(payload).into(),
    }
}
