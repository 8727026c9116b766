//! The gate of a leader: while the gate is shut, proposals wait in the queue, whose bytes are limited, and are not
//! refused.
//!
//! It is shut while the leader's own disk is too far behind. Entries commit by the disks of a majority: a
//! leader whose disk is slower than its followers' would take records at their pace and keep in memory what
//! it has not written, without bound.
//!
//! It is also shut while no majority has answered lately. The engine refuses every proposal once no majority has
//! answered for an election timeout. Where processors or disks are busy, answers come that late now and then, and
//! the leader goes on leading all the same; a proposal in such a moment would fail with `NO_LEADER`. The gate
//! shuts before the engine begins to refuse, so that a proposal which passes the gate reaches the engine in time.

use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;

use crate::log::Log;
use crate::raft::engine::{Raft, Timing};

/// How many bytes may wait for their sync before the gate shuts. Groups that passed the gate by then come on top.
const UNSYNCED_BYTES_MAX: u64 = 64 << 20;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Why the gate is shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shut {
    /// The disk is too far behind.
    DiskBehind,
    /// No majority has answered lately.
    Unanswered,
}

/// Lets proposals pass while the engine takes them; clones are the same gate.
#[derive(Clone)]
pub struct Gate {
    log: Log,
    raft: Raft,
    /// How long a majority may be silent before the gate shuts. It is shorter than the engine's own limit by
    /// the time that a proposal needs to reach the engine.
    silence_max: Duration,
}

impl Gate {
    pub fn new(log: &Log, raft: &Raft, timing: &Timing) -> Self {
        Self {
            log: log.clone(),
            raft: raft.clone(),
            silence_max: Duration::from_millis(timing.election_ms.1) * 2 / 3,
        }
    }

    /// Why the gate is shut, if it is.
    pub fn shut(&self) -> Option<Shut> {
        match () {
            () if is_behind(&self.log) => Some(Shut::DiskBehind),
            () if !self.is_answered() => Some(Shut::Unanswered),
            () => None,
        }
    }

    fn is_answered(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let alone = metrics.membership_config.membership().voter_ids().count() == 1;
        let answered = metrics.last_quorum_acked.as_ref();
        alone || answered.is_some_and(|at| at.elapsed() < self.silence_max)
    }

    /// Waits for a moment.
    pub async fn pause(&self) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether a disk is too far behind for its leader to take more.
pub fn is_behind(log: &Log) -> bool {
    log.unsynced_bytes() >= UNSYNCED_BYTES_MAX
}

/// Waits until the disk has caught up; false if it has not by a deadline.
pub async fn caught_up(log: &Log, deadline: Instant) -> bool {
    while is_behind(log) {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}
