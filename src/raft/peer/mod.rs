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

use std::collections::VecDeque;
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
use prost::Message;
use tokio::sync::Semaphore;
use tonic::Status;

use crate::proto::raft_v1 as pb;
use crate::raft::entry::types::{self, Member, TypeConfig, Vote};
use crate::raft::peer::calling::CallingNode;
use crate::raft::peer::unreachable::RpcResult;
use crate::raft::snapshot::{self, Snapshot, SnapshotData};

use self::answers::Asked;
use self::checks::Pair;
use self::heartbeats::Heartbeats;
use self::requests::Requests;
use self::sender::Sender;
use self::transport::{Link, PeerClient, Transport};

/// How many messages to one follower may wait for its answer. A few are enough, since each carries many records:
/// hashicorp/raft lowered its own default from 128 to 2.
const IN_FLIGHT_MAX: usize = 4;
/// A message above this size takes two places, since each message is a copy of its entries in memory.
const SMALL_BYTES_MAX: usize = 2 << 20;
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
        let mut client = self.client();
        let addr = self.link.as_ref().map_or(&self.addr, |link| &link.addr);
        // Taken out while it is asked: who gives up drops it, and the answer with it.
        if let Some(mut kept) = self.heartbeats.take().filter(|kept| kept.lead_to(addr))
            && let Ok(Some(answer)) = kept.ask(request.clone()).await
        {
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
            Ok(Some(answer)) => self.judged(asked, answer, opened),
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

/// The places of the messages that wait for a follower's answer.
struct Window {
    places: Semaphore,
    /// How many places each message took, the oldest first; answers come in the same order.
    taken: Mutex<VecDeque<usize>>,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            places: Semaphore::new(IN_FLIGHT_MAX),
            taken: Mutex::default(),
        }
    }
}

impl Window {
    /// Waits for a place for a message of any size.
    async fn enter(&self) {
        self.take().await;
    }

    /// Waits for the second place, if a message of so many bytes takes one.
    async fn send(&self, bytes: usize) {
        let is_large = bytes > SMALL_BYTES_MAX;
        if is_large {
            self.take().await;
        }
        self.taken.lock().push_back(1 + usize::from(is_large));
    }

    async fn take(&self) {
        let permit = self.places.acquire().await;
        permit.expect("places are never closed").forget();
    }

    /// Frees the places of the oldest message.
    fn answered(&self) {
        // An answer without a request frees nothing.
        let places = self.taken.lock().pop_front().unwrap_or(0);
        self.places.add_permits(places);
    }
}

impl RaftNetworkFactory<TypeConfig> for Transport {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Member) -> Peer {
        let (from, knows) = (self.from.clone(), self.node.clone());
        Peer::new(self.clone(), from, knows, target, node.addr.clone())
    }
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
            let requests = stream::unfold(
                (Some(first), input, window, asked.clone()),
                |(first, mut input, window, asked)| async move {
                    // Wait for a place before the request is taken: the engine then puts into it all that is
                    // new by that time.
                    window.enter().await;
                    let request = match first {
                        Some(first) => first,
                        None => input.next().await?,
                    };
                    let sent = wire::append_to_pb(&request);
                    window.send(sent.encoded_len()).await;
                    asked.sent(&request);
                    Some((sent, (None, input, window, asked)))
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
                asked.answered(answer)
            });
            // After a move the stream ends, and the engine opens another one at the peer's new address.
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
        // The segments that the manifest names must stay until the peer has copied them. Segments that were
        // removed since the snapshot was built are left out of the manifest.
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
            rows: snapshot.snapshot.rows.to_vec(),
        };
        let mut client = self.client();
        let moved = self.moved();
        let send = client.install_snapshot(stream::iter(snapshot::to_parts(request)));
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
    use futures::FutureExt;
    use openraft::RaftNetworkFactory;

    use super::*;
    use crate::net::Security;
    use crate::net::memory::MemoryNetwork;
    use crate::net::stream_layer::StreamLayer;
    use crate::raft::entry::types::Member;

    #[tokio::test]
    async fn large_messages_take_two_places_of_the_window() {
        let window = Window::default();
        let mut sent = 0;
        let mut send = async |bytes| {
            let sending = async {
                window.enter().await;
                window.send(bytes).await;
            };
            let is_sent = sending.now_or_never().is_some();
            sent += usize::from(is_sent);
            is_sent
        };
        assert!(send(SMALL_BYTES_MAX + 1).await);
        assert!(send(SMALL_BYTES_MAX).await && send(1).await);
        assert!(!send(1).await, "{sent} are under way");
        window.answered();
        assert!(send(1).await && send(1).await, "the large one took two");
        assert!(!send(1).await);
        window.answered();
        assert!(send(1).await && !send(1).await, "a small one took one");
        // What nobody asked for frees nothing.
        (0..10).for_each(|_| window.answered());
        assert_eq!(window.places.available_permits(), IN_FLIGHT_MAX);
    }

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
