//! Files that cannot be made, or take long to make: who waits for them, and who does not.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{DIR, open as open_inline, publish, records};
use crate::disk::Disk;
use crate::disk::memory::{Event, MemoryDisk};
use crate::log::format::frame;
use crate::log::*;

/// Bounds what a broken build may wait.
const PATIENCE: Duration = Duration::from_secs(20);

fn open(disk: &MemoryDisk, inline_io: bool) -> Log {
    let config = Config {
        segment_bytes_max: 4096,
        index_bytes_max: 1024,
        tail_cache_bytes_max: 512,
        inline_io,
        ..Config::default()
    };
    let disk = Arc::new(disk.clone());
    let opened = Log::open(disk, Path::new(DIR), config, Floor::default(), None);
    opened.unwrap().0
}

/// Appends entries of a record each, one by one; their answers come here.
pub fn append_some(log: &Log, indexes: std::ops::Range<u64>) -> Receiver<u64> {
    let (tell, told) = mpsc::channel();
    for index in indexes {
        let tell = tell.clone();
        let done = move |result: Result<(), Error>| {
            result.unwrap();
            tell.send(index).unwrap();
        };
        let entry = records(1, index, index..index + 1);
        log.append(vec![entry], Box::new(done)).unwrap();
    }
    told
}

/// Lets room be taken, or not: with an error, or by keeping who asks waiting.
#[derive(Default)]
struct Gate {
    shut: AtomicBool,
    refused: AtomicUsize,
    held: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn on(disk: &MemoryDisk) -> Arc<Self> {
        let gate = Arc::new(Self::default());
        let theirs = gate.clone();
        disk.watch(move |event, _| {
            if event != Event::Allocate {
                return Ok(());
            }
            let mut held = theirs.held.lock();
            while *held {
                theirs.changed.wait(&mut held);
            }
            if theirs.shut.load(Ordering::SeqCst) {
                theirs.refused.fetch_add(1, Ordering::SeqCst);
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(())
        });
        gate
    }

    fn hold(&self, held: bool) {
        *self.held.lock() = held;
        self.changed.notify_all();
    }
}

fn all_of(told: &Receiver<u64>, indexes: std::ops::Range<u64>) {
    for index in indexes {
        assert_eq!(told.recv_timeout(PATIENCE), Ok(index), "in order");
    }
}

#[test]
fn an_append_waits_for_no_file_to_be_made() {
    let disk = MemoryDisk::default();
    let log = open(&disk, false);
    let gate = Gate::on(&disk);
    gate.hold(true);
    let theirs = log.clone();
    let (tell, returned) = mpsc::channel();
    // Several segments' worth.
    #[allow(clippy::disallowed_methods, reason = "a test's thread, which it joins")]
    let appending = std::thread::spawn(move || {
        tell.send(append_some(&theirs, 0..200)).unwrap();
    });
    let told = returned.recv_timeout(PATIENCE);
    let told = told.expect("no file is made on the caller's thread");
    assert!(log.segments().len() > 3);
    assert!(told.try_recv().is_err(), "nothing is on disk yet");
    // What is not on disk can be read, published and counted.
    let entries = log.entries(Index(0), Index(200), usize::MAX).unwrap();
    assert_eq!(entries.len(), 200);
    entries.iter().for_each(|entry| publish(&log, entry));
    assert_eq!(log.read(LogId::DEFAULT, Offset(150), 1).unwrap().len(), 1);
    log.sync_index().unwrap();
    gate.hold(false);
    all_of(&told, 0..200);
    appending.join().unwrap();
    log.sync_index().unwrap();
    drop(log);

    let covered = super::covered(199, 0, 200);
    let (log, opened) = open_inline(&disk.crash(), Some(covered)).unwrap();
    assert!(
        opened.rows_hold,
        "rows that were in memory came to the file"
    );
    assert_eq!(log.offsets(LogId::DEFAULT), (Offset(0), Offset(200)));
    for offset in 0..200 {
        log.read(LogId::DEFAULT, Offset(offset), 1).unwrap();
    }
}

fn waits_for_room(inline_io: bool) {
    let disk = MemoryDisk::default();
    let log = open(&disk, inline_io);
    let told = append_some(&log, 0..5);
    all_of(&told, 0..5);
    let gate = Gate::on(&disk);
    gate.shut.store(true, Ordering::SeqCst);
    let told = append_some(&log, 5..200);
    // What the files in hand take is answered, and what stands behind waits, a vote with it.
    let mut next = 5;
    let vote = Arc::new(AtomicBool::new(false));
    let voted = vote.clone();
    log.run_after_appends(
        Box::new(|| Ok(())),
        Box::new(move |result| {
            result.unwrap();
            voted.store(true, Ordering::SeqCst);
        }),
    );
    loop {
        log.look_for_room();
        let refused = gate.refused.load(Ordering::SeqCst);
        while told.try_recv() == Ok(next) {
            next += 1;
        }
        if refused >= 3 {
            break;
        }
    }
    assert!(next > 5 && next < 200, "{next}");
    assert!(!vote.load(Ordering::SeqCst), "it comes after the appends");
    // What waits is in memory.
    let waiting = log.entries(Index(next), Index(200), usize::MAX).unwrap();
    assert_eq!(waiting.len() as u64, 200 - next);
    gate.shut.store(false, Ordering::SeqCst);
    log.look_for_room();
    all_of(&told, next..200);
    log.close();
    assert!(vote.load(Ordering::SeqCst));
    drop(log);
    let (log, _) = open_inline(&disk.crash(), None).unwrap();
    assert_eq!(log.last(), Some((Term(1), Index(199))));
}

#[test]
fn appends_wait_in_order_for_room_and_nobody_else_does() {
    waits_for_room(true);
    waits_for_room(false);
}

fn withdraws(inline_io: bool) {
    let disk = MemoryDisk::default();
    let log = open(&disk, inline_io);
    all_of(&append_some(&log, 0..5), 0..5);
    let gate = Gate::on(&disk);
    gate.shut.store(true, Ordering::SeqCst);
    let told = append_some(&log, 5..200);
    while gate.refused.load(Ordering::SeqCst) == 0 {
        log.look_for_room();
    }
    let (tell, withdrawn) = mpsc::channel();
    log.withdraw_appends(Box::new(move |dones| tell.send(dones).unwrap()));
    let withdrawn = withdrawn.recv_timeout(PATIENCE);
    let withdrawn = withdrawn.expect("nobody waits for room");
    let mut next = 5;
    while told.try_recv() == Ok(next) {
        next += 1;
    }
    assert_eq!(withdrawn.len() as u64, 200 - next, "the others are written");
    gate.shut.store(false, Ordering::SeqCst);
    let (tell, ran) = mpsc::channel();
    let done = Box::new(move |result: Result<(), Error>| tell.send(result.is_ok()).unwrap());
    log.run_after_appends(Box::new(|| Ok(())), done);
    assert_eq!(ran.recv_timeout(PATIENCE), Ok(true), "it goes on");
    assert!(told.try_recv().is_err(), "whoever withdrew them answers");
    withdrawn.into_iter().for_each(|done| done(Ok(())));
    all_of(&told, next..200);
    log.close();
    drop(log);
    let (log, _) = open_inline(&disk.crash(), None).unwrap();
    assert_eq!(log.last(), Some((Term(1), Index(next - 1))));
}

/// Before a snapshot takes the place of what they would be written to.
#[test]
fn appends_that_are_withdrawn_are_not_written() {
    withdraws(true);
    withdraws(false);
}

#[test]
fn a_log_that_waits_for_room_can_be_closed() {
    for inline_io in [true, false] {
        let disk = MemoryDisk::default();
        let log = open(&disk, inline_io);
        let gate = Gate::on(&disk);
        gate.shut.store(true, Ordering::SeqCst);
        let (tell, told) = mpsc::channel();
        let done = Box::new(move |result: Result<(), Error>| tell.send(result.is_ok()).unwrap());
        log.append(vec![records(1, 0, 0..1)], done).unwrap();
        log.close();
        drop(log);
        let told = told.recv_timeout(PATIENCE);
        assert_ne!(told, Ok(true), "it is not on disk");
    }
}

#[test]
fn an_open_segment_that_was_made_for_less_gets_its_room() {
    let disk = MemoryDisk::default();
    let log = open(&disk, true);
    all_of(&append_some(&log, 0..3), 0..3);
    log.close();
    drop(log);
    let config = Config {
        segment_bytes_max: 16_384,
        inline_io: true,
        ..Config::default()
    };
    let shared = Arc::new(disk.clone());
    let opened = Log::open(shared, Path::new(DIR), config, Floor::default(), None);
    let (log, _) = opened.unwrap();
    let store = disk.open(&Path::new(DIR).join(format!("{:020}.store", 0)));
    assert_eq!(store.unwrap().len().unwrap(), 16_384);
    drop(log);
}

#[test]
fn a_whole_segment_is_in_hand_when_the_disk_fills_up() {
    let disk = MemoryDisk::default();
    let log = open(&disk, true);
    let gate = Gate::on(&disk);
    let mut next = 0;
    while !log.has_in_hand([(false, 3000)].into_iter()) || next < 10 {
        append(&log, next);
        next += 1;
    }
    gate.shut.store(true, Ordering::SeqCst);
    // As much as was promised, and no room is asked for meanwhile.
    let mut bytes = 0;
    while bytes < 3000 {
        bytes += frame::frame_bytes(records(1, next, next..next + 1).payload.len());
        append(&log, next);
        next += 1;
    }
    assert!(log.last().unwrap().1 == Index(next - 1));

    // A crash leaves the spare of the next one behind; the start that finds it removes it.
    gate.shut.store(false, Ordering::SeqCst);
    let spares = |disk: &MemoryDisk| {
        let names = Disk::list(disk, Path::new(DIR)).unwrap();
        names
            .iter()
            .filter(|name| name.starts_with("spare"))
            .count()
    };
    while spares(&disk) < 2 {
        append(&log, next);
        next += 1;
    }
    let left = disk.kill();
    let log = open(&left, true);
    assert_eq!((spares(&left), log.last().unwrap().1), (0, Index(next - 1)));
}

/// One entry; it must be on disk on return.
fn append(log: &Log, index: u64) {
    let told = append_some(log, index..index + 1);
    assert_eq!(told.try_recv(), Ok(index));
}
