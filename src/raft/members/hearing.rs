//! Decides whose calls a node accepts: those of members, and of nodes that a member introduced.
//!
//! A node that lags does not know the newest members. It may need their entries, and they may need its vote. So
//! the leader introduces the members to a node that joins, and a node that is called by a stranger asks the
//! members that it knows about the caller. A stranger's own word counts for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use openraft::raft::AppendEntriesRequest;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tonic::Status;

use crate::log::Index;
use crate::proto::raft_v1 as pb;
use crate::raft::entry::types::{LogId, Member, TypeConfig, Vote, member_from_pb, member_to_pb};
use crate::raft::node::Node;
use crate::raft::peer::calling::Successor;
use crate::raft::peer::checks::{self, Pair, Unsound};

/// How many nodes that are no members yet are remembered as introduced.
const INTRODUCED_MAX: usize = 64;
/// How long a member may take to answer who the members are.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two rounds of questions, and between two lines in the log about what was refused.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a voter waits to hear that a candidate is the leader's successor. The leader tells its successor and
/// the other voters at the same time, and the successor's call may come first.
const TRANSFER_NOTICE: Duration = Duration::from_millis(100);

/// The nodes whose calls are accepted besides the members that this node knows.
pub struct Hearing {
    node: Arc<Node>,
    introduced: Mutex<BTreeMap<u64, Member>>,
    /// Where to ask for members beside those that are known: a node that has just joined knows none.
    peers: Mutex<Vec<String>>,
    wanted: Notify,
    told: Mutex<Option<Instant>>,
    successor: Arc<watch::Sender<Successor>>,
}

/// What a node knows of a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is a member of this name, or is about to become one or to leave.
    Known(String),
    /// It was removed, or never existed.
    Gone,
    /// It is not known here. This node may lack the entry that made it a member.
    Unknown,
}

impl Hearing {
    /// Begins with the nodes that were introduced when this node joined. `successor` carries the successor that a
    /// leader names.
    pub fn new(
        node: Arc<Node>,
        introduced: Vec<pb::Member>,
        successor: Arc<watch::Sender<Successor>>,
    ) -> Self {
        let hearing = Self {
            node,
            introduced: Mutex::default(),
            peers: Mutex::default(),
            wanted: Notify::new(),
            told: Mutex::new(None),
            successor,
        };
        hearing.introduce(introduced);
        hearing
    }

    /// Remembers the members that a member has named.
    pub fn introduce(&self, members: Vec<pb::Member>) {
        let mut introduced = self.introduced.lock();
        for member in members {
            if introduced.len() >= INTRODUCED_MAX && !introduced.contains_key(&member.id) {
                // Forget the oldest one: by now it is most likely a member, or gone.
                introduced.pop_first();
            }
            introduced.insert(member.id, member_from_pb(member).1);
        }
    }

    fn known(&self) -> BTreeMap<u64, Member> {
        self.introduced.lock().clone()
    }

    /// What this node knows of a caller.
    pub(crate) fn standing(&self, id: u64) -> Standing {
        if let Some(known) = self.node.views.borrow().member(id) {
            return Standing::Known(known.member.name.clone());
        }
        // An id is the raft index of the entry that gave it.
        let (name, applied) = self.node.state.read(|fsm| {
            let node = fsm.registrations.get(id);
            let applied = fsm.applied.map(|applied| applied.index);
            (node.map(|node| node.name.clone()), applied)
        });
        match name {
            Some(name) => Standing::Known(name),
            None if applied.is_some_and(|applied| id <= applied) => Standing::Gone,
            None => match self.introduced.lock().get(&id) {
                Some(member) => Standing::Known(member.name.clone()),
                None => Standing::Unknown,
            },
        }
    }

    /// The address of a caller that is accepted: from the membership, or from the member that introduced it. An
    /// address that the caller itself gives is never used.
    pub(crate) fn addr_of(&self, id: u64) -> Option<String> {
        let known = self.node.transport.addresses().of(id);
        known.or_else(|| {
            let introduced = self.introduced.lock();
            introduced.get(&id).map(|member| member.addr.clone())
        })
    }

    /// Has the members asked about strangers, since one has called.
    pub(crate) fn want_introduction(&self) {
        self.wanted.notify_one();
    }

    /// The members, as they are told to a node that lags or joins.
    pub(crate) fn introduction(&self) -> Vec<pb::Member> {
        let view = self.node.view();
        let members = view.members.iter();
        members
            .map(|known| member_to_pb(known.id, &known.member))
            .collect()
    }

    /// Names where to ask for members from now on.
    pub(crate) fn ask_also(&self, peers: &[String]) {
        *self.peers.lock() = peers.to_vec();
    }

    /// Asks the members that this node knows, and where it was told to, for the others, whenever a stranger calls.
    /// Never returns.
    pub async fn meet_strangers(&self) {
        loop {
            self.wanted.notified().await;
            let known = self.known().into_values();
            let members = self.node.view().members;
            let members = members.iter().map(|known| known.member.clone());
            let mut addrs: BTreeSet<_> = known.chain(members).map(|member| member.addr).collect();
            addrs.extend(self.peers.lock().iter().cloned());
            self.meet(addrs).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks the nodes at these addresses who the members are.
    pub(crate) async fn meet(&self, addrs: impl IntoIterator<Item = String>) {
        let others = addrs.into_iter().filter(|addr| *addr != self.node.addr);
        let ask = async |addr: String| {
            let mut client = self.node.transport.client(0, &addr);
            let call = client.identify(pb::IdentifyRequest {});
            match tokio::time::timeout(ASK_TIMEOUT, call).await {
                Ok(Ok(answer)) => self.introduce(answer.into_inner().members),
                Ok(Err(error)) => tracing::debug!(%error, %addr, "introduces nobody"),
                Err(_) => tracing::debug!(%addr, "introduces nobody in time"),
            }
        };
        join_all(others.map(ask)).await;
    }

    /// This node and a peer that calls it, for the checks of its message.
    pub(crate) fn pair(&self, peer: u64) -> Pair {
        Pair {
            me: self.node.id(),
            peer,
            term: self.node.views.borrow().term,
        }
    }

    /// The refusal of a message that is not sound. It is logged, at most once in [`PAUSE`].
    pub(crate) fn refuse(&self, peer: u64, error: &Unsound) -> Status {
        let mut told = self.told.lock();
        if told.is_none_or(|told| told.elapsed() >= PAUSE) {
            *told = Some(Instant::now());
            tracing::error!(%error, peer, "a node sends what no sound node sends: it is not heard");
        }
        Status::invalid_argument(format!("node {peer} is not heard: {error}"))
    }

    /// Checks a leader's request to append entries.
    pub(crate) async fn check_append(
        &self,
        peer: u64,
        request: &AppendEntriesRequest<TypeConfig>,
    ) -> Result<(), Status> {
        if let Standing::Gone | Standing::Unknown = self.standing(peer) {
            return Err(no_member(peer));
        }
        let checked = self.pair(peer).append(request);
        checked.map_err(|error| self.refuse(peer, &error))?;
        if checks::contradicts(&self.node.log, request).is_none() {
            return Ok(());
        }
        let Some(committed) = self.committed_in(&request.vote).await? else {
            return Ok(());
        };
        // A new leader may replace entries of an old one, but no committed ones. A request before this one may just
        // have replaced them.
        match checks::contradicts(&self.node.log, request) {
            Some(index) if index <= committed.index => {
                let committed = committed.index;
                Err(self.refuse(peer, &Unsound::Contradiction { index, committed }))
            }
            _ => Ok(()),
        }
    }

    /// Checks the last entry of a snapshot: where it stands among committed ones, it must be one of them.
    pub(crate) async fn check_snapshot(
        &self,
        peer: u64,
        vote: &Vote,
        last: &LogId,
    ) -> Result<(), Status> {
        let Some(committed) = self.committed_in(vote).await? else {
            return Ok(());
        };
        let held = self.node.log.term(Index(last.index));
        let differs = held.is_ok_and(|held| held.0 != last.leader_id.term);
        // The terms of committed entries never go back.
        if last.index <= committed.index && (differs || *last > committed) {
            let (index, committed) = (last.index, committed.index);
            return Err(self.refuse(peer, &Unsound::Contradiction { index, committed }));
        }
        Ok(())
    }

    /// What is committed here, for the check of a leader's message; `None` if nothing is, or if the engine refuses
    /// the message itself, since it is of an earlier term: that leader was deposed, and is at no fault.
    async fn committed_in(&self, vote: &Vote) -> Result<Option<LogId>, Status> {
        let raft = &self.node.raft;
        let seen = raft.with_raft_state(|state| {
            let (term, committed) = (state.vote_ref().leader_id.term, state.local_committed());
            (term, committed.copied())
        });
        let seen = seen.await;
        let (term, committed) = seen.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(committed.filter(|_| vote.leader_id.term >= term))
    }

    /// Remembers the successor that a leader has named.
    pub(crate) fn note_successor(&self, term: u64, to: u64) {
        self.successor.send_replace(Some((term, to)));
    }

    /// Whether the leader of the term before has named this candidate its successor. Such a candidate gets its vote
    /// although the leader is alive.
    pub(crate) async fn is_successor(&self, candidate: u64, term: u64) -> bool {
        let mut successor = self.successor.subscribe();
        let named = successor.wait_for(|named| *named == Some((term.saturating_sub(1), candidate)));
        tokio::time::timeout(TRANSFER_NOTICE, named).await.is_ok()
    }
}

pub fn no_member(caller: u64) -> Status {
    let what = format!(
        "node {caller}, which calls, is no member that this node knows: if it was removed, stop it \
         and give it an empty data directory; if it just joined, try again"
    );
    Status::permission_denied(what)
}
