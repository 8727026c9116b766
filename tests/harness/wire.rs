//! Raw calls: `log.v1` as its clients make them, the number in `grpc-status`, and raft streams by hand.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrolog::cli::local_cluster::LocalCluster;
use ferrolog::net::Kind;
use ferrolog::net::Security;
use ferrolog::net::stream_layer::{ChannelOptions, StreamLayer};
use ferrolog::net::tcp::TcpNetwork;
use ferrolog::net::tls::{Tls, TlsFiles};
use ferrolog::proto::log_v1::log_client::LogClient;
use ferrolog::proto::log_v1::{ConsumeRequest, ProduceRequest, Record};
use http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::ServiceExt;

/// No single call of these tests takes longer in a sound build.
pub const CALL_MAX: Duration = Duration::from_secs(30);

/// A channel of a client's to one node.
pub fn channel(cluster: &LocalCluster, place: usize) -> Channel {
    let layer = cluster.stream_layer().expect("a client's certificate");
    layer.channel(
        Kind::Grpc,
        cluster.addr(place),
        ChannelOptions {
            connect_timeout: CALL_MAX,
            ..ChannelOptions::default()
        },
    )
}

pub fn log_client(cluster: &LocalCluster, place: usize) -> LogClient<Channel> {
    LogClient::new(channel(cluster, place))
}

/// Waits for a call, with a limit.
pub async fn answer<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    let answer = tokio::time::timeout(CALL_MAX, call).await;
    let answer = answer.unwrap_or_else(|_| panic!("no answer within {CALL_MAX:?}"));
    answer.map(tonic::Response::into_inner)
}

/// Appends one record by one call.
pub async fn produce(client: &mut LogClient<Channel>, value: &[u8]) -> Result<u64, Status> {
    let request = ProduceRequest {
        record: Some(Record {
            value: Bytes::copy_from_slice(value),
            ..Record::default()
        }),
    };
    let response = answer(client.produce(request)).await?;
    Ok(response.offset)
}

pub fn request(offset: u64, strong: bool) -> Request<ConsumeRequest> {
    let mut request = Request::new(ConsumeRequest { offset });
    if strong {
        let value = MetadataValue::from_static("strong");
        request.metadata_mut().insert("ferrolog-consistency", value);
    }
    request
}

/// Reads one record by one call.
pub async fn consume(
    client: &mut LogClient<Channel>,
    offset: u64,
    strong: bool,
) -> Result<Record, Status> {
    let response = answer(client.consume(request(offset, strong))).await?;
    Ok(response.record.expect("an answer holds a record"))
}

/// Reads one record, and tells the number in the answer's `grpc-status` header as it came over the wire:
/// tonic's own type cannot hold all of them. `None` if the answer brought no such header.
pub async fn consume_raw(
    channel: Channel,
    offset: u64,
    strong: bool,
) -> (Result<Record, Status>, Option<String>) {
    let seen = Arc::new(std::sync::Mutex::new(None));
    let note = Arc::clone(&seen);
    let noting = channel.map_response(move |response: http::Response<_>| {
        let header = response.headers().get("grpc-status");
        let number = header.map(|value| value.to_str().expect("digits").to_owned());
        *note.lock().expect("no panic before") = number;
        response
    });
    let mut client = LogClient::new(noting);
    let response = answer(client.consume(request(offset, strong))).await;
    let record = response.map(|response| response.record.expect("a record"));
    let number = seen.lock().expect("no panic before").take();
    (record, number)
}

/// What the health service says of `service`: the number of the protocol, 1 for SERVING, 2 for NOT_SERVING.
pub async fn health(channel: Channel, service: &str) -> Result<i32, Status> {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let response = answer(HealthClient::new(channel).check(request)).await?;
    Ok(response.status)
}

pub const SERVING: i32 = 1;
pub const NOT_SERVING: i32 = 2;

/// How a holder of these files dials.
pub fn layer_of(files: &TlsFiles) -> StreamLayer {
    let tls = Tls::load(files).expect("a certificate");
    StreamLayer::new(Arc::new(TcpNetwork), Security::Mutual(tls))
}

/// The answer of the raft service's `Identify`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Identified {
    #[prost(string, tag = "1")]
    pub cluster_id: String,
    /// Given to members alone.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub members: Vec<Vec<u8>>,
}

/// Calls a verb of the raft service with an empty request, which names its caller as these.
pub async fn raft_call(
    layer: &StreamLayer,
    addr: &str,
    verb: &str,
    metadata: &[(&'static str, String)],
) -> Result<Identified, Status> {
    let channel = layer.channel(Kind::Raft, addr, ChannelOptions::default());
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready()
        .await
        .map_err(|error| Status::from_error(error.into()))?;
    let mut request = Request::new(());
    for (key, value) in metadata {
        let value = value.parse().expect("metadata in ASCII");
        request.metadata_mut().insert(*key, value);
    }
    let path = format!("/ferrolog.raft.v1.Raft/{verb}");
    let path = PathAndQuery::try_from(path).expect("a path");
    let codec = tonic_prost::ProstCodec::<(), Identified>::default();
    answer(grpc.unary(request, path, codec)).await
}
