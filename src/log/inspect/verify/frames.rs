//! The frames of a segment, one after the other, and where the next one is behind damage.

use std::path::Path;

use super::Walk;
use super::finding::What;
use super::layout::{Files, from_error};
use super::rows::RowCursor;
use crate::disk::Disk;
use crate::log::format::frame::{Header, Kind};
use crate::log::format::row::Row;
use crate::log::format::seal::{self, MARK_EVERY, Mark, Seal};
use crate::log::segment::store::{Found, Scan, Store};
use crate::log::{Error, Index, Position};

/// After so many bad frames nobody needs to hear of more in the same file.
const BAD_FRAMES_MAX: usize = 16;

/// What the frames of a segment come to.
pub struct Frames {
    /// As a seal would sum them up; rows and offsets are filled in later.
    pub summed: Seal,
    pub torn: bool,
    /// Whether some could not be read.
    pub bad: bool,
}

/// One pass over a store.
pub struct Reading<'a> {
    path: &'a Path,
    sealed: bool,
    /// The segments behind.
    rest: &'a [Files],
    pub frames: Frames,
    pub cursor: RowCursor<'a>,
}

impl<'a> Reading<'a> {
    pub fn new(files: &'a Files, sealed: bool, rest: &'a [Files], rows: &'a [Row]) -> Self {
        Self {
            path: &files.paths.store,
            sealed,
            rest,
            frames: Frames::new(files.base),
            cursor: RowCursor::new(rows),
        }
    }
}

impl Walk<'_> {
    /// Reads the frames, and takes the rows along.
    pub(super) fn frames(
        &mut self,
        store: &Store,
        cut: Option<u32>,
        seal: Option<&Seal>,
        reading: &mut Reading<'_>,
    ) {
        let (path, sealed) = (reading.path, reading.sealed);
        let len = match store.len() {
            Ok(len) => len,
            Err(error) => {
                self.find(path, 0, sealed, from_error(error));
                reading.frames.bad = true;
                return;
            }
        };
        // The header's own checksum leaves these out.
        if store.read(24, 8).is_ok_and(|tail| tail[..] != [0; 8]) {
            let what = "bytes 24..32 of the header are not zero";
            self.find(path, 24, sealed, What::Header(what));
        }
        let end = seal.map(|seal| seal.end).or(cut).map_or(len, u64::from);
        if let Some(seal) = seal.filter(|seal| u64::from(seal.end) > len) {
            let what = What::StoreShort { len, end: seal.end };
            self.find(path, len, true, what);
            reading.frames.bad = true;
        }
        let end = u32::try_from(end.min(len)).unwrap_or(u32::MAX);
        let mut scan = store.scan_to(end);
        let mut bad = 0;
        while bad < BAD_FRAMES_MAX {
            let at = scan.position();
            let met = match scan.next() {
                Ok(Found::End) if !sealed || at >= u64::from(end) => break,
                Ok(Found::Frame(header)) => self.frame(at, header, &mut scan, reading),
                Ok(Found::Bad | Found::End) => self.bad(&mut scan, reading),
                Err(error) => Err(error),
            };
            match met {
                Ok(Next::Whole) => {}
                Ok(Next::Bad) => bad += 1,
                Ok(Next::End) => break,
                Err(error) => {
                    self.find(path, at, sealed, from_error(error));
                    reading.frames.bad = true;
                    break;
                }
            }
        }
    }

    /// A whole frame: its place, its term, its rows.
    fn frame(
        &mut self,
        at: u64,
        header: Header,
        scan: &mut Scan<'_>,
        reading: &mut Reading<'_>,
    ) -> Result<Next, Error> {
        let (path, sealed, index) = (reading.path, reading.sealed, header.index);
        let expected = reading.frames.summed.next_index();
        let mut next = Next::Whole;
        if index != expected {
            let found = index;
            self.find(path, at, sealed, What::FrameIndex { found, expected });
            reading.frames.bad = true;
            next = Next::Bad;
        }
        if header.term < self.last_term {
            self.find(path, at, sealed, What::FrameTerm { index });
            next = Next::Bad;
        }
        if !scan.is_padded(&header)? {
            self.find(path, at, sealed, What::Filling { index });
        }
        self.last_term = header.term;
        reading.frames.add(&header, at, scan.position());
        (self.on_bytes)(scan.position() - at);
        let payload = scan.payload(&header)?;
        let taken = if index < self.keep {
            reading.cursor.frame(&header, at, payload)
        } else {
            // No row of it needs to hold, and yet its batches must.
            RowCursor::new(&[]).frame(&header, at, payload)
        };
        if let Err(error) = taken {
            let what = error.to_string();
            self.find(path, at, sealed, What::Batches { index, what });
        }
        Ok(next)
    }

    /// Bytes that do not check: a torn tail, or damage, behind which the next frame is looked for.
    fn bad(&mut self, scan: &mut Scan<'_>, reading: &mut Reading<'_>) -> Result<Next, Error> {
        let (path, sealed) = (reading.path, reading.sealed);
        let (at, index) = (scan.position(), reading.frames.summed.next_index());
        let is_tail = !sealed && all_empty(self.disk, reading.rest);
        if is_tail && scan.synced_after(at, index)?.is_none() {
            let bytes = scan.remaining()?;
            self.find(path, at, false, What::TornTail { bytes });
            for files in reading.rest {
                self.find(&files.paths.store, 0, false, What::NeverWritten);
            }
            reading.frames.torn = true;
            return Ok(Next::End);
        }
        self.find(path, at, sealed, What::Frame { index });
        reading.frames.bad = true;
        let Some(next) = scan.frame_after(at, index, |_| true)? else {
            return Ok(Next::End);
        };
        scan.seek(next);
        // It is looked at for its index alone; the loop takes it.
        if let Found::Frame(header) = scan.next()? {
            reading.cursor.pass(header.index, true);
            reading.frames.skip_to(header.index);
        }
        scan.seek(next);
        Ok(Next::Bad)
    }
}

/// What stands at a place of a store.
enum Next {
    Whole,
    Bad,
    End,
}

impl Frames {
    fn new(base: Index) -> Self {
        Self {
            summed: Seal::empty(base, Position(0)),
            torn: false,
            bad: false,
        }
    }

    fn add(&mut self, header: &Header, at: u64, end: u64) {
        self.skip_to(header.index);
        let summed = &mut self.summed;
        let position = u32::try_from(at).unwrap_or(u32::MAX);
        let far = |last: &Mark| position.saturating_sub(last.position) >= MARK_EVERY;
        if summed.marks.last().is_none_or(far) {
            let entry = summed.entries;
            summed.marks.push(Mark { entry, position });
        }
        // As far as the frames tell: such an entry may end nothing.
        summed.rolled = header.kind == Kind::Roll;
        summed.entries_digest = seal::add_entry(summed.entries_digest, header.crc);
        seal::extend_terms(&mut summed.term_ends, summed.entries, header.term);
        summed.entries = summed.entries.saturating_add(1);
        summed.end = u32::try_from(end).unwrap_or(u32::MAX);
    }

    /// Entries before `index` are lost.
    fn skip_to(&mut self, index: Index) {
        let number = index.0.saturating_sub(self.summed.base.0);
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        self.summed.entries = self.summed.entries.max(number);
    }
}

/// Whether a store that has no seal holds no frame.
pub fn has_no_frames(disk: &dyn Disk, files: &Files) -> bool {
    match Store::open(disk, &files.paths.store, files.base) {
        Ok(None) => true,
        Ok(Some(store)) => {
            let first = store.scan().and_then(|mut scan| scan.next());
            first.is_ok_and(|first| first == Found::End)
        }
        Err(_) => false,
    }
}

/// Whether none of these segments has a frame.
pub fn all_empty(disk: &dyn Disk, files: &[Files]) -> bool {
    files.iter().all(|files| has_no_frames(disk, files))
}
