//! Checks the answers of peers, notes what they say of room and clocks, and turns them into the engine's types.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use openraft::errors::{NetworkError, RPCError};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult, VoteResponse};
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::proto::raft_v1 as pb;
use crate::raft::entry::types::TypeConfig;
use crate::raft::peer::calling::CallingNode;

use super::checks::{Pair, Unanswered, Unsound};
use super::unreachable::{RpcResult, unreachable};
use super::wire;

/// A stream is given up once a request was not answered for so long, or for up to twice as long.
const ANSWER_MAX: Duration = Duration::from_secs(30);

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

/// Answers that end with an error once a request waits too long for its own.
///
/// A follower whose disk hangs goes on answering heartbeats, and no entries. The engine purges nothing that it sends on a
/// stream: a leader that waited for such a follower for ever would give up no segment, and fill its disk.
pub fn unless_silent(
    answers: impl Stream<Item = RpcResult<StreamAppendResult<TypeConfig>>> + Send,
    asked: Asked,
) -> impl Stream<Item = RpcResult<StreamAppendResult<TypeConfig>>> + Send {
    stream::unfold(Some((Box::pin(answers), asked)), |state| async move {
        let (mut answers, asked) = state?;
        let mut waits = false;
        loop {
            match timeout(ANSWER_MAX, answers.next()).await {
                Ok(Some(answer)) => return Some((answer, Some((answers, asked)))),
                Ok(None) => return None,
                Err(_) if waits && asked.unanswered.is_any() => break,
                Err(_) => waits = asked.unanswered.is_any(),
            }
        }
        let what = format!("entries were not answered for {} s", ANSWER_MAX.as_secs());
        tracing::warn!(peer = asked.pair.peer, "{what}: they are sent again");
        let failed = RPCError::Network(NetworkError::from_string(what));
        Some((Err(failed), None))
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::entry::types::Vote;

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_given_up_once_a_request_is_not_answered() {
        let pair = Pair {
            me: 1,
            peer: 2,
            term: 5,
        };
        let asked = Asked::new(Arc::default(), pair);
        let silent = stream::pending().boxed();
        let mut results = Box::pin(unless_silent(silent, asked.clone()));
        let quiet = timeout(20 * ANSWER_MAX, results.next()).await;
        assert!(quiet.is_err(), "nothing is asked");
        asked.sent(&AppendEntriesRequest {
            vote: Vote::new_committed(5, 1),
            prev_log_id: None,
            entries: Vec::new(),
            leader_commit: None,
        });
        let ended = timeout(2 * ANSWER_MAX, results.next()).await;
        assert!(matches!(ended, Ok(Some(Err(RPCError::Network(_))))));
        assert!(results.next().await.is_none());
        // An answer in time keeps it.
        let answers = stream::iter([Ok(Ok(None))]).chain(stream::pending());
        let mut results = Box::pin(unless_silent(answers, asked));
        assert!(matches!(results.next().await, Some(Ok(Ok(None)))));
        assert!(timeout(ANSWER_MAX, results.next()).await.is_err());
    }
}
