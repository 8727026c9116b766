//! Counts the calls under way on each connection, so that the port can close one that has none for long.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::codegen::{Body, Service};
use tower::layer::LayerFn;

use crate::net::mux::{Call, PeerInfo};

/// A layer that knows of each call from its headers to the end of its answer.
pub fn counted<S>() -> LayerFn<fn(S) -> Counted<S>> {
    tower::layer::layer_fn(Counted)
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub struct Counted<S>(S);

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
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let peer = request.extensions().get::<PeerInfo>();
        let call = peer.map(|peer| peer.calls.begin());
        let answered = self.0.call(request);
        Box::pin(async move {
            let response = answered.await?;
            Ok(response.map(|body| Answer { body, _call: call }))
        })
    }
}

/// An answer's body; while it lasts, its call is under way.
#[derive(Debug)]
pub struct Answer<A> {
    body: A,
    _call: Option<Call>,
}

impl<A: Body + Unpin> Body for Answer<A> {
    type Data = A::Data;
    type Error = A::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<A::Data>, A::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
