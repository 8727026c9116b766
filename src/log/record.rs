//! Batches of records: what the payload of a `Records` frame holds.
//!
//! The bytes are drawn in `docs/format.md`. A batch is atomic. It may name the producer's session
//! and the sequence number of its first record, by which the raft layer tells a retry from a new
//! batch; the log itself gives these no meaning.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Error, Offset};

/// The bytes before the first batch: how many there are.
const COUNT_BYTES: usize = 4;
/// The bytes of a batch before its session, or before its records.
const BATCH_HEADER_BYTES: usize = 12;
/// No batch is shorter: its header, and a record without a value.
pub const BATCH_BYTES_MIN: usize = BATCH_HEADER_BYTES + 1;
const SESSION_BYTES: usize = 24;
const _: () = assert!(BATCH_HEADER_BYTES == 4 + 1 + 3 + 4 && SESSION_BYTES == 16 + 8);
const HAS_SESSION: u8 = 1;
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
    /// Drawn at random by the client.
    pub session: u128,
    /// The sequence number of the batch's first record.
    pub sequence: u64,
}

/// Builds one batch.
#[derive(Debug)]
pub struct BatchBuilder {
    bytes: BytesMut,
    count: u32,
}

impl BatchBuilder {
    /// An empty batch.
    pub fn new(producer: Option<Producer>) -> Self {
        let mut bytes = BytesMut::with_capacity(256);
        bytes.put_u32_le(0);
        bytes.put_slice(&[if producer.is_some() { HAS_SESSION } else { 0 }, 0, 0, 0]);
        bytes.put_u32_le(0);
        if let Some(producer) = producer {
            bytes.put_u128_le(producer.session);
            bytes.put_u64_le(producer.sequence);
        }
        Self { bytes, count: 0 }
    }

    /// Adds a record.
    pub fn push(&mut self, value: &[u8], term: u64, kind: u32) {
        let extra = term != 0 || kind != 0;
        let length = (value.len() as u64) << 1 | u64::from(extra);
        put_varint(&mut self.bytes, length);
        if extra {
            put_varint(&mut self.bytes, term);
            put_varint(&mut self.bytes, u64::from(kind));
        }
        self.bytes.put_slice(value);
        self.count += 1;
    }

    /// How many records were added.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The bytes so far.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The batch's bytes.
    pub fn finish(mut self) -> Bytes {
        let length =
            u32::try_from(self.bytes.len() - 4).expect("batches are limited on the way in");
        self.bytes[..4].copy_from_slice(&length.to_le_bytes());
        self.bytes[8..12].copy_from_slice(&self.count.to_le_bytes());
        self.bytes.freeze()
    }
}

/// Joins batches into the payload of one frame.
pub fn join<'a>(batches: impl ExactSizeIterator<Item = &'a Bytes> + Clone) -> Bytes {
    let bytes: usize = batches.clone().map(|batch| batch.len()).sum();
    let mut out = BytesMut::with_capacity(COUNT_BYTES + bytes);
    out.put_u32_le(u32::try_from(batches.len()).expect("batches are limited on the way in"));
    batches.for_each(|batch| out.put_slice(batch));
    out.freeze()
}

/// How many batches a payload says it holds: the index rows that it can need. 0 if it cannot hold
/// that many, so that it holds none.
pub fn declared_count(payload: &[u8]) -> u32 {
    batch_count(payload).unwrap_or(0)
}

/// How many batches a payload holds, if it can hold that many.
fn batch_count(payload: &[u8]) -> Result<u32, Error> {
    let mut head = payload;
    let count = head.try_get_u32_le().map_err(|_| SHORT)?;
    if count as usize > head.len() / BATCH_BYTES_MIN {
        return Err(SHORT);
    }
    Ok(count)
}

const SHORT: Error = Error::Malformed("it ends before its last record");

/// One batch, as it stands in a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Who sent it, if the producer said so.
    pub producer: Option<Producer>,
    /// How many records it holds: at least one.
    pub count: u32,
    /// Where its first record begins, in bytes from the payload's start.
    pub records_at: usize,
}

/// Reads a payload's batches and checks every record's bounds.
pub fn batches(payload: &[u8]) -> Result<Vec<Batch>, Error> {
    let count = batch_count(payload)?;
    let mut found = Vec::with_capacity(count as usize);
    let mut at = COUNT_BYTES;
    for _ in 0..count {
        let (batch, end) = batch(payload, at)?;
        found.push(batch);
        at = end;
    }
    if at == payload.len() {
        Ok(found)
    } else {
        Err(Error::Malformed("bytes follow its last batch"))
    }
}

/// Checks the bytes of one batch alone, as [`BatchBuilder::finish`] makes them.
pub fn check_batch(bytes: &[u8]) -> Result<Batch, Error> {
    match batch(bytes, 0)? {
        (batch, end) if end == bytes.len() => Ok(batch),
        _ => Err(Error::Malformed("bytes follow its last record")),
    }
}

/// Reads the batch at `at`; its end comes with it.
fn batch(payload: &[u8], at: usize) -> Result<(Batch, usize), Error> {
    let mut rest = &payload[at..];
    let length = rest.try_get_u32_le().map_err(|_| SHORT)? as usize;
    let end = at + 4 + length;
    let mut rest = payload.get(at + 4..end).ok_or(SHORT)?;
    let attributes = rest.try_get_u32_le().map_err(|_| SHORT)?;
    if attributes > u32::from(HAS_SESSION) {
        return Err(Error::Malformed(
            "it has attributes that this version does not know",
        ));
    }
    let count = rest.try_get_u32_le().map_err(|_| SHORT)?;
    let mut producer = None;
    if attributes == u32::from(HAS_SESSION) {
        producer = Some(Producer {
            session: rest.try_get_u128_le().map_err(|_| SHORT)?,
            sequence: rest.try_get_u64_le().map_err(|_| SHORT)?,
        });
    }
    let session_bytes = if producer.is_some() { SESSION_BYTES } else { 0 };
    let records_at = at + BATCH_HEADER_BYTES + session_bytes;
    let batch = Batch {
        producer,
        count,
        records_at,
    };
    if count == 0 {
        return Err(Error::Malformed("it holds no record"));
    }
    match skip(&payload[..end], records_at, count)? {
        last if last == end => Ok((batch, end)),
        _ => Err(Error::Malformed("its records do not fill it")),
    }
}

/// Where the record begins that stands `count` records after the one at `at`.
pub fn skip(payload: &[u8], mut at: usize, count: u32) -> Result<usize, Error> {
    for _ in 0..count {
        at = record(payload, at)?.end;
    }
    Ok(at)
}

struct Parts {
    term: u64,
    kind: u32,
    value_at: usize,
    end: usize,
}

/// Reads the record at `at`.
fn record(payload: &[u8], at: usize) -> Result<Parts, Error> {
    let mut rest = payload.get(at..).ok_or(SHORT)?;
    let head = get_varint(&mut rest)?;
    let length = usize::try_from(head >> 1).map_err(|_| SHORT)?;
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

/// Reads `count` records from `at` on into `out`; the values share the payload's memory.
///
/// Stops early, after at least one, once `budget` bytes of values were read; gives what is left
/// of the budget.
pub fn read_into(
    payload: &Bytes,
    mut at: usize,
    first: Offset,
    count: u64,
    mut budget: usize,
    out: &mut Vec<Record>,
) -> Result<usize, Error> {
    for number in 0..count {
        let parts = record(payload, at)?;
        out.push(Record {
            offset: Offset(first.0 + number),
            term: parts.term,
            kind: parts.kind,
            value: payload.slice(parts.value_at..parts.end),
        });
        budget = budget.saturating_sub(parts.end - at);
        if budget == 0 {
            break;
        }
        at = parts.end;
    }
    Ok(budget)
}

/// LEB128, least significant group first.
fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn get_varint(bytes: &mut &[u8]) -> Result<u64, Error> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().map_err(|_| SHORT)?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Error::Malformed("a length is over 64 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_batches() -> Bytes {
        let mut one = BatchBuilder::new(None);
        one.push(b"a", 0, 0);
        one.push(b"", 7, 9);
        let producer = Producer {
            session: 1 << 100,
            sequence: 5,
        };
        let mut two = BatchBuilder::new(Some(producer));
        two.push(&[7; 300], 0, u32::MAX);
        join([one.finish(), two.finish()].iter())
    }

    #[test]
    fn batches_come_back_as_they_went() {
        let payload = two_batches();
        let found = batches(&payload).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].producer, found[0].count), (None, 2));
        assert_eq!(found[1].producer.unwrap().sequence, 5);

        let mut records = Vec::new();
        let at = found[0].records_at;
        read_into(&payload, at, Offset(10), 2, usize::MAX, &mut records).unwrap();
        let at = found[1].records_at;
        read_into(&payload, at, Offset(12), 1, usize::MAX, &mut records).unwrap();
        assert_eq!(records[0].value, "a");
        assert_eq!((records[1].term, records[1].kind), (7, 9));
        assert_eq!(records[1].offset, Offset(11));
        assert_eq!((records[2].value.len(), records[2].kind), (300, u32::MAX));
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
            for batch in batches(&bad).unwrap_or_default() {
                skip(&bad, batch.records_at, batch.count).unwrap();
            }
        }
    }

    #[test]
    fn a_batch_of_its_own_is_checked_whole() {
        let mut builder = BatchBuilder::new(None);
        builder.push(b"x", 0, 0);
        let mut bytes = builder.finish().to_vec();
        assert_eq!(check_batch(&bytes).unwrap().count, 1);
        bytes.push(0);
        assert!(check_batch(&bytes).is_err());
        assert!(
            check_batch(&BatchBuilder::new(None).finish()).is_err(),
            "empty"
        );
    }
}
