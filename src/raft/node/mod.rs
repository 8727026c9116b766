//! The core of a running node, which its other parts share: its identity, log, engine, and view of the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::log::Log;
use crate::raft::engine::Raft;
use crate::raft::engine::failure::Failure;
use crate::raft::engine::follow::Heard;
use crate::raft::engine::promised::Promised;
use crate::raft::home::directory::Identity;
use crate::raft::peer::transport::Transport;
use crate::raft::state::applied::AppliedState;
use crate::raft::view::View;
use crate::raft::view::clocks::Clocks;
use crate::raft::view::counts::Counts;
use crate::raft::view::drained::Drained;
use crate::raft::view::elapsed::ElapsedTimes;
use crate::raft::view::space::Space;
use crate::spans::Tracer;

mod reign;

/// A running node.
pub struct Node {
    pub identity: Identity,
    /// The address at which the other nodes reach it.
    pub addr: String,
    /// The number that was drawn at this start.
    pub start: u64,
    pub raft: Raft,
    pub log: Log,
    pub state: Arc<AppliedState>,
    pub views: watch::Receiver<View>,
    /// When a leader has called last.
    pub heard: Arc<Heard>,
    pub transport: Transport,
    /// Which nodes have room on their disks.
    pub space: Space,
    pub clocks: Clocks,
    /// Which nodes stay out of leadership.
    pub drained: Drained,
    /// How long ago the log reached the times that it has had.
    pub passed: Mutex<ElapsedTimes>,
    /// The term that the node has promised itself to.
    pub promised: Promised,
    /// The error that ended writing.
    pub failure: Failure,
    /// What its parts count.
    pub counts: Arc<Counts>,
    /// Makes the spans of calls that somebody traces.
    pub tracer: Tracer,
}

impl Node {
    /// The node's id.
    pub fn id(&self) -> u64 {
        self.identity.node_id
    }

    /// The cluster as this node sees it.
    pub fn view(&self) -> View {
        self.views.borrow().clone()
    }

    /// The leader's id and address, if another node leads.
    pub fn other_leader(&self) -> Option<(u64, String)> {
        let view = self.view();
        let leader = view.leader_member()?;
        let other = leader.id != self.id();
        other.then(|| (leader.id, leader.member.addr.clone()))
    }

    /// The indexes of the last entry, the last committed one and the last applied one.
    pub fn indexes(&self) -> [Option<u64>; 3] {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let committed = metrics.cluster_committed.max(metrics.last_applied);
        [
            metrics.last_log_index,
            committed.map(|id| id.index),
            metrics.last_applied.map(|id| id.index),
        ]
    }

    /// The last index that each node is known to hold, on the leader. Empty on other nodes.
    pub fn matched(&self) -> BTreeMap<u64, Option<u64>> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.iter().flatten();
        matched
            .map(|(id, matched)| (*id, matched.map(|id| id.index)))
            .collect()
    }
}
