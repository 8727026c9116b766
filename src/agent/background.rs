//! What goes on beside a node's calls: its servers are watched, its log is kept, its health is told.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::raft::{ReplicatedLog, View};
use crate::server::{HealthReporter, ServeError};
use crate::tasks;

use super::reloads::Paces;
use super::runtimes::Runtimes;
use super::{AgentError, Fail};

/// Serves. A server that ends before it was told to ends the node.
pub async fn serving(
    whom: &'static str,
    served: impl Future<Output = Result<(), ServeError>>,
    told: watch::Receiver<bool>,
    fail: Fail,
) {
    let source = served.await.err();
    if !*told.borrow() {
        fail.send_replace(Some(Arc::new(AgentError::ServerEnded { whom, source })));
    } else if let Some(error) = source {
        tracing::warn!(%error, whom, "a server did not end cleanly");
    }
}

/// Starts the tasks that run beside serving, until the node stops.
pub fn upkeep(log: &ReplicatedLog, paces: &Paces, runtimes: &Runtimes) -> Vec<JoinHandle<()>> {
    let (consensus, through_all) = (&runtimes.consensus, &runtimes.upkeep);
    let (changes, kept, mended, scrubbed) = (log.clone(), log.clone(), log.clone(), log.clone());
    let (reached, strangers, paced) = (log.clone(), log.clone(), log.clone());
    let (drained, rewrites, compacted) = (log.clone(), log.clone(), log.clone());
    let freed = log.clone();
    let (scrub_pace, dead_percent) = (
        paces.scrub_bytes_per_second.clone(),
        paces.rewrite_dead_percent.clone(),
    );
    let scrub = async move { scrubbed.scrub(scrub_pace).await };
    let for_compaction = dead_percent.clone();
    let rewriting = async move { rewrites.rewrite(dead_percent).await };
    let compaction = async move { compacted.compact(for_compaction).await };
    vec![
        tasks::spawn_endless_on(consensus, "pace", async move { paced.keep_pace().await }),
        tasks::spawn_endless_on(
            consensus,
            "drain",
            async move { drained.stay_drained().await },
        ),
        tasks::spawn_endless_on(consensus, "reachability", async move {
            reached.stay_reachable().await
        }),
        tasks::spawn_endless_on(consensus, "strangers", async move {
            strangers.meet_strangers().await
        }),
        tasks::spawn_endless_on(consensus, "membership changes", async move {
            changes.finish_changes().await
        }),
        tasks::spawn_endless_on(consensus, "upkeep", async move { kept.keep_up().await }),
        tasks::spawn_endless_on(through_all, "rewriting", rewriting),
        tasks::spawn_endless_on(through_all, "freeing", async move { freed.free().await }),
        tasks::spawn_endless_on(through_all, "compaction", compaction),
        tasks::spawn_endless_on(consensus, "repair", async move { mended.mend().await }),
        tasks::spawn_endless_on(through_all, "scrub", scrub),
    ]
}

/// Tells probes the truth: the node serves while it is a member, knows a leader and runs.
pub async fn tell_health(log: ReplicatedLog, health: HealthReporter) {
    let me = log.identity().node_id;
    let serves = |view: &View| {
        let leads = view.leader == Some(me) && view.writable;
        let follows = view.leader.is_some_and(|leader| leader != me);
        view.stopped.is_none() && view.member(me).is_some() && (leads || follows)
    };
    let mut views = log.watch_view();
    let mut told = None;
    loop {
        let serving = serves(&views.borrow_and_update());
        if told != Some(serving) {
            health.set(serving).await;
            told = Some(serving);
        }
        if views.changed().await.is_err() {
            return;
        }
    }
}
