//! What a node takes of the requests of peers: of candidates and leaders, before its engine hears them, and
//! the batches that others pass on.

use std::time::Duration;

use openraft::raft::{AppendEntriesRequest, VoteRequest};
use tokio::time::Instant;
use tonic::{Request, Status};

use crate::log::Kind;
use crate::proto::raft_v1 as pb;
use crate::raft::entry::types::TypeConfig;
use crate::raft::error::ProposeError;
use crate::raft::node::Node;
use crate::raft::peer::wire;
use crate::raft::write::proposals::{Answer, Caller, Came};
use crate::retry::CALL_WAIT;

use super::ReplicatedLog;
use super::callers::number;
use super::service::bad;

/// Takes a candidate's request, or refuses it.
pub fn vote_request(
    log: &ReplicatedLog,
    request: &Request<pb::VoteRequest>,
) -> Result<VoteRequest<TypeConfig>, Status> {
    let caller = number(request.metadata(), "ferrolog-from");
    let vote = wire::vote_request_from_pb(request.get_ref()).map_err(bad)?;
    let checked = log.0.hearing.pair(caller).vote_request(&vote);
    checked.map_err(|error| log.0.hearing.refuse(caller, &error))?;
    Ok(vote)
}

/// Takes a leader's request, or refuses it.
pub async fn hear(
    log: &ReplicatedLog,
    caller: u64,
    request: Result<pb::AppendEntriesRequest, Status>,
) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
    let request = request.inspect_err(|status| tracing::debug!(%status, "a raft stream broke"))?;
    let takes = has_room(&log.0.node, &request);
    let request = wire::append_from_pb(request);
    let request = request
        .inspect_err(|error| tracing::error!(%error, caller, "a leader sent nonsense"))
        .map_err(bad)?;
    log.0.hearing.check_append(caller, &request).await?;
    log.0.node.heard.now();
    if takes { Ok(request) } else { Err(disk_full()) }
}

/// Whether this node takes what a leader sends.
///
/// Entries go in order: a record that is refused holds up the trim behind it, which would make
/// room. So for want of room only records are refused that others hold already, by the leader's
/// word: nobody waits for those. Others are taken for as long as there are files to put them in.
fn has_room(node: &Node, request: &pb::AppendEntriesRequest) -> bool {
    let is_record = |entry: &&pb::Entry| entry.kind == Kind::Records as u32;
    let Some(first) = request.entries.iter().find(is_record) else {
        return true;
    };
    if node.space.takes_records() {
        return true;
    }
    let index = |id: Option<&pb::LogId>| id.map_or(0, |id| id.index);
    let waits = index(first.log_id.as_ref()) > index(request.leader_commit.as_ref());
    let entries = request.entries.iter();
    let entries = entries.map(|entry| (entry.kind == Kind::Roll as u32, entry.payload.len()));
    waits && (node.space.takes_what_waits() || node.log.has_in_hand(entries))
}

fn disk_full() -> Status {
    Status::resource_exhausted("the disk of this node is full: it takes no records")
}

/// Queues the batches of a forwarded group, in order.
pub async fn queue_all(
    log: &ReplicatedLog,
    caller: Caller,
    request: pb::ProposeRequest,
) -> Vec<Result<Answer, ProposeError>> {
    let mut waiting = Vec::with_capacity(request.batches.len());
    let waited = Duration::from_millis(request.waited_ms).min(CALL_WAIT);
    let now = Instant::now();
    let since = now.checked_sub(waited).unwrap_or(now);
    let me = log.0.node.id();
    let mut traces = request.traces.into_iter().peekable();
    for (place, batch) in request.batches.into_iter().enumerate() {
        let traced = traces.next_if(|trace| trace.batch as usize == place);
        let traceparent = traced.as_ref().map(|trace| &*trace.traceparent);
        let came = Came {
            caller,
            since,
            forwarded: true,
            trace: log.0.node.tracer.trace(traceparent),
        };
        // A leader that is not sure of its majority for a moment lets forwarded batches wait like its own.
        waiting.push(if log.view().leader == Some(me) {
            log.0.proposer.propose(batch, came).await
        } else {
            Err(ProposeError::NoLeader {
                waited_ms: 0,
                leader: None,
            })
        });
    }
    waiting
}
