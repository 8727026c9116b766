//! The transport: how this node calls its peers, over streams that open with the `RaftRPC` byte.
//!
//! Replication is pipelined on a stream of its own. Heartbeats and snapshots have other connections, so that
//! neither waits behind bulk. Every call says who calls whom in which cluster.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use crate::net::stream_layer::{ChannelOptions, StreamLayer};
use crate::net::{Kind, Security};
use crate::proto::raft_v1::raft_client::RaftClient;
use crate::raft::peer::calling::CallingNode;
use crate::raft::view::addresses::Addresses;

use super::sender::{Sender, Tag};

/// The largest message of the raft protocol. It carries at most one entry above 1 MiB.
pub const MESSAGE_BYTES_MAX: usize = 40 << 20;

/// A client of a peer's raft service.
pub type PeerClient = RaftClient<InterceptedService<Channel, Tag>>;

/// Makes the calls of one node to its peers; clones share the connections.
#[derive(Clone)]
pub struct Transport {
    layer: StreamLayer,
    pub(super) from: Sender,
    /// The parts of the node that exist once it belongs to a cluster.
    pub(super) node: Arc<OnceLock<CallingNode>>,
    addresses: Addresses,
    kept: Arc<Mutex<HashMap<(u64, Lane), Link>>>,
    /// The runtime that all connections are served on. The runtime of the task that made the first call may be the
    /// one of clients' calls, which may be too busy.
    runtime: Option<Handle>,
}

/// The kinds of calls that have a kept connection each, so that none waits behind another kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Single calls.
    Calls,
    /// Records on their way to the leader.
    Records,
    /// Calls back to a leader that asks whether it can be reached.
    CallBacks,
}

/// A kept connection to a node, and the address that it goes to.
pub(crate) struct Link {
    pub(crate) addr: String,
    pub(crate) client: PeerClient,
}

impl Transport {
    pub fn new(layer: StreamLayer, from: Sender) -> Self {
        Self {
            layer,
            from,
            node: Arc::default(),
            addresses: Addresses::default(),
            kept: Arc::default(),
            runtime: Handle::try_current().ok(),
        }
    }

    /// Where the members are.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Where a node is reached; at `addr` if it is no member.
    pub fn addr(&self, id: u64, addr: &str) -> String {
        self.addresses.of(id).unwrap_or_else(|| addr.to_owned())
    }

    /// Gives the transport the parts of its node: snapshots that are sent keep their segments in its log, and
    /// answers of peers are noted in it.
    pub fn with_node(self, node: CallingNode) -> Self {
        // A transport is made for at most one node.
        let _ = self.node.set(node);
        self
    }

    /// How nodes prove themselves to each other.
    pub fn security(&self) -> &Security {
        self.layer.security()
    }

    /// A client of the node `to`, on the one connection that all such calls to it share; at `addr`,
    /// unless it is known to be elsewhere. It connects when used.
    pub fn client(&self, to: u64, addr: &str) -> PeerClient {
        self.kept(to, addr, Lane::Calls)
    }

    /// A client of the kept connection that carries a lane's calls to a node.
    pub fn kept(&self, to: u64, addr: &str, lane: Lane) -> PeerClient {
        if to == 0 {
            return self.own_client(to, addr);
        }
        let now = self.addr(to, addr);
        let mut kept = self.kept.lock();
        if let Some(link) = kept.get(&(to, lane))
            && link.addr == now
        {
            return link.client.clone();
        }
        let client = self.own_client(to, addr);
        let link = Link {
            addr: now,
            client: client.clone(),
        };
        kept.insert((to, lane), link);
        client
    }

    /// A client with a connection of its own. `to` is 0 if the node's id is not known.
    pub fn own_client(&self, to: u64, addr: &str) -> PeerClient {
        let _served_by = self.runtime.as_ref().map(Handle::enter);
        let options = ChannelOptions {
            keepalive: Some(Duration::from_secs(1)),
            ..ChannelOptions::default()
        };
        let (addresses, addr) = (self.addresses.clone(), addr.to_owned());
        let whereabouts = move || addresses.of(to).unwrap_or_else(|| addr.clone());
        let channel = self
            .layer
            .channel_to(Kind::Raft, Arc::new(whereabouts), options);
        let from = self.from.clone();
        RaftClient::with_interceptor(channel, Tag { from, to })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}
