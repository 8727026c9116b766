//! Tests of records that are gone from the midst of logs: what lives can be read as before, from every offset.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use proptest::prelude::*;

use super::rewriting::{passed_over, plan_of, rewrite, rot_is_mended};
use super::*;
use crate::batch::{self, Compression};
use crate::env::Random;
use crate::log::compaction::GoneWriter;
use crate::log::format::record::{Conditions, packed};
use crate::log::fuzzing::copy::copy_rewritten;

const LOGS: u32 = 3;
/// The log whose records all stay.
const KEPT: LogId = LogId(0);
const ENTRIES: u64 = 84;

/// A record as it can be read: where it stands, its key and its value.
type Seen = BTreeMap<(LogId, Offset), (Position, Option<Bytes>, Bytes)>;

fn keyed(log: u32, compression: Compression, records: impl Iterator<Item = u64>) -> Bytes {
    let mut builder = batch::Builder::default();
    for number in records {
        let key = (number % 5 > 0).then(|| Bytes::from((number % 13).to_string()));
        builder.push(&batch::Record {
            key,
            ..batch::Record::new(format!("value {number}"))
        });
    }
    let (records, count) = builder.take();
    let records = batch::compress(&records, compression).unwrap();
    let conditions = Conditions::default();
    packed(LogId(log), None, &conditions, compression, count, &records)
}

/// A log of batches with keys, sealed as far as it goes.
fn filled(disk: &MemoryDisk) -> (Log, Checkpoint) {
    let (log, _) = open(disk, None).unwrap();
    let mut rolled = Index(0);
    for index in 0..ENTRIES {
        let made = if index % 7 == 6 {
            let roll = Entry::roll(Term(1), Index(index), rolled);
            rolled = Index(index + 1);
            roll
        } else {
            let all = [Compression::None, Compression::Lz4, Compression::Zstd];
            let compression = all[index as usize % 3];
            let batch = |number: u64| {
                let log = ((index + number) % u64::from(LOGS)) as u32;
                let first = index * 31 + number * 17;
                keyed(
                    log,
                    compression,
                    (first..).step_by(3).take(1 + index as usize % 6),
                )
            };
            let batches: Vec<_> = (0..1 + index % 2).map(batch).collect();
            entry(1, index, Kind::Records, join(batches.iter(), Some(5)))
        };
        append(&log, vec![made.clone()]);
        publish(&log, &made);
    }
    log.trim(LogId(1), Offset(9));
    (1..LOGS).for_each(|id| log.may_have_gaps(LogId(id)));
    log.sync_index().unwrap();
    let checkpoint = log.checkpoint_at(Index(ENTRIES - 1));
    log.seal_covered(checkpoint.applied).unwrap();
    (log, checkpoint)
}

/// All that can be read, in the order of positions.
fn seen(log: &Log) -> Seen {
    let (mut from, mut seen) = (Position(0), Seen::new());
    while from < log.positions().1 {
        let found = look(log, from, &Wanted::Those(&|_| true)).unwrap();
        let read = log.find_stretch(&found, usize::MAX).unwrap();
        for stored in log.read_found(read, usize::MAX).unwrap().stored {
            assert_eq!(stored.timestamp_ms, 5, "it keeps its time");
            for (record, number) in batch::records(&stored.plain().unwrap()).zip(0..) {
                let record = record.unwrap();
                let at = Offset(stored.first.0 + number);
                let position = Position(stored.position.0 + number);
                if at >= stored.from {
                    seen.insert((stored.log, at), (position, record.key, record.value));
                }
            }
        }
        from = found.passed().max(Position(from.0 + 1));
    }
    seen
}

/// The positions of records that later ones of their keys stand for.
fn superseded(seen: &Seen) -> BTreeSet<Position> {
    let mut last = BTreeMap::new();
    let mut gone = BTreeSet::new();
    for ((log, _), (position, key, _)) in seen {
        if *log == KEPT {
            continue;
        }
        if let Some(key) = key
            && let Some(before) = last.insert((*log, key), *position)
        {
            gone.insert(before);
        }
    }
    gone
}

fn plan(log: &Log, at: u64, (from, count): (usize, usize), gone: &BTreeSet<Position>) -> Rewrite {
    let mut writer = GoneWriter::default();
    gone.iter().for_each(|position| writer.push(*position));
    Rewrite {
        compacted: (1..LOGS).map(LogId).collect(),
        gone: writer.finish(),
        ..plan_of(log, at, from, count)
    }
}

/// From every offset the next record that lives is read, and those behind it.
fn check(log: &Log, expected: &Seen) {
    assert_eq!(&seen(log), expected);
    for id in (0..LOGS).map(LogId) {
        let (first, next) = log.offsets(id);
        let living: Vec<_> = expected.range((id, first)..(id, next)).collect();
        for at in (first.0..next.0).map(Offset) {
            let rest = living.partition_point(|((_, offset), _)| *offset < at);
            let read = log.read(id, at, 120).unwrap();
            assert!(!read.is_empty());
            for (record, ((_, offset), (_, _, value))) in read.iter().zip(&living[rest..]) {
                assert_eq!(
                    (record.offset, &record.value),
                    (*offset, value),
                    "{id} {at}"
                );
            }
        }
        let end = log.find(id, next, 1).err().unwrap();
        assert!(matches!(end, Error::OutOfRange { .. }), "{end}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_lives_is_read_from_every_offset(
        plans in prop::collection::vec((0..9_usize, 1..9_usize, any::<u16>()), 1..4),
    ) {
        let disk = MemoryDisk::default();
        let (log, checkpoint) = filled(&disk);
        let mut expected = seen(&log);
        check(&log, &expected);
        for (number, (from, count, mask)) in plans.into_iter().enumerate() {
            let sealed = log.segments().into_iter().filter(|one| one.next_position.is_some());
            let sealed: Vec<_> = sealed.collect();
            let from = from % sealed.len();
            let until = sealed[(from + count).min(sealed.len()) - 1].next_position.unwrap();
            let begins = from.checked_sub(1).map_or(Position(0), |last| {
                sealed[last].next_position.unwrap()
            });
            // Not all of them, in any order.
            let mut gone = superseded(&expected);
            gone.retain(|position| mask >> (position.0 % 16) & 1 == 0);
            let plan = plan(&log, 1000 + number as u64, (from, count), &gone);
            prop_assert!(rewrite(&log, &plan));
            let within = begins..until;
            expected.retain(|_, (position, _, _)| {
                !within.contains(position) || !gone.contains(position)
            });
            check(&log, &expected);
        }
        log.close();
        let (log, opened) = open(&disk, Some(checkpoint)).unwrap();
        (1..LOGS).for_each(|id| log.may_have_gaps(LogId(id)));
        prop_assert!(opened.rows_hold);
        check(&log, &expected);
        let found = verify::verify(&disk, Path::new(DIR), None, &|_| {}).unwrap();
        prop_assert!(found.is_sound(), "{:?}", found.findings);
    }
}

/// The same in the midst of a segment, and of what was a batch.
#[test]
fn a_gap_in_a_log_that_was_never_compacted_is_damage() {
    let disk = MemoryDisk::default();
    let (log, checkpoint) = filled(&disk);
    let gone = superseded(&seen(&log));
    assert!(rewrite(&log, &plan(&log, 1000, (0, 9), &gone)));
    let (passed, failed) = passed_over(&log, LogId(2));
    assert!(passed > 0 && failed == 0, "{passed} {failed}");
    log.close();
    // Nobody says of it that it was compacted.
    let (log, _) = open(&disk, Some(checkpoint)).unwrap();
    let (passed, failed) = passed_over(&log, LogId(2));
    assert!(passed == 0 && failed > 0, "{passed} {failed}");
}

#[test]
fn a_compacted_segment_is_the_same_on_every_node_and_smaller() {
    let disks = [MemoryDisk::default(), MemoryDisk::default()];
    let logs = disks.each_ref().map(|disk| filled(disk).0);
    let gone = superseded(&seen(&logs[0]));
    let stored = |log: &Log| {
        let all = (0..LOGS).map(LogId).collect();
        log.stored_bytes(&all).unwrap()
    };
    let before = stored(&logs[0]);
    let plan = plan(&logs[0], 1000, (0, 99), &gone);
    let size = logs[0].rewrite_size(&plan).unwrap().unwrap();
    for log in &logs {
        assert!(rewrite(log, &plan));
    }
    let seals = logs.each_ref().map(|log| log.manifest(plan.next).unwrap());
    assert_eq!(seals[0], seals[1]);
    let after = stored(&logs[0]);
    assert_eq!(after[&KEPT], before[&KEPT]);
    assert!(
        after[&LogId(1)] < before[&LogId(1)],
        "{after:?}, {before:?}"
    );
    // About what was to be expected: much less than there was.
    let (held, left): (u64, u64) = (before.values().sum(), after.values().sum());
    assert!(
        size.holds >= held && size.lives < size.holds * 3 / 4,
        "{size:?}"
    );
    assert!(
        size.lives / 2 < left && left < size.lives * 2,
        "{size:?}, {left} left"
    );
}

/// What a search finds.
fn searched(log: &Log, before: Index, tombstones_before_ms: u64) -> BTreeSet<Position> {
    searched_from(log, before, tombstones_before_ms, 0).0
}

/// What a search finds that is told about how many keys there are, and how many it meets.
fn searched_from(
    log: &Log,
    before: Index,
    tombstones_before_ms: u64,
    keys: u64,
) -> (BTreeSet<Position>, u64) {
    let bounds = Bounds {
        before_ms: u64::MAX,
        tombstones_before_ms,
    };
    let wanted = Superseded {
        logs: (1..LOGS).map(|log| (LogId(log), bounds)).collect(),
        before,
        keys,
    };
    let mut search = log.search(&wanted).unwrap();
    while search.step().unwrap().is_some() {}
    let mut gone = BTreeSet::new();
    for found in search.found().into_values() {
        let (mut within, mut runs) = (0..log.positions().1.0, found.gone.runs());
        let all: BTreeSet<_> = within.clone().collect();
        let mut lives = BTreeSet::new();
        while let Some(run) = runs.next_living(&mut within).unwrap() {
            lives.extend(run);
        }
        let of: Vec<_> = all.difference(&lives).copied().collect();
        assert_eq!(found.records, of.len() as u64);
        gone.extend(of.into_iter().map(Position));
    }
    (gone, search.keys())
}

/// A sealed segment of batches, each so many records of some keys with values of so many bytes that compress well.
fn compressible(disk: &MemoryDisk, batches: &[(u32, u64, usize, Compression)]) -> Log {
    let large = Config {
        segment_bytes_max: 1 << 20,
        index_bytes_max: 1 << 16,
        ..config()
    };
    let opened = Log::open(
        Arc::new(disk.clone()),
        Path::new(DIR),
        large,
        Floor::default(),
        None,
    );
    let log = opened.unwrap().0;
    for (index, (count, key, length, compression)) in (0..).zip(batches) {
        let mut builder = batch::Builder::default();
        for number in 0..u64::from(*count) {
            builder.push(&batch::Record {
                key: Some(((key + number * 3) % 17).to_string().into()),
                ..batch::Record::new(vec![b'a'; length * (1 + number as usize % 3)])
            });
        }
        let (records, count) = builder.take();
        let records = batch::compress(&records, *compression).unwrap();
        let conditions = Conditions::default();
        let batch = packed(LogId(1), None, &conditions, *compression, count, &records);
        let made = entry(1, index, Kind::Records, join([batch].iter(), Some(5)));
        append(&log, vec![made.clone()]);
        publish(&log, &made);
    }
    let roll = Entry::roll(Term(1), Index(batches.len() as u64), Index(0));
    append(&log, vec![roll.clone()]);
    publish(&log, &roll);
    log.may_have_gaps(LogId(1));
    log.sync_index().unwrap();
    let checkpoint = log.checkpoint_at(Index(batches.len() as u64));
    log.seal_covered(checkpoint.applied).unwrap();
    log
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// A leader decides by it, and what is left of a compressed batch may take more than the whole.
    #[test]
    fn what_is_left_takes_no_more_than_a_search_says(
        batches in prop::collection::vec(
            (
                1..12_u32,
                0..17_u64,
                0..200_usize,
                prop::sample::select(vec![Compression::None, Compression::Lz4, Compression::Zstd]),
            ),
            2..40,
        ),
        trimmed in prop_oneof![Just(0), 0..60_u64],
    ) {
        let disk = MemoryDisk::default();
        let log = compressible(&disk, &batches);
        log.trim(LogId(1), Offset(trimmed));
        let before = log.live(Index(0)).unwrap().unwrap().bytes;
        let bounds = Bounds { before_ms: u64::MAX, tombstones_before_ms: 0 };
        let until = Index(batches.len() as u64 + 1);
        let wanted = Superseded { logs: [(LogId(1), bounds)].into(), before: until, keys: 0 };
        let mut search = log.search(&wanted).unwrap();
        while search.step().unwrap().is_some() {}
        let found: Vec<_> = search.found().into_values().collect();
        prop_assert!(found.len() == 1 && found[0].bytes <= before);
        let plan = Rewrite {
            compacted: [LogId(1)].into(),
            gone: found[0].gone.clone(),
            ..plan_of(&log, 1000, 0, 1)
        };
        prop_assert!(rewrite(&log, &plan));
        let after = log.live(Index(0)).unwrap().unwrap().bytes;
        let most = before - found[0].bytes + found[0].more_bytes;
        prop_assert!(after <= most, "{after}, at most {most}, {before} before");
        if batches.iter().all(|(count, ..)| *count == 1) {
            prop_assert!(after + 5 * found[0].records >= most, "{after}, at most {most}");
        }
    }
}

#[test]
fn a_search_finds_what_later_records_stand_for_however_many_keys_fit() {
    let disk = MemoryDisk::default();
    let (log, _) = filled(&disk);
    let all = seen(&log);
    let expected = superseded(&all);
    assert!(expected.len() > 100);
    let (found, keys) = searched_from(&log, Index(ENTRIES), 0, 0);
    assert_eq!(found, expected);
    let of = all.iter().filter(|((log, _), _)| *log != KEPT);
    let of: BTreeSet<_> = of
        .filter_map(|((log, _), (_, key, _))| key.as_ref().map(|key| (*log, key)))
        .collect();
    assert_eq!(keys, of.len() as u64);
    // Whatever it is told of how many there are.
    for told in [1, keys, 3 * keys] {
        let found = searched_from(&log, Index(ENTRIES), 0, told);
        assert_eq!(found, (expected.clone(), keys));
    }
    // What is too young neither goes nor has others go.
    let half = log.segments()[5].next_index;
    let ends = log.segments()[5].next_position.unwrap();
    let old: Seen = all
        .into_iter()
        .filter(|(_, (position, ..))| *position < ends)
        .collect();
    assert_eq!(searched(&log, half, 0), superseded(&old));
    // Once that is gone, nothing more goes.
    assert!(rewrite(&log, &plan(&log, 1000, (0, 99), &expected)));
    assert!(searched(&log, Index(ENTRIES), 0).is_empty());
}

#[test]
fn a_walk_over_all_segments_leaves_the_maps_of_readers_and_no_others() {
    let disk = MemoryDisk::default();
    let (log, checkpoint) = filled(&disk);
    log.close();
    let log = reopened(&disk, &checkpoint);
    let maps = || -> Vec<_> {
        let state = log.0.state.read();
        let segments = state.segments.iter();
        segments
            .filter_map(|one| one.index.lazy().cloned())
            .collect()
    };
    let mapped = || -> Vec<_> { maps().iter().map(|one| one.is_loaded()).collect() };
    assert!(mapped().len() > 8 && !mapped().contains(&true));
    maps()[4].load_directory().unwrap();
    let of_reader = mapped();

    assert!(!searched(&log, Index(ENTRIES), 0).is_empty());
    assert_eq!(mapped(), of_reader);
    let mut scrub = log.scrub(Index(0)).unwrap();
    while scrub.step().unwrap() > 0 {}
    assert_eq!(mapped(), of_reader);

    // A reader that is in the midst of it keeps what it reads.
    let visit = log.visit(log.segments()[2].base);
    let held = maps().swap_remove(2);
    held.load().unwrap();
    drop(visit);
    assert!(mapped()[2] && !of_reader[2]);
}

/// The log of [`filled`], opened anew, as a node does whose state says which logs have gaps.
fn reopened(disk: &MemoryDisk, checkpoint: &Checkpoint) -> Log {
    let (log, opened) = open(disk, Some(checkpoint.clone())).unwrap();
    assert!(opened.rows_hold);
    log.trim(LogId(1), Offset(9));
    (1..LOGS).for_each(|id| log.may_have_gaps(LogId(id)));
    log
}

/// Superseded records of the first segments are given up, by this node or as a copy of what another one made; the power fails,
/// or the process is killed, before each write and sync of it.
fn compaction_is_cut_short(seed: u64, takes_over: bool) -> usize {
    let disk = MemoryDisk::default();
    let (log, checkpoint) = filled(&disk);
    let before = seen(&log);
    let mut gone = superseded(&before);
    gone.retain(|position| !(position.0 + seed).is_multiple_of(5));
    let plan = plan(&log, 1000, (0, 2 + seed as usize % 6), &gone);
    let twin = reopened(&disk.kill(), &checkpoint);
    assert!(rewrite(&twin, &plan));
    let (after, made) = (seen(&twin), twin.rewritten_at(plan.base).unwrap());
    assert!(after.len() < before.len());

    let (images, random) = (Arc::<Mutex<Vec<_>>>::default(), Random::seeded(seed));
    let (taken, source) = (images.clone(), disk.clone());
    disk.watch(move |event, _| {
        if event != Event::Read {
            let cut = source.crash_by(|| random.next_u128() as u64);
            taken.lock().extend([cut, source.kill()]);
        }
        Ok(())
    });
    if takes_over {
        let staging = Path::new(DIR).join("repair");
        copy_rewritten(&twin, Arc::new(disk.clone()), &staging, &made);
        assert!(log.take_over(&made, &staging).unwrap());
    } else {
        assert!(rewrite(&log, &plan));
    }
    assert_eq!(seen(&log), after);
    let images = std::mem::take(&mut *images.lock());
    let mut outcomes = [0, 0];
    for (number, image) in images.iter().enumerate() {
        let what = format!("seed {seed}, image {number}");
        let log = reopened(image, &checkpoint);
        let is_done = log.is_rewritten(&plan);
        outcomes[usize::from(is_done)] += 1;
        let expected = if is_done { &after } else { &before };
        assert_eq!(&seen(&log), expected, "{what}");
        assert!(is_done || rewrite(&log, &plan), "{what}");
        assert_eq!(seen(&log), after, "{what}");
        assert_eq!(log.rewritten_at(plan.base).unwrap(), made, "{what}");
        let found = verify::verify(image, Path::new(DIR), None, &|_| {}).unwrap();
        assert!(found.is_sound(), "{what}: {:?}", found.findings);
    }
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
    // Nothing that was done may be undone by a power cut.
    let log = reopened(&disk.crash(), &checkpoint);
    assert_eq!(seen(&log), after);
    images.len()
}

#[test]
fn a_power_cut_at_any_disk_operation_of_a_compaction_leaves_all_or_none_of_it() {
    let points: usize = (0..6)
        .map(|seed| compaction_is_cut_short(seed, seed % 3 == 2))
        .sum();
    assert!(points > 100, "{points}");
}

#[test]
fn rot_in_a_compacted_segment_is_found_and_mended() {
    let disk = MemoryDisk::default();
    let (log, checkpoint) = filled(&disk);
    let gone = superseded(&seen(&log));
    let plan = plan(&log, 1000, (0, 3), &gone);
    assert!(rewrite(&log, &plan));
    let seal = log.manifest(plan.next).unwrap()[0].clone();
    log.close();
    rot_is_mended(&disk, &seal, 17, |disk| reopened(disk, &checkpoint), seen);
}
