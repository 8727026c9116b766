//! Batches between the wire and the log: checked on the way in, passed on as they are on the way
//! out.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tonic::Status;

use crate::batch::{self, BatchError, Builder, Compression, Part};
use crate::log::record::{self, Conditions, DECOMPRESSED_BYTES_MAX, Producer, Stored};
use crate::log::{Error, LogId, Offset, Read};
use crate::net::budget::Accounts;
use crate::proto::v1::{self, ProduceRequest, StoredBatch};
use crate::raft::{Demands, ReplicatedLog, owner};

use super::super::{Limits, status};
use super::check_name;
use super::consume::bytes_of;
use crate::server::answers::bulk::Bulk;
use crate::server::answers::reading::{PART_BYTES, Shape, is_copied};

/// A log that a batch is for, and what it asks of records.
#[derive(Clone, Copy)]
pub struct Target {
    pub id: LogId,
    demands: Demands,
}

impl Target {
    pub fn of(log: &ReplicatedLog) -> Self {
        Self {
            id: log.id(),
            demands: log.demands(),
        }
    }
}

/// Who sends a batch, and to which log.
#[derive(Clone, Copy)]
pub struct Sender<'a> {
    pub to: Target,
    pub subject: &'a str,
}

/// The batch of a request, as the log keeps it. Every record in it is looked at: what is taken can
/// be read back.
pub async fn taken(
    request: ProduceRequest,
    sender: Sender<'_>,
    limits: &Limits,
    bulk: &Bulk,
    accounts: Option<&Accounts>,
) -> Result<Bytes, Status> {
    if !request.batch.as_ref().is_some_and(is_compressed) {
        return Packing::new(limits).pack(request, sender);
    }
    let (limits, to, subject) = (limits.clone(), sender.to, sender.subject.to_owned());
    let taken = bulk.run(accounts, move || {
        let subject = &*subject;
        Packing::new(&limits).pack(request, Sender { to, subject })
    });
    taken.await.unwrap_or_else(|| Err(status::draining()))
}

/// Whether looking at a batch takes a processor for long.
pub fn is_compressed(batch: &v1::Batch) -> bool {
    batch.compression != Compression::None as i32
}

/// Checks and packs the batches of one call, which share its limits.
pub struct Packing<'a> {
    limits: &'a Limits,
    /// The bytes that more batches may have as they are sent, and once they are decompressed.
    left: usize,
    plain_left: usize,
}

impl<'a> Packing<'a> {
    pub fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            left: limits.native_bytes_max(),
            plain_left: limits.decompressed_bytes_max(),
        }
    }

    /// The batch of a request, as the log keeps it.
    pub fn pack(&mut self, request: ProduceRequest, sender: Sender<'_>) -> Result<Bytes, Status> {
        let Sender { to, subject } = sender;
        let missing = || status::invalid("the request has no batch");
        let batch = request.batch.ok_or_else(missing)?;
        let checked = self.check(&batch, to.demands);
        let compression = checked.map_err(|error| match error {
            BatchError::OverLimit { what, size, limit }
                if what == batch::RECORD && limit < self.limits.record_bytes_max =>
            {
                status::too_large_for_log(size, limit)
            }
            error => status::batch(&error),
        })?;
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
        let (producer, count) = (producer.transpose()?, batch.count);
        Ok(record::packed(
            to.id,
            producer,
            &conditions,
            compression,
            count,
            &batch.records,
        ))
    }

    fn check(&mut self, batch: &v1::Batch, demands: Demands) -> Result<Compression, BatchError> {
        let (size, limit) = (batch.records.len(), self.limits.native_bytes_max());
        if size > self.left {
            let what = "a batch, or all of one call";
            let size = size + (limit - self.left);
            return Err(BatchError::OverLimit { what, size, limit });
        }
        let compression = Compression::new(batch.compression)?;
        let limits = self.limits.of_batches(demands);
        let checked = batch::check_packed(&batch.records, compression, self.plain_left, &limits);
        let (found, plain_bytes) = checked?;
        self.left -= size;
        self.plain_left = self.plain_left.saturating_sub(plain_bytes);
        let declared = batch.count;
        if found == 0 {
            return Err(BatchError::Malformed("it holds no record"));
        }
        if found != declared {
            return Err(BatchError::Count { declared, found });
        }
        Ok(compression)
    }
}

/// Which part of what was read is to be sent, and how.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The names of their logs, where there can be several.
    pub names: Option<Arc<LogNames>>,
    /// At most so many records.
    pub records_max: u64,
    /// What batches may be compressed with.
    pub accept: Vec<i32>,
    /// About so many bytes of records, but at least one record.
    pub bytes_max: usize,
    /// The first batch is passed on whole if it is not larger than this.
    pub whole_bytes_max: usize,
}

/// The names of logs.
pub type LogNames = HashMap<LogId, Arc<str>>;

/// What a batch takes in a message beside its records.
const STORED_BATCH_BYTES: usize = 48;

/// What is left of what was wanted, for the next batch.
#[derive(Debug, Clone, Copy)]
struct Left {
    records: u64,
    bytes: usize,
    is_first: bool,
}

impl Wanted {
    fn accepts(&self, compression: Compression) -> bool {
        compression == Compression::None || self.accept.contains(&(compression as i32))
    }

    /// Whether a batch is passed on as it is kept.
    fn is_passed_on(&self, stored: &Stored, compression: Compression, left: Left) -> bool {
        let bytes_max = if left.is_first {
            self.whole_bytes_max.max(left.bytes)
        } else {
            left.bytes
        };
        self.accepts(compression)
            && stored.first >= stored.from
            && u64::from(stored.count) <= left.records
            && stored.bytes.len() <= bytes_max
    }

    /// A stored batch as it is sent: without a copy, unless only a part of it is wanted, its
    /// compression is not taken, or its records are those of `log.v1`. `None` if it is better sent
    /// first in another answer.
    fn sent(&self, stored: &Stored, left: Left) -> Result<Option<StoredBatch>, Error> {
        let passed = stored.from.0.saturating_sub(stored.first.0);
        let first = Offset(stored.first.0 + passed);
        let count = u64::from(stored.count).saturating_sub(passed);
        let part = Part {
            first: short(passed),
            count: short(count.min(left.records)),
            bytes_max: left.bytes,
        };
        let (records, count, compression) = match stored.packed {
            Some(compression) if self.is_passed_on(stored, compression, left) => {
                (stored.bytes.clone(), stored.count, compression)
            }
            Some(compression) if !left.is_first && self.accepts(compression) => return Ok(None),
            Some(compression) => {
                let most = DECOMPRESSED_BYTES_MAX;
                let part = batch::unpack(&stored.bytes, compression, most, part);
                let (records, count) = part.map_err(Error::Unreadable)?;
                (records, count, Compression::None)
            }
            None => {
                let (records, count) = repacked(stored, first, part)?;
                (records, count, Compression::None)
            }
        };
        if !left.is_first && records.len() > left.bytes {
            return Ok(None);
        }
        let batch = v1::Batch {
            records,
            compression: compression as i32,
            count,
        };
        let mut sent = StoredBatch {
            first_offset: first.0,
            batch: Some(batch),
            append_timestamp_ms: stored.timestamp_ms,
            ..StoredBatch::default()
        };
        if let Some(names) = &self.names {
            let name = names.get(&stored.log).ok_or(UNNAMED)?;
            name.as_ref().clone_into(&mut sent.log);
            (sent.log_id, sent.position) = (stored.log.0, stored.position.0 + passed);
        }
        Ok(Some(sent))
    }
}

const UNNAMED: Error = Error::Malformed("a row names a log that was not asked for");

fn short(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// What was read as it is sent.
impl Shape for Wanted {
    type Answer = Vec<StoredBatch>;

    fn is_long(&self, stored: &[Stored]) -> bool {
        let mut is_first = true;
        stored.iter().any(|stored| {
            let left = Left {
                records: self.records_max,
                bytes: self.bytes_max,
                is_first: std::mem::take(&mut is_first),
            };
            let Some(compression) = stored.packed else {
                return false;
            };
            let later = !left.is_first && self.accepts(compression);
            compression != Compression::None
                && !later
                && !self.is_passed_on(stored, compression, left)
        })
    }

    fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn make(&self, read: &Read) -> Result<(Self::Answer, usize), Error> {
        let mut left = Left {
            records: self.records_max,
            bytes: self.bytes_max.max(1),
            is_first: true,
        };
        let mut bytes = 0;
        let mut all = Vec::with_capacity(read.stored.len());
        for stored in &read.stored {
            if left.records == 0 || left.bytes == 0 {
                break;
            }
            let Some(sent) = self.sent(stored, left)? else {
                break;
            };
            let count = sent.batch.as_ref().map_or(0, |batch| batch.count);
            let next = Offset(sent.first_offset + u64::from(count));
            let taken = bytes_of(&sent) + sent.log.len() + STORED_BATCH_BYTES;
            bytes += taken + PART_BYTES;
            left = Left {
                records: left.records - u64::from(count),
                bytes: left.bytes.saturating_sub(taken),
                is_first: false,
            };
            all.push(sent);
            if next < stored.next() {
                break;
            }
        }
        if is_copied(bytes, read) {
            for batch in all.iter_mut().filter_map(|sent| sent.batch.as_mut()) {
                batch.records = Bytes::copy_from_slice(&batch.records);
            }
            return Ok((all, bytes));
        }
        Ok((all, bytes.max(read.kept_bytes)))
    }
}

/// Records of `log.v1` as packed ones. Their term and type are that API's alone.
fn repacked(stored: &Stored, first: Offset, part: Part) -> Result<(Bytes, u32), Error> {
    let mut records = Vec::new();
    stored.read_into(first, part.bytes_max.max(1), &mut records)?;
    let mut builder = Builder::default();
    for record in records {
        let record = batch::Record::from(record.value);
        let more = batch::bytes_in_batch(&record);
        let full = builder.count() > 0 && builder.bytes() + more > part.bytes_max;
        if full || builder.count() == part.count {
            break;
        }
        builder.push(&record);
    }
    Ok(builder.take())
}
