//! The gRPC edge: what clients may call, and the one map from errors to status codes.
//!
//! It owns the trait that it needs of a log, [`CommitLog`], so that its verbs run over a bare log
//! in tests as they run over a replicated one. Peers' calls are not served here.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::watch;
use tonic::Status;

use crate::log::{self, Offset, Record};
use crate::net::budget;
use crate::raft::{Answer, Applied, ProposeError, ReadError, View};
use crate::tasks;

mod auth;
mod calls;
mod cluster;
mod consume;
mod intake;
mod log_v1;
mod native;
mod produce;
mod router;
mod status;

#[cfg(test)]
mod tests;

pub use auth::{Policy, PolicyError};
pub use router::{Drain, HealthReporter, ServeError, router, serve, serve_peers};

/// What the service needs of a log.
pub trait CommitLog: Send + Sync + 'static {
    /// Queues a batch, as `log::record` draws it. The answer comes once it is synced on a majority
    /// and applied (I1). Batches queued one after another keep their order.
    fn propose(&self, batch: Bytes) -> impl Future<Output = Result<Answer, ProposeError>> + Send;

    /// Returns once a read sees everything that was acknowledged before the call.
    fn read_barrier(&self) -> impl Future<Output = Result<(), ReadError>> + Send;

    /// Records from `offset` on, of about `bytes_max` bytes: at least one.
    fn read(
        &self,
        offset: Offset,
        bytes_max: usize,
    ) -> impl Future<Output = Result<Vec<Record>, log::Error>> + Send;

    /// The first readable offset, and the one that the next record gets.
    fn offsets(&self) -> (Offset, Offset);

    /// How far records can be read, and a wait for more.
    fn watch_applied(&self) -> watch::Receiver<Applied>;

    /// The cluster as this node sees it.
    fn view(&self) -> View;
}

impl CommitLog for crate::raft::ReplicatedLog {
    async fn propose(&self, batch: Bytes) -> Result<Answer, ProposeError> {
        Self::propose(self, batch).await
    }

    async fn read_barrier(&self) -> Result<(), ReadError> {
        Self::read_barrier(self).await
    }

    async fn read(&self, offset: Offset, bytes_max: usize) -> Result<Vec<Record>, log::Error> {
        read_log(self.log(), offset, move |log| log.read(offset, bytes_max)).await
    }

    fn offsets(&self) -> (Offset, Offset) {
        self.log().offsets()
    }

    fn watch_applied(&self) -> watch::Receiver<Applied> {
        Self::watch_applied(self)
    }

    fn view(&self) -> View {
        Self::view(self)
    }
}

/// Reads at an offset without making the runtime's threads wait for the disk.
async fn read_log<T: Send + 'static>(
    log: &log::Log,
    offset: Offset,
    read: impl FnOnce(&log::Log) -> Result<T, log::Error> + Send + 'static,
) -> Result<T, log::Error> {
    if log.in_memory(offset) {
        return read(log);
    }
    let log = log.clone();
    let read = tasks::spawn_blocking("read of the log", move || read(&log));
    read.await.unwrap_or(Err(log::Error::Stopped))
}

/// What a node takes from clients.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest record, in bytes.
    pub record_bytes_max: usize,
    /// Bytes of a stream's records that become one batch; a larger record is a batch of its own.
    pub batch_bytes_max: usize,
    /// Calls under way on one connection.
    pub streams_per_connection_max: u32,
    /// Bytes that clients may have under way.
    pub bytes: budget::Limits,
}

/// Bytes of a message beside the records in it.
const MESSAGE_OVERHEAD: usize = 64 << 10;
/// Records of a native batch.
const BATCH_RECORDS_MAX: u32 = 65_536;
/// A native batch may be so large, whatever the largest record is: what clients gather by themselves.
const BATCH_BYTES_MAX: usize = 256 << 10;
/// Lengths and tags in a record, beside its value, key and headers.
const RECORD_OVERHEAD: usize = 4 << 10;
/// A compressed batch may grow to so many times the largest one.
const DECOMPRESSED_FACTOR: usize = 4;
const KEY_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 128;
const HEADER_BYTES_MAX: usize = 64 << 10;

impl Limits {
    /// The largest native batch as it is sent, in bytes.
    fn native_bytes_max(&self) -> usize {
        (self.record_bytes_max + RECORD_OVERHEAD).max(BATCH_BYTES_MAX)
    }

    /// The same without its compression.
    fn decompressed_bytes_max(&self) -> usize {
        let most = self.native_bytes_max() * DECOMPRESSED_FACTOR;
        most.min(log::record::DECOMPRESSED_BYTES_MAX)
    }

    /// The largest message.
    fn message_bytes_max(&self) -> usize {
        self.native_bytes_max() + MESSAGE_OVERHEAD
    }

    /// What a native batch may hold.
    fn of_batches(&self) -> crate::batch::Limits {
        crate::batch::Limits {
            records: BATCH_RECORDS_MAX,
            record_bytes: self.record_bytes_max,
            key_bytes: KEY_BYTES_MAX,
            headers: HEADERS_MAX,
            header_bytes: HEADER_BYTES_MAX,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            record_bytes_max: 4 << 20,
            batch_bytes_max: 256 << 10,
            streams_per_connection_max: 1024,
            bytes: budget::BYTES,
        }
    }
}

/// What all verbs share. The log takes its seat once the node belongs to a cluster.
#[derive(Debug)]
pub struct Shared<L> {
    seat: Arc<OnceLock<L>>,
    policy: Policy,
    limits: Limits,
    drain: Drain,
}

impl<L> Shared<L> {
    fn log(&self) -> Result<&L, Status> {
        self.seat.get().ok_or_else(status::starting)
    }
}

/// There is one log.
fn check_log(name: &str) -> Result<(), Status> {
    if name.is_empty() || name == "default" {
        return Ok(());
    }
    Err(status::no_such_log(name))
}
