//! Batches between the wire and the log: checked on the way in, passed on as they are on the way
//! out.

use bytes::Bytes;
use tonic::Status;

use crate::batch::{self, BatchError, Builder, Compression};
use crate::log::record::{self, Conditions, Producer, Stored};
use crate::log::{Error, Offset};
use crate::proto::v1::{self, ProduceRequest, StoredBatch};
use crate::raft::owner;

use super::super::{Limits, status};
use super::check_name;

/// The batch of a request by `subject`, as the log keeps it. Every record in it is looked at: what is taken can
/// be read back.
pub fn taken(request: ProduceRequest, subject: &str, limits: &Limits) -> Result<Bytes, Status> {
    let missing = || status::invalid("the request has no batch");
    let batch = request.batch.ok_or_else(missing)?;
    let compression = check(&batch, limits).map_err(|error| status::batch(&error))?;
    if let Some(fence) = &request.fence {
        check_name("a fence", &fence.name)?;
    }
    let fence = request.fence.as_ref().map(|fence| record::Fence {
        name: &fence.name,
        epoch: fence.epoch,
        claimant: owner::of_holder(subject),
    });
    let conditions = Conditions {
        expected_next_offset: request.expected_next_offset.map(Offset),
        fence,
    };
    let producer = request.session.as_ref().map(|session| {
        let secret = super::secret(&session.secret)?;
        Ok::<_, Status>(Producer {
            session: session.session.into(),
            sequence: session.sequence,
            owner: owner::of_session(subject, secret),
        })
    });
    let producer = producer.transpose()?;
    let count = batch.count;
    Ok(record::packed(
        producer,
        &conditions,
        compression,
        count,
        &batch.records,
    ))
}

fn check(batch: &v1::Batch, limits: &Limits) -> Result<Compression, BatchError> {
    let (size, limit) = (batch.records.len(), limits.native_bytes_max());
    if size > limit {
        let what = "a batch";
        return Err(BatchError::OverLimit { what, size, limit });
    }
    let compression = Compression::new(batch.compression)?;
    let most = limits.decompressed_bytes_max();
    let records = batch::decompress(&batch.records, compression, most)?;
    let found = batch::check(&records, &limits.of_batches())?;
    let declared = batch.count;
    if found == 0 {
        return Err(BatchError::Malformed("it holds no record"));
    }
    if found != declared {
        return Err(BatchError::Count { declared, found });
    }
    Ok(compression)
}

/// Which part of what was read is to be sent, and how.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Nothing before this offset.
    pub from: Offset,
    /// At most so many records.
    pub records_max: u64,
    /// What batches may be compressed with.
    pub accept: Vec<i32>,
}

/// A stored batch as it is sent: without a copy, unless only a part of it is wanted, its
/// compression is not taken, or its records are those of `log.v1`.
pub fn sent(stored: &Stored, wanted: &Wanted) -> Result<StoredBatch, Error> {
    let unreadable = Error::Unreadable;
    let passed = wanted.from.0.saturating_sub(stored.first.0);
    let left = u64::from(stored.count).saturating_sub(passed);
    let count = left.min(wanted.records_max);
    let is_whole = count == u64::from(stored.count);
    let first = Offset(stored.first.0 + passed);
    let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let (records, compression) = match stored.packed {
        Some(compression) => {
            let accepted =
                compression == Compression::None || wanted.accept.contains(&(compression as i32));
            if is_whole && accepted {
                (stored.bytes.clone(), compression)
            } else {
                let all = stored.unpacked(compression)?;
                let part = batch::slice(&all, short(passed), short(count));
                let (part, found) = part.map_err(unreadable)?;
                let declared = short(count);
                if found != declared {
                    return Err(unreadable(BatchError::Count { declared, found }));
                }
                (part, Compression::None)
            }
        }
        None => (repacked(stored, first, count)?, Compression::None),
    };
    Ok(StoredBatch {
        first_offset: first.0,
        batch: Some(v1::Batch {
            records,
            compression: compression as i32,
            count: short(count),
        }),
        append_timestamp_ms: stored.timestamp_ms,
    })
}

/// Records of `log.v1` as packed ones. Their term and type are that API's alone.
fn repacked(stored: &Stored, first: Offset, count: u64) -> Result<Bytes, Error> {
    let mut records = Vec::new();
    stored.read_into(first, usize::MAX, &mut records)?;
    let mut builder = Builder::default();
    for record in records
        .into_iter()
        .take(usize::try_from(count).unwrap_or(usize::MAX))
    {
        builder.push(&batch::Record {
            value: record.value,
            ..batch::Record::default()
        });
    }
    Ok(builder.take().0)
}
