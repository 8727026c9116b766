//! The transport: how this node calls its peers, over streams that open with the `RaftRPC` byte.
//!
//! Replication is pipelined on a stream of its own; heartbeats and snapshots have connections of
//! theirs, so that neither waits behind bulk. Every call says who calls whom in which cluster.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
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
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use crate::log::Log;
use crate::net::Kind;
use crate::net::stream_layer::{ChannelOptions, StreamLayer};
use crate::proto::raft_v1 as pb;
use crate::proto::raft_v1::raft_client::RaftClient;

use super::addresses::Addresses;
use super::answers::{self, RpcResult};
use super::clocks::Clocks;
use super::hearing::{Hearing, Successor};
use super::sender::{Sender, Tag};
use super::snapshot::{self, Snapshot, SnapshotData};
use super::sound::{Pair, Unanswered};
use super::space::Space;
use super::types::{self, Member, TypeConfig, Vote};
use super::watermark::Watermarks;
use super::wire;

/// Messages to one follower that wait for its answer. Batching does more for throughput than
/// depth: hashicorp/raft lowered its own default from 128 to 2.
const IN_FLIGHT_MAX: usize = 4;
/// A message carries at most one entry above 1 MiB.
pub const MESSAGE_BYTES_MAX: usize = 40 << 20;
/// Between two tries to reach a peer.
const BACKOFF: Duration = Duration::from_millis(100);
/// For a peer to take a stream of entries.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// A client of a peer's raft service.
pub type PeerClient = RaftClient<InterceptedService<Channel, Tag>>;

/// Calls peers in the name of one node.
#[derive(Clone)]
pub struct Transport {
    layer: StreamLayer,
    from: Sender,
    /// What the node has, once it belongs to a cluster.
    node: Arc<OnceLock<Node>>,
    addresses: Addresses,
    kept: Arc<Mutex<HashMap<(u64, Lane), Link>>>,
    /// Serves the connections, whoever makes the first call on one: that of clients' calls may be
    /// busy.
    runtime: Option<Handle>,
}

/// What is carried by a kept connection of its own, so that nothing waits behind bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Single calls.
    Calls,
    /// Records on their way to the leader.
    Records,
}

/// A connection to a node as long as it is there.
struct Link {
    addr: String,
    client: PeerClient,
}

/// What a transport needs of the node that calls.
#[derive(Debug)]
pub struct Node {
    /// The log whose segments a snapshot names.
    pub log: Log,
    /// Whom a leader named as its successor.
    pub successor: Arc<watch::Sender<Successor>>,
    /// Where it begins, as it was made durable.
    pub floor: Arc<Mutex<Option<pb::Floor>>>,
    /// Who has room.
    pub space: Space,
    /// What peers' clocks say.
    pub clocks: Clocks,
    /// What peers have confirmed.
    pub confirmed: Watermarks,
}

impl Node {
    pub fn new(
        log: &Log,
        floor: &Arc<Mutex<Option<pb::Floor>>>,
        space: &Space,
        clocks: &Clocks,
        hearing: &Hearing,
    ) -> Self {
        Self {
            log: log.clone(),
            floor: floor.clone(),
            space: space.clone(),
            clocks: clocks.clone(),
            confirmed: Watermarks::default(),
            successor: hearing.successor(),
        }
    }
}

impl Transport {
    pub fn new(layer: StreamLayer, from: Sender) -> Self {
        Self {
            layer,
            from,
            node: Arc::default(),
            addresses: Addresses::default(),
            kept: Arc::default(),
            runtime: Handle::try_current().ok(),
        }
    }

    /// Where the members are.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Where a node is reached; at `addr` if it is no member.
    pub fn addr(&self, id: u64, addr: &str) -> String {
        self.addresses.of(id).unwrap_or_else(|| addr.to_owned())
    }

    /// Lets snapshots keep their segments in this log while they are sent, and takes note of peers
    /// without room.
    pub fn with_node(self, node: Node) -> Self {
        // A transport is made for at most one node.
        let _ = self.node.set(node);
        self
    }

    /// A client of the node `to`, on the one connection that all such calls to it share; at `addr`,
    /// unless it is known to be elsewhere. It connects when used.
    pub fn client(&self, to: u64, addr: &str) -> PeerClient {
        self.kept(to, addr, Lane::Calls)
    }

    /// The same for what one lane carries.
    pub fn kept(&self, to: u64, addr: &str, lane: Lane) -> PeerClient {
        if to == 0 {
            return self.own_client(to, addr);
        }
        let now = self.addr(to, addr);
        let mut kept = self.kept.lock();
        if let Some(link) = kept.get(&(to, lane))
            && link.addr == now
        {
            return link.client.clone();
        }
        let client = self.own_client(to, addr);
        let link = Link {
            addr: now,
            client: client.clone(),
        };
        kept.insert((to, lane), link);
        client
    }

    /// A client with a connection of its own. `to` is 0 if the node's id is not known.
    pub fn own_client(&self, to: u64, addr: &str) -> PeerClient {
        let _served_by = self.runtime.as_ref().map(Handle::enter);
        let options = ChannelOptions {
            keepalive: Some(Duration::from_secs(1)),
            ..ChannelOptions::default()
        };
        let (addresses, addr) = (self.addresses.clone(), addr.to_owned());
        let whereabouts = move || addresses.of(to).unwrap_or_else(|| addr.clone());
        let channel = self
            .layer
            .channel_to(Kind::Raft, Arc::new(whereabouts), options);
        let from = self.from.clone();
        RaftClient::with_interceptor(channel, Tag { from, to })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

impl RaftNetworkFactory<TypeConfig> for Transport {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Member) -> Peer {
        Peer {
            from: self.from.clone(),
            node: self.node.clone(),
            target,
            addr: node.addr.clone(),
            link: None,
            transport: self.clone(),
        }
    }
}

/// One peer, as the engine calls it.
pub struct Peer {
    from: Sender,
    node: Arc<OnceLock<Node>>,
    target: u64,
    /// Where it is if the membership does not say.
    addr: String,
    link: Option<Link>,
    transport: Transport,
}

impl Peer {
    /// This node and the peer, as a question of `term` finds them.
    fn pair(&self, term: u64) -> Pair {
        Pair {
            me: self.from.node_id,
            peer: self.target,
            term,
        }
    }

    /// A client of the peer where it is by now. The engine keeps one of these for as long as it
    /// replicates to the peer, wherever that goes.
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

    /// Returns once the peer has moved from where it was called last.
    fn moved(&self) -> impl Future<Output = ()> + Send + 'static {
        let addr = self.link.as_ref().map_or(&self.addr, |link| &link.addr);
        self.transport.addresses.left(self.target, addr)
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

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotData;

    /// Entries and heartbeats alike go by `stream_append`: only its default would call this.
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
        mut input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let window = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let answered = window.clone();
        let (node, target) = (self.node.clone(), self.target);
        Box::pin(async move {
            // The engine waits between tries inside its requests: a dial that came before the
            // first request would try a dead peer again without a pause.
            let Some(first) = input.next().await else {
                // The engine replicates no more; the stream must not be asked a second time.
                return Ok(stream::empty().boxed());
            };
            let term = first.vote.leader_id.term;
            let (pair, unanswered) = (self.pair(term), Arc::new(Unanswered::default()));
            let requests = stream::unfold(
                (Some(first), input, window, unanswered.clone()),
                |(first, mut input, window, unanswered)| async move {
                    // A place in the window first, so that what is sent is as new as can be.
                    window.acquire().await.ok()?.forget();
                    let request = match first {
                        Some(first) => first,
                        None => input.next().await?,
                    };
                    unanswered.sent(&request);
                    let sent = wire::append_to_pb(&request);
                    Some((sent, (None, input, window, unanswered)))
                },
            );
            // The connection may ask once more after the end.
            let requests = requests.fuse();
            let mut client = self.client();
            let moved = self.moved();
            let call = client.append_entries(requests);
            let answers = self
                .call(RPCTypes::AppendEntries, CALL_TIMEOUT, call)
                .await?;
            let results = answers.map(move |answer| {
                answered.add_permits(1);
                answers::note(&node, target, answer.as_ref());
                let result = wire::stream_result(answer.map_err(answers::rpc_error)?)?;
                let sound = unanswered.answered(&pair, &result);
                sound.map_err(|error| answers::unsound(target, &error))?;
                answers::judge(&node, target, term, result)
            });
            // The engine then goes on where the peer is by now.
            Ok(results.take_until(moved).boxed())
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
        // What the manifest names must stay until the peer has it. What was given up since the
        // snapshot was built, it names no more.
        let node = self.node.get();
        let _pinned = node.map(|node| node.log.pin());
        let floor = node.and_then(|node| *node.floor.lock());
        let begins = snapshot::floor_of(floor.as_ref()).index;
        let segments = snapshot.snapshot.segments.iter();
        let held = segments.filter(|seal| seal.base >= begins);
        let request = pb::InstallSnapshotRequest {
            vote: Some(types::vote_to_pb(&vote)),
            checkpoint: Some(snapshot.snapshot.checkpoint.clone()),
            floor,
            segments: held.map(snapshot::seal_to_pb).collect(),
            sender_addr: self.from.addr.clone(),
        };
        let mut client = self.client();
        let moved = self.moved();
        let send = client.install_snapshot(stream::iter(snapshot::to_parts(&request)));
        let answer = tokio::select! {
            () = moved => return Err(Unreachable::from_string("the peer has moved").into()),
            answer = send => answer.map_err(|status| Unreachable::new(&status))?,
            closed = cancel => return Err(closed.into()),
        };
        let answered = types::vote_from_pb(answer.into_inner().vote.as_ref());
        let answered = answered.map_err(|error| Unreachable::new(&error))?;
        let sound = self.pair(vote.leader_id.term).answered_vote(&answered);
        sound.map_err(|error| Unreachable::new(&error))?;
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
    use super::*;
    use crate::net::Security;
    use crate::net::memory::MemoryNetwork;

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
