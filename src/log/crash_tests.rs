//! A power cut at every disk operation of generated histories.
//!
//! Before each write and sync the disk is imaged as a power cut may leave it, unsynced writes lost,
//! kept or torn by seed. Each image must open, hold all that was durable, nothing that was cut, and
//! serve the records of a plain model in memory (I1, I3, I5).

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::memory_disk::MemoryDisk;
use super::record::{BatchBuilder, batches, join};
use super::*;
use crate::env::Random;

const DIR: &str = "/log";

/// Generated histories; each has about 40 disk operations, all of which are crash points.
fn histories() -> u64 {
    let asked = std::env::var("FERROLOG_HISTORIES").ok();
    asked.and_then(|asked| asked.parse().ok()).unwrap_or(300)
}

fn config() -> Config {
    Config {
        segment_bytes_max: 2048,
        index_bytes_max: 512,
        tail_cache_bytes_max: 300,
        inline_io: true,
    }
}

/// What the log must hold.
#[derive(Clone, Default)]
struct Model {
    entries: Vec<Entry>,
    /// At least so many entries survive; more only as far as `entries` goes.
    durable: usize,
    /// Published up to here.
    applied: usize,
    checkpoint: Option<Checkpoint>,
}

struct Image {
    disk: MemoryDisk,
    model: Model,
}

struct World {
    disk: MemoryDisk,
    log: Log,
    model: Arc<Mutex<Model>>,
    images: Arc<Mutex<Vec<Image>>>,
    random: Random,
    term: u64,
}

fn open(disk: &MemoryDisk, checkpoint: Option<Checkpoint>) -> Result<(Log, Opened), Error> {
    Log::open(
        Arc::new(disk.clone()),
        Path::new(DIR),
        config(),
        Index(0),
        checkpoint,
    )
}

fn runs(entry: &Entry) -> Vec<Run> {
    let batches = match entry.kind {
        Kind::Control => Vec::new(),
        Kind::Records => batches(&entry.payload).unwrap(),
    };
    let run = |batch: record::Batch| Run {
        skip: batch.records_at as u32,
        count: batch.count,
    };
    batches.into_iter().map(run).collect()
}

impl World {
    fn new(seed: u64) -> Self {
        let disk = MemoryDisk::default();
        let (log, _) = open(&disk, None).unwrap();
        let mut world = Self {
            disk,
            log,
            model: Arc::default(),
            images: Arc::default(),
            random: Random::seeded(seed),
            term: 1,
        };
        world.watch();
        world
    }

    fn below(&self, bound: u64) -> u64 {
        (self.random.next_u128() as u64) % bound.max(1)
    }

    /// Images the disk before each operation.
    fn watch(&mut self) {
        let (model, images, random) =
            (self.model.clone(), self.images.clone(), self.random.clone());
        let disk = self.disk.clone();
        self.disk.watch(move |_, _| {
            images.lock().push(Image {
                disk: disk.crash_by(|| random.next_u128() as u64),
                model: model.lock().clone(),
            });
            Ok(())
        });
    }

    fn entry(&self, index: u64) -> Entry {
        let kind = if self.below(4) == 0 {
            Kind::Control
        } else {
            Kind::Records
        };
        let payload = match kind {
            Kind::Control => Bytes::from(vec![7; self.below(40) as usize]),
            Kind::Records => {
                let batch = |_| {
                    let mut batch = BatchBuilder::new(None);
                    for number in 0..=self.below(3) {
                        batch.push(&vec![number as u8; self.below(120) as usize], index, 0);
                    }
                    batch.finish()
                };
                let made: Vec<_> = (0..=self.below(2)).map(batch).collect();
                join(made.iter())
            }
        };
        Entry {
            term: Term(self.term),
            index: Index(index),
            kind,
            payload,
        }
    }

    fn append(&mut self) {
        let next = self.model.lock().entries.len() as u64;
        let entries: Vec<_> = (next..=next + self.below(4))
            .map(|index| self.entry(index))
            .collect();
        self.model.lock().entries.extend(entries.clone());
        let model = self.model.clone();
        let done = move |result: Result<(), Error>| {
            result.unwrap();
            let mut model = model.lock();
            model.durable = model.entries.len();
        };
        self.log.append(entries, Box::new(done)).unwrap();
    }

    fn truncate(&mut self) {
        let keep = {
            let mut model = self.model.lock();
            let room = (model.entries.len() - model.applied) as u64;
            let keep = model.entries.len() - self.below(room + 1) as usize;
            // From now on a cut entry may be gone; until the cut is done it may still be there.
            model.durable = model.durable.min(keep);
            keep
        };
        self.term += 1;
        let model = self.model.clone();
        let done = move |result: Result<(), Error>| {
            result.unwrap();
            model.lock().entries.truncate(keep);
        };
        let last = keep.checked_sub(1).map(|last| Index(last as u64));
        self.log.truncate_after(last, Box::new(done)).unwrap();
    }

    fn apply(&mut self) {
        let (from, to) = {
            let model = self.model.lock();
            let room = (model.durable - model.applied) as u64;
            (model.applied, model.applied + self.below(room + 1) as usize)
        };
        for at in from..to {
            let entry = self.model.lock().entries[at].clone();
            self.log.publish(entry.index, &runs(&entry)).unwrap();
            self.model.lock().applied = at + 1;
        }
    }

    fn checkpoint(&mut self) {
        let applied = self.model.lock().applied;
        let Some(last) = applied.checked_sub(1) else {
            return;
        };
        let (_, next_offset) = self.log.offsets();
        self.log.sync_index().unwrap();
        self.model.lock().checkpoint = Some(Checkpoint {
            applied: Index(last as u64),
            next_offset,
        });
    }

    fn reopen(&mut self) {
        let checkpoint = self.model.lock().checkpoint;
        let (log, _) = open(&self.disk, checkpoint).unwrap();
        self.log = log;
        let mut model = self.model.lock();
        model.applied = apply_all(&self.log, &model, checkpoint).min(model.durable);
    }

    fn step(&mut self) {
        match self.below(10) {
            0..=4 => self.append(),
            5 => self.truncate(),
            6 | 7 => self.apply(),
            8 => self.checkpoint(),
            _ => self.reopen(),
        }
    }
}

/// Publishes what the checkpoint, or a lost index, left unpublished.
fn apply_all(log: &Log, model: &Model, checkpoint: Option<Checkpoint>) -> usize {
    let (_, next) = log.offsets();
    let covered =
        checkpoint.filter(|_| next.0 > 0 || !model.entries.iter().any(|e| !runs(e).is_empty()));
    let from = covered.map_or(0, |covered| covered.applied.0 as usize + 1);
    for entry in &model.entries[from..model.applied.max(from)] {
        log.publish(entry.index, &runs(entry)).unwrap();
    }
    model.applied.max(from)
}

/// A power cut left this: does the log keep its promises?
fn check(image: &Image, what: &str) {
    let model = &image.model;
    let (log, opened) =
        open(&image.disk, model.checkpoint).unwrap_or_else(|error| panic!("{what}: {error}"));
    let held = log.last().map_or(0, |(_, last)| last.0 as usize + 1);
    assert!(
        held >= model.durable,
        "{what}: {held} entries of {} durable ones",
        model.durable
    );
    assert!(held <= model.entries.len(), "{what}: a cut entry came back");
    let mut at = 0;
    while at < held {
        for entry in log
            .entries(Index(at as u64), Index(held as u64), 200)
            .unwrap()
        {
            assert_eq!(entry, model.entries[at], "{what}");
            at += 1;
        }
    }
    assert!(
        model.checkpoint.is_none() || opened.rows_hold,
        "{what}: a checkpoint's rows are durable"
    );
    let from = model
        .checkpoint
        .map_or(0, |covered| covered.applied.0 as usize + 1);
    for entry in &model.entries[from..held.max(from)] {
        log.publish(entry.index, &runs(entry)).unwrap();
    }
    check_records(&log, &model.entries[..held], what);
}

/// The records are those of the entries, in order, under dense offsets.
fn check_records(log: &Log, entries: &[Entry], what: &str) {
    let mut expected = Vec::new();
    for entry in entries {
        for run in runs(entry) {
            let first = Offset(expected.len() as u64);
            let skip = run.skip as usize;
            let count = u64::from(run.count);
            record::read_into(
                &entry.payload,
                skip,
                first,
                count,
                usize::MAX,
                &mut expected,
            )
            .unwrap();
        }
    }
    assert_eq!(log.offsets().1, Offset(expected.len() as u64), "{what}");
    let mut found = Vec::new();
    while found.len() < expected.len() {
        found.extend(log.read(Offset(found.len() as u64), 500).unwrap());
    }
    assert_eq!(found, expected, "{what}");
}

#[test]
fn a_power_cut_at_any_disk_operation_loses_nothing_durable() {
    let mut points = 0;
    for seed in 0..histories() {
        let mut world = World::new(seed);
        for _ in 0..12 {
            world.step();
        }
        let images = std::mem::take(&mut *world.images.lock());
        points += images.len();
        for (number, image) in images.iter().enumerate() {
            check(image, &format!("history {seed}, disk operation {number}"));
        }
    }
    println!("{points} crash points in {} histories", histories());
    assert!(points > 10 * histories() as usize);
}
