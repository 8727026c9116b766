//! Reading and recovery, from the page cache: of one log that is made before.

use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};

use crate::appends::append_in_flight;
use crate::engine::{Batch, Closed, Engine};
use crate::pairs::{Pairs, percentile};
use crate::raw::RawReader;
use crate::table::{Goal, Row};

const RECORD_BYTES: usize = 100;
/// What a consumer asks for at a time.
const READ_BYTES: usize = 256 << 10;
/// Random reads a turn, and those whose times are taken one by one.
const READS: usize = 20_000;
const MEGA: f64 = 1e6;

/// Every case over a log of so many records in batches of 100, then random reads of single ones alone.
pub fn cases(criterion: &mut Criterion, dir: &Path, records: u64) -> Vec<Row> {
    let batch = Batch::new(100, RECORD_BYTES);
    let log = make(&dir.join("large"), &batch, records);
    let mut rows = Vec::from_iter(recovery(criterion, &log));
    let engine = log.open();
    rows.extend(sequential(criterion, &log, &engine));
    for threads in [1, 2] {
        rows.extend(random(criterion, &log, &engine, &batch, threads));
    }
    drop(engine);
    let single = Batch::new(1, RECORD_BYTES);
    let log = make(&dir.join("singles"), &single, records / 10);
    let engine = log.open();
    for threads in [1, 2] {
        rows.extend(random(criterion, &log, &engine, &single, threads));
    }
    drop(engine);
    rows.extend(one_of_many(criterion, &dir.join("many"), records));
    rows
}

/// One log out of a thousand whose batches alternate, from its start on.
fn one_of_many(criterion: &mut Criterion, dir: &Path, records: u64) -> Option<Row> {
    const LOGS: u32 = 1000;
    /// As many as an entry holds of batches of 10 records.
    const LOGS_OF_ENTRY: u32 = 200;
    const GOAL: f64 = 500_000.0;
    let all: Vec<_> = (0..LOGS / LOGS_OF_ENTRY)
        .map(|part| part * LOGS_OF_ENTRY)
        .map(|first| Batch::over(first..first + LOGS_OF_ENTRY, 10, RECORD_BYTES))
        .collect();
    let mut engine = Engine::create(dir);
    let each = (records / u64::from(LOGS) / 10).max(1);
    for _ in 0..each {
        for batch in &all {
            append_in_flight(&mut engine, batch, 1, 1);
        }
    }
    let closed = engine.close();
    let records = each * 10;
    let name = "one log of 1,000 from its start, 100 B in batches of 10";
    let mut log = 0;
    let mut turns = |times: u64| {
        let mut took = Duration::ZERO;
        for _ in 0..times {
            // Opened anew, so that nothing is known of where its batches stand.
            let engine = closed.open();
            log = (log + 7) % LOGS;
            let (start, mut at) = (Instant::now(), 0);
            while at < records {
                at += engine.read_of(log, at, READ_BYTES).0;
            }
            took += start.elapsed();
        }
        took
    };
    let took = turns(5).as_secs_f64() / 5.0;
    let mut group = criterion.benchmark_group("reads");
    group.throughput(Throughput::Elements(records));
    group.bench_function(name, |bencher| bencher.iter_custom(&mut turns));
    group.finish();
    Some(Row {
        case: name.to_owned(),
        ours: records as f64 / took,
        raw: None,
        unit: "/s",
        goal: Goal::Over(GOAL),
    })
}

/// Makes a log of equal batches and closes it, so that none of it stays in the engine's memory.
fn make(dir: &Path, batch: &Batch, records: u64) -> Closed {
    const IN_FLIGHT: usize = 4096;
    let mut engine = Engine::create(dir);
    let batches = usize::try_from(records / batch.records()).expect("a 64-bit machine");
    append_in_flight(&mut engine, batch, batches.max(1), IN_FLIGHT);
    engine.close()
}

/// Opening the log after a clean end, beside reading its files.
fn recovery(criterion: &mut Criterion, log: &Closed) -> Option<Row> {
    const SCAN_BYTES: usize = 1 << 20;
    let mut raw = RawReader::open(&log.stores(), SCAN_BYTES);
    let bytes = raw.bytes();
    let ours = || {
        let start = Instant::now();
        let engine = log.open();
        let took = start.elapsed();
        drop(engine);
        took
    };
    let name = format!(
        "recovery of {:.1} M records, {:.2} GB",
        log.records() as f64 / MEGA,
        bytes as f64 / 1e9
    );
    let pairs = Pairs::measure(criterion, &name, Throughput::Bytes(bytes), ours, || {
        raw.read(usize::try_from(bytes).expect("a 64-bit machine"))
    });
    let (ours, raw) = pairs.medians()?;
    Some(Row {
        case: name,
        ours: ours * 1000.0,
        raw: Some(raw * 1000.0),
        unit: "ms",
        goal: Goal::None,
    })
}

/// From offset to offset, as a consumer that catches up; beside reads of as many bytes.
fn sequential(criterion: &mut Criterion, log: &Closed, engine: &Engine) -> Vec<Row> {
    const TURN_RECORDS: u64 = 500_000;
    let turn_records = TURN_RECORDS.min(log.records());
    let turn_bytes = turn_records * RECORD_BYTES as u64;
    let mut raw = RawReader::open(&log.stores(), READ_BYTES);
    let mut at = 0;
    let ours = || {
        let start = Instant::now();
        let mut left = turn_records;
        while left > 0 {
            let (records, bytes) = engine.read(at, READ_BYTES);
            assert_eq!(bytes as u64, records * RECORD_BYTES as u64);
            at = (at + records) % log.records();
            left = left.saturating_sub(records);
        }
        start.elapsed()
    };
    let name = "sequential read, 100 B in batches of 100";
    let work = Throughput::Elements(turn_records);
    let pairs = Pairs::measure(criterion, name, work, ours, || {
        raw.read(usize::try_from(turn_bytes).expect("a turn is short"))
    });
    let Some((ours, raw)) = pairs.medians() else {
        return Vec::new();
    };
    let row = |what: &str, work: f64, raw_work: Option<f64>, unit| Row {
        case: format!("{name}: {what}"),
        ours: work / ours,
        raw: raw_work.map(|work| work / raw),
        unit,
        goal: Goal::None,
    };
    let megabytes = turn_bytes as f64 / MEGA;
    vec![
        row("records", turn_records as f64, None, "/s"),
        row("values", megabytes, Some(megabytes), "MB/s"),
    ]
}

/// Single records at offsets drawn at random, beside one read each of a whole frame's bytes: no fewer can be
/// checked.
fn random(
    criterion: &mut Criterion,
    log: &Closed,
    engine: &Engine,
    batch: &Batch,
    threads: usize,
) -> Vec<Row> {
    const GOAL: f64 = 500_000.0;
    let frame_bytes = batch.frame_bytes();
    let mut raw = RawReader::open(&log.stores(), frame_bytes);
    let frames = raw.bytes() / frame_bytes as u64;
    let mut raw_draws = Draws(1);
    let mut seed = 0;
    let ours = || {
        seed += 1;
        read_at_once(engine, log.records(), threads, seed)
    };
    let name = format!(
        "random read, 100 B in batches of {}, threads {threads}",
        batch.records()
    );
    let reads = threads * READS;
    let work = Throughput::Elements(reads as u64);
    let pairs = Pairs::measure(criterion, &name, work, ours, || {
        raw.read_at(&raw_draws.below(frames, READS))
    });
    let Some((took, raw_took)) = pairs.medians() else {
        return Vec::new();
    };
    let mut rows = vec![Row {
        case: name.clone(),
        ours: reads as f64 / took,
        // Of one thread, whatever the engine has.
        raw: (threads == 1).then_some(READS as f64 / raw_took),
        unit: "/s",
        goal: Goal::Over(GOAL),
    }];
    if threads == 1 {
        rows.extend(latencies(engine, log.records(), &name));
    }
    rows
}

/// Each thread reads as many records; the time from the first one's start to the last one's end.
fn read_at_once(engine: &Engine, records: u64, threads: usize, seed: u64) -> Duration {
    let barrier = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let read = |thread: usize| {
            let offsets = Draws(seed * 64 + thread as u64).below(records, READS);
            barrier.wait();
            for offset in offsets {
                engine.read(offset, 1);
            }
            barrier.wait();
        };
        for thread in 0..threads {
            scope.spawn(move || read(thread));
        }
        barrier.wait();
        let start = Instant::now();
        barrier.wait();
        start.elapsed()
    })
}

fn latencies(engine: &Engine, records: u64, name: &str) -> Vec<Row> {
    let time = |offset| {
        let start = Instant::now();
        engine.read(offset, 1);
        start.elapsed().as_secs_f64()
    };
    let offsets = Draws(7).below(records, READS);
    let times: Vec<_> = offsets.into_iter().map(time).collect();
    let row = |percent| {
        Some(Row {
            case: format!("{name}: p{percent}"),
            ours: percentile(&times, percent)? * MEGA,
            raw: None,
            unit: "us",
            goal: Goal::None,
        })
    };
    [50, 99].into_iter().filter_map(row).collect()
}

/// Numbers that look drawn at random, the same ones for the same seed: SplitMix64.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: u64, count: usize) -> Vec<u64> {
        let draw = |_| {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) % bound
        };
        (0..count).map(draw).collect()
    }
}
