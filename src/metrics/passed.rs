//! When entries passed a point, so that whoever meets one of them later can tell how long that took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// More entries than can be under way between two points of a leader. Of a follower that catches up some are missed.
const SLOTS: usize = 256;

/// The times of the last entries, by their indexes. Nobody waits: of an entry that was overwritten, or is being
/// written, no time is told.
#[derive(Debug)]
pub struct Passed {
    began: Instant,
    slots: Box<[Slot]>,
}

#[derive(Debug, Default)]
struct Slot {
    /// The entry's index and one; 0 while it is written.
    key: AtomicU64,
    /// Since the beginning.
    ns: AtomicU64,
}

impl Default for Passed {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            slots: (0..SLOTS).map(|_| Slot::default()).collect(),
        }
    }
}

impl Passed {
    fn slot(&self, index: u64) -> &Slot {
        &self.slots[index as usize % SLOTS]
    }

    /// Takes note that an entry passes.
    pub fn note(&self, index: u64, at: Instant) {
        let ns = at.saturating_duration_since(self.began).as_nanos();
        let slot = self.slot(index);
        slot.key.store(0, Ordering::Release);
        slot.ns
            .store(u64::try_from(ns).unwrap_or(u64::MAX), Ordering::Release);
        slot.key.store(index + 1, Ordering::Release);
    }

    /// When an entry passed.
    pub fn at(&self, index: u64) -> Option<Instant> {
        let slot = self.slot(index);
        let is_it = || slot.key.load(Ordering::Acquire) == index + 1;
        let ns = is_it().then(|| slot.ns.load(Ordering::Acquire))?;
        let passed = self.began + Duration::from_nanos(ns);
        is_it().then_some(passed)
    }

    /// How long ago an entry passed.
    pub fn since(&self, index: u64, now: Instant) -> Option<Duration> {
        let passed = self.at(index)?;
        Some(now.saturating_duration_since(passed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_is_that_of_the_entry_or_none() {
        let passed = Passed::default();
        let began = Instant::now();
        for index in 0..3 {
            passed.note(index, began + Duration::from_millis(index));
        }
        let now = began + Duration::from_millis(10);
        assert_eq!(passed.since(2, now), Some(Duration::from_millis(8)));
        assert_eq!(passed.since(3, now), None, "it did not pass");
        passed.note(SLOTS as u64 + 2, now);
        assert_eq!(passed.since(2, now), None, "its place was taken");
    }
}
