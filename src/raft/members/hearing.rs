//! Whom a node hears: members, and who a member introduced.
//!
//! A node that lags does not know its newest peers, and may need their entries or its vote may be
//! needed by them. So the leader introduces the members to a node that joins, and a node that is
//! called by a stranger asks the members that it knows. Nobody is heard on its own word.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tonic::{Request, Status};

use crate::log::Kind;
use crate::proto::raft_v1 as pb;
use crate::raft::ReplicatedLog;
use crate::raft::callers::number;
use crate::raft::entry::types::{Member, TypeConfig};
use crate::raft::peer::sound::{self, Pair, Unsound};
use crate::raft::peer::transport::Successor;
use crate::raft::peer::wire;
use crate::raft::service::bad;

/// Strangers that are known by introduction.
const INTRODUCED_MAX: usize = 64;
/// For one member to say whom it knows.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two rounds of questions, and between two lines in the log about what was refused.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a node that was called to take over waits to be known as such: the leader tells its
/// successor and the other voters at once, and the successor may be faster.
const TRANSFER_NOTICE: Duration = Duration::from_millis(100);

/// Whom a node hears besides the members that it knows.
#[derive(Debug)]
pub struct Hearing {
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
    /// This node may lack what it must know.
    Unknown,
}

impl Hearing {
    /// Begins with those that were introduced when the node joined.
    pub fn new(introduced: Vec<pb::Member>) -> Self {
        let hearing = Self {
            introduced: Mutex::default(),
            wanted: Notify::new(),
            told: Mutex::new(None),
            successor: Arc::default(),
        };
        hearing.introduce(introduced);
        hearing
    }

    /// A member says who the members are.
    pub fn introduce(&self, members: Vec<pb::Member>) {
        let mut introduced = self.introduced.lock();
        for member in members {
            if introduced.len() >= INTRODUCED_MAX && !introduced.contains_key(&member.id) {
                // The oldest is most likely known by now, or gone.
                introduced.pop_first();
            }
            introduced.insert(
                member.id,
                crate::raft::entry::types::member_from_pb(member).1,
            );
        }
    }

    /// Where a leader's successor is told.
    pub fn successor(&self) -> Arc<watch::Sender<Successor>> {
        self.successor.clone()
    }

    fn known(&self) -> BTreeMap<u64, Member> {
        self.introduced.lock().clone()
    }
}

impl ReplicatedLog {
    /// What this node knows of a caller.
    pub(crate) fn standing(&self, id: u64) -> Standing {
        if let Some(known) = self.0.views.borrow().member(id) {
            return Standing::Known(known.member.name.clone());
        }
        // An id is the raft index of the entry that gave it.
        let (name, applied) = self.0.fsm.read(|fsm| {
            let node = fsm.registrations.get(id);
            let applied = fsm.applied.map(|applied| applied.index);
            (node.map(|node| node.name.clone()), applied)
        });
        match name {
            Some(name) => Standing::Known(name),
            None if applied.is_some_and(|applied| id <= applied) => Standing::Gone,
            None => match self.0.hearing.introduced.lock().get(&id) {
                Some(member) => Standing::Known(member.name.clone()),
                None => Standing::Unknown,
            },
        }
    }

    /// Where a caller that is heard is reached: as the members have it, or whoever introduced it. No message
    /// sends this node anywhere else.
    pub(crate) fn addr_of(&self, id: u64) -> Option<String> {
        let known = self.transport().addresses().of(id);
        known.or_else(|| {
            let introduced = self.0.hearing.introduced.lock();
            introduced.get(&id).map(|member| member.addr.clone())
        })
    }

    /// Somebody called whom this node does not know.
    pub(crate) fn want_introduction(&self) {
        self.0.hearing.wanted.notify_one();
    }

    /// Takes over whom a member knows.
    pub(crate) fn introduce(&self, members: Vec<pb::Member>) {
        self.0.hearing.introduce(members);
    }

    /// The members, for one that lags or joins.
    pub(crate) fn introduction(&self) -> Vec<pb::Member> {
        let view = self.view();
        let members = view.members.iter();
        members
            .map(|known| crate::raft::entry::types::member_to_pb(known.id, &known.member))
            .collect()
    }

    /// Asks the members that this node knows for the others, whenever a stranger calls. Never
    /// returns.
    pub async fn meet_strangers(&self) {
        loop {
            self.0.hearing.wanted.notified().await;
            let known = self.0.hearing.known().into_values();
            let members = self.view().members;
            let members = members.iter().map(|known| known.member.clone());
            let addrs: BTreeSet<_> = known.chain(members).map(|member| member.addr).collect();
            self.meet(addrs).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks the nodes at these addresses who the members are.
    pub(crate) async fn meet(&self, addrs: impl IntoIterator<Item = String>) {
        let others = addrs.into_iter().filter(|addr| *addr != self.0.addr);
        let ask = async |addr: String| {
            let mut client = self.transport().client(0, &addr);
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
            me: self.identity().node_id,
            peer,
            term: self.0.views.borrow().term,
        }
    }

    /// A refusal of what a peer sent, and a line in the log, but no flood of lines.
    pub(crate) fn refuse(&self, peer: u64, error: &Unsound) -> Status {
        let mut told = self.0.hearing.told.lock();
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
            return Err(crate::raft::callers::no_member(peer));
        }
        let checked = self.pair(peer).append(request);
        checked.map_err(|error| self.refuse(peer, &error))?;
        let Some(index) = sound::contradicts(self.log(), request) else {
            return Ok(());
        };
        // A new leader replaces what an old one could not commit.
        self.check_replaced(peer, index).await
    }

    /// Whether entries from `index` on may be replaced.
    pub(crate) async fn check_replaced(&self, peer: u64, index: u64) -> Result<(), Status> {
        let raft = self.raft();
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
        self.0.hearing.successor.send_replace(Some((term, to)));
    }

    /// Whether the leader of the term before handed on to this candidate: such a vote is heard
    /// although the leader is alive.
    pub(crate) async fn is_successor(&self, candidate: u64, term: u64) -> bool {
        let mut successor = self.0.hearing.successor.subscribe();
        let named = successor.wait_for(|named| *named == Some((term.saturating_sub(1), candidate)));
        tokio::time::timeout(TRANSFER_NOTICE, named).await.is_ok()
    }
}

/// Takes a candidate's request, or refuses it.
pub fn vote_request(
    node: &ReplicatedLog,
    request: &Request<pb::VoteRequest>,
) -> Result<VoteRequest<TypeConfig>, Status> {
    let caller = number(request.metadata(), "ferrolog-from");
    let vote = wire::vote_request_from_pb(request.get_ref()).map_err(bad)?;
    let checked = node.pair(caller).vote_request(&vote);
    checked.map_err(|error| node.refuse(caller, &error))?;
    Ok(vote)
}

/// Takes a leader's request, or refuses it.
pub async fn hear(
    node: &ReplicatedLog,
    caller: u64,
    request: Result<pb::AppendEntriesRequest, Status>,
) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
    let request = request.inspect_err(|status| tracing::debug!(%status, "a raft stream broke"))?;
    let takes = has_room(node, &request);
    let request = wire::append_from_pb(request);
    let request = request
        .inspect_err(|error| tracing::error!(%error, caller, "a leader sent nonsense"))
        .map_err(bad)?;
    node.check_append(caller, &request).await?;
    node.heard_leader();
    if takes { Ok(request) } else { Err(disk_full()) }
}

/// Whether this node takes what a leader sends.
///
/// Entries go in order: a record that is refused holds up the trim behind it, which would make
/// room. So for want of room only records are refused that others hold already, by the leader's
/// word: nobody waits for those. Others are taken for as long as there are files to put them in.
fn has_room(node: &ReplicatedLog, request: &pb::AppendEntriesRequest) -> bool {
    let is_record = |entry: &&pb::Entry| entry.kind == Kind::Records as u32;
    let Some(first) = request.entries.iter().find(is_record) else {
        return true;
    };
    if node.space().takes_records() {
        return true;
    }
    let index = |id: Option<&pb::LogId>| id.map_or(0, |id| id.index);
    let waits = index(first.log_id.as_ref()) > index(request.leader_commit.as_ref());
    let payloads = request.entries.iter().map(|entry| entry.payload.len());
    waits && (node.space().takes_what_waits() || node.log().has_in_hand(payloads))
}

fn disk_full() -> Status {
    Status::resource_exhausted("the disk of this node is full: it takes no records")
}
