//! Turns the engine's metrics into the view of the cluster that the rest of the node reads.

use std::sync::Arc;
use std::time::Duration;

use openraft::metrics::{RaftMetrics, RaftServerMetrics, SerdeInstant};
use openraft::rt::watch::WatchReceiver;
use openraft::{Instant as _, ServerState, TokioInstant};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::raft::entry::types::{Member, TypeConfig};
use crate::raft::view::addresses::Addresses;
use crate::raft::view::counts::Counts;
use crate::raft::view::{MemberView, View};

use super::Raft;
use super::news::News;

/// Follows the engine's metrics until it stops.
pub async fn follow(
    raft: Raft,
    heard: Arc<Heard>,
    addresses: Addresses,
    (views, counts): (watch::Sender<View>, Arc<Counts>),
    mut news: News,
) {
    let mut server = raft.server_metrics();
    let mut all = raft.metrics();
    let me = *raft.node_id();
    let mut led_by = None;
    loop {
        let view = see(&server.borrow_watched(), &all.borrow_watched(), &heard);
        if view.leader.is_some() && view.leader != led_by {
            counts.leader_changes.one_more();
            led_by = view.leader;
        }
        let is_candidate = server.borrow_watched().state == ServerState::Candidate;
        news.look(&view, is_candidate, heard.ago());
        let leads = view.leader == Some(me);
        // Before the view is shown: whoever acts on it can then reach the members that it names.
        addresses.follow(&view.members);
        let waits_for_quorum = leads && !view.writable;
        views.send_if_modified(|seen| {
            let changed = *seen != view;
            *seen = view;
            changed
        });
        let changed = async {
            if waits_for_quorum {
                all.changed().await
            } else {
                server.changed().await
            }
        };
        // The engine reports no change when a quorum or a leader falls silent, so this looks again by itself.
        let changed = tokio::time::timeout(LOOK_AGAIN, changed).await;
        if matches!(changed, Ok(Err(_))) {
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

fn see(
    server: &RaftServerMetrics<TypeConfig>,
    all: &RaftMetrics<TypeConfig>,
    heard: &Heard,
) -> View {
    let membership = server.membership_config.membership();
    let configs = membership.get_joint_config();
    let member = |(id, member): (&u64, &Member)| MemberView {
        id: *id,
        member: member.clone(),
        voter: configs.iter().all(|voters| voters.contains(id)),
    };
    let stopped = all.running_state.as_ref().err();
    let fresh = |acked: &SerdeInstant<TokioInstant>| acked.elapsed() < QUORUM_SILENCE_MAX;
    let confirmed = all.last_quorum_acked.as_ref();
    let alone = membership.voter_ids().count() == 1;
    let confirmed = confirmed.is_some_and(|acked| alone || fresh(acked));
    View {
        term: server.vote.leader_id.term,
        leader: server
            .current_leader
            .filter(|leader| *leader == server.id || heard.lately()),
        writable: server.state == ServerState::Leader && confirmed,
        members: Arc::new(membership.nodes().map(member).collect()),
        joint: configs.len() > 1,
        stopped: stopped.map(ToString::to_string),
    }
}

/// When this node last heard a leader. The engine keeps the name of one that fell silent for as
/// long as no other is elected.
#[derive(Debug)]
pub struct Heard(Mutex<Option<Instant>>);

impl Heard {
    pub fn never() -> Self {
        Self(Mutex::new(None))
    }

    /// A leader called.
    pub fn now(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// How long ago that was; `None` if it never was.
    pub fn ago(&self) -> Option<Duration> {
        self.0.lock().map(|heard| heard.elapsed())
    }

    fn lately(&self) -> bool {
        self.ago().is_some_and(|ago| ago < LEADER_SILENCE_MAX)
    }
}

/// A leader that no quorum has answered for this long does not call itself one.
const QUORUM_SILENCE_MAX: Duration = Duration::from_secs(1);

/// A leader that a follower has not heard for this long is not known any more.
const LEADER_SILENCE_MAX: Duration = Duration::from_secs(1);

/// How often a node looks whether the others are still there.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
