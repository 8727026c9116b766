//! The stream that carries one heartbeat after another to a peer.
//!
//! The engine asks each heartbeat on a stream of its own. To open one costs both nodes more than the heartbeat does:
//! headers, a look at who calls, three tasks. So the stream stays open and takes the next one. At most one request is
//! under way on it: a heartbeat that is given up takes its stream along. So an answer is always one to the request
//! that waits for it, and a late one proves nothing to a later request.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::proto::raft_v1::{AppendEntriesRequest, AppendEntriesResponse};

/// An open stream on which nothing is under way, or the first request.
pub struct Heartbeats {
    /// Where the peer was when it was opened.
    addr: String,
    requests: mpsc::Sender<AppendEntriesRequest>,
    answers: Streaming<AppendEntriesResponse>,
}

/// The requests of a stream that is to be opened, and the two ends of it.
pub fn channel(
    first: AppendEntriesRequest,
) -> (
    mpsc::Sender<AppendEntriesRequest>,
    ReceiverStream<AppendEntriesRequest>,
) {
    let (requests, sent) = mpsc::channel(1);
    requests.try_send(first).expect("the channel is empty");
    (requests, ReceiverStream::new(sent))
}

impl Heartbeats {
    /// The stream that these requests and answers belong to.
    pub fn new(
        addr: String,
        requests: mpsc::Sender<AppendEntriesRequest>,
        answers: Streaming<AppendEntriesResponse>,
    ) -> Self {
        Self {
            addr,
            requests,
            answers,
        }
    }

    /// Whether the peer is there still.
    pub fn lead_to(&self, addr: &str) -> bool {
        self.addr == addr
    }

    /// Asks, and waits for the answer; `None` if the peer has ended the stream.
    pub async fn ask(
        &mut self,
        request: AppendEntriesRequest,
    ) -> Result<Option<AppendEntriesResponse>, Status> {
        if self.requests.send(request).await.is_err() {
            return Ok(None);
        }
        self.answer().await
    }

    /// The answer to what is under way.
    pub async fn answer(&mut self) -> Result<Option<AppendEntriesResponse>, Status> {
        self.answers.message().await
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll};
    use std::time::Duration;

    use futures::future::BoxFuture;
    use futures::stream::{self, BoxStream};
    use futures::{FutureExt, StreamExt};
    use openraft::network::RPCOption;
    use openraft::raft::{AppendEntriesRequest as Heartbeat, StreamAppendResult};
    use openraft::{RaftNetworkFactory, RaftNetworkV2};
    use tokio::sync::watch;
    use tonic::body::Body;
    use tonic::{Request, Response};

    use super::*;
    use crate::log::{Index, Term};
    use crate::net::memory::MemoryNetwork;
    use crate::net::mux::{Mux, MuxLimits};
    use crate::net::stream_layer::StreamLayer;
    use crate::net::{Network, Security};
    use crate::proto::raft_v1::{Matched, append_entries_response::Result as Answer};
    use crate::raft::entry::types::{self, LogId, Member, TypeConfig, Vote};
    use crate::raft::peer::sender::Sender;
    use crate::raft::peer::transport::Transport;
    use crate::raft::peer::unreachable::RpcResult;
    use crate::raft::peer::{CALL_TIMEOUT, Peer};
    use crate::tasks;

    /// A peer that has whatever it is asked for, and says so while the gate is open.
    #[derive(Clone)]
    struct Follower {
        streams: Arc<AtomicUsize>,
        is_open: watch::Receiver<bool>,
    }

    impl tonic::server::NamedService for Follower {
        const NAME: &'static str = "ferrolog.raft.v1.Raft";
    }

    impl tonic::server::StreamingService<AppendEntriesRequest> for Follower {
        type Response = AppendEntriesResponse;
        type ResponseStream = BoxStream<'static, Result<AppendEntriesResponse, Status>>;
        type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

        fn call(&mut self, request: Request<Streaming<AppendEntriesRequest>>) -> Self::Future {
            self.streams.fetch_add(1, Ordering::SeqCst);
            let gate = self.is_open.clone();
            let answers = request.into_inner().then(move |request| {
                let mut gate = gate.clone();
                async move {
                    gate.wait_for(|is_open| *is_open).await.expect("a test");
                    let log_id = request?.prev_log_id;
                    let result = Some(Answer::Matched(Matched { log_id }));
                    Ok(AppendEntriesResponse {
                        result,
                        ..AppendEntriesResponse::default()
                    })
                }
            });
            async move { Ok(Response::new(answers.boxed())) }.boxed()
        }
    }

    impl tower::Service<http::Request<Body>> for Follower {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            let follower = self.clone();
            async move {
                let codec = tonic_prost::ProstCodec::default();
                Ok(tonic::server::Grpc::new(codec)
                    .streaming(follower, request)
                    .await)
            }
            .boxed()
        }
    }

    fn id(index: u64) -> LogId {
        types::log_id(Term(1), Index(index))
    }

    /// As the engine asks: a request, and nothing behind it.
    async fn heartbeat(peer: &mut Peer, index: u64) -> RpcResult<StreamAppendResult<TypeConfig>> {
        let request = Heartbeat::<TypeConfig> {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(id(index)),
            entries: Vec::new(),
            leader_commit: None,
        };
        let requests = Box::pin(stream::once(async { request }));
        let option = RPCOption::new(CALL_TIMEOUT);
        let mut answers = peer.stream_append(requests, option).await?;
        let answer = answers.next().await.expect("an answer");
        assert!(answers.next().await.is_none(), "one request has one answer");
        answer
    }

    #[tokio::test]
    async fn heartbeats_share_a_stream_and_an_answer_that_comes_late_is_none_to_the_next() {
        let network = MemoryNetwork::new();
        let listener = network.listen("n2:1").await.unwrap();
        let (_mux, _grpc, raft) = Mux::start(listener, Security::Insecure, MuxLimits::default());
        let (gate, is_open) = watch::channel(true);
        let streams = Arc::new(AtomicUsize::new(0));
        let follower = Follower {
            streams: streams.clone(),
            is_open,
        };
        let server = tonic::transport::Server::builder().add_service(follower);
        let _serving = tasks::spawn("follower", server.serve_with_incoming(raft));

        let layer = StreamLayer::new(Arc::new(network.named("n1:1")), Security::Insecure);
        let mut transport = Transport::new(layer, Sender::default());
        let member = Member {
            addr: "n2:1".to_owned(),
            ..Member::default()
        };
        let mut peer = transport.new_client(2, &member).await;
        for index in 1..=3 {
            let answer = heartbeat(&mut peer, index).await.unwrap();
            assert_eq!(answer, Ok(Some(id(index))));
        }
        assert_eq!(streams.load(Ordering::SeqCst), 1, "one stream for all");

        // One is given up, as the engine does after its time, and answered later.
        gate.send_replace(false);
        let given_up = tokio::time::timeout(Duration::from_millis(50), heartbeat(&mut peer, 4));
        given_up.await.unwrap_err();
        gate.send_replace(true);
        let answer = heartbeat(&mut peer, 5).await.unwrap();
        assert_eq!(answer, Ok(Some(id(5))), "its own answer");
        assert_eq!(streams.load(Ordering::SeqCst), 2);

        // A stream that broke since costs no heartbeat.
        network.cut("n1:1");
        network.heal("n1:1");
        heartbeat(&mut peer, 7).await.unwrap().unwrap();
        let before = streams.load(Ordering::SeqCst);
        heartbeat(&mut peer, 8).await.unwrap().unwrap();
        assert_eq!(streams.load(Ordering::SeqCst), before, "one is kept again");
    }
}
