//! Writing: the time to a durable callback, and bytes per second.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};

use crate::engine::{Batch, Engine};
use crate::pairs::{Pairs, percentile};
use crate::raw::RawFile;
use crate::table::{Goal, Row};

const MIB: usize = 1 << 20;
const MICROS: f64 = 1e6;

/// Writers that each wait for their last record before they send the next. They share one thread: a thread
/// each would measure the scheduler, and the product's writers are tasks, too.
struct Writers {
    engine: Engine,
    batch: Batch,
    tell: Sender<usize>,
    told: Receiver<usize>,
    began: Vec<Instant>,
    latencies: Vec<f64>,
}

impl Writers {
    fn new(dir: &Path, writers: usize, record_bytes: usize) -> Self {
        let (tell, told) = channel();
        Self {
            engine: Engine::create(dir),
            batch: Batch::new(1, record_bytes),
            tell,
            told,
            began: vec![Instant::now(); writers],
            latencies: Vec::new(),
        }
    }

    fn send(&mut self, writer: usize) {
        let tell = self.tell.clone();
        self.began[writer] = Instant::now();
        self.engine.append(&self.batch, move || {
            // The receiver lives as long as the log.
            let _ = tell.send(writer);
        });
    }

    /// Every writer sends `each` records.
    fn turn(&mut self, each: usize) -> Duration {
        let start = Instant::now();
        let writers = self.began.len();
        for writer in 0..writers {
            self.send(writer);
        }
        let mut unsent = writers * (each - 1);
        for _ in 0..writers * each {
            let writer = self.told.recv().expect("a callback");
            let took = self.began[writer].elapsed();
            self.latencies.push(took.as_secs_f64());
            if unsent > 0 {
                unsent -= 1;
                self.send(writer);
            }
        }
        start.elapsed()
    }
}

/// The time until one record is durable, beside one write and one sync of as many bytes.
pub fn one_synced(criterion: &mut Criterion, dir: &Path) -> Vec<Row> {
    let mut writers = Writers::new(&dir.join("one"), 1, 100);
    let mut raw = RawFile::create(&dir.join("one.raw"), writers.batch.frame_bytes());
    let name = "one synced append, 100 B";
    let (ours, raw) = (|| writers.turn(1), || raw.append(1));
    let pairs = Pairs::measure(criterion, name, Throughput::Elements(1), ours, raw);
    let row = |percent, goal| {
        let ours = percentile(&pairs.ours, percent)?;
        let raw = percentile(&pairs.raw, percent)?;
        Some(Row {
            case: format!("{name}: p{percent}"),
            ours: ours * MICROS,
            raw: Some(raw * MICROS),
            unit: "us",
            goal,
        })
    };
    let rows = [row(50, Goal::RatioMax(1.3)), row(99, Goal::None)];
    rows.into_iter().flatten().collect()
}

/// Many writers at once, beside a write and a sync of one record of each: no group can be larger.
pub fn group_commit(
    criterion: &mut Criterion,
    dir: &Path,
    writers: usize,
    record_bytes: usize,
) -> Vec<Row> {
    const EACH: usize = 50;
    let name = format!("group commit, writers {writers}, {record_bytes} B");
    let base = dir.join(format!("group-{writers}-{record_bytes}"));
    let mut ours = Writers::new(&base, writers, record_bytes);
    let mut raw = RawFile::create(
        &base.with_extension("raw"),
        writers * ours.batch.frame_bytes(),
    );
    let records = (writers * EACH) as u64;
    let work = Throughput::Elements(records);
    let pairs = Pairs::measure(
        criterion,
        &name,
        work,
        || ours.turn(EACH),
        || raw.append(EACH),
    );
    let Some((took, raw_took)) = pairs.medians() else {
        return Vec::new();
    };
    let mut rows = vec![Row {
        case: format!("{name}: records"),
        ours: records as f64 / took,
        raw: Some(records as f64 / raw_took),
        unit: "/s",
        goal: Goal::None,
    }];
    for percent in [50, 99] {
        let latency = percentile(&ours.latencies, percent);
        rows.extend(latency.map(|latency| Row {
            case: format!("{name}: p{percent}"),
            ours: latency * MICROS,
            raw: None,
            unit: "us",
            goal: Goal::None,
        }));
    }
    rows
}

/// Large batches with a few in flight, as the group commit of a busy leader sees them, published as they
/// become durable; beside a write and a sync of each batch's bytes.
pub fn sequential(criterion: &mut Criterion, dir: &Path) -> Option<Row> {
    const RECORD_BYTES: usize = 1024;
    const TURN_BATCHES: usize = 64;
    const IN_FLIGHT: usize = 4;
    let batch = Batch::new(MIB / RECORD_BYTES, RECORD_BYTES);
    let bytes = (TURN_BATCHES * batch.frame_bytes()) as u64;
    let mut raw = RawFile::create(&dir.join("sequential.raw"), batch.frame_bytes());
    let mut engine = Engine::create(&dir.join("sequential"));
    let ours = || append_in_flight(&mut engine, &batch, TURN_BATCHES, IN_FLIGHT);
    let name = "sequential append, 1 KiB in 1 MiB batches";
    let pairs = Pairs::measure(criterion, name, Throughput::Bytes(bytes), ours, || {
        raw.append(TURN_BATCHES)
    });
    let (took, raw_took) = pairs.medians()?;
    Some(Row {
        case: name.to_owned(),
        ours: bytes as f64 / took / 1e6,
        raw: Some(bytes as f64 / raw_took / 1e6),
        unit: "MB/s",
        goal: Goal::RatioMin(0.8),
    })
}

/// Appends a batch so many times, and publishes each one once it is durable.
pub fn append_in_flight(
    engine: &mut Engine,
    batch: &Batch,
    batches: usize,
    in_flight: usize,
) -> Duration {
    let (tell, told) = channel();
    let start = Instant::now();
    for sent in 0..batches + in_flight {
        if sent >= in_flight {
            told.recv().expect("a callback");
            engine.publish(batch);
        }
        if sent < batches {
            let tell = tell.clone();
            engine.append(batch, move || {
                // The receiver lives as long as the log.
                let _ = tell.send(());
            });
        }
    }
    start.elapsed()
}
