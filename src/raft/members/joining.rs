//! How a node asks to be taken in: for an id, while it has none, and to be a voter later.

use std::time::Duration;

use crate::net::stream_layer::StreamLayer;
use crate::proto::raft_v1 as pb;
use crate::raft::error::{Error, MembershipError, refusal};
use crate::raft::home::directory::Directory;
use crate::raft::peer::sender::Sender;
use crate::raft::peer::transport::Transport;

/// A node cannot join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The cluster refused.
    #[error(transparent)]
    Refused(#[from] MembershipError),
    /// The id cannot be kept.
    #[error(transparent)]
    Local(#[from] Error),
}

/// Asks peer after peer until one answers or refuses: a peer that is down or has no leader yet is
/// asked again.
pub async fn ask_all(
    transport: &Transport,
    peers: &[String],
    request: &pb::JoinRequest,
) -> Result<pb::JoinResponse, MembershipError> {
    let mut told = String::new();
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
            // Once for each new reason: the wait may be long.
            if reason != told {
                tracing::info!(%peer, %reason, "waiting to join");
                told = reason;
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The cluster that one of the peers belongs to, if any is up and belongs to one.
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

/// For one question to a peer.
const ASK_TIMEOUT: Duration = Duration::from_secs(15);

/// Between two rounds of questions.
const RETRY: Duration = Duration::from_millis(200);

/// Asks the members at `peers` for a node id, until one gives it or refuses. A token lets the node in
/// if its name does not.
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
