//! The pace of a leader: what its own disk has not synced is bounded.
//!
//! Entries commit by the disks of a majority. A leader whose own disk is slower than its followers'
//! would take records at their pace and keep in memory what it has not written, without bound. So
//! it takes no more while too much is not synced: what is proposed waits where it is counted. If
//! that goes on, leadership goes to a voter whose disk keeps up.

use std::time::Duration;

use tokio::time::Instant;

use crate::log::Log;

/// Not synced, in bytes; besides it, what was under way when it came to this.
const UNSYNCED_BYTES_MAX: u64 = 64 << 20;
/// Between two looks.
pub const LOOK: Duration = Duration::from_millis(20);
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
