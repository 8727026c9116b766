//! Plain HTTP on the node's port, for scrapers and probes: `/metrics`, `/healthz`, `/readyz`.
//!
//! Who asks on the node's own port shows a certificate whose name has the action `metrics`. A second address, of this
//! machine unless an operator says otherwise, asks for none. A connection is for one request without a body, and lives
//! for ten seconds at most, whatever its client does in them.

mod facts;
mod listening;

pub use facts::Facts;
pub use listening::serve_probes;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::metrics::{Form, Registry};
use crate::net::mux::{MuxStream, PeerInfo};
use crate::raft::Seat;
use crate::tasks;

use super::auth::{Action, On};
use super::{Drain, Policy};

/// How long a connection may take for its request and its answer together: longer than any page is made.
const CONNECTION_MAX: Duration = Duration::from_secs(10);
/// The head of a request: what a scraper sends, many times over.
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;
const PLAIN: &str = "text/plain; charset=utf-8";

type Answer = Response<Full<Bytes>>;

/// What is told over plain HTTP.
pub struct Surface {
    registry: Registry,
    seat: Seat,
    policy: Policy,
    drain: Drain,
    /// One page is made at a time: scrapers that ask together cost no more than one.
    turn: Mutex<()>,
}

impl fmt::Debug for Surface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surface").finish_non_exhaustive()
    }
}

/// Who asks.
#[derive(Debug, Clone)]
enum Asker {
    /// On the node's own port.
    Peer(Box<PeerInfo>),
    /// On the address that is for anybody who reaches it.
    Anybody,
}

impl Surface {
    pub fn new(registry: Registry, seat: Seat, policy: Policy, drain: Drain) -> Arc<Self> {
        Arc::new(Self {
            registry,
            seat,
            policy,
            drain,
            turn: Mutex::new(()),
        })
    }

    async fn answer(self: Arc<Self>, asker: Asker, request: Parts) -> Answer {
        if ![Method::GET, Method::HEAD].contains(&request.method) {
            let mut refused = plain(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD are served",
            );
            let allowed = HeaderValue::from_static("GET, HEAD");
            refused.headers_mut().insert(ALLOW, allowed);
            return refused;
        }
        if let Asker::Peer(peer) = &asker {
            let rights = self.policy.of(Some(peer), "GET /metrics");
            if let Err(denied) = rights.check(Action::Metrics, On::Cluster) {
                return plain(StatusCode::FORBIDDEN, denied.message());
            }
        }
        match request.uri.path() {
            "/metrics" => self.metrics(&request.headers).await,
            "/healthz" => plain(StatusCode::OK, "the process answers"),
            "/readyz" => match self.readiness() {
                Ok(()) => plain(StatusCode::OK, "ready"),
                Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, &why),
            },
            _ => {
                let what = "there is /metrics, /healthz and /readyz";
                plain(StatusCode::NOT_FOUND, what)
            }
        }
    }

    fn readiness(&self) -> Result<(), String> {
        if self.drain.has_begun() {
            return Err("the node is stopping".to_owned());
        }
        match self.seat.get() {
            Some(log) => log.readiness(),
            None => Err("the node belongs to no cluster yet".to_owned()),
        }
    }

    async fn metrics(&self, headers: &HeaderMap) -> Answer {
        let accept = headers.get(ACCEPT);
        let accept = accept.and_then(|accept| accept.to_str().ok());
        let form = Form::of(accept.unwrap_or_default());
        let _turn = self.turn.lock().await;
        let registry = self.registry.clone();
        // It reads much and takes locks that others wait for: not on a thread that serves clients.
        let page = tasks::spawn_blocking("metrics", move || registry.page(form)).await;
        match page {
            Ok(page) => answer(StatusCode::OK, form.content_type(), page.into()),
            Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the node is stopping"),
        }
    }
}

fn plain(code: StatusCode, what: &str) -> Answer {
    answer(code, PLAIN, format!("{what}\n").into())
}

fn answer(code: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = code;
    let content_type = HeaderValue::from_static(content_type);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

/// Serves the connections of the node's own port. With the future go the connections.
pub async fn serve_http(
    surface: Arc<Surface>,
    incoming: impl Stream<Item = io::Result<MuxStream>>,
) {
    let mut connections = JoinSet::new();
    let mut incoming = std::pin::pin!(incoming);
    while let Some(Ok(stream)) = incoming.next().await {
        // Those that have ended are forgotten.
        while connections.try_join_next().is_some() {}
        let asker = Asker::Peer(Box::new(stream.info().clone()));
        let served = serve_one(surface.clone(), asker, stream);
        connections.spawn(tasks::watched("plain HTTP", served));
    }
}

/// Serves one request. A connection that breaks concerns its client alone.
async fn serve_one<I>(surface: Arc<Surface>, asker: Asker, io: I)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        // Its body is not read.
        let (request, _) = request.into_parts();
        let answered = surface.clone().answer(asker.clone(), request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        // The whole connection has a deadline.
        .header_read_timeout(None::<Duration>)
        .serve_connection(TokioIo::new(io), service);
    match tokio::time::timeout(CONNECTION_MAX, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection of plain HTTP broke"),
        Err(_) => tracing::debug!("a connection of plain HTTP took too long"),
    }
}
