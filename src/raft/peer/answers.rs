//! Checks the answers of peers, notes what they say of room and clocks, and turns them into the engine's types.

use std::sync::{Arc, OnceLock};

use openraft::errors::{NetworkError, RPCError};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult, VoteResponse};
use tonic::{Code, Status};

use crate::proto::raft_v1 as pb;
use crate::raft::entry::types::TypeConfig;
use crate::raft::peer::calling::CallingNode;

use super::checks::{Pair, Unanswered, Unsound};
use super::unreachable::{RpcResult, unreachable};
use super::wire;

/// The engine's error for a refusal or a broken connection.
pub fn rpc_error(status: Status) -> RPCError<TypeConfig> {
    match status.code() {
        Code::Unavailable | Code::FailedPrecondition | Code::PermissionDenied => {
            unreachable(&status)
        }
        _ => RPCError::Network(NetworkError::new(&status)),
    }
}

/// What a leader asks of a follower on one stream, and what it makes of the answers, which come in that order.
#[derive(Clone)]
pub struct Asked {
    node: Arc<OnceLock<CallingNode>>,
    pair: Pair,
    unanswered: Arc<Unanswered>,
}

impl Asked {
    /// Nothing yet.
    pub fn new(node: Arc<OnceLock<CallingNode>>, pair: Pair) -> Self {
        Self {
            node,
            pair,
            unanswered: Arc::default(),
        }
    }

    /// Takes note of a request.
    pub fn sent(&self, request: &AppendEntriesRequest<TypeConfig>) {
        self.unanswered.sent(request);
    }

    /// The next answer, as the engine may see it.
    pub fn answered(
        &self,
        answer: Result<pb::AppendEntriesResponse, Status>,
    ) -> RpcResult<StreamAppendResult<TypeConfig>> {
        let Pair { peer, term, .. } = self.pair;
        note(&self.node, peer, answer.as_ref());
        let result = wire::stream_result(answer.map_err(rpc_error)?)?;
        let sound = self.unanswered.answered(&self.pair, &result);
        sound.map_err(|error| unsound(peer, &error))?;
        judge(&self.node, peer, term, result)
    }
}

/// Notes whether the peer's disk has room, whether it is drained, and what its clock shows.
pub fn note(
    node: &OnceLock<CallingNode>,
    target: u64,
    answer: Result<&pb::AppendEntriesResponse, &Status>,
) {
    let full = match answer {
        Ok(answer) => answer.low,
        Err(status) if status.code() == Code::ResourceExhausted => true,
        // This error does not say whether the peer has room.
        Err(_) => return,
    };
    if let Some(node) = node.get() {
        node.space.note(target, full);
        if let Ok(answer) = answer {
            node.clocks.note(target, answer.clock_ms);
            node.drained.note(target, answer.drained);
        }
    }
}

/// Refuses the answer of a peer whose log went back.
fn judge(
    node: &OnceLock<CallingNode>,
    target: u64,
    term: u64,
    result: StreamAppendResult<TypeConfig>,
) -> RpcResult<StreamAppendResult<TypeConfig>> {
    match node.get() {
        Some(node) => node.confirmed.judge(target, term, result),
        None => Ok(result),
    }
}

/// The engine's error for an answer that no sound peer gives: it counts as no answer.
fn unsound(peer: u64, error: &Unsound) -> RPCError<TypeConfig> {
    tracing::warn!(%error, peer, "a node answers what no sound node answers");
    unreachable(error)
}

/// A voter's answer to a candidate, checked.
pub fn vote(pair: &Pair, answer: &pb::VoteResponse) -> RpcResult<VoteResponse<TypeConfig>> {
    let answer = wire::vote_response_from_pb(answer)?;
    let sound = pair.vote_answer(&answer);
    sound.map_err(|error| unsound(pair.peer, &error))?;
    Ok(answer)
}
