//! More segments than a process may have files open, and a process that may open none just now.
#![allow(
    clippy::disallowed_methods,
    reason = "threads that read at once, joined by the test"
)]

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::disk::memory::{Event, MemoryDisk};
use crate::log::segment::handles::{LARGE_BYTES_MAX, Lease};
use crate::log::tests::rewriting::{plan_of, rewrite};
use crate::log::tests::{DIR, append, fill, publish, records};
use crate::log::*;

/// Of sealed segments.
const FILES: usize = 8;
/// With those of the segments that are written to, and the spare.
const FILES_IN_ALL: usize = FILES + 8;
const ENTRIES: u64 = 3000;

fn open(disk: &MemoryDisk, checkpoint: Option<Checkpoint>) -> Log {
    let config = Config {
        segment_bytes_max: 4096,
        index_bytes_max: 1024,
        tail_cache_bytes_max: 512,
        files_max: FILES,
        inline_io: true,
        ..Config::default()
    };
    let disk = Arc::new(disk.clone());
    let opened = Log::open(disk, Path::new(DIR), config, Floor::default(), checkpoint);
    opened.unwrap().0
}

/// A log of many segments, all but the last ones sealed; gives the offset after its records.
fn many_segments(disk: &MemoryDisk) -> (Log, Checkpoint) {
    let log = open(disk, None);
    let (entries, next) = fill(&log, ENTRIES);
    for (number, entry) in entries.iter().enumerate() {
        publish(&log, entry);
        if number % 20 == 0 {
            log.sync_index().unwrap();
            log.seal_covered(entry.index).unwrap();
        }
    }
    assert_eq!(log.positions(), (Position(0), Position(next)));
    let covered = log.checkpoint_at(Index(ENTRIES - 1));
    log.sync_index().unwrap();
    log.seal_covered(covered.applied).unwrap();
    (log, covered)
}

fn read_all(log: &Log) {
    let (mut at, next) = log.offsets(LogId::DEFAULT);
    while at < next {
        let read = log.read(LogId::DEFAULT, at, 4096).unwrap();
        assert_eq!(read[0].offset, at);
        at = Offset(read.last().unwrap().offset.0 + 1);
    }
}

#[test]
fn a_log_of_many_segments_keeps_few_files_open() {
    let disk = MemoryDisk::default();
    let (log, covered) = many_segments(&disk);
    let segments = log.segments().len();
    assert!(segments > 100, "{segments}");
    assert!(
        disk.files_open().0 <= FILES_IN_ALL,
        "{:?}",
        disk.files_open()
    );
    disk.set_files_max(FILES_IN_ALL);
    read_all(&log);
    // A reader of old entries and one of all rows, as peers are.
    log.entries(Index(0), Index(ENTRIES), usize::MAX).unwrap();
    assert!(log.rows(Index(0), Index(ENTRIES)).unwrap().len() > 1000);
    let mut from = Index(0);
    while let Some(mut scrub) = log.scrub(from) {
        while scrub.step().unwrap() > 0 {}
        from = scrub.next_index();
    }
    assert!(log.damaged().is_empty());
    drop(log);
    assert_eq!(disk.files_open().0, 0);

    // A start opens their seals, one by one, and goes on with as few.
    let before = disk.files_open().1;
    let log = open(&disk, Some(covered.clone()));
    let opened = disk.files_open().1 - before;
    assert!(opened <= segments + FILES_IN_ALL, "{opened} of {segments}");
    assert!(disk.files_open().0 <= FILES_IN_ALL);
    read_all(&log);

    // Room is made, and nothing that is gone is held open.
    log.trim(LogId::DEFAULT, log.offsets(LogId::DEFAULT).1);
    let (floor, _) = log.droppable(Index(ENTRIES)).unwrap().unwrap();
    assert!(log.drop_below(floor).unwrap());
    assert!(log.segments().len() < 5);
    assert!(disk.files_open().0 <= 6, "{:?}", disk.files_open());
}

#[test]
fn nothing_that_appends_wait_for_is_held_while_rows_are_mapped() {
    let disk = MemoryDisk::default();
    let (log, covered) = many_segments(&disk);
    drop(log);
    let log = open(&disk, Some(covered.clone()));
    let (looked, held) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (theirs, counts) = (Arc::downgrade(&log.0), (looked.clone(), held.clone()));
    disk.watch(move |event, path| {
        let log = theirs.upgrade().filter(|_| event == Event::Read);
        if let Some(log) = log.filter(|_| path.extension().is_some_and(|kind| kind == "index")) {
            counts.0.fetch_add(1, Ordering::Relaxed);
            if log.state.try_write().is_none() {
                counts.1.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    });
    read_all(&log);
    let rows = log.rows(Index(0), Index(ENTRIES)).unwrap();
    assert!(rows.is_sorted_by_key(|row| (row.index, row.position)) && rows.len() > 1000);
    let some = log.rows(Index(7), Index(ENTRIES / 2)).unwrap();
    let wanted = rows
        .iter()
        .filter(|row| row.index >= Index(7) && row.index < Index(ENTRIES / 2));
    assert!(some.iter().eq(wanted));
    let mut from = Index(0);
    while let Some(mut scrub) = log.scrub(from) {
        while scrub.step().unwrap() > 0 {}
        from = scrub.next_index();
    }
    let (looked, held) = (looked.load(Ordering::Relaxed), held.load(Ordering::Relaxed));
    assert!(looked > log.segments().len(), "{looked}");
    assert_eq!(held, 0, "of {looked} reads");
}

#[test]
fn large_maps_of_rewritten_segments_take_so_many_bytes_together() {
    const SEGMENTS: usize = 12;
    let log = open(&MemoryDisk::default(), None);
    let (mut next, mut since) = (0, Index(0));
    for index in 0..14 * SEGMENTS as u64 {
        let entry = if index % 14 == 13 {
            Entry::roll(
                Term(1),
                Index(index),
                std::mem::replace(&mut since, Index(index + 1)),
            )
        } else {
            next += 1;
            records(1, index, next - 1..next)
        };
        append(&log, vec![entry.clone()]);
        publish(&log, &entry);
    }
    log.sync_index().unwrap();
    log.seal_covered(Index(14 * SEGMENTS as u64 - 1)).unwrap();
    let large = || {
        let state = log.0.state.read();
        let maps = state
            .segments
            .iter()
            .filter_map(|one| one.index.lazy().cloned());
        maps.map(|lazy| lazy.large()).sum::<usize>()
    };
    let most = || {
        let (mut at, next, mut most) = (Offset(0), log.offsets(LogId::DEFAULT).1, 0);
        while at < next {
            let read = log.read(LogId::DEFAULT, at, 512).unwrap();
            at = Offset(read.last().unwrap().offset.0 + 1);
            most = most.max(large());
        }
        most
    };
    assert_eq!(most(), 0, "they are as they were appended");
    for number in 0..SEGMENTS {
        assert!(rewrite(
            &log,
            &plan_of(&log, 1000 + number as u64, number, 1)
        ));
    }
    let most = most();
    assert!(
        (LARGE_BYTES_MAX / 2..=LARGE_BYTES_MAX).contains(&most),
        "{most}"
    );
}

#[test]
fn a_process_without_a_descriptor_left_waits_for_one() {
    let disk = MemoryDisk::default();
    let (log, _) = many_segments(&disk);
    read_all(&log);
    disk.set_files_max(0);

    // What is open for later use is given up for what is asked for now, and then nothing can be.
    let refused = |read: Result<Vec<Record>, Error>| match read {
        Err(error) => assert!(error.is_short_of_files(), "{error}"),
        Ok(records) => panic!("{} records through no file", records.len()),
    };
    refused(log.read(LogId::DEFAULT, Offset(0), 1));
    assert!(
        log.entries(Index(0), Index(1), 1)
            .is_err_and(|error| error.is_short_of_files())
    );
    assert!(log.damaged().is_empty(), "nothing is wrong with the files");

    // Appends wait where a file must be made, and not before; nobody is told a failure.
    let told = crate::log::tests::room::append_some(&log, ENTRIES..ENTRIES + 200);
    let done = told.try_iter().count();
    assert!(done < 200, "{done}");
    assert_eq!(log.last().unwrap().1, Index(ENTRIES + 199));
    disk.set_files_max(usize::MAX);
    log.look_for_room();
    assert_eq!(done + told.try_iter().count(), 200);
    read_all(&log);
    assert!(log.damaged().is_empty());
}

/// Whoever waits for a file is woken by the one who gives it back.
#[test]
fn a_reader_without_a_file_waits_for_one_that_is_given_back() {
    use std::sync::mpsc;
    use std::time::Duration;

    use crate::log::config::FILES_MIN;
    use crate::log::segment::handles::Handles;
    use crate::log::segment::segment_file::SegmentFile;
    use crate::tasks;
    let disk = MemoryDisk::default();
    let handles = Handles::new(Arc::new(disk.clone()), FILES_MIN);
    let files: Vec<_> = (0..=FILES_MIN)
        .map(|number| {
            let path = Path::new("/").join(number.to_string());
            let file = disk.create(&path).unwrap();
            file.write_all_at(&[number as u8; 8], 0).unwrap();
            SegmentFile::on_demand(&path, &handles)
        })
        .collect();
    assert_eq!(disk.files_open().0, 0);
    let read = |lease: &Lease| lease.read_at(0, 8).unwrap()[0] as usize;
    let held: Vec<_> = files[1..].iter().map(|file| file.file().unwrap()).collect();
    assert_eq!(disk.files_open().0, FILES_MIN);
    let (tell, told) = mpsc::channel();
    let files = Arc::new(files);
    let theirs = files.clone();
    let reader = tasks::spawn_thread("reader", move || {
        let lease = theirs[0].file().unwrap();
        tell.send(lease.read_at(0, 8).unwrap()[0]).unwrap();
    });
    while handles.waiting() == 0 {
        std::thread::yield_now();
    }
    assert_eq!(disk.files_open().0, FILES_MIN);
    let mut held = held.into_iter();
    let given = held.next().unwrap();
    assert_eq!(read(&given), 1);
    drop(given);
    let came = told.recv_timeout(Duration::from_secs(30));
    // Whoever was not woken is now, so that a failure ends the test.
    handles.forget_all();
    assert_eq!(came, Ok(0));
    reader.unwrap().join().unwrap();
    held.zip(2..)
        .for_each(|(lease, number)| assert_eq!(read(&lease), number));
    // What is open for later use is found open, and as many as may be.
    assert_eq!(files[0].file().map(|lease| read(&lease)).unwrap(), 0);
    let opened = disk.files_open().1;
    for _ in 0..3 {
        assert_eq!(files[0].file().map(|lease| read(&lease)).unwrap(), 0);
    }
    assert_eq!(disk.files_open().1, opened);
}
