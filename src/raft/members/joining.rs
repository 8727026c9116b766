//! How a node joins: it asks the members for an id while it has none, and later to become a voter.

use std::time::Duration;

use crate::net::stream_layer::StreamLayer;
use crate::proto::raft_v1 as pb;
use crate::raft::error::{Error, MembershipError, refusal};
use crate::raft::home::directory::Directory;
use crate::raft::peer::sender::Sender;
use crate::raft::peer::transport::Transport;
use crate::raft::view::View;
use crate::retry::Pauses;

use super::Members;

/// A node cannot join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The cluster refused.
    #[error(transparent)]
    Refused(#[from] MembershipError),
    /// The id cannot be saved.
    #[error(transparent)]
    Local(#[from] Error),
}

/// Asks one peer after the other until one answers or refuses. Peers that are down or know no leader are asked
/// again.
pub async fn ask_all(
    transport: &Transport,
    peers: &[String],
    request: &pb::JoinRequest,
) -> Result<pb::JoinResponse, MembershipError> {
    let (mut told, mut pauses) = (String::new(), Pauses::default());
    loop {
        for peer in peers {
            let mut client = transport.client(0, peer);
            let call = client.join(request.clone());
            let reason = match tokio::time::timeout(ASK_TIMEOUT, call).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => match refusal::membership_error(&status) {
                    MembershipError::NoLeader { reason }
                    | MembershipError::Unknown { reason }
                    | MembershipError::UnderWay { reason } => reason,
                    refused => return Err(refused),
                },
                Err(_) => "no answer".to_owned(),
            };
            // The wait may be long, so each reason is logged once.
            if reason != told {
                tracing::info!(%peer, %reason, "waiting to join");
                told = reason;
            }
        }
        pauses.wait().await;
    }
}

/// The first of the peers that is up and belongs to a cluster, and the id of that cluster.
pub async fn cluster_of(layer: &StreamLayer, peers: &[String]) -> Option<(String, String)> {
    let transport = Transport::new(layer.clone(), Sender::default());
    for peer in peers {
        let mut client = transport.client(0, peer);
        let call = client.identify(pb::IdentifyRequest {});
        if let Ok(Ok(response)) = tokio::time::timeout(ASK_TIMEOUT, call).await {
            let cluster_id = response.into_inner().cluster_id;
            if !cluster_id.is_empty() {
                return Some((peer.clone(), cluster_id));
            }
        }
    }
    None
}

/// How long one question to a peer may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(15);

/// Asks the members at `peers` for a node id, until one gives it or refuses. With a token the node may join although
/// its name is not allowed.
pub async fn join(
    directory: &mut Directory,
    layer: &StreamLayer,
    peers: &[String],
    addr: &str,
    token: &str,
) -> Result<(), JoinError> {
    let transport = Transport::new(layer.clone(), Sender::default());
    let request = directory.join_request(addr, token);
    let joined = ask_all(&transport, peers, &request).await?;
    Ok(directory.be_joined(joined)?)
}

impl Members {
    /// Asks the other members, and the nodes at `peers`, to make this node a voter under its present address, until
    /// it is one.
    pub async fn join_cluster(&self, peers: &[String]) -> Result<(), MembershipError> {
        let request = pb::JoinRequest {
            name: self.node.identity.name.clone(),
            addr: self.node.addr.clone(),
            directory_id: self.node.identity.directory_id.clone(),
            node_id: self.node.id(),
            cluster_id: self.node.identity.cluster_id.clone(),
            // A node with an id needs no token.
            token: String::new(),
            start: self.node.start,
        };
        let view = self.node.view();
        if view.writable {
            return self.join(request).await.map(drop);
        }
        let others = view
            .members
            .iter()
            .filter(|other| other.id != request.node_id);
        let known = others.map(|other| self.node.transport.addr(other.id, &other.member.addr));
        let addrs: Vec<_> = known.chain(peers.iter().cloned()).collect();
        if addrs.is_empty() {
            return Ok(());
        }
        // The answer comes once this node has caught up. For that it must know the members, to accept their
        // entries. Those that are down now are asked again when they call.
        self.hearing.ask_also(peers);
        self.hearing.meet(addrs.iter().cloned()).await;
        let joined = ask_all(&self.node.transport, &addrs, &request).await?;
        self.hearing.introduce(joined.members);
        Ok(())
    }

    /// Whether the membership names this node as a voter under its present address, and this start of the node is
    /// the registered one.
    pub fn is_settled_in(&self, view: &View) -> bool {
        let id = self.node.id();
        let me = view.member(id);
        let is_there = me.is_some_and(|me| me.voter && me.member.addr == self.node.addr);
        is_there
            && self.node.state.read(|fsm| fsm.registrations.start_of(id)) == Some(self.node.start)
    }
}
