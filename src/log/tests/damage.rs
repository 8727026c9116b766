//! Torn tails, damage, and what a reader sees of either.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    DIR, append, check_all, covered, entry, fill, look, open, publish, records, seal_of, sealed,
    value,
};
use crate::disk::Disk;
use crate::disk::memory::{Event, MemoryDisk};
use crate::log::format::files::Paths;
use crate::log::format::frame;
use crate::log::format::record::{BatchBuilder, join};
use crate::log::open::cut;
use crate::log::*;

#[test]
fn a_torn_tail_is_cut() {
    let disk = MemoryDisk::default();
    let (log, _) = open(&disk, None).unwrap();
    for index in 0..3 {
        append(&log, vec![records(1, index, index..index + 1)]);
    }
    // One write of three frames, of which the first is torn and the others are whole.
    let torn: Vec<_> = (3..6)
        .map(|index| records(1, index, index..index + 1))
        .collect();
    append(&log, torn);
    drop(log);
    let Paths { store, .. } = Paths::new(Path::new(DIR), Index(0));
    let at = torn_position(&disk, 3);
    disk.corrupt(&store, |bytes| bytes[at + 40] ^= 1);
    let (log, opened) = open(&disk, None).unwrap();
    assert_eq!(log.last(), Some((Term(1), Index(2))));
    assert!(opened.torn_bytes > 0);
    append(&log, vec![records(1, 3, 3..4)]);
    let (log, opened) = open(&disk.crash(), None).unwrap();
    assert_eq!(
        (log.last(), opened.torn_bytes),
        (Some((Term(1), Index(3))), 0)
    );
}

/// A record may hold what looks like a frame that was synced.
#[test]
fn a_torn_record_that_imitates_a_frame_is_a_torn_tail() {
    let disk = MemoryDisk::default();
    let (log, _) = open(&disk, None).unwrap();
    append(&log, vec![records(1, 0, 0..1)]);
    // Wherever in the payload it lands, one copy begins at a multiple of 8.
    let mut imitations = Vec::new();
    for shift in 0..8 {
        imitations.resize(imitations.len().next_multiple_of(8) + shift, 1);
        let imitated = records(1, 2, 0..1);
        frame::encode(&imitated, frame::entry_crc(&imitated), 0, &mut imitations);
    }
    let mut batch = BatchBuilder::new(None);
    batch.push(&imitations, 0, 0);
    let payload = join([batch.finish()].iter(), None);
    append(
        &log,
        vec![
            entry(1, 1, Kind::Records, payload.clone()),
            entry(1, 2, Kind::Records, payload),
        ],
    );
    drop(log);
    let Paths { store, .. } = Paths::new(Path::new(DIR), Index(0));
    for torn in [1, 2] {
        let disk = disk.crash();
        let at = torn_position(&disk, torn);
        disk.corrupt(&store, |bytes| bytes[at + 32] ^= 1);
        let (log, opened) = open(&disk, None).unwrap();
        assert_eq!(log.next_index(), Index(torn));
        assert!(opened.torn_bytes > 0);
    }
}

/// A reader that hit a bad sector must not stop its node if the segment was mended meanwhile.
#[test]
fn a_read_that_a_repair_overtakes_is_made_again() {
    let disk = MemoryDisk::default();
    let (log, entries) = sealed(&disk, 100);
    let Paths { store, .. } = Paths::new(Path::new(DIR), Index(0));
    let overtaken = AtomicUsize::new(0);
    let repairing = log.clone();
    disk.watch(move |event, path| {
        if event != Event::Read || path != store || overtaken.fetch_add(1, Ordering::Relaxed) > 0 {
            return Ok(());
        }
        let seal = seal_of(&repairing, Index(0));
        assert!(repairing.derive_index(&seal).unwrap());
        Err(io::Error::other("a bad sector"))
    });
    assert_eq!(log.entries(Index(0), Index(1), 1).unwrap(), entries[..1]);
    disk.watch(|_, _| Ok(()));
}

/// On a node without others nobody else has a copy: a path that failed for a moment must not hide what is there.
#[test]
fn a_segment_that_could_not_be_read_once_is_read_again() {
    let disk = MemoryDisk::default();
    let (log, entries) = sealed(&disk, 100);
    let Paths { store, .. } = Paths::new(Path::new(DIR), Index(0));
    let failing = store.clone();
    disk.watch(move |event, path| match event {
        Event::Read if path == failing => Err(io::Error::other("the path to it")),
        _ => Ok(()),
    });
    log.entries(Index(0), Index(1), 1).unwrap_err();
    let seal = log.damaged().swap_remove(0).seal;
    assert!(!log.look_again(&seal).unwrap());
    assert_eq!(log.damaged().len(), 1, "it is marked as before");
    disk.watch(|_, _| Ok(()));
    assert!(log.look_again(&seal).unwrap());
    assert!(log.damaged().is_empty());
    assert_eq!(log.entries(Index(0), Index(1), 1).unwrap(), entries[..1]);

    disk.corrupt(&store, |bytes| bytes[100] ^= 1);
    log.entries(Index(0), Index(1), 1).unwrap_err();
    assert!(!log.look_again(&seal).unwrap(), "rot stays rot");
    assert_eq!(log.damaged().len(), 1);
}

fn bytes_of(disk: &MemoryDisk, path: &Path) -> Vec<u8> {
    let mut copy = Vec::new();
    disk.corrupt(path, |bytes| copy.clone_from(bytes));
    copy
}

/// Has one read of a file fail, after so many that do not.
fn fail_read(disk: &MemoryDisk, file: &Path, after: usize) {
    let (file, reads) = (file.to_owned(), AtomicUsize::new(0));
    disk.watch(move |event, path| {
        let is_it = event == Event::Read && path == file;
        match is_it && reads.fetch_add(1, Ordering::Relaxed) == after {
            true => Err(io::Error::other("the path to it")),
            false => Ok(()),
        }
    });
}

/// The rows may be there, and where a batch was refused nothing else tells them.
#[test]
fn an_index_that_a_start_cannot_read_stays_as_it_is() {
    let disk = MemoryDisk::default();
    let (log, _) = open(&disk, None).unwrap();
    let (made, next) = fill(&log, 12);
    made.iter().for_each(|entry| publish(&log, entry));
    log.sync_index().unwrap();
    drop(log);
    let Paths { index, .. } = Paths::new(Path::new(DIR), Index(0));
    let before = bytes_of(&disk, &index);
    for after in [0, 1] {
        fail_read(&disk, &index, after);
        let opened = open(&disk, Some(covered(11, 0, next)));
        assert!(matches!(opened, Err(Error::Io { .. })), "read {after}");
        disk.watch(|_, _| Ok(()));
        assert!(bytes_of(&disk, &index) == before, "read {after}");
    }
    let (log, opened) = open(&disk, Some(covered(11, 0, next))).unwrap();
    assert!(opened.rows_hold);
    check_all(&log, next);
}

/// A cut that was begun and is forgotten looks like damage, or brings back what raft gave up.
#[test]
fn an_announced_cut_that_a_start_cannot_make_is_made_by_the_next() {
    let disk = MemoryDisk::default();
    let (log, _) = open(&disk, None).unwrap();
    fill(&log, 12);
    let end = log.0.state.read().segments[0].position(Index(8)).unwrap();
    drop(log);
    cut::announce(&disk, Path::new(DIR), (Index(0), end)).unwrap();
    let announcement = cut::path(Path::new(DIR));
    let Paths { store, .. } = Paths::new(Path::new(DIR), Index(0));
    for file in [&announcement, &store] {
        fail_read(&disk, file, 0);
        assert!(matches!(open(&disk, None), Err(Error::Io { .. })));
        disk.watch(|_, _| Ok(()));
        assert!(disk.len_of(&announcement).is_ok(), "it is forgotten");
    }
    let (log, _) = open(&disk, None).unwrap();
    assert_eq!(log.last(), Some((Term(1), Index(7))));
}

/// Where the frame of an entry begins in the first store.
fn torn_position(disk: &MemoryDisk, index: u64) -> usize {
    let (log, _) = open(&disk.crash(), None).unwrap();
    let state = log.0.state.read();
    state.segments[0].position(Index(index)).unwrap() as usize
}

#[test]
fn damage_before_synced_frames_is_an_error_that_names_the_place() {
    let disk = MemoryDisk::default();
    let (log, _) = open(&disk, None).unwrap();
    (0..6).for_each(|index| append(&log, vec![records(1, index, index..index + 1)]));
    drop(log);
    let Paths { store, .. } = Paths::new(Path::new(DIR), Index(0));
    let at = torn_position(&disk, 3);
    for damage in [at, at + 9, at + 28, at + 40] {
        let disk = disk.crash();
        disk.corrupt(&store, |bytes| bytes[damage] ^= 0x10);
        match open(&disk, None).unwrap_err() {
            Error::Corrupt { path, position, .. } => {
                assert_eq!((path, position), (store.clone(), at as u64));
            }
            other => panic!("{other}"),
        }
    }
    // A page of zeros in the middle is damage as well.
    disk.corrupt(&store, |bytes| bytes[at..at + 64].fill(0));
    assert!(matches!(open(&disk, None), Err(Error::Corrupt { .. })));
}

#[test]
fn damage_in_an_earlier_segment_is_an_error() {
    let disk = MemoryDisk::default();
    let (log, _) = open(&disk, None).unwrap();
    fill(&log, 200);
    drop(log);
    let Paths { store, .. } = Paths::new(Path::new(DIR), Index(0));
    disk.corrupt(&store, |bytes| {
        let last = bytes.len() - 20;
        bytes[last] ^= 1;
    });
    assert!(matches!(open(&disk, None), Err(Error::Corrupt { .. })));
    disk.remove(&store).unwrap();
    assert!(
        matches!(open(&disk, None), Err(Error::Corrupt { .. })),
        "a missing file"
    );
}

#[test]
fn a_log_that_ends_before_its_checkpoint_is_refused() {
    let disk = MemoryDisk::default();
    let (log, _) = open(&disk, None).unwrap();
    append(&log, vec![records(1, 0, 0..1)]);
    let checkpoint = covered(1, 0, 2);
    let error = open(&disk, Some(checkpoint.clone())).unwrap_err();
    assert!(
        matches!(
            error,
            Error::LostTail {
                synced: Index(1),
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn damage_is_never_served() {
    let disk = MemoryDisk::default();
    let (log, _) = open(&disk, None).unwrap();
    let (entries, count) = fill(&log, 100);
    entries.iter().for_each(|entry| publish(&log, entry));
    let Paths { store, .. } = Paths::new(Path::new(DIR), Index(0));
    disk.corrupt(&store, |bytes| bytes[300] ^= 4);
    let mut refused = 0;
    for offset in 0..count {
        match log.read(LogId::DEFAULT, Offset(offset), 1) {
            Ok(found) => assert_eq!(found[0].value, value(offset)),
            Err(Error::Corrupt { path, .. }) => {
                assert_eq!(path, store);
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 0);
}

/// Where a damaged segment begins in a log cannot be read from it. Records before it and behind it are served, and
/// no other segment is taken for damaged.
#[test]
fn a_damaged_index_hides_the_records_of_its_segment_alone() {
    let disk = MemoryDisk::default();
    let (log, _) = open(&disk, None).unwrap();
    for index in 0..120u64 {
        let mut batch = BatchBuilder::of(LogId(u32::from(index % 3 == 0)), None);
        batch.push(&value(index), 0, 0);
        let payload = join([batch.finish()].iter(), None);
        let entry = entry(1, index, Kind::Records, payload);
        append(&log, vec![entry.clone()]);
        publish(&log, &entry);
    }
    log.sync_index().unwrap();
    assert!(log.seal_covered(Index(119)).unwrap() > 3);
    let checkpoint = log.checkpoint_at(Index(119));
    let bases: Vec<_> = log.segments().iter().map(|segment| segment.base).collect();
    drop(log);

    // Each number of a row in turn, of the first ones and of some behind.
    for place in [0, 1] {
        for at in (32..32 + 7 * 32).step_by(5) {
            hides(&disk, &checkpoint, bases[place]..bases[place + 1], at);
        }
    }
}

fn hides(disk: &MemoryDisk, checkpoint: &Checkpoint, hidden: std::ops::Range<Index>, at: usize) {
    let disk = disk.crash();
    let damaged = hidden.start;
    let Paths { index, .. } = Paths::new(Path::new(DIR), damaged);
    disk.corrupt(&index, |bytes| bytes[at] ^= 1);
    // From the front, so that where a read ended leads to the next, and at random places.
    for step in [1, 37] {
        let (log, _) = open(&disk.crash(), Some(checkpoint.clone())).unwrap();
        for number in (0..120u64).map(|number| number * step % 120) {
            let (id, offset) = match number % 3 {
                0 => (LogId(1), number / 3),
                _ => (LogId(0), number - number / 3 - 1),
            };
            match log.read(id, Offset(offset), 1) {
                Ok(found) => assert_eq!(found[0].value, value(number), "{number}"),
                Err(Error::Damaged { first, .. }) => {
                    assert!(
                        first == damaged && hidden.contains(&Index(number)),
                        "{number}"
                    );
                }
                Err(other) => panic!("{number}: {other}"),
            }
        }
        // A reader of many logs is refused where it wants what is damaged, and passes over it elsewhere.
        let refused = follow(&log, |_| true).unwrap_err();
        assert!(matches!(refused, Error::Damaged { first, .. } if first == damaged));
        assert!(follow(&log, |_| false).unwrap().is_empty());
        let found = log.damaged();
        assert_eq!((found.len(), found[0].seal.base), (1, damaged));
        assert!(log.derive_index(&found[0].seal).unwrap());
        let ends = log.all_ends();
        for (id, ends) in ends {
            for offset in 0..ends.next.0 {
                log.read(id, Offset(offset), 1).unwrap();
            }
        }
        let all: Vec<_> = (0..120).collect();
        assert_eq!(follow(&log, |_| true).unwrap(), all);
    }
}

/// A directory that went is made again from rows that were whole before. They may have rotted since.
#[test]
fn rows_that_rot_after_they_were_found_whole_are_found() {
    let disk = MemoryDisk::default();
    let (log, _) = sealed(&disk, 100);
    let next = log.ends(LogId::DEFAULT).unwrap().next;
    let read_all = || {
        (0..next.0).try_for_each(|at| {
            let read = log.read(LogId::DEFAULT, Offset(at), 1)?;
            assert_eq!(read[0].value, value(at));
            Ok::<_, Error>(())
        })
    };
    read_all().unwrap();
    let first = log.segments()[0].base;
    let again = || {
        let mut state = log.0.state.write();
        let index = &mut state.segments[0].index;
        let anew = Arc::new(index.lazy().unwrap().anew());
        index.set_lazy(anew);
    };
    again();
    read_all().unwrap();
    again();
    let Paths { index, .. } = Paths::new(Path::new(DIR), first);
    disk.corrupt(&index, |bytes| bytes[32 + 5 * 32 + 16] ^= 1);
    let error = read_all().unwrap_err();
    assert!(matches!(error, Error::Damaged { first: found, .. } if found == first));
    assert_eq!(log.damaged().len(), 1);
}

/// The positions of all records of some logs.
fn follow(log: &Log, is_wanted: impl Fn(LogId) -> bool) -> Result<Vec<u64>, Error> {
    let (mut at, mut all) = (Position(0), Vec::new());
    while at < log.positions().1 {
        let found = look(log, at, &Wanted::Those(&is_wanted))?;
        let read = log.read_found(log.find_stretch(&found, 300)?, 300)?;
        let last = read.stored.last().map(|last| last.position.0 + 1);
        at = last.map_or(found.passed(), |last| found.behind(Position(last)));
        all.extend(read.stored.iter().map(|stored| stored.position.0));
    }
    Ok(all)
}
