//! Up to which index each peer has confirmed the log in a reign. A peer whose log is shorter later on has lost what
//! it promised: its disk lied about a sync, or was put back to an older state.
//!
//! The engine would take that for a fault of its own and panic, so that one bad disk ended the leader. Here the
//! peer is cut off instead: it gets no more entries, and the operator is told.

use std::collections::HashMap;

use openraft::raft::{StreamAppendError, StreamAppendResult};
use parking_lot::Mutex;

use crate::raft::entry::types::TypeConfig;
use crate::raft::peer::unreachable::{RpcResult, unreachable};

/// The marks of all peers.
#[derive(Debug, Default)]
pub struct Watermarks(Mutex<HashMap<u64, Confirmed>>);

/// The highest index that a peer has confirmed to this node as the leader of one term.
#[derive(Debug, Default)]
struct Confirmed {
    term: u64,
    confirmed: Option<u64>,
    /// Whether the operator was told that this peer is cut off.
    told: bool,
}

/// The peer no longer holds what it confirmed.
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
    /// Notes an answer to this node as the leader of `term`; an error if the peer's log went back.
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
