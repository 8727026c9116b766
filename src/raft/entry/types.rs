//! The consensus engine's types, with ours filled in, and their forms on the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use openraft::entry::{RaftEntry, RaftPayload};

use crate::log::{Index, Term};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::wire_error::WireError;

use super::command::Command;
use super::outcome::Outcome;

openraft::declare_raft_types!(
    /// One leader a term, as in the Raft paper.
    pub TypeConfig:
        D = Command,
        R = Outcome,
        NodeId = u64,
        Node = Member,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        Entry = Entry,
        AsyncRuntime = crate::raft::entry::runtime::Runtime,
);

pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
pub type EntryPayload = openraft::alias::EntryPayloadOf<TypeConfig>;
pub type Membership = openraft::Membership<u64, Member>;
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub type CommittedLeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;

/// An entry as the engine holds it: what it says, and the bytes that say so.
///
/// The bytes travel as they are, from log to log. An encoder of another version may know other fields, and
/// every replica holds the same bytes.
#[derive(Debug, Clone)]
pub struct Entry {
    pub log_id: LogId,
    payload: EntryPayload,
    /// The bytes of a control entry, as a log or a peer gave them. `None` for records, and for an entry that was made
    /// here and is not yet written.
    control: Option<Bytes>,
}

impl Entry {
    /// A control entry, as `control` says it.
    pub fn read(log_id: LogId, payload: EntryPayload, control: Bytes) -> Self {
        Self {
            log_id,
            payload,
            control: Some(control),
        }
    }

    /// What it says.
    pub fn payload(&self) -> &EntryPayload {
        &self.payload
    }

    /// The bytes that say so, if it is a control entry that was read.
    pub fn control(&self) -> Option<&Bytes> {
        self.control.as_ref()
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.log_id, self.payload)
    }
}

impl RaftEntry for Entry {
    type CommittedLeaderId = CommittedLeaderId;
    type Payload = EntryPayload;

    fn new(log_id: LogId, payload: EntryPayload) -> Self {
        Self {
            log_id,
            payload,
            control: None,
        }
    }

    fn log_id_parts(&self) -> (&CommittedLeaderId, u64) {
        (&self.log_id.leader_id, self.log_id.index)
    }

    fn set_log_id(&mut self, new: LogId) {
        self.log_id = new;
    }

    fn get_membership(&self) -> Option<Membership> {
        self.payload.get_membership()
    }
}

/// A member of the cluster, as the replicated membership holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// The name it joined under: unique in the cluster.
    pub name: String,
    /// `host:port`, resolved again at every dial.
    pub addr: String,
    /// The id that was minted with the node's data directory. It tells a wiped node from the one that was known.
    pub directory_id: String,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.addr)
    }
}

pub fn log_id(term: Term, index: Index) -> LogId {
    LogId::new(CommittedLeaderId::new(term.0), index.0)
}

pub fn log_id_to_pb(id: &LogId) -> pb::LogId {
    pb::LogId {
        term: id.leader_id.term,
        index: id.index,
    }
}

pub fn log_id_from_pb(id: &pb::LogId) -> LogId {
    log_id(Term(id.term), Index(id.index))
}

pub fn vote_to_pb(vote: &Vote) -> pb::VoteState {
    pb::VoteState {
        term: vote.leader_id.term,
        voted_for: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub fn vote_from_pb(vote: Option<&pb::VoteState>) -> Result<Vote, WireError> {
    let vote = vote.ok_or(WireError::Missing("vote"))?;
    Ok(if vote.committed {
        Vote::new_committed(vote.term, vote.voted_for)
    } else {
        Vote::new(vote.term, vote.voted_for)
    })
}

pub fn membership_to_pb(membership: &Membership) -> pb::Membership {
    let ids = |ids: &BTreeSet<u64>| pb::NodeIds {
        ids: ids.iter().copied().collect(),
    };
    let member = |(id, member): (&u64, &Member)| member_to_pb(*id, member);
    pb::Membership {
        configs: membership.get_joint_config().iter().map(ids).collect(),
        members: membership.nodes().map(member).collect(),
    }
}

pub fn member_to_pb(id: u64, member: &Member) -> pb::Member {
    pb::Member {
        id,
        name: member.name.clone(),
        addr: member.addr.clone(),
        directory_id: member.directory_id.clone(),
    }
}

pub fn member_from_pb(member: pb::Member) -> (u64, Member) {
    let node = Member {
        name: member.name,
        addr: member.addr,
        directory_id: member.directory_id,
    };
    (member.id, node)
}

pub fn membership_from_pb(membership: pb::Membership) -> Result<Membership, WireError> {
    let ids = |config: pb::NodeIds| config.ids.into_iter().collect::<BTreeSet<_>>();
    let configs: Vec<_> = membership.configs.into_iter().map(ids).collect();
    let members = membership.members.into_iter().map(member_from_pb);
    let members: BTreeMap<_, _> = members.collect();
    // The empty membership of a state machine to which nothing was applied.
    if configs.is_empty() && members.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, members).map_err(|error| WireError::Membership(error.to_string()))
}
