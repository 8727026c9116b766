//! What calls to peers need of the node that makes them, and leave with it.

use std::sync::Arc;

use tokio::sync::watch;

use crate::log::Log;
use crate::raft::snapshot::DurableFloor;
use crate::raft::view::clocks::Clocks;
use crate::raft::view::space::Space;

use super::watermark::Watermarks;

/// What a transport needs of the node that calls.
#[derive(Debug)]
pub struct CallingNode {
    /// The log whose segments a snapshot names.
    pub log: Log,
    /// Whom a leader named as its successor.
    pub successor: Arc<watch::Sender<Successor>>,
    /// Where it begins, as it was made durable.
    pub floor: DurableFloor,
    /// Who has room.
    pub space: Space,
    /// What peers' clocks say.
    pub clocks: Clocks,
    /// What peers have confirmed.
    pub confirmed: Watermarks,
}

impl CallingNode {
    pub fn new(
        log: &Log,
        floor: &DurableFloor,
        space: &Space,
        clocks: &Clocks,
        successor: &Arc<watch::Sender<Successor>>,
    ) -> Self {
        Self {
            log: log.clone(),
            floor: floor.clone(),
            space: space.clone(),
            clocks: clocks.clone(),
            confirmed: Watermarks::default(),
            successor: successor.clone(),
        }
    }
}

/// A leader names its successor: the term that it leads, and the node.
pub type Successor = Option<(u64, u64)>;
