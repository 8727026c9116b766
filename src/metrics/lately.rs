//! How long something took lately: a histogram that forgets what is older than some minutes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::counts::ENDS_NS;

/// What is noted within so long goes into one part, and is forgotten together.
const PART: Duration = Duration::from_secs(30);
/// Parts that are remembered: five minutes.
const PARTS: usize = 10;

/// Times that were noted in the last five minutes. Nobody waits: what is noted just when a part is taken anew may be
/// lost.
#[derive(Debug)]
pub struct Lately {
    began: Instant,
    parts: [Part; PARTS],
}

#[derive(Debug, Default)]
struct Part {
    /// Which span it is of, counted from 1; 0: of none yet.
    span: AtomicU64,
    buckets: [AtomicU64; ENDS_NS.len() + 1],
}

/// What 99 of 100 took at most, and how many there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percentile {
    pub took: Duration,
    pub count: u64,
}

impl Default for Lately {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            parts: Default::default(),
        }
    }
}

impl Lately {
    fn span(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() / PART.as_secs() + 1
    }

    /// Takes note of one that has just ended.
    pub fn note(&self, took: Duration) {
        let span = self.span(Instant::now());
        let part = &self.parts[span as usize % PARTS];
        if part.span.swap(span, Ordering::Relaxed) != span {
            for bucket in &part.buckets {
                bucket.store(0, Ordering::Relaxed);
            }
        }
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let place = ENDS_NS.partition_point(|end| *end < ns);
        part.buckets[place].fetch_add(1, Ordering::Relaxed);
    }

    /// What 99 of 100 took at most, within the bucket by rule of proportion; `None` if there was none.
    pub fn p99(&self) -> Option<Percentile> {
        let now = self.span(Instant::now());
        let mut counts = [0; ENDS_NS.len() + 1];
        let is_late = |part: &&Part| {
            let span = part.span.load(Ordering::Relaxed);
            span > 0 && span + PARTS as u64 > now
        };
        for part in self.parts.iter().filter(is_late) {
            for (count, bucket) in counts.iter_mut().zip(&part.buckets) {
                *count += bucket.load(Ordering::Relaxed);
            }
        }
        let count: u64 = counts.iter().sum();
        let rank = (count * 99).div_ceil(100);
        let mut below = 0;
        for (place, held) in counts.into_iter().enumerate() {
            if held > 0 && below + held >= rank {
                let lower = place.checked_sub(1).map_or(0, |before| ENDS_NS[before]);
                // Above the last end it is all the same.
                let upper = ENDS_NS.get(place).copied().unwrap_or(lower);
                let part = (rank - below) as f64 / held as f64;
                let ns = lower as f64 + (upper - lower) as f64 * part;
                let took = Duration::from_nanos(ns as u64);
                return Some(Percentile { took, count });
            }
            below += held;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_old_is_forgotten_and_the_rest_is_in_proportion() {
        let lately = Lately::default();
        assert_eq!(lately.p99(), None);
        for _ in 0..98 {
            lately.note(Duration::from_millis(2));
        }
        for _ in 0..2 {
            lately.note(Duration::from_millis(200));
        }
        let slow = lately.p99().unwrap();
        assert_eq!(slow.count, 100);
        // One of the two in the bucket from 100 to 250 ms.
        assert_eq!(slow.took, Duration::from_millis(175));
        tokio::time::advance(PART * 5).await;
        for _ in 0..9_900 {
            lately.note(Duration::from_millis(2));
        }
        assert!(
            lately.p99().unwrap().took <= Duration::from_micros(2_500),
            "one of 5,000"
        );
        tokio::time::advance(PART * 5).await;
        assert_eq!(
            lately.p99().unwrap().count,
            9_900,
            "the first ones are forgotten"
        );
        lately.note(Duration::from_secs(60));
        let all = PART * 10;
        tokio::time::advance(all).await;
        assert_eq!(lately.p99(), None);
        lately.note(Duration::from_secs(60));
        let highest = Percentile {
            took: Duration::from_secs(10),
            count: 1,
        };
        assert_eq!(lately.p99(), Some(highest));
    }
}
