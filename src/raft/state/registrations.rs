//! The nodes that were given an id, and not removed since.

use std::collections::BTreeMap;

use crate::proto::raft_v1 as pb;
use crate::raft::entry::types::Member;

/// How many earlier starts of a node are remembered. A process of an earlier start may be paused somewhere and wake up.
const REPLACED_MAX: usize = 8;

/// A node that was given an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    pub name: String,
    pub directory_id: String,
    /// The random number that the node drew at its present start; `None` before it registered one.
    pub start: Option<u64>,
    /// The numbers of the last starts before it, oldest first.
    pub replaced: Vec<u64>,
}

impl Registration {
    /// Makes `start` the present one. A start that was replaced never comes back.
    fn take_over(&mut self, start: u64) {
        if self.start == Some(start) || self.replaced.contains(&start) {
            return;
        }
        self.replaced.extend(self.start.replace(start));
        if self.replaced.len() > REPLACED_MAX {
            self.replaced.remove(0);
        }
    }
}

/// All nodes that have an id, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registrations(BTreeMap<u64, Registration>);

impl Registrations {
    /// A node by id.
    pub fn get(&self, id: u64) -> Option<&Registration> {
        self.0.get(&id)
    }

    /// A node by name.
    pub fn named(&self, name: &str) -> Option<(u64, &Registration)> {
        let mut nodes = self.0.iter();
        let found = nodes.find(|(_, node)| node.name == name);
        found.map(|(id, node)| (*id, node))
    }

    /// The number of a node's present start.
    pub fn start_of(&self, id: u64) -> Option<u64> {
        self.get(id)?.start
    }

    /// Whether another start took the place of this one.
    pub fn is_replaced(&self, id: u64, start: u64) -> bool {
        self.get(id)
            .is_some_and(|node| node.replaced.contains(&start))
    }

    /// Gives a node an id.
    pub fn insert(&mut self, id: u64, name: &str, directory_id: &str) {
        let node = Registration {
            name: name.to_owned(),
            directory_id: directory_id.to_owned(),
            start: None,
            replaced: Vec::new(),
        };
        self.0.insert(id, node);
    }

    /// Makes `start` the present one of a node. A start that was replaced never comes back.
    pub fn take_over(&mut self, id: u64, start: u64) {
        if let Some(node) = self.0.get_mut(&id) {
            node.take_over(start);
        }
    }

    /// Forgets a node by name.
    pub fn forget(&mut self, name: &str) {
        self.0.retain(|_, node| node.name != name);
    }

    /// Forgets a node by id.
    pub fn remove(&mut self, id: u64) {
        self.0.remove(&id);
    }

    /// Registers a member that is not registered yet. That is the first node, which began the cluster.
    pub fn note_member(&mut self, id: u64, member: &Member) {
        if !self.0.contains_key(&id) {
            self.insert(id, &member.name, &member.directory_id);
        }
    }

    /// For a checkpoint: the same bytes on every replica.
    pub fn to_pb(&self) -> Vec<pb::Registration> {
        let registration = |(id, node): (&u64, &Registration)| pb::Registration {
            node_id: *id,
            name: node.name.clone(),
            directory_id: node.directory_id.clone(),
            start: node.start,
            replaced: node.replaced.clone(),
        };
        self.0.iter().map(registration).collect()
    }

    /// From a checkpoint.
    pub fn from_pb(registrations: Vec<pb::Registration>) -> Self {
        let registration = |node: pb::Registration| {
            let known = Registration {
                name: node.name,
                directory_id: node.directory_id,
                start: node.start,
                replaced: node.replaced,
            };
            (node.node_id, known)
        };
        Self(registrations.into_iter().map(registration).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_was_replaced_does_not_come_back() {
        let mut node = Registration {
            name: "n1".to_owned(),
            directory_id: String::new(),
            start: None,
            replaced: Vec::new(),
        };
        for start in [1, 2, 2, 1] {
            node.take_over(start);
        }
        assert_eq!((node.start, &*node.replaced), (Some(2), &[1][..]));
        (3..100).for_each(|start| node.take_over(start));
        assert_eq!(node.start, Some(99));
        assert_eq!(node.replaced, (91..99).collect::<Vec<_>>());
    }
}
