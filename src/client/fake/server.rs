//! A cluster in memory for this folder's tests: servers over one log that break on demand.
//!
//! The log service is in `fake_log`; here are the log's state, the servers, and what an operator asks them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::batch;
use crate::client::Client;
use crate::net::memory::MemoryNetwork;
use crate::net::mux::{Mux, MuxLimits};
use crate::net::stream_layer::StreamLayer;
use crate::net::{Network, Security};
use crate::proto::v1::cluster_service_server::{ClusterService, ClusterServiceServer};
use crate::proto::v1::log_service_server::LogServiceServer;
use crate::proto::v1::*;
use crate::tasks;

/// What becomes of one stream or call.
#[derive(Debug, Clone)]
pub(in crate::client) enum Plan {
    /// Takes `stored` batches, answers the first `answered`, then ends with the status.
    Break {
        stored: usize,
        answered: usize,
        status: Status,
    },
    /// Takes all and never answers, not even at once.
    Silence,
    /// Answers the call itself with the status.
    Refuse(Status),
    /// Does as asked.
    Work,
}

/// A session's batches: sequence number, bytes and where they were appended.
pub(in crate::client) type Session = Vec<(u64, Batch, ProduceResponse)>;

/// One batch as it came: server, session, sequence number, records.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::client) struct Came {
    pub(in crate::client) server: String,
    pub(in crate::client) session: Option<SessionSequence>,
    pub(in crate::client) batch: Batch,
}

/// The one log that all fake servers of a test serve.
#[derive(Default)]
pub(in crate::client) struct State {
    pub(in crate::client) batches: Vec<StoredBatch>,
    pub(in crate::client) next_offset: u64,
    pub(in crate::client) tokens: HashMap<Bytes, u64>,
    pub(in crate::client) sessions: HashMap<u64, Session>,
    pub(in crate::client) closed_sessions: Vec<u64>,
    /// Every batch that was sent, in order, also those that were sent again.
    pub(in crate::client) came: Vec<Came>,
    /// Which server each produce stream and call went to.
    pub(in crate::client) produced: Vec<String>,
    /// Server and start of each consume stream.
    pub(in crate::client) consumed: Vec<(String, ConsumeStreamStart)>,
    /// Bytes of records sent to consumers, and granted by them.
    pub(in crate::client) told_bytes: u64,
    pub(in crate::client) granted_bytes: u64,
    /// One for each produce or consume stream, and for each unary call that heeds them.
    pub(in crate::client) plans: VecDeque<Plan>,
    /// Added to every offset a consumer sees.
    pub(in crate::client) shift: u64,
    /// Credit that producers get; 64 batches of 4 MiB in all if it is not set.
    pub(in crate::client) credit: Option<(u64, u32)>,
    pub(in crate::client) epochs: BTreeMap<String, (u64, String)>,
    pub(in crate::client) cursors: BTreeMap<String, u64>,
    /// The members that can be removed.
    pub(in crate::client) nodes: BTreeSet<String>,
}

/// A status with a reason of ours.
pub(in crate::client) fn refusal(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Status {
    let metadata = metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let details =
        ErrorDetails::with_error_info(reason, "ferrolog", metadata.collect::<HashMap<_, _>>());
    Status::with_error_details(code, format!("refused: {reason}"), details)
}

impl State {
    /// Appends unless the session has done so already.
    pub(in crate::client) fn store(
        &mut self,
        request: ProduceRequest,
    ) -> Result<ProduceResponse, Status> {
        let batch = request.batch.unwrap();
        if let Some(fence) = request.fence {
            let epoch = self.epochs.get(&fence.name).map_or(0, |(epoch, _)| *epoch);
            if epoch != fence.epoch {
                let metadata = [("name", fence.name.as_str()), ("epoch", &epoch.to_string())];
                let code = Code::FailedPrecondition;
                return Err(refusal(code, "FENCED", &metadata));
            }
        }
        if let Some(place) = &request.session {
            let code = Code::FailedPrecondition;
            let Some(session) = self.sessions.get(&place.session) else {
                return Err(refusal(code, "SESSION_EXPIRED", &[]));
            };
            let mut known = session.iter();
            if let Some((_, old, answer)) = known.find(|(first, ..)| *first == place.sequence) {
                assert_eq!(*old, batch, "a batch that is sent again is the same");
                let duplicate = true;
                return Ok(ProduceResponse {
                    duplicate,
                    ..*answer
                });
            }
            let last = session.last();
            let due = last.map_or(0, |(first, batch, _)| first + u64::from(batch.count));
            if due != place.sequence {
                return Err(refusal(Code::Aborted, "SEQUENCE_GAP", &[]));
            }
        }
        let next = self.next_offset;
        if request.expected_next_offset.is_some_and(|at| at != next) {
            let metadata = [("next_offset", next.to_string())];
            let metadata = metadata.each_ref().map(|(k, v)| (*k, v.as_str()));
            return Err(refusal(Code::Aborted, "OFFSET_DIFFERS", &metadata));
        }
        let answer = self.append(batch.clone());
        if let Some(place) = request.session {
            let session = self.sessions.get_mut(&place.session).unwrap();
            session.push((place.sequence, batch, answer));
        }
        Ok(answer)
    }

    pub(in crate::client) fn append(&mut self, batch: Batch) -> ProduceResponse {
        let first_offset = self.next_offset;
        let count = batch.count;
        self.next_offset += u64::from(count);
        self.batches.push(StoredBatch {
            first_offset,
            batch: Some(batch),
            append_timestamp_ms: 7,
        });
        ProduceResponse {
            first_offset,
            count,
            append_timestamp_ms: 7,
            duplicate: false,
        }
    }

    /// The values of all records.
    pub(in crate::client) fn values(&self) -> Vec<Bytes> {
        let mut values = Vec::new();
        for stored in &self.batches {
            let batch = stored.batch.as_ref().unwrap();
            let compression = batch::Compression::new(batch.compression).unwrap();
            let plain = batch::decompress(&batch.records, compression, 1 << 30).unwrap();
            let before = values.len();
            values.extend(batch::records(&plain).map(|record| record.unwrap().value));
            assert_eq!(values.len() - before, batch.count as usize);
        }
        values
    }
}

/// Some servers over one log, and a client of them.
pub(in crate::client) struct FakeCluster {
    pub(in crate::client) state: Arc<Mutex<State>>,
    pub(in crate::client) network: MemoryNetwork,
    _ports: Vec<Mux>,
}

impl FakeCluster {
    pub(in crate::client) async fn start(
        addrs: &[&str],
        plans: impl IntoIterator<Item = Plan>,
    ) -> Self {
        let network = MemoryNetwork::new();
        let state = Arc::new(Mutex::new(State {
            plans: plans.into_iter().collect(),
            ..State::default()
        }));
        let mut ports = Vec::new();
        for addr in addrs {
            let listener = network.listen(addr).await.unwrap();
            let (port, grpc, _raft) =
                Mux::start(listener, Security::Insecure, MuxLimits::default());
            let fake = Fake {
                addr: (*addr).to_owned(),
                state: Arc::clone(&state),
            };
            let log = LogServiceServer::new(fake.clone()).max_decoding_message_size(1 << 30);
            let router = tonic::transport::Server::builder()
                .add_service(log)
                .add_service(ClusterServiceServer::new(fake));
            tasks::spawn("fake server", router.serve_with_incoming(grpc));
            ports.push(port);
        }
        Self {
            state,
            network,
            _ports: ports,
        }
    }

    pub(in crate::client) fn client(&self, servers: &[&str], seconds: u64) -> Client {
        let servers = servers.iter().map(|&addr| addr.to_owned()).collect();
        let layer = StreamLayer::new(Arc::new(self.network.clone()), Security::Insecure);
        Client::new(servers, layer, std::time::Duration::from_secs(seconds))
    }
}

#[derive(Clone)]
pub(in crate::client) struct Fake {
    pub(in crate::client) addr: String,
    pub(in crate::client) state: Arc<Mutex<State>>,
}

#[tonic::async_trait]
impl ClusterService for Fake {
    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let state = self.state.lock().unwrap();
        let next_offset = state.next_offset;
        let node_name = self.addr.clone();
        // As a test names them, so they are reached.
        let nodes = state.nodes.iter().map(|name| Node {
            name: name.clone(),
            addr: name.clone(),
            ..Node::default()
        });
        Ok(Response::new(GetStatusResponse {
            next_offset,
            node_name,
            nodes: nodes.collect(),
            ..GetStatusResponse::default()
        }))
    }

    async fn remove_node(
        &self,
        request: Request<RemoveNodeRequest>,
    ) -> Result<Response<RemoveNodeResponse>, Status> {
        let mut state = self.state.lock().unwrap();
        let plan = state.plans.pop_front();
        if let Some(Plan::Refuse(status)) = plan {
            return Err(status);
        }
        let removed = state.nodes.remove(&request.get_ref().name);
        match plan {
            Some(Plan::Break { status, .. }) => Err(status),
            _ => Ok(Response::new(RemoveNodeResponse { removed })),
        }
    }

    async fn allow_node(
        &self,
        _: Request<AllowNodeRequest>,
    ) -> Result<Response<AllowNodeResponse>, Status> {
        Ok(Response::new(AllowNodeResponse {}))
    }

    async fn disallow_node(
        &self,
        _: Request<DisallowNodeRequest>,
    ) -> Result<Response<DisallowNodeResponse>, Status> {
        Ok(Response::new(DisallowNodeResponse { withdrawn: true }))
    }

    async fn create_join_token(
        &self,
        _: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        Err(Status::unimplemented("no tokens here"))
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipResponse>, Status> {
        Ok(Response::new(TransferLeadershipResponse {
            leader: request.into_inner().to,
        }))
    }

    async fn trim(&self, request: Request<TrimRequest>) -> Result<Response<TrimResponse>, Status> {
        let first_offset = request.get_ref().first_offset;
        Ok(Response::new(TrimResponse { first_offset }))
    }

    async fn get_retention(
        &self,
        _request: Request<GetRetentionRequest>,
    ) -> Result<Response<GetRetentionResponse>, Status> {
        Ok(Response::new(GetRetentionResponse::default()))
    }

    async fn set_retention(
        &self,
        _request: Request<SetRetentionRequest>,
    ) -> Result<Response<SetRetentionResponse>, Status> {
        Ok(Response::new(SetRetentionResponse::default()))
    }
}
