//! Which server to ask next: the list in turn, a hinted leader first, one cached channel each.
//!
//! It knows nothing of the calls that are made, and never waits.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderValue, Request};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::ClientError;
use crate::net::Kind;
use crate::net::stream_layer::{ChannelOptions, StreamLayer};
use crate::net::traceparent::TRACEPARENT;

/// The servers of one client and the channels to them. Shared by all its calls.
pub(super) struct Servers {
    addrs: Vec<String>,
    stream_layer: StreamLayer,
    channels: Arc<Mutex<HashMap<String, Channel>>>,
    /// What calls say of the trace that they are of.
    trace: Option<HeaderValue>,
}

impl Servers {
    pub(super) fn new(addrs: Vec<String>, stream_layer: StreamLayer) -> Self {
        Self {
            addrs,
            stream_layer,
            channels: Arc::default(),
            trace: None,
        }
    }

    /// The same servers and channels, for calls of this trace.
    pub(super) fn traced(&self, trace: HeaderValue) -> Self {
        Self {
            addrs: self.addrs.clone(),
            stream_layer: self.stream_layer.clone(),
            channels: self.channels.clone(),
            trace: Some(trace),
        }
    }

    /// The same cluster, asked at these addresses instead.
    pub(super) fn with_addrs(&self, addrs: Vec<String>) -> Self {
        Self {
            trace: self.trace.clone(),
            ..Self::new(addrs, self.stream_layer.clone())
        }
    }

    pub(super) fn stream_layer(&self) -> &StreamLayer {
        &self.stream_layer
    }

    pub(super) fn addrs(&self) -> &[String] {
        &self.addrs
    }

    /// All addresses as one text, for messages.
    pub(super) fn names(&self) -> String {
        self.addrs.join(",")
    }

    /// A walk over the servers, or over `only` one.
    pub(super) fn rotation(&self, only: Option<&str>) -> Result<Rotation, ClientError> {
        let addrs: Vec<String> = match only {
            Some(addr) => vec![addr.to_owned()],
            None => self.addrs.clone(),
        };
        if addrs.is_empty() {
            return Err(ClientError::NoServers);
        }
        Ok(Rotation {
            addrs: addrs.into(),
            hint: None,
            pinned: only.is_some(),
        })
    }

    /// The channel to `addr`, which dials when it is first used and again after a loss.
    pub(super) fn channel(&self, addr: &str) -> Calls {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let dial = || {
            self.stream_layer
                .channel(Kind::Grpc, addr, ChannelOptions::default())
        };
        let channel = channels.entry(addr.to_owned()).or_insert_with(dial);
        Calls {
            channel: channel.clone(),
            trace: self.trace.clone(),
        }
    }

    /// Drops the channel of a server that did not answer in time, so that the next call dials anew. A frozen peer keeps
    /// its old connection open.
    pub(super) fn forget_if_dead(&self, addr: &str, status: &Status) {
        if status.code() != Code::DeadlineExceeded {
            return;
        }
        self.channels
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(addr);
    }
}

/// The calls to a server: each says of which trace it is, if it is of one.
#[derive(Debug, Clone)]
pub(super) struct Calls {
    channel: Channel,
    trace: Option<HeaderValue>,
}

impl Service<Request<Body>> for Calls {
    type Response = <Channel as Service<Request<Body>>>::Response;
    type Error = <Channel as Service<Request<Body>>>::Error;
    type Future = <Channel as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Request<Body>>::poll_ready(&mut self.channel, cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(trace) = &self.trace {
            request.headers_mut().insert(TRACEPARENT, trace.clone());
        }
        self.channel.call(request)
    }
}

/// The order in which one caller tries the servers.
pub(super) struct Rotation {
    addrs: VecDeque<String>,
    hint: Option<String>,
    pinned: bool,
}

impl Rotation {
    /// The server to ask now.
    pub(super) fn current(&self) -> &str {
        self.hint.as_deref().unwrap_or(&self.addrs[0])
    }

    /// Goes to this server first, even if it is not in the list.
    pub(super) fn prefer(&mut self, server: Option<String>) {
        self.hint = server.filter(|_| !self.pinned);
    }

    /// Moves on to the next server. A hinted leader goes first, even if it is not in the list. A hint that failed is
    /// dropped.
    pub(super) fn advance(&mut self, leader_hint: Option<String>) {
        let failed = self.hint.take();
        // The list moves on even past a hint, or two servers with stale hints would hide the third.
        self.addrs.rotate_left(1);
        if !self.pinned {
            self.hint = leader_hint.filter(|hint| failed.as_ref() != Some(hint));
        }
    }

    /// Whether the caller asked for one server and no other.
    pub(super) fn is_pinned(&self) -> bool {
        self.pinned
    }

    pub(super) fn len(&self) -> usize {
        self.addrs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Security;
    use crate::net::memory::MemoryNetwork;

    fn servers(addrs: &[&str]) -> Servers {
        let layer = StreamLayer::new(Arc::new(MemoryNetwork::new()), Security::Insecure);
        Servers::new(addrs.iter().map(|&addr| addr.to_owned()).collect(), layer)
    }

    #[test]
    fn servers_are_tried_in_turn_and_a_hint_goes_first() {
        let mut rotation = servers(&["a", "b", "c"]).rotation(None).unwrap();
        assert_eq!(rotation.current(), "a");
        rotation.advance(None);
        assert_eq!(rotation.current(), "b");
        rotation.advance(Some("x".to_owned()));
        assert_eq!(rotation.current(), "x");
        rotation.advance(Some("x".to_owned()));
        assert_eq!(
            rotation.current(),
            "a",
            "a hint that just failed is not followed again"
        );
    }

    #[test]
    fn a_pinned_server_stays() {
        let mut rotation = servers(&["a", "b"]).rotation(Some("z")).unwrap();
        rotation.advance(Some("b".to_owned()));
        assert_eq!(rotation.current(), "z");
    }

    #[test]
    fn no_servers_is_an_error() {
        assert!(matches!(
            servers(&[]).rotation(None),
            Err(ClientError::NoServers)
        ));
    }
}
