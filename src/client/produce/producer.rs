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
use crate::client::{ClientError, build};
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
    /// A batch is sent once it has so many bytes before compression. A record above it travels alone.
    pub batch_bytes_max: usize,
    /// A batch is sent once it has so many records.
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

/// Appends records in the order of its `send` calls, each exactly once if it is idempotent.
///
/// Dropping it sends what is in flight in the background; [`finish`](Self::finish) waits for that.
pub struct Producer {
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
        let window = Arc::new(Window::new(log, options));
        let pipeline = Pipeline::new(Arc::clone(servers), Arc::clone(&window), timeout);
        Ok(Self {
            window,
            pipeline: tasks::spawn("producer", pipeline.run(attempts)),
        })
    }

    /// Queues a record. Waits while 8 MiB, 64 batches or 65,536 records are unacknowledged.
    ///
    /// # Errors
    ///
    /// The error that ended the producer, if one did; [`ClientError::Closed`] after [`Self::stop`]. What
    /// becomes of the record itself the [`Ack`] tells.
    pub async fn send(&self, record: impl Into<Record>) -> Result<Ack, ClientError> {
        let record = record.into();
        // A caller that never waits would keep the sending task from running on this thread.
        tokio::task::coop::consume_budget().await;
        self.window.push(&record).await
    }

    /// Queues records as one batch of their own: all of them are appended, side by side, or none.
    ///
    /// # Errors
    ///
    /// [`ClientError::EmptyBatch`] without a record; else as [`Self::send`].
    pub async fn send_batch(&self, records: Vec<Record>) -> Result<BatchAck, ClientError> {
        let (records, count) = build(&records)?;
        self.window.push_batch(records, count).await
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

impl Drop for Producer {
    fn drop(&mut self) {
        self.window.close();
    }
}
