//! One port, three protocols: the first byte of a connection tells raft from the others, ALPN tells plain HTTP from gRPC.
//!
//! The accept loop never waits for a peer, survives running out of descriptors, and bounds what it holds:
//! `places` says who gives way, `gate` what a connection must prove, and in what time. What the streams carry
//! is left to the two servers behind.

mod counts;
mod gate;
mod limits;
mod origin;
mod places;
pub(super) mod stream;
mod term;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::Instant;

pub use limits::{CLIENTS_MAX, MuxLimits};
pub use stream::{Call, Calls, MuxStream, PeerInfo};
pub use term::Recheck;

use super::{BoxIo, Listener, Security};
use crate::live::Live;
use crate::tasks;
use counts::Counts;
use gate::{Gate, Refused};
use origin::Origin;
use places::{Proven, Unproven};

pub use super::RAFT_RPC;

/// Pauses after a failed accept: the descriptors it waits for are freed by others.
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(100);
/// A flood of peers must not become a flood of log lines.
const WARN_EVERY: Duration = Duration::from_secs(1);

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
    counts: Arc<Counts>,
    reloads: watch::Sender<Recheck>,
    changing: Changing,
}

/// The limits of the port that can change while it is open; clones share them.
#[derive(Clone)]
pub struct Changing {
    proven: Arc<Mutex<Proven>>,
    age_max: Live<Duration>,
}

impl Changing {
    /// How many connections clients have from now on at most; those that there are stay.
    pub fn set_clients_max(&self, clients_max: usize) {
        self.proven.lock().set_clients_max(clients_max);
    }

    /// How long connections that are opened from now on live at most.
    pub fn set_age_max(&self, age_max: Duration) {
        self.age_max.set(age_max);
    }
}

/// What comes in, by protocol. What nobody takes is refused once its receiver is gone.
pub struct Streams {
    pub grpc: Incoming,
    pub raft: Incoming,
    pub http: Incoming,
}

impl Mux {
    /// Serves `listener` until stopped; answers with the gRPC and the raft streams. Needs a tokio runtime.
    pub fn start(
        listener: Box<dyn Listener>,
        security: Security,
        limits: MuxLimits,
    ) -> (Mux, Incoming, Incoming) {
        let (mux, streams) = Self::start_for(
            listener,
            security,
            limits,
            Recheck::default(),
            Handle::current(),
        );
        (mux, streams.grpc, streams.raft)
    }

    /// Serves `listener`, asks `recheck` of each connection, and moves the raft streams to the runtime `peers`.
    /// Handshakes stay here, since anybody can begin one.
    pub fn start_for(
        listener: Box<dyn Listener>,
        security: Security,
        limits: MuxLimits,
        recheck: Recheck,
        peers: Handle,
    ) -> (Mux, Streams) {
        let (grpc, grpc_queue) = mpsc::channel(limits.queue_max.max(1));
        let (raft, raft_queue) = mpsc::channel(limits.queue_max.max(1));
        let (http, http_queue) = mpsc::channel(limits.queue_max.max(1));
        let (closed, open) = watch::channel(());
        let addr = listener.local_addr();
        let (proven, unproven) = (Proven::new(limits), Unproven::new(limits));
        let counts = Arc::new(Counts::new(&proven, &unproven));
        let changing = Changing {
            proven: proven.clone(),
            age_max: Live::new(limits.age_max),
        };
        let (reloads, reloaded) = watch::channel(recheck);
        let acceptor = Acceptor {
            listener,
            gate: Gate {
                security,
                grpc,
                raft,
                http,
                peers,
                timeout: limits.handshake_timeout,
                idle_timeout: limits.idle_timeout,
                age_max: changing.age_max.clone(),
                reloads: reloaded,
                proven,
                counts: counts.clone(),
            },
            unproven,
            handshakes: JoinSet::new(),
            failures: Warnings::default(),
            refusals: Warnings::default(),
            _closed: closed,
        };
        let accepting = tasks::spawn_endless("accept loop", acceptor.run()).abort_handle();
        (
            Mux {
                accepting,
                open,
                addr,
                counts,
                reloads,
                changing,
            },
            Streams {
                grpc: Incoming { queue: grpc_queue },
                raft: Incoming { queue: raft_queue },
                http: Incoming { queue: http_queue },
            },
        )
    }

    /// The address in use, with its real port.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// What the port counts of its connections.
    pub fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    /// The limits that can change.
    pub fn changing(&self) -> Changing {
        self.changing.clone()
    }

    /// What has all connections judged again once something was reloaded: any change, also one to the same.
    pub fn reloads(&self) -> watch::Sender<Recheck> {
        self.reloads.clone()
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
    unproven: Arc<Mutex<Unproven>>,
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
                        // Descriptors are short: a connection that has proven nothing is closed, which frees
                        // one.
                        self.unproven.lock().shed();
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
        let pending = Unproven::admit(&self.unproven, Origin::of(&peer));
        let gate = self.gate.clone();
        let handshake = async move {
            let passed = gate.pass(pending, io, peer.clone()).await;
            passed.map_err(|refused| (peer, refused))
        };
        self.handshakes
            .spawn(tasks::watched("handshake", handshake));
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
        self.gate.counts.refused(refused);
        let cause = std::error::Error::source(refused).map(whole);
        if !refused.concerns_operator() {
            tracing::debug!(peer, cause, "closed a connection: {refused}");
        } else if let Some(hidden) = self.refusals.next() {
            tracing::warn!(peer, cause, hidden, "closed a connection: {refused}");
        }
    }
}

/// An error with all that caused it: why a handshake failed stands at the end of the chain.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
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
mod tests;
