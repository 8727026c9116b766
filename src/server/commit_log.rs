//! What the verbs need of a log, so that they run over a bare one in tests as over a replicated one.

use std::future::Future;

use bytes::Bytes;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::log::record::Stored;
use crate::log::{self, Offset};
use crate::raft::{Answer, Applied, Caller, ProposeError, ReadError, View};
use crate::tasks;

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
pub async fn read_log(
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
