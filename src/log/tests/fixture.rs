//! Directories in format version 1, frozen in `testdata/format/v1`: what was written once is read
//! for ever.
//!
//! With `FERROLOG_MAKE_FIXTURES=1` the directories are made that are not there; one that is there
//! is never written again. Without it the same directories are made in memory, and pass the same
//! checks, so that the way they were made does not rot.
#![allow(
    clippy::disallowed_methods,
    reason = "the fixtures are files of the repository"
)]

use std::fs;
use std::sync::mpsc;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::batch::{self, Compression};

use crate::disk::memory::MemoryDisk;
use crate::log::format::files::Paths;
use crate::log::format::record::{BatchBuilder, Producer, batches, join};
use crate::log::inspect::dump::Reader;
use crate::log::inspect::verify::{Bounds, Report, verify};
use crate::log::open::cut;
use crate::log::segment::store::{Found, Store};
use crate::log::*;

const DIR: &str = "/log";
const NAMES: [&str; 7] = [
    "clean",
    "sealed",
    "torn-tail",
    "stale-index",
    "cut",
    "trimmed",
    "packed",
];
/// A blank command: a `ControlEntry` whose field 1 is an empty message.
const BLANK: &[u8] = &[0x0a, 0];

/// A log's files, and what must be found in them.
pub struct Fixture {
    pub disk: MemoryDisk,
    pub bounds: Bounds,
    how: &'static str,
    next_index: Index,
    /// Offset, length and CRC-32C of each record that a start serves.
    records: Vec<(u64, usize, u32)>,
    notes: Vec<String>,
}

pub fn config() -> Config {
    Config {
        segment_bytes_max: 4096,
        index_bytes_max: 1024,
        tail_cache_bytes_max: 0,
        inline_io: true,
        ..Config::default()
    }
}

fn frozen() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/format/v1")
}

// ---- making them -----------------------------------------------------------------------------------

struct Maker {
    disk: MemoryDisk,
    log: Log,
    next: u64,
    /// Entries have a time, and most of their batches are packed.
    packed: bool,
}

impl Maker {
    fn new() -> Self {
        let disk = MemoryDisk::default();
        let shared = Arc::new(disk.clone());
        let opened = Log::open(shared, Path::new(DIR), config(), Floor::default(), None);
        let (log, _) = opened.unwrap();
        Self {
            disk,
            log,
            next: 0,
            packed: false,
        }
    }

    /// Every fifth entry is a blank one; the others hold one to three records in one or two
    /// batches, some of a session, some with a term and a type.
    fn entry(&mut self, index: u64) -> Entry {
        let mut payload = Bytes::from_static(BLANK);
        let kind = if index.is_multiple_of(5) {
            Kind::Control
        } else {
            Kind::Records
        };
        if kind == Kind::Records {
            let producer = Producer {
                session: 0x0123_4567_89ab_cdef,
                sequence: self.next,
                owner: 0,
            };
            let mut one = BatchBuilder::new(index.is_multiple_of(2).then_some(producer));
            for _ in 0..index % 3 + 1 {
                one.push(format!("record {}", self.next).as_bytes(), index % 2, 7);
                self.next += 1;
            }
            let mut joined = vec![one.finish()];
            if index.is_multiple_of(4) {
                let mut two = BatchBuilder::new(None);
                two.push(&[index as u8; 120], 0, 0);
                self.next += 1;
                joined.push(two.finish());
            }
            if self.packed {
                joined.push(self.packed(index));
            }
            payload = join(joined.iter(), self.packed.then_some(1_000_000 + index));
        }
        Entry {
            term: Term(1 + index / 16),
            index: Index(index),
            kind,
            payload,
        }
    }

    /// A batch of packed records with keys, headers and conditions, compressed in turn.
    fn packed(&mut self, index: u64) -> Bytes {
        let mut builder = batch::Builder::default();
        for number in 0..index % 4 + 1 {
            builder.push(&batch::Record {
                value: format!("packed {} {}", self.next, "x".repeat(40)).into(),
                key: (number > 0).then(|| Bytes::from_static(b"key")),
                headers: vec![batch::Header {
                    name: "name".to_owned(),
                    value: Bytes::from_static(b"header"),
                }],
                client_timestamp_ms: index,
            });
            self.next += 1;
        }
        let (records, count) = builder.take();
        let all = [Compression::None, Compression::Lz4, Compression::Zstd];
        let compression = all[index as usize % 3];
        let records = batch::compress(&records, compression).unwrap();
        let fence = record::Fence {
            name: "fence",
            epoch: index,
            claimant: 0,
        };
        let conditions = record::Conditions {
            expected_next_offset: index.is_multiple_of(2).then_some(Offset(self.next)),
            fence: index.is_multiple_of(3).then_some(fence),
        };
        record::packed(None, &conditions, compression, count, &records)
    }

    /// Appends so many entries, three in each write.
    fn append(&mut self, count: u64) {
        let first = self.log.next_index().0;
        let entries: Vec<_> = (first..first + count)
            .map(|index| self.entry(index))
            .collect();
        for group in entries.chunks(3) {
            let (tell, told) = mpsc::channel();
            let done = Box::new(move |result| tell.send(result).unwrap());
            self.log.append(group.to_vec(), done).unwrap();
            told.recv().unwrap().unwrap();
        }
    }

    /// Applies entries up to `to`, with a row for each batch.
    fn publish(&self, to: u64) {
        let from = Index(self.log.0.state.read().next_publish.0);
        let mut at = from;
        while at < Index(to) {
            for entry in self.log.entries(at, Index(to), 1 << 20).unwrap() {
                let held = match entry.kind {
                    Kind::Control => Vec::new(),
                    Kind::Records => batches(&entry.payload).unwrap(),
                };
                let run = |batch: &record::Batch| Run {
                    skip: batch.row_skip().unwrap(),
                    count: batch.count,
                };
                let runs: Vec<_> = held.iter().map(run).collect();
                self.log.publish(entry.index, &runs).unwrap();
                at = Index(entry.index.0 + 1);
            }
        }
    }

    fn checkpoint(&self, applied: u64) -> Bounds {
        let (first_offset, next_offset) = self.log.offsets();
        Bounds {
            checkpoint: Some(Checkpoint {
                applied: Index(applied),
                first_offset,
                next_offset,
            }),
            ..Bounds::default()
        }
    }

    /// What a start finds is what must be found ever after.
    fn finish(self, how: &'static str, bounds: Bounds) -> Fixture {
        self.log.close();
        let found = look(&self.disk, &bounds);
        let copy = self.disk.crash_by(|| 1);
        let (log, _) = open(&copy, &bounds).unwrap();
        Fixture {
            disk: self.disk,
            how,
            next_index: log.next_index(),
            records: read_all(&log),
            notes: notes(&found),
            bounds,
        }
    }
}

pub fn make(name: &str) -> Fixture {
    let mut maker = Maker::new();
    match name {
        "clean" => {
            maker.append(40);
            maker.publish(40);
            maker.log.sync_index().unwrap();
            let bounds = maker.checkpoint(39);
            maker.finish("40 entries, all applied, no segment sealed", bounds)
        }
        "sealed" => {
            maker.append(120);
            maker.publish(120);
            maker.log.sync_index().unwrap();
            maker.log.seal_covered(Index(119)).unwrap();
            let bounds = maker.checkpoint(119);
            maker.append(2);
            let how = "122 entries, the last two not applied; each segment but the last sealed";
            maker.finish(how, bounds)
        }
        "torn-tail" => {
            maker.append(9);
            maker.publish(9);
            maker.log.sync_index().unwrap();
            let bounds = maker.checkpoint(8);
            maker.append(3);
            let (path, at) = maker.place_of(11);
            let torn = |bytes: &mut Vec<u8>| bytes[at as usize + 40..].fill(0);
            maker.disk.corrupt(&path, torn);
            maker.finish(
                "12 entries; the last write ends inside its third frame",
                bounds,
            )
        }
        "stale-index" => {
            maker.append(20);
            maker.publish(12);
            maker.log.sync_index().unwrap();
            maker.publish(20);
            let bounds = maker.checkpoint(19);
            maker.finish(
                "20 entries applied, the rows of the last 8 not written",
                bounds,
            )
        }
        "cut" => {
            maker.append(12);
            maker.publish(6);
            maker.log.sync_index().unwrap();
            let bounds = maker.checkpoint(5);
            let (_, end) = maker.place_of(8);
            let place = (Index(0), u32::try_from(end).unwrap());
            cut::announce(&maker.disk, Path::new(DIR), place).unwrap();
            maker.finish("12 entries, those from 8 on announced as cut", bounds)
        }
        "trimmed" => {
            maker.append(100);
            maker.publish(100);
            maker.log.sync_index().unwrap();
            maker.log.seal_covered(Index(99)).unwrap();
            maker.log.trim(Offset(120));
            let mut bounds = maker.checkpoint(99);
            let (floor, _) = maker.log.droppable(Index(100)).unwrap();
            assert!(maker.log.drop_below(floor).unwrap());
            bounds.floor = floor;
            maker.finish(
                "100 entries, the records before offset 120 given up",
                bounds,
            )
        }
        "packed" => {
            maker.packed = true;
            maker.append(60);
            maker.publish(60);
            maker.log.sync_index().unwrap();
            maker.log.seal_covered(Index(59)).unwrap();
            let bounds = maker.checkpoint(59);
            let how = "60 entries with times, a packed batch in each that holds records";
            maker.finish(how, bounds)
        }
        name => unreachable!("{name} is no fixture"),
    }
}

impl Maker {
    /// Where an entry of the first segment stands.
    fn place_of(&self, index: u64) -> (PathBuf, u64) {
        let path = Paths::new(Path::new(DIR), Index(0)).store;
        let store = Store::open(&self.disk, &path, Index(0)).unwrap().unwrap();
        let mut scan = store.scan().unwrap();
        loop {
            let at = scan.position();
            match scan.next().unwrap() {
                Found::Frame(header) if header.index == Index(index) => return (path, at),
                found => assert!(matches!(found, Found::Frame(_)), "entry {index}"),
            }
        }
    }
}

// ---- looking at them -------------------------------------------------------------------------------

fn open(disk: &MemoryDisk, bounds: &Bounds) -> Result<(Log, Opened), Error> {
    let (shared, dir) = (Arc::new(disk.clone()), Path::new(DIR));
    Log::open(shared, dir, config(), bounds.floor, bounds.checkpoint)
}

pub fn look(disk: &MemoryDisk, bounds: &Bounds) -> Report {
    verify(disk, Path::new(DIR), Some(bounds), &|_| {}).unwrap()
}

fn notes(report: &Report) -> Vec<String> {
    let note = |found: &verify::Finding| {
        let name = found.path.file_name().unwrap().to_str().unwrap();
        format!("{name} at {}: {}", found.position, found.what.kind())
    };
    report.findings.iter().map(note).collect()
}

fn known(record: &Record) -> (u64, usize, u32) {
    let crc = crc32c::crc32c(&record.value);
    (record.offset.0, record.value.len(), crc)
}

fn read_all(log: &Log) -> Vec<(u64, usize, u32)> {
    let (mut at, next) = log.offsets();
    let mut records = Vec::new();
    while at < next {
        for record in log.read(at, 1000).unwrap() {
            records.push(known(&record));
            at = Offset(record.offset.0 + 1);
        }
    }
    records
}

fn check(name: &str, fixture: &Fixture) {
    let found = look(&fixture.disk, &fixture.bounds);
    assert!(found.is_sound(), "{name}: {found:?}");
    assert_eq!(notes(&found), fixture.notes, "{name}");

    let disk = fixture.disk.crash_by(|| 1);
    let mut reader = Reader::new(&disk, Path::new(DIR), Some(&fixture.bounds)).unwrap();
    let (mut at, next) = reader.offsets().unwrap();
    let mut dumped = Vec::new();
    while at < next {
        let mut records = Vec::new();
        let stored = reader.read(at).unwrap();
        stored.read_into(at, usize::MAX, &mut records).unwrap();
        dumped.extend(records.iter().map(known));
        at = Offset(at.0 + records.len() as u64);
    }
    let led_to = if name == "stale-index" {
        dumped.len()
    } else {
        fixture.records.len()
    };
    assert!(led_to > 5, "{name}");
    assert_eq!(dumped, fixture.records[..led_to], "{name}");

    let (log, opened) = open(&disk, &fixture.bounds).unwrap();
    assert!(opened.rows_hold, "{name}");
    assert_eq!(log.next_index(), fixture.next_index, "{name}");
    assert_eq!(read_all(&log), fixture.records, "{name}");
    log.sync_index().unwrap();
    log.close();
    let mended = look(&disk, &fixture.bounds);
    assert!(
        mended.findings.is_empty(),
        "{name} after a start: {mended:?}"
    );
}

#[test]
fn frozen_directories_are_read_and_pass() {
    for name in NAMES {
        check(name, &thaw(&frozen().join(name)));
    }
}

#[test]
fn frozen_files_were_never_edited() {
    let listed = fs::read_to_string(frozen().join("CHECKSUMS")).unwrap();
    let listed: Vec<_> = listed.lines().map(str::to_owned).collect();
    let mut here = Vec::new();
    for name in names_in(&frozen()) {
        if frozen().join(&name).is_dir() {
            here.extend(checksums(&name));
        }
    }
    assert_eq!(
        here, listed,
        "a frozen file changed: take it from the history"
    );
}

#[test]
fn fixtures_can_still_be_made() {
    let writes = std::env::var_os("FERROLOG_MAKE_FIXTURES").is_some();
    for name in NAMES {
        let fixture = make(name);
        check(name, &fixture);
        let dir = frozen().join(name);
        if writes && !dir.exists() {
            freeze(&fixture, &dir);
            let mut listed = fs::read_to_string(frozen().join("CHECKSUMS")).unwrap_or_default();
            listed.extend(checksums(name).into_iter().map(|line| line + "\n"));
            let mut lines: Vec<_> = listed.lines().collect();
            lines.sort_by_key(|line| line.rsplit(' ').next());
            fs::write(frozen().join("CHECKSUMS"), lines.join("\n") + "\n").unwrap();
        }
    }
}

// ---- to files and back -----------------------------------------------------------------------------

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let name =
        |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = entries.map(name).collect();
    names.sort();
    names
}

/// FNV-1a. A file that ends with its own CRC has the same CRC as every other such file.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// `FINGERPRINT LENGTH PATH` of each file of a fixture.
fn checksums(name: &str) -> Vec<String> {
    let line = |file: String| {
        let bytes = fs::read(frozen().join(name).join(&file)).unwrap();
        let (print, length) = (fingerprint(&bytes), bytes.len());
        format!("{print:016x} {length} {name}/{file}")
    };
    names_in(&frozen().join(name))
        .into_iter()
        .map(line)
        .collect()
}

fn freeze(fixture: &Fixture, dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let disk = &fixture.disk;
    for name in disk.list(Path::new(DIR)).unwrap() {
        let file = disk.open(&Path::new(DIR).join(&name)).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        fs::write(dir.join(name), bytes).unwrap();
    }
    let Bounds {
        floor, checkpoint, ..
    } = &fixture.bounds;
    let record = |(offset, length, crc): &(u64, usize, u32)| json!({ "offset": offset, "length": length, "crc32c": format!("{crc:08x}") });
    let covered = checkpoint.unwrap();
    let expected = json!({
        "how": fixture.how,
        "floor": { "index": floor.index.0, "offset": floor.offset.0 },
        "checkpoint": {
            "applied": covered.applied.0,
            "first_offset": covered.first_offset.0,
            "next_offset": covered.next_offset.0,
        },
        "next_index": fixture.next_index.0,
        "verify": fixture.notes,
        "records": fixture.records.iter().map(record).collect::<Vec<_>>(),
    });
    let text = serde_json::to_string_pretty(&expected).unwrap();
    fs::write(dir.join("expected.json"), text + "\n").unwrap();
}

fn thaw(dir: &Path) -> Fixture {
    let disk = MemoryDisk::default();
    for name in names_in(dir)
        .into_iter()
        .filter(|name| name != "expected.json")
    {
        let file = disk.create(&Path::new(DIR).join(&name)).unwrap();
        file.write_all_at(&fs::read(dir.join(name)).unwrap(), 0)
            .unwrap();
        file.sync_data().unwrap();
    }
    disk.sync_dir(Path::new(DIR)).unwrap();
    let text = fs::read_to_string(dir.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let number = |part: &str, key: &str| expected[part][key].as_u64().unwrap();
    let record = |record: &Value| {
        let crc = u32::from_str_radix(record["crc32c"].as_str().unwrap(), 16).unwrap();
        let length = record["length"].as_u64().unwrap() as usize;
        (record["offset"].as_u64().unwrap(), length, crc)
    };
    let checkpoint = Checkpoint {
        applied: Index(number("checkpoint", "applied")),
        first_offset: Offset(number("checkpoint", "first_offset")),
        next_offset: Offset(number("checkpoint", "next_offset")),
    };
    let list = |key: &str| expected[key].as_array().unwrap().clone();
    Fixture {
        disk,
        bounds: Bounds {
            floor: Floor {
                index: Index(number("floor", "index")),
                offset: Offset(number("floor", "offset")),
            },
            checkpoint: Some(checkpoint),
            ..Bounds::default()
        },
        how: "",
        next_index: Index(expected["next_index"].as_u64().unwrap()),
        records: list("records").iter().map(record).collect(),
        notes: list("verify")
            .iter()
            .map(|note| note.as_str().unwrap().to_owned())
            .collect(),
    }
}
