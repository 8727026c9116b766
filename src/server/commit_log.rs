//! What the verbs need of a log, so that they run over a bare one in tests as over a replicated one.

use std::future::Future;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::log::{Log, LogId, Offset};
use crate::raft::{
    Answer, Applied, Caller, CreateLog, Demands, ExecuteError, Origin, ProposeError, ReadError,
    StateRefusal, View,
};

/// What the service needs of a log: a handle, whose clones share it.
pub trait CommitLog: Clone + Unpin + Send + Sync + 'static {
    /// The log of this name, as far as this node has applied; the default one without a name.
    fn named(&self, name: &str) -> Option<Self>;

    /// Makes a log, or finds the one that has the name by then, however it is set up.
    fn make(&self, create: CreateLog) -> impl Future<Output = Result<Self, ExecuteError>> + Send;

    /// Which log it is.
    fn id(&self) -> LogId;

    /// What it asks of the records that it takes, as far as this node has applied.
    fn demands(&self) -> Demands;

    /// The same log for a call whose caller waits no longer than until a time, if one is given.
    fn until(&self, deadline: Option<Instant>) -> Self;

    /// The same log for a call that this caller made: what it changes is told in the log of changes.
    fn asked_by(&self, origin: &Origin) -> Self;

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

    /// The logs on this node's disk, to read from.
    fn log(&self) -> &Log;

    /// Whether a read from this offset need wait no longer: there is a record, or no log any more.
    fn is_past(&self, from: Offset) -> bool {
        let ends = self.log().ends(self.id());
        ends.is_none_or(|ends| ends.next > from)
    }

    /// How far records can be read, and a wait for more.
    fn watch_applied(&self) -> watch::Receiver<Applied>;

    /// The cluster as this node sees it.
    fn view(&self) -> View;
}

impl CommitLog for crate::raft::ReplicatedLog {
    fn named(&self, name: &str) -> Option<Self> {
        Self::named(self, name)
    }

    async fn make(&self, create: CreateLog) -> Result<Self, ExecuteError> {
        match self.create_log(create).await {
            Ok(made) => Ok(self.of(made.log)),
            Err(ExecuteError::Refused(StateRefusal::LogExists { log })) => Ok(self.of(log)),
            Err(error) => Err(error),
        }
    }

    fn id(&self) -> LogId {
        Self::id(self)
    }

    fn demands(&self) -> Demands {
        Self::demands(self)
    }

    fn until(&self, deadline: Option<Instant>) -> Self {
        Self::until(self, deadline)
    }

    fn asked_by(&self, origin: &Origin) -> Self {
        Self::asked_by(self, origin)
    }

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
