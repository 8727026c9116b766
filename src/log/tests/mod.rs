//! What the tests of the whole log share: a log on a memory disk that forgets what was not synced.

mod budget;
mod compaction;
mod crash;
mod damage;
pub mod fixture;
mod handle;
mod model;
pub mod rewriting;
mod rolls;
pub mod room;
mod rot;

use std::io;
use std::sync::mpsc;

use bytes::Bytes;

use super::format::record::{BatchBuilder, join};
use super::*;
use crate::disk::memory::{Event, MemoryDisk};

pub(super) const DIR: &str = "/log";

fn config() -> Config {
    Config {
        segment_bytes_max: 4096,
        index_bytes_max: 1024,
        tail_cache_bytes_max: 512,
        inline_io: true,
        ..Config::default()
    }
}

pub(super) fn open(
    disk: &MemoryDisk,
    checkpoint: Option<Checkpoint>,
) -> Result<(Log, Opened), Error> {
    Log::open(
        Arc::new(disk.clone()),
        Path::new(DIR),
        config(),
        Floor::default(),
        checkpoint,
    )
}

/// A checkpoint of a log that is alone.
pub(super) fn covered(applied: u64, first: u64, next: u64) -> Checkpoint {
    let ends = Ends {
        first: Offset(first),
        next: Offset(next),
    };
    Checkpoint {
        applied: Index(applied),
        next_position: Position(next),
        rolled: Index(0),
        logs: Arc::new([(LogId::DEFAULT, ends)].into()),
    }
}

pub(super) fn value(number: u64) -> Vec<u8> {
    let length = (number * 37 % 200) as usize;
    format!("record {number} ")
        .into_bytes()
        .into_iter()
        .cycle()
        .take(length)
        .collect()
}

/// An entry that holds the records with these numbers.
pub(super) fn records(term: u64, index: u64, numbers: std::ops::Range<u64>) -> Entry {
    let mut batch = BatchBuilder::new(None);
    numbers.for_each(|number| batch.push(&value(number), 0, 0));
    entry(
        term,
        index,
        Kind::Records,
        join([batch.finish()].iter(), None),
    )
}

pub(super) fn entry(term: u64, index: u64, kind: Kind, payload: Bytes) -> Entry {
    Entry {
        term: Term(term),
        index: Index(index),
        kind,
        payload,
    }
}

pub(super) fn append(log: &Log, entries: Vec<Entry>) {
    let (tell, told) = mpsc::channel();
    let done = Box::new(move |result| tell.send(result).unwrap());
    log.append(entries, done).unwrap();
    told.recv().unwrap().unwrap();
}

fn truncate(log: &Log, keep: Option<u64>) {
    let (tell, told) = mpsc::channel();
    let done = Box::new(move |result| tell.send(result).unwrap());
    log.truncate_after(keep.map(Index), done).unwrap();
    told.recv().unwrap().unwrap();
}

pub(super) fn publish(log: &Log, entry: &Entry) {
    let runs = log.runs_of(entry).unwrap();
    log.publish(entry.index, &runs).unwrap();
}

/// A log of entries with one, two, three, one, ... records each, every fifth a control entry.
pub(super) fn fill(log: &Log, entries: u64) -> (Vec<Entry>, u64) {
    let mut made = Vec::new();
    let mut next = 0;
    for index in 0..entries {
        if index % 5 == 0 {
            made.push(entry(
                1,
                index,
                Kind::Control,
                Bytes::from_static(b"control"),
            ));
        } else {
            let count = index % 3 + 1;
            made.push(records(1, index, next..next + count));
            next += count;
        }
        append(log, vec![made[made.len() - 1].clone()]);
    }
    (made, next)
}

/// A look of a reader who has not looked before.
/// The seal of a segment, whole.
fn seal_of(log: &Log, base: Index) -> Seal {
    let state = log.0.state.read();
    let number = state.segment_number(base).unwrap();
    let seal = state.segments[number].seal().unwrap();
    (**seal).clone()
}

fn look(log: &Log, from: Position, wanted: &Wanted<'_>) -> Result<Stretch, Error> {
    log.stretch(from, wanted, &mut Course::default())
}

/// The disk fails every sync from now on.
fn fail_syncs(disk: &MemoryDisk) {
    disk.watch(|event, _| match event {
        Event::Sync => Err(io::Error::other("the disk is gone")),
        _ => Ok(()),
    });
}

/// A log of so many entries, published and sealed as far as that goes.
fn sealed(disk: &MemoryDisk, entries: u64) -> (Log, Vec<Entry>) {
    let (log, _) = open(disk, None).unwrap();
    let (made, _) = fill(&log, entries);
    made.iter().for_each(|entry| publish(&log, entry));
    log.sync_index().unwrap();
    log.seal_covered(Index(entries - 1)).unwrap();
    (log, made)
}

fn check_all(log: &Log, count: u64) {
    assert_eq!(log.offsets(LogId::DEFAULT), (Offset(0), Offset(count)));
    for (from, budget) in [(0, 1), (0, 100), (0, 1 << 20), (count / 2, 300)] {
        let mut at = from;
        while at < count {
            for record in log.read(LogId::DEFAULT, Offset(at), budget).unwrap() {
                assert_eq!(
                    (record.offset, &record.value[..]),
                    (Offset(at), &value(at)[..])
                );
                at += 1;
            }
        }
        assert_eq!(at, count);
    }
    let past = log.read(LogId::DEFAULT, Offset(count), 1).unwrap_err();
    assert!(matches!(past, Error::OutOfRange { asked, next, .. } if asked == next));
}
