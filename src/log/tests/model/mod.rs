//! A log against a `Vec`: generated operations, every answer the same.
//!
//! The model keeps entries and records in two vectors. Where the log is free to choose (how many
//! entries one read gives, where segments end) it must stay within its contract; all else is equal,
//! the bounds in errors included.

mod ops;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use crate::disk::memory::MemoryDisk;
use crate::log::compaction::GoneWriter;
use crate::log::fuzzing::read_run;
use crate::log::tests::rewriting::{any_plan, rewrite};
use crate::log::tests::rolls::{check_ends, rolled_behind};
use crate::log::*;
use ops::{COMPACTED, Content, LOGS, Op, Placed, entry, ops};

const DIR: &str = "/log";

/// The records of a log from its offset 0 on, and its first offset that may be read.
#[derive(Clone, Default)]
struct OneLog {
    records: Vec<Record>,
    first: u64,
}

#[derive(Default)]
struct Model {
    /// From raft index 0 on, whatever was given up since.
    entries: Vec<Placed>,
    logs: BTreeMap<LogId, OneLog>,
    /// The log and the offset of each record, in the order of positions.
    positions: Vec<(LogId, Offset)>,
    /// Those of them that compaction gave up.
    gone: BTreeSet<Position>,
    published: usize,
    checkpoint: Option<(Checkpoint, BTreeMap<LogId, OneLog>)>,
    floor: Floor,
    /// The raft index behind the last rewritten segment.
    rewritten_to: Index,
    rewrites: u64,
}

impl Model {
    /// The first entry that is held.
    fn first(&self) -> Index {
        self.floor.index.max(self.rewritten_to)
    }

    /// The records of a log that can be read from an offset on.
    fn living(&self, log: LogId, from: u64) -> Vec<Record> {
        let gone = self.gone.iter();
        let gone = gone.map(|position| &self.positions[position.0 as usize]);
        let gone: BTreeSet<_> = gone
            .filter(|(of, _)| *of == log)
            .map(|(_, at)| at)
            .collect();
        let held = self.logs[&log].records[from as usize..].iter();
        held.filter(|record| !gone.contains(&record.offset))
            .cloned()
            .collect()
    }
}

struct World {
    disk: MemoryDisk,
    log: Log,
    model: Model,
    term: u64,
}

fn config() -> Config {
    Config {
        segment_bytes_max: 2048,
        index_bytes_max: 256,
        tail_cache_bytes_max: 300,
        inline_io: true,
        ..Config::default()
    }
}

fn done() -> Done {
    Box::new(|result| result.expect("a good disk"))
}

/// Somewhere in `from..=to`.
fn within(choice: u8, from: u64, to: u64) -> u64 {
    from + u64::from(choice) % (to - from + 1)
}

impl World {
    fn new() -> Self {
        let disk = MemoryDisk::default();
        let shared = Arc::new(disk.clone());
        let opened = Log::open(shared, Path::new(DIR), config(), Floor::default(), None);
        Self {
            disk,
            log: opened.unwrap().0,
            model: Model::default(),
            term: 1,
        }
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Append(contents) => self.append(contents),
            Op::Truncate(choice) => self.truncate(*choice),
            Op::Publish(choice) => self.publish(*choice),
            Op::Checkpoint => self.checkpoint(),
            Op::Seal => self.seal(),
            Op::Trim(log, choice) => self.trim(LogId((*log).into()), *choice),
            Op::Forget(log) => self.forget(LogId((*log).into())),
            Op::Drop => self.drop_trimmed(),
            Op::Rewrite(from, count, gone) => self.rewrite((*from, *count), *gone),
            Op::Reopen => self.reopen(),
            Op::Entries(from, to, bytes) => self.entries(*from, *to, (*bytes).into()),
            Op::Read(log, offset, bytes) => {
                self.read(LogId((*log).into()), *offset, (*bytes).into());
            }
            Op::ReadMany(logs, from, bytes) => {
                let from = within(*from, 0, self.model.positions.len() as u64 + 2);
                self.read_many(*logs, Position(from), (*bytes).into());
            }
        }
        self.check();
    }

    fn append(&mut self, contents: &[Content]) {
        let next = self.model.entries.len() as u64;
        let before = self.model.entries.iter().map(|(entry, _)| entry);
        let mut rolled = rolled_behind(before);
        let mut made = Vec::new();
        for (content, index) in contents.iter().zip(next..) {
            let placed = entry(content, (self.term, index, rolled));
            if placed.0.rolls() == Some(rolled) {
                rolled = Index(index + 1);
            }
            made.push(placed);
        }
        let entries = made.iter().map(|(entry, _)| entry.clone()).collect();
        // One that is larger than a segment gets one of its own.
        self.log.append(entries, done()).unwrap();
        self.model.entries.extend(made);
    }

    fn truncate(&mut self, choice: u8) {
        let model = &mut self.model;
        let (from, to) = (model.published as u64, model.entries.len() as u64);
        let keep = within(choice, from, to);
        let last = keep.checked_sub(1).map(Index);
        self.log.truncate_after(last, done()).unwrap();
        model.entries.truncate(keep as usize);
        self.term += 1;
    }

    fn publish(&mut self, choice: u8) {
        let model = &mut self.model;
        let (from, to) = (model.published as u64, model.entries.len() as u64);
        for at in from..within(choice, from, to) {
            let (entry, mut runs) = model.entries[at as usize].clone();
            let mut next: BTreeMap<LogId, u64> = BTreeMap::new();
            for run in &mut runs {
                let known = model
                    .logs
                    .get(&run.log)
                    .map_or(0, |log| log.records.len() as u64);
                let next = next.entry(run.log).or_insert(known);
                run.first = Offset(*next);
                *next += u64::from(run.count);
            }
            let first = self.log.publish(entry.index, &runs).unwrap();
            assert_eq!(first, Position(model.positions.len() as u64));
            for run in &runs {
                let out = &mut model.logs.entry(run.log).or_default().records;
                read_run(&entry, run, out).unwrap();
                let offsets = run.first.0..run.first.0 + u64::from(run.count);
                model
                    .positions
                    .extend(offsets.map(|at| (run.log, Offset(at))));
            }
            model.published += 1;
        }
    }

    fn checkpoint(&mut self) {
        if self.model.published > self.model.floor.index.0 as usize {
            self.log.sync_index().unwrap();
            let applied = Index(self.model.published as u64 - 1);
            let checkpoint = self.log.checkpoint_at(applied);
            self.model.checkpoint = Some((checkpoint, self.model.logs.clone()));
        }
    }

    fn seal(&mut self) {
        if let Some((checkpoint, _)) = &self.model.checkpoint {
            let could = self.log.can_seal(checkpoint.applied);
            let sealed = self.log.seal_covered(checkpoint.applied).unwrap();
            assert_eq!(could, sealed > 0);
            assert!(!self.log.can_seal(checkpoint.applied));
        }
    }

    fn trim(&mut self, log: LogId, choice: u8) {
        self.log.begin(log);
        let known = self.model.logs.entry(log).or_default();
        // Past the end, now and then: then it ends there.
        let next = known.records.len() as u64;
        let to = within(choice, 0, next + 3);
        self.log.trim(log, Offset(to));
        known.first = known.first.max(to.min(next));
    }

    /// Its name may be given to another log, but never its id: so the model lets it go on where it ended.
    fn forget(&mut self, log: LogId) {
        if let Some(known) = self.model.logs.get_mut(&log) {
            known.first = known.records.len() as u64;
            self.log.trim(log, Offset(known.first));
        }
    }

    fn drop_trimmed(&mut self) {
        let Some((checkpoint, _)) = &self.model.checkpoint else {
            return;
        };
        let covered = Index(checkpoint.applied.0 + 1);
        let Some((floor, term)) = self.log.droppable(covered).unwrap() else {
            return;
        };
        assert!(floor.index <= covered);
        let gone = &self.model.entries[..floor.index.0 as usize];
        let records = gone.iter().flat_map(|(_, runs)| runs);
        let records: u64 = records.map(|run| u64::from(run.count)).sum();
        assert_eq!(floor.position, Position(records), "the floor's position");
        assert_eq!(Some(term), gone.last().map(|(entry, _)| entry.term));
        let pin = self.log.pin();
        assert!(!self.log.drop_below(floor).unwrap(), "it is pinned");
        drop(pin);
        self.model.floor = floor;
        assert!(self.log.drop_below(floor).unwrap());
    }

    fn rewrite(&mut self, choice: (u8, u8), gone: u16) {
        let Some((checkpoint, _)) = &self.model.checkpoint else {
            return;
        };
        self.model.rewrites += 1;
        let at = Index(1 << 40 | self.model.rewrites);
        let Some(mut plan) = any_plan(&self.log, checkpoint, at, choice) else {
            return;
        };
        let gone = self.going(&plan, gone);
        let mut said = GoneWriter::default();
        gone.iter().for_each(|position| said.push(*position));
        (plan.compacted, plan.gone) = ([COMPACTED].into(), said.finish());
        self.log.may_have_gaps(COMPACTED);
        assert!(rewrite(&self.log, &plan), "nothing is pinned");
        assert!(self.log.is_rewritten(&plan) && !self.log.can_rewrite(&plan));
        self.model.rewritten_to = self.model.rewritten_to.max(plan.next);
        self.model.gone.extend(gone);
    }

    /// The records of a run that the mask names. The last one of a log stays.
    fn going(&self, plan: &Rewrite, mask: u16) -> Vec<Position> {
        let segments = self.log.segments().into_iter();
        let run = segments.filter(|one| (plan.base..plan.next).contains(&one.base));
        let positions = run.flat_map(|one| {
            let next = one.next_position.map_or(0, |next| next.0);
            next - one.positions..next
        });
        let model = &self.model;
        let covered = model.checkpoint.as_ref().map(|(_, logs)| logs);
        // What is there after a restart ends with a record, too.
        let next = covered.and_then(|logs| logs.get(&COMPACTED));
        let next = next.map_or(0, |log| log.records.len() as u64);
        let goes = |position: &u64| {
            let (log, at) = &model.positions[*position as usize];
            *log == COMPACTED && at.0 + 1 < next && mask >> (position % 16) & 1 == 1
        };
        positions.filter(goes).map(Position).collect()
    }

    fn reopen(&mut self) {
        self.log.close();
        let model = &mut self.model;
        let disk = Arc::new(self.disk.clone());
        let dir = Path::new(DIR);
        let firsts: BTreeMap<_, _> = model
            .logs
            .iter()
            .map(|(id, log)| (*id, log.first))
            .collect();
        let covered = model.checkpoint.clone();
        let checkpoint = covered.as_ref().map(|(checkpoint, _)| checkpoint.clone());
        let opened = Log::open(disk, dir, config(), model.floor, checkpoint);
        let (log, opened) = opened.unwrap();
        assert_eq!(opened.torn_bytes, 0);
        assert_eq!(opened.rows_hold, covered.is_some());
        let applied = covered.as_ref().map(|(covered, _)| covered.applied.0);
        model.published = applied.map_or(0, |applied| applied as usize + 1);
        let next = covered.as_ref().map(|(covered, _)| covered.next_position.0);
        model.positions.truncate(next.unwrap_or(0) as usize);
        model.logs = covered.map_or_else(BTreeMap::new, |(_, logs)| logs);
        // Trims behind the checkpoint are applied again. Only records before it may have been given up.
        for (id, known) in &mut model.logs {
            let to = firsts.get(id).copied().unwrap_or(0);
            known.first = known.first.max(to.min(known.records.len() as u64));
            log.trim(*id, Offset(known.first));
        }
        if model.logs.contains_key(&COMPACTED) {
            log.may_have_gaps(COMPACTED);
        }
        self.log = log;
    }

    fn entries(&self, from: u8, to: u8, bytes: usize) {
        let next = self.model.entries.len() as u64;
        let (from, to) = (within(from, 0, next + 2), within(to, 0, next + 2));
        let asked = Index(from);
        let read = self.log.entries(asked, Index(to), bytes);
        if from >= to {
            assert!(read.unwrap().is_empty());
            return;
        }
        let first = self.model.first();
        if asked < first && read.is_ok() {
            // It stands in a segment before the last rewritten one.
            assert!(asked >= self.model.floor.index);
        } else if asked < first || from >= next {
            let known = matches!(read, Err(Error::NoEntry { asked: a, first: f, next: n })
                if (a, f, n) == (asked, first, Index(next)));
            assert!(known, "{read:?}");
            return;
        }
        let read = read.unwrap();
        assert!(!read.is_empty() && read.len() as u64 <= to - from);
        let held = self.model.entries[from as usize..].iter();
        assert!(read.iter().zip(held).all(|(read, (held, _))| read == held));
    }

    fn read(&self, log: LogId, offset: u8, bytes: usize) {
        let Some(known) = self.model.logs.get(&log) else {
            let read = self.log.read(log, Offset(0), bytes);
            let nothing = matches!(read, Err(Error::NoLog(_) | Error::OutOfRange { .. }));
            return assert!(nothing, "{read:?}");
        };
        let (first, next) = (Offset(known.first), Offset(known.records.len() as u64));
        let asked = Offset(within(offset, 0, next.0 + 2));
        let read = self.log.read(log, asked, bytes);
        let bounds = (asked, first, next);
        let is_right = if asked < first {
            matches!(read, Err(Error::Trimmed { asked, first, next }) if (asked, first, next) == bounds)
        } else if asked >= next {
            matches!(read, Err(Error::OutOfRange { asked, first, next }) if (asked, first, next) == bounds)
        } else {
            let read = read.as_ref().unwrap();
            let before = read.split_last().map_or(0, |(_, before)| {
                before.iter().map(|record| record.value.len()).sum()
            });
            assert!(before < bytes.max(1), "it stops once it has enough");
            let held = self.model.living(log, asked.0);
            !read.is_empty() && held.starts_with(read)
        };
        assert!(is_right, "{read:?}");
    }

    /// All records of some logs from a position on, which stand in the order of positions.
    fn read_many(&self, logs: u8, from: Position, bytes: usize) {
        let model = &self.model;
        let end = Position(model.positions.len() as u64);
        let is_wanted = |id: LogId| logs >> id.0 & 1 == 1;
        if from > end {
            let wanted = Wanted::Those(&is_wanted);
            let past = self.log.stretch(from, &wanted, &mut Course::default());
            let known =
                matches!(past, Err(Error::PastEnd { asked, next }) if (asked, next) == (from, end));
            return assert!(known, "{past:?}");
        }
        let held = |(position, (id, at)): &(u64, &(LogId, Offset))| {
            let first = model.logs.get(id).map(|log| log.first);
            let lives = !model.gone.contains(&Position(*position));
            lives && is_wanted(*id) && first.is_some_and(|first| at.0 >= first)
        };
        let positions = (from.0..).zip(&model.positions[from.0 as usize..]);
        let wanted = positions.filter(held);
        let record = |(_, (id, at)): (u64, &(LogId, Offset))| {
            (*id, model.logs[id].records[at.0 as usize].clone())
        };
        let wanted: Vec<_> = wanted.map(record).collect();
        // A look may find other logs, too, which are left out before they are read.
        let ids: Vec<_> = (0..LOGS.into())
            .map(LogId)
            .filter(|id| is_wanted(*id))
            .collect();
        for may_want in [
            Wanted::Those(&is_wanted),
            Wanted::Those(&|_| true),
            Wanted::These(&ids),
        ] {
            let found = read_stretches(&self.log, from, bytes, &may_want, is_wanted);
            assert_eq!(found.unwrap(), wanted, "from {from}");
        }
    }

    /// What can be asked without a choice.
    fn check(&self) {
        let (log, model) = (&self.log, &self.model);
        let next = Index(model.entries.len() as u64);
        for (id, known) in &model.logs {
            let next = Offset(known.records.len() as u64);
            assert_eq!(log.offsets(*id), (Offset(known.first), next));
        }
        let positions = (model.floor.position, Position(model.positions.len() as u64));
        assert_eq!(log.positions(), positions);
        assert_eq!((log.first_entry(), log.next_index()), (model.first(), next));
        assert_eq!(log.durable(), next);
        let held = &model.entries[model.floor.index.0 as usize..];
        let last = held.last().map(|(entry, _)| (entry.term, entry.index));
        assert_eq!(log.last(), last.filter(|last| last.1 >= model.first()));
        let mut ends: Vec<(Term, Index)> = Vec::new();
        for (entry, _) in held {
            assert_eq!(log.term(entry.index).unwrap(), entry.term);
            match ends.last_mut() {
                Some(end) if end.0 == entry.term => end.1 = entry.index,
                _ => ends.push((entry.term, entry.index)),
            }
        }
        assert_eq!(log.term_ends(Index(0)), ends);
        let entries = model.entries.iter().map(|(entry, _)| entry.clone());
        check_ends(log, &entries.collect::<Vec<_>>(), "the model");
        assert!(matches!(log.term(next), Err(Error::NoEntry { asked, .. }) if asked == next));
        assert!(log.damaged().is_empty());
    }

    /// Every entry and every record, in small reads and in large ones.
    fn check_all(&self) {
        for bytes in [1, 700, usize::MAX] {
            let mut at = self.model.first();
            while at < self.log.next_index() {
                for entry in self.log.entries(at, self.log.next_index(), bytes).unwrap() {
                    assert_eq!(entry, self.model.entries[at.0 as usize].0);
                    at = Index(at.0 + 1);
                }
            }
            for logs in 0..1 << LOGS {
                self.read_many(logs, Position(0), bytes);
            }
            for (id, known) in &self.model.logs {
                let (mut at, next) = self.log.offsets(*id);
                let mut read = Vec::new();
                while at < next {
                    read.extend(self.log.read(*id, at, bytes).unwrap());
                    at = Offset(read.last().unwrap().offset.0 + 1);
                }
                assert_eq!(read, self.model.living(*id, known.first));
            }
        }
    }
}

/// The records of several logs from a position on, each of one read as often as it goes on in the midst of a batch.
fn read_stretches(
    log: &Log,
    mut from: Position,
    bytes: usize,
    may_want: &Wanted<'_>,
    is_wanted: impl Fn(LogId) -> bool,
) -> Result<Vec<(LogId, Record)>, Error> {
    let (mut all, mut course) = (Vec::new(), Course::default());
    while from < log.positions().1 {
        let mut found = log.stretch(from, may_want, &mut course)?;
        found.retain(&is_wanted);
        if found.is_empty() {
            assert!(found.passed() > from, "it gets on");
            from = found.passed();
            continue;
        }
        let read = log.read_found(log.find_stretch(&found, bytes)?, bytes)?;
        assert!(!read.stored.is_empty(), "at least one record comes");
        for stored in read.stored {
            let mut records = Vec::new();
            let (begin, budget) = (stored.from, bytes.max(1));
            stored.read_into(begin, budget, &mut records)?;
            let passed = begin.0 - stored.first.0 + records.len() as u64;
            assert!(Position(stored.position.0 + passed) > from, "it gets on");
            from = found.behind(Position(stored.position.0 + passed));
            let is_whole = passed == u64::from(stored.count);
            all.extend(records.into_iter().map(|record| (stored.log, record)));
            if !is_whole {
                break;
            }
        }
    }
    Ok(all)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_log_answers_as_a_vec_does(ops in ops()) {
        let mut world = World::new();
        for op in &ops {
            world.run(op);
        }
        world.check_all();
        world.reopen();
        world.check();
        world.check_all();
    }
}
