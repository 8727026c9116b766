//! What a node sees of its cluster: who leads, who belongs to it, whether the engine still runs.

pub mod addresses;
pub mod clocks;
pub mod counts;
pub mod drained;
pub mod elapsed;
pub mod space;

use std::sync::Arc;

use crate::raft::entry::types::Member;

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    /// Its id, never used again.
    pub id: u64,
    /// Its name and address.
    pub member: Member,
    /// Whether it votes; a learner does not, nor does a node that is just coming or going.
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
    /// Whether a change of the membership is under way (joint consensus).
    pub joint: bool,
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

    /// Whether node `me` knows who takes records: it leads, or knows another one that does.
    pub fn is_led(&self, me: u64) -> bool {
        self.writable || self.leader_member().is_some_and(|leader| leader.id != me)
    }

    /// The leader, if it is a known member.
    pub fn leader_member(&self) -> Option<&MemberView> {
        self.member(self.leader?)
    }
}
