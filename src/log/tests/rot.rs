//! One changed byte of a frame, wherever it is, by every way on which a node reads or takes the frame.
//!
//! The frame's header, the number of its batches, of each batch the length, the checksum, the time, the attributes,
//! the compression, the numbers and the records, and the filling behind. Who reads a batch alone finds what is
//! wrong with that batch, and with no other; who reads the frame finds all but the filling, which a check of the
//! files finds.

use std::ops::Range;

use bytes::Bytes;

use super::{DIR, append, entry, look, seal_of};
use crate::batch::{self, Compression};
use crate::disk::Disk;
use crate::disk::memory::MemoryDisk;
use crate::log::format::files::Paths;
use crate::log::format::frame::{HEADER_BYTES, frame_bytes};
use crate::log::format::record::{self, BatchBuilder, Conditions, Producer, batches, join};
use crate::log::inspect::dump::Reader;
use crate::log::inspect::verify::{Bounds, verify};
use crate::log::*;

const ENTRIES: u64 = 30;
/// The frame that rots, in the first segment with others before and behind it.
const ROTTEN: u64 = 4;

/// A batch of packed records with all that a batch can have.
fn packed(log: u32, index: u64, compression: Compression) -> Bytes {
    let mut builder = batch::Builder::default();
    for number in 0..3 {
        builder.push(&batch::Record {
            value: format!("packed {index} {number}").into(),
            ..batch::Record::default()
        });
    }
    let (records, count) = builder.take();
    let records = batch::compress(&records, compression).unwrap();
    let conditions = Conditions {
        expected_next_offset: Some(Offset(index)),
        fence: Some(record::Fence {
            name: "f",
            epoch: 3,
            claimant: 9,
        }),
    };
    record::packed(LogId(log), None, &conditions, compression, count, &records)
}

/// A plain batch, a packed one, and two that go together.
fn made(index: u64) -> Entry {
    let producer = Producer {
        session: 5,
        sequence: index,
        owner: 6,
    };
    let mut plain = BatchBuilder::of(LogId(1), Some(producer));
    plain.push(format!("plain {index}").as_bytes(), 1, 2);
    plain.push(b"", 0, 0);
    let alone = packed(2, index, Compression::Lz4);
    let bundle = record::bundle(&[
        packed(0, index, Compression::None),
        packed(300, index, Compression::Zstd),
    ]);
    let payload = join([plain.finish(), alone, bundle].iter(), Some(1000 + index));
    entry(1, index, Kind::Records, payload)
}

/// As a state machine without sessions and logs that must be made applies them.
fn fill(disk: &MemoryDisk) -> (Log, Vec<Entry>) {
    let (log, _) = super::open(disk, None).unwrap();
    let entries: Vec<_> = (0..ENTRIES).map(made).collect();
    for entry in &entries {
        append(&log, vec![entry.clone()]);
        super::publish(&log, entry);
    }
    log.sync_index().unwrap();
    (log, entries)
}

/// A log whose segments are sealed, and opened anew, so that nothing is in memory.
struct Rotting {
    disk: MemoryDisk,
    bounds: Bounds,
    entries: Vec<Entry>,
    store: std::path::PathBuf,
    /// Where the frame stands in the store.
    frame: Range<usize>,
}

impl Rotting {
    fn new(sealed: bool) -> Self {
        let disk = MemoryDisk::default();
        let (log, entries) = fill(&disk);
        let last = Index(ENTRIES - 1);
        let at = log.0.state.read().segments[0].position(Index(ROTTEN));
        let at = at.unwrap() as usize;
        if sealed {
            assert!(log.seal_covered(last).unwrap() > 1);
        }
        let checkpoint = Some(log.checkpoint_at(last));
        log.close();
        Self {
            disk: disk.crash(),
            bounds: Bounds {
                checkpoint,
                ..Bounds::default()
            },
            frame: at..at + frame_bytes(entries[ROTTEN as usize].payload.len()),
            entries,
            store: Paths::new(Path::new(DIR), Index(0)).store,
        }
    }

    fn payload(&self) -> Bytes {
        self.entries[ROTTEN as usize].payload.clone()
    }

    /// A copy of the disk with one bit changed.
    fn changed(&self, at: usize) -> MemoryDisk {
        let disk = self.disk.crash();
        disk.corrupt(&self.store, |bytes| bytes[at] ^= 1 << (at % 8));
        disk
    }

    fn open(&self, disk: &MemoryDisk) -> Result<Log, Error> {
        super::open(disk, self.bounds.checkpoint.clone()).map(|(log, _)| log)
    }

    /// Each byte of the frame, and whether it is filling.
    fn bytes(&self) -> impl Iterator<Item = (usize, bool)> + use<> {
        let filled = self.frame.start + HEADER_BYTES + self.payload().len();
        assert!(filled < self.frame.end, "the frame has filling");
        self.frame.clone().map(move |at| (at, at >= filled))
    }

    /// Where the batches of the frame stand in the store.
    fn batches(&self) -> Vec<(LogId, Range<usize>)> {
        let (payload, begins) = (self.payload(), self.frame.start + HEADER_BYTES);
        let found = batches(&payload).unwrap();
        let place = |batch: &record::Batch<'_>| {
            let length = record::length_of(&payload[batch.at..]).unwrap();
            (batch.log, begins + batch.at..begins + batch.at + length)
        };
        found.iter().map(place).collect()
    }
}

/// The records of a log that the rotten frame's batch holds.
fn first_of(log: LogId) -> Offset {
    let each = if log == LogId(1) { 2 } else { 3 };
    Offset(ROTTEN * each)
}

#[test]
fn a_reader_of_a_batch_finds_what_is_wrong_with_it_and_no_other() {
    let rotting = Rotting::new(true);
    let all = rotting.batches();
    assert_eq!(all.len(), 4);
    let whole = rotting.open(&rotting.disk.crash()).unwrap();
    let read = |log: &Log, id| log.read(id, first_of(id), 1);
    for (at, _) in rotting.bytes() {
        let disk = rotting.changed(at);
        let log = rotting.open(&disk).unwrap();
        let mut hit = None;
        for (id, place) in &all {
            if place.contains(&at) {
                hit = Some(*id);
                continue;
            }
            let found = read(&log, *id).unwrap();
            assert_eq!(found, read(&whole, *id).unwrap(), "byte {at}, log {id}");
        }
        let Some(hit) = hit else { continue };
        // From the files as they are, and by the log, which takes note of it.
        let dir = Path::new(DIR);
        let mut reader = Reader::new(&disk, dir, hit, Some(&rotting.bounds)).unwrap();
        assert!(reader.read(first_of(hit)).is_err(), "byte {at}");
        let error = read(&log, hit).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "byte {at}: {error}");
        assert_eq!(log.damaged().len(), 1);
        // Nor is it found whole in a stretch of all logs.
        let log = rotting.open(&disk).unwrap();
        let stretch = look(&log, Position(0), &Wanted::These(&[hit])).unwrap();
        let found = log.find_stretch(&stretch, usize::MAX).unwrap();
        let read = log.read_found(found, usize::MAX).unwrap();
        let passed = read.stored.last().unwrap().next();
        assert_eq!(passed, first_of(hit), "it ends before the damage");
        assert_eq!(log.damaged().len(), 1);
    }
}

#[test]
fn whoever_reads_a_frame_finds_each_changed_byte_of_it() {
    let rotting = Rotting::new(true);
    for (at, is_filling) in rotting.bytes() {
        let disk = rotting.changed(at);
        let entries = |log: &Log| log.entries(Index(ROTTEN), Index(ROTTEN + 1), 1);
        let log = rotting.open(&disk).unwrap();
        match entries(&log) {
            Ok(read) => {
                assert!(is_filling, "byte {at}");
                assert_eq!(read[0], rotting.entries[ROTTEN as usize]);
            }
            Err(error) => assert!(matches!(error, Error::Damaged { .. }), "byte {at}: {error}"),
        }
        assert_eq!(log.damaged().is_empty(), is_filling, "byte {at}");

        let log = rotting.open(&disk).unwrap();
        let mut scrub = log.scrub(Index(0)).unwrap();
        let scrubbed = loop {
            match scrub.step() {
                Ok(0) => break Ok(()),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        assert_eq!(scrubbed.is_ok(), is_filling, "scrub, byte {at}");

        // What is derived from it would be wrong.
        let seal = log.manifest(Index(ENTRIES)).unwrap().swap_remove(0);
        let without = disk.crash();
        without
            .remove(&Paths::new(Path::new(DIR), Index(0)).index)
            .unwrap();
        let derived = rotting.open(&without).unwrap().derive_index(&seal);
        assert_eq!(derived.is_ok(), is_filling, "repair, byte {at}");

        let bounds = Some(&rotting.bounds);
        let found = verify(&disk, Path::new(DIR), bounds, &|_| {}).unwrap();
        assert!(!found.is_sound(), "a check of the files, byte {at}");
    }
}

/// Whoever looks for a log finds it, or is told that the segment waits for repair. What is behind or before it in the
/// log is read all the same.
#[test]
fn a_directory_that_rots_is_found_and_made_again() {
    let rotting = Rotting::new(true);
    let path = Paths::new(Path::new(DIR), Index(0)).seal;
    let whole = rotting.open(&rotting.disk.crash()).unwrap();
    let seal = seal_of(&whole, Index(0));
    let begins = seal.directory_at();
    assert!(
        seal.listed > 20,
        "rows of several logs stand among each other"
    );
    let bytes_of = |disk: &MemoryDisk| {
        let file = disk.open(&path).unwrap();
        file.read_at(0, file.len().unwrap() as usize).unwrap()
    };
    let sound = bytes_of(&rotting.disk);
    // The first record of each batch of each log, the last ones first.
    let all: Vec<_> = whole.all_ends().into_iter().collect();
    let all = all.iter().flat_map(|(id, ends)| {
        let each = if *id == LogId(1) { 2 } else { 3 };
        let batches = (0..ends.next.0 / each).rev();
        batches.map(move |batch| (*id, Offset(batch * each)))
    });
    let all: Vec<_> = all
        .map(|(id, offset)| (id, offset, whole.read(id, offset, 1).unwrap()))
        .collect();
    // How many may not be read.
    let refused_of = |log: &Log, at: usize| {
        let refused = all
            .iter()
            .filter(|(id, offset, wanted)| match log.read(*id, *offset, 1) {
                Ok(read) => {
                    assert_eq!(read, *wanted, "byte {at}");
                    false
                }
                Err(Error::Damaged { first, next, .. }) => {
                    assert_eq!((first, next), (seal.base, seal.next_index()));
                    true
                }
                Err(error) => panic!("byte {at}: {error}"),
            });
        refused.count()
    };
    let is_sound = |disk: &MemoryDisk| {
        let found = verify(disk, Path::new(DIR), Some(&rotting.bounds), &|_| {}).unwrap();
        found.is_sound()
    };
    let mut refused = 0;
    for at in begins..sound.len() {
        let disk = rotting.disk.crash();
        disk.corrupt(&path, |bytes| bytes[at] ^= 1 << (at % 8));
        assert!(!is_sound(&disk), "a check of the files, byte {at}");
        let scrubbed = disk.crash();

        let log = rotting.open(&disk).unwrap();
        if refused_of(&log, at) > 0 {
            refused += 1;
            let damaged = log.damaged();
            assert_eq!((damaged.len(), damaged[0].seal.base), (1, seal.base));
            assert!(log.derive_index(&damaged[0].seal).unwrap());
            assert_eq!(refused_of(&log, at), 0, "byte {at}");
            assert!(is_sound(&disk) && bytes_of(&disk) == sound, "byte {at}");
        }

        // Nobody looked: a scrub makes it anew at once, and whoever has the old one mapped has the new one then.
        let log = rotting.open(&scrubbed).unwrap();
        let _ = log.read(LogId(300), Offset(0), 1);
        if let Some(mut scrub) = log
            .scrub(Index(0))
            .filter(|scrub| scrub.base() == seal.base)
        {
            while scrub.step().unwrap() > 0 {}
            assert!(
                is_sound(&scrubbed) && bytes_of(&scrubbed) == sound,
                "byte {at}"
            );
            assert_eq!(refused_of(&log, at), 0, "byte {at}");
        }
    }
    assert!(refused > 200, "{refused}");
}

/// An open segment is read whole: synced frames follow, so it is damage and no torn tail.
#[test]
fn a_start_refuses_each_changed_byte_of_an_open_segment() {
    let rotting = Rotting::new(false);
    for (at, is_filling) in rotting.bytes() {
        match rotting.open(&rotting.changed(at)) {
            Ok(_) => assert!(is_filling, "byte {at}"),
            Err(Error::Corrupt { path, position, .. }) => {
                assert_eq!(
                    (&path, position),
                    (&rotting.store, rotting.frame.start as u64)
                );
            }
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
}

/// The last write may be torn anywhere.
#[test]
fn each_changed_byte_of_the_last_frame_makes_it_a_torn_tail() {
    let rotting = Rotting::new(false);
    let disk = MemoryDisk::default();
    let (log, _) = super::open(&disk, None).unwrap();
    let some = &rotting.entries[..=ROTTEN as usize];
    some.iter()
        .for_each(|entry| append(&log, vec![entry.clone()]));
    log.close();
    for (at, is_filling) in rotting.bytes() {
        let disk = disk.crash();
        disk.corrupt(&rotting.store, |bytes| bytes[at] ^= 1 << (at % 8));
        let (log, opened) = super::open(&disk, None).unwrap();
        let next = if is_filling { ROTTEN + 1 } else { ROTTEN };
        assert_eq!(log.next_index(), Index(next), "byte {at}");
        assert_eq!(opened.torn_bytes > 0, !is_filling, "byte {at}");
    }
}

#[test]
fn an_append_and_a_copy_refuse_each_changed_byte_of_a_payload() {
    let rotting = Rotting::new(true);
    let payload = rotting.payload();
    let source = rotting.open(&rotting.disk.crash()).unwrap();
    let seal = source.manifest(Index(ENTRIES)).unwrap().swap_remove(0);
    let next = seal.next_index();
    let entries = source.entries(Index(0), next, usize::MAX).unwrap();
    let rows = source.rows(Index(0), next).unwrap();
    let copied = |entries: &[Entry]| {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let mut copy = SegmentCopy::new(disk, Path::new(DIR), &seal)?;
        for entry in entries.iter().filter(|entry| entry.index < next) {
            let mine = rows.iter().filter(|row| row.index == entry.index);
            copy.add(entry, &mine.copied().collect::<Vec<_>>())?;
        }
        copy.finish()
    };
    copied(&entries).unwrap();
    for at in 0..payload.len() {
        let mut bytes = payload.to_vec();
        bytes[at] ^= 1 << (at % 8);
        let mut entries = entries.clone();
        entries[ROTTEN as usize].payload = bytes.into();
        assert!(copied(&entries).is_err(), "byte {at}");
        let (log, _) = super::open(&MemoryDisk::default(), None).unwrap();
        let before = entries[..ROTTEN as usize].to_vec();
        log.append(before, Box::new(|done| done.unwrap())).unwrap();
        let changed = vec![entries[ROTTEN as usize].clone()];
        let appended = log.append(changed, Box::new(|done| done.unwrap()));
        assert!(matches!(appended, Err(Error::Malformed(_))), "byte {at}");
        assert_eq!(log.next_index(), Index(ROTTEN));
    }
}

/// A write that the disk lost leaves what stood there before: whole, and another batch.
#[test]
fn an_older_batch_in_the_place_of_one_is_not_taken_for_it() {
    let rotting = Rotting::new(true);
    let disk = rotting.disk.crash();
    let (id, place) = rotting.batches().swap_remove(1);
    let older = packed(2, ROTTEN + 1, Compression::Lz4);
    let older = join([older].iter(), Some(1000 + ROTTEN));
    let older = &older[older.len() - place.len()..];
    assert!(record::is_whole(older).is_some());
    disk.corrupt(&rotting.store, |bytes| bytes[place].copy_from_slice(older));
    let log = rotting.open(&disk).unwrap();
    let error = log.read(id, first_of(id), 1).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

/// 256 KiB were read and checked for one record.
#[test]
fn a_reader_reads_the_batches_that_it_wants_and_little_else() {
    let disk = MemoryDisk::default();
    let config = Config {
        inline_io: true,
        tail_cache_bytes_max: 0,
        ..Config::default()
    };
    let opened = Log::open(
        Arc::new(disk),
        Path::new(DIR),
        config,
        Floor::default(),
        None,
    );
    let log = opened.unwrap().0;
    let batch = |log: u32| {
        let mut batch = BatchBuilder::of(LogId(log), None);
        (0..10).for_each(|_| batch.push(&[log as u8; 100], 0, 0));
        batch.finish()
    };
    let all: Vec<_> = (0..200).map(batch).collect();
    for index in 0..4 {
        let made = entry(1, index, Kind::Records, join(all.iter(), Some(5)));
        append(&log, vec![made.clone()]);
        super::publish(&log, &made);
    }
    // The last entry stays in memory.
    append(&log, vec![entry(1, 4, Kind::Control, Bytes::new())]);
    let length = all[7].len();
    for budget in [1, usize::MAX] {
        let found = log.find(LogId(7), Offset(0), budget).unwrap();
        let batches = if budget == 1 { 1 } else { 4 };
        assert_eq!(found.bytes(), batches * length);
        let read = log.read_found(found, 1 << 20).unwrap();
        let counted = read.stored.iter().map(|stored| stored.count);
        assert_eq!(counted.sum::<u32>(), 40, "{budget}");
        assert_eq!(read.kept_bytes, 4 * length);
    }
    // Two that stand side by side are read at once, and what is between two that are near each other with them.
    let wanted = Wanted::Those(&|log| [0, 1, 3].contains(&log.0));
    let stretch = look(&log, Position(0), &wanted).unwrap();
    let found = log.find_stretch(&stretch, 3 * length).unwrap();
    assert_eq!(
        found.bytes(),
        all[..4].iter().map(Bytes::len).sum::<usize>()
    );
}
