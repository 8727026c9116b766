//! Turns the engine's requests and answers into messages of the wire, and back.

use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse,
};

use crate::proto::raft_v1::{self as pb, append_entries_response};
use crate::raft::entry::codec;
use crate::raft::entry::types::{self, TypeConfig};
use crate::raft::entry::wire_error::WireError;
use crate::raft::peer::unreachable::{RpcResult, unreachable};

pub fn append_to_pb(request: &AppendEntriesRequest<TypeConfig>) -> pb::AppendEntriesRequest {
    let entries = request.entries.iter().map(codec::to_log);
    pb::AppendEntriesRequest {
        vote: Some(types::vote_to_pb(&request.vote)),
        prev_log_id: request.prev_log_id.as_ref().map(types::log_id_to_pb),
        entries: entries.map(codec::to_wire).collect(),
        leader_commit: request.leader_commit.as_ref().map(types::log_id_to_pb),
    }
}

pub fn append_from_pb(
    request: pb::AppendEntriesRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, WireError> {
    let entries = request.entries.into_iter();
    let entries = entries.map(|entry| codec::from_log(codec::from_wire(entry)?));
    Ok(AppendEntriesRequest {
        vote: types::vote_from_pb(request.vote.as_ref())?,
        prev_log_id: request.prev_log_id.as_ref().map(types::log_id_from_pb),
        entries: entries.collect::<Result<_, _>>()?,
        leader_commit: request.leader_commit.as_ref().map(types::log_id_from_pb),
    })
}

pub fn vote_request_to_pb(request: &VoteRequest<TypeConfig>) -> pb::VoteRequest {
    pb::VoteRequest {
        vote: Some(types::vote_to_pb(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(types::log_id_to_pb),
        leadership_transfer: request.leadership_transfer,
    }
}

pub fn vote_request_from_pb(
    request: &pb::VoteRequest,
) -> Result<VoteRequest<TypeConfig>, WireError> {
    let mut vote = VoteRequest::new(
        types::vote_from_pb(request.vote.as_ref())?,
        request.last_log_id.as_ref().map(types::log_id_from_pb),
    );
    vote.leadership_transfer = request.leadership_transfer;
    Ok(vote)
}

pub fn vote_response_from_pb(response: &pb::VoteResponse) -> RpcResult<VoteResponse<TypeConfig>> {
    let vote = types::vote_from_pb(response.vote.as_ref()).map_err(|error| unreachable(&error))?;
    let last = response.last_log_id.as_ref().map(types::log_id_from_pb);
    Ok(VoteResponse::new(vote, last, response.granted))
}

/// A follower's answer on the stream.
pub fn stream_result(
    response: pb::AppendEntriesResponse,
) -> RpcResult<StreamAppendResult<TypeConfig>> {
    use append_entries_response::Result as Answer;
    let answer = response.result.ok_or(WireError::Missing("result"));
    Ok(match answer.map_err(|error| unreachable(&error))? {
        Answer::Matched(matched) => Ok(matched.log_id.as_ref().map(types::log_id_from_pb)),
        Answer::Conflict(id) => Err(StreamAppendError::Conflict(types::log_id_from_pb(&id))),
        Answer::HigherVote(vote) => {
            let vote = types::vote_from_pb(Some(&vote)).map_err(|error| unreachable(&error))?;
            Err(StreamAppendError::HigherVote(vote))
        }
    })
}
