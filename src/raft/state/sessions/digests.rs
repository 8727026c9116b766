//! What is remembered of a batch's records, to tell a batch that is sent again from another one
//! under its number.
//!
//! A packed batch is sent again byte for byte, so one digest covers it. The server cuts plain records into batches,
//! at other places each time, so each plain record has a digest of its own. The digests find a producer's own
//! mistakes. They need not withstand an intruder, who lacks the session's secret. XXH3 (128 bits) for a batch and
//! CRC-32C for a record are the fastest at hand.

use std::collections::VecDeque;

use twox_hash::XxHash3_128;

use crate::disk::crc32c;
use crate::log::{self, record, record::Batch};

/// The digests of a batch's records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Digests {
    /// The digest of a packed batch, as it was sent, or of a bundle of them.
    Whole(u128),
    /// The digests of plain records, one each.
    Each(VecDeque<u32>),
}

impl Digests {
    /// The digests of a bundle in a payload.
    pub fn of(payload: &[u8], bundle: &[Batch<'_>]) -> Result<Self, log::Error> {
        let [batch] = bundle else {
            return Ok(Self::Whole(of_many(payload, bundle)));
        };
        if batch.packed.is_some() {
            return Ok(Self::Whole(of_packed(payload, batch)));
        }
        let records = batch.records(payload);
        let mut digests = VecDeque::with_capacity(batch.count as usize);
        let mut at = 0;
        for _ in 0..batch.count {
            let end = record::skip(records, at, 1)?;
            digests.push_back(crc32c::crc32c(&records[at..end]));
            at = end;
        }
        Ok(Self::Each(digests))
    }

    /// How many records have a digest of their own.
    pub fn records(&self) -> usize {
        match self {
            Self::Whole(_) => 0,
            Self::Each(digests) => digests.len(),
        }
    }

    /// Drops the digests of the first `skip` records. The digest of a packed batch stays as it is.
    pub fn without(self, skip: u32) -> Self {
        match self {
            Self::Each(mut digests) => {
                digests.drain(..skip as usize);
                Self::Each(digests)
            }
            whole => whole,
        }
    }
}

/// The digest of a packed batch: its compression is the seed.
fn of_packed(payload: &[u8], batch: &Batch<'_>) -> u128 {
    let seed = batch.packed.map_or(0, |compression| compression as u64);
    XxHash3_128::oneshot_with_seed(seed, batch.records(payload))
}

/// The digest of the batches' logs, counts and digests.
fn of_many(payload: &[u8], bundle: &[Batch<'_>]) -> u128 {
    let mut all = Vec::with_capacity(bundle.len() * 24);
    for batch in bundle {
        all.extend(batch.log.0.to_le_bytes());
        all.extend(batch.count.to_le_bytes());
        all.extend(of_packed(payload, batch).to_le_bytes());
    }
    XxHash3_128::oneshot(&all)
}
