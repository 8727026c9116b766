//! Puts the services on a stream of connections: the APIs, health that tells the truth, reflection.

pub mod calls;
pub mod reasons;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::runtime::Handle;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter as Reporter;
use tower::util::MapResponseLayer;

use crate::net::budget::{self, Budget};
use crate::net::mux::MuxStream;
use crate::proto::PUBLIC_DESCRIPTORS;
use crate::proto::log_v1::log_server::LogServer;
use crate::proto::v1::cluster_service_server::ClusterServiceServer;
use crate::proto::v1::log_service_server::LogServiceServer;
use crate::raft::{Origin, ReplicatedLog};

use super::intake::IntakeLayer;
use super::limits::STREAM_WINDOW;
use super::log_v1::LogV1;
use super::native::Native;
use super::native::cluster::Cluster;
use super::{ApiContext, Audit, Counts, Drain, Facts, Limits, Policy, answers};
use calls::counted;
use reasons::Complete;

/// How many bytes it may send on all streams of a connection. This is more than waiting streams may hold, so
/// that the others go on.
const CONNECTION_WINDOW: u32 = 12 << 20;
const _: () = assert!(
    CONNECTION_WINDOW as usize >= budget::UNREAD.connection_bytes_max + 16 * STREAM_WINDOW as usize,
    "streams that wait could freeze their connection"
);
const PEER_STREAM_WINDOW: u32 = 4 << 20;
const PEER_CONNECTION_WINDOW: u32 = 12 << 20;
/// How many bytes of a request's headers are read. It is more than
/// [`METADATA_BYTES_MAX`](super::intake::METADATA_BYTES_MAX), so that a request between the two is refused with
/// a reason. HTTP/2 itself refuses longer headers, and ends the connection at far longer ones.
const HEADERS_READ_MAX: u32 = 80 << 10;
const PEER_HEADERS_MAX: u32 = 16 << 10;
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How many calls a connection may have cancelled before the server looked at them: as many as it may have
/// under way.
const CANCELLED_MAX: usize = 1024;
/// How many frames a connection may send in its life to calls that are over, or that are beyond the limit of
/// calls under way. Some are normal: a frame may be on its way when its call is cancelled. One that sends more
/// is ended.
const STRAY_MAX: usize = 1 << 16;
/// The services whose health is told, the whole node (`""`) among them.
const HEALTH: [&str; 4] = [
    "",
    "log.v1.Log",
    "ferrolog.v1.LogService",
    "ferrolog.v1.ClusterService",
];

/// Tells clients and probes whether the node can serve.
#[derive(Clone)]
pub struct HealthReporter(Reporter);

impl HealthReporter {
    /// From now on probes hear this.
    pub async fn set(&self, serving: bool) {
        let told = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in HEALTH {
            self.0.set_service_status(service, told).await;
        }
    }
}

/// The server failed.
#[derive(Debug, thiserror::Error)]
#[error("the gRPC server failed")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Everything that a client may call, and the handle that tells its health. The node serves
/// nothing, and says so, until the log takes its `seat`.
pub async fn router(
    seat: Arc<OnceLock<ReplicatedLog>>,
    policy: Policy,
    limits: Limits,
    drain: Drain,
    bulk: Handle,
    (counts, facts): (Arc<Counts>, Facts),
) -> (Routes, HealthReporter) {
    let message_max = limits.message_bytes_max();
    let api = ApiContext::new(seat, policy, limits, drain, bulk);
    let api = Arc::new(api.counting(counts).knowing(facts));
    // Answers are limited where they are made: a log may hold larger records than are taken now.
    let log = LogServer::new(LogV1(api.clone())).max_decoding_message_size(message_max);
    let native = LogServiceServer::new(Native(api.clone())).max_decoding_message_size(message_max);
    let (reporter, health) = tonic_health::server::health_reporter();
    let reporter = HealthReporter(reporter);
    reporter.set(false).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(PUBLIC_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let made = "the descriptors are made by the build";
    let reflected = reflection().build_v1().expect(made);
    // Most tools still ask for the older version of reflection.
    let reflected_before = reflection().build_v1alpha().expect(made);
    let routes = Routes::new(log)
        .add_service(native)
        .add_service(ClusterServiceServer::new(Cluster(api)))
        .add_service(health)
        .add_service(reflected)
        .add_service(reflected_before);
    (routes, reporter)
}

/// Serves routes on client connections, to those that the policy lets, until `stop`, then finishes the calls under way.
/// What the connections hold counts for `budget`.
pub async fn serve(
    routes: Routes,
    policy: Policy,
    (limits, budget, counts): (&Limits, Budget, Arc<Counts>),
    incoming: impl Stream<Item = std::io::Result<MuxStream>>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let incoming = incoming.map(move |stream| stream.map(|stream| stream.counted(&budget)));
    let server = Server::builder()
        .max_concurrent_streams(limits.streams_per_connection_max)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(HEADERS_READ_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_max_pending_accept_reset_streams(Some(CANCELLED_MAX))
        .http2_max_local_error_reset_streams(Some(STRAY_MAX))
        .layer(counted(counts, policy.clone()))
        .layer(Complete)
        .layer(IntakeLayer::new(policy, limits))
        .layer(MapResponseLayer::new(answers::counted))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop);
    Ok(server.await?)
}

/// Serves the raft service on peers' connections until `stop`. Who may not join is told in the log of changes.
pub async fn serve_peers(
    seat: Arc<OnceLock<ReplicatedLog>>,
    audit: Audit,
    incoming: impl Stream<Item = std::io::Result<MuxStream>>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let refused = move |stranger: &Origin, why: &Status| audit.not_let_in(stranger, why.message());
    let server = Server::builder()
        .initial_stream_window_size(PEER_STREAM_WINDOW)
        .initial_connection_window_size(PEER_CONNECTION_WINDOW)
        .http2_max_header_list_size(PEER_HEADERS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_max_pending_accept_reset_streams(Some(CANCELLED_MAX))
        .http2_max_local_error_reset_streams(Some(STRAY_MAX))
        .add_service(crate::raft::service(seat, Arc::new(refused)))
        .serve_with_incoming_shutdown(incoming, stop);
    Ok(server.await?)
}
