//! The lease of a leader: its engine refuses what it is given when no majority has answered for an
//! election timeout.
//!
//! A leader whose processors or disks are busy is that late now and then, and leads on. What is given to it
//! in such a moment would be told that there is no leader, though it could wait for the next answer. So the
//! proposer looks first, and early enough for what it gives to reach the engine.

use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;

use crate::raft::engine::{Raft, Timing};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Whether the engine takes what it is given.
#[derive(Clone)]
pub struct Lease {
    raft: Raft,
    /// What is left of the lease by then is for the way to the engine.
    answered_within: Duration,
}

impl Lease {
    pub fn new(raft: &Raft, timing: &Timing) -> Self {
        Self {
            raft: raft.clone(),
            answered_within: Duration::from_millis(timing.election_ms.1) * 2 / 3,
        }
    }

    /// Whether a majority has answered lately.
    pub fn holds(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let alone = metrics.membership_config.membership().voter_ids().count() == 1;
        let answered = metrics.last_quorum_acked.as_ref();
        alone || answered.is_some_and(|at| at.elapsed() < self.answered_within)
    }

    /// Waits for a moment.
    pub async fn pause(&self) {
        tokio::time::sleep(LOOK).await;
    }
}
