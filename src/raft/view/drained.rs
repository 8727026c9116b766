//! Which nodes are drained: an operator has them stay out of leadership.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::live::Live;

/// What is known of it; clones share it.
#[derive(Debug, Clone)]
pub struct Drained(Arc<Known>);

#[derive(Debug)]
struct Known {
    own: Live<bool>,
    /// The peers that said so in their last answer to this node.
    peers: Mutex<BTreeSet<u64>>,
}

impl Drained {
    /// Of a node that is drained, or is not.
    pub fn new(own: bool) -> Self {
        Self(Arc::new(Known {
            own: Live::new(own),
            peers: Mutex::default(),
        }))
    }

    /// Whether this node is.
    pub fn is_own(&self) -> bool {
        self.0.own.get()
    }

    /// From now on this node is, or is not.
    pub fn set(&self, own: bool) {
        self.0.own.set(own);
    }

    /// Returns once this node is.
    pub async fn own(&self) {
        self.0.own.changed_from(false).await;
    }

    /// What a peer said of itself.
    pub fn note(&self, peer: u64, drained: bool) {
        let mut peers = self.0.peers.lock();
        if drained {
            peers.insert(peer);
        } else {
            peers.remove(&peer);
        }
    }

    /// Whether a peer is, as far as this node has heard.
    pub fn is_peer(&self, peer: u64) -> bool {
        self.0.peers.lock().contains(&peer)
    }
}
