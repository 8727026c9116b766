//! The producer: batched, pipelined, bounded, and exactly once across lost servers.
//!
//! It hands records to the window and their offsets to the callers. The pipeline handles the wire.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::ack::{Ack, BatchAck};
use super::backlog::ProducerStats;
use super::pipeline::Pipeline;
use super::window::Window;
use crate::batch::{Compression, Record};
use crate::client::attempts::Attempts;
use crate::client::servers::Servers;
use crate::client::{ClientError, DEFAULT_LOG, build};
use crate::proto::v1;
use crate::tasks;

const LINGER_DEFAULT: Duration = Duration::from_micros(500);
const LINGER_MAX: Duration = Duration::from_millis(1);
const BATCH_BYTES: usize = 64 * 1024;
const BATCH_RECORDS: u32 = 1000;

/// How a producer makes batches, and under which session and fence it appends.
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// How batches are compressed; not at all unless said otherwise.
    pub compression: Compression,
    /// How long a batch may wait for more records while another one is under way; at most 1 ms.
    pub linger: Duration,
    /// A batch is sent once it has this many bytes before compression. A larger record travels alone.
    pub batch_bytes_max: usize,
    /// A batch is sent once it has this many records.
    pub batch_records_max: u32,
    /// Appends under a session, so that a batch which is sent again after a loss is appended once.
    pub idempotent: bool,
    /// Appends only as long as this epoch of the name is the present one.
    pub fence: Option<Fence>,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            compression: Compression::None,
            linger: LINGER_DEFAULT,
            batch_bytes_max: BATCH_BYTES,
            batch_records_max: BATCH_RECORDS,
            idempotent: true,
            fence: None,
        }
    }
}

/// A name that was claimed, and the epoch that the claim gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The name.
    pub name: String,
    /// The epoch that [`claim_epoch`](crate::client::Admin::claim_epoch) gave.
    pub epoch: u64,
}

impl From<Fence> for v1::Fence {
    fn from(Fence { name, epoch }: Fence) -> Self {
        Self { name, epoch }
    }
}

/// Appends records to a log or to several, each exactly once if it is idempotent.
///
/// The records of a log stand in it in the order of the calls. All logs share one session, one stream and one window.
/// Each log has batches of its own, and a batch of one log may overtake one of another. A refused batch, for a log that
/// is not there for example, ends the producer; [`failed_log`](Self::failed_log) tells which log it was for. A log that
/// is deleted and made anew under its name is another one: from the first acknowledgement on its records are refused
/// with [`ClientError::LogDeleted`], not appended to the new log.
///
/// A dropped producer sends what is in flight in the background; [`finish`](Self::finish) waits for that.
pub struct Producer {
    /// The log of `send`; the default one has the empty name.
    log: String,
    window: Arc<Window>,
    pipeline: JoinHandle<Result<(), ClientError>>,
}

impl Producer {
    pub(in crate::client) fn new(
        servers: &Arc<Servers>,
        log: &str,
        mut options: ProducerOptions,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        options.linger = options.linger.min(LINGER_MAX);
        let attempts = Attempts::new(servers, None, timeout)?;
        let window = Arc::new(Window::new(options));
        let pipeline = Pipeline::new(Arc::clone(servers), Arc::clone(&window), timeout);
        Ok(Self {
            log: known_as(log).to_owned(),
            window,
            pipeline: tasks::spawn("producer", pipeline.run(attempts)),
        })
    }

    /// Queues a record for the client's log. Waits while 8 MiB, 64 batches or 65,536 records are unacknowledged.
    ///
    /// # Errors
    ///
    /// The error that ended the producer, if one did; [`ClientError::Closed`] after [`Self::stop`]. The [`Ack`] tells
    /// what becomes of the record itself.
    pub async fn send(&self, record: impl Into<Record>) -> Result<Ack, ClientError> {
        self.push(&self.log, record.into()).await
    }

    /// Queues a record for the log of this name, as [`Self::send`] does.
    ///
    /// # Errors
    ///
    /// As [`Self::send`].
    pub async fn send_to(&self, log: &str, record: impl Into<Record>) -> Result<Ack, ClientError> {
        self.push(known_as(log), record.into()).await
    }

    /// Queues records as one batch of their own: all of them are appended, side by side, or none.
    ///
    /// # Errors
    ///
    /// [`ClientError::EmptyBatch`] without a record; else as [`Self::send`].
    pub async fn send_batch(&self, records: Vec<Record>) -> Result<BatchAck, ClientError> {
        self.push_batch(&self.log, &records).await
    }

    /// Queues records as one batch for the log of this name, as [`Self::send_batch`] does.
    ///
    /// # Errors
    ///
    /// As [`Self::send_batch`].
    pub async fn send_batch_to(
        &self,
        log: &str,
        records: Vec<Record>,
    ) -> Result<BatchAck, ClientError> {
        self.push_batch(known_as(log), &records).await
    }

    async fn push(&self, log: &str, record: Record) -> Result<Ack, ClientError> {
        // A caller that never waits would keep the sending task from running on this thread.
        tokio::task::coop::consume_budget().await;
        self.window.push(log, &record).await
    }

    async fn push_batch(&self, log: &str, records: &[Record]) -> Result<BatchAck, ClientError> {
        let (records, count) = build(records)?;
        self.window.push_batch(log, records, count).await
    }

    /// The log of the first batch without an acknowledgement, once an error has ended the producer: the refused one,
    /// if a server refused a batch. `default` for the default log.
    pub fn failed_log(&self) -> Option<Arc<str>> {
        let log = self.window.failed_log()?;
        Some(if log.is_empty() {
            DEFAULT_LOG.into()
        } else {
            log
        })
    }

    /// What the producer has achieved so far.
    pub fn stats(&self) -> ProducerStats {
        self.window.stats()
    }

    /// Stops the producer at once: it sends nothing more, and every wait ends with [`ClientError::Closed`]. The
    /// statistics are final from then on.
    pub fn stop(&self) -> ProducerStats {
        self.window.fail(&ClientError::Closed);
        self.window.close();
        self.window.stats()
    }

    /// Waits until every record is acknowledged, and closes the session.
    ///
    /// # Errors
    ///
    /// The error that ended the producer, if one did: records without an ack may be in the log or not.
    pub async fn finish(mut self) -> Result<ProducerStats, ClientError> {
        self.window.close();
        (&mut self.pipeline)
            .await
            .unwrap_or(Err(ClientError::Closed))?;
        Ok(self.window.stats())
    }
}

/// The name under which batches gather. The default log has two names; its records must gather under one.
fn known_as(log: &str) -> &str {
    if log == DEFAULT_LOG { "" } else { log }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.window.close();
    }
}
