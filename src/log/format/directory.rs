//! The directory of a sealed segment: which rows belong to which log.
//!
//! Rows stand in the order of commit, those of all logs among each other. The directory has an entry for each log, in the
//! order of their ids, and the numbers of the rows log by log. The numbers are left out of a log whose rows stand side
//! by side: so they are where a segment holds one log.
//!
//! It is read by pieces, from a map: each entry and each block of numbers has a checksum of its own, which goes on
//! from the digest of the segment's rows. So a piece that checks is of these very rows. Bytes are drawn in
//! `docs/format.md`.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::log_set::LogSet;
use super::row::Row;
use crate::disk::crc32c;
use crate::log::{Index, LogId, Offset, Position};

/// One log.
pub const ENTRY_BYTES: usize = 36;
const ENTRY_CRC_AT: usize = 32;
/// Some numbers of rows, and their checksum.
pub const BLOCK_BYTES: usize = 64;
/// The numbers in a block.
const BLOCK_NUMBERS: usize = 15;
const BLOCK_CRC_AT: usize = BLOCK_NUMBERS * 4;
/// Where an entry says where its numbers begin: there are none, and the rows are side by side from this one on.
const IS_RUN: u32 = 1 << 31;
const _: () = assert!(ENTRY_CRC_AT == 4 * 4 + 8 + 8 && ENTRY_BYTES == ENTRY_CRC_AT + 4);
const _: () = assert!(BLOCK_BYTES == BLOCK_CRC_AT + 4);

/// Spreads the ids of logs, which a counter gives: nobody chooses them to collide.
#[derive(Debug, Default)]
pub struct OfId(u64);

impl Hasher for OfId {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32((*byte).into()));
    }

    fn write_u32(&mut self, id: u32) {
        // The golden ratio, whose multiples are far apart: Knuth, volume 3, section 6.4.
        let spread = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ (spread >> 32);
    }
}

/// Something for each of some logs.
pub type ByLog<T> = HashMap<LogId, T, BuildHasherDefault<OfId>>;

/// How large a directory is, and what its checksums go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    logs: usize,
    numbers: u32,
    rows: u32,
    seed: u32,
}

impl Shape {
    /// Of the directory that has so many logs and lists so many rows of a segment's.
    pub fn new(base: Index, rows: u32, rows_digest: u32, logs: usize, numbers: u32) -> Self {
        let mut of = [0; 16];
        of[..8].copy_from_slice(&base.0.to_le_bytes());
        of[8..12].copy_from_slice(&rows.to_le_bytes());
        of[12..].copy_from_slice(&rows_digest.to_le_bytes());
        Self {
            logs,
            numbers,
            rows,
            seed: crc32c::crc32c(&of),
        }
    }

    /// The directory's length.
    pub fn bytes(&self) -> usize {
        let blocks = (self.numbers as usize).div_ceil(BLOCK_NUMBERS);
        self.logs * ENTRY_BYTES + blocks * BLOCK_BYTES
    }

    fn entry_crc(&self, entry: &[u8]) -> u32 {
        crc32c::crc32c_append(self.seed, &entry[..ENTRY_CRC_AT])
    }

    /// A block is known by its number, too: what it holds could stand anywhere.
    fn block_crc(&self, number: u32, block: &[u8]) -> u32 {
        let crc = crc32c::crc32c_append(self.seed, &number.to_le_bytes());
        crc32c::crc32c_append(crc, &block[..BLOCK_CRC_AT])
    }
}

/// What the directory says of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listing {
    pub log: LogId,
    /// How many rows it has: at least one.
    pub rows: u32,
    pub place: Place,
    /// What its batches take in the store.
    pub bytes: u32,
    /// The offset of the first record.
    pub first: Offset,
    /// The offset after the last record.
    pub next: Offset,
}

/// Where the rows of a log are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Side by side, from this row on.
    Run(u32),
    /// Their numbers stand from this place of the list on.
    List(u32),
}

impl Listing {
    fn encode(&self, shape: &Shape) -> [u8; ENTRY_BYTES] {
        let place = match self.place {
            Place::Run(row) => row | IS_RUN,
            Place::List(place) => place,
        };
        let mut bytes = [0; ENTRY_BYTES];
        let numbers = [self.log.0, self.rows, place, self.bytes];
        for (part, number) in numbers.iter().enumerate() {
            bytes[part * 4..][..4].copy_from_slice(&number.to_le_bytes());
        }
        bytes[16..24].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.next.0.to_le_bytes());
        let crc = shape.entry_crc(&bytes);
        bytes[ENTRY_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; ENTRY_BYTES], shape: &Shape) -> Option<Self> {
        let part = |at: usize| {
            let number = bytes[at..].first_chunk();
            number.map_or(0, |number| u32::from_le_bytes(*number))
        };
        let long = |at: usize| u64::from(part(at)) | u64::from(part(at + 4)) << 32;
        if part(ENTRY_CRC_AT) != shape.entry_crc(bytes) {
            return None;
        }
        let (rows, place) = (part(4), part(8));
        let (place, room) = match place & IS_RUN {
            0 => (Place::List(place), shape.numbers.checked_sub(place)),
            _ => (
                Place::Run(place ^ IS_RUN),
                shape.rows.checked_sub(place ^ IS_RUN),
            ),
        };
        let is_possible = rows > 0 && room.is_some_and(|room| rows <= room);
        is_possible.then_some(Self {
            log: LogId(part(0)),
            rows,
            place,
            bytes: part(12),
            first: Offset(long(16)),
            next: Offset(long(24)),
        })
    }
}

/// A directory, as it stands in its file.
#[derive(Debug, Clone, Copy)]
pub struct Listed<'a> {
    bytes: &'a [u8],
    shape: Shape,
}

impl<'a> Listed<'a> {
    /// The directory that these bytes begin with.
    pub fn new(bytes: &'a [u8], shape: Shape) -> Self {
        Self { bytes, shape }
    }

    /// What it says of the log that has so many before it; `None` if that does not check.
    pub fn entry(&self, place: usize) -> Option<Listing> {
        let at = place
            .checked_mul(ENTRY_BYTES)
            .filter(|_| place < self.shape.logs)?;
        Listing::decode(self.bytes.get(at..)?.first_chunk()?, &self.shape)
    }

    /// The row's number at a place of the list; `None` if its block does not check.
    pub fn number(&self, place: u32) -> Option<u32> {
        if place >= self.shape.numbers {
            return None;
        }
        let (block, at) = (place / BLOCK_NUMBERS as u32, place as usize % BLOCK_NUMBERS);
        let begins = self.shape.logs * ENTRY_BYTES + block as usize * BLOCK_BYTES;
        let bytes: &[u8; BLOCK_BYTES] = self.bytes.get(begins..)?.first_chunk()?;
        let crc = bytes[BLOCK_CRC_AT..].first_chunk();
        if crc.map(|crc| u32::from_le_bytes(*crc)) != Some(self.shape.block_crc(block, bytes)) {
            return None;
        }
        let number = u32::from_le_bytes(*bytes[at * 4..].first_chunk()?);
        (number < self.shape.rows).then_some(number)
    }
}

/// Makes the directory of rows, which come in order.
#[derive(Debug, Default)]
pub struct Builder {
    places: ByLog<u32>,
    found: Vec<Listing>,
    /// The place of each row's log among those found, in the order in which they came.
    of_rows: Vec<u32>,
    /// The last row's position. How many records it covers, the next one tells.
    last: Option<Position>,
}

/// A directory that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// The logs that have rows.
    pub logs: LogSet,
    /// How many numbers of rows are listed.
    pub numbers: u32,
    pub bytes: Vec<u8>,
}

impl Builder {
    /// Takes note of the next row, and of what its batch takes in the store.
    pub fn push(&mut self, row: &Row, bytes: u32) {
        self.end_last(row.position);
        self.last = Some(row.position);
        let number = u32::try_from(self.of_rows.len()).expect("rows are fewer than 2^31");
        let place = u32::try_from(self.found.len()).expect("logs are no more than rows");
        let place = *self.places.entry(row.log).or_insert(place);
        self.of_rows.push(place);
        let Some(known) = self.found.get_mut(place as usize) else {
            self.found.push(Listing {
                log: row.log,
                rows: 1,
                place: Place::Run(number),
                bytes,
                first: row.offset,
                next: row.offset,
            });
            return;
        };
        if let Place::Run(first) = known.place
            && number - first != known.rows
        {
            known.place = Place::List(0);
        }
        known.rows += 1;
        known.bytes = known.bytes.saturating_add(bytes);
        known.next = row.offset;
    }

    /// Closes the last row: its records, and so far its log, end before this position.
    fn end_last(&mut self, next: Position) {
        if let (Some(last), Some(place)) = (self.last, self.of_rows.last()) {
            let known = &mut self.found[*place as usize];
            let records = next.0.saturating_sub(last.0);
            known.next = Offset(known.next.0.saturating_add(records));
        }
    }

    /// The directory of these rows, whose last record is before a position.
    pub fn finish(mut self, base: Index, rows_digest: u32, next: Position) -> Directory {
        self.end_last(next);
        let rows = u32::try_from(self.of_rows.len()).expect("rows are fewer than 2^31");
        let mut order: Vec<u32> = (0..).take(self.found.len()).collect();
        order.sort_unstable_by_key(|place| self.found[*place as usize].log);
        // Where the next number of each log goes.
        let mut ends: Vec<u32> = vec![0; self.found.len()];
        let mut numbers = 0;
        for place in &order {
            let known = &mut self.found[*place as usize];
            if let Place::List(begin) = &mut known.place {
                (*begin, ends[*place as usize]) = (numbers, numbers);
                numbers += known.rows;
            }
        }
        let mut list = vec![0; numbers as usize];
        for (number, place) in (0..).zip(&self.of_rows) {
            if let Place::List(_) = self.found[*place as usize].place {
                let end = &mut ends[*place as usize];
                list[*end as usize] = number;
                *end += 1;
            }
        }
        let shape = Shape::new(base, rows, rows_digest, order.len(), numbers);
        let mut bytes = Vec::with_capacity(shape.bytes());
        for place in &order {
            bytes.extend_from_slice(&self.found[*place as usize].encode(&shape));
        }
        for (number, part) in (0..).zip(list.chunks(BLOCK_NUMBERS)) {
            let mut block = [0; BLOCK_BYTES];
            for (at, row) in part.iter().enumerate() {
                block[at * 4..][..4].copy_from_slice(&u32::to_le_bytes(*row));
            }
            let crc = shape.block_crc(number, &block);
            block[BLOCK_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
            bytes.extend_from_slice(&block);
        }
        Directory {
            logs: self.found.iter().map(|known| known.log).collect(),
            numbers,
            bytes,
        }
    }
}

/// Makes the checksums of a directory right again.
#[cfg(any(test, fuzzing))]
pub fn mend(bytes: &mut [u8], shape: &Shape) {
    let entries = bytes.len().min(shape.logs.saturating_mul(ENTRY_BYTES));
    let (entries, blocks) = bytes.split_at_mut(entries);
    for entry in entries.chunks_exact_mut(ENTRY_BYTES) {
        let crc = shape.entry_crc(entry);
        entry[ENTRY_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    }
    for (number, block) in (0..).zip(blocks.chunks_exact_mut(BLOCK_BYTES)) {
        let crc = shape.block_crc(number, block);
        block[BLOCK_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Index = Index(7);

    /// Each row has two records, and its batch a hundred bytes and its number.
    fn made(logs: &[u32]) -> (Directory, Shape) {
        let mut builder = Builder::default();
        let mut next: ByLog<u64> = ByLog::default();
        for (number, log) in (0..).zip(logs) {
            let offset = next.entry(LogId(*log)).or_insert(1000);
            let row = Row {
                position: Position(50 + number * 2),
                index: BASE,
                place: 32,
                check: 0,
                log: LogId(*log),
                offset: Offset(*offset),
            };
            *offset += 2;
            builder.push(&row, 100 + number as u32);
        }
        let rows = logs.len();
        let made = builder.finish(BASE, 9, Position(50 + rows as u64 * 2));
        let shape = Shape::new(BASE, rows as u32, 9, made.logs.len(), made.numbers);
        assert_eq!(made.bytes.len(), shape.bytes());
        (made, shape)
    }

    /// The numbers of a log's rows.
    fn numbers(listed: &Listed<'_>, entry: &Listing) -> Option<Vec<u32>> {
        match entry.place {
            Place::Run(first) => Some((first..first + entry.rows).collect()),
            Place::List(place) => (place..place + entry.rows)
                .map(|place| listed.number(place))
                .collect(),
        }
    }

    fn mixed() -> Vec<u32> {
        let logs = (0..500u32).map(|number| match number {
            0..9 => 3,
            9..400 => number * number % 37,
            _ => number,
        });
        logs.collect()
    }

    #[test]
    fn each_log_finds_its_rows() {
        let logs = mixed();
        let (made, shape) = made(&logs);
        let listed = Listed::new(&made.bytes, shape);
        let mut all = 0;
        for (place, log) in made.logs.iter().enumerate() {
            let entry = listed.entry(place).unwrap();
            let of_log = |(number, id): (u32, &u32)| (*id == log.0).then_some(number);
            let wanted: Vec<u32> = (0..).zip(&logs).filter_map(of_log).collect();
            assert_eq!(entry.log, log);
            assert_eq!(numbers(&listed, &entry).unwrap(), wanted, "{log}");
            let ends = (entry.first.0, entry.next.0);
            assert_eq!(ends, (1000, 1000 + 2 * wanted.len() as u64));
            let bytes: u32 = wanted.iter().map(|number| 100 + number).sum();
            assert_eq!(entry.bytes, bytes);
            all += wanted.len();
        }
        assert_eq!(all, logs.len());
        assert!(listed.entry(made.logs.len()).is_none() && listed.number(made.numbers).is_none());
    }

    #[test]
    fn a_log_whose_rows_are_side_by_side_lists_none() {
        let (alone, _) = made(&[5; 1000]);
        assert_eq!((alone.bytes.len(), alone.numbers), (ENTRY_BYTES, 0));
        let (two, shape) = made(&[[5; 40], [6; 40]].concat());
        assert_eq!((two.bytes.len(), two.numbers), (2 * ENTRY_BYTES, 0));
        let entry = Listed::new(&two.bytes, shape).entry(1).unwrap();
        assert_eq!((entry.place, entry.rows), (Place::Run(40), 40));
        let (none, _) = made(&[]);
        assert!(none.bytes.is_empty() && none.logs.is_empty());
    }

    /// Whatever is changed, what it says then is what it said before, or is refused.
    #[test]
    fn no_changed_bit_passes() {
        let logs = mixed();
        let (made, shape) = made(&logs);
        let all = |bytes: &[u8]| {
            let listed = Listed::new(bytes, shape);
            let entries = (0..made.logs.len()).map(|place| listed.entry(place));
            let numbers = (0..made.numbers).map(|place| listed.number(place));
            (entries.collect::<Vec<_>>(), numbers.collect::<Vec<_>>())
        };
        let (entries, numbers) = all(&made.bytes);
        let mut bytes = made.bytes.clone();
        for at in 0..bytes.len() {
            bytes[at] ^= 1 << (at % 8);
            let changed = all(&bytes);
            let refused = changed.0.contains(&None) || changed.1.contains(&None);
            assert!(refused, "byte {at}");
            let same = |now: &Option<_>, was| now.is_none() || now == was;
            assert!(
                changed
                    .0
                    .iter()
                    .zip(&entries)
                    .all(|(now, was)| same(now, was))
            );
            let same = |now: &Option<_>, was| now.is_none() || now == was;
            assert!(
                changed
                    .1
                    .iter()
                    .zip(&numbers)
                    .all(|(now, was)| same(now, was))
            );
            bytes[at] ^= 1 << (at % 8);
        }
        for len in 0..bytes.len() {
            let cut = all(&bytes[..len]);
            assert!(cut.0.contains(&None) || cut.1.contains(&None), "{len}");
        }
    }

    /// A write that the disk lost leaves a piece of another directory, or one that stood elsewhere in this one.
    #[test]
    fn a_piece_of_another_directory_or_place_is_refused() {
        let (made, shape) = made(&mixed());
        for other in [
            Shape::new(Index(8), shape.rows, 9, shape.logs, shape.numbers),
            Shape::new(BASE, shape.rows, 10, shape.logs, shape.numbers),
            Shape::new(BASE, shape.rows + 1, 9, shape.logs, shape.numbers),
        ] {
            let listed = Listed::new(&made.bytes, other);
            assert!(listed.entry(0).is_none() && listed.number(0).is_none());
        }
        let mut bytes = made.bytes.clone();
        let blocks = shape.logs * ENTRY_BYTES;
        bytes.copy_within(blocks + BLOCK_BYTES..blocks + 2 * BLOCK_BYTES, blocks);
        assert!(Listed::new(&bytes, shape).number(0).is_none());
    }

    /// What checks and cannot be, as of a writer with a fault, is refused, too.
    #[test]
    fn what_no_directory_says_is_refused() {
        let (made, shape) = made(&mixed());
        let listing = Listed::new(&made.bytes, shape).entry(0).unwrap();
        let refused = |listing: Listing| Listing::decode(&listing.encode(&shape), &shape).is_none();
        assert!(!refused(listing));
        assert!(refused(Listing { rows: 0, ..listing }));
        for place in [Place::List(shape.numbers), Place::Run(shape.rows)] {
            assert!(refused(Listing { place, ..listing }));
        }
        let rows = shape.rows + 1;
        let place = Place::Run(0);
        assert!(refused(Listing {
            rows,
            place,
            ..listing
        }));
        let mut bytes = made.bytes.clone();
        let blocks = shape.logs * ENTRY_BYTES;
        bytes[blocks..][..4].copy_from_slice(&shape.rows.to_le_bytes());
        mend(&mut bytes, &shape);
        let listed = Listed::new(&bytes, shape);
        assert_eq!(listed.number(0), None);
        assert!(listed.number(1).is_some());
    }
}
