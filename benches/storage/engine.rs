//! The log as the benchmark uses it: nothing else here names its interface.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ferrolog::disk::OsDisk;
use ferrolog::log::record::{self, BatchBuilder};
use ferrolog::log::{
    Checkpoint, Config, Ends, Entry, Floor, Index, Kind, Log, LogId, Offset, Run, Term,
};

/// Bytes of a frame that are not its payload.
const FRAME_HEADER_BYTES: usize = 32;
const FRAME_ALIGN: usize = 8;

/// The payload of one entry: a batch of equal records, or one for each of some logs.
#[derive(Clone)]
pub struct Batch {
    payload: Bytes,
    runs: Vec<Run>,
}

impl Batch {
    pub fn new(records: usize, record_bytes: usize) -> Self {
        Self::over(0..1, records, record_bytes)
    }

    pub fn over(logs: Range<u32>, records: usize, record_bytes: usize) -> Self {
        let value: Vec<u8> = (0..record_bytes).map(|at| at as u8).collect();
        let batch = |log| {
            let mut builder = BatchBuilder::of(LogId(log), None);
            for _ in 0..records {
                builder.push(&value, 0, 0);
            }
            builder.finish()
        };
        let batches: Vec<_> = logs.map(batch).collect();
        let payload = record::join(batches.iter(), Some(1));
        let batches = record::batches(&payload).expect("whole batches");
        let run = |batch| Run::of(batch, 0, Offset(0));
        let runs = batches.iter().map(run).collect();
        Self { payload, runs }
    }

    /// The bytes that the entry takes in a store file.
    pub fn frame_bytes(&self) -> usize {
        (FRAME_HEADER_BYTES + self.payload.len()).next_multiple_of(FRAME_ALIGN)
    }

    pub fn records(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.count)).sum()
    }
}

/// A log and its one user, which stands in for raft and the state machine.
pub struct Engine {
    log: Log,
    dir: PathBuf,
    next: u64,
    published: u64,
    /// The offsets that the next records get.
    next_offsets: BTreeMap<LogId, Offset>,
}

impl Engine {
    /// Makes an empty log.
    pub fn create(dir: &Path) -> Self {
        std::fs::create_dir(dir).expect("make the log's directory");
        Self {
            log: open(dir, None),
            dir: dir.to_owned(),
            next: 0,
            published: 0,
            next_offsets: BTreeMap::new(),
        }
    }

    /// Appends a batch; `done` is called on the log's thread once it is durable.
    pub fn append(&mut self, batch: &Batch, done: impl FnOnce() + Send + 'static) {
        let entry = Entry {
            term: Term(1),
            index: Index(self.next),
            kind: Kind::Records,
            payload: batch.payload.clone(),
        };
        self.next += 1;
        let told = move |result: Result<_, _>| {
            result.expect("the disk takes it");
            done();
        };
        let appended = self.log.append(vec![entry], Box::new(told));
        appended.expect("an append");
    }

    /// Lets readers see the next entry, which is this batch.
    pub fn publish(&mut self, batch: &Batch) {
        let runs = batch.runs.iter().map(|run| {
            let next = self.next_offsets.entry(run.log).or_default();
            let first = *next;
            next.0 += u64::from(run.count);
            Run { first, ..*run }
        });
        let runs: Vec<_> = runs.collect();
        let published = self.log.publish(Index(self.published), &runs);
        published.expect("index rows");
        self.published += 1;
    }

    /// Records of the log that is alone from `offset` on; how many, and the bytes of their values.
    pub fn read(&self, offset: u64, bytes_max: usize) -> (u64, usize) {
        self.read_of(0, offset, bytes_max)
    }

    /// The same of one log of many.
    pub fn read_of(&self, log: u32, offset: u64, bytes_max: usize) -> (u64, usize) {
        let records = self
            .log
            .read(LogId(log), Offset(offset), bytes_max)
            .expect("a record");
        assert_eq!(records[0].offset, Offset(offset));
        let bytes = records.iter().map(|record| record.value.len()).sum();
        (records.len() as u64, bytes)
    }

    /// Ends this log as a node does, durable, published and sealed but for its last segment; what it takes
    /// to open it again.
    pub fn close(self) -> Closed {
        let (_, next_position) = self.log.positions();
        let ends = self.next_offsets.iter().map(|(log, next)| {
            let first = Offset(0);
            let next = *next;
            (*log, Ends { first, next })
        });
        let ends = ends.collect();
        self.log.sync_index().expect("a sync of the index");
        let applied = Index(self.published - 1);
        self.log.seal_covered(applied).expect("seals");
        self.log.close();
        Closed {
            dir: self.dir,
            checkpoint: Checkpoint {
                rolled: Index(0),
                applied,
                next_position,
                logs: Arc::new(ends),
            },
        }
    }
}

/// A log that is closed: it is on disk alone.
pub struct Closed {
    dir: PathBuf,
    checkpoint: Checkpoint,
}

impl Closed {
    pub fn open(&self) -> Engine {
        let next = self.checkpoint.applied.0 + 1;
        Engine {
            log: open(&self.dir, Some(self.checkpoint.clone())),
            dir: self.dir.clone(),
            next,
            published: next,
            next_offsets: self.ends().collect(),
        }
    }

    fn ends(&self) -> impl Iterator<Item = (LogId, Offset)> {
        let logs = self.checkpoint.logs.iter();
        logs.map(|(log, ends)| (*log, ends.next))
    }

    /// The records of all logs.
    pub fn records(&self) -> u64 {
        self.ends().map(|(_, next)| next.0).sum()
    }

    /// The files of frames, in order.
    pub fn stores(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.dir).expect("the log's directory");
        let paths = entries.map(|entry| entry.expect("a directory entry").path());
        let mut stores: Vec<_> = paths
            .filter(|path| path.extension().is_some_and(|suffix| suffix == "store"))
            .collect();
        stores.sort();
        stores
    }
}

fn open(dir: &Path, checkpoint: Option<Checkpoint>) -> Log {
    let disk = Arc::new(OsDisk);
    let is_covered = checkpoint.is_some();
    let opened = Log::open(disk, dir, Config::default(), Floor::default(), checkpoint);
    let (log, found) = opened.expect("a log");
    assert_eq!((found.rows_hold, found.torn_bytes), (is_covered, 0));
    log
}
