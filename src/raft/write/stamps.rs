//! Gives each entry its time before it is replicated. Only the leader does this (I2: apply reads no clock).
//!
//! The time never goes back along the log, and is ahead of a majority's clocks by a bound at most. If a log's time
//! is further ahead by some accident, it goes on slowly until the clocks have reached it.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::env::Instant;
use crate::log::Log;
use crate::raft::state::applied::AppliedState;
use crate::raft::view::View;
use crate::raft::view::clocks::Clocks;

/// While the log's time is ahead of the clocks, it goes on by the time that passes, divided by this.
const CREEP_SHARE: u64 = 16;

/// Gives the times; clones share it.
#[derive(Debug, Clone)]
pub struct Stamps {
    given: Arc<Mutex<LastGiven>>,
    clocks: Clocks,
    views: watch::Receiver<View>,
    log: Log,
    fsm: Arc<AppliedState>,
}

/// The time that was given last, and the moment at which it was given first.
#[derive(Debug)]
struct LastGiven {
    ms: u64,
    since: Instant,
}

impl LastGiven {
    /// The time of the next entry, where `known_ms` is the last one in the log and `present_ms` what clocks show.
    fn next(&mut self, known_ms: u64, present_ms: u64) -> u64 {
        let now = Instant::now();
        let passed = now.duration_since(self.since).as_millis();
        let least = if known_ms > self.ms {
            // The last time in the log was given by another leader. The next entry gets a later time, so that
            // the two can be told apart.
            known_ms.saturating_add(1)
        } else {
            let passed = u64::try_from(passed).unwrap_or(u64::MAX);
            self.ms.saturating_add(passed / CREEP_SHARE)
        };
        let next = present_ms.max(least);
        if next > self.ms {
            *self = Self {
                ms: next,
                since: now,
            };
        }
        next
    }
}

impl Stamps {
    pub fn new(
        log: Log,
        fsm: Arc<AppliedState>,
        clocks: Clocks,
        views: watch::Receiver<View>,
    ) -> Self {
        let given = LastGiven {
            ms: 0,
            since: Instant::now(),
        };
        Self {
            given: Arc::new(Mutex::new(given)),
            clocks,
            views,
            log,
            fsm,
        }
    }

    /// The time of the next entry, in milliseconds since 1970.
    pub fn next(&self) -> u64 {
        // An entry that is not applied yet is in the log, and an entry that the log no longer holds is applied:
        // so the later of both times counts.
        let known = self
            .log
            .last_timestamp_ms()
            .max(self.fsm.read(|fsm| fsm.timestamp_ms));
        let present = self.clocks.present_ms(&self.views.borrow());
        self.given.lock().next(known, present)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_log_that_is_ahead_creeps_until_the_clocks_reach_it() {
        let mut given = LastGiven {
            ms: 0,
            since: Instant::now(),
        };
        assert_eq!(given.next(0, 1000), 1000);
        assert_eq!(given.next(1000, 900), 1000, "it does not go back");
        assert_eq!(given.next(9000, 1000), 9001, "another leader's");
        let mut last = 9001;
        for step in 1..=160 {
            tokio::time::advance(Duration::from_millis(10)).await;
            let next = given.next(last, 1000 + step * 10);
            assert!(next >= last, "{next} comes after {last}");
            last = next;
        }
        // A sixteenth of 1.6 s; each step is cut to whole milliseconds.
        assert!((9050..=9101).contains(&last), "{last}");
        assert_eq!(given.next(last, 9200), 9200, "they have");
    }
}
