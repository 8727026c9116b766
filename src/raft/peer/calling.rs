//! The parts of a node that its calls to peers read, and into which they note what peers answered.

use std::sync::Arc;

use openraft::raft::AppendEntriesRequest;
use tokio::sync::watch;

use crate::log::{Index, Log};
use crate::raft::entry::types::TypeConfig;
use crate::raft::snapshot::DurableFloor;
use crate::raft::view::clocks::Clocks;
use crate::raft::view::counts::Counts;
use crate::raft::view::drained::Drained;
use crate::raft::view::space::Space;

use super::watermark::Watermarks;

/// The parts of the calling node that a transport uses.
#[derive(Debug)]
pub struct CallingNode {
    /// The log whose segments a snapshot names.
    pub log: Log,
    /// The successor that a leader named last.
    pub successor: Arc<watch::Sender<Successor>>,
    /// Where it begins, as it was made durable.
    pub floor: DurableFloor,
    /// Which nodes have room on their disks.
    pub space: Space,
    /// What the clocks of peers show.
    pub clocks: Clocks,
    /// Which nodes stay out of leadership.
    pub drained: Drained,
    /// What is counted of calls.
    pub counts: Arc<Counts>,
    /// Up to which index each peer has confirmed the log.
    pub confirmed: Watermarks,
}

impl CallingNode {
    pub fn new(
        log: &Log,
        floor: &DurableFloor,
        space: &Space,
        (clocks, drained, counts): (&Clocks, &Drained, &Arc<Counts>),
        successor: &Arc<watch::Sender<Successor>>,
    ) -> Self {
        Self {
            log: log.clone(),
            floor: floor.clone(),
            space: space.clone(),
            clocks: clocks.clone(),
            drained: drained.clone(),
            counts: counts.clone(),
            confirmed: Watermarks::default(),
            successor: successor.clone(),
        }
    }

    /// Whether a request goes without its entries, since they wait for repair here, or were given up.
    pub fn lacks_entries_of(&self, request: &AppendEntriesRequest<TypeConfig>) -> bool {
        let next = request.prev_log_id.map_or(0, |prev| prev.index + 1);
        request.entries.is_empty() && self.log.lacks(Index(next))
    }
}

/// The term of the leader that named its successor, and the successor's id.
pub type Successor = Option<(u64, u64)>;
