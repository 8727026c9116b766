//! Writing batches: one of plain records, one of packed ones, and the payload of a frame.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::batch::{Compression, varint};
use crate::log::LogId;

use super::{
    ATTRIBUTES_AT, BATCH_HEADER_BYTES, COUNT_BYTES, Conditions, HAS_CLAIMANT, HAS_EXPECTED,
    HAS_FENCE, HAS_LOG, HAS_OWNER, HAS_SESSION, PACKED, PROOF_BYTES, Producer, SESSION_BYTES,
    bundle, check,
};

/// The bytes of a 32-bit number as a varint, at most.
const VARINT_BYTES_MAX: usize = 5;
/// What stands before the first record of a plain batch, at most.
const PLAIN_HEAD_BYTES_MAX: usize =
    BATCH_HEADER_BYTES + 2 * VARINT_BYTES_MAX + SESSION_BYTES + PROOF_BYTES;

/// A batch of packed records: `count` of them in the bytes, which were checked before.
pub fn packed(
    log: LogId,
    producer: Option<Producer>,
    conditions: &Conditions<'_>,
    compression: Compression,
    count: u32,
    records: &[u8],
) -> Bytes {
    let name_bytes = conditions.fence.map_or(0, |fence| fence.name.len());
    let head = PLAIN_HEAD_BYTES_MAX + 8 + 1 + name_bytes + 8 + PROOF_BYTES;
    let mut bytes = BytesMut::with_capacity(head + records.len());
    let mut attributes = PACKED | put_head(&mut bytes, log, producer, count);
    if let Some(expected) = conditions.expected_next_offset {
        attributes |= HAS_EXPECTED;
        bytes.put_u64_le(expected.0);
    }
    if let Some(fence) = conditions.fence {
        attributes |= HAS_FENCE;
        bytes.put_u8(u8::try_from(fence.name.len()).expect("names are limited on the way in"));
        bytes.put_slice(fence.name.as_bytes());
        bytes.put_u64_le(fence.epoch);
        if fence.claimant != 0 {
            attributes |= HAS_CLAIMANT;
            bytes.put_u128_le(fence.claimant);
        }
    }
    bytes.put_slice(records);
    seal(&mut bytes, attributes, compression);
    bytes.freeze()
}

/// A batch of packed records of another one, with the time of that one, in milliseconds since 1970; 0 if it has none.
pub fn part(log: LogId, time_ms: u64, count: u32, records: &[u8]) -> Bytes {
    let conditions = Conditions::default();
    let made = packed(log, None, &conditions, Compression::None, count, records);
    let mut made = BytesMut::from(made);
    if time_ms > 0 {
        check::stamp(&mut made, time_ms);
    }
    made.freeze()
}

/// A batch of bytes that are no records, under the number and the checksum of one.
pub fn opaque(log: LogId, bytes: &[u8]) -> Bytes {
    let conditions = Conditions::default();
    packed(log, None, &conditions, Compression::None, 1, bytes)
}

/// Writes what stands before a batch's conditions; gives the attributes that say what is there.
fn put_head(bytes: &mut BytesMut, log: LogId, producer: Option<Producer>, count: u32) -> u8 {
    bytes.put_bytes(0, BATCH_HEADER_BYTES);
    varint::put(bytes, count.into());
    let mut attributes = 0;
    if log != LogId::DEFAULT {
        attributes |= HAS_LOG;
        varint::put(bytes, log.0.into());
    }
    if let Some(producer) = producer {
        attributes |= HAS_SESSION;
        bytes.put_u128_le(producer.session);
        bytes.put_u64_le(producer.sequence);
        if producer.owner != 0 {
            attributes |= HAS_OWNER;
            bytes.put_u128_le(producer.owner);
        }
    }
    attributes
}

/// Writes the length, the attributes and the checksum of a batch whose other bytes stand.
fn seal(batch: &mut [u8], attributes: u8, compression: Compression) {
    let length = u32::try_from(batch.len() - 4).expect("batches are limited on the way in");
    batch[..4].copy_from_slice(&length.to_le_bytes());
    batch[ATTRIBUTES_AT..BATCH_HEADER_BYTES].copy_from_slice(&[attributes, compression as u8]);
    check::sum_up(batch);
}

/// Builds one batch of plain records.
#[derive(Debug)]
pub struct BatchBuilder {
    log: LogId,
    producer: Option<Producer>,
    /// The records, behind room for what stands before them: how much that takes is known when they are counted.
    bytes: BytesMut,
    count: u32,
}

impl BatchBuilder {
    /// An empty batch for the default log.
    pub fn new(producer: Option<Producer>) -> Self {
        Self::of(LogId::DEFAULT, producer)
    }

    /// An empty batch for a log.
    pub fn of(log: LogId, producer: Option<Producer>) -> Self {
        let mut bytes = BytesMut::with_capacity(256);
        bytes.put_bytes(0, PLAIN_HEAD_BYTES_MAX);
        Self {
            log,
            producer,
            bytes,
            count: 0,
        }
    }

    /// Adds a record.
    pub fn push(&mut self, value: &[u8], term: u64, kind: u32) {
        let extra = term != 0 || kind != 0;
        let length = (value.len() as u64) << 1 | u64::from(extra);
        varint::put(&mut self.bytes, length);
        if extra {
            varint::put(&mut self.bytes, term);
            varint::put(&mut self.bytes, u64::from(kind));
        }
        self.bytes.put_slice(value);
        self.count += 1;
    }

    /// How many records were added.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The bytes so far, about.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The batch's bytes.
    pub fn finish(mut self) -> Bytes {
        let mut head = BytesMut::with_capacity(PLAIN_HEAD_BYTES_MAX);
        let attributes = put_head(&mut head, self.log, self.producer, self.count);
        self.bytes.advance(PLAIN_HEAD_BYTES_MAX - head.len());
        self.bytes[..head.len()].copy_from_slice(&head);
        seal(&mut self.bytes, attributes, Compression::None);
        self.bytes.freeze()
    }
}

/// Joins bundles of batches into the payload of one frame, with the leader's time in milliseconds since 1970.
pub fn join<'a>(bundles: impl Iterator<Item = &'a Bytes> + Clone, stamp: Option<u64>) -> Bytes {
    let bytes: usize = bundles.clone().map(Bytes::len).sum();
    let mut out = BytesMut::with_capacity(COUNT_BYTES + bytes);
    out.put_u32_le(0);
    bundles.for_each(|bundle| out.put_slice(bundle));
    let (head, batches) = out.split_at_mut(COUNT_BYTES);
    let mut count: u32 = 0;
    bundle::for_each(batches, |batch| {
        count += 1;
        if let Some(time_ms) = stamp {
            check::stamp(batch, time_ms);
        }
    });
    head.copy_from_slice(&count.to_le_bytes());
    out.freeze()
}
