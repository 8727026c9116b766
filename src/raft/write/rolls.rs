//! Ends segments of the log: the leader says so in the log, so that all nodes end one behind the same entry.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::log::Index;
use crate::raft::entry::command::Command;
use crate::raft::node::Node;
use crate::retry::CALL_WAIT;
use crate::tasks;

/// Between two tries, while a segment goes on filling up that was to be ended.
const AGAIN: Duration = Duration::from_millis(100);

/// Ends segments that are full, from now on.
pub fn start(node: Arc<Node>, full: watch::Receiver<bool>) {
    tasks::spawn("segment ends", end_full_segments(node, full));
}

/// Ends the last segment whenever it is full and this node leads, one at a time. `full` tells whether it is, and that
/// the engine has stopped.
async fn end_full_segments(node: Arc<Node>, mut full: watch::Receiver<bool>) {
    let mut views = node.views.clone();
    while full.wait_for(|is_full| *is_full).await.is_ok() {
        let leads = views.wait_for(|view| view.writable || view.stopped.is_some());
        if leads.await.map_or(true, |view| view.stopped.is_some()) {
            return;
        }
        let ended = match node.log.full() {
            Some(since) => end_segment(&node, since).await,
            None => false,
        };
        if !ended {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Ends the segment that counts from `since` on, if this node leads; false if it did not come to that. What is not
/// told in time may end it later: it ends no other one.
pub async fn end_segment(node: &Node, since: Index) -> bool {
    // While disks are full, trims go into what is left of the segment: another one may find no room.
    if node.space.check(&node.view()).is_err() {
        return false;
    }
    let written = node.raft.client_write(Command::Roll(since));
    match timeout(CALL_WAIT, written).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            tracing::debug!(%error, "the segment goes on: its end was not written");
            false
        }
        Err(_) => false,
    }
}
