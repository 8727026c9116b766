//! What the log store keeps in memory, and what others are shown of it: the term that the node has promised itself to.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::raft::entry::types::{LogId, Vote};

/// The term that this node has promised itself to; clones share it.
///
/// It is never behind what the node has told anybody: the engine answers a candidate or a new leader only after
/// it has saved the vote, and each saved vote is shown here.
#[derive(Debug, Clone)]
pub struct Promised(Arc<Mutex<Memory>>);

impl Promised {
    pub fn new(memory: &Arc<Mutex<Memory>>) -> Self {
        Self(memory.clone())
    }

    /// The term of the last vote that was saved.
    pub fn term(&self) -> u64 {
        let vote = self.0.lock().vote;
        vote.map_or(0, |vote| vote.leader_id.term)
    }
}

/// Values that the engine asks for often, kept in memory.
#[derive(Debug)]
pub struct Memory {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    /// The last entry that was applied before the engine started; `None` once it has started.
    pub applied_before: Option<LogId>,
}
