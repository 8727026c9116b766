//! The raft service: what peers call on streams that opened with the `RaftRPC` byte.
//!
//! A caller is checked before it is heard: the version of the protocol, the cluster, the node it
//! means, and that its certificate carries the name which its id has in the membership.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use futures::{Stream, StreamExt, TryStreamExt, stream};
use openraft::raft::{AppendEntriesResponse, StreamAppendError, StreamAppendResult, VoteRequest};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::net::mux::PeerInfo;
use crate::proto::raft_v1::append_entries_response::Result as Answer;
use crate::proto::raft_v1::raft_server::{self, RaftServer};
use crate::proto::raft_v1::{self as pb};

use super::error::{MembershipError, ProposeError};
use super::transport::{self, MESSAGE_BYTES_MAX, WIRE};
use super::types::{self, TypeConfig, WireError};
use super::{ReplicatedLog, forward, reads, staging};

/// Requests of one forwarded stream under way at once.
const PROPOSE_WINDOW: usize = 64;

/// Where the replicated log takes its seat once the node belongs to a cluster; peers that call
/// before are told to try again.
pub type Seat = Arc<OnceLock<ReplicatedLog>>;

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service, to be served on raft streams only.
pub fn service(seat: Seat) -> RaftServer<impl raft_server::Raft> {
    RaftServer::new(RaftService(seat))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

struct RaftService(Seat);

/// Whether a call may come from a node that belongs to no cluster yet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Member,
    Anyone,
}

fn text<'a>(metadata: &'a MetadataMap, key: &str) -> &'a str {
    metadata
        .get(key)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("")
}

fn number(metadata: &MetadataMap, key: &str) -> u64 {
    text(metadata, key).parse().unwrap_or(0)
}

impl RaftService {
    fn seated(&self) -> Result<&ReplicatedLog, Status> {
        let seat = self.0.get();
        seat.ok_or_else(|| Status::unavailable("this node belongs to no cluster yet"))
    }

    /// Checks who calls; gives the replicated log.
    fn check<T>(&self, request: &Request<T>, from: From) -> Result<&ReplicatedLog, Status> {
        let metadata = request.metadata();
        let wire = text(metadata, "ferrolog-wire");
        if wire != WIRE {
            let what = format!("raft protocol version {wire:?}; this node speaks {WIRE}");
            return Err(Status::failed_precondition(what));
        }
        let node = self.seated()?;
        let (ours, theirs) = (
            &node.identity().cluster_id,
            text(metadata, "ferrolog-cluster"),
        );
        let stranger = from == From::Anyone && theirs.is_empty();
        if theirs != ours && !stranger {
            return Err(membership_status(&MembershipError::OtherCluster {
                theirs: theirs.to_owned(),
                ours: ours.clone(),
            }));
        }
        let (me, meant) = (node.identity().node_id, number(metadata, "ferrolog-to"));
        if meant != me && (from == From::Member || meant != 0) {
            let what = format!("the call is for node {meant}, this is node {me}");
            return Err(Status::failed_precondition(what));
        }
        let caller = number(metadata, "ferrolog-from");
        if let Some(known) = node.view().member(caller) {
            check_certificate(request, &known.member.name)?;
        }
        Ok(node)
    }
}

/// With mutual TLS, the caller's certificate must carry the name that it claims.
fn check_certificate<T>(request: &Request<T>, name: &str) -> Result<(), Status> {
    let peer = request.extensions().get::<PeerInfo>();
    let Some(identity) = peer.and_then(|peer| peer.identity.as_ref()) else {
        return Ok(());
    };
    match &identity.node_name {
        Some(shown) if shown == name => Ok(()),
        shown => {
            let shown = shown.as_deref().unwrap_or("no node");
            let what = format!(
                "the caller says it is {name}, its certificate says {shown}: give it the \
                 certificate made for {name} (`ferrolog certs --nodes {name}`)"
            );
            Err(Status::permission_denied(what))
        }
    }
}

fn bad(error: WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("the consensus engine stopped: {error}"))
}

fn answer(result: StreamAppendResult<TypeConfig>) -> pb::AppendEntriesResponse {
    let result = match result {
        Ok(id) => Answer::Matched(pb::Matched {
            log_id: id.as_ref().map(types::log_id_to_pb),
            partial: false,
        }),
        Err(StreamAppendError::Conflict(id)) => Answer::Conflict(types::log_id_to_pb(&id)),
        Err(StreamAppendError::HigherVote(vote)) => Answer::HigherVote(types::vote_to_pb(&vote)),
    };
    pb::AppendEntriesResponse {
        result: Some(result),
    }
}

fn vote_request(request: &pb::VoteRequest) -> Result<VoteRequest<TypeConfig>, Status> {
    let mut vote = VoteRequest::new(
        types::vote_from_pb(request.vote.as_ref()).map_err(bad)?,
        request.last_log_id.as_ref().map(types::log_id_from_pb),
    );
    vote.leadership_transfer = request.leadership_transfer;
    Ok(vote)
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

/// A refusal, with what the other side needs to tell it from others.
pub fn membership_status(error: &MembershipError) -> Status {
    let code = match error {
        MembershipError::NameTaken { .. }
        | MembershipError::OtherCluster { .. }
        | MembershipError::Removed { .. }
        | MembershipError::LastVoter { .. } => Code::FailedPrecondition,
        MembershipError::NoSuchVoter { .. } => Code::NotFound,
        MembershipError::BadName { .. } => Code::InvalidArgument,
        MembershipError::Refused { code, .. } => Code::from_i32(*code),
        MembershipError::NoLeader { .. } => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}

/// The refusal behind a status.
pub fn membership_error(status: &Status) -> MembershipError {
    match status.code() {
        Code::FailedPrecondition
        | Code::NotFound
        | Code::InvalidArgument
        | Code::PermissionDenied => MembershipError::Refused {
            code: status.code() as i32,
            reason: status.message().to_owned(),
        },
        _ => MembershipError::NoLeader {
            reason: status.message().to_owned(),
        },
    }
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    type AppendEntriesStream = BoxStream<pb::AppendEntriesResponse>;
    type ProposeStream = BoxStream<pb::ProposeResponse>;

    async fn append_entries(
        &self,
        request: Request<Streaming<pb::AppendEntriesRequest>>,
    ) -> Result<Response<Self::AppendEntriesStream>, Status> {
        let node = self.check(&request, From::Member)?;
        let heard = node.clone();
        let parsed = request.into_inner().map(move |request| {
            heard.heard_leader();
            let request = request.map_err(|status| tracing::debug!(%status, "a raft stream broke"));
            let parsed = transport::append_from_pb(request.ok()?);
            parsed
                .inspect_err(|error| tracing::error!(%error, "a leader sent nonsense"))
                .ok()
        });
        // A broken stream ends; the leader opens another.
        let requests = parsed.take_while(|request| std::future::ready(request.is_some()));
        let requests = requests.filter_map(std::future::ready);
        let answers = node.raft().stream_append(requests);
        Ok(Response::new(
            answers
                .map(|result| result.map(answer).map_err(stopped))
                .boxed(),
        ))
    }

    async fn append_once(
        &self,
        request: Request<pb::AppendEntriesRequest>,
    ) -> Result<Response<pb::AppendEntriesResponse>, Status> {
        let node = self.check(&request, From::Member)?;
        node.heard_leader();
        let rpc = transport::append_from_pb(request.into_inner()).map_err(bad)?;
        let prev = rpc.prev_log_id;
        let last = rpc.entries.last().map(|entry| entry.log_id).or(prev);
        let response = node.raft().append_entries(rpc).await.map_err(stopped)?;
        let partial = matches!(response, AppendEntriesResponse::PartialSuccess(_));
        let mut response = match response {
            AppendEntriesResponse::Conflict if prev.is_none() => {
                return Err(Status::internal("a conflict without a previous entry"));
            }
            response => answer(response.into_stream_result(prev, last)),
        };
        if let Some(Answer::Matched(matched)) = &mut response.result {
            matched.partial = partial;
        }
        Ok(Response::new(response))
    }

    async fn vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        let node = self.check(&request, From::Member)?;
        let response = node.raft().vote(vote_request(request.get_ref())?).await;
        Ok(vote_response(&response.map_err(stopped)?))
    }

    async fn pre_vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        let node = self.check(&request, From::Member)?;
        let response = node.raft().pre_vote(vote_request(request.get_ref())?).await;
        Ok(vote_response(&response.map_err(stopped)?))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let node = self.check(&request, From::Member)?;
        let request = request.into_inner();
        let transfer = openraft::raft::TransferLeaderRequest::new(
            types::vote_from_pb(request.from_leader.as_ref()).map_err(bad)?,
            request.to_node_id,
            request.last_log_id.as_ref().map(types::log_id_from_pb),
        );
        let taken = node
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
        let node = self.check(&request, From::Member)?.clone();
        let (vote, snapshot) = staging::receive(&node, request.into_inner()).await?;
        let response = node.raft().install_full_snapshot(vote, snapshot).await;
        let vote = response.map_err(stopped)?.vote;
        Ok(Response::new(pb::InstallSnapshotResponse {
            vote: Some(types::vote_to_pb(&vote)),
        }))
    }

    async fn identify(
        &self,
        _request: Request<pb::IdentifyRequest>,
    ) -> Result<Response<pb::IdentifyResponse>, Status> {
        let identity = self.0.get().map(|node| node.identity());
        Ok(Response::new(pb::IdentifyResponse {
            cluster_id: identity.map_or_else(String::new, |identity| identity.cluster_id.clone()),
            name: identity.map_or_else(String::new, |identity| identity.name.clone()),
        }))
    }

    async fn join(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinResponse>, Status> {
        let node = self.check(&request, From::Anyone)?;
        // A member passes the call on in the joining node's name.
        if node
            .view()
            .member(number(request.metadata(), "ferrolog-from"))
            .is_none()
        {
            check_certificate(&request, &request.get_ref().name)?;
        }
        let joined = node.join(request.into_inner()).await;
        Ok(Response::new(
            joined.map_err(|error| membership_status(&error))?,
        ))
    }

    async fn propose(
        &self,
        request: Request<Streaming<pb::ProposeRequest>>,
    ) -> Result<Response<Self::ProposeStream>, Status> {
        let node = self.check(&request, From::Member)?.clone();
        let answers = request.into_inner().and_then(move |request| {
            let node = node.clone();
            // Queued in the order of the stream; waited for in the stage below.
            async move { Ok(forward::queue_all(&node, request).await) }
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
        let node = self.check(&request, From::Member)?;
        let index = reads::own_read_index(node.raft()).await;
        let index = index.ok_or_else(|| Status::unavailable("this node does not lead"))?;
        Ok(Response::new(pb::ReadIndexResponse { index: Some(index) }))
    }

    async fn remove_node(
        &self,
        request: Request<pb::RemoveNodeRequest>,
    ) -> Result<Response<pb::RemoveNodeResponse>, Status> {
        let node = self.check(&request, From::Member)?;
        let removed = node.remove(&request.get_ref().name).await;
        let removed = removed.map_err(|error| membership_status(&error))?;
        Ok(Response::new(pb::RemoveNodeResponse { removed }))
    }

    async fn transfer(
        &self,
        request: Request<pb::TransferRequest>,
    ) -> Result<Response<pb::TransferResponse>, Status> {
        let node = self.check(&request, From::Member)?;
        let leader = node.transfer(&request.get_ref().to).await;
        let leader = leader.map_err(|error| membership_status(&error))?;
        Ok(Response::new(pb::TransferResponse { leader }))
    }
}
