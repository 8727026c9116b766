//! What the tests of the verbs share: a bare log without consensus, served over streams in memory.

mod calls;
mod streams;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use prost::Message;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request};
use tonic_types::StatusExt;
use tower::util::MapResponseLayer;

use super::intake::IntakeLayer;
use super::log_v1::LogV1;
use super::*;
use crate::disk::memory::MemoryDisk;
use crate::log::record::{batches, check_bundle, join};
use crate::log::{self, Entry, Index, Kind, Log, LogId, Offset, Run, Term};
use crate::net::memory::MemoryNetwork;
use crate::net::mux::{Mux, MuxLimits};
use crate::net::stream_layer::{ChannelOptions, StreamLayer};
use crate::net::{Network, Security};
use crate::proto::log_v1::log_client::LogClient;
use crate::proto::log_v1::log_server::LogServer;
use crate::proto::log_v1::{ConsumeRequest, ProduceRequest, Record as WireRecord};
use crate::raft::{
    Answer, Applied, Caller, CreateLog, Demands, ExecuteError, OffsetRange, Origin, ProposeError,
    ReadError, Receipt, Refusal, Refused, View,
};
use crate::reason::{self, Reason};

const LIMIT: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(10);

/// A log without raft: what is appended is committed.
#[derive(Clone)]
struct Bare {
    log: Log,
    next: Arc<Mutex<u64>>,
    applied: watch::Sender<Applied>,
    /// The batches that were proposed, in records.
    batches: Arc<Mutex<Vec<u32>>>,
    name: Arc<Mutex<Name>>,
}

/// What the log's name means to a node.
#[derive(Clone, Copy, PartialEq)]
enum Name {
    Log,
    Nothing,
    /// A log that is gone, as the node hears once it passes a barrier: then the name means what is said here.
    Gone {
        is_anew: bool,
    },
}

impl Bare {
    fn new() -> Self {
        let config = log::Config {
            segment_bytes_max: 1 << 16,
            index_bytes_max: 1 << 14,
            inline_io: true,
            ..log::Config::default()
        };
        let disk = Arc::new(MemoryDisk::default());
        let (log, _) = Log::open(
            disk,
            Path::new("/bare"),
            config,
            crate::log::Floor::default(),
            None,
        )
        .unwrap();
        Self {
            log,
            next: Arc::default(),
            applied: watch::Sender::new(Applied::default()),
            batches: Arc::default(),
            name: Arc::new(Mutex::new(Name::Log)),
        }
    }
}

impl CommitLog for Bare {
    fn named(&self, name: &str) -> Option<Self> {
        let is_known = name.is_empty() && *self.name.lock() != Name::Nothing;
        is_known.then(|| self.clone())
    }

    async fn make(&self, _: CreateLog) -> Result<Self, ExecuteError> {
        Ok(self.clone())
    }

    fn id(&self) -> LogId {
        LogId::DEFAULT
    }

    fn demands(&self) -> Demands {
        Demands::default()
    }

    fn until(&self, _: Option<Instant>) -> Self {
        self.clone()
    }

    fn asked_by(&self, _: &Origin) -> Self {
        self.clone()
    }

    async fn propose(
        &self,
        _caller: Caller,
        batch: Bytes,
        _since: Instant,
    ) -> Result<Answer, ProposeError> {
        let bundle = check_bundle(&batch).map_err(|_| ProposeError::Malformed)?;
        let count = bundle[0].count;
        if matches!(*self.name.lock(), Name::Gone { .. }) {
            let (reply, answer) = oneshot::channel();
            let why = Refusal::NoSuchLog;
            let refused = ProposeError::Refused(Refused { why, batch: 0 });
            reply.send(Err(refused)).unwrap();
            return Ok(answer);
        }
        self.batches.lock().push(count);
        let payload = join([batch].iter(), Some(7));
        let mut next = self.next.lock();
        let entry = Entry {
            term: Term(1),
            index: Index(*next),
            kind: Kind::Records,
            payload: payload.clone(),
        };
        *next += 1;
        let (reply, answer) = oneshot::channel::<Result<Receipt, ProposeError>>();
        self.log
            .append(vec![entry.clone()], Box::new(|result| result.unwrap()))
            .unwrap();
        let log = LogId::DEFAULT;
        let (_, first) = self.log.offsets(log);
        let run = Run::of(&batches(&payload).unwrap()[0], 0, first);
        self.log.publish(entry.index, &[run]).unwrap();
        let (_, next_offset) = self.log.offsets(log);
        let index = Some(entry.index.0);
        self.applied.send_replace(Applied { index, next_offset });
        let receipt = Receipt {
            ranges: vec![OffsetRange { first, count }],
            timestamp_ms: 7,
            duplicate: false,
        };
        reply.send(Ok(receipt)).unwrap();
        Ok(answer)
    }

    async fn read_barrier(&self) -> Result<(), ReadError> {
        let mut name = self.name.lock();
        let Name::Gone { is_anew } = *name else {
            return Err(ReadError::NoLeader { waited_ms: 7 });
        };
        *name = if is_anew { Name::Log } else { Name::Nothing };
        Ok(())
    }

    fn log(&self) -> &Log {
        &self.log
    }

    fn watch_applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    fn view(&self) -> View {
        View::default()
    }
}

struct Served {
    client: LogClient<Channel>,
    bare: Bare,
    drain: watch::Sender<bool>,
    layer: StreamLayer,
    _mux: Mux,
}

/// Serves a bare log over streams in memory.
async fn served() -> Served {
    served_on(MuxLimits::default()).await
}

fn client(layer: &StreamLayer) -> LogClient<Channel> {
    let options = ChannelOptions::default();
    LogClient::new(layer.channel(crate::net::Kind::Grpc, "127.0.0.1:1", options))
}

/// The same on a port with limits of its own.
async fn served_on(port: MuxLimits) -> Served {
    let network = MemoryNetwork::new();
    let listener = network.listen("127.0.0.1:1").await.unwrap();
    let (mux, clients, _peers) = Mux::start(listener, Security::Insecure, port);
    let (drain, draining) = Drain::new();
    let seat = Arc::new(OnceLock::new());
    let bare = Bare::new();
    assert!(seat.set(bare.clone()).is_ok());
    let limits = Limits {
        record_bytes_max: LIMIT,
        ..Limits::default()
    };
    let api = ApiContext::new(seat, Policy::default(), limits, draining, Handle::current());
    let api = Arc::new(api);
    let server = Server::builder()
        .layer(crate::server::router::calls::counted(
            api.counts.clone(),
            Policy::default(),
        ))
        .layer(crate::server::router::reasons::Complete)
        .layer(IntakeLayer::new(Policy::default(), &api.limits))
        .layer(MapResponseLayer::new(answers::counted))
        .add_service(LogServer::new(LogV1(api.clone())))
        .serve_with_incoming(clients);
    tokio::spawn(server);
    let layer = StreamLayer::new(Arc::new(network), Security::Insecure);
    Served {
        client: client(&layer),
        layer,
        bare,
        drain,
        _mux: mux,
    }
}

fn produce(value: &[u8]) -> ProduceRequest {
    ProduceRequest {
        record: Some(WireRecord {
            value: Bytes::copy_from_slice(value),
            offset: 99,
            term: 3,
            r#type: 4,
        }),
    }
}

fn with<T>(message: T, pairs: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (key, value) in pairs {
        request.metadata_mut().insert(*key, value.parse().unwrap());
    }
    request
}
