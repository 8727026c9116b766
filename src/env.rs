//! The seam to randomness and to clocks.
//!
//! Time that a node waits on is tokio's clock, which a simulation can pause. What a node takes for
//! the time of day comes from a [`Clock`], which a simulation sets. Randomness that a node keeps
//! (its cluster and directory ids) comes from a [`Random`], which a simulation seeds.
#![allow(
    clippy::disallowed_methods,
    reason = "the home of randomness and of the wall clock"
)]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::SystemTime;

/// A point of the clock that only goes forward, at one pace: for spans.
pub use tokio::time::Instant;

/// A source of ids that no two nodes draw alike.
#[derive(Clone)]
pub struct Random(Source);

#[derive(Clone)]
enum Source {
    System,
    Seeded(Arc<AtomicU64>),
}

impl Random {
    /// The operating system's generator.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// The same ids for the same seed, for simulation.
    pub fn seeded(seed: u64) -> Self {
        Self(Source::Seeded(Arc::new(AtomicU64::new(seed))))
    }

    /// Draws 64 bits.
    pub fn next_u64(&self) -> u64 {
        match &self.0 {
            Source::System => rand::random(),
            Source::Seeded(state) => split_mix(state),
        }
    }

    /// Draws 128 bits.
    pub fn next_u128(&self) -> u128 {
        match &self.0 {
            Source::System => rand::random(),
            Source::Seeded(state) => {
                (u128::from(split_mix(state)) << 64) | u128::from(split_mix(state))
            }
        }
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Source::System => f.write_str("Random::system"),
            Source::Seeded(_) => f.write_str("Random::seeded"),
        }
    }
}

/// SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
fn split_mix(state: &AtomicU64) -> u64 {
    const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut z = state
        .fetch_add(GAMMA, Ordering::Relaxed)
        .wrapping_add(GAMMA);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 128 bits from the operating system: a client's session id.
pub fn random_u128() -> u128 {
    rand::random()
}

/// A node's wall clock: it may be wrong, and it may jump.
#[derive(Debug, Clone)]
pub struct Clock(Hand);

#[derive(Debug, Clone)]
enum Hand {
    System,
    Simulated {
        start: Instant,
        start_ms: u64,
        /// By how much it has jumped.
        off_ms: Arc<AtomicI64>,
    },
}

impl Clock {
    /// The operating system's.
    pub fn system() -> Self {
        Self(Hand::System)
    }

    /// One that begins at `start_ms`, goes with tokio's clock, and jumps when told to; clones jump
    /// together.
    pub fn simulated(start_ms: u64) -> Self {
        Self(Hand::Simulated {
            start: Instant::now(),
            start_ms,
            off_ms: Arc::default(),
        })
    }

    /// In milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        match &self.0 {
            Hand::System => wall_clock_ms(),
            Hand::Simulated {
                start,
                start_ms,
                off_ms,
            } => {
                let passed = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
                let right = start_ms.saturating_add(passed);
                right.saturating_add_signed(off_ms.load(Ordering::Relaxed))
            }
        }
    }

    /// Sets a simulated clock forward, or back.
    pub fn jump(&self, by_ms: i64) {
        match &self.0 {
            Hand::System => unreachable!("only a simulation sets clocks"),
            Hand::Simulated { off_ms, .. } => off_ms.fetch_add(by_ms, Ordering::Relaxed),
        };
    }
}

/// The operating system's clock in milliseconds since 1970.
pub fn wall_clock_ms() -> u64 {
    let since = wall_clock().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// The wall clock: for certificates' dates, never for an order of events.
pub fn wall_clock() -> SystemTime {
    SystemTime::now()
}
