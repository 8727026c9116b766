//! The pace of a leader: what its own disk has not synced is bounded.
//!
//! Entries commit by the disks of a majority. A leader whose own disk is slower than its followers'
//! would take records at their pace and keep in memory what it has not written, without bound. So
//! it takes no more while too much is not synced: what is proposed waits where it is counted. If
//! that goes on, leadership goes to a voter whose disk keeps up.

use std::time::Duration;

use tokio::time::Instant;

use crate::log::Log;
use crate::raft::ReplicatedLog;

/// Not synced, in bytes; besides it, what was under way when it came to this.
const UNSYNCED_BYTES_MAX: u64 = 64 << 20;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// How long a leader may hold proposals back: summed up, since syncs end and it falls back again.
const BEHIND_MAX: Duration = Duration::from_secs(2);
/// Time in which it keeps up counts against that in which it does not by this part.
const FORGIVEN_SHARE: u32 = 4;
/// For so long leadership is not handed on a second time: others may be as slow.
const HAND_ON_AGAIN: Duration = Duration::from_secs(30);

/// Whether the disk keeps up; clones share it.
#[derive(Debug, Clone)]
pub struct Pace(Log);

impl Pace {
    pub fn new(log: Log) -> Self {
        Self(log)
    }

    /// Whether the disk is too far behind to take more.
    pub fn is_behind(&self) -> bool {
        self.0.unsynced_bytes() >= UNSYNCED_BYTES_MAX
    }

    /// Waits for a moment, or until the disk may have caught up.
    pub async fn pause(&self) {
        tokio::time::sleep(LOOK).await;
    }

    /// Waits until the disk has caught up; false if it has not by a deadline.
    pub async fn caught_up(&self, deadline: Instant) -> bool {
        while self.is_behind() {
            if Instant::now() >= deadline {
                return false;
            }
            self.pause().await;
        }
        true
    }
}

impl ReplicatedLog {
    /// Hands leadership on when this node's disk keeps its proposals waiting. Never returns.
    pub async fn keep_pace(&self) {
        let pace = Pace::new(self.log().clone());
        let mut behind = Duration::ZERO;
        loop {
            pace.pause().await;
            let waits = pace.is_behind() && self.view().writable;
            behind = if waits {
                behind + LOOK
            } else {
                behind.saturating_sub(LOOK / FORGIVEN_SHARE)
            };
            if behind < BEHIND_MAX {
                continue;
            }
            tracing::warn!(
                unsynced_bytes = self.log().unsynced_bytes(),
                "this node's disk does not keep up with the others': records wait for it, and \
                 leadership is handed on"
            );
            self.hand_on().await;
            behind = Duration::ZERO;
            tokio::time::sleep(HAND_ON_AGAIN).await;
        }
    }
}
