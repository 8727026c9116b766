//! The store of one segment: a file of frames, written in order and read by position.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::handles::{Handles, Lease};
use super::segment_file::SegmentFile;
use crate::disk::{Disk, File};
use crate::log::format::file_header::{self, FILE_HEADER_BYTES, Magic};
use crate::log::format::frame::{self, Entry, HEADER_BYTES, Header};
use crate::log::format::seal::Seal;
use crate::log::{Error, Index};

/// Bytes that a scan reads at a time; a longer frame is read whole.
const SCAN_BYTES: usize = 1 << 20;

/// The frames of one segment.
#[derive(Debug)]
pub struct Store {
    file: SegmentFile,
    base: Index,
}

/// Consecutive whole frames in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The raft index of the first.
    pub first: Index,
    pub position: u32,
    /// In bytes.
    pub length: usize,
}

impl Span {
    /// The frames of a sealed store from the mark at or before an entry on, as far as the first mark that is so many bytes
    /// away.
    pub fn marked(seal: &Seal, at: Index, bytes: u32) -> Self {
        let mark = seal.mark_before(at);
        let stop = mark.position.saturating_add(bytes);
        let end = seal.mark_after(at, |position| position >= stop);
        Self {
            first: Index(seal.base.0 + u64::from(mark.entry)),
            position: mark.position,
            length: (end - mark.position) as usize,
        }
    }
}

/// What stands at a position of a store.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A whole frame.
    Frame(Header),
    /// Nothing was ever written here, up to the file's end.
    End,
    /// Bytes that do not check.
    Bad,
}

impl Store {
    /// Makes the file, with room for `bytes_max` bytes.
    pub fn create(
        disk: &dyn Disk,
        path: &Path,
        base: Index,
        bytes_max: u32,
    ) -> Result<Self, Error> {
        let file = disk.create(path).map_err(Error::io("create", path))?;
        file.allocate(bytes_max.into())
            .map_err(Error::io("allocate", path))?;
        file.write_all_at(&file_header::encode(Magic::Store, base), 0)
            .map_err(Error::io("write", path))?;
        Ok(Self::new(SegmentFile::open(path, file), base))
    }

    /// Opens the file; `None` if its making was cut short, so that it holds no frame.
    pub fn open(disk: &dyn Disk, path: &Path, base: Index) -> Result<Option<Self>, Error> {
        let file = disk.open(path).map_err(Error::io("open", path))?;
        let header = file_header::read(&*file, path, Magic::Store, base)?;
        Ok(header.map(|()| Self::new(SegmentFile::open(path, file), base)))
    }

    /// A file that the writer makes before it writes there.
    pub fn unmade(path: &Path, base: Index) -> Self {
        Self::new(SegmentFile::unmade(path), base)
    }

    /// The file of a sealed segment: it is opened when it is used.
    pub fn on_demand(path: &Path, base: Index, handles: &Arc<Handles>) -> Self {
        Self::new(SegmentFile::on_demand(path, handles), base)
    }

    /// Its segment is sealed: from now on it is opened when it is used.
    pub fn let_go(&self, handles: &Arc<Handles>) {
        self.file.let_go(handles);
    }

    /// Whether the file begins as its name promises. Reads do not look at that.
    pub fn check_header(&self) -> Result<(), Error> {
        match file_header::read(&*self.file()?, self.path(), Magic::Store, self.base)? {
            Some(()) => Ok(()),
            None => Err(self.corrupt(0, "the file has no header")),
        }
    }

    /// The file was made.
    pub fn made(&self, file: Arc<dyn File>) {
        self.file.made(file);
    }

    /// Whether there is a file.
    pub fn is_made(&self) -> bool {
        self.file.is_made()
    }

    /// The file's length in bytes.
    pub fn len(&self) -> Result<u64, Error> {
        self.file()?
            .len()
            .map_err(Error::io("measure", self.path()))
    }

    fn new(file: SegmentFile, base: Index) -> Self {
        Self { file, base }
    }

    pub(super) fn file(&self) -> Result<Lease, Error> {
        self.file.file()
    }

    /// The raft index of the first frame.
    pub fn base(&self) -> Index {
        self.base
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Writes parts side by side from a position on.
    pub fn write(&self, parts: &[&[u8]], position: u64) -> Result<(), Error> {
        self.file()?
            .write_parts_at(parts, position)
            .map_err(Error::io("write", self.path()))
    }

    /// Makes all that was written durable. The file's name is its maker's business.
    pub fn sync(&self) -> Result<(), Error> {
        self.file()?
            .sync_data()
            .map_err(Error::io("sync", self.path()))
    }

    /// Makes what an earlier process wrote durable, and reads it from the disk from now on: what it
    /// left in the system's memory may be there alone.
    pub fn settle(&self) -> Result<(), Error> {
        self.file()?
            .settle()
            .map_err(Error::io("sync", self.path()))
    }

    /// Gives the room behind `end` back, unless the segment was sealed: then that is done.
    pub fn give_back(&self, end: u32) -> Result<(), Error> {
        match self.file.kept() {
            Some(file) => file
                .set_len(end.into())
                .map_err(Error::io("cut", self.path())),
            None => Ok(()),
        }
    }

    /// Drops what follows `end`. With `bytes_max` the room is taken again, as zeros.
    pub fn cut(&self, end: u32, bytes_max: Option<u32>) -> Result<(), Error> {
        let file = self.file()?;
        file.set_len(end.into())
            .map_err(Error::io("cut", self.path()))?;
        if let Some(bytes_max) = bytes_max {
            file.allocate(bytes_max.into())
                .map_err(Error::io("allocate", self.path()))?;
        }
        Ok(())
    }

    /// Reads bytes; they may hold several frames.
    pub fn read(&self, position: u32, len: usize) -> Result<Bytes, Error> {
        let bytes = self.file()?.read_at(position.into(), len);
        bytes
            .map(Bytes::from)
            .map_err(Error::io("read", self.path()))
    }

    /// Reads and checks the frames in a span.
    pub fn entries(&self, span: Span) -> Result<Vec<Entry>, Error> {
        self.frames(span).map(|(_, entries)| entries)
    }

    /// The same, with the bytes that they are in.
    pub fn frames(&self, span: Span) -> Result<(Bytes, Vec<Entry>), Error> {
        let bytes = self.read(span.position, span.length)?;
        let (mut entries, mut rest) = (Vec::new(), bytes.clone());
        let mut at = u64::from(span.position);
        while !rest.is_empty() {
            let index = Index(span.first.0 + entries.len() as u64);
            let (entry, length) = parse(&rest)
                .filter(|(entry, length)| entry.index == index && *length <= rest.len())
                .ok_or_else(|| self.corrupt(at, "a frame does not check"))?;
            entries.push(entry);
            rest = rest.slice(length..);
            at += length as u64;
        }
        Ok((bytes, entries))
    }

    /// The error of bytes that do not check.
    pub fn corrupt(&self, position: u64, what: &'static str) -> Error {
        Error::Corrupt {
            path: self.path().to_owned(),
            position,
            what,
        }
    }

    /// Reads the file from its first frame on.
    pub fn scan(&self) -> Result<Scan<'_>, Error> {
        let len = self.len()?;
        Ok(Scan::new(self, len))
    }

    /// Reads the frames before `end`.
    pub fn scan_to(&self, end: u32) -> Scan<'_> {
        Scan::new(self, end.into())
    }
}

/// Parses the frame at the start of `bytes`, sharing their memory; its whole length comes with it.
/// `None` if it is cut off or does not check.
pub fn parse(bytes: &Bytes) -> Option<(Entry, usize)> {
    let header = frame::decode_header(bytes)?;
    if !frame::checks(&header, bytes) {
        return None;
    }
    let entry = Entry {
        term: header.term,
        index: header.index,
        kind: header.kind,
        payload: bytes.slice(HEADER_BYTES..HEADER_BYTES + header.length),
    };
    Some((entry, frame::frame_bytes(header.length)))
}

/// Reads a store file in order, in bounded memory.
#[derive(Debug)]
pub struct Scan<'a> {
    store: &'a Store,
    len: u64,
    position: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> Scan<'a> {
    fn new(store: &'a Store, len: u64) -> Self {
        Self {
            store,
            len,
            position: FILE_HEADER_BYTES as u64,
            window: Vec::new(),
            window_at: 0,
        }
    }

    /// Where the next frame would begin.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Goes on at another place.
    pub fn seek(&mut self, position: u64) {
        self.position = position;
    }

    /// Whether the frame that `next` has just moved past is filled up with zeros.
    pub fn is_padded(&mut self, header: &Header) -> Result<bool, Error> {
        let end = self.position;
        let padding = frame::padding(header.length);
        let bytes = self.bytes(end - padding as u64, padding)?;
        Ok(bytes.iter().all(|byte| *byte == 0))
    }

    /// The bytes from here to the last one that is not zero.
    pub fn remaining(&mut self) -> Result<u64, Error> {
        let (from, mut at) = (self.position, self.position);
        let mut last = from;
        while at < self.len {
            let part = self.bytes(at, SCAN_BYTES)?;
            let filled = part.iter().rposition(|byte| *byte != 0);
            last = filled.map_or(last, |filled| at + filled as u64 + 1);
            at += part.len() as u64;
        }
        Ok(last - from)
    }

    /// Looks at what stands here and, if it is a frame, moves past it.
    pub fn next(&mut self) -> Result<Found, Error> {
        let found = self.look(self.position)?;
        if let Found::Frame(header) = found {
            self.position += frame::frame_bytes(header.length) as u64;
        }
        Ok(found)
    }

    /// The payload of the frame that `next` has just moved past.
    pub fn payload(&mut self, header: &Header) -> Result<&[u8], Error> {
        let began = self.position - frame::frame_bytes(header.length) as u64;
        self.bytes(began + HEADER_BYTES as u64, header.length)
    }

    /// Looks at what stands at `position`.
    fn look(&mut self, position: u64) -> Result<Found, Error> {
        let head = self.bytes(position, HEADER_BYTES)?;
        if let Some(header) = frame::decode_header(head) {
            let frame = self.bytes(position, HEADER_BYTES + header.length)?;
            let whole = frame::checks(&header, frame);
            return Ok(if whole {
                Found::Frame(header)
            } else {
                Found::Bad
            });
        }
        let zeros = self.zeros_from(position)?;
        Ok(if zeros { Found::End } else { Found::Bad })
    }

    fn zeros_from(&mut self, mut position: u64) -> Result<bool, Error> {
        while position < self.len {
            let part = self.bytes(position, SCAN_BYTES)?;
            if part.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            position += part.len() as u64;
        }
        Ok(true)
    }

    /// Looks behind bad bytes at `bad` for a frame whose write began after them: such a frame was
    /// written when the bad bytes had been synced, so they are damage and not a torn write.
    pub fn synced_after(&mut self, bad: u64, next: Index) -> Result<Option<u64>, Error> {
        self.frame_after(bad, next, |began| began > bad)
    }

    /// The first whole frame behind `bad` whose write began where `takes` accepts it.
    pub fn frame_after(
        &mut self,
        bad: u64,
        next: Index,
        takes: impl Fn(u64) -> bool,
    ) -> Result<Option<u64>, Error> {
        const LIKELY: u64 = 1 << 24;
        let (mut position, mut chained) = (bad, true);
        while position + HEADER_BYTES as u64 <= self.len {
            let header = frame::decode_header(self.bytes(position, HEADER_BYTES)?);
            let likely = header.filter(|header| {
                let near = header.index.0.checked_sub(next.0);
                let began = position.checked_sub(header.distance.into());
                near.is_some_and(|near| near < LIKELY) && began.is_some_and(&takes)
            });
            let is_bad = position == bad;
            if !is_bad && likely.is_some() && matches!(self.look(position)?, Found::Frame(_)) {
                return Ok(Some(position));
            }
            // Headers lead from frame to frame as far as they check: a payload between them may
            // hold what looks like a frame.
            let length = header.filter(|_| chained);
            chained = length.is_some();
            let length = length.map_or(frame::ALIGN, |header| frame::frame_bytes(header.length));
            position += length as u64;
        }
        Ok(None)
    }

    /// Up to `len` bytes from `position` on, fewer only at the file's end.
    fn bytes(&mut self, position: u64, len: usize) -> Result<&[u8], Error> {
        let left = usize::try_from(self.len.saturating_sub(position)).unwrap_or(usize::MAX);
        let len = len.min(left);
        let held = self.window_at..self.window_at + self.window.len() as u64;
        if position < held.start || position + len as u64 > held.end {
            self.window.resize(len.max(SCAN_BYTES.min(left)), 0);
            self.window_at = position;
            self.store
                .file()?
                .read_exact_at(&mut self.window, position)
                .map_err(Error::io("read", self.store.path()))?;
        }
        let at = (position - self.window_at) as usize;
        Ok(&self.window[at..at + len])
    }
}
