//! The replicated log: one log, the same on every node.
//!
//! Each room has one purpose; below they stand from the bottom up. Only this folder names the consensus
//! engine, so that it can be replaced in one place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::Instant;

use crate::disk::DirLock;
use crate::env::Random;
use crate::log::{self, Log};
use crate::net::stream_layer::StreamLayer;

mod engine;
mod entry;
mod error;
mod home;
mod members;
mod peer;
mod read;
mod snapshot;
mod state;
mod upkeep;
mod view;
mod write;

mod callers;
pub mod offline;
mod service;
mod staging;
mod start;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

#[cfg(test)]
mod tests;

pub use entry::command::{ClaimEpoch, CommitCursor, Retention};
pub use entry::outcome::{OffsetRange, Ranges, Receipt, Refusal, StateRefusal};
pub use entry::owner;
pub use entry::types::{Member, WireError};
pub use error::{
    DiskFull, Error, ExecuteError, FetchError, MembershipError, ProposeError, ReadError,
    StableError,
};
pub use home::directory::{Directory, Identity};
pub use members::joining::{JoinError, cluster_of, join};
pub use read::Freshness;
pub use service::{Seat, service};
pub use state::admissions::ALLOWED_MAX;
pub use state::applied::Applied;
pub use state::cursors::{CURSORS_MAX, Cursor};
pub use state::fences::{Epoch, FENCES_MAX};
pub use state::sessions::{OF_SUBJECT_MAX, SESSIONS_MAX, SessionInfo};
pub use view::clocks::ClockReport;
pub use view::{MemberView, View};
pub use write::admit::TOKEN_LIFE_MAX;
pub use write::execute::{Claim, SESSION_IDLE_MS_MAX};
pub use write::lines::Caller;
pub use write::proposals::{Answer, LEADER_WAIT};

use engine::Raft;
pub use engine::Timing;
use engine::log_store::{Failure, Promised};
use engine::state_machine::{Checkpointer, StateMachine};
use home::stable_store::StableStore;
use members::hearing::Hearing;
use members::starts;
use peer::sender::Sender;
use peer::transport::{CallingNode, Transport};
use read::ReadBarrier;
use read::confirm::Confirmer;
use snapshot::Snapshots;
use state::applied::AppliedState;
use view::clocks::Clocks;
use view::passed::Passed;
use view::space::{self, Space};
use write::proposer::{self, Proposer};
use write::stamps::Stamps;
use write::{execute, lease};

/// A handle to the replicated log of this node; clones share it.
#[derive(Clone)]
pub struct ReplicatedLog(Arc<Inner>);

struct Inner {
    identity: Identity,
    addr: String,
    raft: Raft,
    log: Log,
    heard: Arc<engine::follow::Heard>,
    hearing: Hearing,
    /// Who may join the cluster that this node began.
    founding: Vec<String>,
    random: Random,
    /// The number that was drawn at this start.
    start: u64,
    fsm: Arc<AppliedState>,
    snapshots: Snapshots,
    stable: StableStore,
    space: Space,
    failure: Failure,
    /// Where the log begins, as it was made durable.
    floor: Arc<parking_lot::Mutex<Option<crate::proto::raft_v1::Floor>>>,
    staging: Arc<Mutex<()>>,
    checkpointer: Checkpointer,
    views: watch::Receiver<View>,
    transport: Transport,
    proposer: Proposer,
    heartbeat: Duration,
    clocks: Clocks,
    stamps: Stamps,
    promised: Promised,
    confirmer: Confirmer,
    passed: parking_lot::Mutex<Passed>,
    barrier: ReadBarrier,
    /// Held while the membership changes.
    changes: Mutex<()>,
    _lock: DirLock,
}

impl ReplicatedLog {
    /// Starts the node that a directory holds, on the present runtime; those who append are on another. The
    /// directory must have an identity.
    pub async fn start(
        directory: Directory,
        layer: StreamLayer,
        addr: &str,
        timing: &Timing,
        log_config: log::Config,
        disk_reserve_bytes: u64,
        callers_on: &Handle,
    ) -> Result<Self, Error> {
        let identity = start::identity_of(&directory)?;
        let log_config = space::leave_room(log_config, disk_reserve_bytes);
        let (bytes_max, inline) = (log_config.segment_bytes_max, log_config.inline_io);
        let machine = StateMachine::open_in(&directory, log_config)?;
        let log = machine.log().clone();
        let fsm = machine.state();
        let checkpointer = machine.checkpointer();
        let snapshots = machine.snapshots.clone();
        let store = start::store(&directory, &log, inline)?;
        let (failure, promised) = (store.failure(), store.promised());
        let (disk, path) = (directory.disk.clone(), directory.path.clone());
        let space = Space::start(disk, path, disk_reserve_bytes, log.clone());
        let (me, floor, start) = (identity.node_id, machine.floor.clone(), directory.start);
        let clocks = Clocks::new(timing.clock.clone(), me, timing.clock_bound_ms);
        let hearing = Hearing::new(directory.introduced);
        let node = CallingNode::new(&log, &floor, &space, &clocks, hearing.successor());
        let transport = Transport::new(layer, Sender::new(&identity, addr, start)).with_node(node);
        starts::check_alone(&transport, &identity, start, addr, &directory.peers, &fsm).await?;
        let raft = engine::start(timing, &identity, addr, &transport, (store, machine)).await?;
        let heard = Arc::new(engine::follow::Heard::never());
        let views = start::views(&raft, &heard, &transport);
        let stamps = Stamps::new(log.clone(), fsm.clone(), clocks.clone(), views.clone());
        let group_bytes_max = bytes_max as usize / 4;
        let lease = lease::Lease::new(&raft, timing);
        let proposals = proposer::Leader::new(&transport, &space, &stamps, &log, lease);
        let confirmer = Confirmer::start(raft.clone(), promised.clone(), transport.clone());
        let barrier = start::barrier(me, &confirmer, &views, &fsm, &transport);
        let inner = Inner {
            addr: addr.to_owned(),
            proposer: Proposer::start(proposals, &raft, &views, group_bytes_max, callers_on),
            heartbeat: Duration::from_millis(timing.heartbeat_ms),
            clocks,
            stamps,
            promised,
            confirmer,
            passed: parking_lot::Mutex::new(Passed::new(execute::SESSION_IDLE_MAX)),
            barrier,
            identity,
            raft,
            log,
            heard,
            hearing,
            founding: directory.founding,
            random: directory.random,
            start,
            fsm,
            snapshots,
            stable: directory.stable,
            floor,
            space,
            failure,
            staging: Arc::default(),
            checkpointer,
            views,
            transport,
            changes: Mutex::new(()),
            _lock: directory.lock,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// The log, to read applied records from.
    pub fn log(&self) -> &Log {
        &self.0.log
    }

    /// How much of the log is kept.
    pub fn retention(&self) -> Retention {
        self.0.fsm.read(|fsm| fsm.retention.clone())
    }

    /// How far this node has applied, and a wait for more.
    pub fn watch_applied(&self) -> watch::Receiver<Applied> {
        self.0.fsm.watch()
    }

    /// What this node knows of its clock and of its peers'.
    pub fn clock_report(&self) -> ClockReport {
        self.0.clocks.report()
    }

    /// The last time that a leader gave to an applied entry, in milliseconds since 1970.
    pub fn log_time_ms(&self) -> u64 {
        self.0.fsm.read(|fsm| fsm.timestamp_ms)
    }

    /// The cluster as this node sees it.
    pub fn view(&self) -> View {
        self.0.views.borrow().clone()
    }

    /// The same, and a wait for it to change.
    pub fn watch_view(&self) -> watch::Receiver<View> {
        self.0.views.clone()
    }

    /// Queues a batch of records, as `log::record` draws it; the answer comes once it is synced on
    /// a majority and applied here or on the leader (I1). Waits while too much is pending.
    pub async fn propose(&self, batch: Bytes) -> Result<Answer, ProposeError> {
        self.propose_for(Caller::next(), batch, Instant::now())
            .await
    }

    /// The same for a caller whose batches keep their order, and for one that has waited for a leader
    /// since then already.
    pub async fn propose_for(
        &self,
        caller: Caller,
        batch: Bytes,
        since: Instant,
    ) -> Result<Answer, ProposeError> {
        let proposer = &self.0.proposer;
        proposer.propose(batch, false, caller, since).await
    }

    /// Raft's indexes: the last entry, the last committed, the last applied.
    pub fn indexes(&self) -> [Option<u64>; 3] {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let committed = metrics.cluster_committed.max(metrics.last_applied);
        [
            metrics.last_log_index,
            committed.map(|id| id.index),
            metrics.last_applied.map(|id| id.index),
        ]
    }

    /// What the leader knows of each node's log: the last index that it holds. Empty on others.
    pub fn matched(&self) -> BTreeMap<u64, Option<u64>> {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.iter().flatten();
        matched
            .map(|(id, matched)| (*id, matched.map(|id| id.index)))
            .collect()
    }

    /// Why the disk ended the node's writing, if it did. The process must be started again.
    pub fn disk_failure(&self) -> Option<Error> {
        self.0.failure.get().cloned().map(Error::Disk)
    }

    fn raft(&self) -> &Raft {
        &self.0.raft
    }

    /// The room on the disk.
    fn space(&self) -> &Space {
        &self.0.space
    }

    /// The time of day by this node's clock, in milliseconds since 1970.
    fn clock_ms(&self) -> u64 {
        self.0.clocks.now_ms()
    }

    /// A leader called.
    fn heard_leader(&self) {
        self.0.heard.now();
    }

    fn proposer(&self) -> &Proposer {
        &self.0.proposer
    }

    fn transport(&self) -> &Transport {
        &self.0.transport
    }

    fn snapshots(&self) -> &Snapshots {
        &self.0.snapshots
    }

    async fn staging(&self) -> OwnedMutexGuard<()> {
        self.0.staging.clone().lock_owned().await
    }
}
