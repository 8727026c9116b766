//! Segments end where the log says so, the same on every node, whatever a node did by itself.

use super::*;
use crate::disk::Disk;

/// What the next entry must name to end a segment, behind these from index 0 on.
pub fn rolled_behind<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Index {
    let ended = |rolled, entry: &Entry| match entry.rolls() {
        Some(since) if since == rolled => Index(entry.index.0 + 1),
        _ => rolled,
    };
    entries.into_iter().fold(Index(0), ended)
}

/// Segments of a log that holds these entries, from index 0 on, end where these say so, as far as it is held.
pub fn check_ends(log: &Log, entries: &[Entry], what: &str) {
    let (mut said, mut rolled) = (Vec::new(), Index(0));
    for entry in entries {
        if entry.rolls() == Some(rolled) {
            rolled = Index(entry.index.0 + 1);
            said.extend((rolled > log.first_entry()).then_some(rolled));
        }
    }
    let segments = log.segments().into_iter();
    // Of rewritten segments, and of those before, the ends are gone with the entries.
    let held = segments.filter(|segment| segment.next_index > log.first_entry());
    let ended = held.filter(|segment| segment.rolled);
    let ended: Vec<_> = ended.map(|segment| segment.next_index).collect();
    assert_eq!(ended, said, "{what}: segments end where the log says so");
}

fn roll(index: u64, since: u64) -> Entry {
    Entry::roll(Term(1), Index(index), Index(since))
}

fn control(index: u64) -> Entry {
    entry(1, index, Kind::Control, Bytes::from_static(b"control"))
}

/// The bounds of each segment, and whether the log says that it ends there.
fn bounds(log: &Log) -> Vec<(u64, u64, bool)> {
    let segments = log.segments().into_iter();
    let bounds = segments.map(|segment| (segment.base.0, segment.next_index.0, segment.rolled));
    bounds.collect()
}

fn with(segment_bytes_max: u32) -> Config {
    Config {
        segment_bytes_max,
        ..config()
    }
}

fn open_with(disk: &MemoryDisk, config: Config) -> Log {
    let (disk, dir) = (Arc::new(disk.clone()), Path::new(DIR));
    Log::open(disk, dir, config, Floor::default(), None)
        .unwrap()
        .0
}

#[test]
fn an_entry_ends_the_segment_that_it_names_and_no_other() {
    let (log, _) = open(&MemoryDisk::default(), None).unwrap();
    append(&log, vec![control(0), control(1)]);
    assert_eq!(log.to_roll(), Some(Index(0)));
    append(&log, vec![roll(2, 1), control(3)]);
    assert_eq!(bounds(&log), [(0, 4, false)], "it names another one");
    append(&log, vec![roll(4, 0)]);
    assert_eq!(bounds(&log), [(0, 5, true)]);
    assert_eq!(log.to_roll(), None, "it is ended already");
    // Proposed twice, as by one who was not told.
    append(&log, vec![roll(5, 0), roll(6, 4), control(7)]);
    assert_eq!(bounds(&log), [(0, 5, true), (5, 8, false)]);
    // As the first entry of a segment, and next to each other.
    append(&log, vec![roll(8, 5), roll(9, 9), control(10)]);
    let ends = [(0, 5, true), (5, 9, true), (9, 10, true), (10, 11, false)];
    assert_eq!(bounds(&log), ends);
}

/// What is cut was never said: the segment is open again, and takes the entries of the next leader.
#[test]
fn a_cut_takes_the_end_of_a_segment_back() {
    for (keep, expected) in [(4, (0, 5, true)), (3, (0, 4, false)), (1, (0, 2, false))] {
        let disk = MemoryDisk::default();
        let (log, _) = open(&disk, None).unwrap();
        append(&log, (0..4).map(control).collect());
        append(&log, vec![roll(4, 0), control(5), roll(6, 5), control(7)]);
        truncate(&log, Some(keep));
        assert_eq!(bounds(&log), [expected], "{keep}");
        let next = keep + 1;
        append(&log, vec![control(next)]);
        let (open, rolled) = match expected.2 {
            true => (vec![expected, (5, 6, false)], 5),
            false => (vec![(0, next + 1, false)], 0),
        };
        assert_eq!(bounds(&log), open, "{keep}");
        assert_eq!(log.to_roll(), Some(Index(rolled)), "{keep}");
        append(&log, vec![roll(next + 1, rolled)]);
        assert!(bounds(&log).last().unwrap().2, "{keep}");
        log.close();
        let found = open_with(&disk, config());
        assert_eq!(bounds(&found), bounds(&log), "a start finds the same");
    }
}

/// With a checkpoint anywhere: what it covers is known by what it says, the rest by the entries.
#[test]
fn a_start_finds_where_the_log_ended_segments() {
    let entries = [
        control(0),
        roll(1, 0),
        control(2),
        // It ends nothing, though it is the last one of a segment that ended by itself.
        roll(3, 0),
        records(1, 4, 0..40),
        roll(5, 2),
        roll(6, 2),
        records(1, 7, 40..41),
        roll(8, 6),
    ];
    for applied in 0..entries.len() as u64 {
        for is_sealed in [false, true] {
            let disk = MemoryDisk::default();
            let (log, _) = open(&disk, None).unwrap();
            append(&log, entries.to_vec());
            let before = bounds(&log);
            let expected = [(0, 2, true), (2, 4, false), (4, 6, true), (6, 9, true)];
            assert_eq!(before, expected);
            for entry in &entries[..=applied as usize] {
                publish(&log, entry);
            }
            log.sync_index().unwrap();
            let checkpoint = log.checkpoint_at(Index(applied));
            let rolled = rolled_behind(&entries[..=applied as usize]);
            assert_eq!(checkpoint.rolled, rolled, "{applied}");
            if is_sealed {
                log.seal_covered(Index(applied)).unwrap();
            }
            let last_is_sealed = is_sealed && applied == 8;
            let (log, opened) = open(&disk.kill(), Some(checkpoint)).unwrap();
            assert_eq!(
                opened.sealed == 4,
                last_is_sealed,
                "the log ended the last one"
            );
            assert_eq!(bounds(&log), before, "{applied}");
            append(&log, vec![control(9)]);
            assert_eq!(bounds(&log)[4..], [(9, 10, false)], "{applied}");
            assert_eq!(log.to_roll(), Some(Index(9)), "{applied}");
        }
    }
}

/// A seal tells that the log ended its segment, and not which end came before. An older segment without a seal is then
/// the next of the chain.
#[test]
fn a_start_finds_the_ends_before_a_sealed_segment_of_one_that_lost_its_seal() {
    let entries = [
        roll(0, 0),
        control(1),
        roll(2, 1),
        control(3),
        roll(4, 3),
        control(5),
    ];
    let expected = [(0, 1, true), (1, 3, true), (3, 5, true), (5, 6, false)];
    for lost in [[0].as_slice(), &[1], &[3], &[0, 1], &[1, 3], &[0, 3]] {
        let disk = MemoryDisk::default();
        let (log, _) = open(&disk, None).unwrap();
        append(&log, entries.to_vec());
        entries.iter().for_each(|entry| publish(&log, entry));
        log.sync_index().unwrap();
        let checkpoint = log.checkpoint_at(Index(5));
        log.seal_covered(Index(5)).unwrap();
        log.close();
        for base in lost {
            let seal = Path::new(DIR).join(format!("{base:020}.seal"));
            disk.remove(&seal).unwrap();
        }
        let (log, _) = open(&disk, Some(checkpoint)).unwrap();
        assert_eq!(bounds(&log), expected, "without the seals of {lost:?}");
    }
}

/// Nodes with other sizes, and one that got a snapshot which ends inside a segment.
#[test]
fn nodes_agree_again_behind_the_next_end() {
    let made: Vec<_> = (0..60)
        .map(|index| match index {
            40 => roll(40, 0),
            50 => roll(50, 41),
            _ => records(1, index, index..index + 1),
        })
        .collect();
    let logs = [4096, 2048, 1 << 20].map(|bytes| open_with(&MemoryDisk::default(), with(bytes)));
    for log in &logs {
        append(log, made.clone());
        let bounds = bounds(log);
        let (last, before) = (&bounds[bounds.len() - 2..], &bounds[..bounds.len() - 2]);
        assert_eq!(last, [(41, 51, true), (51, 60, false)]);
        assert_eq!(before.last().unwrap().1, 41);
        assert_eq!(before.iter().filter(|segment| segment.2).count(), 1);
    }
    assert!(bounds(&logs[1]).len() > bounds(&logs[0]).len());
    let leader = &logs[2];
    made[..31].iter().for_each(|entry| publish(leader, entry));
    let disk = MemoryDisk::default();
    let staging = Path::new(DIR).join("staging");
    let seals = leader.manifest(Index(31)).unwrap();
    let [seal] = &seals[..] else {
        panic!("{seals:?}")
    };
    assert!(!seal.rolled, "the snapshot ends in it");
    let mut copy = SegmentCopy::new(Arc::new(disk.clone()), &staging, seal).unwrap();
    for entry in &made[..31] {
        let next = Index(entry.index.0 + 1);
        copy.add(entry, &leader.rows(entry.index, next).unwrap())
            .unwrap();
    }
    copy.finish().unwrap();
    let (log, _) = open(&disk, None).unwrap();
    let checkpoint = leader.checkpoint_at(Index(30));
    log.adopt(&staging, &[Index(0).into()], Floor::default(), &checkpoint)
        .unwrap();
    append(&log, made[31..].to_vec());
    let ends = [
        (0, 31, false),
        (31, 41, true),
        (41, 51, true),
        (51, 60, false),
    ];
    assert_eq!(bounds(&log), ends);
}

/// A full segment takes the entry that ends it into room that was kept: it may come while the disk is full.
#[test]
fn the_end_of_a_segment_always_fits() {
    for first in [0, 7000] {
        let made = |index: u64| {
            let length = if index == 0 { first } else { 8 };
            entry(1, index, Kind::Control, vec![1; length].into())
        };
        let log = open_with(&MemoryDisk::default(), with(4096));
        let mut index = 0;
        while bounds(&log).len() < 2 {
            append(&log, vec![made(index)]);
            index += 1;
        }
        let fit = index - 1;
        let disk = MemoryDisk::default();
        let log = open_with(&disk, with(4096));
        append(&log, (0..fit).map(made).collect());
        assert_eq!(log.full(), Some(Index(0)));
        let path = Path::new(DIR).join("00000000000000000000.store");
        let allocated = disk.len_of(&path).unwrap();
        append(&log, vec![roll(fit, 0)]);
        assert_eq!(bounds(&log), [(0, fit + 1, true)], "{first}");
        assert_eq!(disk.len_of(&path).unwrap(), allocated, "{first}");
        assert_eq!(log.full(), None);
    }
}

#[test]
fn what_comes_behind_the_end_of_a_segment_is_in_hand_only_with_files_for_it() {
    let disk = MemoryDisk::default();
    let log = open_with(&disk, with(4096));
    let has = |entries: &[(bool, usize)]| log.has_in_hand(entries.iter().copied());
    append(&log, vec![control(0)]);
    assert!(has(&[(false, 500)]) && has(&[(false, 500), (true, 8)]));
    assert!(!has(&[(true, 8), (false, 500)]), "there is no spare yet");
    let filling = entry(1, 1, Kind::Control, vec![1; 1500].into());
    append(&log, vec![filling]);
    assert!(has(&[(true, 8), (false, 500)]), "it was made ahead");
    assert!(!has(&[(true, 8), (false, 500), (true, 8), (false, 1)]));
    append(&log, vec![roll(2, 0)]);
    assert!(has(&[(false, 500)]));
    append(&log, vec![control(3)]);
    assert!(!has(&[(false, 1), (true, 8), (false, 500)]), "it was taken");
}
