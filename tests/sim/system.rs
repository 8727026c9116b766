//! The system's chance and clocks, as this process sees them: both follow from the seed.
//!
//! The product draws and looks at the time through its seams. Hash maps, the scheduler and libraries below it
//! do not: they ask libc, and find these two functions in its place, as a program may define them. So the order
//! of a map, the branch that `select!` tries first and the date in an answer's header are the seed's, too.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "it stands in for the system"
)]

use std::cell::Cell;
use std::ffi::{c_int, c_long, c_uint, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::run::Leak;

/// 2027-01-15, to the second.
pub const START_MS: u64 = 1_800_000_000_000;

static STATE: AtomicU64 = AtomicU64::new(0);
/// By how much the time of day is off, where it leaks in.
static LATER_MS: AtomicU64 = AtomicU64::new(0);
/// Where the simulation's time begins; unset before and outside.
static BEGAN: OnceLock<Instant> = OnceLock::new();

thread_local! {
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// What is drawn from now on follows from the seed.
pub fn seed(seed: u64) {
    STATE.store(seed, Ordering::Relaxed);
}

/// Has the machine's own clock decide something that the seed should: a fault of the simulation, on purpose.
pub fn leak(leak: Leak) {
    let now = real_time().as_nanos() as u64;
    match leak {
        Leak::Chance => drop(STATE.fetch_xor(now, Ordering::Relaxed)),
        Leak::Clock => LATER_MS.store(1000 + now % 1_000_000, Ordering::Relaxed),
    }
}

/// Clocks show the present runtime's time from now on.
pub fn begin() {
    BEGAN.get_or_init(Instant::now);
}

/// How long the simulation has lasted.
pub fn elapsed() -> Duration {
    let began = BEGAN.get().filter(|_| Handle::try_current().is_ok());
    began.map(Instant::elapsed).unwrap_or_default()
}

/// The machine's own time, for whoever measures a simulation.
pub fn real_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn next() -> u64 {
    const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut z = STATE
        .fetch_add(GAMMA, Ordering::Relaxed)
        .wrapping_add(GAMMA);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// In libc's place.
///
/// # Safety
///
/// As of `getrandom(2)`: `buffer` holds `length` bytes that may be written. Nothing else is asked of a caller.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, _flags: c_uint) -> isize {
    for at in 0..length {
        // SAFETY: the caller gave `length` bytes.
        unsafe { *buffer.cast::<u8>().add(at) = (next() >> 32) as u8 };
    }
    length as isize
}

/// What libc's callers give it on the systems that this is built for: two words of 64 bits.
#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: c_long,
}

/// In libc's place.
///
/// # Safety
///
/// As of `clock_gettime(2)`: `now` may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: c_int, now: *mut Timespec) -> c_int {
    const REALTIME: c_int = 0;
    // The runtime's own look at the clock, while it pauses it, finds it where it stands.
    let passed = match ASKING.replace(true) {
        true => Duration::ZERO,
        false => {
            let passed = elapsed();
            ASKING.set(false);
            passed
        }
    };
    let start = match clock {
        REALTIME => Duration::from_millis(START_MS + LATER_MS.load(Ordering::Relaxed)),
        _ => Duration::from_secs(1 << 20),
    };
    let told = start + passed;
    // SAFETY: the caller gave room for one.
    unsafe {
        *now = Timespec {
            seconds: told.as_secs() as i64,
            nanoseconds: c_long::from(told.subsec_nanos() as i32),
        }
    };
    0
}
