//! What the system knows of this process: memory, processor, descriptors. On a system that does not say, it is left out.
#![allow(
    clippy::disallowed_methods,
    reason = "what the kernel tells of the process is on no disk, and fails with none"
)]

use std::fs;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::Page;
use super::families::{PROCESS_CPU, PROCESS_FDS, PROCESS_FDS_MAX, PROCESS_MEMORY};

const STATUS: &str = "/proc/self/status";
const DESCRIPTORS: &str = "/proc/self/fd";
const RESIDENT: &str = "VmRSS:";

/// Tells it.
pub fn tell(page: &mut Page<'_>) {
    if let Some(bytes) = resident_bytes() {
        page.one(&PROCESS_MEMORY, bytes);
    }
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    page.one(&PROCESS_CPU, cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9);
    if let Some(open) = open_descriptors() {
        page.one(&PROCESS_FDS, open);
    }
    if let Some(most) = descriptors_max() {
        page.one(&PROCESS_FDS_MAX, most);
    }
}

/// How many descriptors are open.
pub fn open_descriptors() -> Option<u64> {
    let open = fs::read_dir(DESCRIPTORS).ok()?;
    // One of them is this look itself.
    Some((open.count() as u64).saturating_sub(1))
}

/// How many there may be; `None`: any number.
pub fn descriptors_max() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string(STATUS).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(RESIDENT))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib << 10)
}
