//! The log as the benchmark uses it: nothing else here names its interface.

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

/// The payload of one entry: a batch of equal records.
#[derive(Clone)]
pub struct Batch {
    payload: Bytes,
    run: Run,
}

impl Batch {
    pub fn new(records: usize, record_bytes: usize) -> Self {
        let value: Vec<u8> = (0..record_bytes).map(|at| at as u8).collect();
        let mut builder = BatchBuilder::new(None);
        for _ in 0..records {
            builder.push(&value, 0, 0);
        }
        let payload = record::join([builder.finish()].iter(), Some(1));
        let batch = record::batches(&payload).expect("a whole batch")[0];
        let run = Run::of(&batch, 0, Offset(0));
        Self { payload, run }
    }

    /// The bytes that the entry takes in a store file.
    pub fn frame_bytes(&self) -> usize {
        (FRAME_HEADER_BYTES + self.payload.len()).next_multiple_of(FRAME_ALIGN)
    }

    pub fn records(&self) -> u64 {
        self.run.count.into()
    }
}

/// A log and its one user, which stands in for raft and the state machine.
pub struct Engine {
    log: Log,
    dir: PathBuf,
    next: u64,
    published: u64,
    /// The offset that the next record gets.
    next_offset: Offset,
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
            next_offset: Offset(0),
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
        let run = Run {
            first: self.next_offset,
            ..batch.run
        };
        let published = self.log.publish(Index(self.published), &[run]);
        published.expect("an index row");
        self.published += 1;
        self.next_offset.0 += batch.records();
    }

    /// Records from `offset` on; how many, and the bytes of their values.
    pub fn read(&self, offset: u64, bytes_max: usize) -> (u64, usize) {
        let records = self
            .log
            .read(LogId::DEFAULT, Offset(offset), bytes_max)
            .expect("a record");
        assert_eq!(records[0].offset, Offset(offset));
        let bytes = records.iter().map(|record| record.value.len()).sum();
        (records.len() as u64, bytes)
    }

    /// Ends this log as a node does, durable, published and sealed but for its last segment; what it takes
    /// to open it again.
    pub fn close(self) -> Closed {
        let (_, next_position) = self.log.positions();
        let ends = Ends {
            first: Offset(0),
            next: self.next_offset,
        };
        self.log.sync_index().expect("a sync of the index");
        let applied = Index(self.published - 1);
        self.log.seal_covered(applied).expect("seals");
        self.log.close();
        Closed {
            dir: self.dir,
            checkpoint: Checkpoint {
                applied,
                next_position,
                logs: Arc::new([(LogId::DEFAULT, ends)].into()),
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
            next_offset: Offset(self.records()),
        }
    }

    pub fn records(&self) -> u64 {
        self.checkpoint.logs[&LogId::DEFAULT].next.0
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
