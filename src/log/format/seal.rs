//! The seal of a segment: a small file that sums the segment up once nothing in it will change.
//!
//! It lets a node start without reading the store, tells the segments of two nodes apart by their
//! digests, and is what a scrub and a repair check against. The digests cover what is replicated,
//! not where it stands, so they are equal on every replica that rolled at the same places. A seal
//! that is missing or does not check costs one reading of the store; it loses nothing. The file, which holds the
//! directory of the rows, too, is `seal_file.rs`'s.

use super::directory::{Directory, Shape};
use super::file_header::FILE_HEADER_BYTES;
use super::files::SegmentName;
use super::frame::HEADER_BYTES;
use super::log_set::LogSet;
use super::record::BATCH_BYTES_MIN;
use super::room::POSITIONS_MAX;
use super::row::Row;
use crate::disk::crc32c;
use crate::log::{Index, NUMBER_MAX, Position, STORE_BYTES_MAX, Term};

/// A store has a mark at the first frame behind each of its stretches of this many bytes.
pub const MARK_EVERY: u32 = 64 << 10;

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
    /// The raft index of the entry that had it rewritten; `None` if it is as it was appended. Then `entries` counts the
    /// frames in its store, the marks lead to these, and the terms tell which raft indexes it stands for.
    pub rewritten: Option<Index>,
    /// Whether the log says that it ends here: its last entry is the one that ends it, on every node. Otherwise this
    /// node ended it by itself, or a snapshot ended in it.
    pub rolled: bool,
    /// How many entries its store holds.
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
    /// The logs that its records belong to. Not known of one that sums up an open segment, or came from another node.
    pub logs: LogSet,
    /// How many rows its directory lists.
    pub listed: u32,
}

impl Seal {
    /// Of a segment without an entry, that was never rewritten.
    pub fn empty(base: Index, first_position: Position) -> Self {
        Self {
            base,
            rewritten: None,
            rolled: false,
            entries: 0,
            end: FILE_HEADER_BYTES as u32,
            rows: 0,
            entries_digest: 0,
            rows_digest: 0,
            first_position,
            next_position: first_position,
            sealed_ms: 0,
            term_ends: Vec::new(),
            marks: Vec::new(),
            logs: LogSet::default(),
            listed: 0,
        }
    }

    /// The last entry's term.
    pub fn last_term(&self) -> Term {
        self.term_ends.last().map_or(Term(0), |end| end.term)
    }

    /// What its files are called after.
    pub fn name(&self) -> SegmentName {
        SegmentName {
            base: self.base,
            rewritten: self.rewritten,
        }
    }

    /// The raft index after the last entry that it holds or stands for.
    pub fn next_index(&self) -> Index {
        let entries = match (self.rewritten, self.term_ends.last()) {
            (Some(_), Some(last)) => u64::from(last.entry) + 1,
            _ => self.entries.into(),
        };
        Index(self.base.0 + entries)
    }

    /// The number behind that of the last entry in its store: the raft index behind it, unless it is rewritten.
    pub fn entries_end(&self) -> Index {
        Index(self.base.0 + u64::from(self.entries))
    }

    /// Whether both seals sum up the same entries and rows.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let digest = |seal: &Self| {
            let positions = (seal.first_position, seal.next_position);
            (
                (seal.name(), seal.next_index()),
                (seal.entries, seal.entries_digest),
                (seal.rows, seal.rows_digest),
                positions,
            )
        };
        digest(self) == digest(other)
    }

    /// What others need to know of the segment: without the marks and the logs, which each node finds in its own copy.
    pub fn in_manifest(&self) -> Self {
        Self {
            term_ends: self.term_ends.clone(),
            marks: Vec::new(),
            logs: LogSet::default(),
            listed: 0,
            ..*self
        }
    }

    /// The seal of a segment that has this directory.
    pub fn with(&self, directory: &Directory) -> Self {
        Self {
            logs: directory.logs.clone(),
            listed: directory.numbers,
            ..self.clone()
        }
    }

    /// How its directory is.
    pub fn directory(&self) -> Shape {
        let (rows, digest) = (self.rows, self.rows_digest);
        Shape::new(self.base, rows, digest, self.logs.len(), self.listed)
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

    /// Whether a segment can hold as much as the fixed part says. This is checked before memory is taken for
    /// the lists.
    pub fn is_possible(&self) -> bool {
        let frames = u64::from(self.end).saturating_sub(FILE_HEADER_BYTES as u64);
        let records = self.next_position.0.checked_sub(self.first_position.0);
        let rows = frames / BATCH_BYTES_MIN as u64;
        // Between two rows of a rewritten segment one more can stand, for what is gone.
        let rows = match self.rewritten {
            Some(_) => 2 * rows + 1,
            None => rows,
        };
        self.entries > 0
            && self.end <= STORE_BYTES_MAX
            && u64::from(self.entries) <= frames / HEADER_BYTES as u64
            && u64::from(self.rows) <= rows
            && (self.rewritten.is_none() || !self.term_ends.is_empty())
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
}

/// What was walked of a segment so far, for its seal.
#[derive(Debug, Default)]
pub struct Sum {
    pub entries: usize,
    pub entries_digest: u32,
    pub marks: Vec<Mark>,
    pub rows: usize,
    pub rows_digest: u32,
}

impl Sum {
    /// Takes the next entry, whose frame begins there and has this checksum.
    pub fn add_entry(&mut self, position: u32, crc: u32) {
        self.entries_digest = add_entry(self.entries_digest, crc);
        let far = |last: &Mark| position - last.position >= MARK_EVERY;
        if self.marks.last().is_none_or(far) {
            let entry = u32::try_from(self.entries).expect("frames are more than a byte long");
            self.marks.push(Mark { entry, position });
        }
        self.entries += 1;
    }

    /// Takes the next row.
    pub fn add_row(&mut self, row: &Row) {
        self.rows_digest = add_row(self.rows_digest, row);
        self.rows += 1;
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
pub mod tests {
    use super::*;
    use crate::log::LogId;

    pub fn seal() -> Seal {
        let mark = |entry, position| Mark { entry, position };
        let end = |entry, term| TermEnd {
            entry,
            term: Term(term),
        };
        Seal {
            base: Index(7),
            rewritten: None,
            rolled: true,
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
            logs: [LogId(0), LogId(9)].into_iter().collect(),
            listed: 2,
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
