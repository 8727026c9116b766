//! The raft service: what peers call on streams that opened with the `RaftRPC` byte.
//!
//! A caller is checked before it is heard: the version of the protocol, the cluster, the node it
//! means, that it is a member, and that its certificate carries the name which its id has in the
//! membership. A node that lags may not know its leader yet, so replication and votes are also
//! taken from who was introduced by a member. What it says is checked next: no request panics or
//! misleads the engine.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt, stream};
use openraft::raft::{StreamAppendError, StreamAppendResult};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use crate::proto::raft_v1 as pb;
use crate::proto::raft_v1::append_entries_response::Result as Answer;
use crate::proto::raft_v1::raft_server::{self, RaftServer};
use crate::raft::entry::audited::Origin;
use crate::raft::entry::codec;
use crate::raft::entry::types::{self, EntryPayload, TypeConfig};
use crate::raft::entry::wire_error::WireError;
use crate::raft::error::ProposeError;
use crate::raft::error::refusal::{self, membership_status};
use crate::raft::members;
use crate::raft::peer::fetch;
use crate::raft::peer::transport::MESSAGE_BYTES_MAX;
use crate::raft::write::commands::Call;
use crate::raft::write::proposals::Caller;
use crate::raft::write::{execute, forward};
use crate::retry::CALL_WAIT;
use crate::tasks;

use super::callers::{From, check_certificate, check_joining, number, origin};
use super::requests::{hear, queue_all, vote_request};
use super::{ReplicatedLog, staging};

/// Requests of one forwarded stream under way at once.
const PROPOSE_WINDOW: usize = 64;

/// Where the replicated log takes its seat once the node belongs to a cluster; peers that call
/// before are told to try again.
pub type Seat = Arc<OnceLock<ReplicatedLog>>;

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Hears who was not let in, and why.
pub type Refusals = Arc<dyn Fn(&Origin, &Status) + Send + Sync>;

/// The service, to be served on raft streams only. `refused` is told of each node that may not join.
pub fn service(seat: Seat, refused: Refusals) -> RaftServer<impl raft_server::Raft> {
    RaftServer::new(RaftService { seat, refused })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

pub struct RaftService {
    pub(crate) seat: Seat,
    refused: Refusals,
}

impl RaftService {
    async fn joined(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinResponse>, Status> {
        let log = self.check(&request, From::Anyone)?;
        let name = &request.get_ref().name;
        members::check_name(name).map_err(|error| membership_status(&error))?;
        let caller = number(request.metadata(), "ferrolog-from");
        let is_member = log.view().member(caller).is_some();
        let shown = check_certificate(&request, name);
        check_joining((is_member, caller), request.get_ref(), shown)?;
        let joined = log.join(request.into_inner()).await;
        Ok(Response::new(
            joined.map_err(|error| membership_status(&error))?,
        ))
    }
}

pub fn bad(error: WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("the consensus engine stopped: {error}"))
}

fn answer(
    log: &ReplicatedLog,
    result: StreamAppendResult<TypeConfig>,
) -> pb::AppendEntriesResponse {
    let result = match result {
        Ok(id) => Answer::Matched(pb::Matched {
            log_id: id.as_ref().map(types::log_id_to_pb),
        }),
        Err(StreamAppendError::Conflict(id)) => Answer::Conflict(types::log_id_to_pb(&id)),
        Err(StreamAppendError::HigherVote(vote)) => Answer::HigherVote(types::vote_to_pb(&vote)),
    };
    pb::AppendEntriesResponse {
        result: Some(result),
        low: log.0.node.space.is_low(),
        clock_ms: log.0.node.clocks.now_ms(),
        drained: log.0.node.drained.is_own(),
    }
}

fn vote_response(
    response: &openraft::raft::VoteResponse<TypeConfig>,
) -> Response<pb::VoteResponse> {
    Response::new(pb::VoteResponse {
        vote: Some(types::vote_to_pb(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(types::log_id_to_pb),
    })
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    type AppendEntriesStream = BoxStream<pb::AppendEntriesResponse>;
    type ProposeStream = BoxStream<pb::ProposeResponse>;
    type FetchSegmentStream = BoxStream<pb::SegmentPart>;

    async fn append_entries(
        &self,
        request: Request<Streaming<pb::AppendEntriesRequest>>,
    ) -> Result<Response<Self::AppendEntriesStream>, Status> {
        let log = self.check(&request, From::Introduced)?;
        let (heard, told) = (log.clone(), log.clone());
        let caller = number(request.metadata(), "ferrolog-from");
        let end = Arc::new(OnceLock::new());
        let refused = end.clone();
        let checked = request.into_inner().then(move |request| {
            let (log, refused) = (heard.clone(), refused.clone());
            async move {
                let taken = hear(&log, caller, request).await;
                // The stream ends with the first refusal.
                taken.map_err(|status| refused.set(status)).ok()
            }
        });
        // A broken stream ends; the leader opens another.
        let requests = checked.take_while(|request| std::future::ready(request.is_some()));
        let requests = requests.filter_map(std::future::ready);
        let answers = told.raft().stream_append(requests);
        let teller = told.clone();
        let answers = answers.map(move |result| {
            let result = result.map_err(stopped)?;
            Ok(answer(&teller, result))
        });
        let last = stream::once(async move { end.get().cloned().map(Err) });
        let last = last.filter_map(std::future::ready);
        Ok(Response::new(answers.chain(last).boxed()))
    }

    async fn vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        let log = self.check(&request, From::Introduced)?;
        let mut vote = vote_request(log, &request)?;
        if vote.leadership_transfer {
            // Who was not named by the leader asks like anybody else, and waits for its lease.
            let (candidate, term) = (vote.vote.leader_id.voted_for, vote.vote.leader_id.term);
            vote.leadership_transfer = log.0.hearing.is_successor(candidate, term).await;
        }
        let response = log.raft().vote(vote).await;
        Ok(vote_response(&response.map_err(stopped)?))
    }

    async fn pre_vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        let log = self.check(&request, From::Introduced)?;
        let vote = vote_request(log, &request)?;
        let response = log.raft().pre_vote(vote).await;
        Ok(vote_response(&response.map_err(stopped)?))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let log = self.check(&request, From::Member)?;
        let caller = number(request.metadata(), "ferrolog-from");
        let request = request.into_inner();
        let transfer = openraft::raft::TransferLeaderRequest::new(
            types::vote_from_pb(request.from_leader.as_ref()).map_err(bad)?,
            request.to_node_id,
            request.last_log_id.as_ref().map(types::log_id_from_pb),
        );
        let checked = log.0.hearing.pair(caller).transfer(&transfer);
        checked.map_err(|error| log.0.hearing.refuse(caller, &error))?;
        let term = transfer.from_leader().leader_id.term;
        log.0.hearing.note_successor(term, *transfer.to_node_id());
        let taken = log
            .raft()
            .handle_transfer_leader(transfer)
            .await
            .map_err(stopped)?;
        let refused = taken
            .err()
            .map_or_else(String::new, |error| error.to_string());
        Ok(Response::new(pb::TransferLeaderResponse { refused }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::InstallSnapshotRequest>>,
    ) -> Result<Response<pb::InstallSnapshotResponse>, Status> {
        let log = self.check(&request, From::Introduced)?.clone();
        let sender = number(request.metadata(), "ferrolog-from");
        // What is held already must stay until it is adopted.
        let pinned = log.log().pin();
        let (vote, snapshot, hold) = staging::receive(&log, sender, request.into_inner()).await?;
        // From here on it goes on even if the caller gives up: nobody may stage what a retry brings
        // while this is adopted.
        let install = tasks::spawn("adoption of a snapshot", async move {
            let response = log.raft().install_full_snapshot(vote, snapshot).await;
            drop((hold, pinned));
            response
        });
        let response = install.await.map_err(stopped)?;
        let vote = response.map_err(stopped)?.vote;
        Ok(Response::new(pb::InstallSnapshotResponse {
            vote: Some(types::vote_to_pb(&vote)),
        }))
    }

    async fn fetch_segment(
        &self,
        request: Request<pb::FetchSegmentRequest>,
    ) -> Result<Response<Self::FetchSegmentStream>, Status> {
        let log = self.check(&request, From::Member)?;
        let request = request.get_ref();
        let applied = log.indexes()[2].map_or(0, |applied| applied + 1);
        if request.next_index > applied && !request.without_rows {
            let what = format!("this node has applied the entries before {applied} only");
            return Err(Status::unavailable(what));
        }
        let parts = fetch::asked(log.log().clone(), request)?;
        Ok(Response::new(parts))
    }

    async fn compare_segments(
        &self,
        request: Request<pb::CompareSegmentsRequest>,
    ) -> Result<Response<pb::CompareSegmentsResponse>, Status> {
        let log = self.check(&request, From::Member)?;
        Ok(Response::new(fetch::compared(log.log(), request.get_ref())))
    }

    async fn identify(
        &self,
        request: Request<pb::IdentifyRequest>,
    ) -> Result<Response<pb::IdentifyResponse>, Status> {
        Ok(Response::new(self.introduction(&request)))
    }

    async fn join(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinResponse>, Status> {
        let stranger = self.stranger(&request);
        let joined = self.joined(request).await;
        if let (Some(stranger), Err(status)) = (stranger, &joined)
            && refusal::is_final(status)
        {
            (self.refused)(&stranger, status);
        }
        joined
    }

    async fn propose(
        &self,
        request: Request<Streaming<pb::ProposeRequest>>,
    ) -> Result<Response<Self::ProposeStream>, Status> {
        let log = self.check(&request, From::Member)?.clone();
        let caller = Caller::next();
        let answers = request.into_inner().and_then(move |request| {
            let log = log.clone();
            // Queued in the order of the stream; waited for in the stage below.
            async move { Ok(queue_all(&log, caller, request).await) }
        });
        let answers = answers.map_ok(|waiting| async move {
            let outcomes = waiting.into_iter().map(|waiting| async move {
                let outcome = match waiting {
                    Ok(answer) => answer.await.unwrap_or(Err(ProposeError::Unknown)),
                    Err(error) => Err(error),
                };
                forward::outcome_to_pb(outcome)
            });
            let outcomes = stream::iter(outcomes).buffered(usize::MAX).collect().await;
            Ok(pb::ProposeResponse { outcomes })
        });
        Ok(Response::new(answers.try_buffered(PROPOSE_WINDOW).boxed()))
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexResponse>, Status> {
        let log = self.check(&request, From::Member)?;
        let index = log.0.reads.confirmer().read_index().await;
        let index = index.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(pb::ReadIndexResponse {
            index: Some(index),
            next_offset: log.watch_applied().borrow().next_offset.0,
        }))
    }

    async fn confirm(
        &self,
        request: Request<pb::ConfirmRequest>,
    ) -> Result<Response<pb::ConfirmResponse>, Status> {
        let log = self.check(&request, From::Member)?;
        Ok(Response::new(pb::ConfirmResponse {
            promised_term: log.0.node.promised.term(),
        }))
    }

    async fn call_back(
        &self,
        request: Request<pb::CallBackRequest>,
    ) -> Result<Response<pb::CallBackResponse>, Status> {
        let log = self.check(&request, From::Member)?;
        let leader = number(request.metadata(), "ferrolog-from");
        let reached = log
            .0
            .members
            .call_back(leader, request.get_ref().fresh)
            .await;
        Ok(Response::new(pb::CallBackResponse { reached }))
    }

    async fn execute(
        &self,
        request: Request<pb::ControlEntry>,
    ) -> Result<Response<pb::ExecuteResponse>, Status> {
        let log = self.check(&request, From::Member)?;
        let waited = Duration::from_millis(number(request.metadata(), execute::WAITED));
        let origin = origin(request.metadata(), &log.0.node.tracer)?;
        let command = codec::from_control(request.into_inner()).map_err(bad)?;
        let EntryPayload::Normal(command) = command else {
            return Err(Status::invalid_argument("not a command"));
        };
        if !command.is_passed_on() {
            return Err(Status::invalid_argument("not a command that is passed on"));
        }
        if !log.view().writable {
            return Err(refusal::not_leader());
        }
        let until = Instant::now() + CALL_WAIT.saturating_sub(waited);
        let call = Call { until, origin };
        let outcome = log.0.commands.execute(command, call).await;
        execute::outcome_to_pb(outcome).map(Response::new)
    }

    async fn remove_node(
        &self,
        request: Request<pb::RemoveNodeRequest>,
    ) -> Result<Response<pb::RemoveNodeResponse>, Status> {
        let log = self.check(&request, From::Member)?;
        let removed = log.remove(&request.get_ref().name).await;
        let removed = removed.map_err(|error| membership_status(&error))?;
        Ok(Response::new(pb::RemoveNodeResponse { removed }))
    }

    async fn transfer(
        &self,
        request: Request<pb::TransferRequest>,
    ) -> Result<Response<pb::TransferResponse>, Status> {
        let log = self.check(&request, From::Member)?;
        let leader = log.transfer(&request.get_ref().to).await;
        let leader = leader.map_err(|error| membership_status(&error))?;
        Ok(Response::new(pb::TransferResponse { leader }))
    }

    async fn drain(
        &self,
        request: Request<pb::DrainRequest>,
    ) -> Result<Response<pb::DrainResponse>, Status> {
        let log = self.check(&request, From::Member)?;
        let leader = log.0.members.be_drained(request.get_ref().drained).await;
        let leader = leader.map_err(|error| membership_status(&error))?;
        Ok(Response::new(pb::DrainResponse { leader }))
    }
}
