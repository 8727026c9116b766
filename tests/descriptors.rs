//! A log of more segments than the process may have files open, on a real filesystem. The limit is the process's own,
//! so this test has one to itself.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use ferrolog::disk::OsDisk;
use ferrolog::log::{Checkpoint, Config, Entry, Floor, Index, Kind, Log, Position, Term};
use rustix::process::{Resource, Rlimit, setrlimit};

/// A limit that a shell or a careless systemd unit may set.
const DESCRIPTORS: u64 = 64;
const SEGMENTS: u64 = 200;
const SEGMENT_BYTES: u32 = 4096;

fn open(dir: &Path, checkpoint: Option<Checkpoint>) -> Log {
    let mut config = Config {
        segment_bytes_max: SEGMENT_BYTES,
        index_bytes_max: 1024,
        tail_cache_bytes_max: 0,
        ..Config::default()
    };
    config.keep_to(DESCRIPTORS);
    let opened = Log::open(Arc::new(OsDisk), dir, config, Floor::default(), checkpoint);
    opened.expect("it opens").0
}

/// An entry that fills a segment.
fn entry(index: u64) -> Entry {
    Entry {
        term: Term(1),
        index: Index(index),
        kind: Kind::Control,
        payload: vec![index as u8; SEGMENT_BYTES as usize - 100].into(),
    }
}

fn append(log: &Log, index: u64) {
    let (tell, told) = mpsc::channel();
    let done = Box::new(move |result: Result<(), _>| tell.send(result).expect("it is waited for"));
    log.append(vec![entry(index)], done).expect("it is placed");
    told.recv().expect("an answer").expect("it is on disk");
    log.publish(Index(index), &[]).expect("it is applied");
    log.seal_covered(Index(index))
        .expect("the one before is sealed");
}

#[test]
fn a_log_outgrows_the_limit_of_open_files() {
    let limit = Rlimit {
        current: Some(DESCRIPTORS),
        maximum: Some(DESCRIPTORS),
    };
    setrlimit(Resource::Nofile, limit).expect("a lower limit");
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path(), None);
    for index in 0..SEGMENTS {
        append(&log, index);
    }
    let all = |log: &Log| {
        for index in 0..SEGMENTS {
            let read = log
                .entries(Index(index), Index(index + 1), 1)
                .expect("an entry");
            assert_eq!(read, [entry(index)]);
        }
    };
    all(&log);
    log.close();
    drop(log);

    let covered = Checkpoint {
        applied: Index(SEGMENTS - 1),
        next_position: Position(0),
        rolled: Index(0),
        logs: Arc::default(),
    };
    let log = open(dir.path(), Some(covered));
    assert_eq!(log.segments().len() as u64, SEGMENTS);
    all(&log);
    append(&log, SEGMENTS);
    let (floor, _) = log
        .droppable(Index(SEGMENTS))
        .expect("a good disk")
        .expect("they hold no record");
    assert!(log.drop_below(floor).expect("they go"));
    assert!(log.segments().len() < 4);
}
