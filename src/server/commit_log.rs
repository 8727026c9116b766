//! What the verbs need of a log, so that they run over a bare one in tests as over a replicated one.

use std::future::Future;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::log::Log;
use crate::raft::{Answer, Applied, Caller, ProposeError, ReadError, View};

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

    /// Returns once a read sees everything that was acknowledged before the call. Waits no longer than until a
    /// time, if one is given.
    fn read_barrier(
        &self,
        until: Option<Instant>,
    ) -> impl Future<Output = Result<(), ReadError>> + Send;

    /// The log on this node's disk, to read from.
    fn log(&self) -> &Log;

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

    async fn read_barrier(&self, until: Option<Instant>) -> Result<(), ReadError> {
        Self::read_barrier(&self.until(until)).await
    }

    fn log(&self) -> &Log {
        Self::log(self)
    }

    fn watch_applied(&self) -> watch::Receiver<Applied> {
        Self::watch_applied(self)
    }

    fn view(&self) -> View {
        Self::view(self)
    }
}
