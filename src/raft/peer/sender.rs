//! Puts on each call to a peer who calls, and from which cluster.

use tonic::Status;
use tonic::service::Interceptor;

use crate::raft::home::directory::Identity;

/// The version of the raft protocol. Nodes of different versions refuse each other.
pub const WIRE: &str = "3";

/// What a call says of its caller.
#[derive(Debug, Clone, Default)]
pub struct Sender {
    /// Empty before the node belongs to a cluster.
    pub cluster_id: String,
    /// 0 before the node has an id.
    pub node_id: u64,
    /// The address at which peers reach the node.
    pub addr: String,
    /// The number that the node drew at its start.
    pub start: u64,
}

impl Sender {
    /// The caller that `identity` names, reached at `addr`.
    pub fn new(identity: &Identity, addr: &str, start: u64) -> Self {
        Self {
            cluster_id: identity.cluster_id.clone(),
            node_id: identity.node_id,
            addr: addr.to_owned(),
            start,
        }
    }
}

/// Puts the caller's name on each call.
#[derive(Debug, Clone)]
pub struct Tag {
    pub from: Sender,
    pub to: u64,
}

impl Interceptor for Tag {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert(
            "ferrolog-wire",
            tonic::metadata::MetadataValue::from_static(WIRE),
        );
        let cluster = self.from.cluster_id.parse();
        metadata.insert(
            "ferrolog-cluster",
            cluster.map_err(|_| Status::internal("cluster id"))?,
        );
        metadata.insert("ferrolog-from", self.from.node_id.into());
        metadata.insert("ferrolog-to", self.to.into());
        metadata.insert("ferrolog-start", self.from.start.into());
        // Peers learn from this where a member has moved, before the membership says it.
        if let Ok(addr) = self.from.addr.parse() {
            metadata.insert("ferrolog-addr", addr);
        }
        Ok(request)
    }
}
