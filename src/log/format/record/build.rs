//! Writing batches: one of plain records, one of packed ones, and the payload of a frame.

use bytes::{BufMut, Bytes, BytesMut};

use crate::batch::{Compression, varint};
use crate::log::LogId;

use super::{
    BATCH_HEADER_BYTES, COMPRESSION_SHIFT, COUNT_BYTES, Conditions, HAS_CLAIMANT, HAS_EXPECTED,
    HAS_FENCE, HAS_LOG, HAS_OWNER, HAS_SESSION, LOG_BYTES, PACKED, PROOF_BYTES, Producer,
    SESSION_BYTES, STAMP_BYTES, STAMPED, bundle,
};

/// A batch of packed records: `count` of them in the bytes, which were checked before.
pub fn packed(
    log: LogId,
    producer: Option<Producer>,
    conditions: &Conditions<'_>,
    compression: Compression,
    count: u32,
    records: &[u8],
) -> Bytes {
    let mut attributes = PACKED | (compression as u32) << COMPRESSION_SHIFT;
    let name_bytes = conditions.fence.map_or(0, |fence| fence.name.len());
    let head =
        BATCH_HEADER_BYTES + LOG_BYTES + SESSION_BYTES + 8 + 1 + name_bytes + 8 + 2 * PROOF_BYTES;
    let mut bytes = BytesMut::with_capacity(head + records.len());
    bytes.put_bytes(0, BATCH_HEADER_BYTES);
    attributes |= put_log(&mut bytes, log);
    if let Some(producer) = producer {
        attributes |= put_producer(&mut bytes, producer);
    }
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
    let length = u32::try_from(bytes.len() - 4).expect("batches are limited on the way in");
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..8].copy_from_slice(&attributes.to_le_bytes());
    bytes[8..12].copy_from_slice(&count.to_le_bytes());
    bytes.freeze()
}

/// Writes which log the batch is for; gives the attributes that say so.
fn put_log(bytes: &mut BytesMut, log: LogId) -> u32 {
    if log == LogId::DEFAULT {
        return 0;
    }
    bytes.put_u32_le(log.0);
    HAS_LOG
}

/// Writes whose the batch is; gives the attributes that say so.
fn put_producer(bytes: &mut BytesMut, producer: Producer) -> u32 {
    bytes.put_u128_le(producer.session);
    bytes.put_u64_le(producer.sequence);
    if producer.owner == 0 {
        return HAS_SESSION;
    }
    bytes.put_u128_le(producer.owner);
    HAS_SESSION | HAS_OWNER
}

/// Builds one batch of plain records.
#[derive(Debug)]
pub struct BatchBuilder {
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
        bytes.put_bytes(0, BATCH_HEADER_BYTES);
        let mut attributes = put_log(&mut bytes, log);
        if let Some(producer) = producer {
            attributes |= put_producer(&mut bytes, producer);
        }
        bytes[4..8].copy_from_slice(&attributes.to_le_bytes());
        Self { bytes, count: 0 }
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

/// Joins bundles of batches into the payload of one frame, with the leader's time in milliseconds since 1970.
pub fn join<'a>(bundles: impl Iterator<Item = &'a Bytes> + Clone, stamp: Option<u64>) -> Bytes {
    let bytes: usize = bundles.clone().map(Bytes::len).sum();
    let mut out = BytesMut::with_capacity(COUNT_BYTES + STAMP_BYTES + bytes);
    let count = bundles
        .clone()
        .map(|bytes| bundle::count(bytes))
        .sum::<usize>();
    let count = u32::try_from(count).expect("batches are limited on the way in");
    match stamp {
        Some(stamp) => {
            out.put_u32_le(count | STAMPED);
            out.put_u64_le(stamp);
        }
        None => out.put_u32_le(count),
    }
    bundles.for_each(|bundle| out.put_slice(bundle));
    out.freeze()
}
