//! Tests of damage around rewriting: what was rewritten is mended, and mends what was not.

use super::*;
use crate::log::format::files::Paths;

/// Right after a start of all nodes, those that follow may hold entries that they have not applied yet.
#[test]
fn entries_of_a_node_without_rows_mend_a_store_beside_its_own() {
    let entries = entries(30);
    let (one, two) = (MemoryDisk::default(), MemoryDisk::default());
    let (log, checkpoint) = with_dead(&one, &entries);
    let (before, seal) = (all(&log), log.manifest(Index(10)).unwrap()[1].clone());
    log.close();
    let (other, _) = open(&two, None).unwrap();
    append(&other, entries.clone());
    assert!(other.rows(seal.base, seal.next_index()).unwrap().is_empty());
    for is_index_whole in [true, false] {
        let rotten = one.kill();
        let file = |suffix| Path::new(DIR).join(format!("{:020}.{suffix}", seal.base.0));
        rotten.corrupt(&file("store"), |bytes| bytes[60] ^= 4);
        let (log, _) = open(&rotten, Some(checkpoint.clone())).unwrap();
        let mut scrub = log.scrub(seal.base).unwrap();
        while scrub.step().is_ok_and(|bytes| bytes > 0) {}
        assert_eq!(log.damaged().len(), 1);
        if !is_index_whole {
            rotten.corrupt(&file("index"), |bytes| bytes[70] ^= 4);
        }
        let repair = Path::new(DIR).join("repair");
        let mut rows = log.kept_rows(&seal).unwrap().unwrap();
        let mut copied = || {
            let mut copy = SegmentCopy::new(Arc::new(rotten.clone()), &repair, &seal)?;
            for entry in other.entries(seal.base, seal.next_index(), usize::MAX)? {
                copy.add(&entry, &rows.up_to(entry.index)?)?;
            }
            copy.finish()
        };
        let copied = copied();
        assert_eq!(copied.is_ok(), is_index_whole, "{copied:?}");
        if is_index_whole {
            log.replace(&seal, &repair).unwrap();
            assert_eq!((log.damaged().len(), all(&log)), (0, before.clone()));
        } else {
            // A repair that failed halfway has put it aside: there are no rows to build on, and that is no fault.
            rotten.remove(&file("index")).unwrap();
            assert!(log.kept_rows(&seal).unwrap().is_none());
        }
    }
}

#[test]
fn what_lives_of_a_segment_is_not_asked_for_ever_where_its_rows_are_lost() {
    let disk = MemoryDisk::default();
    let (log, checkpoint) = with_dead(&disk, &entries(30));
    log.close();
    let rotten = disk.kill();
    let index = Path::new(DIR).join(format!("{:020}.index", 5));
    rotten.corrupt(&index, |bytes| bytes[3] ^= 4);
    let (log, _) = open(&rotten, Some(checkpoint)).unwrap();
    assert!(log.live(Index(0)).unwrap().is_some());
    assert_eq!(log.live(Index(5)).unwrap(), None);
    assert_eq!(log.damaged().len(), 1);
}

/// The others have rewritten what is damaged here, so nobody has a copy of the damaged segment any more.
#[test]
fn what_another_node_rewrote_takes_the_place_of_a_damaged_segment() {
    let entries = entries(60);
    let (one, two) = (MemoryDisk::default(), MemoryDisk::default());
    let (whole, _) = with_dead(&one, &entries);
    let (log, checkpoint) = with_dead(&two, &entries);
    log.close();
    let rotten = two.kill();
    let store = Path::new(DIR).join(format!("{:020}.store", 5));
    rotten.corrupt(&store, |bytes| bytes[60] ^= 4);
    let (log, _) = open(&rotten, Some(checkpoint.clone())).unwrap();
    let mut scrub = log.scrub(Index(5)).unwrap();
    while scrub.step().is_ok_and(|bytes| bytes > 0) {}
    let damaged = log.damaged();
    assert_eq!(damaged.len(), 1);
    assert_eq!(whole.rewritten_at(damaged[0].seal.base), None);
    assert!(rewrite(&whole, &plan_of(&whole, 1000, 0, 3)));
    let seal = whole.rewritten_at(damaged[0].seal.base).unwrap();
    assert_eq!(whole.rewritten_at(seal.next_index()), None);
    let repair = Path::new(DIR).join("repair");
    copy_rewritten(&whole, Arc::new(rotten.clone()), &repair, &seal);
    let pin = log.pin();
    assert!(!log.take_over(&seal, &repair).unwrap(), "it is pinned");
    drop(pin);
    let other = Seal {
        next_position: Position(seal.next_position.0 + 1),
        ..seal.clone()
    };
    assert!(
        !log.take_over(&other, &repair).unwrap(),
        "it ends elsewhere"
    );
    assert!(log.take_over(&seal, &repair).unwrap());
    assert!(!log.take_over(&seal, &repair).unwrap(), "it is there");
    assert_eq!((log.damaged().len(), all(&log)), (0, all(&whole)));
    log.close();
    let (log, _) = open(&rotten, Some(checkpoint)).unwrap();
    assert_eq!(all(&log), all(&whole));
    let found = verify::verify(&rotten, Path::new(DIR), None, &|_| {}).unwrap();
    assert!(found.is_sound(), "{:?}", found.findings);
}

/// A store that is gone is no reason not to ask others for it.
#[test]
fn rows_are_not_made_from_a_store_that_is_gone() {
    let disk = MemoryDisk::default();
    let (log, _) = with_dead(&disk, &entries(30));
    let seal = log.manifest(Index(30)).unwrap().remove(0);
    let store = Path::new(DIR).join(format!("{:020}.store", 0));
    disk.remove(&store).unwrap();
    assert!(!log.derive_index(&seal).unwrap());
}

#[test]
fn rot_in_a_rewritten_segment_is_found_and_mended() {
    let disk = MemoryDisk::default();
    let (log, checkpoint) = with_dead(&disk, &entries(60));
    assert!(rewrite(&log, &plan_of(&log, 1000, 0, 5)));
    let seal = log.manifest(Index(25)).unwrap()[0].clone();
    log.close();
    let reopened = |disk: &MemoryDisk| open(disk, Some(checkpoint.clone())).unwrap().0;
    rot_is_mended(&disk, &seal, 7, reopened, all);
}

/// The first segment, which was rewritten, with one byte of its files flipped, in turn: nothing wrong is read, the whole is
/// marked, verify tells, and a copy of another node mends it.
pub fn rot_is_mended<T: PartialEq + std::fmt::Debug>(
    disk: &MemoryDisk,
    seal: &Seal,
    step: usize,
    reopened: impl Fn(&MemoryDisk) -> Log,
    all: impl Fn(&Log) -> T,
) {
    let verified = |disk: &MemoryDisk| verify::verify(disk, Path::new(DIR), None, &|_| {}).unwrap();
    let before = all(&reopened(disk));
    let paths = Paths::new(Path::new(DIR), seal.name());
    for at in (32..seal.end as usize).step_by(step) {
        let rotten = disk.kill();
        rotten.corrupt(&paths.store, |bytes| bytes[at] ^= 4);
        let found = verified(&rotten);
        assert!(!found.is_sound(), "byte {at}");
        let log = reopened(&rotten);
        if at % 2 == 0 {
            let mut scrub = log.scrub(Index(0)).unwrap();
            while scrub.step().is_ok_and(|bytes| bytes > 0) {}
        } else {
            // Whoever takes a copy could not tell this node what is wrong with it.
            let mut next = seal.base;
            while let Ok((bytes, behind)) = log.store_part(seal.name(), next, 300)
                && !bytes.is_empty()
            {
                next = behind;
            }
        }
        let damaged = log.damaged();
        let what = &found.findings[0].what;
        if damaged.is_empty() && matches!(what, verify::What::Filling { .. }) {
            // Nobody reads the filling behind a frame.
            continue;
        }
        assert_eq!(damaged.len(), 1, "byte {at}");
        assert_eq!(damaged[0].damage, Damage::Store, "byte {at}");
        // Another node's copy takes its place.
        let whole = reopened(disk);
        let repair = Path::new(DIR).join("repair");
        copy_rewritten(&whole, Arc::new(rotten.clone()), &repair, &damaged[0].seal);
        log.replace(&damaged[0].seal, &repair).unwrap();
        assert_eq!(all(&log), before, "byte {at}");
    }
    for path in [&paths.index, &paths.seal] {
        let rotten = disk.kill();
        rotten.corrupt(path, |bytes| bytes[70] ^= 4);
        assert!(!verified(&rotten).is_sound(), "{path:?}");
        let log = reopened(&rotten);
        let mut scrub = log.scrub(Index(0)).unwrap();
        while scrub.step().is_ok_and(|bytes| bytes > 0) {}
        for damaged in log.damaged() {
            assert!(log.derive_index(&damaged.seal).unwrap(), "{path:?}");
        }
        assert_eq!(all(&log), before, "{path:?}");
        let found = verified(&rotten);
        assert!(found.is_sound(), "{path:?}: {:?}", found.findings);
    }
}

/// Records may be missing by a fault alone, in segments that were rewritten: in a log that was never compacted that is
/// damage, and no reader goes on behind it.
#[test]
fn what_nothing_removed_is_not_passed_over() {
    const LOG: LogId = LogId(0);
    for has_gaps in [true, false] {
        let (log, _) = with_dead(&MemoryDisk::default(), &entries(100));
        let mut plan = plan_of(&log, 1000, 2, 3);
        plan.firsts.insert(LOG, Offset(u64::MAX));
        assert!(rewrite(&log, &plan));
        if has_gaps {
            log.may_have_gaps(LOG);
        }
        let (passed, failed) = passed_over(&log, LOG);
        assert_eq!((passed > 0, failed > 0), (has_gaps, !has_gaps));
        assert_eq!(log.damaged().is_empty(), has_gaps);
    }
}

/// Reads from each offset of a log: how often another record came first, and how often none for damage.
pub fn passed_over(log: &Log, id: LogId) -> (usize, usize) {
    let (first, next) = log.offsets(id);
    let (mut passed, mut failed) = (0, 0);
    for at in (first.0..next.0).map(Offset) {
        match log.read(id, at, 400) {
            Ok(records) => {
                let follows = |two: &[Record]| two[1].offset.0 == two[0].offset.0 + 1;
                let is_whole = records[0].offset == at && records.windows(2).all(follows);
                passed += usize::from(!is_whole);
            }
            Err(Error::Damaged { .. } | Error::Malformed(_)) => failed += 1,
            Err(error) => panic!("{error}"),
        }
    }
    (passed, failed)
}
