//! Has a leader whose disk does not keep up hand leadership on.

use std::time::Duration;

use crate::raft::write::gate;

use super::Members;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a leader may hold proposals back in total. The times are added up, since a slow disk catches up now and
/// then and falls behind again.
const BEHIND_MAX: Duration = Duration::from_secs(2);
/// The time in which the disk keeps up, divided by this, is subtracted from that sum.
const FORGIVEN_SHARE: u32 = 4;
/// How long a node waits before it hands leadership on again: the other nodes' disks may be as slow.
const HAND_ON_AGAIN: Duration = Duration::from_secs(30);

impl Members {
    /// Hands leadership on if this node leads and its disk keeps proposals waiting. Never returns.
    pub async fn keep_pace(&self) {
        let mut behind = Duration::ZERO;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let waits = gate::is_behind(&self.node.log) && self.node.view().writable;
            behind = if waits {
                behind + LOOK_EVERY
            } else {
                behind.saturating_sub(LOOK_EVERY / FORGIVEN_SHARE)
            };
            if behind < BEHIND_MAX {
                continue;
            }
            tracing::warn!(
                unsynced_bytes = self.node.log.unsynced_bytes(),
                "this node's disk does not keep up with the others': records wait for it, and \
                 leadership is handed on"
            );
            self.hand_on().await;
            behind = Duration::ZERO;
            tokio::time::sleep(HAND_ON_AGAIN).await;
        }
    }
}
