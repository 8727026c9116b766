//! What the storage engine costs beside the disk below it, and whether that meets the goals.
//!
//! Each case measures the engine and the plain system calls for the same bytes in turns, so that a noisy
//! machine slows both alike. The table at the end shows the medians, and whether they meet the goals. A goal that
//! is missed fails nothing: a figure of a shared machine is no test. `FERROLOG_BENCH_DIR` is where the files go, on the disk in
//! question; `FERROLOG_BENCH_RECORDS` is how many records the log has that is read and recovered.
#![allow(
    clippy::disallowed_methods,
    reason = "it measures time and the bare disk"
)]

mod appends;
mod engine;
mod pairs;
mod raw;
mod reads;
mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::Criterion;
use mimalloc::MiMalloc;

use table::Row;

/// The program's own.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// About 1 GiB of records of 100 bytes.
const RECORDS: u64 = 10_000_000;

fn main() {
    let dir = scratch_dir();
    // The time of a case is bounded by these: the engine's share is this long, the other side's comes on top.
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let rows = run(&mut criterion, dir.path());
    criterion.final_summary();
    table::print(&rows);
}

fn run(criterion: &mut Criterion, dir: &Path) -> Vec<Row> {
    let mut rows = appends::one_synced(criterion, dir);
    for writers in [1, 64] {
        for record_bytes in [100, 1024] {
            rows.extend(appends::group_commit(criterion, dir, writers, record_bytes));
        }
    }
    // Before the large log: what it leaves to be written back would slow the syncs.
    rows.extend(appends::sequential(criterion, dir));
    rows.extend(reads::cases(criterion, dir, records()));
    rows
}

/// How many records the large log gets.
fn records() -> u64 {
    let asked = std::env::var("FERROLOG_BENCH_RECORDS").ok();
    let asked = asked.map(|asked| asked.parse().expect("FERROLOG_BENCH_RECORDS is a number"));
    asked.unwrap_or(RECORDS)
}

/// Not the system's temporary directory, which may be memory, where a sync costs nothing.
fn scratch_dir() -> tempfile::TempDir {
    let asked = std::env::var_os("FERROLOG_BENCH_DIR").map(PathBuf::from);
    let parent = asked.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    std::fs::create_dir_all(&parent).expect("make the directory for the benchmark");
    let made = tempfile::Builder::new()
        .prefix("storage-bench-")
        .tempdir_in(&parent);
    made.expect("make a directory for the benchmark")
}
