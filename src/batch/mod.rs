//! A batch's records as they travel and as they are kept: the bytes of the protobuf message
//! `ferrolog.v1.Records`, read and written in place, and their compression.
//!
//! The message is a run of records, each behind its tag and length, so a part of a batch is a slice of its
//! bytes. Reading bytes that are no such message gives an error and never panics.

#![warn(clippy::missing_errors_doc)]

mod compression;
mod keys;
mod record;
mod unpack;
pub(crate) mod varint;

use bytes::{BufMut, Bytes, BytesMut};

pub use compression::{Compression, compress, compress_if_smaller, decompress};
pub use keys::keys;
pub use record::{Header, Record};
pub use unpack::{Part, check_packed, unpack};

/// Field 1 of `Records`, length-delimited.
const RECORD_TAG: u8 = 1 << 3 | LENGTH_DELIMITED;
const VALUE: u64 = 1;
const KEY: u64 = 2;
const HEADER: u64 = 3;
const CLIENT_TIMESTAMP: u64 = 4;
const HEADER_NAME: u64 = 1;
const HEADER_VALUE: u64 = 2;
const VARINT: u8 = 0;
const LENGTH_DELIMITED: u8 = 2;

/// Limits of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many records a batch may hold.
    pub records: u32,
    /// The size of a record, its value, key and headers together, in bytes.
    pub record_bytes: usize,
    /// The size of a key, in bytes.
    pub key_bytes: usize,
    /// How many headers a record may have.
    pub headers: usize,
    /// The size of one header, its name and value together, in bytes.
    pub header_bytes: usize,
    /// Whether each record needs the client's own time.
    pub timestamps_required: bool,
    /// Whether each record needs a key.
    pub keys_required: bool,
}

/// Why a batch is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes are not the protobuf message.
    #[error("the batch's records are not a ferrolog.v1.Records message: {0}")]
    Malformed(&'static str),
    /// The batch holds another number of records than its sender said.
    #[error("the batch says that it holds {declared} records, and holds {found}")]
    Count {
        /// The number that its sender said.
        declared: u32,
        /// The number that it holds.
        found: u32,
    },
    /// A record lacks the client's own time.
    #[error("record {number} of the batch has no client timestamp")]
    NoTimestamp {
        /// Which one of the batch, from 1.
        number: u32,
    },
    /// A record lacks a key.
    #[error("record {number} of the batch has no key")]
    NoKey {
        /// Which one of the batch, from 1.
        number: u32,
    },
    /// Something in the batch is over its limit.
    #[error("{what} of {size} is over the limit of {limit}")]
    OverLimit {
        /// What is over its limit, in words.
        what: &'static str,
        /// How much it is.
        size: usize,
        /// How much it may be.
        limit: usize,
    },
    /// A number that names no compression here.
    #[error("compression {0} is none that this version knows")]
    UnknownCompression(i32),
    /// The compressed bytes are no frame of their format, or the frame asks for a larger window than is
    /// allowed.
    #[error("the batch does not decompress: {0}")]
    Compressed(String),
}

impl From<varint::TooLarge> for BatchError {
    fn from(_: varint::TooLarge) -> Self {
        Self::Malformed("a number is over 64 bits")
    }
}

/// Builds the bytes of a batch.
#[derive(Debug, Default)]
pub struct Builder {
    bytes: BytesMut,
    count: u32,
}

impl Builder {
    /// A builder with room for so many bytes; it grows when they are used up.
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: BytesMut::with_capacity(bytes),
            count: 0,
        }
    }

    /// Adds a record.
    pub fn push(&mut self, record: &Record) {
        self.bytes.put_u8(RECORD_TAG);
        varint::put(&mut self.bytes, record_bytes(record) as u64);
        if !record.tombstone {
            put_bytes(&mut self.bytes, VALUE, &record.value);
        }
        if let Some(key) = &record.key {
            put_bytes(&mut self.bytes, KEY, key);
        }
        for header in &record.headers {
            put_key(&mut self.bytes, HEADER, LENGTH_DELIMITED);
            varint::put(&mut self.bytes, header_bytes(header) as u64);
            put_bytes(&mut self.bytes, HEADER_NAME, header.name.as_bytes());
            put_bytes(&mut self.bytes, HEADER_VALUE, &header.value);
        }
        if record.client_timestamp_ms > 0 {
            put_key(&mut self.bytes, CLIENT_TIMESTAMP, VARINT);
            varint::put(&mut self.bytes, record.client_timestamp_ms);
        }
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

    /// The batch, and an empty builder in its place.
    pub fn take(&mut self) -> (Bytes, u32) {
        (self.bytes.split().freeze(), std::mem::take(&mut self.count))
    }
}

/// The bytes that a record takes in a batch, its tag and length included.
pub fn bytes_in_batch(record: &Record) -> usize {
    let bytes = record_bytes(record);
    1 + varint::bytes_of(bytes as u64) + bytes
}

fn record_bytes(record: &Record) -> usize {
    let part = |bytes: usize| 1 + varint::bytes_of(bytes as u64) + bytes;
    let headers = record.headers.iter();
    let value = match record.tombstone {
        true => 0,
        false => part(record.value.len()),
    };
    let timestamp = record.client_timestamp_ms;
    value
        + record.key.as_ref().map_or(0, |key| part(key.len()))
        + headers
            .map(|header| part(header_bytes(header)))
            .sum::<usize>()
        + (if timestamp > 0 {
            1 + varint::bytes_of(timestamp)
        } else {
            0
        })
}

fn header_bytes(header: &Header) -> usize {
    let part = |bytes: usize| 1 + varint::bytes_of(bytes as u64) + bytes;
    part(header.name.len()) + part(header.value.len())
}

/// Checks every record of a batch against the limits, and counts them.
///
/// # Errors
///
/// [`BatchError::Malformed`] if the bytes are no records, and [`BatchError::OverLimit`] if a limit is exceeded.
pub fn check(bytes: &[u8], limits: &Limits) -> Result<u32, BatchError> {
    let mut count = 0u32;
    let mut rest = bytes;
    while !rest.is_empty() {
        let record = next_record(&mut rest)?;
        count += 1;
        over(
            "a batch's number of records",
            count as usize,
            limits.records as usize,
        )?;
        check_record(record, count, limits)?;
    }
    Ok(count)
}

fn check_record(mut rest: &[u8], number: u32, limits: &Limits) -> Result<(), BatchError> {
    let (mut headers, mut bytes, mut has_time, mut has_key) = (0, 0, false, false);
    while !rest.is_empty() {
        match next_field(&mut rest)? {
            (VALUE, Field::Bytes(value)) => bytes += value.len(),
            (KEY, Field::Bytes(key)) => {
                has_key = true;
                bytes += key.len();
                over("a key", key.len(), limits.key_bytes)?;
            }
            (HEADER, Field::Bytes(header)) => {
                headers += 1;
                over("a record's number of headers", headers, limits.headers)?;
                let (name, value) = header_parts(header)?;
                let header = name.len() + value.len();
                bytes += header;
                over("a header", header, limits.header_bytes)?;
            }
            (CLIENT_TIMESTAMP, Field::Number(time)) => has_time = time > 0,
            _ => return Err(UNKNOWN_FIELD),
        }
    }
    if limits.timestamps_required && !has_time {
        return Err(BatchError::NoTimestamp { number });
    }
    if limits.keys_required && !has_key {
        return Err(BatchError::NoKey { number });
    }
    over(RECORD, bytes, limits.record_bytes)
}

/// What is too large, if it is a record as a whole.
pub const RECORD: &str = "a record";

fn over(what: &'static str, size: usize, limit: usize) -> Result<(), BatchError> {
    if size <= limit {
        return Ok(());
    }
    Err(BatchError::OverLimit { what, size, limit })
}

/// The records of a batch, sharing its memory. An error among them, [`BatchError::Malformed`], is the last item.
pub fn records(bytes: &Bytes) -> impl Iterator<Item = Result<Record, BatchError>> + use<> {
    let bytes = bytes.clone();
    let mut at = 0;
    std::iter::from_fn(move || {
        let mut rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
        let read = next_record(&mut rest).and_then(|record| decode(&bytes, record));
        // After bytes that do not parse, no later byte can be trusted.
        at = if read.is_ok() {
            bytes.len() - rest.len()
        } else {
            bytes.len()
        };
        Some(read)
    })
}

fn decode(batch: &Bytes, mut rest: &[u8]) -> Result<Record, BatchError> {
    let mut record = Record {
        tombstone: true,
        ..Record::default()
    };
    while !rest.is_empty() {
        match next_field(&mut rest)? {
            (VALUE, Field::Bytes(value)) => {
                (record.value, record.tombstone) = (batch.slice_ref(value), false);
            }
            (KEY, Field::Bytes(key)) => record.key = Some(batch.slice_ref(key)),
            (HEADER, Field::Bytes(header)) => {
                let (name, value) = header_parts(header)?;
                record.headers.push(Header {
                    name: name.to_owned(),
                    value: batch.slice_ref(value),
                });
            }
            (CLIENT_TIMESTAMP, Field::Number(number)) => record.client_timestamp_ms = number,
            _ => return Err(UNKNOWN_FIELD),
        }
    }
    Ok(record)
}

fn header_parts(mut rest: &[u8]) -> Result<(&str, &[u8]), BatchError> {
    let (mut name, mut value): (&[u8], &[u8]) = (&[], &[]);
    while !rest.is_empty() {
        match next_field(&mut rest)? {
            (HEADER_NAME, Field::Bytes(bytes)) => name = bytes,
            (HEADER_VALUE, Field::Bytes(bytes)) => value = bytes,
            _ => return Err(UNKNOWN_FIELD),
        }
    }
    let name = std::str::from_utf8(name);
    let name = name.map_err(|_| BatchError::Malformed("a header's name is not UTF-8"))?;
    Ok((name, value))
}

/// A part of a batch without compression, and how many records it holds.
fn slice(bytes: &Bytes, part: Part) -> Result<(Bytes, u32), BatchError> {
    let mut rest = &bytes[..];
    for _ in 0..part.first {
        next_record(&mut rest)?;
    }
    let begin = bytes.len() - rest.len();
    let (mut end, mut taken) = (begin, 0);
    while taken < part.count {
        next_record(&mut rest)?;
        let behind = bytes.len() - rest.len();
        if taken > 0 && behind - begin > part.bytes_max {
            break;
        }
        (end, taken) = (behind, taken + 1);
    }
    Ok((bytes.slice(begin..end), taken))
}

/// The first `count` records of a batch without compression, and those behind them.
///
/// # Errors
///
/// [`BatchError::Malformed`] if there are not as many.
pub fn split(bytes: &Bytes, count: u32) -> Result<(Bytes, Bytes), BatchError> {
    let mut rest = &bytes[..];
    for _ in 0..count {
        next_record(&mut rest)?;
    }
    let at = bytes.len() - rest.len();
    Ok((bytes.slice(..at), bytes.slice(at..)))
}

const UNKNOWN_FIELD: BatchError = BatchError::Malformed("it has a field that is not known here");
const SHORT: BatchError = BatchError::Malformed("it ends too early");

/// A field's content, in the wire types that the message uses.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn next_record<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], BatchError> {
    match rest.split_first() {
        Some((&RECORD_TAG, behind)) => {
            *rest = behind;
            take_bytes(rest)
        }
        Some(_) => Err(UNKNOWN_FIELD),
        None => Err(SHORT),
    }
}

fn next_field<'a>(rest: &mut &'a [u8]) -> Result<(u64, Field<'a>), BatchError> {
    let key = take_varint(rest)?;
    let field = match (key & 7) as u8 {
        VARINT => Field::Number(take_varint(rest)?),
        LENGTH_DELIMITED => Field::Bytes(take_bytes(rest)?),
        _ => return Err(UNKNOWN_FIELD),
    };
    Ok((key >> 3, field))
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], BatchError> {
    let length = usize::try_from(take_varint(rest)?).map_err(|_| SHORT)?;
    let (bytes, behind) = rest.split_at_checked(length).ok_or(SHORT)?;
    *rest = behind;
    Ok(bytes)
}

fn take_varint(rest: &mut &[u8]) -> Result<u64, BatchError> {
    varint::read(|| {
        let (&byte, behind) = rest.split_first().ok_or(SHORT)?;
        *rest = behind;
        Ok(byte)
    })
}

fn put_key(out: &mut BytesMut, field: u64, wire_type: u8) {
    varint::put(out, field << 3 | u64::from(wire_type));
}

fn put_bytes(out: &mut BytesMut, field: u64, bytes: &[u8]) {
    put_key(out, field, LENGTH_DELIMITED);
    varint::put(out, bytes.len() as u64);
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto::v1;

    const LIMITS: Limits = Limits {
        records: 100,
        record_bytes: 1000,
        key_bytes: 100,
        headers: 3,
        header_bytes: 50,
        timestamps_required: false,
        keys_required: false,
    };

    fn some() -> Vec<Record> {
        let header = |name: &str, value: &'static str| Header {
            name: name.to_owned(),
            value: value.into(),
        };
        vec![
            Record {
                value: "a".into(),
                ..Record::default()
            },
            Record::default(),
            Record {
                value: vec![7; 300].into(),
                key: Some("".into()),
                headers: vec![header("n", "v"), header("", ""), header("n", "w")],
                client_timestamp_ms: u64::MAX,
                ..Record::default()
            },
            Record::tombstone("gone"),
        ]
    }

    fn built(records: &[Record]) -> Bytes {
        let mut builder = Builder::default();
        let mut bytes = 0;
        for record in records {
            builder.push(record);
            bytes += bytes_in_batch(record);
            assert_eq!(builder.bytes(), bytes);
        }
        let (bytes, count) = builder.take();
        assert_eq!(
            (count as usize, builder.count(), builder.bytes()),
            (records.len(), 0, 0)
        );
        bytes
    }

    #[test]
    fn the_bytes_are_the_message() {
        let bytes = built(&some());
        let message = v1::Records::decode(bytes.clone()).unwrap();
        assert_eq!(message.records.len(), 4);
        assert_eq!(message.records[0].value.as_deref(), Some(&b"a"[..]));
        assert_eq!(message.records[1].value.as_deref(), Some(&b""[..]));
        assert_eq!(message.records[3].value, None, "absent is not empty");
        assert_eq!(message.records[0].key, None);
        assert_eq!(message.records[2].key.as_deref(), Some(&b""[..]));
        assert_eq!(message.records[2].headers[2].value, "w");
        assert_eq!(message.records[2].client_timestamp_ms, u64::MAX);
        let again: Bytes = message.encode_to_vec().into();
        let back: Result<Vec<_>, _> = records(&again).collect();
        assert_eq!(back.unwrap(), some());
        assert_eq!(check(&again, &LIMITS), Ok(4));
        assert_eq!(check(&bytes, &LIMITS), Ok(4));
        let timed = Limits {
            timestamps_required: true,
            ..LIMITS
        };
        let first = BatchError::NoTimestamp { number: 1 };
        assert_eq!(check(&bytes, &timed), Err(first));
        assert_eq!(check(&built(&some()[2..3]), &timed), Ok(1));
        let keyed = Limits {
            keys_required: true,
            ..LIMITS
        };
        let first = BatchError::NoKey { number: 1 };
        assert_eq!(check(&bytes, &keyed), Err(first));
        assert_eq!(
            check(&built(&some()[2..]), &keyed),
            Ok(2),
            "an empty key is one"
        );
    }

    #[test]
    fn no_cut_and_no_flip_is_more_than_an_error() {
        let bytes = built(&some());
        for end in 0..bytes.len() {
            let _ = check(&bytes[..end], &LIMITS);
            let _ = records(&bytes.slice(..end)).count();
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            let bad = Bytes::from(bad);
            if let Ok(count) = check(&bad, &LIMITS) {
                assert!(records(&bad).all(|record| record.is_ok()));
                assert_eq!(records(&bad).count(), count as usize);
            }
        }
    }

    #[test]
    fn every_limit_is_held() {
        let over = |record: Record| {
            let error = check(&built(&[record]), &LIMITS).unwrap_err();
            assert!(matches!(error, BatchError::OverLimit { .. }), "{error}");
        };
        let header = Header {
            name: "n".into(),
            value: vec![0; 60].into(),
        };
        over(Record {
            value: vec![0; 1001].into(),
            ..Record::default()
        });
        let just = Record {
            value: vec![0; 1000].into(),
            ..Record::default()
        };
        assert_eq!(check(&built(&[just]), &LIMITS), Ok(1));
        over(Record {
            key: Some(vec![0; 101].into()),
            ..Record::default()
        });
        over(Record {
            headers: vec![header],
            ..Record::default()
        });
        over(Record {
            headers: vec![Header::default(); 4],
            ..Record::default()
        });
        let many = built(&vec![Record::default(); 101]);
        assert!(check(&many, &LIMITS).is_err());
    }
}
