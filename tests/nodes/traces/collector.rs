//! A collector on this machine: it takes spans by the protocol, drawn here as far as it is looked at.
#![allow(
    clippy::disallowed_methods,
    reason = "nodes call a collector by TCP, past the seam to the network"
)]

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::PATIENCE;
use crate::harness::until_in;

/// What a node tells, as the protocol draws it: as much of it as is looked at here.
#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(fixed64, tag = "7")]
    pub start_ns: u64,
    #[prost(fixed64, tag = "8")]
    pub end_ns: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Exported {}

/// A span, and the node that told it.
#[derive(Debug, Clone)]
pub struct Told {
    pub node: String,
    pub span: Span,
}

impl Told {
    pub fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    pub fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A collector on this machine.
#[derive(Clone, Default)]
pub struct Collector(Arc<Mutex<Vec<Told>>>);

impl Collector {
    /// Gives where it is.
    pub async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("its address");
        let served = Server::builder().add_service(self.clone());
        tokio::spawn(served.serve_with_incoming(TcpListenerStream::new(listener)));
        format!("http://{addr}")
    }

    pub fn all(&self) -> Vec<Told> {
        self.0.lock().clone()
    }

    /// The spans of this name, of this node, off this parent.
    fn find(&self, name: &str, node: &str, parent: &str) -> Option<Told> {
        let is_it =
            |told: &&Told| told.span.name == name && told.node == node && told.parent() == parent;
        self.0.lock().iter().find(is_it).cloned()
    }

    /// Waits for it.
    pub async fn found(&self, name: &str, node: &str, parent: &str) -> Told {
        let what = format!("{name} of {node} off {parent}");
        until_in(PATIENCE, &what, async || self.find(name, node, parent)).await
    }
}

impl NamedService for Collector {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl Service<http::Request<Body>> for Collector {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<Exported, Export>::default();
            Ok(Grpc::new(codec).unary(this, request).await)
        })
    }
}

impl UnaryService<Export> for Collector {
    type Response = Exported;
    type Future = Ready<Result<Response<Exported>, Status>>;

    fn call(&mut self, request: Request<Export>) -> Self::Future {
        let mut told = self.0.lock();
        for of_node in request.into_inner().resource_spans {
            let attributes = of_node.resource.unwrap_or_default().attributes;
            let mut named = attributes.into_iter();
            let node = named.find(|attribute| attribute.key == "service.instance.id");
            let node = node.and_then(|node| node.value?.text).expect("its node");
            let spans = of_node
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans);
            told.extend(spans.map(|span| Told {
                node: node.clone(),
                span,
            }));
        }
        ready(Ok(Response::new(Exported {})))
    }
}
