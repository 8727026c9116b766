//! A leader whose disk does not keep up hands leadership on.

use std::time::Duration;

use crate::raft::write::gate;

use super::Members;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// How long a leader may hold proposals back: summed up, since syncs end and it falls back again.
const BEHIND_MAX: Duration = Duration::from_secs(2);
/// Time in which it keeps up counts against that in which it does not by this part.
const FORGIVEN_SHARE: u32 = 4;
/// For so long leadership is not handed on a second time: others may be as slow.
const HAND_ON_AGAIN: Duration = Duration::from_secs(30);

impl Members {
    /// Hands leadership on when this node's disk keeps its proposals waiting. Never returns.
    pub async fn keep_pace(&self) {
        let mut behind = Duration::ZERO;
        loop {
            tokio::time::sleep(LOOK).await;
            let waits = gate::is_behind(&self.node.log) && self.node.view().writable;
            behind = if waits {
                behind + LOOK
            } else {
                behind.saturating_sub(LOOK / FORGIVEN_SHARE)
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
