//! Tests of rewriting: what lives stays and can be read as before, what is dead gives its room back.

mod mending;

pub use mending::{passed_over, rot_is_mended};

use super::*;
use crate::log::config::REMAINS_MAX;
use crate::log::format::files::Paths;
use crate::log::fuzzing::copy::copy_rewritten;

/// A plan for some of the sealed segments that the log ended, with what lives as of a checkpoint; `None` if there are
/// none.
pub fn any_plan(
    log: &Log,
    checkpoint: &Checkpoint,
    at: Index,
    (from, count): (u8, u8),
) -> Option<Rewrite> {
    let sealed: Vec<_> = log
        .segments()
        .into_iter()
        .filter(|one| one.next_position.is_some())
        .collect();
    let from = usize::from(from) % sealed.len().max(1);
    let run = sealed.get(from..)?.iter().take(1 + usize::from(count) % 4);
    let run: Vec<_> = run.take_while(|one| one.rolled).collect();
    let firsts = checkpoint.logs.iter();
    let firsts = firsts.filter(|(_, ends)| ends.first > Offset(0));
    Some(Rewrite {
        at,
        base: run.first()?.base,
        next: run.last()?.next_index,
        of: run.iter().map(|one| one.name.rewritten).collect(),
        sealed_ms: 7,
        firsts: firsts.map(|(log, ends)| (*log, ends.first)).collect(),
        ..Rewrite::default()
    })
}

/// Rewrites; false if it could not be swapped.
pub fn rewrite(log: &Log, plan: &Rewrite) -> bool {
    let mut rewriting = log.begin_rewrite(plan).unwrap().expect("they are here");
    while rewriting.step().unwrap().is_some() {}
    let rewritten = rewriting.finish().unwrap();
    log.swap(&rewritten).unwrap()
}

const LOGS: u32 = 4;

/// Entries with a batch for each of some logs, and a Roll now and then.
fn entries(count: u64) -> Vec<Entry> {
    let (mut made, mut rolled) = (Vec::new(), Index(0));
    for index in 0..count {
        if index % 5 == 4 {
            made.push(Entry::roll(Term(1 + index / 30), Index(index), rolled));
            rolled = Index(index + 1);
            continue;
        }
        let batch = |number: u64| {
            let log = LogId(((index * 7 + number * 3) % u64::from(LOGS)) as u32);
            let mut batch = BatchBuilder::of(log, None);
            for record in 0..=(index + number) % 3 {
                batch.push(&value(index * 9 + number + record), index, record as u32);
            }
            batch.finish()
        };
        let batches: Vec<_> = (0..1 + index % 3).map(batch).collect();
        let payload = join(batches.iter(), None);
        made.push(entry(1 + index / 30, index, Kind::Records, payload));
    }
    made
}

/// A log of these, sealed as far as it goes, with its checkpoint. Log 1 is trimmed in the midst, log 2 is deleted.
fn with_dead(disk: &MemoryDisk, entries: &[Entry]) -> (Log, Checkpoint) {
    let (log, _) = open(disk, None).unwrap();
    for entry in entries {
        append(&log, vec![entry.clone()]);
        publish(&log, entry);
    }
    let (_, next) = log.offsets(LogId(1));
    log.trim(LogId(1), Offset(next.0 * 2 / 3));
    log.forget(LogId(2));
    log.sync_index().unwrap();
    let checkpoint = log.checkpoint_at(Index(entries.len() as u64 - 1));
    log.seal_covered(checkpoint.applied).unwrap();
    (log, checkpoint)
}

/// All sealed segments, or those from number `from` on, as the product plans it.
pub fn plan_of(log: &Log, at: u64, from: usize, count: usize) -> Rewrite {
    let segments = log.segments();
    let sealed = segments.iter().filter(|one| one.next_position.is_some());
    let run: Vec<_> = sealed.skip(from).take(count).collect();
    let mut firsts = std::collections::BTreeMap::new();
    for one in &run {
        let live = log.live(one.base).unwrap().unwrap();
        firsts.extend(live.firsts);
    }
    Rewrite {
        at: Index(at),
        base: run[0].base,
        next: run[run.len() - 1].next_index,
        of: run.iter().map(|one| one.name.rewritten).collect(),
        sealed_ms: 7,
        firsts,
        ..Rewrite::default()
    }
}

/// Records log by log, and where batches begin in the order of positions.
type Seen = (Vec<Vec<Record>>, Vec<(Position, LogId, Offset)>);

/// All that can be read.
fn all(log: &Log) -> Seen {
    let mut by_log = Vec::new();
    for id in (0..LOGS).map(LogId).filter(|id| log.ends(*id).is_some()) {
        let (mut at, next) = log.offsets(id);
        let mut records = Vec::new();
        while at < next {
            records.extend(log.read(id, at, 400).unwrap());
            at = Offset(records[records.len() - 1].offset.0 + 1);
        }
        by_log.push(records);
    }
    let (mut from, mut placed) = (Position(0), Vec::new());
    while from < log.positions().1 {
        let found = look(log, from, &Wanted::Those(&|_| true)).unwrap();
        let read = log.find_stretch(&found, usize::MAX);
        let read = log.read_found(read.unwrap(), usize::MAX).unwrap();
        let of = read.stored.iter();
        placed.extend(of.map(|stored| (stored.position, stored.log, stored.first)));
        assert!(found.passed() > from, "it gets on");
        from = found.passed();
    }
    (by_log, placed)
}

fn names(disk: &MemoryDisk) -> Vec<String> {
    let mut names = disk.list(Path::new(DIR)).unwrap();
    names.retain(|name| name.contains('.'));
    names
}

#[test]
fn what_lives_stays_and_what_is_dead_gives_its_room_back() {
    let disk = MemoryDisk::default();
    let (log, checkpoint) = with_dead(&disk, &entries(102));
    let before = all(&log);
    let sealed = |log: &Log| {
        let segments = log.segments().into_iter();
        segments
            .filter(|one| one.next_position.is_some())
            .collect::<Vec<_>>()
    };
    let count = sealed(&log).len();
    assert!(count > 8, "{count}");
    let live = |log: &Log| {
        let lives = sealed(log)
            .into_iter()
            .map(|one| log.live(one.base).unwrap().unwrap());
        lives.fold((0, 0), |sum, live| {
            (sum.0 + live.bytes, sum.1 + live.of_bytes)
        })
    };
    let (lives, of) = live(&log);
    assert!(lives < of, "{lives} of {of}");
    let stored = |log: &Log| log.stored_bytes(&(0..LOGS).map(LogId).collect()).unwrap();
    let by_log = stored(&log);
    assert_eq!(by_log.values().sum::<u64>(), lives);
    assert!(
        by_log[&LogId(1)] < by_log[&LogId(0)],
        "it was trimmed: {by_log:?}"
    );
    assert_eq!(by_log[&LogId(2)], 0, "it was deleted");
    let pin = log.pin();
    assert!(
        !rewrite(&log, &plan_of(&log, 1000, 0, count)),
        "it is pinned"
    );
    assert_eq!(sealed(&log).len(), count);
    drop(pin);
    assert!(rewrite(&log, &plan_of(&log, 1001, 0, count)));
    assert_eq!(all(&log), before);
    assert_eq!((sealed(&log).len(), live(&log)), (1, (lives, lives)));
    assert_eq!(stored(&log), by_log);
    assert_eq!(log.first_entry(), sealed(&log)[0].next_index);
    let no_entry = log.entries(Index(3), Index(5), 1).unwrap_err();
    assert!(matches!(no_entry, Error::NoEntry { .. }), "{no_entry}");
    assert_eq!(
        log.term(Index(31)).unwrap(),
        Term(2),
        "terms are known still"
    );
    let kept = names(&disk);
    let rewritten = kept.iter().filter(|name| name.contains('-')).count();
    assert_eq!((rewritten, kept.len()), (3, 5), "{kept:?}");
    log.close();
    let (log, opened) = open(&disk, Some(checkpoint)).unwrap();
    assert!(opened.rows_hold);
    assert_eq!(all(&log), before);
    let found = verify::verify(&disk, Path::new(DIR), None, &|_| {}).unwrap();
    assert!(found.is_sound(), "{:?}", found.findings);
}

#[test]
fn the_result_is_the_same_on_every_node() {
    let entries = entries(120);
    let (one, two) = (MemoryDisk::default(), MemoryDisk::default());
    let (slow, _) = with_dead(&one, &entries);
    let (quick, _) = with_dead(&two, &entries);
    // What was rewritten before is rewritten again.
    let first = plan_of(&quick, 1000, 2, 4);
    assert!(rewrite(&quick, &first));
    let plan = plan_of(&quick, 1001, 0, 6);
    assert!(rewrite(&quick, &plan));
    // A node without the first one would make another one of them.
    assert!(!slow.can_rewrite(&plan) && slow.may_take_over(&plan));
    assert!(slow.begin_rewrite(&plan).unwrap().is_none());
    assert!(rewrite(&slow, &first) && rewrite(&slow, &plan));
    let seal = |log: &Log| log.manifest(plan.next).unwrap();
    assert_eq!(seal(&slow), seal(&quick));
    for suffix in ["store", "index", "seal"] {
        let path = Path::new(DIR).join(format!("{:020}-{:020}.{suffix}", 0, 1001));
        let bytes = |disk: &MemoryDisk| {
            let file = disk.open(&path).unwrap();
            file.read_at(0, file.len().unwrap() as usize).unwrap()
        };
        assert_eq!(bytes(&one), bytes(&two), "{suffix}");
    }
    assert!(
        quick.is_rewritten(&plan_of(&slow, 1000, 0, 1)),
        "by a later one"
    );
    // A third one takes it over.
    let three = MemoryDisk::default();
    let staging = Path::new(DIR).join("staging");
    let seals = slow.manifest(Index(entries.len() as u64)).unwrap();
    copy_rewritten(&slow, Arc::new(three.clone()), &staging, &seals[0]);
    assert!(is_copied(&three, &staging, &seals[0]).unwrap());
    let (late, _) = with_dead(&three, &entries);
    assert!(late.may_take_over(&plan));
    // Without its own seal nobody knows which logs are in it: then the old segments stay.
    let of_copy = staging.join(format!("{:020}-{:020}.seal", 0, 1001));
    three.corrupt(&of_copy, |bytes| bytes[70] ^= 1);
    late.take_over(&seals[0], &staging).unwrap_err();
    assert_eq!(all(&late), all(&quick));
    assert!(!late.is_rewritten(&plan));
    three.corrupt(&of_copy, |bytes| bytes[70] ^= 1);
    assert!(late.take_over(&seals[0], &staging).unwrap());
    assert_eq!(seal(&late), seal(&quick));
    assert_eq!(all(&late), all(&quick));
}

/// A node that rewrites may get a snapshot with the segment that it is about to make.
#[test]
fn what_a_snapshot_brings_stays_whatever_becomes_of_the_nodes_own_rewriting() {
    let entries = entries(60);
    let (one, two) = (MemoryDisk::default(), MemoryDisk::default());
    let (whole, checkpoint) = with_dead(&one, &entries);
    let plan = plan_of(&whole, 1000, 0, 3);
    assert!(rewrite(&whole, &plan));
    let seals = whole.manifest(Index(entries.len() as u64)).unwrap();
    let names: Vec<_> = seals.iter().map(Seal::name).collect();
    for ends in 0..4 {
        let disk = two.kill();
        let (log, _) = with_dead(&disk, &entries);
        let adopt = || {
            let staging = Path::new(DIR).join("staging");
            copy_rewritten(&whole, Arc::new(disk.clone()), &staging, &seals[0]);
            let adopted = log.adopt(&staging, &names, Floor::default(), &checkpoint);
            adopted.unwrap();
        };
        let mut rewriting = log.begin_rewrite(&plan).unwrap().unwrap();
        while rewriting.step().unwrap().is_some() {}
        match ends {
            0 => {
                adopt();
                drop(rewriting);
            }
            1 => {
                adopt();
                assert!(rewriting.finish().is_err());
            }
            2 => {
                let rewritten = rewriting.finish().unwrap();
                adopt();
                assert!(!log.swap(&rewritten).unwrap());
            }
            _ => {
                let rewritten = rewriting.finish().unwrap();
                adopt();
                log.forget_rewriting(&rewritten).unwrap();
            }
        }
        assert_eq!((log.damaged().len(), all(&log)), (0, all(&whole)), "{ends}");
        log.close();
        let (log, _) = open(&disk, Some(checkpoint.clone())).unwrap();
        assert_eq!((log.damaged().len(), all(&log)), (0, all(&whole)), "{ends}");
    }
}

#[test]
fn whoever_found_records_in_the_old_segments_reads_them_from_the_new_one() {
    let disk = MemoryDisk::default();
    let (log, _) = with_dead(&disk, &entries(100));
    let expected = log.read(LogId(3), Offset(4), 300).unwrap();
    let found = log.find(LogId(3), Offset(4), 300).unwrap();
    let stretch = look(&log, Position(0), &Wanted::These(&[LogId(3)])).unwrap();
    let several = log.find_stretch(&stretch, 300).unwrap();
    assert!(!found.in_memory() && !several.in_memory());
    assert!(rewrite(&log, &plan_of(&log, 1000, 0, 9)));
    let read = log.read_found(found, 300).unwrap();
    assert_eq!(read.stored[0].from, Offset(4));
    assert_eq!(log.read(LogId(3), Offset(4), 300).unwrap(), expected);
    // A reader of several logs is told of nothing, and looks again.
    for stale in [several, log.find_stretch(&stretch, 300).unwrap()] {
        assert!(log.read_found(stale, 300).unwrap().stored.is_empty());
    }
    assert!(log.damaged().is_empty());
}

/// Its batches stand log by log, and so in another order than its rows.
#[test]
fn what_was_removed_is_freed_a_piece_at_a_time_once_nobody_reads_it() {
    let disk = MemoryDisk::default();
    let (log, _) = with_dead(&disk, &entries(240));
    let plan = plan_of(&log, 1000, 0, 3);
    let len = |one: &SegmentInfo| {
        let paths = Paths::new(Path::new(DIR), one.name);
        disk.len_of(&paths.store).unwrap()
    };
    let bytes: u64 = log.segments().iter().take(3).map(len).sum();
    let another = Rewrite {
        at: Index(1001),
        ..plan.clone()
    };
    let reader = log.begin_rewrite(&another).unwrap();
    assert!(rewrite(&log, &plan));
    assert_eq!(log.free_some(), None, "somebody reads them");
    drop(reader);
    let held = disk.files_open().0;
    let pieces: Vec<_> = std::iter::from_fn(|| log.free_some()).collect();
    assert_eq!(pieces.iter().sum::<u64>(), bytes);
    assert!(pieces.iter().all(|piece| *piece <= 64), "{pieces:?}");
    assert_eq!(disk.files_open().0, held - 3);
    // Of more segments at once, some go as a whole.
    let segments = log.segments();
    let sealed = segments.iter().filter(|one| one.next_position.is_some());
    let count = sealed.count();
    assert!(count > 2 * REMAINS_MAX, "{count}");
    let bytes: u64 = segments.iter().take(count).map(len).sum();
    assert!(rewrite(&log, &plan_of(&log, 1002, 0, count)));
    let freed: u64 = std::iter::from_fn(|| log.free_some()).sum();
    assert!(0 < freed && freed < bytes, "{freed} of {bytes}");
}

#[test]
fn no_more_is_read_of_a_rewritten_segment_than_the_batches() {
    const BATCHES: u64 = 400;
    let config = Config {
        segment_bytes_max: 1 << 20,
        index_bytes_max: 1 << 20,
        tail_cache_bytes_max: 0,
        inline_io: true,
        ..Config::default()
    };
    let disk = Arc::new(MemoryDisk::default());
    let (log, _) = Log::open(disk, Path::new(DIR), config, Floor::default(), None).unwrap();
    let mut made: Vec<_> = (0..BATCHES)
        .map(|index| {
            let mut batch = BatchBuilder::of(LogId((index % 8) as u32), None);
            batch.push(&[index as u8; 1 << 10], 0, 0);
            let payload = join([batch.finish()].iter(), None);
            entry(1, index, Kind::Records, payload)
        })
        .collect();
    made.push(Entry::roll(Term(1), Index(BATCHES), Index(0)));
    for entry in made {
        append(&log, vec![entry.clone()]);
        publish(&log, &entry);
    }
    log.sync_index().unwrap();
    log.seal_covered(Index(BATCHES)).unwrap();
    assert!(rewrite(&log, &plan_of(&log, 1000, 0, 1)));

    // The last batches of a look may be left to a second read.
    let is_close = |read: usize, records: u64| {
        let all = records as usize * 1024;
        assert!(
            (all * 9 / 10..all * 5 / 4).contains(&read),
            "{read} of {all}"
        );
    };
    // What is held of a batch counts with it.
    let found = log.find(LogId(2), Offset(0), 16 << 10).unwrap();
    is_close(found.bytes(), 15);
    let all: Vec<_> = (0..8).map(LogId).collect();
    for logs in [&[LogId(2)][..], &[LogId(3), LogId(6)], &all] {
        let (mut from, mut read) = (Position(0), 0);
        while from < log.positions().1 {
            let stretch = look(&log, from, &Wanted::These(logs)).unwrap();
            read += log.find_stretch(&stretch, usize::MAX).unwrap().bytes();
            from = stretch.passed();
        }
        is_close(read, BATCHES / 8 * logs.len() as u64);
    }
}
