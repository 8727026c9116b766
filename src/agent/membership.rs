//! How a node becomes a member of its cluster and stays one.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::net::stream_layer::StreamLayer;
use crate::raft::{self, Directory, MembershipError, ReplicatedLog, View};

use super::{AgentError, Fail, Seams};

/// How long a member goes without a leader before it asks whether it still is one.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a node waits between two questions.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Opens the directory. If it is new, begins a cluster or joins one. Also returns whether the node has just joined.
pub async fn become_member(
    config: &Config,
    seams: &Seams,
    layer: &StreamLayer,
    addr: &str,
) -> Result<(Directory, bool), AgentError> {
    let disk = seams.disk.clone();
    let mut directory = Directory::open(disk, &config.data_dir, &config.name, &seams.random)?;
    directory.ask_first(config.join.clone());
    if directory.identity().is_some() {
        directory.let_in(config.allow.clone());
        return Ok((directory, false));
    }
    if config.bootstrap {
        if let Some((peer, cluster)) = raft::cluster_of(layer, &config.join).await {
            return Err(AgentError::SecondCluster { peer, cluster });
        }
        directory.bootstrap(&seams.random)?;
        directory.let_in(config.allow.clone());
        tracing::info!(name = %config.name, "began a cluster");
    } else {
        let token = &config.join_token;
        raft::join(&mut directory, layer, &config.join, addr, token).await?;
        tracing::info!(name = %config.name, "joined a cluster");
    }
    Ok((directory, !config.bootstrap))
}

/// Keeps the node a voter under its present address, and learns whether it was removed while it was down.
pub async fn settle(
    log: ReplicatedLog,
    layer: StreamLayer,
    peers: Vec<String>,
    joined: bool,
    fail: Fail,
) {
    let refused = tokio::select! {
        refused = stay_member(&log, &peers, joined) => refused.into(),
        other = other_cluster(&log, &layer, &peers) => other,
    };
    fail.send_replace(Some(Arc::new(refused)));
    // The sender must live as long as the node: without it nobody can tell a failure.
    fail.closed().await;
}

/// Asks to be taken in whenever the node is no voter under its address, or hears no leader.
/// Returns once the cluster refuses it for good.
async fn stay_member(log: &ReplicatedLog, peers: &[String], joined: bool) -> MembershipError {
    let mut views = log.watch_view();
    let mut patience = if joined { Duration::ZERO } else { PATIENCE };
    loop {
        let settled = |view: &View| view.leader.is_some() && log.is_settled_in(view);
        let found = tokio::time::timeout(patience, views.wait_for(settled)).await;
        let found = found.map(|view| view.map(drop));
        if matches!(found, Ok(Err(_))) {
            // The node is stopping.
            return std::future::pending().await;
        }
        if found.is_ok() {
            // Until the leader is lost, or the membership changes. That another start is registered
            // changes no view.
            let lost = loop {
                let unsettled = views.wait_for(|view| !settled(view));
                if let Ok(lost) = tokio::time::timeout(PATIENCE, unsettled).await {
                    break lost.map(drop);
                }
            };
            if lost.is_err() {
                return std::future::pending().await;
            }
            patience = PATIENCE;
            continue;
        }
        let asked = tokio::select! {
            asked = log.join_cluster(peers) => asked,
            _ = views.wait_for(settled) => Ok(()),
        };
        match asked {
            Ok(()) => {}
            Err(
                MembershipError::NoLeader { reason }
                | MembershipError::Unknown { reason }
                | MembershipError::UnderWay { reason },
            ) => {
                tracing::info!(%reason, "waiting to become a voter");
            }
            Err(refused) => return refused,
        }
        patience = RETRY_AFTER;
    }
}

/// Returns if the addresses to join belong to another cluster than the node's directory.
async fn other_cluster(log: &ReplicatedLog, layer: &StreamLayer, peers: &[String]) -> AgentError {
    let ours = log.identity().cluster_id.clone();
    while !peers.is_empty() {
        match raft::cluster_of(layer, peers).await {
            Some((_, cluster)) if cluster == ours => break,
            Some((peer, theirs)) => return AgentError::OtherCluster { peer, theirs, ours },
            None => tokio::time::sleep(PATIENCE).await,
        }
    }
    std::future::pending().await
}
