//! What a window holds: the batches without an answer, a gathering batch for each log, and how far the stream is.
//!
//! Plain data and its arithmetic, under the window's lock. Waiting and waking are left to the window.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::ack::{Ack, Promise};
use super::ids::Ids;
use crate::batch::{Builder, Compression, Record};
use crate::client::ClientError;
use crate::client::session::Opened;

/// The most bytes, batches and records of a producer that have no answer.
pub(super) const BYTES_MAX: usize = 8 * 1024 * 1024;
pub(super) const BATCHES_MAX: usize = 64;
pub(super) const RECORDS_MAX: usize = 65_536;
/// More than a batch is expected to take, so that its builder is not grown step by step.
const BUILDER_BYTES: usize = 64 * 1024;

/// What a producer has achieved so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProducerStats {
    /// Records that were acknowledged.
    pub acknowledged: u64,
    /// Batches that were acknowledged.
    pub batches: u64,
    /// Batches of these that an earlier try had appended.
    pub duplicates: u64,
    /// The longest time that records waited without any acknowledgement coming in.
    pub longest_gap: Duration,
    /// Streams that were opened. More than one means that a server was lost.
    pub streams: u64,
    /// Records that were sent and have no answer: they may be in the log or not.
    pub in_doubt: u64,
}

/// A closed batch.
pub(in crate::client) struct Batch {
    /// The name of its log; empty for the default one.
    pub(super) log: Arc<str>,
    /// How many records of the producer come before it.
    pub(in crate::client) first: u64,
    pub(in crate::client) count: u32,
    /// As it travels, once it is packed.
    pub(in crate::client) records: Bytes,
    pub(in crate::client) compression: Compression,
    pub(super) is_packed: bool,
    /// Its bytes before compression.
    pub(super) plain_bytes: usize,
    pub(super) promise: Promise,
}

/// Records of a log whose batch is not closed.
struct Gathering {
    log: Arc<str>,
    builder: Builder,
    promise: Promise,
    since: Instant,
}

/// What may be under way on the present stream.
#[derive(Debug, Clone, Copy)]
pub(in crate::client) struct Credit {
    pub(in crate::client) bytes: usize,
    pub(in crate::client) batches: usize,
}

pub(in crate::client) struct Backlog {
    /// What gathers, in the order in which it began.
    gathering: Vec<Gathering>,
    /// The builder of the batch that was closed last, with the room that it left.
    spare: Builder,
    pub(super) unacknowledged: VecDeque<Batch>,
    /// The bytes of all unacknowledged records before compression, with those that gather.
    pub(in crate::client) bytes: usize,
    pub(in crate::client) records: usize,
    /// How many of the unacknowledged batches are on the present stream, and their bytes.
    pub(in crate::client) sent: usize,
    pub(super) sent_bytes: usize,
    /// The server's credit; `None` until the stream's first answer.
    pub(in crate::client) credit: Option<Credit>,
    /// Records in all batches that were closed so far.
    pub(super) closed_records: u64,
    pub(in crate::client) session: Option<Opened>,
    /// How many records of the producer come before the session's first one.
    pub(super) session_first: u64,
    /// Batches before this record were sent on a lost stream, so they may be in the log.
    pub(super) uncertain_until: u64,
    /// Counts streams; an older one gets no more batches.
    pub(in crate::client) stream: u64,
    pub(super) wake_stream: Option<Waker>,
    pub(in crate::client) closed: bool,
    pub(in crate::client) failure: Option<ClientError>,
    /// What the answers told of the logs.
    pub(super) ids: Ids,
    /// The log of the first batch without an answer when the producer failed.
    pub(super) failed_log: Option<Arc<str>>,
    pub(in crate::client) progress: Instant,
    pub(super) stats: ProducerStats,
}

impl Backlog {
    pub(in crate::client) fn new() -> Self {
        Self {
            gathering: Vec::new(),
            spare: Builder::with_capacity(BUILDER_BYTES),
            unacknowledged: VecDeque::new(),
            bytes: 0,
            records: 0,
            sent: 0,
            sent_bytes: 0,
            credit: None,
            closed_records: 0,
            session: None,
            session_first: 0,
            uncertain_until: 0,
            stream: 0,
            wake_stream: None,
            closed: false,
            failure: None,
            ids: Ids::default(),
            failed_log: None,
            progress: Instant::now(),
            stats: ProducerStats::default(),
        }
    }

    pub(super) fn check_open(&self) -> Result<(), ClientError> {
        match &self.failure {
            Some(failure) => Err(failure.clone()),
            None if self.closed => Err(ClientError::Closed),
            None => Ok(()),
        }
    }

    pub(in crate::client) fn is_empty(&self) -> bool {
        self.unacknowledged.is_empty() && self.gathering.is_empty()
    }

    /// Whether so many more bytes, records and batches fit. A batch that is larger than the window is sent alone.
    pub(super) fn has_room(&self, bytes: usize, records: usize, batches: usize) -> bool {
        let open = self.unacknowledged.len() + self.gathering.len();
        let fits = self.bytes + bytes <= BYTES_MAX
            && self.records + records <= RECORDS_MAX
            && open + batches <= BATCHES_MAX;
        fits || self.is_empty()
    }

    /// Waiting senders wake once the window is less than three quarters full, so that they fill it in larger
    /// steps.
    pub(super) fn is_low(&self) -> bool {
        self.bytes <= BYTES_MAX / 4 * 3
            && self.records <= RECORDS_MAX / 4 * 3
            && self.unacknowledged.len() <= BATCHES_MAX / 4 * 3
    }

    /// How many records of the producer come before the first unacknowledged one.
    pub(in crate::client) fn first(&self) -> u64 {
        let first = self.unacknowledged.front();
        first.map_or(self.closed_records, |batch| batch.first)
    }

    /// How many records a server may have taken without an answer.
    pub(in crate::client) fn in_doubt(&self) -> u64 {
        let sent = self.unacknowledged.iter().take(self.sent).last();
        let sent_until = sent.map_or(0, |batch| batch.first + u64::from(batch.count));
        let until = sent_until.max(self.uncertain_until);
        until.saturating_sub(self.first())
    }

    /// Which of the gathering batches is the log's; `None` if there is none.
    pub(super) fn gathers(&self, log: &str) -> Option<usize> {
        // Few gather at a time: as many as there is room for batches.
        self.gathering
            .iter()
            .position(|gathering| &*gathering.log == log)
    }

    /// The bytes of a batch that gathers.
    pub(super) fn gathered_bytes(&self, at: usize) -> usize {
        self.gathering[at].builder.bytes()
    }

    /// Begins a batch of the log.
    pub(super) fn begin(&mut self, log: &str) -> usize {
        let since = Instant::now();
        if self.unacknowledged.is_empty() {
            self.progress = since;
        }
        self.gathering.push(Gathering {
            log: log.into(),
            builder: std::mem::take(&mut self.spare),
            promise: Promise::default(),
            since,
        });
        self.gathering.len() - 1
    }

    /// Adds a record to a batch that gathers; gives how many it has then.
    pub(super) fn gather(&mut self, at: usize, record: &Record, bytes: usize) -> (Ack, u32) {
        let gathering = &mut self.gathering[at];
        let ack = gathering.promise.ack(gathering.builder.count());
        gathering.builder.push(record);
        self.bytes += bytes;
        self.records += 1;
        (ack, gathering.builder.count())
    }

    /// When the first of the gathering records came.
    pub(super) fn gathering_since(&self) -> Option<Instant> {
        self.gathering.first().map(|gathering| gathering.since)
    }

    /// Closes a batch that gathers.
    pub(super) fn close_batch(&mut self, at: usize) {
        let mut closed = self.gathering.remove(at);
        let (records, count) = closed.builder.take();
        self.spare = closed.builder;
        self.queue(closed.log, records, count, closed.promise);
    }

    /// Closes the log's batch that gathers, if there is one.
    pub(super) fn close_log(&mut self, log: &str) {
        if let Some(at) = self.gathers(log) {
            self.close_batch(at);
        }
    }

    /// Closes the batches that have gathered for so long, the oldest first.
    pub(super) fn close_due(&mut self, now: Instant, linger: Duration) {
        while self
            .gathering_since()
            .is_some_and(|since| since + linger <= now)
        {
            self.close_batch(0);
        }
    }

    /// Closes all batches that gather.
    pub(super) fn close_all(&mut self) {
        while !self.gathering.is_empty() {
            self.close_batch(0);
        }
    }

    pub(super) fn queue(&mut self, log: Arc<str>, records: Bytes, count: u32, promise: Promise) {
        self.unacknowledged.push_back(Batch {
            log,
            first: self.closed_records,
            count,
            plain_bytes: records.len(),
            records,
            compression: Compression::None,
            is_packed: false,
            promise,
        });
        self.closed_records += u64::from(count);
    }

    pub(super) fn took_answer(&mut self, batch: &Batch, duplicate: bool) {
        self.sent -= 1;
        self.sent_bytes -= batch.records.len();
        self.bytes -= batch.plain_bytes;
        self.records -= batch.count as usize;
        let now = Instant::now();
        self.stats.longest_gap = self.stats.longest_gap.max(now - self.progress);
        self.stats.acknowledged += u64::from(batch.count);
        self.stats.batches += 1;
        self.stats.duplicates += u64::from(duplicate);
        self.progress = now;
    }
}
