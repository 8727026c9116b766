//! Batches of records: what the payload of a `Records` frame holds.
//!
//! The bytes are drawn in `docs/format.md`. A batch is atomic. It may name the producer's session
//! and the sequence number of its first record, by which the raft layer tells a retry from a new
//! batch, and conditions; the log itself gives these no meaning. Its records are plain ones, of
//! `log.v1`, or packed ones, as [`crate::batch`] draws them. Batches that are appended together or not
//! at all are a bundle; a batch that stands alone is a bundle of one.

mod build;
mod bundle;
mod stored;

use bytes::{Buf, Bytes};

use crate::batch::Compression;
use crate::batch::varint::{self, TooLarge};

pub use build::{BatchBuilder, join, packed};
pub use bundle::{bundle, bundles, check_bundle, records_of};
pub use stored::{DECOMPRESSED_BYTES_MAX, Stored, stored};

use crate::log::{Error, LogId, Offset};

/// The bytes before the first batch: how many there are, and when the leader took them.
const COUNT_BYTES: usize = 4;
const STAMP_BYTES: usize = 8;
/// Set in the count if the time follows it.
const STAMPED: u32 = 1 << 31;
/// The bytes of a batch before its session, or before its records.
const BATCH_HEADER_BYTES: usize = 12;
/// Where in it the number of records stands.
const COUNT_AT: usize = 4 + 4;
/// No batch is shorter: its header, and a record without a value.
pub const BATCH_BYTES_MIN: usize = BATCH_HEADER_BYTES + 1;
const LOG_BYTES: usize = 4;
const SESSION_BYTES: usize = 24;
/// The bytes of a proof: of the batch's right to its session, or to its fence.
const PROOF_BYTES: usize = 16;
const _: () = assert!(BATCH_HEADER_BYTES == 4 + 1 + 1 + 2 + 4 && SESSION_BYTES == 16 + 8);
const HAS_SESSION: u32 = 1;
const HAS_EXPECTED: u32 = 2;
const HAS_FENCE: u32 = 4;
const PACKED: u32 = 8;
const HAS_OWNER: u32 = 16;
const HAS_CLAIMANT: u32 = 32;
const HAS_LOG: u32 = 64;
/// The batch is appended together with the one behind it, or neither is.
const WITH_NEXT: u32 = 128;
/// The second byte of the attributes is the compression.
const COMPRESSION_SHIFT: u32 = 8;
const ATTRIBUTES: u32 = 0xff << COMPRESSION_SHIFT
    | HAS_LOG
    | HAS_SESSION
    | HAS_OWNER
    | HAS_CONDITIONS
    | PACKED
    | WITH_NEXT;
const HAS_CONDITIONS: u32 = HAS_EXPECTED | HAS_FENCE | HAS_CLAIMANT;
/// In a row's skip: it names a batch of packed records by its first byte, not a record.
const PACKED_ROW: u32 = 1 << 31;
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
    let Ok(head) = head(payload) else {
        return (0, 0);
    };
    let (mut at, mut records) = (head.bytes, 0);
    for _ in 0..head.count {
        let number = |at: usize| {
            let bytes = payload.get(at..)?.first_chunk()?;
            Some(u32::from_le_bytes(*bytes))
        };
        let (Some(length), Some(count)) = (number(at), number(at + COUNT_AT)) else {
            break;
        };
        at += 4 + length as usize;
        records += u64::from(count);
    }
    (head.count, records)
}

/// When the leader took a payload's batches, in milliseconds since 1970; 0 if it does not say.
pub fn timestamp_ms(payload: &[u8]) -> u64 {
    head(payload).map_or(0, |head| head.timestamp_ms)
}

/// What stands before a payload's batches.
struct Head {
    count: u32,
    timestamp_ms: u64,
    bytes: usize,
}

/// Reads how many batches a payload holds, if it can hold that many.
fn head(payload: &[u8]) -> Result<Head, Error> {
    let mut rest = payload;
    let count = rest.try_get_u32_le().map_err(|_| SHORT)?;
    let timestamp_ms = match count & STAMPED {
        0 => 0,
        _ => rest.try_get_u64_le().map_err(|_| SHORT)?,
    };
    let count = count & !STAMPED;
    if count as usize > rest.len() / BATCH_BYTES_MIN {
        return Err(SHORT);
    }
    Ok(Head {
        count,
        timestamp_ms,
        bytes: payload.len() - rest.len(),
    })
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
    /// Where it begins and ends.
    at: usize,
    end: usize,
}

impl Batch<'_> {
    /// The bytes of its records, as they were sent: of a payload that it was read from.
    pub fn records<'p>(&self, payload: &'p [u8]) -> &'p [u8] {
        &payload[self.records_at..self.end]
    }

    /// What a row says of it: where its first record begins, or that its records are packed.
    pub fn row_skip(&self) -> Result<u32, Error> {
        let at = if self.packed.is_some() {
            self.at
        } else {
            self.records_at
        };
        let at = u32::try_from(at).ok().filter(|at| at & PACKED_ROW == 0);
        let mark = if self.packed.is_some() { PACKED_ROW } else { 0 };
        Ok(at.ok_or(Error::Malformed("it is over 2 GiB"))? | mark)
    }

    /// How many of its records stand from a row's `skip` on; `None` if none of them begins there.
    pub fn left_from(&self, payload: &[u8], row_skip: u32) -> Result<Option<u32>, Error> {
        if self.packed.is_some() || row_skip & PACKED_ROW != 0 {
            let same = self.packed.is_some() && self.row_skip()? == row_skip;
            return Ok(same.then_some(self.count));
        }
        let mut at = self.records_at;
        for passed in 0..self.count {
            if at == row_skip as usize {
                return Ok(Some(self.count - passed));
            }
            at = skip(payload, at, 1)?;
        }
        Ok(None)
    }
}

/// How far into the payload a row leads, in bytes.
pub fn bytes_before(row_skip: u32) -> u32 {
    row_skip & !PACKED_ROW
}

/// Reads a payload's batches and checks the bounds of every plain record. What packed records are
/// was checked before they were taken.
pub fn batches(payload: &[u8]) -> Result<Vec<Batch<'_>>, Error> {
    let head = head(payload)?;
    let mut found = Vec::with_capacity(head.count as usize);
    let mut at = head.bytes;
    for _ in 0..head.count {
        let batch = batch(payload, at)?;
        at = batch.end;
        found.push(batch);
    }
    if at != payload.len() {
        return Err(Error::Malformed("bytes follow its last batch"));
    }
    bundle::check(&found)?;
    Ok(found)
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
    let mut rest = payload.get(at..).ok_or(SHORT)?;
    let length = rest.try_get_u32_le().map_err(|_| SHORT)? as usize;
    let end = at + 4 + length;
    let mut rest = payload.get(at + 4..end).ok_or(SHORT)?;
    let attributes = rest.try_get_u32_le().map_err(|_| SHORT)?;
    let has = |what: u32| attributes & what != 0;
    let count = rest.try_get_u32_le().map_err(|_| SHORT)?;
    let log = match has(HAS_LOG) {
        true => LogId(rest.try_get_u32_le().map_err(|_| SHORT)?),
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
    let compression = (attributes >> COMPRESSION_SHIFT & 0xff) as i32;
    let compression = Compression::new(compression).map_err(|_| UNKNOWN)?;
    let is_packed = has(PACKED);
    // A proof of nothing, or the default log said where it goes without saying.
    let is_odd = has(HAS_OWNER) && !has(HAS_SESSION) || has(HAS_CLAIMANT) && !has(HAS_FENCE);
    let is_odd = is_odd || has(HAS_LOG) && log == LogId::DEFAULT;
    let is_odd = is_odd || (!is_packed && compression != Compression::None);
    if attributes & !ATTRIBUTES != 0 || is_odd {
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

    fn row(skip: u32, offset: Offset) -> Row {
        Row {
            position: Position(5),
            index: Index(3),
            frame_at: 32,
            skip,
            log: LogId(7),
            offset,
        }
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
            let (first, count) = (Offset(first), batch.count.into());
            let skip = batch.row_skip().unwrap();
            let stored = stored(&payload, &row(skip, first), count).unwrap();
            stored.read_into(first, usize::MAX, &mut records).unwrap();
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
                let (skip, count) = (batch.row_skip().unwrap(), batch.count.into());
                let stored = stored(&bad, &row(skip, Offset(0)), count).unwrap();
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
            let skip = found[0].row_skip().unwrap();
            let left = found[0].left_from(&payload, skip).unwrap();
            assert_eq!((left, timestamp_ms(&payload)), (Some(50), 77));
            let row = row(skip, Offset(9));
            assert!(stored(&payload, &row, 49).is_err(), "not whole");
            let stored = stored(&payload, &row, 50).unwrap();
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
