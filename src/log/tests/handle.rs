//! The log as its users see it: appends, restarts, cuts, records of any size.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::batch::Compression;
use crate::log::format::files::Paths;
use crate::log::format::record::{Conditions, packed};

#[test]
fn records_come_back_through_segments_and_restarts() {
    let disk = MemoryDisk::default();
    let (log, _) = open(&disk, None).unwrap();
    let (entries, count) = fill(&log, 200);
    entries.iter().for_each(|entry| publish(&log, entry));
    check_all(&log, count);
    log.sync_index().unwrap();
    assert!(
        disk.list(Path::new(DIR)).unwrap().len() > 8,
        "several segments"
    );
    drop(log);

    let checkpoint = covered(199, 0, count);
    let (log, opened) = open(&disk.crash(), Some(checkpoint.clone())).unwrap();
    assert!(opened.rows_hold);
    check_all(&log, count);
    let mut at = 0;
    while at < 200 {
        for entry in log.entries(Index(at), Index(200), 700).unwrap() {
            assert_eq!(entry, entries[at as usize]);
            at += 1;
        }
    }
    assert_eq!(log.last(), Some((Term(1), Index(199))));
}

#[test]
fn rows_past_the_checkpoint_are_dropped_and_rebuilt() {
    let disk = MemoryDisk::default();
    let (log, _) = open(&disk, None).unwrap();
    let (entries, count) = fill(&log, 120);
    entries[..60].iter().for_each(|entry| publish(&log, entry));
    let (_, at_checkpoint) = log.offsets(LogId::DEFAULT);
    entries[60..].iter().for_each(|entry| publish(&log, entry));
    log.sync_index().unwrap();
    drop(log);

    let checkpoint = covered(59, 0, at_checkpoint.0);
    let (log, opened) = open(&disk, Some(checkpoint.clone())).unwrap();
    assert!(opened.rows_hold);
    assert_eq!(log.offsets(LogId::DEFAULT).1, at_checkpoint);
    entries[60..].iter().for_each(|entry| publish(&log, entry));
    check_all(&log, count);
    drop(log);

    // Rows that do not agree with the checkpoint are all dropped.
    let wrong = covered(59, 0, at_checkpoint.0 + 1);
    let (log, opened) = open(&disk, Some(wrong)).unwrap();
    assert!(!opened.rows_hold);
    entries.iter().for_each(|entry| publish(&log, entry));
    check_all(&log, count);
}

#[test]
fn a_lost_index_is_rebuilt_from_the_store() {
    let disk = MemoryDisk::default();
    let (log, _) = open(&disk, None).unwrap();
    let (entries, count) = fill(&log, 90);
    entries.iter().for_each(|entry| publish(&log, entry));
    log.sync_index().unwrap();
    drop(log);
    let Paths { index, .. } = Paths::new(Path::new(DIR), Index(0));
    disk.remove(&index).unwrap();
    let checkpoint = covered(89, 0, count);
    let (log, opened) = open(&disk, Some(checkpoint.clone())).unwrap();
    assert!(opened.rows_hold, "I3: the index follows from the store");
    check_all(&log, count);
}

/// I1: over a real thread and with syncs that are watched, no callback precedes its sync.
#[test]
fn no_ack_precedes_its_sync() {
    static SYNCED: AtomicUsize = AtomicUsize::new(0);
    static WRITTEN: AtomicUsize = AtomicUsize::new(0);
    let disk = MemoryDisk::default();
    let threaded = Config {
        inline_io: false,
        segment_bytes_max: 1 << 20,
        index_bytes_max: 1 << 16,
        ..config()
    };
    let log = Log::open(
        Arc::new(disk.clone()),
        Path::new(DIR),
        threaded,
        Floor::default(),
        None,
    );
    let (log, _) = log.unwrap();
    disk.watch(|event, path| {
        let of_store = path.extension().is_some_and(|suffix| suffix == "store");
        match event {
            Event::Write if of_store => WRITTEN.fetch_add(1, Ordering::SeqCst),
            Event::Sync if of_store => {
                SYNCED.swap(WRITTEN.load(Ordering::SeqCst), Ordering::SeqCst)
            }
            _ => 0,
        };
        Ok(())
    });
    let (tell, told) = mpsc::channel();
    for index in 0..500 {
        let (tell, disk) = (tell.clone(), disk.clone());
        let done = move |result: Result<(), Error>| {
            result.unwrap();
            // What was written by now was synced, and a power cut at this moment keeps the entry.
            assert_eq!(
                SYNCED.load(Ordering::SeqCst),
                WRITTEN.load(Ordering::SeqCst)
            );
            if index % 50 == 0 {
                let (log, _) = open(&disk.crash(), None).unwrap();
                assert!(log.last().unwrap().1 >= Index(index));
            }
            tell.send(index).unwrap();
        };
        log.append(vec![records(1, index, index..index + 1)], Box::new(done))
            .unwrap();
    }
    drop(tell);
    let order: Vec<u64> = told.iter().collect();
    assert_eq!(order, (0..500).collect::<Vec<_>>(), "callbacks in order");
    assert!(WRITTEN.load(Ordering::SeqCst) >= 1);
}

#[test]
fn a_failed_sync_fails_its_appends_and_all_later_ones() {
    let disk = MemoryDisk::default();
    let (log, _) = open(&disk, None).unwrap();
    append(&log, vec![records(1, 0, 0..1)]);
    fail_syncs(&disk);
    let results = Arc::new(Mutex::new(Vec::new()));
    for index in 1..4 {
        let results = results.clone();
        let done = move |result: Result<(), Error>| results.lock().unwrap().push(result);
        log.append(vec![records(1, index, index..index + 1)], Box::new(done))
            .unwrap();
        disk.watch(|_, _| Ok(()));
    }
    let results = results.lock().unwrap();
    assert!(matches!(results[0], Err(Error::Io { action: "sync", .. })));
    assert!(
        matches!(results[1], Err(Error::Stopped)),
        "no sync is retried"
    );
    assert!(matches!(results[2], Err(Error::Stopped)));
    assert_eq!(log.durable(), Index(1));
}

/// The system takes pages for written whose sync failed, and shows them to the next process.
#[test]
fn a_restart_holds_what_is_on_disk_and_no_more() {
    let disk = MemoryDisk::default();
    let (log, _) = open(&disk, None).unwrap();
    append(&log, vec![records(1, 0, 0..1)]);
    fail_syncs(&disk);
    let done = Box::new(|result: Result<(), Error>| drop(result.unwrap_err()));
    log.append(vec![records(1, 1, 1..2)], done).unwrap();
    drop(log);
    disk.watch(|_, _| Ok(()));
    let (log, _) = open(&disk, None).unwrap();
    assert_eq!(log.next_index(), Index(1));
    append(&log, vec![records(1, 1, 1..3)]);
    let (log, _) = open(&disk.crash(), None).unwrap();
    assert_eq!(log.next_index(), Index(2));
}

#[test]
fn a_cut_suffix_stays_cut() {
    let disk = MemoryDisk::default();
    let (log, _) = open(&disk, None).unwrap();
    let (entries, _) = fill(&log, 100);
    entries[..20].iter().for_each(|entry| publish(&log, entry));
    truncate(&log, Some(29));
    assert_eq!(log.last(), Some((Term(1), Index(29))));
    assert_eq!(log.durable(), Index(30));
    assert!(log.entries(Index(30), Index(31), 1).is_err());

    let (reopened, opened) = open(&disk.crash(), None).unwrap();
    assert_eq!(reopened.last(), Some((Term(1), Index(29))));
    assert_eq!(opened.torn_bytes, 0, "a cut leaves zeros");

    append(&log, vec![records(2, 30, 500..502)]);
    let (reopened, _) = open(&disk.crash(), None).unwrap();
    assert_eq!(
        reopened.last(),
        Some((Term(2), Index(30))),
        "no older frame returns"
    );
    truncate(&log, None.or(Some(19)));
    assert_eq!(log.last(), Some((Term(1), Index(19))));
}

#[test]
fn records_of_any_size_up_to_the_limit() {
    let disk = MemoryDisk::default();
    let config = Config::default();
    let wide = Config {
        // The largest is a segment of its own.
        segment_bytes_max: 1 << 20,
        inline_io: true,
        ..config
    };
    let (log, _) = Log::open(Arc::new(disk), Path::new(DIR), wide, Floor::default(), None).unwrap();
    let sizes = [0, 1, 7, 8, 4095, 4096, 65_537, 1 << 20, 4 << 20];
    for (index, size) in sizes.iter().enumerate() {
        let mut batch = BatchBuilder::new(None);
        batch.push(&vec![index as u8; *size], 0, 0);
        let payload = join([batch.finish()].iter(), None);
        let made = entry(1, index as u64, Kind::Records, payload);
        append(&log, vec![made.clone()]);
        publish(&log, &made);
    }
    for (offset, size) in sizes.iter().enumerate() {
        let found = log.read(LogId::DEFAULT, Offset(offset as u64), 1).unwrap();
        assert_eq!(found[0].value, vec![offset as u8; *size]);
    }
    let over = vec![0; 65 << 20].into();
    let refused = log.append(vec![entry(1, 9, Kind::Control, over)], Box::new(|_| ()));
    assert!(matches!(refused, Err(Error::TooLarge { .. })));
}

#[test]
fn a_real_directory_with_a_real_thread() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        inline_io: false,
        ..config()
    };
    let open = |checkpoint| {
        let disk = Arc::new(crate::disk::OsDisk);
        Log::open(
            disk,
            dir.path(),
            config.clone(),
            Floor::default(),
            checkpoint,
        )
        .unwrap()
    };
    let (log, _) = open(None);
    let (entries, count) = fill(&log, 150);
    entries.iter().for_each(|entry| publish(&log, entry));
    check_all(&log, count);
    truncate(&log, Some(149));
    log.sync_index().unwrap();
    drop(log);
    let checkpoint = covered(149, 0, count);
    let (log, opened) = open(Some(checkpoint.clone()));
    assert!(opened.rows_hold);
    check_all(&log, count);
}

#[test]
fn a_log_that_was_reset_begins_at_its_floor() {
    let disk = MemoryDisk::default();
    let (log, _) = open(&disk, None).unwrap();
    append(&log, vec![entry(1, 0, Kind::Control, Bytes::new())]);
    log.reset(Index(12), Box::new(|result| result.unwrap()));
    assert_eq!(log.last(), None);
    let control = |index| entry(4, index, Kind::Control, Bytes::new());
    append(&log, vec![control(12), control(13)]);
    drop(log);
    let reopen = |floor| {
        let floor = Floor {
            index: Index(floor),
            position: Position(0),
        };
        Log::open(
            Arc::new(disk.crash()),
            Path::new(DIR),
            config(),
            floor,
            None,
        )
    };
    let (log, _) = reopen(12).unwrap();
    assert_eq!(log.last(), Some((Term(4), Index(13))));
    assert!(reopen(0).is_err(), "entries 0..12 are missing");
}

/// One entry may need more rows than an index is made with.
#[test]
fn an_entry_of_many_batches_finds_room_for_its_rows() {
    let disk = MemoryDisk::default();
    let (log, _) = open(&disk, None).unwrap();
    let batch = |number| {
        let mut batch = BatchBuilder::new(None);
        batch.push(&[number], 0, 0);
        batch.finish()
    };
    let many: Vec<_> = (0..100).map(batch).collect();
    let entries = [
        entry(1, 0, Kind::Records, join(many.iter(), None)),
        entry(1, 1, Kind::Records, join(many.iter(), None)),
    ];
    append(&log, entries.to_vec());
    entries.iter().for_each(|entry| publish(&log, entry));
    let reads_back = |log: &Log| {
        let records: Vec<_> = (0..200)
            .map(|at| log.read(LogId::DEFAULT, Offset(at), 1).unwrap()[0].clone())
            .collect();
        let values = records.iter().map(|record| record.value[0]);
        assert!(values.eq((0..100).chain(0..100)));
    };
    reads_back(&log);
    log.sync_index().unwrap();
    drop(log);
    let Paths { index, .. } = Paths::new(Path::new(DIR), Index(0));
    disk.remove(&index).unwrap();
    let checkpoint = covered(1, 0, 200);
    let (log, opened) = open(&disk, Some(checkpoint.clone())).unwrap();
    assert!(opened.rows_hold);
    reads_back(&log);
}

/// Rows count from a segment's first offset in 32 bits, and a seal must not take what compresses well
/// for damage.
#[test]
fn very_many_records_in_few_bytes_roll_the_segment() {
    const EACH: u32 = u32::MAX / 2;
    let disk = MemoryDisk::default();
    let (log, _) = open(&disk, None).unwrap();
    let conditions = Conditions::default();
    let batch = packed(
        LogId::DEFAULT,
        None,
        &conditions,
        Compression::Zstd,
        EACH,
        b"they pack well",
    );
    for index in 0..7 {
        let payload = join([batch.clone()].iter(), None);
        let entry = entry(1, index, Kind::Records, payload);
        append(&log, vec![entry.clone()]);
        publish(&log, &entry);
    }
    let checkpoint = log.checkpoint_at(Index(6));
    assert_eq!(checkpoint.next_position, Position(7 * u64::from(EACH)));
    log.sync_index().unwrap();
    assert_eq!(log.seal_covered(Index(6)).unwrap(), 3);

    let (log, opened) = open(&disk, Some(checkpoint.clone())).unwrap();
    assert_eq!((opened.rows_hold, opened.sealed), (true, 3));
    for at in [0, 1, 2, 3, 4, 5, 6] {
        let offset = Offset(at * u64::from(EACH) + 5);
        let read = log
            .read_found(log.find(LogId::DEFAULT, offset, 1).unwrap(), 1)
            .unwrap();
        let first = Offset(at * u64::from(EACH));
        assert_eq!((read.stored[0].first, read.stored[0].count), (first, EACH));
    }
}

/// The thread that answers then ends by itself: it does not wait for its own end.
#[test]
fn whoever_is_answered_may_let_go_of_the_log() {
    let (disk, dir) = (Arc::new(MemoryDisk::default()), Path::new(DIR));
    let config = Config {
        inline_io: false,
        ..config()
    };
    let (log, _) = Log::open(disk, dir, config, Floor::default(), None).unwrap();
    let (tell, told) = mpsc::channel();
    let (last, gone) = (log.clone(), Arc::downgrade(&log.0));
    let (go, may_go) = mpsc::channel();
    let done = move |result: Result<(), Error>| {
        may_go.recv().unwrap();
        drop(last);
        tell.send(result.is_ok()).unwrap();
    };
    let entry = entry(1, 0, Kind::Control, Bytes::from_static(b"control"));
    log.append(vec![entry], Box::new(done)).unwrap();
    drop(log);
    go.send(()).unwrap();
    assert_eq!(told.recv(), Ok(true));
    assert_eq!(gone.strong_count(), 0);
}
