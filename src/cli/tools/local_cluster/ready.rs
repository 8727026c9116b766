//! Waits for a local cluster: until its nodes are one, and until one of them leads.

use std::time::Duration;

use anyhow::{bail, ensure};
use futures::future;
use tokio::time::Instant;

use super::{LocalCluster, POLL};
use crate::proto::v1::{GetStatusResponse, NodeRole};

impl LocalCluster {
    /// Waits until every running node sees all nodes as voters, and the same leader.
    pub async fn wait_ready(&self, timeout: Duration) -> anyhow::Result<()> {
        let running: Vec<_> = (0..self.nodes.len())
            .filter(|&place| self.is_running(place))
            .collect();
        let admin = self.client(timeout)?.admin();
        let deadline = Instant::now() + timeout;
        loop {
            let asked = running
                .iter()
                .map(|&place| admin.status(Some(self.addr(place))));
            let statuses: Vec<_> = future::join_all(asked)
                .await
                .into_iter()
                .flatten()
                .collect();
            let leader = statuses.first().map_or(0, |status| status.leader_id);
            let is_ready = |status: &GetStatusResponse| {
                let voters = status
                    .nodes
                    .iter()
                    .filter(|node| node.role() == NodeRole::Voter)
                    .count();
                voters == self.nodes.len() && leader != 0 && status.leader_id == leader
            };
            if statuses.len() == running.len() && statuses.iter().all(is_ready) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let logs: Vec<_> = running
                    .iter()
                    .map(|&place| self.log_tail(place))
                    .collect::<Result<_, _>>()?;
                let seen: Vec<_> = statuses.iter().map(summary).collect();
                bail!(
                    "the nodes did not become one cluster within {timeout:?}; they say:\n{}\nthe ends of their \
                     logs:\n{}",
                    seen.join("\n"),
                    logs.join("\n")
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The place of the leader, as the running nodes know it by now; waits for one to be elected.
    pub async fn leader(&self, timeout: Duration) -> anyhow::Result<usize> {
        let admin = self.client(timeout)?.admin();
        let deadline = Instant::now() + timeout;
        loop {
            let running = (0..self.nodes.len()).filter(|&place| self.is_running(place));
            let asked = running.map(|place| admin.status(Some(self.addr(place))));
            let statuses = future::join_all(asked).await.into_iter().flatten();
            // The highest term is the latest news.
            let newest = statuses
                .filter(|status| status.leader_id != 0)
                .max_by_key(|status| status.term);
            let leader = newest.and_then(|status| {
                let leader = status
                    .nodes
                    .iter()
                    .find(|node| node.id == status.leader_id)?;
                self.nodes.iter().position(|node| node.name == leader.name)
            });
            // A dead leader is known until the others miss it.
            if let Some(leader) = leader.filter(|&leader| self.is_running(leader)) {
                return Ok(leader);
            }
            ensure!(
                Instant::now() < deadline,
                "no leader was elected within {timeout:?}"
            );
            tokio::time::sleep(POLL).await;
        }
    }
}

fn summary(status: &GetStatusResponse) -> String {
    let nodes: Vec<_> = status
        .nodes
        .iter()
        .map(|node| format!("{} {:?}", node.name, node.role()))
        .collect();
    format!(
        "{}: leader {}, nodes {}",
        status.node_name,
        status.leader_id,
        nodes.join(", ")
    )
}
