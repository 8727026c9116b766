//! The seam to randomness and to clocks.
//!
//! Time that a node waits on is tokio's clock, which a simulation can pause. What a node takes for
//! the time of day comes from a [`Clock`], which a simulation sets. Randomness that a node keeps
//! (its cluster and directory ids) comes from a [`Random`], which a simulation seeds. What is drawn in passing
//! (elections, a client's secrets) comes from the system, or on a thread of [`simulate`] from its seed.
#![allow(
    clippy::disallowed_methods,
    reason = "the home of randomness and of the wall clock"
)]

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::SystemTime;

/// A point of the clock that only goes forward, at one pace: for spans.
pub use tokio::time::Instant;

/// Processors that a simulation's machine has at most.
const SIMULATED_CORES_MAX: u64 = 8;

thread_local! {
    /// The source of a simulation that runs on this thread.
    static SIMULATED: RefCell<Option<Random>> = const { RefCell::new(None) };
    /// The processors of its machine; 0 outside of a simulation.
    static CORES: Cell<usize> = const { Cell::new(0) };
}

/// Makes this thread the only one of a simulation: from now on all that is drawn here follows from the seed,
/// and work that would go to other threads stays ([`tasks::spawn_blocking`](crate::tasks::spawn_blocking)).
pub fn simulate(seed: u64) {
    let random = Random::seeded(seed);
    CORES.set(1 + (random.next_u64() % SIMULATED_CORES_MAX) as usize);
    SIMULATED.set(Some(random));
}

/// Whether this thread is a simulation's.
pub fn is_simulated() -> bool {
    SIMULATED.with_borrow(Option::is_some)
}

/// How many processors this process may use: the machine's, or as many as the simulation's seed has drawn, so
/// that no history depends on where it is run.
pub fn cores() -> usize {
    match CORES.get() {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        simulated => simulated,
    }
}

/// 64 bits from the operating system, or from the simulation that the thread belongs to.
pub fn random_u64() -> u64 {
    let simulated = SIMULATED.with_borrow(|random| random.as_ref().map(Random::next_u64));
    simulated.unwrap_or_else(rand::random)
}

/// 128 bits from the same source.
pub fn random_u128() -> u128 {
    (u128::from(random_u64()) << 64) | u128::from(random_u64())
}

/// [`random_u64`] in the form that the consensus engine asks for.
#[derive(Debug, Default)]
pub struct Generator;

impl rand::TryRng for Generator {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        // The upper half of what was mixed.
        Ok((random_u64() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(random_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&random_u64().to_le_bytes()[..part.len()]);
        }
        Ok(())
    }
}

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

    /// A source for simulation: the same seed gives the same ids.
    pub fn seeded(seed: u64) -> Self {
        Self(Source::Seeded(Arc::new(AtomicU64::new(seed))))
    }

    /// Draws 64 bits.
    pub fn next_u64(&self) -> u64 {
        match &self.0 {
            Source::System => random_u64(),
            Source::Seeded(state) => split_mix(state),
        }
    }

    /// Draws 128 bits.
    pub fn next_u128(&self) -> u128 {
        match &self.0 {
            Source::System => random_u128(),
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

/// A node's wall clock: it may be wrong, and it may jump.
#[derive(Debug, Clone)]
pub struct Clock(Hand);

#[derive(Debug, Clone)]
enum Hand {
    System,
    Simulated {
        start: Instant,
        start_ms: u64,
        /// How far the clock has jumped, in milliseconds.
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

    /// The same, as finely as it is known.
    #[cfg(feature = "otlp")]
    pub fn now(&self) -> SystemTime {
        match &self.0 {
            Hand::System => wall_clock(),
            Hand::Simulated { .. } => {
                SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(self.now_ms())
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

const DAY_MS: u64 = 86_400_000;

/// A time in milliseconds since 1970, as RFC 3339 has it: `2026-01-31T23:59:59Z`.
pub fn utc(ms: u64) -> String {
    let (days, seconds) = (ms / DAY_MS, ms % DAY_MS / 1000);
    let (year, month, day) = date_of(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The year, month and day that are so many days after the first of 1970.
fn date_of(days: u64) -> (u64, u64, u64) {
    // The months are counted from March on, in years that begin with it, so that the leap day is the last one.
    let since_march_of_0 = days + 719_468;
    let (era, day) = (since_march_of_0 / 146_097, since_march_of_0 % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = 400 * era + year;
    match month {
        0..10 => (year, month + 3, day),
        _ => (year + 1, month - 9, day),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rand::Rng;

    use super::*;

    /// Some of everything that can be drawn.
    fn drawn() -> (u64, u128, u64, [u8; 13]) {
        let mut bytes = [0; 13];
        Generator.fill_bytes(&mut bytes);
        let random = Random::system();
        (
            random_u64(),
            random.next_u128(),
            Generator.next_u64(),
            bytes,
        )
    }

    #[test]
    fn a_seed_decides_all_that_a_simulations_thread_draws() {
        let of = |seed| {
            let thread = thread::spawn(move || {
                assert!(!is_simulated());
                simulate(seed);
                assert!(is_simulated());
                (drawn(), cores())
            });
            thread.join().unwrap()
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        let cores: std::collections::BTreeSet<_> = (1..20).map(|seed| of(seed).1).collect();
        assert!(
            cores.len() > 1,
            "the machine's processors, whatever the seed"
        );
        assert_ne!(drawn(), drawn(), "the system's generator repeats nothing");
    }
}
