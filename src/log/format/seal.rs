//! The seal of a segment: a small file that sums the segment up once nothing in it will change.
//!
//! It lets a node start without reading the store, tells the segments of two nodes apart by their
//! digests, and is what a scrub and a repair check against. The digests cover what is replicated,
//! not where it stands, so they are equal on every replica that rolled at the same places. A seal
//! that is missing or does not check costs one reading of the store; it loses nothing.

use std::path::Path;

use super::file_header::{self, FILE_HEADER_BYTES, Magic};
use super::frame::{self, HEADER_BYTES};
use super::record::BATCH_BYTES_MIN;
use super::room::POSITIONS_MAX;
use super::row::Row;
use crate::disk::Disk;
use crate::log::{Error, Index, LogId, NUMBER_MAX, Position, STORE_BYTES_MAX, Term};

/// The fixed part behind the file header.
pub const FIXED_BYTES: usize = 56;
/// One mark.
pub const MARK_BYTES: usize = 8;
/// One term's end.
pub const TERM_END_BYTES: usize = 12;
/// One log.
pub const LOG_BYTES: usize = 4;
/// The checksum at the end.
const CRC_BYTES: usize = 4;
/// A store has a mark at the first frame behind each of its stretches of this many bytes.
pub const MARK_EVERY: u32 = 64 << 10;
/// No store has more marks: it is at most 4 GiB long.
const MARKS_MAX: usize = 1 << 16;
/// The most terms in a seal: more than there are elections while a segment is open.
const TERM_ENDS_MAX: usize = 1 << 20;
/// The most logs in a seal: more than there are rows in a segment of the default size.
const LOGS_MAX: usize = 1 << 22;

const _: () = assert!(FIXED_BYTES == 8 * 4 + 3 * 8 && FILE_HEADER_BYTES + FIXED_BYTES == 88);
const _: () = assert!(MARK_BYTES == 4 + 4 && TERM_END_BYTES == 4 + 8 && CRC_BYTES == 4);

/// Where one entry's frame stands. Any other frame is found by reading on from the mark before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The entry's raft index less the segment's first.
    pub entry: u32,
    /// Where its frame begins.
    pub position: u32,
}

/// The last entry of a term in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TermEnd {
    /// Its raft index less the segment's first.
    pub entry: u32,
    pub term: Term,
}

/// Takes note of the next entry's term.
pub fn extend_terms(ends: &mut Vec<TermEnd>, entry: u32, term: Term) {
    match ends.last_mut() {
        Some(last) if last.term == term => last.entry = entry,
        _ => ends.push(TermEnd { entry, term }),
    }
}

/// The term of an entry, by its raft index less the segment's first.
pub fn term_at(ends: &[TermEnd], entry: u64) -> Option<Term> {
    let before = ends.partition_point(|end| u64::from(end.entry) < entry);
    ends.get(before).map(|end| end.term)
}

/// What is known of a sealed segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// Its first raft index.
    pub base: Index,
    /// How many entries it holds.
    pub entries: u32,
    /// Where its store ends.
    pub end: u32,
    /// How many rows its index holds.
    pub rows: u32,
    /// Over the checksum of each entry, in order.
    pub entries_digest: u32,
    /// Over each row's position, raft index, check, log and offset, in order.
    pub rows_digest: u32,
    /// The position of the first record in it or, without one, after it.
    pub first_position: Position,
    /// The position after its last record.
    pub next_position: Position,
    /// The log's time when it was sealed, in milliseconds since 1970: no record in it is later.
    pub sealed_ms: u64,
    /// The terms of its entries, in order: at least one.
    pub term_ends: Vec<TermEnd>,
    pub marks: Vec<Mark>,
    /// The logs that its records belong to, in order.
    pub logs: Vec<LogId>,
}

impl Seal {
    /// The last entry's term.
    pub fn last_term(&self) -> Term {
        self.term_ends.last().map_or(Term(0), |end| end.term)
    }

    /// The raft index after its last entry.
    pub fn next_index(&self) -> Index {
        Index(self.base.0 + u64::from(self.entries))
    }

    /// Whether both seals sum up the same entries and rows.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let digest = |seal: &Self| {
            let positions = (seal.first_position, seal.next_position);
            (
                (seal.base, seal.entries, seal.entries_digest),
                (seal.rows, seal.rows_digest),
                positions,
            )
        };
        digest(self) == digest(other)
    }

    /// The last mark at or before an entry.
    pub fn mark_before(&self, index: Index) -> Mark {
        let delta = index.0 - self.base.0;
        let after = self
            .marks
            .partition_point(|mark| u64::from(mark.entry) <= delta);
        self.marks[after - 1]
    }

    /// The place of the first mark behind an entry that `far_enough` takes, or the store's end.
    pub fn mark_after(&self, index: Index, far_enough: impl Fn(u32) -> bool) -> u32 {
        let delta = index.0 - self.base.0;
        let after = self
            .marks
            .partition_point(|mark| u64::from(mark.entry) <= delta);
        let mut later = self.marks[after..].iter().map(|mark| mark.position);
        later
            .find(|position| far_enough(*position))
            .unwrap_or(self.end)
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = file_header::encode(Magic::Seal, self.base).to_vec();
        let count = |length| u32::try_from(length).expect("there are at most 2^32 entries");
        let (marks, terms) = (count(self.marks.len()), count(self.term_ends.len()));
        let digests = [self.entries_digest, self.rows_digest];
        for number in [
            self.entries,
            self.end,
            self.rows,
            marks,
            digests[0],
            digests[1],
            terms,
            count(self.logs.len()),
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.first_position.0, self.next_position.0, self.sealed_ms] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        debug_assert_eq!(out.len(), FILE_HEADER_BYTES + FIXED_BYTES);
        for mark in &self.marks {
            out.extend_from_slice(&mark.entry.to_le_bytes());
            out.extend_from_slice(&mark.position.to_le_bytes());
        }
        for end in &self.term_ends {
            out.extend_from_slice(&end.entry.to_le_bytes());
            out.extend_from_slice(&end.term.0.to_le_bytes());
        }
        for log in &self.logs {
            out.extend_from_slice(&log.0.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the bytes behind the file header; `None` if they do not check.
    fn decode(bytes: &[u8], base: Index) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<CRC_BYTES>()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let body = body.get(FILE_HEADER_BYTES..)?;
        let u32_at = |at: usize| Some(u32::from_le_bytes(*body.get(at..)?.first_chunk()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(*body.get(at..)?.first_chunk()?));
        let [marks, terms, logs] = [
            u32_at(12)? as usize,
            u32_at(24)? as usize,
            u32_at(28)? as usize,
        ];
        let terms_at = FIXED_BYTES + marks * MARK_BYTES;
        if marks > MARKS_MAX || terms > TERM_ENDS_MAX || logs > LOGS_MAX {
            return None;
        }
        let logs_at = terms_at + terms * TERM_END_BYTES;
        if body.len() != logs_at + logs * LOG_BYTES {
            return None;
        }
        let mark = |number: usize| {
            let at = FIXED_BYTES + number * MARK_BYTES;
            let (entry, position) = (u32_at(at)?, u32_at(at + 4)?);
            Some(Mark { entry, position })
        };
        let term_end = |number: usize| {
            let at = terms_at + number * TERM_END_BYTES;
            let (entry, term) = (u32_at(at)?, Term(u64_at(at + 4)?));
            Some(TermEnd { entry, term })
        };
        let seal = Self {
            base,
            entries: u32_at(0)?,
            end: u32_at(4)?,
            rows: u32_at(8)?,
            entries_digest: u32_at(16)?,
            rows_digest: u32_at(20)?,
            first_position: Position(u64_at(32)?),
            next_position: Position(u64_at(40)?),
            sealed_ms: u64_at(48)?,
            marks: (0..marks).map(mark).collect::<Option<_>>()?,
            term_ends: (0..terms).map(term_end).collect::<Option<_>>()?,
            logs: (0..logs)
                .map(|number| u32_at(logs_at + number * LOG_BYTES).map(LogId))
                .collect::<Option<_>>()?,
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
            && self.logs.is_sorted_by(|one, next| one < next)
            && self.logs.len() <= self.rows as usize
            && self.logs.is_empty() == (self.rows == 0)
            && self.term_ends.last().map(|end| end.entry) == Some(self.entries - 1)
            && self.is_possible()
    }

    /// Whether a segment can hold as much as the fixed part says. This is checked before memory is taken for
    /// the lists.
    pub fn is_possible(&self) -> bool {
        let frames = u64::from(self.end).saturating_sub(FILE_HEADER_BYTES as u64);
        let records = self.next_position.0.checked_sub(self.first_position.0);
        self.entries > 0
            && self.end <= STORE_BYTES_MAX
            && u64::from(self.entries) <= frames / HEADER_BYTES as u64
            && u64::from(self.rows) <= frames / BATCH_BYTES_MIN as u64
            // Compressed records may take less than a byte each, so their number is not bounded by the store's
            // bytes. A row covers at least one record.
            && records.is_some_and(|records| {
                records <= POSITIONS_MAX
                    && u64::from(self.rows) <= records
                    && (self.rows == 0) == (records == 0)
            })
            && self.next_position.0 <= NUMBER_MAX
            && self.base.0 <= NUMBER_MAX
    }

    /// Writes the file and makes it durable, its name included once the directory is synced.
    pub fn write(&self, disk: &dyn Disk, path: &Path) -> Result<(), Error> {
        let file = disk
            .open_or_create(path)
            .map_err(Error::io("create", path))?;
        file.set_len(0).map_err(Error::io("cut", path))?;
        file.write_all_at(&self.encode(), 0)
            .map_err(Error::io("write", path))?;
        file.sync_data().map_err(Error::io("sync", path))
    }

    /// Reads a seal. `None` if it is missing, unfinished or does not check: then the store tells.
    pub fn read(disk: &dyn Disk, path: &Path, base: Index) -> Result<Option<Self>, Error> {
        let file = match disk.open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            done => done.map_err(Error::io("open", path))?,
        };
        let len = file.len().map_err(Error::io("measure", path))?;
        let lists_max =
            MARKS_MAX * MARK_BYTES + TERM_ENDS_MAX * TERM_END_BYTES + LOGS_MAX * LOG_BYTES;
        let len_max = FILE_HEADER_BYTES + FIXED_BYTES + lists_max + CRC_BYTES;
        let Some(len) = usize::try_from(len).ok().filter(|len| *len <= len_max) else {
            return Ok(None);
        };
        match file_header::read(&*file, path, Magic::Seal, base) {
            Ok(Some(())) => {}
            Err(error @ Error::Version { .. }) => return Err(error),
            Ok(None) | Err(_) => return Ok(None),
        }
        let mut bytes = vec![0; len];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Ok(Self::decode(&bytes, base)),
            Err(_) => Ok(None),
        }
    }
}

/// Adds an entry's checksum to a digest.
pub fn add_entry(digest: u32, crc: u32) -> u32 {
    crc32c::crc32c_append(digest, &crc.to_le_bytes())
}

/// Adds a row to a digest.
pub fn add_row(digest: u32, row: &Row) -> u32 {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&row.position.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&row.index.0.to_le_bytes());
    bytes[16..20].copy_from_slice(&row.check.to_le_bytes());
    bytes[20..24].copy_from_slice(&row.log.0.to_le_bytes());
    bytes[24..].copy_from_slice(&row.offset.0.to_le_bytes());
    crc32c::crc32c_append(digest, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::memory::MemoryDisk;

    fn seal() -> Seal {
        let mark = |entry, position| Mark { entry, position };
        let end = |entry, term| TermEnd {
            entry,
            term: Term(term),
        };
        Seal {
            base: Index(7),
            entries: 900,
            end: 200_000,
            rows: 3,
            entries_digest: 1,
            rows_digest: 2,
            first_position: Position(10),
            next_position: Position(20),
            sealed_ms: 5,
            term_ends: vec![end(10, 2), end(899, 4)],
            marks: vec![mark(0, 32), mark(300, 70_000), mark(600, 140_000)],
            logs: vec![LogId(0), LogId(9)],
        }
    }

    #[test]
    fn a_seal_comes_back_and_no_flip_passes() {
        let disk = MemoryDisk::default();
        let path = Path::new("/a.seal");
        assert_eq!(Seal::read(&disk, path, Index(7)).unwrap(), None);
        seal().write(&disk, path).unwrap();
        assert_eq!(Seal::read(&disk, path, Index(7)).unwrap(), Some(seal()));
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
        for len in 0..bits / 8 {
            seal().write(&disk, path).unwrap();
            disk.corrupt(path, |bytes| bytes.truncate(len));
            assert_eq!(Seal::read(&disk, path, Index(7)).unwrap(), None, "{len}");
        }
    }

    #[test]
    fn marks_lead_to_any_entry() {
        let seal = seal();
        let at = |index| seal.mark_before(Index(index)).position;
        assert_eq!(
            (at(7), at(306), at(307), at(906)),
            (32, 32, 70_000, 140_000)
        );
        assert_eq!(seal.mark_after(Index(7), |_| true), 70_000);
        assert_eq!(seal.mark_after(Index(7), |at| at > 100_000), 140_000);
        assert_eq!(seal.mark_after(Index(700), |_| true), 200_000);
        let term = |entry| term_at(&seal.term_ends, entry).map(|term| term.0);
        assert_eq!([term(0), term(10), term(11)], [Some(2), Some(2), Some(4)]);
        assert_eq!((term(899), term(900)), (Some(4), None));
    }
}
