//! A node's coming and going: how it joins its cluster, hands leadership on, and stops.

use crate::proto::raft_v1::JoinRequest;
use crate::raft::ReplicatedLog;
use crate::raft::error::MembershipError;
use crate::raft::members::joining;
use crate::raft::view::View;
use crate::tasks;

impl ReplicatedLog {
    /// Asks the other members, and those at `peers`, to make this node a voter under its present
    /// address, until they do.
    pub async fn join_cluster(&self, peers: &[String]) -> Result<(), MembershipError> {
        let request = JoinRequest {
            name: self.0.identity.name.clone(),
            addr: self.0.addr.clone(),
            directory_id: self.0.identity.directory_id.clone(),
            node_id: self.0.identity.node_id,
            cluster_id: self.0.identity.cluster_id.clone(),
            // It has an id: it was let in.
            token: String::new(),
            start: self.0.start,
        };
        let view = self.view();
        if view.writable {
            return self.join(request).await.map(drop);
        }
        let others = view
            .members
            .iter()
            .filter(|other| other.id != request.node_id);
        let known = others.map(|other| self.0.transport.addr(other.id, &other.member.addr));
        let addrs: Vec<_> = known.chain(peers.iter().cloned()).collect();
        if addrs.is_empty() {
            return Ok(());
        }
        // The answer comes once the node has caught up, by entries that it has to hear.
        self.meet(addrs.iter().cloned()).await;
        let joined = joining::ask_all(&self.0.transport, &addrs, &request).await?;
        self.introduce(joined.members);
        Ok(())
    }

    /// Whether a membership holds this node as a voter under its present address, and this start of
    /// it is the one that is registered.
    pub fn is_settled_in(&self, view: &View) -> bool {
        let id = self.0.identity.node_id;
        let me = view.member(id);
        let is_there = me.is_some_and(|me| me.voter && me.member.addr == self.0.addr);
        is_there && self.0.fsm.read(|fsm| fsm.registrations.start_of(id)) == Some(self.0.start)
    }

    /// Hands leadership on, if this node leads and another voter takes it.
    pub async fn hand_on(&self) {
        let view = self.view();
        let leads = view.leader == Some(self.0.identity.node_id);
        if leads && view.members.iter().filter(|member| member.voter).count() > 1 {
            match self.transfer("").await {
                Ok(leader) => tracing::info!(%leader, "handed leadership on"),
                Err(error) => tracing::warn!(%error, "leadership was not handed on"),
            }
        }
    }

    /// Stops at once; what a crash would lose is lost.
    pub async fn kill(&self) {
        // An engine that cannot even stop has stopped.
        let _ = self.0.raft.shutdown().await;
    }

    /// Stops, and makes the state durable, so that a restart has nothing to apply again.
    pub async fn shutdown(&self) {
        if let Err(error) = self.0.raft.shutdown().await {
            tracing::error!(%error, "the consensus engine did not stop cleanly");
        }
        let checkpointer = self.0.checkpointer.clone();
        let log = self.0.log.clone();
        let saved = tasks::spawn_blocking("last checkpoint", move || {
            log.close();
            checkpointer.save()
        });
        match saved.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the last checkpoint failed"),
            Err(error) => tracing::error!(%error, "the last checkpoint failed"),
        }
    }
}
