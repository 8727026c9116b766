//! The replicated log: one log, the same on every node.
//!
//! Each folder is a room for one purpose: `entry`, `error`, `state`, `home`, `view`, `snapshot`, `peer`,
//! `engine`, `node`, `read`, `write`, `members`, `upkeep`. A room names only rooms before it in this list.
//! The files here put them together: the handle is in this one, `calls` says which part does what it is
//! asked for, `start` builds the parts, `service` answers peers. Only this folder names the consensus engine,
//! so that it can be replaced in one place.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::disk::DirLock;
use crate::log::{Log, LogId, Offset};
use crate::retry::CALL_WAIT;
use crate::tasks;

mod engine;
mod entry;
mod error;
mod home;
mod members;
mod node;
mod peer;
mod read;
mod snapshot;
mod state;
mod upkeep;
mod view;
mod write;

mod callers;
mod calls;
pub mod offline;
mod requests;
mod service;
mod staging;
mod start;
mod telling;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

#[cfg(test)]
mod tests;

pub use engine::Timing;
pub use entry::audited::{Note, Origin};
pub use entry::catalog::{Compaction, CreateLog, DeleteLog, Demands, LogConfig, UpdateLog};
pub use entry::command::{ClaimEpoch, CommitCursor, Retention};
pub use entry::outcome::{OffsetRange, Ranges, Receipt, Refusal, Refused, StateRefusal};
pub use entry::owner;
pub use entry::types::Member;
pub use entry::wire_error::WireError;
pub use error::{
    DiskFull, Error, ExecuteError, FetchError, MembershipError, ProposeError, ReadError,
    StableError,
};
pub use home::directory::{Directory, Identity};
pub use members::joining::{JoinError, cluster_of, join};
pub use peer::sender::WIRE;
pub use read::Freshness;
pub use service::{Refusals, Seat, service};
pub use start::Setup;
pub use state::admissions::ALLOWED_MAX;
pub use state::applied::Applied;
pub use state::cursors::{CURSORS_MAX, Cursor};
pub use state::fences::{Epoch, FENCES_MAX};
pub use state::history::LogChange;
pub use state::logs::KnownLog;
pub use state::sessions::{OF_SUBJECT_MAX, SESSIONS_MAX, SessionInfo};
pub use upkeep::progress::Progress;
pub use view::clocks::ClockReport;
use view::clocks::millis;
pub use view::{MemberView, View};
pub use write::admit::TOKEN_LIFE_MAX;
pub use write::commands::{Claim, SESSION_IDLE_MS_MAX};
pub use write::proposals::{Answer, Caller};

use engine::Raft;
use members::Members;
use members::hearing::Hearing;
use node::Node;
use read::ReadBarrier;
use staging::Staging;
use state::fsm::Fsm;
use upkeep::Upkeep;
use write::commands::{Call, Commands};
use write::proposals::Came;
use write::proposer::Proposer;

/// A handle to the replicated log of this node; clones share it. What it is asked for waits for a leader as long
/// as a call may, or until the time that it was given ([`ReplicatedLog::until`]). It is a handle to one of the
/// cluster's logs, the default one at first ([`ReplicatedLog::of`]).
#[derive(Clone)]
pub struct ReplicatedLog(
    Arc<ReplicaParts>,
    Option<Instant>,
    LogId,
    Option<Arc<Origin>>,
);

/// What the node consists of.
struct ReplicaParts {
    node: Arc<Node>,
    proposer: Proposer,
    commands: Arc<Commands>,
    reads: ReadBarrier,
    members: Members,
    hearing: Arc<Hearing>,
    upkeep: Upkeep,
    staging: Staging,
    _lock: DirLock,
}

impl ReplicatedLog {
    /// The same log for one call, whose caller waits no longer than this.
    pub fn until(&self, deadline: Option<Instant>) -> Self {
        Self(self.0.clone(), deadline, self.2, self.3.clone())
    }

    /// The same log for one call. What it changes is told in the log of changes, with who asked for it.
    pub fn asked_by(&self, origin: &Origin) -> Self {
        let origin = Origin {
            node: self.identity().name.clone(),
            ..origin.clone()
        };
        Self(self.0.clone(), self.1, self.2, Some(Arc::new(origin)))
    }

    /// The log with this id, of the same cluster.
    pub fn of(&self, id: LogId) -> Self {
        Self(self.0.clone(), self.1, id, self.3.clone())
    }

    /// The log of this name, as far as this node has applied; the default one without a name.
    pub fn named(&self, name: &str) -> Option<Self> {
        if name.is_empty() {
            return Some(self.of(LogId::DEFAULT));
        }
        let id = |fsm: &Fsm| fsm.logs.named(name).map(|(id, _)| id);
        self.0.node.state.read(id).map(|id| self.of(id))
    }

    /// The names of logs, `None` for one that is gone; none at all if the state does not know one of them yet.
    pub fn names_of(&self, ids: &[LogId]) -> Option<Vec<Option<String>>> {
        self.0.node.state.read(|fsm| {
            let name = |id: &LogId| fsm.logs.get(*id).map(|log| log.name.clone());
            let all_given = ids.iter().all(|id| fsm.logs.was_given(*id));
            all_given.then(|| ids.iter().map(name).collect())
        })
    }

    /// Which log it is.
    pub fn id(&self) -> LogId {
        self.2
    }

    /// The first readable offset, and the one that the next record gets, as far as this node has applied.
    pub fn offsets(&self) -> (Offset, Offset) {
        self.log().offsets(self.2)
    }

    /// Until when a call that comes now may wait.
    fn deadline(&self) -> Instant {
        let usual = Instant::now() + CALL_WAIT;
        self.1.map_or(usual, |until| until.min(usual))
    }

    /// Who asked for what is done through this handle; nobody if nothing was said.
    pub fn origin(&self) -> Origin {
        self.3.as_deref().cloned().unwrap_or_default()
    }

    /// How long a command that comes now may wait, and who asked for it.
    fn call(&self) -> Call {
        Call {
            until: self.deadline(),
            origin: self.3.clone(),
        }
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.0.node.identity
    }

    /// The log, to read applied records from.
    pub fn log(&self) -> &Log {
        &self.0.node.log
    }

    /// Whether a read from this offset need wait no longer: there is a record, or no log any more.
    pub fn is_past(&self, from: Offset) -> bool {
        let ends = self.log().ends(self.2);
        ends.is_none_or(|ends| ends.next > from)
    }

    /// Whether it is there, as far as this node has applied.
    pub fn is_there(&self) -> bool {
        self.log().ends(self.2).is_some()
    }

    /// What it asks of the records that it takes, as far as this node has applied.
    pub fn demands(&self) -> Demands {
        let known = |fsm: &Fsm| fsm.logs.get(self.2).map(|log| log.config.demands);
        self.0.node.state.read(known).unwrap_or_default()
    }

    /// How much of it is kept.
    pub fn retention(&self) -> Retention {
        let known = |fsm: &Fsm| {
            let log = fsm.logs.get(self.2);
            log.map(|log| log.config.retention.clone())
        };
        self.0.node.state.read(known).unwrap_or_default()
    }

    /// How far this node has applied, and a wait for more.
    pub fn watch_applied(&self) -> watch::Receiver<Applied> {
        self.0.node.state.watch()
    }

    /// Wakes when the catalogue of logs changed.
    pub fn watch_catalogue(&self) -> watch::Receiver<u64> {
        self.0.node.state.watch_catalogue()
    }

    /// What this node knows of its clock and of its peers'.
    pub fn clock_report(&self) -> ClockReport {
        self.0.node.clocks.report()
    }

    /// How long ago this node heard of each other one last, in milliseconds: a leader hears all, the others hear
    /// their leader.
    pub fn heard_ms(&self) -> BTreeMap<u64, u64> {
        let node = &self.0.node;
        let (view, me) = (node.view(), node.id());
        match view.leader {
            Some(leader) if leader == me => node.clocks.report().heard_ms,
            Some(leader) => {
                let ago = node.heard.ago().map(|ago| (leader, millis(ago)));
                ago.into_iter().collect()
            }
            None => BTreeMap::new(),
        }
    }

    /// What is free on this node's disk, and what must stay free for records to be taken, in bytes.
    pub fn room(&self) -> (u64, u64) {
        self.0.node.space.room()
    }

    /// Where this node says that others find it, `host:port`.
    pub fn addr(&self) -> &str {
        &self.0.node.addr
    }

    /// The last time that a leader gave to an applied entry, in milliseconds since 1970.
    pub fn log_time_ms(&self) -> u64 {
        self.0.node.state.read(|fsm| fsm.timestamp_ms)
    }

    /// The cluster as this node sees it.
    pub fn view(&self) -> View {
        self.0.node.views.borrow().clone()
    }

    /// The cluster as this node sees it, and a wait for that to change.
    pub fn watch_view(&self) -> watch::Receiver<View> {
        self.0.node.views.clone()
    }

    /// Queues a batch of records, as `log::record` draws it; the answer comes once it is synced on
    /// a majority and applied here or on the leader (I1). Waits while too much is pending.
    pub async fn propose(&self, batch: Bytes) -> Result<Answer, ProposeError> {
        self.propose_for(Caller::next(), batch, Instant::now())
            .await
    }

    /// Queues a batch of `caller`, whose batches keep their order. The wait for a leader counts from `since`.
    pub async fn propose_for(
        &self,
        caller: Caller,
        batch: Bytes,
        since: Instant,
    ) -> Result<Answer, ProposeError> {
        let trace = self.3.as_ref().map(|origin| origin.trace.clone());
        let came = Came {
            caller,
            since,
            forwarded: false,
            trace: trace.unwrap_or_default(),
        };
        self.0.proposer.propose(batch, came).await
    }

    /// Why the disk ended the node's writing, if it did. The process must be started again.
    pub fn disk_failure(&self) -> Option<Error> {
        self.0.node.failure.get().cloned().map(Error::Disk)
    }

    /// Raft's indexes: the last entry, the last committed, the last applied.
    pub fn indexes(&self) -> [Option<u64>; 3] {
        self.0.node.indexes()
    }

    /// What the leader knows of each node's log: the last index that it holds. Empty on others.
    pub fn matched(&self) -> BTreeMap<u64, Option<u64>> {
        self.0.node.matched()
    }

    /// Stops at once; what a crash would lose is lost.
    pub async fn kill(&self) {
        // An engine that cannot even stop has stopped.
        let _ = self.0.node.raft.shutdown().await;
    }

    /// Stops, and makes the state durable, so that a restart has nothing to apply again.
    pub async fn shutdown(&self) {
        if let Err(error) = self.0.node.raft.shutdown().await {
            tracing::error!(%error, "the consensus engine did not stop cleanly");
        }
        let checkpointer = self.0.upkeep.checkpointer().clone();
        let log = self.0.node.log.clone();
        let saved = tasks::spawn_blocking("last checkpoint", move || {
            log.close();
            checkpointer.save()
        });
        match saved.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the last checkpoint failed"),
            Err(error) => tracing::error!(%error, "the last checkpoint failed"),
        }
    }

    fn raft(&self) -> &Raft {
        &self.0.node.raft
    }
}
