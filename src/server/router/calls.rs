//! Sees each call from its headers to the end of its answer: so that the port can close a connection that has none for
//! long, and so that calls are counted by verb and code.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use tokio::time::Instant;
use tonic::Status;
use tonic::codegen::{Body, Service};
use tower::Layer;

use crate::net::mux::{Call, PeerInfo};
use crate::reason::{Done, Reason};
use crate::server::Policy;
use crate::server::answers::Outbox;
use crate::server::auth::Rights;
use crate::server::counts::{Counts, Verb};
use crate::server::intake::change_of;
use crate::spans::Span;

const CODE: &str = "grpc-status";
/// What a call ends with whose client went away before its answer did.
const CANCELLED: usize = 1;

/// A layer that knows of each call.
#[derive(Debug, Clone)]
pub struct CountLayer(Arc<Counts>, Policy);

/// Counts calls there. What is to be changed, and is refused, is told beside the changes.
pub fn counted(counts: Arc<Counts>, policy: Policy) -> CountLayer {
    CountLayer(counts, policy)
}

impl<S> Layer<S> for CountLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        let (counts, policy) = (self.0.clone(), self.1.clone());
        Counted {
            inner,
            counts,
            policy,
        }
    }
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    counts: Arc<Counts>,
    policy: Policy,
}

/// A call under way. However it ends, it is counted.
#[derive(Debug)]
struct Counting {
    counts: Arc<Counts>,
    verb: Verb,
    began: Instant,
    /// If its caller traces it.
    span: Span,
    code: usize,
    /// The caller: its subject, or where it is.
    who: Box<str>,
    /// Who asks for a change; `None` for other calls.
    changes: Option<Rights>,
    _call: Option<Call>,
}

impl Counting {
    /// Takes note of a status, if these headers or trailers have one.
    fn note(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get(CODE) {
            let code = code.to_str().ok().and_then(|code| code.parse().ok());
            self.code = code.unwrap_or(usize::MAX);
            if let Some(rights) = self.changes.take_if(|_| self.code != 0) {
                tell_refused(&rights, headers);
            }
        }
    }
}

/// Has a change told that came to nothing, or may have. One that the policy denied was told already.
fn tell_refused(rights: &Rights, headers: &HeaderMap) {
    let Some(status) = Status::from_header_map(headers) else {
        return;
    };
    let reason = Reason::of(&status).unwrap_or(Reason::of_code(status.code()));
    if matches!(reason, Reason::Denied | Reason::NoCertificate) {
        return;
    }
    let outcome = match reason.done() {
        Done::Nothing => "refused",
        Done::Unknown => "unknown",
    };
    rights.tell_counted(outcome, status.message());
}

impl Drop for Counting {
    fn drop(&mut self) {
        let (took, span) = (self.began.elapsed(), std::mem::take(&mut self.span));
        self.counts
            .end(self.verb, self.code, (took, span), &self.who);
    }
}

impl<S, B, A> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
    A: 'static,
    S::Error: 'static,
{
    type Response = Response<Answer<A>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let begun = self.counts.begin(request.uri().path());
        let span = self.counts.span(begun, request.headers());
        if span.is_on() {
            request.extensions_mut().insert(span.trace());
        }
        let peer = request.extensions().get::<PeerInfo>();
        let verb = change_of(request.uri().path());
        let mut counting = Counting {
            verb: begun,
            counts: self.counts.clone(),
            began: Instant::now(),
            span,
            code: CANCELLED,
            who: peer.map_or("", PeerInfo::subject).into(),
            changes: verb.map(|verb| self.policy.of(peer, verb)),
            _call: peer.map(|peer| peer.calls.begin()),
        };
        let beside = peer.map(|peer| peer.calls.clone());
        let answered = self.inner.call(request);
        Box::pin(async move {
            let response = answered.await?;
            counting.note(response.headers());
            let outbox = response.extensions().get::<Outbox>();
            if let Some((outbox, calls)) = outbox.zip(beside) {
                outbox.go_to(calls);
            }
            Ok(response.map(|body| Answer { body, counting }))
        })
    }
}

/// An answer's body; while it lasts, its call is under way.
#[derive(Debug)]
pub struct Answer<A> {
    body: A,
    counting: Counting,
}

impl<A: Body + Unpin> Body for Answer<A> {
    type Data = A::Data;
    type Error = A::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<A::Data>, A::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
        {
            self.counting.note(trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
