//! The dialling side of the one port: opens streams the way the peer's `mux` expects them.
//!
//! Each dial resolves the name again and ends by its deadline. A channel connects when it is first used and
//! again after a loss; what to do when that fails is left to the caller.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tonic::transport::{Channel, Endpoint};

use super::gathering::gathering;
use super::tls::TlsError;
use super::{BoxIo, Kind, Network, Security};

/// An idle peer that does not answer a ping for this long is lost.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("dialling {addr} took longer than {after:?}")]
    Timeout { addr: String, after: Duration },
    #[error("cannot reach {addr}")]
    Connect { addr: String, source: io::Error },
    #[error("{addr} is no peer of ours")]
    Tls { addr: String, source: Box<TlsError> },
}

/// Whether a call that ended so was never sent: its peer was not reached.
pub fn was_unreached(status: &tonic::Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<DialError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// How a channel connects and how much may be in flight on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelOptions {
    /// The time for the name, the connection and the TLS handshake together.
    pub connect_timeout: Duration,
    /// How often an idle or busy peer is pinged; `None` leaves a dead one to TCP.
    pub keepalive: Option<Duration>,
    pub stream_window: Option<u32>,
    pub connection_window: Option<u32>,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            keepalive: Some(Duration::from_secs(5)),
            stream_window: Some(4 * 1024 * 1024),
            connection_window: Some(8 * 1024 * 1024),
        }
    }
}

/// Where a channel's peer is by now: asked at each dial.
pub type Whereabouts = Arc<dyn Fn() -> String + Send + Sync>;

/// A network together with the way we prove ourselves on it.
#[derive(Clone)]
pub struct StreamLayer {
    network: Arc<dyn Network>,
    security: Security,
}

impl StreamLayer {
    pub fn new(network: Arc<dyn Network>, security: Security) -> Self {
        Self { network, security }
    }

    pub fn security(&self) -> &Security {
        &self.security
    }

    pub fn network(&self) -> &Arc<dyn Network> {
        &self.network
    }

    /// Opens one stream of `kind` to `addr`, within `timeout` from the name to the end of the handshake.
    pub async fn dial(
        &self,
        kind: Kind,
        addr: &str,
        timeout: Duration,
    ) -> Result<BoxIo, DialError> {
        tokio::time::timeout(timeout, self.open(kind, addr))
            .await
            .unwrap_or_else(|_| {
                Err(DialError::Timeout {
                    addr: addr.to_owned(),
                    after: timeout,
                })
            })
    }

    /// A lazily connected HTTP/2 channel, which redials (and so resolves again) after a loss.
    ///
    /// An `addr` that is none fails like an unreachable one, at the first call. Needs a tokio runtime.
    pub fn channel(&self, kind: Kind, addr: &str, options: ChannelOptions) -> Channel {
        let addr = addr.to_owned();
        self.channel_to(kind, Arc::new(move || addr.clone()), options)
    }

    /// A channel to a peer that may move: its address is asked for at each dial.
    pub fn channel_to(
        &self,
        kind: Kind,
        whereabouts: Whereabouts,
        options: ChannelOptions,
    ) -> Channel {
        // The connector below dials by itself; the URI only fills the authority header.
        let mut endpoint = Endpoint::from_shared(format!("http://{}", whereabouts()))
            .unwrap_or_else(|_| Endpoint::from_static("http://ferrolog.invalid"))
            .initial_stream_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window);
        if let Some(interval) = options.keepalive {
            endpoint = endpoint
                .http2_keep_alive_interval(interval)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT)
                .keep_alive_while_idle(true);
        }

        let layer = self.clone();
        let timeout = options.connect_timeout;
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
            let (layer, addr) = (layer.clone(), whereabouts());
            async move {
                let io = layer.dial(kind, &addr, timeout).await?;
                Ok::<_, DialError>(TokioIo::new(gathering(kind, io)))
            }
        }))
    }

    async fn open(&self, kind: Kind, addr: &str) -> Result<BoxIo, DialError> {
        let unreachable = |source| DialError::Connect {
            addr: addr.to_owned(),
            source,
        };
        let mut io = self.network.dial(addr).await.map_err(unreachable)?;
        #[cfg(feature = "server")]
        if kind == Kind::Raft {
            io.write_u8(super::RAFT_RPC).await.map_err(unreachable)?;
        }
        match &self.security {
            Security::Insecure => {
                io.flush().await.map_err(unreachable)?;
                Ok(io)
            }
            Security::Mutual(tls) => {
                let refused = |source| DialError::Tls {
                    addr: addr.to_owned(),
                    source: Box::new(source),
                };
                tls.connect(kind, addr, io).await.map_err(refused)
            }
        }
    }
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use std::error::Error;

    use futures::StreamExt;
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::certs::testing::authority;
    use crate::net::memory::MemoryNetwork;
    use crate::net::mux::{Mux, MuxLimits, MuxStream};
    use crate::net::tcp::TcpNetwork;
    use crate::net::tls::Tls;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn node(authority: &crate::certs::Authority, name: &str) -> Security {
        let pem = authority.node(name, &[]).unwrap();
        Security::Mutual(
            Tls::from_pem(
                authority.ca_pem().as_bytes(),
                pem.cert.as_bytes(),
                pem.key.as_bytes(),
            )
            .unwrap(),
        )
    }

    #[tokio::test]
    async fn a_raft_stream_over_real_sockets_and_tls() {
        let authority = authority();
        let listener = TcpNetwork.listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr();
        let (_mux, _grpc, mut raft) =
            Mux::start(listener, node(&authority, "node-1"), MuxLimits::default());

        let layer = StreamLayer::new(Arc::new(TcpNetwork), node(&authority, "node-2"));
        let mut near = layer.dial(Kind::Raft, &addr, TIMEOUT).await.unwrap();
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        near.write_all(preface).await.unwrap();
        near.flush().await.unwrap();
        let mut far = raft.next().await.unwrap().unwrap();
        let name = |stream: &MuxStream| {
            stream
                .info()
                .identity
                .as_ref()
                .unwrap()
                .node_name
                .clone()
                .unwrap()
        };
        assert_eq!(name(&far), "node-2");

        let mut bytes = [0; 24];
        far.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, preface, "the first byte was consumed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dial_ends_by_its_deadline() {
        let network = MemoryNetwork::new();
        let _listener = network.listen("localhost:1").await.unwrap();
        let layer = StreamLayer::new(Arc::new(network), node(&authority(), "node-1"));
        let error = layer
            .dial(Kind::Raft, "localhost:1", TIMEOUT)
            .await
            .err()
            .unwrap();
        assert!(matches!(error, DialError::Timeout { after, .. } if after == TIMEOUT));
    }

    #[tokio::test]
    async fn a_dial_tells_why_it_failed() {
        let network = MemoryNetwork::new();
        let insecure = StreamLayer::new(Arc::new(network.clone()), Security::Insecure);
        let error = insecure
            .dial(Kind::Grpc, "localhost:1", TIMEOUT)
            .await
            .err()
            .unwrap();
        assert!(matches!(error, DialError::Connect { .. }));

        let listener = network.listen("localhost:1").await.unwrap();
        let _serving = Mux::start(listener, node(&authority(), "node-1"), MuxLimits::default());
        let stranger = StreamLayer::new(Arc::new(network), node(&authority(), "node-1"));
        let error = stranger
            .dial(Kind::Grpc, "localhost:1", TIMEOUT)
            .await
            .err()
            .unwrap();
        assert!(matches!(error, DialError::Tls { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn calls_over_mutual_tls_reach_a_server_of_either_kind() {
        use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
        let authority = authority();
        let network = MemoryNetwork::new();
        let listener = network.listen("localhost:1").await.unwrap();
        let (mux, grpc, raft) =
            Mux::start(listener, node(&authority, "node-1"), MuxLimits::default());
        let serve = |incoming| {
            let (_, health) = tonic_health::server::health_reporter();
            tokio::spawn(
                tonic::transport::Server::builder()
                    .add_service(health)
                    .serve_with_incoming(incoming),
            )
        };
        let servers = [serve(grpc), serve(raft)];

        let layer = StreamLayer::new(
            Arc::new(network.named("dialer")),
            node(&authority, "node-2"),
        );
        for kind in [Kind::Grpc, Kind::Raft] {
            let mut client =
                HealthClient::new(layer.channel(kind, "localhost:1", ChannelOptions::default()));
            client.check(HealthCheckRequest::default()).await.unwrap();
            network.cut("dialer");
            client
                .check(HealthCheckRequest::default())
                .await
                .unwrap_err();
            network.heal("dialer");
            client.check(HealthCheckRequest::default()).await.unwrap();
        }
        mux.stop();
        for server in servers {
            server.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_channel_connects_when_used_and_again_after_a_loss() {
        let network = MemoryNetwork::new();
        let layer = StreamLayer::new(Arc::new(network.clone()), Security::Insecure);
        let channel = layer.channel(Kind::Raft, "node:1", ChannelOptions::default());
        let listener = network.listen("node:1").await.unwrap();
        let (_mux, _grpc, mut raft) =
            Mux::start(listener, Security::Insecure, MuxLimits::default());

        for _ in 0..2 {
            let mut call = channel.clone();
            let calling = tokio::spawn(async move {
                futures::future::poll_fn(|cx| tower::Service::poll_ready(&mut call, cx)).await?;
                tower::Service::call(&mut call, http::Request::new(tonic::body::Body::empty()))
                    .await
            });
            let mut stream = raft.next().await.unwrap().unwrap();
            let mut preface = [0; 3];
            stream.read_exact(&mut preface).await.unwrap();
            assert_eq!(&preface, b"PRI", "HTTP/2 follows the raft byte");
            drop(stream);
            calling.await.unwrap().unwrap_err();
        }
    }

    #[tokio::test]
    async fn a_channel_to_no_address_fails_at_the_call() {
        let layer = StreamLayer::new(Arc::new(MemoryNetwork::new()), Security::Insecure);
        let mut channel = layer.channel(Kind::Grpc, "not an address", ChannelOptions::default());
        let request = http::Request::new(tonic::body::Body::empty());
        let called = async {
            futures::future::poll_fn(|cx| tower::Service::poll_ready(&mut channel, cx)).await?;
            tower::Service::call(&mut channel, request).await
        };
        let error = called.await.unwrap_err();
        let mut cause: Option<&dyn Error> = Some(&error);
        while let Some(error) = cause {
            if error.downcast_ref::<DialError>().is_some() {
                return;
            }
            cause = error.source();
        }
        panic!("the cause is lost: {error:?}");
    }
}
