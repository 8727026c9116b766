//! What a node sees of its cluster: who leads, who belongs to it, whether the engine still runs.

use std::sync::Arc;

use openraft::ServerState;
use openraft::metrics::{RaftMetrics, RaftServerMetrics};
use openraft::rt::watch::WatchReceiver;
use tokio::sync::watch;

use super::Raft;
use super::types::{Member, TypeConfig};

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    /// Its id, never used again.
    pub id: u64,
    /// Its name and address.
    pub member: Member,
    /// Whether it votes; a learner does not.
    pub voter: bool,
}

/// The cluster as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// The term.
    pub term: u64,
    /// The leader, if one is known.
    pub leader: Option<u64>,
    /// Whether this node leads and a quorum has confirmed it.
    pub writable: bool,
    /// The members, by id.
    pub members: Arc<Vec<MemberView>>,
    /// Why the engine stopped, if it did. The process must be started again.
    pub stopped: Option<String>,
}

impl View {
    /// A member by id.
    pub fn member(&self, id: u64) -> Option<&MemberView> {
        self.members.iter().find(|member| member.id == id)
    }

    /// A member by name.
    pub fn named(&self, name: &str) -> Option<&MemberView> {
        self.members.iter().find(|view| view.member.name == name)
    }

    /// The leader, if it is a known member.
    pub fn leader_member(&self) -> Option<&MemberView> {
        self.member(self.leader?)
    }
}

/// Follows the engine's metrics until it stops.
pub async fn follow(raft: Raft, views: watch::Sender<View>) {
    let mut server = raft.server_metrics();
    let mut all = raft.metrics();
    loop {
        let view = see(&server.borrow_watched(), &all.borrow_watched());
        let waits_for_quorum = view.leader == Some(*raft.node_id()) && !view.writable;
        views.send_if_modified(|seen| {
            let changed = *seen != view;
            *seen = view;
            changed
        });
        let changed = if waits_for_quorum {
            all.changed().await
        } else {
            server.changed().await
        };
        if changed.is_err() {
            let reason = match &raft.metrics().borrow_watched().running_state {
                Ok(()) => "it was shut down".to_owned(),
                Err(fatal) => fatal.to_string(),
            };
            views.send_modify(|view| {
                view.stopped = Some(reason);
                view.leader = None;
                view.writable = false;
            });
            return;
        }
    }
}

fn see(server: &RaftServerMetrics<TypeConfig>, all: &RaftMetrics<TypeConfig>) -> View {
    let membership = server.membership_config.membership();
    let voters: Vec<u64> = membership.voter_ids().collect();
    let member = |(id, member): (&u64, &Member)| MemberView {
        id: *id,
        member: member.clone(),
        voter: voters.contains(id),
    };
    let stopped = all.running_state.as_ref().err();
    View {
        term: server.vote.leader_id.term,
        leader: server.current_leader,
        writable: server.state == ServerState::Leader && all.last_quorum_acked.is_some(),
        members: Arc::new(membership.nodes().map(member).collect()),
        stopped: stopped.map(ToString::to_string),
    }
}
