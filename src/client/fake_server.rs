//! A log service in memory for this folder's tests: dedups by session, and breaks on demand.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::{Client, ClientConfig};
use crate::net::memory::MemoryNetwork;
use crate::net::mux::{Mux, MuxLimits};
use crate::net::stream_layer::StreamLayer;
use crate::net::{Network, Security};
use crate::proto::log_v1::log_server::{Log, LogServer};
use crate::proto::log_v1::*;
use crate::proto::v1::cluster_service_server::{ClusterService, ClusterServiceServer};
use crate::proto::v1::*;

/// What becomes of one stream.
#[derive(Debug, Clone)]
pub(super) enum Plan {
    /// Stores `stored` records, answers the first `answered`, then ends with the status.
    Break {
        stored: usize,
        answered: usize,
        status: Status,
    },
    /// Stores and never answers.
    Silence,
    /// Answers the call itself with the status.
    Refuse(Status),
}

/// The one log that all fake servers of a test serve.
#[derive(Default)]
pub(super) struct State {
    pub(super) records: Vec<Bytes>,
    /// The offsets of each session, by sequence number.
    pub(super) sessions: HashMap<String, Vec<u64>>,
    /// Server, session and first sequence number of each produce stream, in order.
    pub(super) produced: Vec<(String, String, u64)>,
    /// Server, offset and consistency of each consume stream.
    pub(super) consumed: Vec<(String, u64, String)>,
    pub(super) plans: VecDeque<Plan>,
    /// Added to every offset a consumer sees.
    pub(super) shift: u64,
}

impl State {
    /// Appends unless the session has done so already.
    fn store(&mut self, session: &str, sequence: u64, value: Bytes) -> Result<u64, Status> {
        let next = self.records.len() as u64;
        let offsets = self.sessions.entry(session.to_owned()).or_default();
        let place = usize::try_from(sequence).unwrap();
        if let Some(&offset) = offsets.get(place) {
            return Ok(offset);
        }
        if place != offsets.len() {
            return Err(Status::failed_precondition(
                "a gap in the session's sequence",
            ));
        }
        offsets.push(next);
        self.records.push(value);
        Ok(next)
    }
}

/// Some servers over one log, and a client of them.
pub(super) struct FakeCluster {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) network: MemoryNetwork,
    _ports: Vec<Mux>,
}

impl FakeCluster {
    pub(super) async fn start(addrs: &[&str], plans: impl IntoIterator<Item = Plan>) -> Self {
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
            let router = tonic::transport::Server::builder()
                .add_service(LogServer::new(fake.clone()))
                .add_service(ClusterServiceServer::new(fake));
            tokio::spawn(router.serve_with_incoming(grpc));
            ports.push(port);
        }
        Self {
            state,
            network,
            _ports: ports,
        }
    }

    pub(super) fn client(&self, servers: &[&str], seconds: u64) -> Client {
        Client::new(ClientConfig {
            servers: servers.iter().map(|&addr| addr.to_owned()).collect(),
            stream_layer: StreamLayer::new(Arc::new(self.network.clone()), Security::Insecure),
            timeout: std::time::Duration::from_secs(seconds),
        })
    }
}

#[derive(Clone)]
struct Fake {
    addr: String,
    state: Arc<Mutex<State>>,
}

fn text<T>(request: &Request<T>, key: &str) -> String {
    request
        .metadata()
        .get(key)
        .map_or(String::new(), |value| value.to_str().unwrap().to_owned())
}

type Answers<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl Log for Fake {
    type ConsumeStreamStream = Answers<ConsumeResponse>;
    type ProduceStreamStream = Answers<ProduceResponse>;

    async fn produce(
        &self,
        request: Request<ProduceRequest>,
    ) -> Result<Response<ProduceResponse>, Status> {
        let mut state = self.state.lock().unwrap();
        state
            .records
            .push(request.into_inner().record.unwrap().value);
        Ok(Response::new(ProduceResponse {
            offset: state.records.len() as u64 - 1,
        }))
    }

    async fn produce_stream(
        &self,
        request: Request<Streaming<ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let session = text(&request, "ferrolog-session");
        let first: u64 = text(&request, "ferrolog-sequence").parse().unwrap();
        let plan = {
            let mut state = self.state.lock().unwrap();
            state
                .produced
                .push((self.addr.clone(), session.clone(), first));
            state.plans.pop_front()
        };
        if let Some(Plan::Refuse(status)) = plan {
            return Err(status);
        }
        let log = Arc::clone(&self.state);
        let stored = request
            .into_inner()
            .enumerate()
            .map(move |(place, record)| {
                let value = record?.record.unwrap().value;
                let offset = log
                    .lock()
                    .unwrap()
                    .store(&session, first + place as u64, value)?;
                Ok(ProduceResponse { offset })
            });
        Ok(Response::new(match plan {
            None | Some(Plan::Refuse(_)) => stored.boxed(),
            Some(Plan::Silence) => stored.filter(|_| futures::future::ready(false)).boxed(),
            Some(Plan::Break {
                stored: count,
                answered,
                status,
            }) => {
                let answers = stored.take(count).enumerate();
                let answers = answers.filter_map(move |(place, answer)| {
                    futures::future::ready((place < answered).then_some(answer))
                });
                answers.chain(stream::once(async { Err(status) })).boxed()
            }
        }))
    }

    async fn consume(
        &self,
        _: Request<ConsumeRequest>,
    ) -> Result<Response<ConsumeResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn consume_stream(
        &self,
        request: Request<ConsumeRequest>,
    ) -> Result<Response<Self::ConsumeStreamStream>, Status> {
        let offset = request.get_ref().offset;
        let (plan, records, shift) = {
            let mut state = self.state.lock().unwrap();
            state.consumed.push((
                self.addr.clone(),
                offset,
                text(&request, "ferrolog-consistency"),
            ));
            (state.plans.pop_front(), state.records.clone(), state.shift)
        };
        if let Some(Plan::Refuse(status)) = plan {
            return Err(status);
        }
        let end = records.len();
        let records = records
            .into_iter()
            .zip(0..)
            .skip(usize::try_from(offset).unwrap());
        let answers = stream::iter(records).map(move |(value, offset)| {
            let record = Record {
                value,
                offset: offset + shift,
                term: 0,
                r#type: 0,
            };
            Ok(ConsumeResponse {
                record: Some(record),
            })
        });
        let answers = match plan {
            Some(Plan::Break {
                answered, status, ..
            }) => answers
                .take(answered)
                .chain(stream::once(async { Err(status) }))
                .boxed(),
            Some(Plan::Silence) => stream::pending().boxed(),
            _ => answers
                .chain(futures::future::pending().into_stream())
                .boxed(),
        };
        let mut response = Response::new(answers);
        response
            .metadata_mut()
            .insert("ferrolog-next-offset", end.into());
        response
            .metadata_mut()
            .insert("ferrolog-first-offset", 0.into());
        Ok(response)
    }

    async fn get_servers(
        &self,
        _: Request<GetServersRequest>,
    ) -> Result<Response<GetServersResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }
}

#[tonic::async_trait]
impl ClusterService for Fake {
    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let next_offset = self.state.lock().unwrap().records.len() as u64;
        let node_name = self.addr.clone();
        Ok(Response::new(GetStatusResponse {
            next_offset,
            node_name,
            ..GetStatusResponse::default()
        }))
    }

    async fn remove_node(
        &self,
        request: Request<RemoveNodeRequest>,
    ) -> Result<Response<RemoveNodeResponse>, Status> {
        match self.state.lock().unwrap().plans.pop_front() {
            Some(Plan::Refuse(status)) => Err(status),
            _ => Ok(Response::new(RemoveNodeResponse {
                removed: request.get_ref().name == "n1",
            })),
        }
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
