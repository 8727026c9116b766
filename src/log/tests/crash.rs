//! A power cut at every disk operation of generated histories.
//!
//! Before each write and sync the disk is imaged as a power cut may leave it, unsynced writes lost,
//! kept or torn by seed; or as a killed process leaves it, and the power fails after the next start,
//! when what that found counts as durable. Each image must open, hold all that was durable, nothing that was cut, and
//! serve the records of a plain model in memory (I1, I3, I5).

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::disk::memory::{Event, MemoryDisk};
use crate::env::{Random, random_u128, wall_clock_ms};
use crate::log::format::record::{BatchBuilder, join};
use crate::log::fuzzing::copy::copy_rewritten;
use crate::log::fuzzing::{read_run, runs_from};
use crate::log::tests::rewriting::{any_plan, rewrite};
use crate::log::tests::rolls::{check_ends, rolled_behind};
use crate::log::*;

const DIR: &str = "/log";
const STAGING: &str = "staging";
/// Logs that batches go to.
const LOGS: usize = 3;

/// Generated histories; each has dozens of disk operations, all of which are crash points.
fn histories() -> u64 {
    number("FERROLOG_HISTORIES").unwrap_or(2000)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn config() -> Config {
    Config {
        segment_bytes_max: 2048,
        index_bytes_max: 512,
        tail_cache_bytes_max: 300,
        inline_io: true,
        ..Config::default()
    }
}

/// What the log must hold. The checkpoint, the floor and the adoption stand for the stable store.
#[derive(Clone, Default)]
struct Model {
    /// From raft index 0 on, whatever was given up since.
    entries: Vec<Entry>,
    /// At least so many entries survive; more only as far as `entries` goes.
    durable: usize,
    /// Published up to here.
    applied: usize,
    /// Each log is trimmed up to here.
    firsts: [Offset; LOGS],
    checkpoint: Option<Checkpoint>,
    floor: Floor,
    /// The segments of a snapshot that is being put in place.
    adoption: Option<Vec<SegmentName>>,
    /// The raft index behind the last rewritten segment: surely, and if the one that is under way counts.
    rewritten_to: [Index; 2],
}

struct Image {
    disk: MemoryDisk,
    model: Model,
    /// The process is gone and the system goes on.
    killed: bool,
}

struct World {
    disk: MemoryDisk,
    log: Log,
    model: Arc<Mutex<Model>>,
    images: Arc<Mutex<Vec<Image>>>,
    random: Random,
    term: u64,
    rewrites: u64,
}

fn open(disk: &MemoryDisk, model: &Model) -> Result<(Log, Opened), Error> {
    let dir = Path::new(DIR);
    if let Some(names) = &model.adoption {
        adopt_files(disk, &dir.join(STAGING), dir, names)?;
    }
    let disk = Arc::new(disk.clone());
    Log::open(disk, dir, config(), model.floor, model.checkpoint.clone())
}

fn publish(log: &Log, entry: &Entry) {
    let runs = log.runs_of(entry).unwrap();
    log.publish(entry.index, &runs).unwrap();
}

fn trim(log: &Log, firsts: &[Offset; LOGS]) {
    for (id, first) in (0..).map(LogId).zip(firsts) {
        log.trim(id, *first);
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let disk = MemoryDisk::default();
        let (log, _) = open(&disk, &Model::default()).unwrap();
        let mut world = Self {
            disk,
            log,
            model: Arc::default(),
            images: Arc::default(),
            random: Random::seeded(seed),
            term: 1,
            rewrites: 0,
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
        self.disk.watch(move |event, _| {
            if event == Event::Read {
                return Ok(());
            }
            let killed = random.next_u128().is_multiple_of(4);
            images.lock().push(Image {
                disk: if killed {
                    disk.kill()
                } else {
                    disk.crash_by(|| random.next_u128() as u64)
                },
                model: model.lock().clone(),
                killed,
            });
            Ok(())
        });
    }

    fn entry(&self, index: u64, rolled: Index) -> Entry {
        if self.below(12) == 0 {
            // One in four ends nothing.
            let since = Index(rolled.0 + u64::from(self.below(4) == 0));
            return Entry::roll(Term(self.term), Index(index), since);
        }
        let kind = if self.below(4) == 0 {
            Kind::Control
        } else {
            Kind::Records
        };
        let payload = match kind {
            Kind::Roll | Kind::Audited | Kind::Moved => unreachable!("it was made above"),
            Kind::Control => Bytes::from(vec![7; self.below(40) as usize]),
            Kind::Records => {
                let batch = |_| {
                    let log = LogId(self.below(LOGS as u64) as u32);
                    let mut batch = BatchBuilder::of(log, None);
                    for number in 0..=self.below(3) {
                        batch.push(&vec![number as u8; self.below(120) as usize], index, 0);
                    }
                    batch.finish()
                };
                let made: Vec<_> = (0..=self.below(2)).map(batch).collect();
                join(made.iter(), None)
            }
        };
        Entry {
            term: Term(self.term),
            index: Index(index),
            kind,
            payload,
        }
    }

    /// The next entry, and so many more.
    fn entries_behind(&self, before: &[Entry], more: u64) -> Vec<Entry> {
        let (mut made, next) = (Vec::new(), before.len() as u64);
        for index in next..=next + more {
            let rolled = rolled_behind(before.iter().chain(&made));
            made.push(self.entry(index, rolled));
        }
        made
    }

    fn append(&mut self) {
        let before = self.model.lock().entries.clone();
        let entries = self.entries_behind(&before, self.below(4));
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
            publish(&self.log, &entry);
            self.model.lock().applied = at + 1;
        }
    }

    fn checkpoint(&mut self) {
        let applied = self.model.lock().applied;
        let Some(last) = applied.checked_sub(1) else {
            return;
        };
        self.log.sync_index().unwrap();
        let checkpoint = self.log.checkpoint_at(Index(last as u64));
        self.model.lock().checkpoint = Some(checkpoint);
    }

    fn seal(&mut self) {
        let checkpoint = self.model.lock().checkpoint.clone();
        if let Some(checkpoint) = checkpoint {
            self.log.seal_covered(checkpoint.applied).unwrap();
        }
    }

    fn trim(&mut self) {
        let number = self.below(LOGS as u64) as usize;
        let (first, next) = self.log.offsets(LogId(number as u32));
        let to = Offset(first.0 + self.below(next.0 - first.0 + 1));
        self.log.trim(LogId(number as u32), to);
        self.model.lock().firsts[number] = to;
    }

    fn drop_trimmed(&mut self) {
        if let Some((floor, _)) = self.log.droppable(Index(u64::MAX)).unwrap() {
            // A trim is a committed entry, and the snapshot covers it: so the checkpoint does.
            self.checkpoint();
            self.model.lock().floor = floor;
            assert!(self.log.drop_below(floor).unwrap());
        }
    }

    /// Rewrites some sealed segments with what lives as of a checkpoint.
    fn rewrite(&mut self) {
        self.checkpoint();
        let Some(checkpoint) = self.model.lock().checkpoint.clone() else {
            return;
        };
        let choice = (self.below(256) as u8, self.below(256) as u8);
        let at = self.next_rewrite();
        let plan = any_plan(&self.log, &checkpoint, at, choice);
        if let Some(plan) = plan {
            let [surely, _] = self.model.lock().rewritten_to;
            let next = surely.max(plan.next);
            self.model.lock().rewritten_to = [surely, next];
            match self.below(3) {
                0 => self.take_over(&plan),
                _ => assert!(rewrite(&self.log, &plan), "nothing is pinned"),
            }
            self.model.lock().rewritten_to = [next; 2];
        }
    }

    /// Another node rewrote them, and its segment comes here.
    fn take_over(&self, plan: &Rewrite) {
        let (twin, _) = open(&self.disk.kill(), &self.model.lock()).unwrap();
        assert!(rewrite(&twin, plan));
        let (seal, staging) = (
            twin.rewritten_at(plan.base).unwrap(),
            Path::new(DIR).join(STAGING),
        );
        copy_rewritten(&twin, Arc::new(self.disk.clone()), &staging, &seal);
        assert!(self.log.take_over(&seal, &staging).unwrap());
        remove(&self.disk, &staging).unwrap();
    }

    fn next_rewrite(&mut self) -> Index {
        self.rewrites += 1;
        Index(1 << 40 | self.rewrites)
    }

    /// Another node's log, that holds what is applied here and more, with segments of its own.
    fn leader(&mut self) -> (Log, Vec<Entry>) {
        self.term += 1;
        let mut entries = {
            let model = self.model.lock();
            model.entries[..model.applied].to_vec()
        };
        let more = self.entries_behind(&entries, self.below(12));
        entries.extend(more);
        let wide = Config {
            segment_bytes_max: 2048 + self.below(4096) as u32,
            ..config()
        };
        let disk = Arc::new(MemoryDisk::default());
        let log = Log::open(disk, Path::new("/leader"), wide, Floor::default(), None);
        let (log, _) = log.unwrap();
        for entry in &entries {
            let done = Box::new(|result: Result<(), Error>| result.unwrap());
            log.append(vec![entry.clone()], done).unwrap();
            publish(&log, entry);
        }
        log.seal_covered(Index(entries.len() as u64 - 1)).unwrap();
        let firsts = self.model.lock().firsts;
        for (id, first) in (0..).map(LogId).zip(firsts) {
            let (_, next) = log.offsets(id);
            log.trim(id, Offset(first.0 + self.below(next.0 - first.0 + 1)));
        }
        if let Some((floor, _)) = log.droppable(Index(u64::MAX)).unwrap() {
            log.drop_below(floor).unwrap();
        }
        let checkpoint = log.checkpoint_at(Index(entries.len() as u64 - 1));
        let choice = (self.below(256) as u8, self.below(256) as u8);
        if let Some(plan) = any_plan(&log, &checkpoint, self.next_rewrite(), choice) {
            rewrite(&log, &plan);
        }
        (log, entries)
    }

    /// Installs a snapshot: fetches what is not here, then takes all of it over at once.
    fn install(&mut self) {
        let (leader, entries) = self.leader();
        let seals = leader.manifest(Index(entries.len() as u64)).unwrap();
        let staging = Path::new(DIR).join(STAGING);
        for seal in &seals {
            if self.log.holds(seal) || is_copied(&self.disk, &staging, seal).unwrap() {
                continue;
            }
            let disk = Arc::new(self.disk.clone());
            if seal.rewritten.is_some() {
                copy_rewritten(&leader, disk, &staging, seal);
                continue;
            }
            let mut copy = SegmentCopy::new(disk, &staging, seal).unwrap();
            let mut at = seal.base;
            while at < seal.next_index() {
                for entry in leader.entries(at, seal.next_index(), 300).unwrap() {
                    at = Index(entry.index.0 + 1);
                    copy.add(&entry, &leader.rows(entry.index, at).unwrap())
                        .unwrap();
                }
            }
            copy.finish().unwrap();
        }
        let names: Vec<_> = seals.iter().map(Seal::name).collect();
        let end = Index(entries.len() as u64);
        let checkpoint = leader.checkpoint_at(Index(end.0 - 1));
        let first = seals.first().map(|seal| seal.first_position);
        let floor = Floor {
            index: names.first().map_or(end, |name| name.base),
            position: first.unwrap_or(checkpoint.next_position),
        };
        let mut firsts = [Offset(0); LOGS];
        for (id, first) in (0..).map(LogId).zip(&mut firsts) {
            *first = leader.offsets(id).0;
        }
        *self.model.lock() = Model {
            durable: entries.len(),
            applied: entries.len(),
            entries,
            firsts,
            checkpoint: Some(checkpoint.clone()),
            floor,
            adoption: Some(names.clone()),
            rewritten_to: [leader
                .rewritten_to()
                .map_or(Index(0), |(_, last)| Index(last.0 + 1)); 2],
        };
        let adopted = self.log.adopt(&staging, &names, floor, &checkpoint);
        adopted.unwrap();
        self.model.lock().adoption = None;
        remove(&self.disk, &staging).unwrap();
    }

    fn reopen(&mut self) {
        let before = self.model.lock().clone();
        let (log, opened) = open(&self.disk, &before).unwrap();
        self.log = log;
        let mut model = self.model.lock();
        let from = applied_on_opening(&model, opened);
        for entry in &model.entries[from..model.applied.max(from)] {
            publish(&self.log, entry);
        }
        trim(&self.log, &model.firsts);
        model.applied = model.applied.max(from).min(model.durable);
    }

    fn step(&mut self) {
        match self.below(22) {
            0..=7 => self.append(),
            8 => self.truncate(),
            9..=11 => self.apply(),
            12 => self.checkpoint(),
            13 => {
                self.checkpoint();
                self.seal();
            }
            14 => self.seal(),
            15 => self.trim(),
            16 => self.drop_trimmed(),
            17 => self.install(),
            18 | 19 => self.rewrite(),
            _ => self.reopen(),
        }
    }
}

/// The first entry that must be applied again.
fn applied_on_opening(model: &Model, opened: Opened) -> usize {
    let covered = model.checkpoint.as_ref().filter(|_| opened.rows_hold);
    covered.map_or(0, |covered| covered.applied.0 as usize + 1)
}

/// A look at the files calls nothing damage that a power cut leaves.
fn check_offline(image: &Image, what: &str) {
    let (dir, model) = (Path::new(DIR), &image.model);
    let bounds = verify::Bounds {
        floor: model.floor,
        checkpoint: model.checkpoint.clone(),
        committed: None,
        adopting: model
            .adoption
            .clone()
            .map(|names| (dir.join(STAGING), names)),
    };
    let found = verify::verify(&image.disk, dir, Some(&bounds), &|_| {}).unwrap();
    assert!(found.is_sound(), "{what}: {:?}", found.findings);
}

/// A power cut left this: does the log keep its promises?
fn check(image: &Image, what: &str) {
    let model = &image.model;
    let opened = open(&image.disk, model);
    let (log, opened) = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
    let held = log.next_index().0 as usize;
    assert!(
        held >= model.durable,
        "{what}: {held} entries of {} durable ones",
        model.durable
    );
    assert!(held <= model.entries.len(), "{what}: a cut entry came back");
    let firsts = model.rewritten_to.map(|first| first.max(model.floor.index));
    assert!(firsts.contains(&log.first_entry()), "{what}");
    check_ends(&log, &model.entries[..held], what);
    let mut at = log.first_entry().0 as usize;
    while at < held {
        let (from, to) = (Index(at as u64), Index(held as u64));
        for entry in log.entries(from, to, 200).unwrap() {
            assert_eq!(entry, model.entries[at], "{what}");
            at += 1;
        }
    }
    assert!(
        model.checkpoint.is_none() || opened.rows_hold,
        "{what}: a checkpoint's rows are durable"
    );
    let from = applied_on_opening(model, opened);
    for entry in &model.entries[from..held.max(from)] {
        publish(&log, entry);
    }
    check_records(&log, model, &model.entries[..held], what);
    assert!(
        log.damaged().is_empty(),
        "{what}: a cut is taken for damage"
    );
}

/// The records of each log are those of the entries, in order, under dense offsets, from the first one on.
fn check_records(log: &Log, model: &Model, entries: &[Entry], what: &str) {
    let mut expected: Vec<Vec<Record>> = vec![Vec::new(); LOGS];
    let mut ends = AllEnds::new();
    for entry in entries {
        for run in runs_from(entry, &mut ends).unwrap() {
            read_run(entry, &run, &mut expected[run.log.0 as usize]).unwrap();
        }
    }
    let kept = model.checkpoint.as_ref().map(|kept| &kept.logs);
    for (id, expected) in (0..).map(LogId).zip(&expected) {
        let first = kept
            .and_then(|kept| kept.get(&id))
            .map_or(Offset(0), |ends| ends.first);
        check_log(log, id, first, expected, what);
    }
}

fn check_log(log: &Log, id: LogId, first: Offset, expected: &[Record], what: &str) {
    let next = Offset(expected.len() as u64);
    assert_eq!(log.offsets(id), (first, next), "{what}: log {id}");
    if let Some(before) = first.0.checked_sub(1) {
        let gone = log.read(id, Offset(before), 1);
        assert!(matches!(gone, Err(Error::Trimmed { .. })), "{what}");
    }
    let mut at = first;
    while at < next {
        let read = log.read(id, at, 500);
        for record in read.unwrap_or_else(|error| panic!("{what}: {error}")) {
            assert_eq!(record, expected[at.0 as usize], "{what}");
            at = Offset(at.0 + 1);
        }
    }
}

/// A killed process left this: what the next one finds is durable, or a vote or an acknowledgement
/// would rest on what a power cut takes.
fn restart(mut image: Image, random: &Random, what: &str) -> Image {
    let opened = open(&image.disk, &image.model);
    let (log, _) = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
    let held = log.next_index().0 as usize;
    assert!(held >= image.model.durable, "{what}: lost by a kill");
    image.model.entries.truncate(held);
    image.model.durable = held;
    image.disk = image.disk.crash_by(|| random.next_u128() as u64);
    image
}

/// Runs one history and checks every crash point of it; gives how many there were.
fn run(seed: u64) -> usize {
    let mut world = World::new(seed);
    for _ in 0..16 {
        world.step();
    }
    let images = std::mem::take(&mut *world.images.lock());
    let count = images.len();
    for (number, mut image) in images.into_iter().enumerate() {
        let what = format!("history {seed}, disk operation {number}");
        if image.killed {
            image = restart(image, &world.random, &what);
        }
        let image = &image;
        // It reads every byte and costs as much as all the rest.
        if (number + seed as usize).is_multiple_of(4) {
            check_offline(image, &what);
        }
        check(image, &what);
    }
    count
}

/// With `FERROLOG_SOAK_SECONDS` histories that nobody has run, for that time; a failure names its
/// history, which `FERROLOG_SEED` runs again.
#[test]
fn a_power_cut_at_any_disk_operation_loses_nothing_durable() {
    let soak = number("FERROLOG_SOAK_SECONDS");
    let until = soak.map(|seconds| wall_clock_ms() + seconds * 1000);
    let fresh = random_u128() as u64 >> 16;
    let first = number("FERROLOG_SEED").unwrap_or(if soak.is_some() { fresh } else { 0 });
    let (mut points, mut seed) = (0, first);
    while until.map_or(seed < first + histories(), |until| wall_clock_ms() < until) {
        points += run(seed);
        seed += 1;
    }
    println!("{points} crash points in the histories {first}..{seed}");
    assert!(points as u64 > 10 * (seed - first));
}
