//! Every answer as it leaves: whatever made its status, the details give a reason.
//!
//! The gRPC library answers some calls by itself: an unknown method, bytes that do not decode, a message over
//! its limit. Here such a status gets the reason and the code that stand for its kind, and the number of a
//! status that its type cannot hold is put in its place. A call's own deadline is kept here, too: the library
//! would answer it past this layer.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::reason::Reason;

use crate::server::deadline;
use crate::server::status::NUMBER;

const CODE: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";
const DETAILS: &str = "grpc-status-details-bin";

/// Wraps a server's services.
#[derive(Debug, Clone, Copy)]
pub struct Complete;

impl<S> Layer<S> for Complete {
    type Service = Completed<S>;

    fn layer(&self, inner: S) -> Completed<S> {
        Completed(inner)
    }
}

#[derive(Debug, Clone)]
pub struct Completed<S>(S);

impl<S, B> Service<Request<B>> for Completed<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let timeout = request.headers_mut().remove(deadline::HEADER);
        let timeout = timeout.as_ref().and_then(deadline::parse);
        if let Some(timeout) = timeout {
            deadline::note(request.extensions_mut(), timeout);
        }
        let answered = self.0.call(request).map_ok(complete);
        match timeout {
            None => answered.boxed(),
            Some(timeout) => tokio::time::timeout(timeout, answered)
                .map(move |answered| answered.unwrap_or_else(|_| Ok(timed_out(timeout))))
                .boxed(),
        }
    }
}

fn timed_out(timeout: Duration) -> Response<Body> {
    let message = format!("the call's deadline of {timeout:?} is over");
    Reason::TimedOut.status(&message).into_http()
}

fn complete(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    if parts.headers.contains_key(CODE) {
        // There is no body behind a status.
        finish(&mut parts.headers);
        return Response::from_parts(parts, body);
    }
    let body = body.map_frame(|frame| match frame.into_trailers() {
        Ok(mut trailers) => {
            finish(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(data) => data,
    });
    Response::from_parts(parts, Body::new(body))
}

/// Sees to it that a status has a reason.
fn finish(headers: &mut HeaderMap) {
    if let Some(number) = headers.remove(NUMBER) {
        headers.insert(CODE, number);
        return;
    }
    let failed = headers.get(CODE).is_some_and(|code| code != "0");
    if !failed || headers.contains_key(DETAILS) {
        return;
    }
    let Some(status) = Status::from_header_map(headers) else {
        return;
    };
    let whole = Reason::of_code(status.code()).status(status.message());
    for name in [CODE, MESSAGE] {
        headers.remove(name);
    }
    // The status cannot be written as headers, so it is none that the services made.
    let _ = whole.add_header(headers);
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use http::HeaderValue;

    use super::*;

    fn headers(status: &Status) -> HeaderMap {
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        headers
    }

    #[test]
    fn a_status_without_a_reason_gets_one_and_others_stay() {
        for code in (1..=16).map(Code::from_i32) {
            let mut bare = headers(&Status::new(code, "x".repeat(100_000)));
            finish(&mut bare);
            let status = Status::from_header_map(&bare).unwrap();
            let reason = Reason::of(&status).unwrap();
            assert_eq!(reason, Reason::of_code(code));
            assert_eq!(status.code(), reason.code());
            assert!(status.message().len() < 2_000);
        }
        let mut ours = headers(&Reason::Fenced.status("x"));
        let before = ours.clone();
        finish(&mut ours);
        assert_eq!(ours, before);
        let mut fine = HeaderMap::from_iter([(CODE.parse().unwrap(), HeaderValue::from(0))]);
        finish(&mut fine);
        assert_eq!(fine.len(), 1);
    }

    #[test]
    fn a_number_is_put_in_its_place() {
        let mut response = headers(&Status::unknown("x"));
        response.insert(NUMBER, 404.into());
        finish(&mut response);
        assert_eq!(response[CODE], "404");
        assert!(!response.contains_key(NUMBER));
    }
}
