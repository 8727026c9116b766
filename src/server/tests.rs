//! The verbs over a bare log: what clients see, without consensus underneath.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use prost::Message;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request};
use tonic_types::StatusExt;
use tower::util::MapResponseLayer;

use super::commit_log::read_log;
use super::intake::IntakeLayer;
use super::log_v1::LogV1;
use super::*;
use crate::disk::memory::MemoryDisk;
use crate::log::record::{Stored, batches, check_batch, join};
use crate::log::{self, Entry, Index, Kind, Log, Offset, Run, Term};
use crate::net::memory::MemoryNetwork;
use crate::net::mux::{Mux, MuxLimits};
use crate::net::stream_layer::{ChannelOptions, StreamLayer};
use crate::net::{Network, Security};
use crate::proto::log_v1::log_client::LogClient;
use crate::proto::log_v1::log_server::LogServer;
use crate::proto::log_v1::{ConsumeRequest, ProduceRequest, Record as WireRecord};
use crate::raft::{Answer, Applied, Caller, OffsetRange, ProposeError, ReadError, Receipt, View};
use crate::reason::{self, Reason};

const LIMIT: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(10);

/// A log without raft: what is appended is committed.
struct Bare {
    log: Log,
    next: Mutex<u64>,
    applied: watch::Sender<Applied>,
    /// The batches that were proposed, in records.
    batches: Mutex<Vec<u32>>,
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
            next: Mutex::new(0),
            applied: watch::Sender::new(Applied::default()),
            batches: Mutex::default(),
        }
    }
}

impl CommitLog for Bare {
    async fn propose(
        &self,
        _caller: Caller,
        batch: Bytes,
        _since: Instant,
    ) -> Result<Answer, ProposeError> {
        let count = check_batch(&batch)
            .map_err(|_| ProposeError::Malformed)?
            .count;
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
        let skip = batches(&payload).unwrap()[0].row_skip().unwrap();
        let first = self
            .log
            .publish(entry.index, &[Run { skip, count }])
            .unwrap();
        let (_, next_offset) = self.log.offsets();
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
        Err(ReadError::NoLeader { waited_ms: 7 })
    }

    async fn read_stored(
        &self,
        offset: Offset,
        bytes_max: usize,
        disk: &Semaphore,
    ) -> Result<Vec<Stored>, log::Error> {
        read_log(&self.log, offset, bytes_max, disk).await
    }

    fn offsets(&self) -> (Offset, Offset) {
        self.log.offsets()
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
    shared: Arc<Shared<Bare>>,
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
    assert!(seat.set(Bare::new()).is_ok());
    let limits = Limits {
        record_bytes_max: LIMIT,
        ..Limits::default()
    };
    let shared = Shared::new(seat, Policy::default(), limits, draining, Handle::current());
    let shared = Arc::new(shared);
    let server = Server::builder()
        .layer(calls::counted())
        .layer(super::reasons::Complete)
        .layer(IntakeLayer::new(Policy::default(), &shared.limits))
        .layer(MapResponseLayer::new(answers::counted))
        .add_service(LogServer::new(LogV1(shared.clone())))
        .serve_with_incoming(clients);
    tokio::spawn(server);
    let layer = StreamLayer::new(Arc::new(network), Security::Insecure);
    Served {
        client: client(&layer),
        layer,
        shared,
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

#[tokio::test]
async fn a_record_comes_back_whole_under_its_own_offset() {
    let mut served = served().await;
    for offset in 0..3 {
        let response = served.client.produce(produce(b"value")).await.unwrap();
        assert_eq!(response.into_inner().offset, offset);
    }
    let record = served
        .client
        .consume(ConsumeRequest { offset: 2 })
        .await
        .unwrap();
    let record = record.into_inner().record.unwrap();
    let expected = WireRecord {
        offset: 2,
        ..produce(b"value").record.unwrap()
    };
    assert_eq!(record, expected);
}

#[tokio::test]
async fn past_the_end_is_404_with_its_details() {
    let mut served = served().await;
    let status = served
        .client
        .consume(ConsumeRequest { offset: 7 })
        .await
        .unwrap_err();
    // The client's type has no 404; the number reaches it as unknown, the details as they are.
    assert_eq!(status.code(), Code::Unknown);
    let details = tonic_types::pb::Status::decode(status.details()).unwrap();
    assert_eq!(details.code, 404);
    let any = &details.details[0];
    let text = tonic_types::pb::LocalizedMessage::decode(&*any.value).unwrap();
    assert!(
        text.message.ends_with(": 7") && text.locale == "en-US",
        "{text:?}"
    );
    assert!(
        status.metadata().get(status::NUMBER).is_none(),
        "the number has moved"
    );
    // A machine reads the reason, as in the native API.
    let info = reason::info(&status).expect("an ErrorInfo beside it");
    assert_eq!(info.reason, Reason::OffsetOutOfRange.name());
    assert_eq!(info.metadata["next_offset"], "0");
}

/// What the library answers by itself has a reason, too, and keeps to the limit of headers.
#[tokio::test]
async fn every_status_gives_a_reason() {
    let served = served().await;
    let path = |path: &'static str| http::uri::PathAndQuery::from_static(path);
    let mut grpc = tonic::client::Grpc::new(served.layer.channel(
        crate::net::Kind::Grpc,
        "127.0.0.1:1",
        ChannelOptions::default(),
    ));
    let codec = tonic_prost::ProstCodec::<Bytes, Bytes>::default;
    for (at, message, reason) in [
        ("/log.v1.Log/Nothing", "x", Reason::NoSuchMethod),
        ("/no.such.Service/Nothing", "x", Reason::NoSuchMethod),
        (
            "/log.v1.Log/Produce",
            "\u{7f}\u{7f}",
            Reason::MalformedMessage,
        ),
    ] {
        grpc.ready().await.unwrap();
        let request = Request::new(Bytes::from_static(message.as_bytes()));
        let answer: Result<tonic::Response<Bytes>, _> =
            grpc.unary(request, path(at), codec()).await;
        let status = answer.unwrap_err();
        assert_eq!(Reason::of(&status), Some(reason), "{at}: {status:?}");
        assert_eq!(status.code(), reason.code(), "{at}");
    }
    // A deadline of the caller's own, over before the log is read. The answer is sometimes there first.
    let mut client = served.client.clone();
    let mut is_late = async || {
        let mut request = Request::new(ConsumeRequest { offset: 0 });
        request.set_timeout(Duration::from_nanos(1));
        let status = client.consume(request).await.unwrap_err();
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled)
    };
    let mut late = false;
    for _ in 0..1000 {
        late = late || is_late().await;
    }
    assert!(late, "no deadline is ever over");
    // A long text comes back short.
    let request = with(produce(b"x"), &[("ferrolog-session", &"9".repeat(5_000))]);
    let status = client.produce(request).await.unwrap_err();
    assert_eq!(
        Reason::of(&status),
        Some(Reason::InvalidRequest),
        "{status:?}"
    );
}

#[tokio::test]
async fn bad_requests_say_what_is_wrong() {
    let mut served = served().await;
    let client = &mut served.client;
    let missing = client
        .produce(ProduceRequest { record: None })
        .await
        .unwrap_err();
    assert_eq!(missing.code(), Code::InvalidArgument);
    let large = client.produce(produce(&[0; LIMIT + 1])).await.unwrap_err();
    assert_eq!(large.code(), Code::InvalidArgument);
    assert!(
        large.message().contains("1001 bytes"),
        "{}",
        large.message()
    );
    client.produce(produce(&[0; LIMIT])).await.unwrap();
    let session = "0".repeat(32);
    let all = |session, secret, sequence| {
        let names = ["ferrolog-session", "ferrolog-secret", "ferrolog-sequence"];
        [0, 1, 2].map(|place| (names[place], [session, secret, sequence][place]))
    };
    for pairs in [
        &[("ferrolog-session", &*session)][..],
        &[("ferrolog-sequence", "0")],
        &[("ferrolog-session", &*session), ("ferrolog-sequence", "0")],
        &[("ferrolog-secret", &*session), ("ferrolog-sequence", "0")],
        &all("xyz", &session, "0"),
        &all(&session, "xyz", "0"),
        &all(&session, &session, "-1"),
    ] {
        let refused = client
            .produce(with(produce(b"x"), pairs))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{pairs:?}");
    }
    let offset = ConsumeRequest { offset: 0 };
    let odd = client
        .consume(with(offset, &[("ferrolog-consistency", "eventual")]))
        .await;
    assert_eq!(odd.unwrap_err().code(), Code::InvalidArgument);
    let strong = client
        .consume(with(offset, &[("ferrolog-consistency", "strong")]))
        .await;
    assert_eq!(
        strong.unwrap_err().code(),
        Code::Unavailable,
        "the barrier is asked"
    );
}

fn reason(status: &tonic::Status) -> String {
    let info = status.get_details_error_info();
    info.unwrap_or_else(|| panic!("no reason: {status:?}"))
        .reason
}

#[tokio::test]
async fn what_never_comes_to_a_verb_is_refused_with_a_reason_too() {
    let mut served = served().await;
    // Too long as a message, so that nobody reads the record in it.
    let large = || produce(&[0; 100 * LIMIT]);
    let status = served.client.produce(large()).await.unwrap_err();
    let found = (status.code(), reason(&status));
    let expected = (Code::InvalidArgument, "RECORD_TOO_LARGE".to_owned());
    assert_eq!(found, expected);
    let requests = futures::stream::iter([produce(b"fine"), large(), produce(b"late")]);
    let answers = served.client.produce_stream(requests).await.unwrap();
    let answers: Vec<_> = answers.into_inner().collect().await;
    assert_eq!(answers[0].as_ref().unwrap().offset, 0);
    assert_eq!(reason(answers[1].as_ref().unwrap_err()), "RECORD_TOO_LARGE");
    assert_eq!(answers.len(), 2);

    let zipped = with(produce(b"x"), &[("grpc-encoding", "gzip")]);
    let status = served.client.produce(zipped).await.unwrap_err();
    let found = (status.code(), reason(&status));
    let expected = (Code::Unimplemented, "UNSUPPORTED_ENCODING".to_owned());
    assert_eq!(found, expected);
    let accepted = status.metadata().get("grpc-accept-encoding");
    assert_eq!(accepted.unwrap(), "identity");
    let plain = with(produce(b"x"), &[("grpc-encoding", "identity")]);
    served.client.produce(plain).await.unwrap();
    assert_eq!(served.shared.log().unwrap().offsets().1, Offset(2));
}

#[tokio::test]
async fn a_stream_is_answered_in_order_and_in_batches() {
    let mut served = served().await;
    let requests: Vec<_> = (0..5000_u64)
        .map(|number| produce(&number.to_le_bytes()))
        .collect();
    let answers = served
        .client
        .produce_stream(futures::stream::iter(requests))
        .await;
    let answers: Vec<_> = answers
        .unwrap()
        .into_inner()
        .map(|answer| answer.unwrap().offset)
        .collect()
        .await;
    assert_eq!(answers, (0..5000).collect::<Vec<_>>());
    let log = served.shared.log().unwrap();
    let batches = log.batches.lock().clone();
    assert!(batches.len() < 2500, "{} batches", batches.len());
    for offset in [0, 1234, 4999] {
        let read = log.log.read(Offset(offset), 1).unwrap();
        assert_eq!(read[0].value, offset.to_le_bytes()[..]);
    }
}

#[tokio::test]
async fn a_bad_record_ends_its_stream_and_nothing_before_it() {
    let mut served = served().await;
    let requests = [
        produce(b"a"),
        produce(b"b"),
        produce(&[0; LIMIT + 1]),
        produce(b"c"),
    ];
    let answers = served
        .client
        .produce_stream(futures::stream::iter(requests))
        .await;
    let answers: Vec<_> = answers.unwrap().into_inner().collect().await;
    let offsets: Vec<_> = answers
        .iter()
        .flatten()
        .map(|answer| answer.offset)
        .collect();
    assert_eq!(offsets, [0, 1]);
    let status = answers.last().unwrap().as_ref().unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        served.shared.log().unwrap().offsets().1,
        Offset(2),
        "c was not appended"
    );
}

#[tokio::test]
async fn a_stream_waits_at_the_tail_and_ends_when_the_node_stops() {
    let mut served = served().await;
    served.client.produce(produce(b"old")).await.unwrap();
    let stream = served
        .client
        .consume_stream(ConsumeRequest { offset: 1 })
        .await
        .unwrap();
    assert_eq!(stream.metadata().get("ferrolog-first-offset").unwrap(), "0");
    assert_eq!(stream.metadata().get("ferrolog-next-offset").unwrap(), "1");
    let mut stream = stream.into_inner();
    let (requests, sent) = tokio::sync::mpsc::channel(1);
    let answers = served
        .client
        .produce_stream(ReceiverStream::new(sent))
        .await
        .unwrap();
    requests.send(produce(b"new")).await.unwrap();
    let record = tokio::time::timeout(PATIENCE, stream.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(record.unwrap().record.unwrap().value, "new");

    served.drain.send_replace(true);
    let end = tokio::time::timeout(PATIENCE, stream.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
    let answers: Vec<_> = tokio::time::timeout(PATIENCE, answers.into_inner().collect())
        .await
        .unwrap();
    assert_eq!(answers[0].as_ref().unwrap().offset, 1);
    assert_eq!(answers[1].as_ref().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_once_it_had_no_call_for_long_and_not_before() {
    // One from one address.
    let limits = MuxLimits {
        clients_max: 2,
        ..MuxLimits::default()
    };
    let mut served = served_on(limits).await;
    let (mut first, mut other) = (client(&served.layer), client(&served.layer));
    served.client.produce(produce(b"first")).await.unwrap();
    let asked = served.client.consume_stream(ConsumeRequest { offset: 0 });
    let mut records = asked.await.unwrap().into_inner();
    records.message().await.unwrap().expect("the first record");
    tokio::time::sleep(limits.idle_timeout * 3).await;
    let refused = other.produce(produce(b"refused")).await.unwrap_err();
    let told = format!("{refused:?}");
    assert!(told.contains("connections from one address"), "{told}");
    served.client.produce(produce(b"second")).await.unwrap();
    records.message().await.unwrap().expect("the second record");

    drop(records);
    tokio::time::sleep(limits.idle_timeout * 2).await;
    first
        .produce(produce(b"third"))
        .await
        .expect("a place is free");
}
