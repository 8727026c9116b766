//! What each peer has confirmed in a reign. A log that goes back behind that has lost what it
//! promised: its disk lied about a sync, or was put back to an older state.
//!
//! The engine takes such a peer for a fault of its own and panics, which would let one bad disk end
//! the leader. Here the peer is cut off instead: it is fed no more, and an operator is told.

use std::collections::HashMap;

use openraft::raft::{StreamAppendError, StreamAppendResult};
use parking_lot::Mutex;

use crate::raft::entry::types::TypeConfig;
use crate::raft::peer::unreachable::{RpcResult, unreachable};

/// The marks of all peers.
#[derive(Debug, Default)]
pub struct Watermarks(Mutex<HashMap<u64, Confirmed>>);

/// The highest index that a peer confirmed in a term of this node's.
#[derive(Debug, Default)]
struct Confirmed {
    term: u64,
    confirmed: Option<u64>,
    /// Whether the operator was told.
    told: bool,
}

/// A peer does not hold any more what it confirmed.
#[derive(Debug, thiserror::Error)]
#[error(
    "node {peer} had confirmed the log up to raft index {confirmed} and does not hold index {lost} \
     any more: its disk lost what it had synced. Remove it with `ferrolog cluster remove`, and join \
     it again with an empty data directory on a sound disk"
)]
struct WentBack {
    peer: u64,
    confirmed: u64,
    lost: u64,
}

impl Watermarks {
    /// Takes note of an answer to a leader of `term`, or refuses it.
    pub fn judge(
        &self,
        peer: u64,
        term: u64,
        result: StreamAppendResult<TypeConfig>,
    ) -> RpcResult<StreamAppendResult<TypeConfig>> {
        let mut marks = self.0.lock();
        let mark = marks.entry(peer).or_default();
        if mark.term != term {
            *mark = Confirmed {
                term,
                ..Confirmed::default()
            };
        }
        match &result {
            Ok(Some(id)) => mark.confirmed = mark.confirmed.max(Some(id.index)),
            Err(StreamAppendError::Conflict(id)) if mark.confirmed >= Some(id.index) => {
                let error = WentBack {
                    peer,
                    confirmed: mark.confirmed.unwrap_or(id.index),
                    lost: id.index,
                };
                if !std::mem::replace(&mut mark.told, true) {
                    tracing::error!(%error, "a node is cut off");
                }
                return Err(unreachable(&error));
            }
            _ => {}
        }
        Ok(result)
    }
}
