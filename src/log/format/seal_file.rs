//! A seal's file: the sum of its segment, and the directory of the segment's rows behind it.
//!
//! The sum is read whole, at a start. The directory is as long as the rows are many, and is read by pieces when a log is
//! looked for: see [`super::directory`]. A seal in memory, or on its way to another node, has none.

use std::path::{Path, PathBuf};

#[cfg(any(test, fuzzing))]
use super::directory::Shape;
use super::file_header::{self, FILE_HEADER_BYTES, Magic};
use super::files::SegmentName;
use super::frame;
use super::log_set::LogSet;
use super::seal::{MARK_EVERY, Mark, Seal, TermEnd};
use crate::disk::crc32c;
use crate::disk::{Disk, File};
use crate::log::{Error, Position, Term};

/// The fixed part behind the file header.
pub const FIXED_BYTES: usize = 64;
/// One mark.
pub const MARK_BYTES: usize = 8;
/// One term's end.
pub const TERM_END_BYTES: usize = 12;
/// Where the file header says what else is to be said of the segment.
const FLAGS_AT: usize = 24;
/// The log says that the segment ends where it does.
const ROLLED: u64 = 1;
/// The segment was rewritten.
const REWRITTEN: u64 = 2;
/// The checksum of the sum.
const CRC_BYTES: usize = 4;
/// No store has more marks: it is at most 4 GiB long.
const MARKS_MAX: usize = 1 << 16;
/// The most terms in a seal: more than there are elections while a segment is open.
const TERM_ENDS_MAX: usize = 1 << 20;
/// The most logs in a seal: more than there are rows in a segment of the default size.
const LOGS_MAX: usize = 1 << 22;
/// The most bytes that their ids take: those of two numbers for each.
const IDS_BYTES_MAX: usize = LOGS_MAX * 10;
/// A seal has this name until it is written. A crash can leave it behind, and the next start removes it.
pub const UNNAMED: &str = "new-seal";

const _: () = assert!(FIXED_BYTES == 10 * 4 + 3 * 8 && FILE_HEADER_BYTES + FIXED_BYTES == 96);
const _: () = assert!(MARK_BYTES == 4 + 4 && TERM_END_BYTES == 4 + 8 && CRC_BYTES == 4);

/// How long the parts of a seal's sum are.
#[derive(Debug, Clone, Copy)]
struct Lengths {
    marks: usize,
    terms: usize,
    logs: usize,
    ids_bytes: usize,
}

impl Lengths {
    /// As the fixed part has them; `None` if no seal can be so.
    fn read(fixed: &[u8]) -> Option<Self> {
        let number =
            |at: usize| Some(u32::from_le_bytes(*fixed.get(at..)?.first_chunk()?) as usize);
        let lengths = Self {
            marks: number(12)?,
            terms: number(24)?,
            logs: number(28)?,
            ids_bytes: number(56)?,
        };
        let is_possible = lengths.marks <= MARKS_MAX
            && lengths.terms <= TERM_ENDS_MAX
            && lengths.logs <= LOGS_MAX
            && lengths.ids_bytes <= IDS_BYTES_MAX;
        is_possible.then_some(lengths)
    }

    /// Where the terms begin behind the file header.
    fn terms_at(&self) -> usize {
        FIXED_BYTES + self.marks * MARK_BYTES
    }

    fn ids_at(&self) -> usize {
        self.terms_at() + self.terms * TERM_END_BYTES
    }

    /// Where the sum ends in the file, its checksum included, and the directory begins.
    fn end(&self) -> usize {
        FILE_HEADER_BYTES + self.ids_at() + self.ids_bytes + CRC_BYTES
    }
}

/// Where the sum ends in the seal that these bytes begin, and how its directory is.
#[cfg(any(test, fuzzing))]
pub fn layout(bytes: &[u8]) -> Option<(usize, Shape)> {
    let fixed = bytes.get(FILE_HEADER_BYTES..)?;
    let lengths = Lengths::read(fixed)?;
    let number = |at: usize| Some(u32::from_le_bytes(*fixed.get(at..)?.first_chunk()?));
    let base = crate::log::Index(u64::from_le_bytes(*bytes.get(16..)?.first_chunk()?));
    let shape = Shape::new(base, number(8)?, number(20)?, lengths.logs, number(60)?);
    Some((lengths.end(), shape))
}

impl Seal {
    /// Where its directory begins in its file.
    pub fn directory_at(&self) -> usize {
        let lengths = Lengths {
            marks: self.marks.len(),
            terms: self.term_ends.len(),
            logs: self.logs.len(),
            ids_bytes: self.logs.encode().len(),
        };
        lengths.end()
    }

    /// The bytes of the file before the directory.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = file_header::encode(Magic::Seal, self.base).to_vec();
        let flags = if self.rolled { ROLLED } else { 0 };
        let flags = flags | self.rewritten.map_or(0, |_| REWRITTEN);
        out[FLAGS_AT..].copy_from_slice(&flags.to_le_bytes());
        let count = |length| u32::try_from(length).expect("there are at most 2^32 entries");
        let (marks, terms) = (count(self.marks.len()), count(self.term_ends.len()));
        let ids = self.logs.encode();
        for number in [
            self.entries,
            self.end,
            self.rows,
            marks,
            self.entries_digest,
            self.rows_digest,
            terms,
            count(self.logs.len()),
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.first_position.0, self.next_position.0, self.sealed_ms] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&count(ids.len()).to_le_bytes());
        out.extend_from_slice(&self.listed.to_le_bytes());
        debug_assert_eq!(out.len(), FILE_HEADER_BYTES + FIXED_BYTES);
        for mark in &self.marks {
            out.extend_from_slice(&mark.entry.to_le_bytes());
            out.extend_from_slice(&mark.position.to_le_bytes());
        }
        for end in &self.term_ends {
            out.extend_from_slice(&end.entry.to_le_bytes());
            out.extend_from_slice(&end.term.0.to_le_bytes());
        }
        out.extend_from_slice(&ids);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the sum with its file header; `None` if it does not check.
    fn decode(bytes: &[u8], name: SegmentName) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<CRC_BYTES>()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (header, body) = body.split_first_chunk::<FILE_HEADER_BYTES>()?;
        let flags = u64::from_le_bytes(*header.last_chunk()?);
        let is_it = (flags & REWRITTEN != 0) == name.rewritten.is_some();
        if flags & !(ROLLED | REWRITTEN) != 0 || !is_it {
            return None;
        }
        let u32_at = |at: usize| Some(u32::from_le_bytes(*body.get(at..)?.first_chunk()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(*body.get(at..)?.first_chunk()?));
        let lengths = Lengths::read(body).filter(|lengths| lengths.end() == bytes.len())?;
        let mark = |number: usize| {
            let at = FIXED_BYTES + number * MARK_BYTES;
            let (entry, position) = (u32_at(at)?, u32_at(at + 4)?);
            Some(Mark { entry, position })
        };
        let term_end = |number: usize| {
            let at = lengths.terms_at() + number * TERM_END_BYTES;
            let (entry, term) = (u32_at(at)?, Term(u64_at(at + 4)?));
            Some(TermEnd { entry, term })
        };
        let seal = Self {
            base: name.base,
            rewritten: name.rewritten,
            rolled: flags & ROLLED != 0,
            entries: u32_at(0)?,
            end: u32_at(4)?,
            rows: u32_at(8)?,
            entries_digest: u32_at(16)?,
            rows_digest: u32_at(20)?,
            first_position: Position(u64_at(32)?),
            next_position: Position(u64_at(40)?),
            sealed_ms: u64_at(48)?,
            marks: (0..lengths.marks).map(mark).collect::<Option<_>>()?,
            term_ends: (0..lengths.terms).map(term_end).collect::<Option<_>>()?,
            logs: LogSet::decode(&body[lengths.ids_at()..], lengths.logs)?,
            listed: u32_at(60)?,
        };
        seal.is_sound().then_some(seal)
    }

    /// What a reader relies on without looking again.
    fn is_sound(&self) -> bool {
        let first = Mark {
            entry: 0,
            position: FILE_HEADER_BYTES as u32,
        };
        let grow =
            |pair: &[Mark]| pair[0].entry < pair[1].entry && pair[0].position < pair[1].position;
        let later = |pair: &[TermEnd]| pair[0].entry < pair[1].entry && pair[0].term < pair[1].term;
        let last = self.marks.last();
        let last_entry = self.term_ends.last().map(|end| end.entry);
        // The terms of a rewritten one are those of the entries that it stands for.
        let covers = match self.rewritten {
            Some(_) => last_entry.is_some(),
            None => last_entry == self.entries.checked_sub(1),
        };
        // The most bytes that a read between two marks takes.
        let stretch = MARK_EVERY as usize + frame::frame_bytes(frame::PAYLOAD_BYTES_MAX);
        let ends = self.marks.iter().skip(1).map(|mark| mark.position);
        let mut stretches = self.marks.iter().zip(ends.chain([self.end]));
        let near = |(mark, end): (&Mark, u32)| {
            end.checked_sub(mark.position)
                .is_some_and(|length| length as usize <= stretch)
        };
        stretches.all(near)
            && self.marks.first() == Some(&first)
            && self.marks.windows(2).all(grow)
            && last.is_some_and(|last| last.entry < self.entries && last.position < self.end)
            && self.term_ends.windows(2).all(later)
            && self.logs.len() <= self.rows as usize
            && self.logs.is_empty() == (self.rows == 0)
            && self.listed <= self.rows
            && covers
            && self.is_possible()
    }

    /// Writes the file with the segment's directory and makes it durable, its name included once the log's directory is
    /// synced. One that has the name already is read on by those who have it mapped.
    pub fn write(&self, disk: &dyn Disk, path: &Path, directory: &[u8]) -> Result<(), Error> {
        let new = unnamed(path);
        let file = disk
            .open_or_create(&new)
            .map_err(Error::io("create", &new))?;
        file.set_len(0).map_err(Error::io("cut", &new))?;
        let sum = self.encode();
        debug_assert_eq!(sum.len(), self.directory_at());
        debug_assert_eq!(directory.len(), self.directory().bytes());
        file.write_parts_at(&[&sum, directory], 0)
            .map_err(Error::io("write", &new))?;
        file.sync_data().map_err(Error::io("sync", &new))?;
        disk.rename(&new, path).map_err(Error::io("move", new))
    }

    /// Reads a seal's sum. `None` if it is missing, does not check or is cut off: then the store tells.
    pub fn read(
        disk: &dyn Disk,
        path: &Path,
        name: impl Into<SegmentName>,
    ) -> Result<Option<Self>, Error> {
        let name = name.into();
        let file = match disk.open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            done => done.map_err(Error::io("open", path))?,
        };
        match file_header::read(&*file, path, Magic::Seal, name.base) {
            Ok(Some(())) => {}
            Err(error @ Error::Version { .. }) => return Err(error),
            Ok(None) | Err(_) => return Ok(None),
        }
        let len = file.len().map_err(Error::io("measure", path))?;
        Ok(read_sum(&*file, len).and_then(|bytes| {
            let seal = Self::decode(&bytes, name)?;
            (len == (bytes.len() + seal.directory().bytes()) as u64).then_some(seal)
        }))
    }
}

/// The bytes of the sum, as long as it says that it is; `None` if they cannot be had.
fn read_sum(file: &dyn File, len: u64) -> Option<Vec<u8>> {
    let mut head = [0; FILE_HEADER_BYTES + FIXED_BYTES];
    file.read_exact_at(&mut head, 0).ok()?;
    let end = Lengths::read(&head[FILE_HEADER_BYTES..])?.end();
    if end as u64 > len {
        return None;
    }
    file.read_at(0, end).ok()
}

/// Where a seal is written before it gets its name.
fn unnamed(path: &Path) -> PathBuf {
    path.with_file_name(UNNAMED)
}

#[cfg(test)]
mod tests {
    use super::super::seal::tests::seal;
    use super::*;
    use crate::disk::memory::MemoryDisk;
    use crate::log::Index;

    /// One that fits, whatever it says.
    fn directory() -> Vec<u8> {
        vec![5; seal().directory().bytes()]
    }

    #[test]
    fn a_seal_comes_back_and_no_flip_passes() {
        let disk = MemoryDisk::default();
        let path = Path::new("/a.seal");
        assert_eq!(Seal::read(&disk, path, Index(7)).unwrap(), None);
        seal().write(&disk, path, &directory()).unwrap();
        assert_eq!(Seal::read(&disk, path, Index(7)).unwrap(), Some(seal()));
        let at = seal().directory_at();
        assert_eq!(seal().encode().len(), at);
        let file = disk.open(path).unwrap();
        assert_eq!(file.read_at(at as u64, 36).unwrap(), directory()[..36]);
        let bits = seal().encode().len() * 8;
        for bit in 0..bits {
            disk.corrupt(path, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            assert_eq!(
                Seal::read(&disk, path, Index(7)).unwrap(),
                None,
                "bit {bit}"
            );
            disk.corrupt(path, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        }
        for len in 0..bits / 8 + directory().len() {
            seal().write(&disk, path, &directory()).unwrap();
            disk.corrupt(path, |bytes| bytes.truncate(len));
            assert_eq!(Seal::read(&disk, path, Index(7)).unwrap(), None, "{len}");
        }
        let names = disk.list(Path::new("/")).unwrap();
        assert_eq!(names, ["a.seal"]);
    }

    #[test]
    fn a_seal_says_whether_the_log_ended_the_segment() {
        let (disk, path) = (MemoryDisk::default(), Path::new("/a.seal"));
        for rolled in [true, false] {
            let seal = Seal { rolled, ..seal() };
            seal.write(&disk, path, &directory()).unwrap();
            assert_eq!(Seal::read(&disk, path, Index(7)).unwrap(), Some(seal));
        }
    }
}
