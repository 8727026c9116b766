//! One port, two protocols: the first byte of a connection tells raft from gRPC.
//!
//! The accept loop never waits for a peer, survives running out of descriptors, and bounds what it holds:
//! connections in their handshake, the time each may take, and streams that wait for their server. What the
//! streams carry is left to the two servers behind.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::AsyncReadExt;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::Instant;

pub use super::stream::{CONNECTION_IN_FLIGHT_BYTES_MAX, MuxStream, PeerInfo};

use super::stream::Prefixed;
use super::tls::TlsError;
use super::{BoxIo, Kind, Listener, Security};

/// The first byte of a raft stream, sent in clear before TLS begins.
pub const RAFT_RPC: u8 = 0x01;

/// A TLS record that carries a handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// HTTP/2 in clear opens with `PRI * HTTP/2.0`.
const HTTP2_PREFACE: u8 = b'P';
const _: () = assert!(
    RAFT_RPC != TLS_HANDSHAKE && RAFT_RPC != HTTP2_PREFACE,
    "I6: the first byte is ambiguous"
);

/// Pauses after a failed accept: the descriptors it waits for are freed by others.
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(100);
/// A flood of peers must not become a flood of log lines.
const WARN_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MuxLimits {
    /// For the first byte, the TLS handshake and the place in the queue together.
    pub handshake_timeout: Duration,
    /// Connections not yet past their handshake; one more is closed at once.
    pub pending_max: usize,
    /// Streams of each kind that are ready but not yet taken by their server.
    pub queue_max: usize,
}

impl Default for MuxLimits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(5),
            pending_max: 1024,
            queue_max: 128,
        }
    }
}

/// The streams of one kind. Ends when the mux has stopped and the queue is empty.
pub struct Incoming {
    queue: mpsc::Receiver<MuxStream>,
}

impl Stream for Incoming {
    type Item = Result<MuxStream, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.queue.poll_recv(cx).map(|stream| stream.map(Ok))
    }
}

/// The open port. Dropping it stops the accept loop and closes the port.
pub struct Mux {
    accepting: AbortHandle,
    open: watch::Receiver<()>,
    addr: String,
}

impl Mux {
    /// Serves `listener` until stopped; answers with the gRPC and the raft streams. Needs a tokio runtime.
    pub fn start(
        listener: Box<dyn Listener>,
        security: Security,
        limits: MuxLimits,
    ) -> (Mux, Incoming, Incoming) {
        Self::start_for(listener, security, limits, Handle::current())
    }

    /// The same, with the raft streams served by the runtime `peers`. Their handshakes are not: anybody
    /// can begin one.
    pub fn start_for(
        listener: Box<dyn Listener>,
        security: Security,
        limits: MuxLimits,
        peers: Handle,
    ) -> (Mux, Incoming, Incoming) {
        let (grpc, grpc_queue) = mpsc::channel(limits.queue_max.max(1));
        let (raft, raft_queue) = mpsc::channel(limits.queue_max.max(1));
        let (closed, open) = watch::channel(());
        let addr = listener.local_addr();
        let acceptor = Acceptor {
            listener,
            gate: Gate {
                security,
                grpc,
                raft,
                peers,
                timeout: limits.handshake_timeout,
            },
            pending_max: limits.pending_max,
            handshakes: JoinSet::new(),
            failures: Warnings::default(),
            refusals: Warnings::default(),
            _closed: closed,
        };
        let accepting = tokio::spawn(acceptor.run()).abort_handle();
        (
            Mux {
                accepting,
                open,
                addr,
            },
            Incoming { queue: grpc_queue },
            Incoming { queue: raft_queue },
        )
    }

    /// The address in use, with its real port.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Ends the accept loop and the handshakes under way. Streams already handed over live on.
    pub fn stop(&self) {
        self.accepting.abort();
    }

    /// Stops, and waits until the port is closed, so that it can be bound again.
    pub async fn shutdown(mut self) {
        self.stop();
        // The other half lives in the accept loop beside the listener; an error says that both are gone.
        while self.open.changed().await.is_ok() {}
    }
}

impl Drop for Mux {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Acceptor {
    listener: Box<dyn Listener>,
    gate: Gate,
    pending_max: usize,
    handshakes: JoinSet<Result<(), (String, Refused)>>,
    failures: Warnings,
    refusals: Warnings,
    /// Dropped last, after the listener.
    _closed: watch::Sender<()>,
}

impl Acceptor {
    async fn run(mut self) {
        let mut backoff = BACKOFF_FIRST;
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((io, peer)) => {
                        backoff = BACKOFF_FIRST;
                        self.admit(io, peer);
                    }
                    Err(error) => {
                        self.report_failure(&error);
                        tokio::time::sleep(backoff).await;
                        backoff = (backoff * 2).min(BACKOFF_MAX);
                    }
                },
                Some(ended) = self.handshakes.join_next() => self.report_ended(ended),
            }
        }
    }

    fn admit(&mut self, io: BoxIo, peer: String) {
        // Those that ended while we accepted free their places first.
        while let Some(ended) = self.handshakes.try_join_next() {
            self.report_ended(ended);
        }
        if self.handshakes.len() >= self.pending_max {
            self.report_refused(
                &peer,
                &Refused::TooManyPending {
                    pending_max: self.pending_max,
                },
            );
            return;
        }
        let gate = self.gate.clone();
        self.handshakes.spawn(async move {
            let outcome = tokio::time::timeout(gate.timeout, gate.pass(io, peer.clone())).await;
            outcome
                .unwrap_or(Err(Refused::Deadline {
                    after: gate.timeout,
                }))
                .map_err(|refused| (peer, refused))
        });
    }

    fn report_failure(&mut self, error: &io::Error) {
        if let Some(hidden) = self.failures.next() {
            tracing::warn!(%error, hidden, "cannot accept connections, trying again");
        }
    }

    fn report_ended(&mut self, ended: Result<Result<(), (String, Refused)>, JoinError>) {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err((peer, refused))) => self.report_refused(&peer, &refused),
            Err(error) => tracing::error!(%error, "a handshake panicked"),
        }
    }

    fn report_refused(&mut self, peer: &str, refused: &Refused) {
        let cause = std::error::Error::source(refused).map(tracing::field::display);
        if !refused.concerns_operator() {
            tracing::debug!(peer, cause, "closed a connection: {refused}");
        } else if let Some(hidden) = self.refusals.next() {
            tracing::warn!(peer, cause, hidden, "closed a connection: {refused}");
        }
    }
}

/// Why a connection was closed before it became a stream.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{pending_max} others have not finished their handshake")]
    TooManyPending { pending_max: usize },
    #[error("no handshake, or no place in the queue, within {after:?}")]
    Deadline { after: Duration },
    #[error("it ended before its first byte")]
    FirstByte { source: io::Error },
    #[error("first byte {byte:#04x} opens no protocol of this port")]
    UnknownByte { byte: u8 },
    #[error(
        "the peer speaks plain HTTP/2, but this node asks for TLS: give the peer a certificate"
    )]
    PlainToTls,
    #[error(
        "the peer speaks TLS, but this node serves plaintext: give this node certificates, or dial without"
    )]
    TlsToPlain,
    #[error("it failed to prove itself")]
    Tls { source: TlsError },
    #[error("it could not be handed to the threads that serve peers")]
    NotMoved { source: io::Error },
    #[error("its server has stopped")]
    Stopped,
}

impl Refused {
    /// Port scans and health checks end early every few seconds; the rest points at a wrong setting or an
    /// overload.
    fn concerns_operator(&self) -> bool {
        match self {
            Self::TooManyPending { .. }
            | Self::PlainToTls
            | Self::NotMoved { .. }
            | Self::TlsToPlain
            | Self::Tls { .. } => true,
            Self::Deadline { .. }
            | Self::FirstByte { .. }
            | Self::UnknownByte { .. }
            | Self::Stopped => false,
        }
    }
}

/// What each connection passes on its way to a server.
#[derive(Clone)]
struct Gate {
    security: Security,
    grpc: mpsc::Sender<MuxStream>,
    raft: mpsc::Sender<MuxStream>,
    /// The runtime that serves the raft streams.
    peers: Handle,
    timeout: Duration,
}

impl Gate {
    async fn pass(&self, mut io: BoxIo, addr: String) -> Result<(), Refused> {
        let byte = io
            .read_u8()
            .await
            .map_err(|source| Refused::FirstByte { source })?;
        let (kind, io) = if byte == RAFT_RPC {
            (Kind::Raft, io)
        } else {
            self.check_grpc(byte)?;
            (Kind::Grpc, Box::new(Prefixed::new(byte, io)) as BoxIo)
        };
        let (io, identity, tls) = match &self.security {
            Security::Insecure => (io, None, false),
            Security::Mutual(tls) => {
                let (io, identity) = tls
                    .accept(kind, io)
                    .await
                    .map_err(|source| Refused::Tls { source })?;
                (io, Some(identity), true)
            }
        };
        let queue = match kind {
            Kind::Grpc => &self.grpc,
            Kind::Raft => &self.raft,
        };
        let mut stream = MuxStream::new(io, PeerInfo::new(addr, identity, tls));
        if kind == Kind::Raft {
            let _theirs = self.peers.enter();
            let moved = stream.move_here();
            moved.map_err(|source| Refused::NotMoved { source })?;
        }
        queue.send(stream).await.map_err(|_| Refused::Stopped)
    }

    /// I6: a first byte that is not raft's is the one that TLS, or HTTP/2 in clear, begins with.
    fn check_grpc(&self, byte: u8) -> Result<(), Refused> {
        match (&self.security, byte) {
            (Security::Mutual(_), TLS_HANDSHAKE) | (Security::Insecure, HTTP2_PREFACE) => Ok(()),
            (Security::Mutual(_), HTTP2_PREFACE) => Err(Refused::PlainToTls),
            (Security::Insecure, TLS_HANDSHAKE) => Err(Refused::TlsToPlain),
            _ => Err(Refused::UnknownByte { byte }),
        }
    }
}

/// Lets one warning through per [`WARN_EVERY`] and counts those it hides.
#[derive(Default)]
struct Warnings {
    last: Option<Instant>,
    hidden: u64,
}

impl Warnings {
    /// How many were hidden since the last one, if this one may be written.
    fn next(&mut self) -> Option<u64> {
        if self.last.is_some_and(|last| last.elapsed() < WARN_EVERY) {
            self.hidden += 1;
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.hidden))
    }
}

#[cfg(test)]
#[path = "mux_tests.rs"]
mod tests;
