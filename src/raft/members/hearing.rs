//! Whom a node hears: members, and who a member introduced.
//!
//! A node that lags does not know its newest peers. It may need their entries, and they may need its vote. So
//! the leader introduces the members to a node that joins, and a node that is called by a stranger asks the
//! members that it knows. Nobody is heard on its own word.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use openraft::raft::AppendEntriesRequest;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tonic::Status;

use crate::proto::raft_v1 as pb;
use crate::raft::entry::types::{Member, TypeConfig, member_from_pb, member_to_pb};
use crate::raft::node::Node;
use crate::raft::peer::calling::Successor;
use crate::raft::peer::checks::{self, Pair, Unsound};

/// Strangers that are known by introduction.
const INTRODUCED_MAX: usize = 64;
/// How long one member may take to say whom it knows.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two rounds of questions, and between two lines in the log about what was refused.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a node that was called to take over waits to be known as such: the leader tells its
/// successor and the other voters at once, and the successor may be faster.
const TRANSFER_NOTICE: Duration = Duration::from_millis(100);

/// Whom a node hears besides the members that it knows.
pub struct Hearing {
    node: Arc<Node>,
    introduced: Mutex<BTreeMap<u64, Member>>,
    wanted: Notify,
    told: Mutex<Option<Instant>>,
    successor: Arc<watch::Sender<Successor>>,
}

/// What a node knows of a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is a member, or about to be or to cease being one; by this name.
    Known(String),
    /// It was removed, or there never was such a node.
    Gone,
    /// This node may lack the entry that made the caller a member.
    Unknown,
}

impl Hearing {
    /// Begins with those that were introduced when the node joined. A leader's successor is told through
    /// `successor`.
    pub fn new(
        node: Arc<Node>,
        introduced: Vec<pb::Member>,
        successor: Arc<watch::Sender<Successor>>,
    ) -> Self {
        let hearing = Self {
            node,
            introduced: Mutex::default(),
            wanted: Notify::new(),
            told: Mutex::new(None),
            successor,
        };
        hearing.introduce(introduced);
        hearing
    }

    /// A member says who the members are.
    pub fn introduce(&self, members: Vec<pb::Member>) {
        let mut introduced = self.introduced.lock();
        for member in members {
            if introduced.len() >= INTRODUCED_MAX && !introduced.contains_key(&member.id) {
                // The oldest stranger goes first: by now it is most likely a member, or gone.
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

    /// Where a caller that is heard is reached: as the members have it, or whoever introduced it. No message
    /// sends this node anywhere else.
    pub(crate) fn addr_of(&self, id: u64) -> Option<String> {
        let known = self.node.transport.addresses().of(id);
        known.or_else(|| {
            let introduced = self.introduced.lock();
            introduced.get(&id).map(|member| member.addr.clone())
        })
    }

    /// Somebody called whom this node does not know.
    pub(crate) fn want_introduction(&self) {
        self.wanted.notify_one();
    }

    /// The members, for one that lags or joins.
    pub(crate) fn introduction(&self) -> Vec<pb::Member> {
        let view = self.node.view();
        let members = view.members.iter();
        members
            .map(|known| member_to_pb(known.id, &known.member))
            .collect()
    }

    /// Asks the members that this node knows for the others, whenever a stranger calls. Never
    /// returns.
    pub async fn meet_strangers(&self) {
        loop {
            self.wanted.notified().await;
            let known = self.known().into_values();
            let members = self.node.view().members;
            let members = members.iter().map(|known| known.member.clone());
            let addrs: BTreeSet<_> = known.chain(members).map(|member| member.addr).collect();
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

    /// This node and a peer that calls it.
    pub(crate) fn pair(&self, peer: u64) -> Pair {
        Pair {
            me: self.node.id(),
            peer,
            term: self.node.views.borrow().term,
        }
    }

    /// A refusal of what a peer sent, and a line in the log, but no flood of lines.
    pub(crate) fn refuse(&self, peer: u64, error: &Unsound) -> Status {
        let mut told = self.told.lock();
        if told.is_none_or(|told| told.elapsed() >= PAUSE) {
            *told = Some(Instant::now());
            tracing::error!(%error, peer, "a node sends what no sound node sends: it is not heard");
        }
        Status::invalid_argument(format!("node {peer} is not heard: {error}"))
    }

    /// Checks a leader's entries.
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
        let Some(index) = checks::contradicts(&self.node.log, request) else {
            return Ok(());
        };
        // A new leader replaces what an old one could not commit.
        self.check_replaced(peer, index).await
    }

    /// Whether entries from `index` on may be replaced.
    pub(crate) async fn check_replaced(&self, peer: u64, index: u64) -> Result<(), Status> {
        let raft = &self.node.raft;
        let committed = raft.with_raft_state(|state| state.local_committed().map(|id| id.index));
        let committed = committed.await;
        let committed = committed.map_err(|error| Status::unavailable(error.to_string()))?;
        match committed {
            Some(committed) if index <= committed => {
                Err(self.refuse(peer, &Unsound::Contradiction { index, committed }))
            }
            _ => Ok(()),
        }
    }

    /// A leader named its successor.
    pub(crate) fn note_successor(&self, term: u64, to: u64) {
        self.successor.send_replace(Some((term, to)));
    }

    /// Whether the leader of the term before handed on to this candidate: such a vote is heard
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
