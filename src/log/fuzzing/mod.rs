//! What the fuzzer throws at the storage, and what must hold of it: no panic, whatever the bytes.
//!
//! Arbitrary bytes become the files of a log's directory. Opening it gives a log or an error; a log
//! that opened answers every question or says why not, and takes new entries. Random bytes never pass a checksum, so
//! most inputs begin with a log written by the book, spoil it, and mend the checksums behind the damage.

use std::path::Path;
use std::sync::Arc;

use super::format::row::Row;
use super::format::seal::Seal;
use super::format::{record, seal};
use super::{
    AllEnds, Checkpoint, Config, Course, Ends, Entry, Error, Floor, Index, Log, LogId, NUMBER_MAX,
    Offset, Position, Run, Wanted,
};
use crate::disk::Disk;
use crate::disk::memory::MemoryDisk;

pub mod copy;
mod input;
mod spoil;

pub use input::{Input, batch_of, entry_of};
use spoil::{lay_files, mend, path_of, spoil};

/// Where the log lies.
pub const DIR: &str = "/log";
/// Changes made to the files of one log.
const CHANGES_MAX: usize = 16;
/// Errors met in a row before a reader gives up.
const ERRORS_MAX: usize = 8;

/// Small, so that a few bytes of input fill segments.
pub fn config() -> Config {
    Config {
        segment_bytes_max: 2048,
        index_bytes_max: 256,
        tail_cache_bytes_max: 300,
        inline_io: true,
        ..Config::default()
    }
}

/// A log's directory, and what the stable store says of it.
#[derive(Debug, Default)]
pub struct Kept {
    pub disk: MemoryDisk,
    pub floor: Floor,
    pub checkpoint: Option<Checkpoint>,
}

impl Kept {
    /// Opens the log.
    pub fn open(&self) -> Result<(Log, super::Opened), Error> {
        let disk = Arc::new(self.disk.clone());
        Log::open(
            disk,
            Path::new(DIR),
            config(),
            self.floor,
            self.checkpoint.clone(),
        )
    }
}

/// The target: files from the input, opened, read, written to and opened again.
pub fn recovery(data: &[u8]) {
    let mut input = Input(data);
    let mode = input.u8();
    let mut kept = Kept::default();
    let numbers = mode & 4 != 0;
    let given = (
        input.u8(),
        if numbers {
            given(&mut input)
        } else {
            Default::default()
        },
    );
    if mode & 1 == 0 {
        lay_files(&kept.disk, &mut input);
    } else {
        kept = write_log(&mut input).0;
        for _ in 0..CHANGES_MAX {
            if input.is_empty() {
                break;
            }
            spoil(&kept.disk, &mut input);
        }
    }
    if numbers {
        let (which, (floor, checkpoint)) = given;
        kept.floor = if which & 1 != 0 { floor } else { kept.floor };
        kept.checkpoint = if which & 2 != 0 {
            checkpoint
        } else {
            kept.checkpoint
        };
    }
    if let Ok((log, opened)) = kept.open() {
        read_all(&log);
        repair(&log);
        go_on(&mut kept, log, opened.rows_hold);
    }
}

/// A floor and a checkpoint from the input.
fn given(input: &mut Input<'_>) -> (Floor, Option<Checkpoint>) {
    let floor = Floor {
        index: Index(input.u64()),
        position: Position(input.u64()),
    };
    let applied = Index(input.u64());
    let ends = Ends {
        first: Offset(input.u64()),
        next: Offset(input.u64()),
    };
    let checkpoint = Checkpoint {
        applied,
        next_position: Position(ends.next.0),
        rolled: Index(applied.0 / 2),
        logs: Arc::new([(LogId::DEFAULT, ends)].into()),
    };
    (
        floor,
        checkpoint.applied.0.is_multiple_of(2).then_some(checkpoint),
    )
}

/// The parts of an entry that a state machine without sessions accepts, where logs end at `ends`.
pub fn runs_from(entry: &Entry, ends: &mut AllEnds) -> Result<Vec<Run>, Error> {
    if !entry.kind.has_batches() {
        return Ok(Vec::new());
    }
    let batches = record::batches(&entry.payload)?.into_iter();
    let run = |batch: record::Batch<'_>| {
        let next = &mut ends.entry(batch.log).or_default().next;
        let first = *next;
        *next = Offset(first.0 + u64::from(batch.count));
        Run::of(&batch, 0, first)
    };
    Ok(batches.skip(entry.kind.rowless()).map(run).collect())
}

/// Reads the records of a run out of its entry, behind those that are there.
pub fn read_run(entry: &Entry, run: &Run, out: &mut Vec<record::Record>) -> Result<(), Error> {
    // Where the batch stands, and the position, are nothing to what is read.
    let row = Row {
        position: Position(0),
        index: entry.index,
        place: 0,
        check: run.check,
        log: run.log,
        offset: run.first,
    };
    let batch = entry.payload.slice(run.at as usize..);
    let stored = record::stored(&batch, &row, run.count.into())?;
    stored.read_into(run.first, usize::MAX, out).map(drop)
}

impl Log {
    /// Where each log begins and ends.
    pub fn all_ends(&self) -> AllEnds {
        let state = self.0.state.read();
        let all = state.logs.iter();
        all.map(|(log, part)| (*log, part.ends)).collect()
    }

    /// What a state machine makes durable that has applied up to here.
    pub fn checkpoint_at(&self, applied: Index) -> Checkpoint {
        Checkpoint {
            applied,
            next_position: self.positions().1,
            rolled: self.0.state.read().rolled_at(Index(applied.0 + 1)),
            logs: Arc::new(self.all_ends()),
        }
    }

    /// The parts of an entry that a state machine without sessions accepts.
    pub fn runs_of(&self, entry: &Entry) -> Result<Vec<Run>, Error> {
        runs_from(entry, &mut self.all_ends())
    }
}

/// A log by the book: entries, checkpoints, seals and trims as the input says.
pub fn write_log(input: &mut Input<'_>) -> (Kept, Log) {
    let mut kept = Kept::default();
    let (log, _) = kept.open().expect("a new log opens");
    let mut term = 1;
    for _ in 0..input.u8() % 64 {
        let step = input.u8();
        match step & 7 {
            0 => term += 1,
            5 => checkpoint(&mut kept, &log),
            6 => {
                checkpoint(&mut kept, &log);
                let covered = kept.checkpoint.as_ref();
                let covered = covered.map_or(Index(0), |covered| covered.applied);
                log.seal_covered(covered).expect("a good disk");
            }
            7 => {
                let (first, next) = log.offsets(LogId::DEFAULT);
                let to = first.0 + u64::from(step >> 3) % (next.0 - first.0 + 1);
                log.trim(LogId::DEFAULT, Offset(to));
                checkpoint(&mut kept, &log);
                let able = log.droppable(Index(NUMBER_MAX)).expect("a good disk");
                if let Some((floor, _)) = able.filter(|_| step > 99) {
                    kept.floor = floor;
                    log.drop_below(floor).expect("a good disk");
                }
            }
            _ => {
                let entry = entry_of(input, term, log.next_index());
                let appended = append(&log, entry);
                assert!(matches!(appended, Ok(()) | Err(Error::TooLarge { .. })));
            }
        }
    }
    // A seal bears the time: the same input must make the same bytes.
    let seals = kept.disk.list(Path::new(DIR)).unwrap_or_default();
    for name in seals.iter().filter(|name| name.ends_with(".seal")) {
        let path = Path::new(DIR).join(name);
        kept.disk.corrupt(&path, |bytes| {
            bytes[80..88].fill(0);
            mend(&path, bytes);
        });
    }
    (kept, log)
}

fn append(log: &Log, entry: Entry) -> Result<(), Error> {
    let done = Box::new(|result: Result<(), Error>| result.expect("a good disk"));
    log.append(vec![entry], done)
}

/// Publishes every entry, and takes note of that as a checkpoint does.
fn checkpoint(kept: &mut Kept, log: &Log) {
    let from = kept
        .checkpoint
        .as_ref()
        .map_or(log.first_entry(), |covered| Index(covered.applied.0 + 1));
    publish_from(log, from).expect("it was written by the book");
    log.sync_index().expect("a good disk");
    if let Some((_, applied)) = log.last() {
        kept.checkpoint = Some(log.checkpoint_at(applied));
    }
}

fn publish_from(log: &Log, mut at: Index) -> Result<(), Error> {
    while at < log.next_index() {
        for entry in log.entries(at, log.next_index(), 500)? {
            log.publish(entry.index, &log.runs_of(&entry)?)?;
            at = Index(entry.index.0 + 1);
        }
    }
    Ok(())
}

/// Asks a log for all that it has.
pub fn read_all(log: &Log) {
    for segment in log.segments() {
        let mut at = segment.base;
        while at < segment.next_index {
            let Ok(entries) = log.entries(at, segment.next_index, 200) else {
                break;
            };
            assert!(!entries.is_empty(), "at least one entry comes");
            for entry in entries {
                assert_eq!(entry.index, at, "I5: entries come in order");
                // A seal's word for a term is not looked up in the frame.
                let _ = log.term(at);
                at = Index(at.0 + 1);
            }
        }
        let _ = log.rows(segment.base, segment.next_index);
    }
    for (id, Ends { first, next }) in log.all_ends() {
        let (mut at, mut errors) = (first, 0);
        while at < next && errors < ERRORS_MAX {
            match log.read(id, at, 100) {
                Ok(records) => {
                    for record in records {
                        assert_eq!(record.offset, at, "I5: offsets have no gaps");
                        at = Offset(at.0 + 1);
                    }
                }
                Err(_) => (errors, at) = (errors + 1, Offset(at.0 + 1)),
            }
        }
        for outside in [first.0.wrapping_sub(1), next.0, u64::MAX] {
            let read = log.read(id, Offset(outside), 1);
            assert!(read.is_err(), "offset {outside}");
            let _ = log.entries(Index(outside), Index(u64::MAX), 1);
            let _ = (
                log.term(Index(outside)),
                log.find_now(id, Offset(outside), 1).is_ok(),
            );
        }
    }
    for wanted in [Wanted::Those(&|_| true), Wanted::These(&[LogId::DEFAULT])] {
        follow(log, &wanted);
    }
    let _ = (
        log.term_ends(Index(0)),
        log.droppable(log.next_index()).is_ok(),
        log.can_seal(log.first_entry()),
    );
}

/// Reads the records of several logs in their one order, as far as that goes.
fn follow(log: &Log, wanted: &Wanted<'_>) {
    let (mut at, end) = log.positions();
    let mut course = Course::default();
    while at < end {
        let Ok(found) = log.stretch(at, wanted, &mut course) else {
            break;
        };
        assert!(found.passed() > at, "a look gets on");
        let _ = log
            .find_stretch(&found, 100)
            .and_then(|found| log.read_found(found, 100));
        at = found.passed();
    }
}

/// Scrubs, and mends what can be mended without another node.
fn repair(log: &Log) {
    let mut from = Index(0);
    while let Some(mut scrub) = log.scrub(from) {
        from = scrub.next_index();
        while scrub.step().is_ok_and(|bytes| bytes > 0) {}
    }
    for damaged in log.damaged() {
        let _ = log.derive_index(&damaged.seal);
    }
    read_all(log);
}

/// Publishes what was not, appends, and opens again: what a node does next. Entries whose payload is
/// no batch end that, as they stop a node.
fn go_on(kept: &mut Kept, log: Log, rows_hold: bool) {
    let covered = kept.checkpoint.as_ref().filter(|_| rows_hold);
    let from = covered.map_or(Index(0), |covered| Index(covered.applied.0 + 1));
    if publish_from(&log, from.max(log.first_entry())).is_err() {
        return;
    }
    let term = log.last().map_or(1, |(term, _)| term.0);
    for number in 0..3 {
        let entry = entry_of(&mut Input(&[0x41, 0x60 | number]), term, log.next_index());
        append(&log, entry.clone()).expect("it is small");
        let runs = log.runs_of(&entry).expect("it was written by the book");
        log.publish(entry.index, &runs).expect("a good disk");
    }
    log.sync_index().expect("a good disk");
    let (_, applied) = log.last().expect("there are three");
    let ends = log.all_ends();
    kept.checkpoint = Some(log.checkpoint_at(applied));
    log.seal_covered(applied).expect("a good disk");
    let end = log.next_index();
    let manifest = log.manifest(end);
    log.close();
    drop(log);
    let (log, opened) = kept.open().expect("what was left by a log opens");
    assert!(opened.rows_hold, "a checkpoint's rows are durable");
    assert_eq!((log.next_index(), log.all_ends()), (end, ends));
    assert!(manifest.is_ok(), "every segment is summed up");
    read_all(&log);
}

/// The target: bytes as a seal's file; what passes answers for every entry that it names.
pub fn seal_file(bytes: &[u8], mended: bool) -> Option<Seal> {
    let disk = MemoryDisk::default();
    let path = path_of(2, 0);
    let file = disk.create(&path).expect("a new file");
    file.write_all_at(bytes, 0).expect("a good disk");
    if mended {
        disk.corrupt(&path, |bytes| mend(&path, bytes));
    }
    let base = bytes.get(16..24).and_then(|bytes| bytes.first_chunk());
    let base = Index(base.map_or(0, |base| u64::from_le_bytes(*base)));
    let seal = Seal::read(&disk, &path, base).ok()??;
    for index in [
        base,
        Index(seal.next_index().0 - 1),
        Index(base.0 + u64::from(seal.entries / 2)),
    ] {
        let mark = seal.mark_before(index);
        assert!(
            mark.position < seal.mark_after(index, |_| true),
            "a span has a length"
        );
        let term = seal::term_at(&seal.term_ends, index.0 - base.0);
        assert!(
            term <= Some(seal.last_term()) && term.is_some(),
            "every entry has a term"
        );
    }
    Some(seal)
}
