//! The state machine against a plain one: the same committed commands, the same answers.
//!
//! Checkpoints, restarts and a move to another disk by a snapshot come at random, and what is applied again answers
//! as it did the first time (I2). Fewer records come than a session remembers, so that the plain one may remember
//! all.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use openraft::entry::RaftEntry;
use proptest::prelude::*;
use prost::Message;

use crate::disk::memory::MemoryDisk;
use crate::log::record::{self, BatchBuilder, Conditions, Producer, join};
use crate::log::{self, Error, Floor, Index, Log, LogId, Offset, Position, Term};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::admission::Entrance;
use crate::raft::entry::audited::Audited;
use crate::raft::entry::catalog::{CreateLog, DeleteLog, LogConfig, SetRetention, Trim, UpdateLog};
use crate::raft::entry::command::{ClaimEpoch, CloseSession, Command, CommitCursor, OpenSession};
use crate::raft::entry::outcome::{BundleOutcome, NotRegistered, Outcome, StateRefusal};
use crate::raft::entry::types::{self, Entry, EntryPayload};
use crate::raft::entry::{codec, owner};
use crate::raft::state::checkpoint::Changes;
use crate::raft::state::fsm::Fsm;
use crate::raft::state::logs::DEFAULT_NAME;

use super::oracle_plain_tests::{Offsets, Parts, Plain, PlainPart, is_change};
use super::oracle_steps_tests::{
    BatchOf, Plan, Step, Under, Which, copy_segment, packed_of, steps,
};

/// No log has this id.
const NEVER: LogId = LogId(1000);

/// The real one, with what is durable of it.
pub(super) struct World {
    disk: MemoryDisk,
    pub(super) log: Log,
    pub(super) fsm: Fsm,
    pub(super) plain: Plain,
    /// The present id of each of the test's sessions.
    open: BTreeMap<u8, u128>,
    /// The logs that each name had, the newest last.
    had: BTreeMap<String, Vec<LogId>>,
    /// By raft index.
    outcomes: Vec<Outcome>,
    checkpoint: Option<Vec<u8>>,
    /// The rows of the tables, as they are stored.
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    saves: usize,
    pub(super) floor: Floor,
}

fn open(disk: &MemoryDisk, floor: Floor, covered: Option<log::Checkpoint>) -> (Log, bool) {
    let config = log::Config {
        segment_bytes_max: 4096,
        index_bytes_max: 256,
        tail_cache_bytes_max: 300,
        inline_io: true,
        ..log::Config::default()
    };
    let disk = Arc::new(disk.clone());
    let opened = Log::open(disk, Path::new("/log"), config, floor, covered);
    let (log, opened) = opened.unwrap();
    (log, opened.rows_hold)
}

fn flat(outcome: &BundleOutcome) -> Offsets {
    let receipt = outcome.as_ref().map_err(|refused| *refused)?;
    let offsets = receipt.ranges.iter().flat_map(|range| {
        let first = range.first.0;
        first..first + u64::from(range.count)
    });
    Ok(offsets.collect())
}

impl World {
    pub(super) fn new() -> Self {
        let disk = MemoryDisk::default();
        let (log, _) = open(&disk, Floor::default(), None);
        Self {
            disk,
            log,
            fsm: Fsm::default(),
            plain: Plain::default(),
            open: BTreeMap::new(),
            had: [(DEFAULT_NAME.to_owned(), vec![LogId::DEFAULT])].into(),
            outcomes: Vec::new(),
            checkpoint: None,
            rows: BTreeMap::new(),
            saves: 0,
            floor: Floor::default(),
        }
    }

    pub(super) fn run(&mut self, step: &Step) {
        match step {
            Step::Commit(plan) => self.commit(plan),
            Step::Checkpoint => self.checkpoint(),
            Step::Restart => self.restart(),
            Step::Drop => self.drop_trimmed(),
            Step::Move => self.move_on(),
            Step::Rewrite(from, count) => self.rewrite((*from).into(), (*count).into()),
        }
        self.check();
        if !matches!(step, Step::Commit(_)) {
            self.check_records();
        }
    }

    /// One of the logs that a name had, and the name.
    pub(super) fn which(&self, which: Which) -> (String, LogId) {
        let name = name_of(which.name);
        let had = self.had.get(&name).map_or(&[][..], |had| had);
        let id = had.iter().rev().nth(which.back.into());
        (name, id.copied().unwrap_or(NEVER))
    }

    fn commit(&mut self, plan: &Plan) {
        match plan {
            Plan::Append(parts) => self.append(parts),
            Plan::Roll => self.roll(),
            Plan::Register(name, dir) => {
                let (name, directory_id) = (format!("n{name}"), format!("d{dir}"));
                let id = self.outcomes.len() as u64;
                let wanted = self.plain.register(id, name.clone(), directory_id.clone());
                let outcome = self.apply(Command::Register {
                    name,
                    directory_id,
                    entrance: Entrance::Open,
                });
                let Outcome::Registered(given) = outcome else {
                    panic!("{outcome:?}");
                };
                let given = given.map_err(|refused| match refused {
                    NotRegistered::NameTaken { node_id } => node_id,
                    NotRegistered::NotAdmitted => panic!("it is open"),
                });
                assert_eq!(given, wanted);
            }
            Plan::Forget(name) => {
                let name = format!("n{name}");
                self.plain.nodes.retain(|_, (known, _)| *known != name);
                assert_eq!(self.apply(Command::Forget { name }), Outcome::Done);
            }
            Plan::Trim(which, choice) => {
                let trim = self.trim_of(*which, *choice);
                let wanted = self.plain.trim(&trim);
                assert_eq!(self.apply(Command::Trim(trim)), wanted);
            }
            Plan::TrimLogs(all) => {
                let trims = all.iter().map(|(which, to)| self.trim_of(*which, *to));
                let trims: Vec<_> = trims.collect();
                trims.iter().for_each(|trim| drop(self.plain.trim(trim)));
                assert_eq!(self.apply(Command::TrimLogs(trims)), Outcome::Done);
            }
            Plan::Create { .. } | Plan::Update(..) | Plan::Delete(_) => self.catalog(plan),
            Plan::SetRetention(which, max_bytes, max_age_ms) => {
                let set = SetRetention::from_pb(pb::SetRetention {
                    max_bytes: *max_bytes,
                    max_age_ms: *max_age_ms,
                    log: self.which(*which).1.0,
                    ..pb::SetRetention::default()
                });
                let wanted = self.plain.set_retention(&set);
                assert_eq!(self.apply(Command::SetRetention(set)), wanted);
            }
            Plan::CloseSession(session) => {
                let id = self.open.remove(session).unwrap_or(999);
                self.plain.sessions.remove(&id);
                let session = id as u64;
                let close = CloseSession {
                    session,
                    owner: None,
                };
                assert_eq!(self.apply(Command::CloseSession(close)), Outcome::Done);
            }
            Plan::Claim(name, old) => self.claim(format!("f{name}"), *old),
            Plan::Cursor(which, name, to, expected) => {
                let commit = CommitCursor {
                    log: self.which(*which).1,
                    name: format!("c{name}"),
                    subject: String::new(),
                    offset: Offset(*to),
                    expected: expected.map(Offset),
                    create_only: false,
                    now_ms: 0,
                };
                let wanted = self.plain.set_cursor(&commit);
                assert_eq!(self.apply(Command::CommitCursor(commit)), wanted);
            }
            Plan::DeleteCursor(which, name) => {
                let (log, name) = (self.which(*which).1, format!("c{name}"));
                let wanted = self.plain.delete_cursor(log, &name);
                assert_eq!(self.apply(Command::DeleteCursor(log, name)), wanted);
            }
            Plan::Blank => assert_eq!(self.apply_payload(EntryPayload::Blank), Outcome::Done),
        }
    }

    /// Past the end, now and then: then the log begins there.
    fn trim_of(&self, which: Which, choice: u16) -> Trim {
        let (_, log) = self.which(which);
        let next = self.plain.logs.get(&log).map_or(0, |log| log.next().0);
        let first = Offset(u64::from(choice) % (next + 3));
        Trim { log, first }
    }

    /// A command that changes logs.
    fn catalog(&mut self, plan: &Plan) {
        let config = |label: u8| LogConfig {
            labels: [("label".to_owned(), label.to_string())].into(),
            ..LogConfig::default()
        };
        let (wanted, command) = match plan {
            Plan::Create {
                name,
                label,
                token,
                logs_max,
            } => {
                let create = CreateLog {
                    name: name_of(*name),
                    config: config(*label),
                    token: token.map_or(Bytes::new(), |token| vec![token].into()),
                    subject: String::new(),
                    now_ms: 0,
                    logs_max: (*logs_max).into(),
                };
                let wanted = self.plain.create(&create);
                if let Outcome::Log(made) = wanted {
                    let had = self.had.entry(create.name.clone()).or_default();
                    if had.last() != Some(&made.log) {
                        had.push(made.log);
                    }
                }
                (wanted, Command::CreateLog(create))
            }
            Plan::Update(which, label, expected) => {
                let (_, log) = self.which(*which);
                let epoch = self.plain.logs.get(&log).map_or(1, |log| log.epoch);
                let update = UpdateLog {
                    log,
                    config: config(*label),
                    expected_epoch: expected.map(|off| epoch.saturating_add_signed(off.into())),
                };
                (self.plain.update(&update), Command::UpdateLog(update))
            }
            Plan::Delete(which) => {
                let (name, log) = self.which(*which);
                let delete = DeleteLog { name, log };
                (self.plain.delete(&delete), Command::DeleteLog(delete))
            }
            other => unreachable!("{other:?} changes no log"),
        };
        assert_eq!(self.apply(command), wanted);
    }

    fn append(&mut self, parts: &[BatchOf]) {
        let (mut batches, mut wanted) = (Vec::new(), Vec::new());
        for part in parts {
            let (_, mut log) = self.which(part.log);
            let mut producer = part.producer.map(|(session, back)| {
                let session = self.session(session);
                let next = self.plain.sessions.get(&session).map_or(0, Vec::len);
                let sequence = (next as u64).saturating_add_signed(back.into());
                Producer {
                    session,
                    sequence,
                    owner: self.plain.owners[&session] + u128::from(part.is_stolen),
                }
            });
            let value = |value: &u8| vec![*value; usize::from(*value) % 90];
            let mut values: Vec<_> = part.values.iter().map(value).collect();
            let Some(under) = part.packed else {
                if let Some(producer) = producer.filter(|_| part.again) {
                    let (session, sequence) = (producer.session, producer.sequence);
                    let first;
                    (first, values) = self.plain.again(session, sequence, values);
                    log = first.unwrap_or(log);
                }
                let mut batch = BatchBuilder::of(log, producer);
                values.iter().for_each(|value| batch.push(value, 0, 0));
                batches.push(batch.finish());
                wanted.push(self.plain.append(log, producer, &values));
                continue;
            };
            let mut sent: Parts = vec![(log, values)];
            for (which, values, _) in &part.more {
                let (_, log) = self.which(*which);
                if sent.iter().all(|(other, _)| *other != log) {
                    sent.push((log, values.iter().map(value).collect()));
                }
            }
            if let Some(producer) = producer.as_mut().filter(|_| part.again) {
                let again = self.plain.packed_again(producer.session, producer.sequence);
                (producer.sequence, sent) = again.unwrap_or((producer.sequence, sent));
            }
            let parts = self.under(sent, under, &part.more);
            let bytes = parts.iter().enumerate().map(|(number, part)| {
                let producer = producer.filter(|_| number == 0);
                packed_of(part.log, producer, &part.conditions, &part.values)
            });
            batches.push(record::bundle(&bytes.collect::<Vec<_>>()));
            wanted.push(self.plain.append_packed(producer, &parts));
        }
        let stamp = (parts.len() > 1).then_some(self.outcomes.len() as u64);
        let outcome = self.apply(Command::Append(join(batches.iter(), stamp)));
        let Outcome::Appended(given) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(given.iter().map(flat).collect::<Vec<_>>(), wanted);
    }

    /// Packed batches under their conditions.
    fn under(
        &self,
        sent: Parts,
        (off, fence): Under,
        more: &[(Which, Vec<u8>, Option<i8>)],
    ) -> Vec<PlainPart<'static>> {
        let offs = [off].into_iter().chain(more.iter().map(|(_, _, off)| *off));
        let parts = sent.into_iter().zip(offs.chain(std::iter::repeat(None)));
        let mut fence = fence.map(|(name, off)| {
            let name = ["f0", "f1", "f2"][usize::from(name)];
            let epoch = self.plain.epochs.get(name).copied().unwrap_or(0);
            record::Fence {
                name,
                epoch: epoch.saturating_add_signed(off.into()),
                claimant: owner::of_holder("h"),
            }
        });
        let part = |((log, values), off): (_, Option<i8>)| {
            let next = self.plain.logs.get(&log).map_or(0, |log| log.next().0);
            let expected = |off: i8| Offset(next.saturating_add_signed(off.into()));
            let conditions = Conditions {
                expected_next_offset: off.map(expected),
                fence: fence.take(),
            };
            PlainPart {
                log,
                values,
                conditions,
            }
        };
        parts.map(part).collect()
    }

    /// The id of one of the test's sessions, which is opened if it is not.
    fn session(&mut self, session: u8) -> u128 {
        if let Some(id) = self.open.get(&session) {
            return *id;
        }
        let id = self.outcomes.len() as u64;
        let open = OpenSession {
            subject: String::new(),
            owner: 1000 * (1 + u128::from(session)),
            now_ms: id,
            idle_before_ms: 0,
        };
        assert_eq!(self.apply(Command::OpenSession(open)), Outcome::Session(id));
        self.open.insert(session, id.into());
        self.plain.sessions.insert(id.into(), Vec::new());
        let owner = 1000 * (1 + u128::from(session));
        self.plain.owners.insert(id.into(), owner);
        id.into()
    }

    fn claim(&mut self, name: String, old: bool) {
        let current = self.plain.epochs.get(&name).copied().unwrap_or(0);
        let claim = ClaimEpoch {
            log: LogId::DEFAULT,
            name: name.clone(),
            holder: "h".to_owned(),
            subject: Some("h".to_owned()),
            token: self.outcomes.len() as u128,
            expected: old.then_some(0),
        };
        let wanted = if old && current != 0 {
            Outcome::Refused(StateRefusal::EpochDiffers { current })
        } else {
            self.plain.epochs.insert(name, current + 1);
            Outcome::Claimed(current + 1, self.plain.logs[&LogId::DEFAULT].next())
        };
        assert_eq!(self.apply(Command::ClaimEpoch(claim)), wanted);
    }

    /// Every second change is told in the log of changes, in the same entry.
    fn apply(&mut self, command: Command) -> Outcome {
        if !command.is_told() || self.outcomes.len().is_multiple_of(2) {
            return self.apply_payload(EntryPayload::Normal(command));
        }
        let lines = [format!("{command}"), "its second record".to_owned()];
        let audited = Audited::new(command, &lines, self.outcomes.len() as u64);
        let outcome = self.apply_payload(EntryPayload::Normal(Command::Audited(audited)));
        if is_change(&outcome) {
            self.plain.tell(lines);
        }
        outcome
    }

    pub(super) fn apply_payload(&mut self, payload: EntryPayload) -> Outcome {
        let id = types::log_id(Term(1), self.log.next_index());
        let entry = Entry::new(id, payload);
        let done = Box::new(|result: Result<(), Error>| result.unwrap());
        self.log.append(vec![codec::to_log(&entry)], done).unwrap();
        let outcome = self.fsm.apply(&self.log, &entry).unwrap();
        self.outcomes.push(outcome.clone());
        outcome
    }

    pub(super) fn checkpoint(&mut self) {
        if self.fsm.applied.is_some() {
            self.log.sync_index().unwrap();
            let changes = self.fsm.take_changes(self.log.positions().1);
            // A disk that is too full for it takes none of it. The same changes are then in the next one.
            self.saves += 1;
            let is_saved = self.saves % 3 != 1;
            if is_saved {
                self.store(changes);
            }
            self.fsm.saved(is_saved);
        }
    }

    /// As the stable store does.
    fn store(&mut self, changes: Changes) {
        self.checkpoint = Some(changes.checkpoint.encode_to_vec());
        if changes.is_all {
            self.rows.clear();
        }
        for (key, row) in changes.rows {
            match row {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
        let whole = self.fsm.stored_rows();
        let whole: BTreeMap<_, _> = whole.map(|(key, row)| (key, row.unwrap())).collect();
        assert!(self.rows == whole, "the changes make the whole");
    }

    /// The state as it is durable, and what it covers.
    pub(super) fn durable(&self) -> Option<(Fsm, log::Checkpoint)> {
        let checkpoint = pb::Checkpoint::decode(self.checkpoint.as_deref()?).unwrap();
        let next = Position(checkpoint.next_position);
        let rows = self.rows.values();
        let rows = rows.map(|row| pb::StateRow::decode(&**row).unwrap());
        let fsm = Fsm::restore(checkpoint, rows).unwrap();
        let covered = fsm
            .covered(next)
            .expect("an empty state is not made durable");
        Some((fsm, covered))
    }

    pub(super) fn restart(&mut self) {
        let (restored, covered) = self.durable().unzip();
        let is_covered = covered.is_some();
        let from = covered
            .as_ref()
            .map_or(Index(0), |covered| Index(covered.applied.0 + 1));
        let (log, rows_hold) = open(&self.disk, self.floor, covered);
        assert_eq!(rows_hold, is_covered);
        let before = self.fsm.logs.clone();
        (self.log, self.fsm) = (log, restored.unwrap_or_default());
        let kept = self.log.clone();
        self.apply_again(&kept, from, false);
        assert_eq!(self.fsm.logs, before, "I2: marks and all");
    }

    /// Applies what the checkpoint does not cover, out of a log; appends it, if this is another log.
    fn apply_again(&mut self, kept: &Log, mut at: Index, appends: bool) {
        while at < kept.next_index() {
            for entry in kept.entries(at, kept.next_index(), 500).unwrap() {
                if appends {
                    let done = Box::new(|result: Result<(), Error>| result.unwrap());
                    self.log.append(vec![entry.clone()], done).unwrap();
                }
                let entry = codec::from_log(entry).unwrap();
                let outcome = self.fsm.apply(&self.log, &entry).unwrap();
                assert_eq!(outcome, self.outcomes[at.0 as usize], "I2: entry {at}");
                at = Index(at.0 + 1);
            }
        }
    }

    /// Seals, and gives up what was trimmed.
    fn drop_trimmed(&mut self) {
        self.checkpoint();
        let Some((_, covered)) = self.durable() else {
            return;
        };
        self.log.seal_covered(covered.applied).unwrap();
        let end = Index(covered.applied.0 + 1);
        if let Some((floor, _)) = self.log.droppable(end).unwrap() {
            self.floor = floor;
            assert!(self.log.drop_below(floor).unwrap());
        }
    }

    /// Goes on upon another disk, with what a snapshot brings there.
    fn move_on(&mut self) {
        let Some((fsm, covered)) = self.durable() else {
            return;
        };
        self.log.seal_covered(covered.applied).unwrap();
        let end = Index(covered.applied.0 + 1);
        let seals = self.log.manifest(end).unwrap();
        let disk = MemoryDisk::default();
        let staging = Path::new("/log/staging");
        for seal in &seals {
            copy_segment(&self.log, &disk, staging, seal);
        }
        let (log, _) = open(&disk, Floor::default(), None);
        let names: Vec<_> = seals.iter().map(|seal| seal.name()).collect();
        log.adopt(staging, &names, self.floor, &covered).unwrap();
        let kept = std::mem::replace(&mut self.log, log);
        let before = std::mem::replace(&mut self.fsm, fsm).logs;
        self.disk = disk;
        self.apply_again(&kept, end, true);
        assert_eq!(self.fsm.logs, before, "I2: marks and all");
    }

    pub(super) fn check(&self) {
        let ends = self.plain.ends();
        assert_eq!(self.log.all_ends(), ends);
        assert_eq!(*self.fsm.logs.ends(), ends);
        let positions = (self.floor.position, Position(self.plain.appended));
        assert_eq!(self.log.positions(), positions);
        let mut cursors = 0;
        for (id, plain) in &self.plain.logs {
            let known = self.fsm.logs.named(&plain.name);
            let (of, known) = known.expect("it has its name");
            assert_eq!((of, known.epoch), (*id, plain.epoch));
            assert_eq!(known.config, plain.config);
            let listed = self.fsm.cursors.list(*id, "", usize::MAX);
            let listed = listed
                .into_iter()
                .map(|(name, cursor)| (name, cursor.offset.0));
            assert_eq!(listed.collect::<BTreeMap<_, _>>(), plain.cursors);
            cursors += plain.cursors.len();
        }
        assert_eq!(self.fsm.cursors.0.rows().len(), cursors, "of no other log");
        let known = self.fsm.registrations.to_pb().into_iter();
        let known = known.map(|node| (node.node_id, (node.name, node.directory_id)));
        let known: BTreeMap<_, _> = known.collect();
        assert_eq!(known, self.plain.nodes);
    }

    fn check_records(&self) {
        for (id, plain) in &self.plain.logs {
            if let Some(before) = plain.first.checked_sub(1) {
                let gone = self.log.read(*id, Offset(before), 1);
                assert!(matches!(gone, Err(Error::Trimmed { .. })), "{gone:?}");
            }
            let mut at = Offset(plain.first);
            while at < plain.next() {
                for record in self.log.read(*id, at, 400).unwrap() {
                    assert_eq!(record.offset, at, "of log {id}");
                    assert_eq!(record.value, plain.records[at.0 as usize]);
                    at = Offset(at.0 + 1);
                }
            }
            let none = self.log.read(*id, at, 1);
            assert!(matches!(none, Err(Error::OutOfRange { .. })), "{none:?}");
        }
        let had = self.had.values().flatten();
        for id in had.filter(|id| !self.plain.logs.contains_key(id)) {
            let gone = self.log.read(*id, Offset(0), 1);
            assert!(matches!(gone, Err(Error::NoLog(_))), "{gone:?}");
        }
    }
}

/// The names of the test's logs.
fn name_of(number: u8) -> String {
    match number {
        0 => DEFAULT_NAME.to_owned(),
        number => format!("l{number}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_state_machine_answers_as_a_plain_one_does(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
        world.check_records();
        world.restart();
        world.check();
        world.check_records();
    }
}
