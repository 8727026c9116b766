//! The gRPC edge: what clients may call, and the one map from errors to status codes.
//!
//! It owns the trait that it needs of a log, [`CommitLog`], so that its verbs run over a bare log
//! in tests as they run over a replicated one. Peers' calls are not served here.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tonic::{Request, Status};

use crate::log::record::Stored;
use crate::log::{self, Offset};
use crate::net::budget::{self, Accounts};
use crate::net::mux::PeerInfo;
use crate::raft::{Answer, Applied, Caller, ProposeError, ReadError, View};
use crate::tasks;

mod answers;
mod auth;
mod bulk;
mod calls;
mod cluster;
mod consume;
mod intake;
mod log_v1;
mod native;
mod produce;
mod reading;
mod reasons;
mod router;
mod status;

#[cfg(test)]
mod tests;

use answers::Unread;
use bulk::Bulk;
use reading::Reading;

pub use auth::{Policy, PolicyError};
pub use router::{Drain, HealthReporter, ServeError, router, serve, serve_peers};

/// What the service needs of a log.
pub trait CommitLog: Send + Sync + 'static {
    /// Queues a batch, as `log::record` draws it. The answer comes once it is synced on a majority
    /// and applied (I1). Batches that one caller queues one after another keep their order. What a
    /// batch may wait for a leader counts from `since`, when it came.
    fn propose(
        &self,
        caller: Caller,
        batch: Bytes,
        since: Instant,
    ) -> impl Future<Output = Result<Answer, ProposeError>> + Send;

    /// Returns once a read sees everything that was acknowledged before the call.
    fn read_barrier(&self) -> impl Future<Output = Result<(), ReadError>> + Send;

    /// What is kept from `offset` on, about `bytes_max` bytes of it: at least one batch. The disk is
    /// read in its turn.
    fn read_stored(
        &self,
        offset: Offset,
        bytes_max: usize,
        disk: &Semaphore,
    ) -> impl Future<Output = Result<Vec<Stored>, log::Error>> + Send;

    /// The first readable offset, and the one that the next record gets.
    fn offsets(&self) -> (Offset, Offset);

    /// How far records can be read, and a wait for more.
    fn watch_applied(&self) -> watch::Receiver<Applied>;

    /// The cluster as this node sees it.
    fn view(&self) -> View;
}

impl CommitLog for crate::raft::ReplicatedLog {
    async fn propose(
        &self,
        caller: Caller,
        batch: Bytes,
        since: Instant,
    ) -> Result<Answer, ProposeError> {
        self.propose_for(caller, batch, since).await
    }

    async fn read_barrier(&self) -> Result<(), ReadError> {
        Self::read_barrier(self).await
    }

    async fn read_stored(
        &self,
        offset: Offset,
        bytes_max: usize,
        disk: &Semaphore,
    ) -> Result<Vec<Stored>, log::Error> {
        read_log(self.log(), offset, bytes_max, disk).await
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
async fn read_log(
    log: &log::Log,
    offset: Offset,
    bytes_max: usize,
    disk: &Semaphore,
) -> Result<Vec<Stored>, log::Error> {
    if log.in_memory(offset) {
        return log.read_stored(offset, bytes_max);
    }
    let _turn = disk.acquire().await.map_err(|_| log::Error::Stopped)?;
    let log = log.clone();
    let read = move || log.read_stored(offset, bytes_max);
    let read = tasks::spawn_blocking("read of the log", read);
    read.await.unwrap_or(Err(log::Error::Stopped))
}

/// What the connection that a call came by may make the node hold.
fn accounts<T>(request: &Request<T>) -> Option<Accounts> {
    let peer = request.extensions().get::<PeerInfo>();
    peer.map(|peer| peer.accounts.clone())
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

/// gRPC's libraries take a message of so many bytes, unless they are told otherwise.
const USUAL_MESSAGE_BYTES_MAX: usize = 4 << 20;
/// A record may be so large, unless the settings say otherwise: one that was taken can be read by a
/// client that is not told otherwise, with what stands around it in the answer.
const RECORD_BYTES_MAX: usize = USUAL_MESSAGE_BYTES_MAX - 2 * RECORD_OVERHEAD;
/// Bytes of records in an answer that has more than one record, whatever they are compressed with.
const ANSWER_BYTES_MAX: usize = USUAL_MESSAGE_BYTES_MAX - RECORD_OVERHEAD;
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
            record_bytes_max: RECORD_BYTES_MAX,
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
    reading: Reading,
    unread: Unread,
    drain: Drain,
}

impl<L> Shared<L> {
    /// Long work is done on the blocking threads of `bulk`. Needs a tokio runtime.
    fn new(
        seat: Arc<OnceLock<L>>,
        policy: Policy,
        limits: Limits,
        drain: Drain,
        bulk: Handle,
    ) -> Self {
        Self {
            seat,
            policy,
            limits,
            reading: Reading::new(Bulk::new(bulk)),
            unread: Unread::watched(),
            drain,
        }
    }

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
