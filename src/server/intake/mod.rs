//! What stands before every call of a client: who calls, what it may do, and room for what it sends.
//!
//! The method, the policy and the encoding are judged by the headers alone, before a byte of the body is read.
//! The body comes through [`body`], a message at a time and each within its method's limit, once there is room
//! for it. A refusal is a status with its reason, like those of the verbs.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::{BoxFuture, ready};
use http::header::HeaderValue;
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::net::budget::{Account, Held};
use crate::net::mux::PeerInfo;

use super::{Limits, Policy, status};

mod batches;
mod body;
mod methods;
mod read_ahead;

/// Which verb a call is of, in its extensions.
#[derive(Debug, Clone, Copy)]
pub struct Called(pub &'static str);

pub use body::Taken;
pub use methods::{change_of, verbs};

use body::Messages;
use methods::Methods;
use read_ahead::Ahead;

/// What a call costs beside its messages: its task, and the buffers of its encoder and decoder.
const CALL_BYTES: usize = 8 << 10;
/// What the headers of a call may take.
pub const METADATA_BYTES_MAX: usize = 16 << 10;
/// Of each, beside its name and value.
const HEADER_OVERHEAD: usize = 32;
const ENCODING: &str = "grpc-encoding";
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";
const IDENTITY: &str = "identity";

/// Puts the [`Intake`] before the services.
#[derive(Debug, Clone)]
pub struct IntakeLayer(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    policy: Policy,
    methods: Methods,
}

impl IntakeLayer {
    pub fn new(policy: Policy, limits: &Limits) -> Self {
        Self(Arc::new(Rules {
            policy,
            methods: Methods::new(limits),
        }))
    }
}

impl<S> Layer<S> for IntakeLayer {
    type Service = Intake<S>;

    fn layer(&self, inner: S) -> Intake<S> {
        let rules = self.0.clone();
        Intake { inner, rules }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Intake<S> {
    inner: S,
    rules: Arc<Rules>,
}

impl<S> Service<http::Request<Body>> for Intake<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let admitted = match self.rules.admit(&mut request) {
            Ok(admitted) => admitted,
            Err(status) => return Box::pin(ready(Ok(refused(status)))),
        };
        let answering = self.inner.call(request);
        Box::pin(async move {
            let answer = answering.await?;
            if let Some(single) = &admitted.single {
                single.clear();
            }
            let held = admitted.call;
            Ok(answer.map(|inner| Body::new(Answer { inner, _call: held })))
        })
    }
}

/// The answer of a call that came no further.
fn refused(status: Status) -> http::Response<Body> {
    let code = status.code();
    let mut response = status.into_http();
    if code == Code::Unimplemented {
        let only = HeaderValue::from_static(IDENTITY);
        response.headers_mut().insert(ACCEPT_ENCODING, only);
    }
    response
}

/// What a call holds until it is over.
struct Admitted {
    /// What a single request took, which is given back once it has been carried out.
    single: Option<Arc<Taken>>,
    call: Held,
}

impl Rules {
    /// Judges the headers, and puts the body behind its limits.
    fn admit(&self, request: &mut http::Request<Body>) -> Result<Admitted, Status> {
        let headers = header_bytes(request);
        if headers > METADATA_BYTES_MAX {
            return Err(status::metadata_too_large(headers, METADATA_BYTES_MAX));
        }
        let path = request.uri().path();
        let method = self.methods.of(path);
        let method = method.ok_or_else(|| status::no_such_method(path))?;
        let verb = self.methods.verb_of(path);
        let peer = request.extensions().get::<PeerInfo>();
        self.policy.of(peer, verb).check_some(method.actions)?;
        check_encoding(request)?;
        let Some(accounts) = peer.map(|peer| peer.accounts.clone()) else {
            return Err(Status::internal("a call without a connection"));
        };
        let call = take_call(&accounts.calls, headers)?;
        let taken = Arc::new(Taken::default());
        let mut body = std::mem::take(request.body_mut());
        if method.is_read_ahead() {
            body = Body::new(Ahead::new(body));
        }
        let messages = Messages::new(body, method, accounts, taken.clone());
        *request.body_mut() = Body::new(messages);
        request.extensions_mut().insert(taken.clone());
        request.extensions_mut().insert(Called(verb));
        Ok(Admitted {
            single: method.is_single.then_some(taken),
            call,
        })
    }
}

/// Compressed messages are refused: how large one becomes is known only once it is decompressed.
fn check_encoding(request: &http::Request<Body>) -> Result<(), Status> {
    match request.headers().get(ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(()),
        Some(encoding) => Err(status::unsupported_encoding(encoding)),
    }
}

/// What the headers take, as HTTP/2 counts them.
fn header_bytes(request: &http::Request<Body>) -> usize {
    let headers = request.headers().iter();
    let sizes = headers.map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD);
    sizes.sum()
}

fn take_call(calls: &Account, headers: usize) -> Result<Held, Status> {
    let held = calls.try_take(CALL_BYTES + headers);
    held.map_err(|full| status::in_flight(&full))
}

/// An answer, and what its call holds until it has been sent.
struct Answer {
    inner: Body,
    _call: Held,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
