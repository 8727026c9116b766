//! How many connections the port takes, and how long each may take or live.

use std::time::Duration;

use crate::net::Kind;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MuxLimits {
    /// How long a connection may take for first byte, TLS handshake, preface and its place in the queue, all
    /// together.
    pub handshake_timeout: Duration,
    /// How long it may take for the first byte alone, once three quarters of the places are taken.
    pub first_byte_timeout: Duration,
    /// Connections that have proven nothing, and have not said that they are a peer's.
    pub pending_max: usize,
    /// How many connections that have said that they are a peer's may have proven nothing yet.
    pub pending_peers_max: usize,
    /// Clients' connections that have proven themselves: half of them from one address, a quarter of one
    /// subject.
    pub clients_max: usize,
    /// Peers' connections: a quarter of one node.
    pub peers_max: usize,
    /// A client's connection without a call ends after so long.
    pub idle_timeout: Duration,
    /// No connection that has proven itself lives longer; its peer dials again.
    pub age_max: Duration,
    /// Streams of each kind that are ready but not yet taken by their server.
    pub queue_max: usize,
}

/// Clients' connections of a node, unless a setting says otherwise.
pub const CLIENTS_MAX: usize = 2048;
const PENDING_MAX: usize = 1024;
const PENDING_PEERS_MAX: usize = 256;
const PEERS_MAX: usize = 256;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(1);
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// A day.
const AGE_MAX: Duration = Duration::from_hours(24);

impl MuxLimits {
    /// Limits for `clients_max` connections of clients, or fewer if `descriptors` do not suffice for all that
    /// come in.
    pub fn within(clients_max: usize, descriptors: usize) -> Self {
        // Whatever the setting is, half of the descriptors are left for connections that have proven nothing,
        // and for peers.
        let clients_max = clients_max.min(descriptors / 2).max(1);
        Self {
            handshake_timeout: HANDSHAKE_TIMEOUT,
            first_byte_timeout: FIRST_BYTE_TIMEOUT,
            pending_max: PENDING_MAX.min(descriptors / 4).max(1),
            pending_peers_max: PENDING_PEERS_MAX.min(descriptors / 12).max(1),
            clients_max,
            peers_max: PEERS_MAX.min(descriptors / 6).max(1),
            idle_timeout: IDLE_TIMEOUT,
            age_max: AGE_MAX,
            queue_max: 128,
        }
    }

    pub(super) fn of_address(&self, kind: Kind) -> usize {
        match kind {
            Kind::Grpc | Kind::Http => (self.clients_max / 2).max(1),
            // All connections may come from one address, such as a gateway's; certificates tell the clients
            // apart.
            Kind::Raft => self.peers_max,
        }
    }

    pub(super) fn of_subject(&self, kind: Kind) -> usize {
        match kind {
            Kind::Grpc | Kind::Http => (self.clients_max / 4).max(1),
            Kind::Raft => (self.peers_max / 4).max(1),
        }
    }

    pub(super) fn of_node(&self, kind: Kind) -> usize {
        match kind {
            Kind::Grpc | Kind::Http => self.clients_max,
            Kind::Raft => self.peers_max,
        }
    }
}

impl Default for MuxLimits {
    fn default() -> Self {
        Self::within(CLIENTS_MAX, usize::MAX)
    }
}
