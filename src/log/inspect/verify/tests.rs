//! Every kind of damage is found, in the file where it is, and nothing else is called damage.

use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::disk::memory::MemoryDisk;
use crate::log::Log;
use crate::log::format::files;
use crate::log::format::files::Paths;
use crate::log::tests::fixture::{config, look, make};

const DIR: &str = "/log";

fn paths(base: u64) -> Paths {
    Paths::new(Path::new(DIR), Index(base))
}

fn bases(disk: &MemoryDisk) -> Vec<u64> {
    let bases = files::bases(disk, Path::new(DIR)).unwrap();
    bases.into_iter().map(|base| base.0).collect()
}

/// The files that are damaged, and what is found first in each.
fn damaged(report: &Report) -> Vec<(PathBuf, What)> {
    let damage = report
        .findings
        .iter()
        .filter(|found| found.what.is_damage());
    damage
        .map(|found| (found.path.clone(), found.what.clone()))
        .collect()
}

/// Makes a fixture, does something to it, and gives what is damaged then.
fn after(name: &str, harm: impl FnOnce(&MemoryDisk)) -> Vec<(PathBuf, What)> {
    let fixture = make(name);
    harm(&fixture.disk);
    damaged(&look(&fixture.disk, &fixture.bounds))
}

fn flip(disk: &MemoryDisk, path: &Path, at: usize, bit: usize) {
    disk.corrupt(path, |bytes| bytes[at] ^= 1 << bit);
}

fn len(disk: &MemoryDisk, path: &Path) -> usize {
    usize::try_from(disk.open(path).unwrap().len().unwrap()).unwrap()
}

#[test]
fn every_flip_in_a_sealed_segment_is_found_in_its_file() {
    let fixture = make("sealed");
    let bases = bases(&fixture.disk);
    assert!(bases.len() > 3, "{bases:?}");
    for path in paths(bases[1]).all() {
        for at in (0..len(&fixture.disk, path)).step_by(5).chain(0..40) {
            flip(&fixture.disk, path, at, at % 8);
            let found = damaged(&look(&fixture.disk, &fixture.bounds));
            assert!(!found.is_empty(), "{} at {at}", path.display());
            assert!(
                found.iter().all(|(file, _)| file == path),
                "{at}: {found:?}"
            );
            flip(&fixture.disk, path, at, at % 8);
        }
    }
    assert!(look(&fixture.disk, &fixture.bounds).is_sound());
}

#[test]
fn a_flip_in_an_open_segment_is_judged_as_a_start_judges_it() {
    let mut refused = 0;
    for (name, covered) in [
        ("clean", true),
        ("stale-index", true),
        ("stale-index", false),
    ] {
        let mut fixture = make(name);
        fixture.bounds.checkpoint = fixture.bounds.checkpoint.take().filter(|_| covered);
        let open = || {
            let disk: Arc<dyn Disk> = Arc::new(fixture.disk.crash_by(|| 1));
            let (bounds, dir) = (&fixture.bounds, Path::new(DIR));
            Log::open(disk, dir, config(), bounds.floor, bounds.checkpoint.clone())
        };
        let whole = open().unwrap().0.all_ends();
        let path = paths(0).store;
        for at in (0..len(&fixture.disk, &path)).step_by(11).chain(0..40) {
            flip(&fixture.disk, &path, at, at % 8);
            let found = look(&fixture.disk, &fixture.bounds);
            match open() {
                Err(error) => {
                    refused += 1;
                    assert!(!found.is_sound(), "{name} at {at}: a start says {error}");
                }
                // A start does not look at what holds nothing, such as filling.
                Ok((log, _)) => assert_eq!(log.all_ends(), whole, "{name} at {at}"),
            }
            flip(&fixture.disk, &path, at, at % 8);
        }
    }
    assert!(refused > 300, "{refused}");
}

#[test]
fn missing_and_short_files_are_named() {
    let base = bases(&make("sealed").disk)[1];
    let Paths { store, index, seal } = paths(base);

    let found = after("sealed", |disk| disk.remove(&store).unwrap());
    assert_eq!(found, [(store.clone(), What::StoreMissing)]);
    let found = after("sealed", |disk| disk.remove(&index).unwrap());
    assert_eq!(found, [(index.clone(), What::IndexMissing)]);
    let found = after("sealed", |disk| {
        disk.corrupt(&index, |bytes| bytes.truncate(96))
    });
    assert_eq!(found, [(index.clone(), What::Row { number: 2 })]);
    let found = after("sealed", |disk| {
        disk.corrupt(&store, |bytes| bytes.truncate(2000))
    });
    assert!(matches!(found[0], (_, What::StoreShort { len: 2000, .. })));
    assert!(found.iter().all(|(path, _)| *path == store), "{found:?}");

    let found = after("sealed", |disk| {
        for path in [&store, &index, &seal] {
            disk.remove(path).unwrap();
        }
    });
    assert!(matches!(found[0].1, What::Gap { expected, .. } if expected.0 == base));

    // Without its seal a segment is read as an open one, and is whole.
    assert_eq!(after("sealed", |disk| disk.remove(&seal).unwrap()), []);
}

#[test]
fn a_lost_end_is_found() {
    let base = *bases(&make("clean").disk).last().unwrap();
    let Paths { store, index, .. } = paths(base);
    let found = after("clean", |disk| disk.remove(&store).unwrap());
    assert!(
        found.contains(&(index, What::RowsWithoutStore)),
        "{found:?}"
    );
    let found = after("clean", |disk| {
        disk.corrupt(&store, |bytes| bytes.truncate(32))
    });
    assert!(
        matches!(found[..], [(_, What::LostTail { .. })]),
        "{found:?}"
    );
}

#[test]
fn another_seal_is_found() {
    let bases = bases(&make("sealed").disk);
    let (one, two) = (paths(bases[0]).seal, paths(bases[1]).seal);
    // The seal of another segment.
    let found = after("sealed", |disk| disk.rename(&two, &one).unwrap());
    assert_eq!(found, [(one.clone(), What::Seal)]);

    // A seal of the same segment as it was before, or elsewhere: whole, and not of these bytes.
    let fixture = make("sealed");
    let (mut seal, directory) = seal_of(&fixture.disk, bases[1]);
    seal.entries_digest ^= 1;
    seal.sealed_ms += 1;
    seal.write(&fixture.disk, &two, &directory).unwrap();
    let found = damaged(&look(&fixture.disk, &fixture.bounds));
    let what = "the digest of the entries is another";
    assert_eq!(found, [(two, What::SealDiffers(what))]);
}

fn seal_of(disk: &MemoryDisk, base: u64) -> (crate::log::Seal, Vec<u8>) {
    let path = paths(base).seal;
    let seal = crate::log::Seal::read(disk, &path, Index(base));
    let seal = seal.unwrap().unwrap();
    let (begins, bytes) = (seal.directory_at() as u64, seal.directory().bytes());
    let directory = disk.open(&path).unwrap().read_at(begins, bytes);
    (seal, directory.unwrap())
}

/// Each part of it checks, and says that a log has rows which it does not have.
#[test]
fn a_directory_that_is_not_that_of_its_rows_is_found() {
    use crate::log::format::directory::{Builder, mend};
    let fixture = make("sealed");
    let base = bases(&fixture.disk)[1];
    let path = paths(base).seal;
    let (seal, made) = seal_of(&fixture.disk, base);
    let rows = read_rows(&fixture.disk, &paths(base).index, Index(base));
    let mut rows = rows.unwrap().unwrap().rows;
    let other = rows.iter().rposition(|row| row.log != rows[0].log).unwrap();
    (rows[0].log, rows[other].log) = (rows[other].log, rows[0].log);
    let mut builder = Builder::default();
    rows.iter().for_each(|row| builder.push(row, 100));
    let wrong = builder.finish(seal.base, seal.rows_digest, seal.next_position);
    let wrong_seal = seal.with(&wrong);
    wrong_seal
        .write(&fixture.disk, &path, &wrong.bytes)
        .unwrap();
    let found = damaged(&look(&fixture.disk, &fixture.bounds));
    assert_eq!(found, [(path.clone(), What::Directory)]);

    // And one number of one log alone.
    for at in [4, 8, 12, 16, 24] {
        let mut wrong = made.clone();
        wrong[at] ^= 1;
        mend(&mut wrong, &seal.directory());
        seal.write(&fixture.disk, &path, &wrong).unwrap();
        let found = damaged(&look(&fixture.disk, &fixture.bounds));
        assert_eq!(found, [(path.clone(), What::Directory)], "byte {at}");
    }
    seal.write(&fixture.disk, &path, &made).unwrap();
    assert!(look(&fixture.disk, &fixture.bounds).is_sound());
}

/// I4.
#[test]
fn the_stable_store_is_held_against_the_segments() {
    let fixture = make("clean");
    let judge = |change: &dyn Fn(&mut Bounds)| {
        let mut bounds = fixture.bounds.clone();
        change(&mut bounds);
        damaged(&look(&fixture.disk, &bounds))
    };
    let covered = fixture.bounds.checkpoint.clone().unwrap();
    let with = |change: &dyn Fn(&mut Checkpoint)| {
        let mut changed = covered.clone();
        change(&mut changed);
        judge(&|bounds| bounds.checkpoint = Some(changed.clone()))
    };
    assert_eq!(judge(&|_| ()), []);
    let found = with(&|covered| covered.applied = Index(40));
    assert!(
        matches!(found[..], [(_, What::LostTail { .. })]),
        "{found:?}"
    );
    let found = with(&|covered| {
        let logs = Arc::make_mut(&mut covered.logs);
        logs.entry(crate::log::LogId(0)).or_default().first = crate::log::Offset(1 << 20);
    });
    assert!(matches!(found[..], [(_, What::Stable(_))]), "{found:?}");
    let found = judge(&|bounds| bounds.committed = Some(Index(3)));
    assert!(matches!(found[..], [(_, What::Stable(_))]), "{found:?}");
    let found = judge(&|bounds| bounds.floor.index = Index(3));
    assert!(!found.is_empty(), "the log does not begin at its floor");

    // Rows that lead elsewhere are applied again, unless entries were given up.
    assert_eq!(with(&|covered| covered.next_position.0 += 1), []);
    let trimmed = make("trimmed");
    let mut bounds = trimmed.bounds.clone();
    bounds.checkpoint.as_mut().unwrap().next_position.0 += 1;
    let found = damaged(&look(&trimmed.disk, &bounds));
    assert!(matches!(found[..], [(_, What::RowsLost)]), "{found:?}");
}

#[test]
fn a_bare_directory_is_checked_by_itself() {
    let fixture = make("trimmed");
    let bare = |disk: &MemoryDisk| verify(disk, Path::new(DIR), None, &|_| {}).unwrap();
    let found = bare(&fixture.disk);
    assert_eq!(damaged(&found), []);
    assert!(found.segments.iter().any(|segment| segment.sealed));
    let path = paths(bases(&fixture.disk)[0]).index;
    flip(&fixture.disk, &path, 32 + 32 + 3, 1);
    assert_eq!(
        damaged(&bare(&fixture.disk)),
        [(path, What::Row { number: 1 })]
    );
}

#[test]
fn nothing_is_written() {
    for name in ["torn-tail", "cut", "stale-index", "sealed"] {
        let fixture = make(name);
        fixture.disk.watch(|event, path| match event {
            crate::disk::memory::Event::Read => Ok(()),
            event => panic!("{event:?} of {}", path.display()),
        });
        assert!(look(&fixture.disk, &fixture.bounds).is_sound());
    }
}

#[test]
fn a_whole_row_that_says_something_else_is_found() {
    use crate::log::format::row::Row;
    use crate::log::segment::index::RowIndex;
    type Change = fn(&mut Row);
    let changes: [(&str, Change); 5] = [
        ("it names another log than its batch", |row| row.log.0 += 1),
        (
            "its offset does not follow the row before in its log",
            |row| row.offset.0 += 1,
        ),
        ("no batch begins where it says", |row| row.place += 8),
        ("it is of another batch than the one there", |row| {
            row.check ^= 1 << 20
        }),
        ("its position does not follow the row before", |row| {
            row.position.0 += 1
        }),
    ];
    for (said, change) in changes {
        let fixture = make("clean");
        let path = paths(0).index;
        let mut rows = read_rows(&fixture.disk, &path, Index(0))
            .unwrap()
            .unwrap()
            .rows;
        change(&mut rows[3]);
        let made = RowIndex::create(&fixture.disk, &path, Index(0), 1024);
        let mut index = made.unwrap();
        rows.into_iter().for_each(|row| index.push(row).unwrap());
        index.write_back().unwrap();
        let what = What::RowDisagrees {
            number: 3,
            what: said,
        };
        let found = damaged(&look(&fixture.disk, &fixture.bounds));
        assert!(found.contains(&(path, what)), "{said}: {found:?}");
    }
}
