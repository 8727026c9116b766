//! One peer, as the engine calls it: makes each call, and gives the engine the answer in its own types.
//!
//! Each call goes to the peer's latest address. `transport` decides which connection carries it.

pub mod answers;
pub mod calling;
pub mod checks;
pub mod fetch;
mod heartbeats;
mod requests;
pub mod sender;
pub mod transport;
pub mod unreachable;
pub mod watermark;
pub mod wire;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::{Stream, StreamExt, future, stream};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::{RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use prost::Message;
use tonic::Status;

use crate::proto::raft_v1 as pb;
use crate::raft::entry::types::{self, Member, TypeConfig, Vote};
use crate::raft::peer::calling::CallingNode;
use crate::raft::peer::unreachable::RpcResult;
use crate::raft::snapshot::{self, Snapshot, SnapshotData};
use crate::raft::view::counts::{Heartbeat, Way};

use self::answers::Asked;
use self::checks::Pair;
use self::heartbeats::Heartbeats;
use self::requests::{Requests, Window};
use self::sender::Sender;
use self::transport::{Link, PeerClient, Transport};

/// Between two tries to reach a peer.
const BACKOFF: Duration = Duration::from_millis(100);
/// How long a peer may take to accept a stream of entries.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// One peer, as the engine calls it.
pub struct Peer {
    from: Sender,
    node: Arc<OnceLock<CallingNode>>,
    target: u64,
    /// The peer's address, for as long as the membership does not tell it.
    addr: String,
    link: Option<Link>,
    heartbeats: Option<Heartbeats>,
    transport: Transport,
}

impl Peer {
    /// The node `target`; at `addr` if the membership does not tell its address.
    pub(crate) fn new(
        transport: Transport,
        from: Sender,
        node: Arc<OnceLock<CallingNode>>,
        target: u64,
        addr: String,
    ) -> Self {
        Self {
            from,
            node,
            target,
            addr,
            link: None,
            heartbeats: None,
            transport,
        }
    }

    /// This node and the peer, for the checks of a request of `term`.
    fn pair(&self, term: u64) -> Pair {
        Pair {
            me: self.from.node_id,
            peer: self.target,
            term,
        }
    }

    /// A client of the peer at its latest address. The engine keeps one [`Peer`] for as long as it replicates to
    /// the peer, also when that moves.
    fn client(&mut self) -> PeerClient {
        let addr = self.transport.addr(self.target, &self.addr);
        match &self.link {
            Some(link) if link.addr == addr => link.client.clone(),
            _ => {
                let client = self.transport.own_client(self.target, &self.addr);
                let kept = client.clone();
                self.link = Some(Link { addr, client: kept });
                client
            }
        }
    }

    /// Asks a request that nothing follows, on the stream of the one before it. `None` if the peer ended the
    /// stream instead of an answer.
    async fn heartbeat(
        &mut self,
        asked: &Asked,
        request: &AppendEntriesRequest<TypeConfig>,
    ) -> RpcResult<Option<StreamAppendResult<TypeConfig>>> {
        asked.sent(request);
        let request = wire::append_to_pb(request);
        let node = self.node.clone();
        let beat = node.get().map(|node| node.counts.heartbeat(self.target));
        let mut client = self.client();
        let addr = self.link.as_ref().map_or(&self.addr, |link| &link.addr);
        // Taken out while it is asked: who gives up drops it, and the answer with it.
        if let Some(mut kept) = self.heartbeats.take().filter(|kept| kept.lead_to(addr))
            && let Ok(Some(answer)) = kept.ask(request.clone()).await
        {
            beat.into_iter().for_each(Heartbeat::answered);
            return self.judged(asked, answer, kept);
        }
        // None is open, or it ended meanwhile, which says nothing of where the peer is by now.
        let (requests, sent) = heartbeats::channel(request);
        let call = client.append_entries(sent);
        let answers = self
            .call(RPCTypes::AppendEntries, CALL_TIMEOUT, call)
            .await?;
        let mut opened = Heartbeats::new(addr.clone(), requests, answers);
        match opened.answer().await {
            Ok(Some(answer)) => {
                beat.into_iter().for_each(Heartbeat::answered);
                self.judged(asked, answer, opened)
            }
            Ok(None) => Ok(None),
            Err(status) => asked.answered(Err(status)).map(Some),
        }
    }

    /// What an answer is to the engine. The stream is kept unless it ends with this answer.
    fn judged(
        &mut self,
        asked: &Asked,
        answer: pb::AppendEntriesResponse,
        stream: Heartbeats,
    ) -> RpcResult<Option<StreamAppendResult<TypeConfig>>> {
        let result = asked.answered(Ok(answer))?;
        self.heartbeats = result.is_ok().then_some(stream);
        Ok(Some(result))
    }

    /// Returns once the peer's address is another than the one that was called last.
    fn moved(&self) -> impl Future<Output = ()> + Send + 'static {
        let addr = self.link.as_ref().map_or(&self.addr, |link| &link.addr);
        self.transport.addresses().left(self.target, addr)
    }

    /// Makes a call within the engine's deadline.
    async fn call<T>(
        &self,
        action: RPCTypes,
        timeout: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> RpcResult<T> {
        match tokio::time::timeout(timeout, call).await {
            Ok(result) => {
                let noted = result.inspect_err(|status| {
                    answers::note(&self.node, self.target, Err(status));
                });
                Ok(noted.map_err(answers::rpc_error)?.into_inner())
            }
            Err(_) => Err(RPCError::Timeout(Timeout {
                action,
                id: self.from.node_id,
                target: self.target,
                timeout,
            })),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Transport {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Member) -> Peer {
        let (from, knows) = (self.from.clone(), self.node.clone());
        Peer::new(self.clone(), from, knows, target, node.addr.clone())
    }
}

/// The error that ends a stream whose next entries are not here.
///
/// A try that merely ended would be made again as it was, and hold on to the entries that it reads: the engine would
/// purge none of them, although they were trimmed and nobody else has them any more.
fn failed_for(
    lacks: Arc<AtomicBool>,
) -> impl Stream<Item = RpcResult<StreamAppendResult<TypeConfig>>> {
    let failed = async move {
        let what = "the entries that come next wait for repair here, or were given up";
        let failed = RPCError::Network(NetworkError::from_string(what));
        lacks.load(Ordering::Relaxed).then_some(Err(failed))
    };
    stream::once(failed).filter_map(future::ready)
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotData;

    /// Not called: entries and heartbeats go through `stream_append`, whose default would call this.
    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        let what = "entries are sent on streams only";
        Err(RPCError::Network(NetworkError::from_string(what)))
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let mut input = Requests::new(input);
        let window = Arc::new(Window::default());
        let answered = window.clone();
        Box::pin(async move {
            // Wait for the first request before dialling: the engine pauses between tries by holding the request
            // back, and a dial before it would try a dead peer again without a pause.
            let Some(first) = input.next().await else {
                // The engine has ended the stream, and an ended stream must not be polled again.
                return Ok(stream::empty().boxed());
            };
            let pair = self.pair(first.vote.leader_id.term);
            let asked = Asked::new(self.node.clone(), pair);
            if first.entries.is_empty() && input.have_ended() {
                let answer = self.heartbeat(&asked, &first).await?;
                return Ok(stream::iter(answer.map(Ok)).boxed());
            }
            let oldest = asked.clone();
            let lacks = Arc::new(AtomicBool::new(false));
            let told = (self.node.clone(), lacks.clone());
            let requests = stream::unfold(
                (Some(first), input, window, asked.clone(), told),
                |(first, mut input, window, asked, told)| async move {
                    // Wait for a place before the request is taken: the engine then puts into it all that is
                    // new by that time.
                    window.enter().await;
                    let request = match first {
                        Some(first) => first,
                        None => input.next().await?,
                    };
                    let (node, lacks) = &told;
                    if node
                        .get()
                        .is_some_and(|node| node.lacks_entries_of(&request))
                    {
                        lacks.store(true, Ordering::Relaxed);
                        return None;
                    }
                    let sent = wire::append_to_pb(&request);
                    window.send(sent.encoded_len()).await;
                    asked.sent(&request);
                    Some((sent, (None, input, window, asked, told)))
                },
            );
            // The connection may poll the stream once more after its end.
            let requests = requests.fuse();
            let mut client = self.client();
            let moved = self.moved();
            let call = client.append_entries(requests);
            let answers = self
                .call(RPCTypes::AppendEntries, CALL_TIMEOUT, call)
                .await?;
            let results = answers.map(move |answer| {
                answered.answered();
                oldest.answered(answer)
            });
            let results = answers::unless_silent(results, asked);
            // After a move the stream ends, and the engine opens another one at the peer's new address.
            let results = results.take_until(moved);
            Ok(results.chain(failed_for(lacks)).boxed())
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let mut client = self.client();
        let call = client.vote(wire::vote_request_to_pb(&rpc));
        let answer = self.call(RPCTypes::Vote, option.hard_ttl(), call).await?;
        answers::vote(&self.pair(rpc.vote.leader_id.term), &answer)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let mut client = self.client();
        let call = client.pre_vote(wire::vote_request_to_pb(&rpc));
        let answer = self.call(RPCTypes::Vote, option.hard_ttl(), call).await?;
        answers::vote(&self.pair(rpc.vote.leader_id.term), &answer)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        // The segments that the manifest names must stay until the peer has copied them. Segments that were
        // removed since the snapshot was built are left out of the manifest.
        let node = self.node.get();
        let _pinned = node.map(|node| node.log.pin());
        let floor = node.and_then(|node| *node.floor.lock());
        let begins = snapshot::floor_of(floor.as_ref()).index;
        let segments = &snapshot.snapshot.segments;
        // What was rewritten since stands under other names.
        let segments =
            node.map_or_else(|| segments.to_vec(), |node| node.log.as_rewritten(segments));
        let held = segments.iter().filter(|seal| seal.base >= begins);
        let request = pb::InstallSnapshotRequest {
            vote: Some(types::vote_to_pb(&vote)),
            checkpoint: Some(snapshot.snapshot.checkpoint.clone()),
            floor,
            segments: held.map(snapshot::seal_to_pb).collect(),
            rows: Vec::new(),
        };
        let parts = snapshot::to_parts(request, &snapshot.snapshot.rows);
        let mut client = self.client();
        let moved = self.moved();
        let send = client.install_snapshot(stream::iter(parts));
        let answer = tokio::select! {
            () = moved => return Err(Unreachable::from_string("the peer has moved").into()),
            answer = send => answer.map_err(|status| Unreachable::new(&status))?,
            closed = cancel => return Err(closed.into()),
        };
        let answered = types::vote_from_pb(answer.into_inner().vote.as_ref());
        let answered = answered.map_err(|error| Unreachable::new(&error))?;
        let sound = self.pair(vote.leader_id.term).answered_vote(&answered);
        sound.map_err(|error| Unreachable::new(&error))?;
        if let Some(node) = self.node.get() {
            node.counts.snapshots.of(Way::Sent).one_more();
            tracing::info!(
                peer = self.target,
                addr = self.addr,
                "sent a snapshot to a member that lacks more than the log has"
            );
        }
        Ok(SnapshotResponse::new(answered))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<openraft::raft::TransferLeaderResponse<TypeConfig>> {
        if let Some(node) = self.node.get() {
            let term = request.from_leader().leader_id.term;
            let named = Some((term, *request.to_node_id()));
            node.successor.send_replace(named);
        }
        let mut client = self.client();
        let call = client.transfer_leader(pb::TransferLeaderRequest {
            from_leader: Some(types::vote_to_pb(request.from_leader())),
            to_node_id: *request.to_node_id(),
            last_log_id: request.last_log_id().map(types::log_id_to_pb),
        });
        let answer = self
            .call(RPCTypes::TransferLeader, option.hard_ttl(), call)
            .await?;
        if answer.refused.is_empty() {
            return Ok(Ok(()));
        }
        Err(RPCError::Network(NetworkError::from_string(answer.refused)))
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(BACKOFF)))
    }
}

#[cfg(test)]
mod tests {
    use openraft::RaftNetworkFactory;

    use super::*;
    use crate::net::Security;
    use crate::net::memory::MemoryNetwork;
    use crate::net::stream_layer::StreamLayer;
    use crate::raft::entry::types::Member;

    /// The engine may end a stream before its first request, and its streams may not be asked again.
    #[tokio::test]
    async fn a_stream_that_ends_at_once_is_not_asked_again() {
        let network = MemoryNetwork::new();
        let layer = StreamLayer::new(Arc::new(network.named("n1:1")), Security::Insecure);
        let mut transport = Transport::new(layer, Sender::default());
        let mut peer = transport.new_client(2, &Member::default()).await;
        let requests = stream::unfold((), async |()| None);
        let option = RPCOption::new(CALL_TIMEOUT);
        let answers = peer.stream_append(Box::pin(requests), option).await;
        assert_eq!(answers.unwrap().count().await, 0);
    }
}
