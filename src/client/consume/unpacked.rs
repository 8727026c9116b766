//! Batches on their way to a reader: decompressed when their turn comes, their records decoded one by one.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::batch::{BatchError, Compression, Record, decompress, records};
use crate::client::RESPONSE_BYTES_MAX;
use crate::proto::v1::StoredBatch;

/// A record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// The name of its log.
    pub log: Arc<str>,
    /// Its position among the records of all logs, if several logs are read; else `None`.
    pub position: Option<u64>,
    /// The record's offset, counted from 0 without gaps.
    pub offset: u64,
    /// The leader's time when it took the record's batch, in milliseconds since 1970; 0 if none was kept.
    pub append_timestamp_ms: u64,
    /// The record as its producer gave it.
    pub record: Record,
}

type Records = Box<dyn Iterator<Item = Result<Record, BatchError>> + Send + Sync>;

/// The batches that came and were not handed out yet.
pub(super) struct Unpacked {
    /// The log, where only one is read.
    log: Option<Arc<str>>,
    waiting: VecDeque<StoredBatch>,
    open: Option<Open>,
}

/// The batch whose records are being handed out.
struct Open {
    log: Arc<str>,
    position: Option<u64>,
    records: Records,
    next: u64,
    left: u32,
    append_timestamp_ms: u64,
    /// The batch's bytes as they came.
    bytes: u64,
}

impl Unpacked {
    /// Of one log, or of several logs if `log` is `None`.
    pub(in crate::client) fn of(log: Option<&str>) -> Self {
        Self {
            log: log.map(Arc::from),
            waiting: VecDeque::new(),
            open: None,
        }
    }

    pub(in crate::client) fn push(&mut self, batch: StoredBatch) {
        self.waiting.push_back(batch);
    }

    pub(in crate::client) fn clear(&mut self) {
        self.waiting.clear();
        self.open = None;
    }

    /// The next record, and the bytes of its batch if the record is the last one in it; else 0.
    pub(in crate::client) fn next(&mut self) -> Result<Option<(ConsumedRecord, u64)>, BatchError> {
        let open = match &mut self.open {
            Some(open) => open,
            None => match self.waiting.pop_front() {
                Some(batch) => self.open.insert(Open::new(batch, self.log.as_ref())?),
                None => return Ok(None),
            },
        };
        let Some(record) = open.records.next() else {
            return Err(BatchError::Malformed("it holds fewer records than it says"));
        };
        let record = ConsumedRecord {
            log: Arc::clone(&open.log),
            position: open.position,
            offset: open.next,
            append_timestamp_ms: open.append_timestamp_ms,
            record: record?,
        };
        open.next += 1;
        open.position = open.position.map(|position| position + 1);
        open.left -= 1;
        if open.left > 0 {
            return Ok(Some((record, 0)));
        }
        let bytes = open.bytes;
        if open.records.next().is_some() {
            return Err(BatchError::Malformed("it holds more records than it says"));
        }
        self.open = None;
        Ok(Some((record, bytes)))
    }
}

impl Open {
    fn new(stored: StoredBatch, log: Option<&Arc<str>>) -> Result<Self, BatchError> {
        let batch = stored.batch.unwrap_or_default();
        if batch.count == 0 {
            return Err(BatchError::Malformed("it holds no record"));
        }
        let compression = Compression::new(batch.compression)?;
        let plain: Bytes = decompress(&batch.records, compression, RESPONSE_BYTES_MAX)?;
        Ok(Self {
            position: log.is_none().then_some(stored.position),
            log: log.map_or_else(|| stored.log.into(), Arc::clone),
            records: Box::new(records(&plain)),
            next: stored.first_offset,
            left: batch.count,
            append_timestamp_ms: stored.append_timestamp_ms,
            bytes: batch.records.len() as u64,
        })
    }
}
