//! Numbers that many threads count at once: atomics alone, so that nobody waits for another or for a reader.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn one_more(&self) {
        self.add(1);
    }

    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down: of what is there now.
#[derive(Debug, Default)]
pub struct Level(AtomicU64);

impl Level {
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Once for each time that it went up.
    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

const US: u64 = 1_000;
const MS: u64 = 1_000 * US;
const S: u64 = 1_000 * MS;

/// The upper ends of the buckets, in nanoseconds. They begin where a sync of a fast disk does, at 50 us, and end at
/// twice what a call waits for a leader: above that it is all the same how long something took. Three a decade tell a
/// disk that is slow from one that is slower, and keep a histogram at twenty series.
pub(super) const ENDS_NS: [u64; 17] = [
    50 * US,
    100 * US,
    250 * US,
    500 * US,
    MS,
    5 * MS / 2,
    5 * MS,
    10 * MS,
    25 * MS,
    50 * MS,
    100 * MS,
    250 * MS,
    500 * MS,
    S,
    5 * S / 2,
    5 * S,
    10 * S,
];

/// How long something took, each time: a histogram.
#[derive(Debug, Default)]
pub struct Times {
    /// By the first bucket that holds it; the last one is for what is above all ends.
    buckets: [AtomicU64; ENDS_NS.len() + 1],
    sum_ns: AtomicU64,
}

/// What was counted by a moment, or nearly: nobody is held up for it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    pub(super) sum_s: f64,
    pub(super) count: u64,
    /// The upper end in seconds, and how many are in this bucket alone.
    pub(super) buckets: Vec<(f64, u64)>,
}

impl Times {
    pub fn note(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let place = ENDS_NS.partition_point(|end| *end < ns);
        self.buckets[place].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// How often something was noted.
    pub fn count(&self) -> u64 {
        let counts = self.buckets.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub(super) fn seen(&self) -> Seen {
        let ends = ENDS_NS.iter().map(|ns| *ns as f64 / S as f64);
        let counts = self.buckets.iter();
        let counts = counts.map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<_> = ends.chain([f64::INFINITY]).zip(counts).collect();
        Seen {
            sum_s: self.sum_ns.load(Ordering::Relaxed) as f64 / S as f64,
            count: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_bucket_that_reaches_it() {
        let times = Times::default();
        for us in [1, 50, 51, 999, 1_000, 10_000_000, 10_000_001, u64::MAX / MS] {
            times.note(Duration::from_micros(us));
        }
        let seen = times.seen();
        let held = |end: f64| {
            let bucket = seen.buckets.iter().find(|(upper, _)| *upper == end);
            bucket.unwrap().1
        };
        assert_eq!(
            (held(0.000_05), held(0.000_1)),
            (2, 1),
            "an end is included"
        );
        assert_eq!((held(0.001), held(10.0), held(f64::INFINITY)), (2, 1, 2));
        assert_eq!((seen.count, times.count()), (8, 8));
        assert!(ENDS_NS.is_sorted(), "buckets are looked up by bisection");
    }
}
