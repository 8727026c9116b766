//! `ferrolog.v1.ClusterService`: what an operator asks of a cluster.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::proto::v1::cluster_service_server::ClusterService;
use crate::proto::v1::{
    GetStatusRequest, GetStatusResponse, Node, NodeRole, RemoveNodeRequest, RemoveNodeResponse,
    TransferLeadershipRequest, TransferLeadershipResponse,
};
use crate::raft::ReplicatedLog;

use super::auth::Action;
use super::{Shared, status};

/// The verbs, which only a replicated log has.
pub struct Cluster(pub Arc<Shared<ReplicatedLog>>);

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        self.0.policy.check(&request, Action::Consume)?;
        let log = self.0.log()?;
        let (view, identity, matched) = (log.view(), log.identity(), log.matched());
        let (first, next) = log.log().offsets();
        let [last_index, committed_index, applied_index] = log.indexes();
        let node = |known: &crate::raft::MemberView| Node {
            id: known.id,
            name: known.member.name.clone(),
            addr: known.member.addr.clone(),
            role: if known.voter {
                NodeRole::Voter
            } else {
                NodeRole::Learner
            }
            .into(),
            is_leader: view.leader == Some(known.id),
            matched_index: matched.get(&known.id).copied().flatten(),
        };
        Ok(Response::new(GetStatusResponse {
            cluster_id: identity.cluster_id.clone(),
            node_id: identity.node_id,
            node_name: identity.name.clone(),
            term: view.term,
            leader_id: view.leader.unwrap_or(0),
            first_offset: first.0,
            next_offset: next.0,
            last_index,
            committed_index,
            applied_index,
            nodes: view.members.iter().map(node).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn remove_node(
        &self,
        request: Request<RemoveNodeRequest>,
    ) -> Result<Response<RemoveNodeResponse>, Status> {
        self.0.policy.check(&request, Action::Admin)?;
        let removed = self.0.log()?.remove(&request.get_ref().name).await;
        let removed = removed.map_err(|error| status::membership(&error))?;
        Ok(Response::new(RemoveNodeResponse { removed }))
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipResponse>, Status> {
        self.0.policy.check(&request, Action::Admin)?;
        let leader = self.0.log()?.transfer(&request.get_ref().to).await;
        let leader = leader.map_err(|error| status::membership(&error))?;
        Ok(Response::new(TransferLeadershipResponse { leader }))
    }
}
