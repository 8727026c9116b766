//! Batches of records: what the payload of a `Records` frame holds.
//!
//! The bytes are drawn in `docs/format.md`. A batch is atomic. It may name the producer's session
//! and the sequence number of its first record, by which the raft layer tells a retry from a new
//! batch, and conditions; the log itself gives these no meaning. Its records are plain ones, of
//! `log.v1`, or packed ones, as [`crate::batch`] draws them. It carries its own checksum, so that a reader reads
//! and checks the batch that it wants and no other. Batches that are appended together or not
//! at all are a bundle; a batch that stands alone is a bundle of one.

mod build;
mod bundle;
mod check;
mod stored;

use std::ops::Range;

use bytes::{Buf, Bytes};

use crate::batch::Compression;
use crate::batch::varint::{self, TooLarge};

pub use build::{BatchBuilder, join, opaque, packed, part};
pub use bundle::{bundle, bundles, check_bundle, records_of};
#[cfg(any(test, fuzzing))]
pub use check::mend;
pub use check::{are_whole, framed_crc, is_whole};
pub use stored::{DECOMPRESSED_BYTES_MAX, Stored, covered_by, stored};

use check::{crc_of, time_of};

use crate::log::{Error, LogId, Offset};

/// The bytes before the first batch: how many there are.
const COUNT_BYTES: usize = 4;
/// The bytes of a batch before the number of its records.
const BATCH_HEADER_BYTES: usize = 16;
/// What a frame vouches for itself of each batch: its length and its checksum.
const FRAMED_BYTES: usize = 8;
/// Where the checksum stands in a batch.
const CRC_AT: usize = 4;
/// What is set when the batch's other bytes stand: the time, the attributes and the compression.
const MARKS: Range<usize> = FRAMED_BYTES..BATCH_HEADER_BYTES;
const TIME_BYTES: usize = 6;
/// The latest time that a batch can bear, in milliseconds since 1970.
const TIME_MS_MAX: u64 = (1 << (TIME_BYTES * 8)) - 1;
const ATTRIBUTES_AT: usize = 8 + TIME_BYTES;
/// No batch is shorter: its header, the number of its records, and a record without a value.
pub const BATCH_BYTES_MIN: usize = BATCH_HEADER_BYTES + 1 + 1;
const SESSION_BYTES: usize = 24;
/// The bytes of a proof: of the batch's right to its session, or to its fence.
const PROOF_BYTES: usize = 16;
const _: () = assert!(FRAMED_BYTES == 4 + 4 && BATCH_HEADER_BYTES == ATTRIBUTES_AT + 1 + 1);
const _: () = assert!(SESSION_BYTES == 16 + 8);
const HAS_SESSION: u8 = 1;
const HAS_EXPECTED: u8 = 2;
const HAS_FENCE: u8 = 4;
const PACKED: u8 = 8;
const HAS_OWNER: u8 = 16;
const HAS_CLAIMANT: u8 = 32;
const HAS_LOG: u8 = 64;
/// The batch is appended together with the one behind it, or neither is.
const WITH_NEXT: u8 = 128;
/// The varint of a record whose term or type is not 0 has this bit.
const HAS_EXTRA: u64 = 1;

/// One record as a reader gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the log.
    pub offset: Offset,
    /// What the producer sent as term: no meaning here.
    pub term: u64,
    /// What the producer sent as type: no meaning here.
    pub kind: u32,
    /// The payload.
    pub value: Bytes,
}

/// Who sent a batch, and which of its records this is, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Producer {
    /// The raft index of the command that opened it.
    pub session: u128,
    /// The sequence number of the batch's first record.
    pub sequence: u64,
    /// The digest of what the sender showed to prove that it opened the session; 0 if it showed nothing.
    pub owner: u128,
}

/// What must hold when a batch is applied, or it is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conditions<'a> {
    /// The log ends here.
    pub expected_next_offset: Option<Offset>,
    /// The name has this epoch.
    pub fence: Option<Fence<'a>>,
}

/// In whose stead a batch is appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence<'a> {
    /// At most 255 bytes.
    pub name: &'a str,
    pub epoch: u64,
    /// The digest of what the sender showed to prove that it claimed the epoch; 0 if it showed nothing.
    pub claimant: u128,
}

/// How many batches and records a payload says it holds: the index rows and offsets that it can
/// need. None if it cannot hold that many batches; records are counted up to where it is cut off.
pub fn declared(payload: &[u8]) -> (u32, u64) {
    let Ok(count) = number_of_batches(payload) else {
        return (0, 0);
    };
    let counts = whole_batches(payload).map(|batch| {
        let mut behind = &payload[batch][BATCH_HEADER_BYTES..];
        get_varint(&mut behind)
            .ok()
            .and_then(|count| u32::try_from(count).ok())
    });
    (count, counts.map_while(|count| count).map(u64::from).sum())
}

/// When the leader took a payload's batches, in milliseconds since 1970; 0 if it does not say.
pub fn timestamp_ms(payload: &[u8]) -> u64 {
    let first = whole_batches(payload).next();
    first.map_or(0, |first| time_of(&payload[first]))
}

/// Reads how many batches a payload holds, if it can hold that many.
fn number_of_batches(payload: &[u8]) -> Result<u32, Error> {
    let (count, rest) = payload.split_first_chunk().ok_or(SHORT)?;
    let count = u32::from_le_bytes(*count);
    match count as usize > rest.len() / BATCH_BYTES_MIN {
        true => Err(SHORT),
        false => Ok(count),
    }
}

/// Where a payload's batches stand, as their lengths lead from one to the next; it ends before one that is cut off.
fn whole_batches(payload: &[u8]) -> impl Iterator<Item = Range<usize>> + '_ {
    let count = number_of_batches(payload).unwrap_or(0);
    let mut at = COUNT_BYTES;
    (0..count).map_while(move |_| {
        let begins = at;
        at += length_of(payload.get(at..)?)?;
        (at <= payload.len()).then_some(begins..at)
    })
}

/// How long the batch is that begins with these bytes; `None` if none can.
pub fn length_of(bytes: &[u8]) -> Option<usize> {
    let length = 4 + u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    (length >= BATCH_BYTES_MIN).then_some(length)
}

const SHORT: Error = Error::Malformed("it ends before its last record");

/// One batch, as it stands in a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch<'a> {
    /// The log that it is for.
    pub log: LogId,
    /// Who sent it, if the producer said so.
    pub producer: Option<Producer>,
    /// What it depends on.
    pub conditions: Conditions<'a>,
    /// How many records it holds: at least one.
    pub count: u32,
    /// Where its first record begins, in bytes from the payload's start.
    pub records_at: usize,
    /// How its records are packed; `None` for plain ones.
    pub packed: Option<Compression>,
    /// Whether it is appended together with the batch behind it, or neither is.
    pub with_next: bool,
    /// When the leader took it, in milliseconds since 1970; 0 if nobody said.
    pub timestamp_ms: u64,
    /// Its checksum, as it says.
    pub crc: u32,
    /// Where it begins in the payload.
    pub at: usize,
    end: usize,
}

impl Batch<'_> {
    /// The bytes of its records, as they were sent: of a payload that it was read from.
    pub fn records<'p>(&self, payload: &'p [u8]) -> &'p [u8] {
        &payload[self.records_at..self.end]
    }

    /// What a row says of it to be known again, if so many of its first records were known before.
    pub fn check(&self, known: u32) -> u32 {
        self.crc ^ known
    }

    /// How many of its records a row covers that says this of it: the last ones, all of them as a rule. `None` if
    /// the row is of another batch.
    pub fn covered_by(&self, check: u32) -> Option<u32> {
        let known = self.crc ^ check;
        let is_it = known < self.count && (known == 0 || self.packed.is_none());
        is_it.then(|| self.count - known)
    }
}

/// Reads a payload's batches and checks the bounds of every plain record. What packed records are
/// was checked before they were taken.
pub fn batches(payload: &[u8]) -> Result<Vec<Batch<'_>>, Error> {
    let found = loose(payload)?;
    bundle::check(&found)?;
    Ok(found)
}

/// The same of a payload whose batches were put together anew: what goes with the next one may be gone.
pub fn loose(payload: &[u8]) -> Result<Vec<Batch<'_>>, Error> {
    let count = number_of_batches(payload)?;
    let mut found = Vec::with_capacity(count as usize);
    let mut at = COUNT_BYTES;
    for _ in 0..count {
        let batch = batch(payload, at)?;
        at = batch.end;
        found.push(batch);
    }
    if at != payload.len() {
        return Err(Error::Malformed("bytes follow its last batch"));
    }
    Ok(found)
}

/// Reads a batch that stands alone; its records are not looked at.
pub fn lone(bytes: &[u8]) -> Result<Batch<'_>, Error> {
    batch_header(bytes, 0)
}

/// Reads the batch at `at`.
fn batch(payload: &[u8], at: usize) -> Result<Batch<'_>, Error> {
    let batch = batch_header(payload, at)?;
    if batch.packed.is_none() {
        let whole = &payload[..batch.end];
        if skip(whole, batch.records_at, batch.count)? != batch.end {
            return Err(Error::Malformed("its records do not fill it"));
        }
    }
    Ok(batch)
}

fn batch_header(payload: &[u8], at: usize) -> Result<Batch<'_>, Error> {
    const UNKNOWN: Error = Error::Malformed("it has attributes that this version does not know");
    let bytes = payload.get(at..).ok_or(SHORT)?;
    let length = length_of(bytes).ok_or(SHORT)?;
    let bytes = bytes.get(..length).ok_or(SHORT)?;
    let (end, attributes) = (at + length, bytes[ATTRIBUTES_AT]);
    let has = |what: u8| attributes & what != 0;
    let mut rest = &bytes[BATCH_HEADER_BYTES..];
    let mut number = |what: &'static str| {
        let number = get_varint(&mut rest)?;
        u32::try_from(number).map_err(|_| Error::Malformed(what))
    };
    let count = number("it holds over 2^32 records")?;
    let log = match has(HAS_LOG) {
        true => LogId(number("the id of its log is over 32 bits")?),
        false => LogId::DEFAULT,
    };
    let mut producer = None;
    if has(HAS_SESSION) {
        producer = Some(Producer {
            session: rest.try_get_u128_le().map_err(|_| SHORT)?,
            sequence: rest.try_get_u64_le().map_err(|_| SHORT)?,
            owner: proof(&mut rest, has(HAS_OWNER))?,
        });
    }
    let mut conditions = Conditions::default();
    if has(HAS_EXPECTED) {
        let expected = rest.try_get_u64_le().map_err(|_| SHORT)?;
        conditions.expected_next_offset = Some(Offset(expected));
    }
    if has(HAS_FENCE) {
        let length = rest.try_get_u8().map_err(|_| SHORT)?;
        let name = rest.split_off(..usize::from(length)).ok_or(SHORT)?;
        let name = std::str::from_utf8(name);
        conditions.fence = Some(Fence {
            name: name.map_err(|_| Error::Malformed("a fence's name is not UTF-8"))?,
            epoch: rest.try_get_u64_le().map_err(|_| SHORT)?,
            claimant: proof(&mut rest, has(HAS_CLAIMANT))?,
        });
    }
    let compression = Compression::new(bytes[ATTRIBUTES_AT + 1].into()).map_err(|_| UNKNOWN)?;
    let is_packed = has(PACKED);
    // A proof of nothing, or the default log said where it goes without saying.
    let is_odd = has(HAS_OWNER) && !has(HAS_SESSION) || has(HAS_CLAIMANT) && !has(HAS_FENCE);
    let is_odd = is_odd || has(HAS_LOG) && log == LogId::DEFAULT;
    let is_odd = is_odd || (!is_packed && compression != Compression::None);
    if is_odd {
        return Err(UNKNOWN);
    }
    if count == 0 {
        return Err(Error::Malformed("it holds no record"));
    }
    Ok(Batch {
        log,
        producer,
        conditions,
        count,
        records_at: end - rest.len(),
        packed: is_packed.then_some(compression),
        with_next: has(WITH_NEXT),
        timestamp_ms: time_of(bytes),
        crc: crc_of(bytes),
        at,
        end,
    })
}

fn proof(rest: &mut &[u8], is_there: bool) -> Result<u128, Error> {
    match is_there {
        true => rest.try_get_u128_le().map_err(|_| SHORT),
        false => Ok(0),
    }
}

/// Where the record begins that stands `count` records after the one at `at`.
pub fn skip(payload: &[u8], mut at: usize, count: u32) -> Result<usize, Error> {
    for _ in 0..count {
        at = match short_end(payload, at) {
            Some(end) => end,
            None => record(payload, at)?.end,
        };
    }
    Ok(at)
}

/// The end of a plain record of less than 8 KiB, as most are; `None` says nothing.
fn short_end(payload: &[u8], at: usize) -> Option<usize> {
    let [low, high] = *payload.get(at..)?.first_chunk()?;
    let (head, bytes) = match (low < 0x80, high < 0x80) {
        (true, _) => (usize::from(low), 1),
        (false, true) => (usize::from(low & 0x7f) | usize::from(high) << 7, 2),
        (false, false) => return None,
    };
    let end = at + bytes + (head >> 1);
    (head & HAS_EXTRA as usize == 0 && end <= payload.len()).then_some(end)
}

struct Parts {
    term: u64,
    kind: u32,
    value_at: usize,
    end: usize,
}

/// Reads the record at `at`.
fn record(payload: &[u8], at: usize) -> Result<Parts, Error> {
    // Every skipped record comes through here, so the errors are constants: none is built only to be dropped.
    let Some(mut rest) = payload.get(at..) else {
        return Err(SHORT);
    };
    let head = get_varint(&mut rest)?;
    let Ok(length) = usize::try_from(head >> 1) else {
        return Err(SHORT);
    };
    let (mut term, mut kind) = (0, 0);
    if head & HAS_EXTRA != 0 {
        term = get_varint(&mut rest)?;
        let number = get_varint(&mut rest)?;
        kind = u32::try_from(number).map_err(|_| Error::Malformed("a type is over 32 bits"))?;
    }
    if rest.len() < length {
        return Err(SHORT);
    }
    let value_at = payload.len() - rest.len();
    Ok(Parts {
        term,
        kind,
        value_at,
        end: value_at + length,
    })
}

fn get_varint(bytes: &mut &[u8]) -> Result<u64, Error> {
    varint::read(|| {
        let Some((&byte, behind)) = bytes.split_first() else {
            return Err(SHORT);
        };
        *bytes = behind;
        Ok(byte)
    })
}

impl From<TooLarge> for Error {
    fn from(_: TooLarge) -> Self {
        Self::Malformed("a length is over 64 bits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch;
    use crate::log::format::row::Row;
    use crate::log::{Index, Position};

    fn row(batch: &Batch<'_>, offset: Offset) -> Row {
        Row {
            position: Position(5),
            index: Index(3),
            place: 32,
            check: batch.check(0),
            log: batch.log,
            offset,
        }
    }

    fn stored_of(
        payload: &Bytes,
        batch: &Batch<'_>,
        first: u64,
        count: u64,
    ) -> Result<Stored, Error> {
        stored(
            &payload.slice(batch.at..),
            &row(batch, Offset(first)),
            count,
        )
    }

    fn two_batches() -> Bytes {
        let mut one = BatchBuilder::new(None);
        one.push(b"a", 0, 0);
        one.push(b"", 7, 9);
        let producer = Producer {
            session: 1 << 100,
            sequence: 5,
            owner: 1 << 101,
        };
        let mut two = BatchBuilder::new(Some(producer));
        two.push(&[7; 300], 0, u32::MAX);
        join([one.finish(), two.finish()].iter(), None)
    }

    #[test]
    fn batches_come_back_as_they_went() {
        let payload = two_batches();
        let found = batches(&payload).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].producer, found[0].count), (None, 2));
        let producer = found[1].producer.unwrap();
        assert_eq!((producer.sequence, producer.owner), (5, 1 << 101));

        let mut records = Vec::new();
        for (batch, first) in found.iter().zip([10, 12]) {
            let stored = stored_of(&payload, batch, first, batch.count.into()).unwrap();
            stored
                .read_into(Offset(first), usize::MAX, &mut records)
                .unwrap();
        }
        assert_eq!(records[0].value, "a");
        assert_eq!((records[1].term, records[1].kind), (7, 9));
        assert_eq!(records[1].offset, Offset(11));
        assert_eq!((records[2].value.len(), records[2].kind), (300, u32::MAX));
    }

    #[test]
    fn records_of_any_length_are_passed_over() {
        for length in [0, 1, 63, 64, 127, 128, 8191, 8192, 70_000] {
            for (term, kind) in [(0, 0), (3, 0), (0, 300)] {
                let mut builder = BatchBuilder::new(None);
                builder.push(&vec![0xff; length], term, kind);
                builder.push(b"next", 0, 0);
                let payload = join([builder.finish()].iter(), None);
                let at = batches(&payload).unwrap()[0].records_at;
                let first = record(&payload, at).unwrap();
                assert_eq!(first.end - first.value_at, length);
                assert_eq!(skip(&payload, at, 1).unwrap(), first.end);
                assert_eq!(skip(&payload, at, 2).unwrap(), payload.len());
                assert!(skip(&payload, at, 3).is_err());
            }
        }
    }

    #[test]
    fn no_cut_and_no_flip_is_more_than_an_error() {
        let payload = two_batches();
        for end in 0..payload.len() {
            assert!(batches(&payload[..end]).is_err(), "cut at {end}");
        }
        for bit in 0..payload.len() * 8 {
            let mut bad = payload.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            // Some flips are in values and pass; none may panic or reach past the end.
            let bad = Bytes::from(bad);
            for batch in batches(&bad).unwrap_or_default() {
                let stored = stored_of(&bad, &batch, 0, batch.count.into()).unwrap();
                let read = stored.read_into(Offset(0), usize::MAX, &mut Vec::new());
                assert!(read.is_ok() || batch.packed.is_some());
            }
        }
    }

    #[test]
    fn packed_records_come_back_with_their_conditions() {
        let mut builder = batch::Builder::default();
        for number in 0..50 {
            let value = format!("value {number}").into();
            builder.push(&batch::Record {
                value,
                ..batch::Record::default()
            });
        }
        let (records, count) = builder.take();
        let fence = Fence {
            name: "job",
            epoch: 3,
            claimant: 5,
        };
        let conditions = Conditions {
            expected_next_offset: Some(Offset(9)),
            fence: Some(fence),
        };
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
            let bytes = batch::compress(&records, compression).unwrap();
            let made = packed(LogId(7), None, &conditions, compression, count, &bytes);
            assert_eq!(check_bundle(&made).unwrap()[0].conditions, conditions);
            let payload = join([made].iter(), Some(77));
            let found = batches(&payload).unwrap();
            assert_eq!((found[0].conditions, found[0].count), (conditions, 50));
            assert_eq!(found[0].log, LogId(7));
            let covered = |known| found[0].covered_by(found[0].check(known));
            assert_eq!((covered(0), covered(1)), (Some(50), None));
            assert_eq!((found[0].timestamp_ms, timestamp_ms(&payload)), (77, 77));
            assert!(stored_of(&payload, &found[0], 9, 49).is_err(), "not whole");
            let stored = stored_of(&payload, &found[0], 9, 50).unwrap();
            let mut read = Vec::new();
            stored.read_into(Offset(57), usize::MAX, &mut read).unwrap();
            assert_eq!((read.len(), &read[0].value[..]), (2, &b"value 48"[..]));
            assert_eq!(read[1].offset, Offset(58));
            for end in 0..payload.len() {
                assert!(batches(&payload[..end]).is_err(), "cut at {end}");
            }
        }
    }

    #[test]
    fn a_batch_of_its_own_is_checked_whole() {
        let mut builder = BatchBuilder::new(None);
        builder.push(b"x", 0, 0);
        let mut bytes = builder.finish().to_vec();
        assert_eq!(check_bundle(&bytes).unwrap()[0].count, 1);
        bytes.push(0);
        assert!(check_bundle(&bytes).is_err());
        assert!(
            check_bundle(&BatchBuilder::new(None).finish()).is_err(),
            "empty"
        );
    }
}
