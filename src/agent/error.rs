//! Why a node cannot start or go on, each with what to do.

use crate::raft::{self, JoinError, MembershipError};
use crate::server::ServeError;
use crate::tasks::Broken;

/// A node cannot start, or has stopped.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The node cannot listen on its address.
    #[error("listen on {addr}: another process may hold the port")]
    Listen {
        /// The address.
        addr: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Plain text is for this machine alone.
    #[error(
        "{addr} can be reached from other machines, and --insecure serves anybody: listen on a \
         loopback address, or use certificates (`ferrolog certs --out certs`)"
    )]
    InsecureAddress {
        /// The address.
        addr: String,
    },
    /// Nobody can dial the address.
    #[error("others cannot dial {addr}: name an address that they can with --advertise")]
    Advertise {
        /// The address.
        addr: String,
    },
    /// The certificate is a client's.
    #[error(
        "the certificate names no node, so peers would refuse it: make one with `ferrolog certs \
         --nodes {name}`"
    )]
    NotANode {
        /// The node's name.
        name: String,
    },
    /// The certificate is another node's.
    #[error(
        "the certificate is for node {found}, this is {name}: start it with its own certificate"
    )]
    OtherNode {
        /// The name in the certificate.
        found: String,
        /// The node's name.
        name: String,
    },
    /// The certificate is not for both sides of a stream.
    #[error(
        "the certificate is not for both serving and calling (serverAuth and clientAuth), so peers \
         would refuse it: make one with `ferrolog certs --nodes {name}`"
    )]
    OneSided {
        /// The node's name.
        name: String,
    },
    /// A cluster is there already.
    #[error(
        "{peer} belongs to cluster {cluster} already: this node will not begin a second one. Join \
         it: leave --bootstrap out and keep --join {peer}"
    )]
    SecondCluster {
        /// The node that was found.
        peer: String,
        /// Its cluster.
        cluster: String,
    },
    /// The addresses to join are another cluster's.
    #[error(
        "this node's directory belongs to cluster {ours}, and {peer} to cluster {theirs}: name \
         the addresses of its own cluster with --join, or give it an empty data directory"
    )]
    OtherCluster {
        /// The node that was asked.
        peer: String,
        /// Its cluster.
        theirs: String,
        /// This node's cluster.
        ours: String,
    },
    /// A task of the node is gone that it cannot do without.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// Nobody is served any more, though nothing told it to stop.
    #[error("the server for {whom} ended by itself: start this node again, and report this")]
    ServerEnded {
        /// Clients or peers.
        whom: &'static str,
        /// What the server said.
        source: Option<ServeError>,
    },
    /// The replicated log failed.
    #[error(transparent)]
    Raft(#[from] raft::Error),
    /// The cluster refused the node.
    #[error("the cluster refused this node: {0}")]
    Refused(#[from] MembershipError),
}

impl From<JoinError> for AgentError {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::Refused(error) => Self::Refused(error),
            JoinError::Local(error) => Self::Raft(error),
        }
    }
}
