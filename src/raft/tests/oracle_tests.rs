//! The state machine against a plain one: the same committed commands, the same answers.
//!
//! The plain one has no log, no digests and no stretches: a `Vec` of records, and a map from each
//! session's sequence number to an offset and to the batch that the record came in. Checkpoints and restarts come at random, and what is
//! applied again answers as it did the first time (I2). Fewer records come than a session
//! remembers, so that the plain one may remember all.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use openraft::entry::RaftEntry;
use proptest::prelude::*;
use prost::Message;

use crate::batch::Compression;
use crate::disk::memory::MemoryDisk;
use crate::log::record::{self, BatchBuilder, Conditions, Producer, join};
use crate::log::{self, Error, Floor, Index, Log, Offset, Term};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::admission::Entrance;
use crate::raft::entry::command::{
    ClaimEpoch, CloseSession, Command, CommitCursor, OpenSession, Retention,
};
use crate::raft::entry::outcome::{BatchOutcome, NotRegistered, Outcome, Refusal, StateRefusal};
use crate::raft::entry::types::{self, Entry, EntryPayload};
use crate::raft::entry::{codec, owner};
use crate::raft::snapshot;
use crate::raft::state::checkpoint::Changes;
use crate::raft::state::fsm::Fsm;

use super::oracle_steps_tests::{BatchOf, Plan, Step, steps};

/// The state machine as it would be written on a blackboard.
#[derive(Default)]
struct Plain {
    records: Vec<Vec<u8>>,
    first: u64,
    /// The records of a session.
    sessions: BTreeMap<u128, Vec<Sent>>,
    /// What their owners show.
    owners: BTreeMap<u128, u128>,
    /// The present id of each of the test's sessions.
    open: BTreeMap<u8, u128>,
    epochs: BTreeMap<String, u64>,
    cursors: BTreeMap<String, u64>,
    nodes: BTreeMap<u64, (String, String)>,
    retention: (u64, u64),
}

/// A record of a session: where it stands, and the packed batch that it came in.
#[derive(Clone)]
struct Sent {
    offset: u64,
    packed: Option<(usize, Vec<Vec<u8>>)>,
}

/// The offset of each record of a batch, or why there are none.
type Offsets = Result<Vec<u64>, Refusal>;

impl Plain {
    fn append(
        &mut self,
        producer: Option<Producer>,
        values: &[Vec<u8>],
        packed: Option<&Conditions<'_>>,
    ) -> Offsets {
        let fresh = self.records.len() as u64..;
        let Some(producer) = producer else {
            self.judge(packed)?;
            self.records.extend_from_slice(values);
            return Ok(fresh.take(values.len()).collect());
        };
        let known = self.sessions.get(&producer.session);
        let known = known.ok_or(Refusal::SessionExpired)?;
        if self.owners[&producer.session] != producer.owner {
            return Err(Refusal::NotOwner);
        }
        let begins = producer.sequence as usize;
        let expected = known.len() as u64;
        if begins > known.len() {
            return Err(Refusal::SequenceGap { expected });
        }
        let old = &known[begins..known.len().min(begins + values.len())];
        self.compare(old, begins, values, packed.is_some(), expected)?;
        if old.len() < values.len() {
            self.judge(packed)?;
        }
        let session = self.sessions.entry(producer.session).or_default();
        for (number, value) in values.iter().enumerate() {
            if begins + number >= session.len() {
                session.push(Sent {
                    offset: self.records.len() as u64,
                    packed: packed.map(|_| (begins, values.to_vec())),
                });
                self.records.push(value.clone());
            }
        }
        let stand = session[begins..begins + values.len()].iter();
        Ok(stand.map(|sent| sent.offset).collect())
    }

    /// The records from `sequence` on as they were sent, as far as they were: a packed batch as a whole.
    fn again(
        &self,
        session: u128,
        sequence: u64,
        mut values: Vec<Vec<u8>>,
        is_packed: bool,
    ) -> (u64, Vec<Vec<u8>>) {
        let known = self.sessions.get(&session).map_or(&[][..], |known| known);
        let old = known.get(sequence as usize..).unwrap_or_default();
        if let (true, Some(sent)) = (is_packed, old.first().and_then(|sent| sent.packed.clone())) {
            return (sent.0 as u64, sent.1);
        }
        for (value, sent) in values.iter_mut().zip(old) {
            value.clone_from(&self.records[sent.offset as usize]);
        }
        (sequence, values)
    }

    /// Whether what is sent again is what was sent.
    fn compare(
        &self,
        old: &[Sent],
        begins: usize,
        values: &[Vec<u8>],
        is_packed: bool,
        expected: u64,
    ) -> Result<(), Refusal> {
        let Some(first) = old.first() else {
            return Ok(());
        };
        if is_packed {
            let same_cut =
                |(at, sent): &(usize, Vec<Vec<u8>>)| *at == begins && sent.len() == values.len();
            let sent = first.packed.as_ref().filter(|sent| same_cut(sent));
            let (_, sent) = sent.ok_or(Refusal::SequenceOverlap { expected })?;
            let same = sent == values;
            return same
                .then_some(())
                .ok_or(Refusal::SequenceReused { expected });
        }
        for (sent, value) in old.iter().zip(values) {
            if sent.packed.is_some() {
                return Err(Refusal::SequenceOverlap { expected });
            }
            if self.records[sent.offset as usize] != *value {
                return Err(Refusal::SequenceReused { expected });
            }
        }
        Ok(())
    }

    fn judge(&self, conditions: Option<&Conditions<'_>>) -> Result<(), Refusal> {
        let Some(conditions) = conditions else {
            return Ok(());
        };
        if let Some(fence) = conditions.fence {
            let epoch = self.epochs.get(fence.name).copied().unwrap_or(0);
            if epoch != fence.epoch {
                return Err(Refusal::Fenced { epoch });
            }
        }
        let next = Offset(self.records.len() as u64);
        match conditions.expected_next_offset {
            Some(expected) if expected != next => Err(Refusal::OffsetDiffers { next }),
            _ => Ok(()),
        }
    }

    fn register(&mut self, id: u64, name: String, dir: String) -> Result<u64, u64> {
        let known = self.nodes.iter().find(|(_, (known, _))| *known == name);
        match known {
            Some((id, (_, known))) if *known == dir => Ok(*id),
            Some((id, _)) => Err(*id),
            None => {
                self.nodes.insert(id, (name, dir));
                Ok(id)
            }
        }
    }
}

/// The real one, with what is durable of it.
struct World {
    disk: MemoryDisk,
    log: Log,
    fsm: Fsm,
    plain: Plain,
    /// By raft index.
    outcomes: Vec<Outcome>,
    checkpoint: Option<Vec<u8>>,
    /// The rows of the tables, as they are stored.
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    saves: usize,
    floor: Floor,
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

/// A packed batch; the values decide on its compression.
fn packed_of(producer: Option<Producer>, conditions: &Conditions<'_>, values: &[Vec<u8>]) -> Bytes {
    let mut builder = crate::batch::Builder::default();
    for value in values {
        builder.push(&crate::batch::Record {
            value: value.clone().into(),
            ..crate::batch::Record::default()
        });
    }
    let (records, count) = builder.take();
    let all = [Compression::None, Compression::Lz4, Compression::Zstd];
    let compression = all[values[0].len() % 3];
    let records = crate::batch::compress(&records, compression).unwrap();
    record::packed(producer, conditions, compression, count, &records)
}

fn flat(outcome: &BatchOutcome) -> Offsets {
    let receipt = outcome.as_ref().map_err(|refusal| *refusal)?;
    let offsets = receipt.ranges.iter().flat_map(|range| {
        let first = range.first.0;
        first..first + u64::from(range.count)
    });
    Ok(offsets.collect())
}

impl World {
    fn new() -> Self {
        let disk = MemoryDisk::default();
        let (log, _) = open(&disk, Floor::default(), None);
        Self {
            disk,
            log,
            fsm: Fsm::default(),
            plain: Plain::default(),
            outcomes: Vec::new(),
            checkpoint: None,
            rows: BTreeMap::new(),
            saves: 0,
            floor: Floor::default(),
        }
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Commit(plan) => self.commit(plan),
            Step::Checkpoint => self.checkpoint(),
            Step::Restart => self.restart(),
            Step::Drop => self.drop_trimmed(),
        }
        self.check();
    }

    fn commit(&mut self, plan: &Plan) {
        match plan {
            Plan::Append(parts) => self.append(parts),
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
            Plan::Trim(choice) => {
                // Past the end, now and then: then it ends there.
                let next = self.plain.records.len() as u64;
                let to = u64::from(*choice) % (next + 3);
                self.plain.first = self.plain.first.max(to.min(next));
                let trimmed = Outcome::Trimmed(Offset(self.plain.first));
                assert_eq!(self.apply(Command::Trim(Offset(to))), trimmed);
            }
            Plan::SetRetention(max_bytes, max_age_ms) => {
                let (max_bytes, max_age_ms) = (*max_bytes, *max_age_ms);
                self.plain.retention = (max_bytes, max_age_ms);
                let retention = Retention::from_pb(pb::Retention {
                    max_bytes,
                    max_age_ms,
                    ..pb::Retention::default()
                });
                assert_eq!(self.apply(Command::SetRetention(retention)), Outcome::Done);
            }
            Plan::CloseSession(session) => {
                let id = self.plain.open.remove(session).unwrap_or(999);
                self.plain.sessions.remove(&id);
                let session = id as u64;
                let close = CloseSession {
                    session,
                    owner: None,
                };
                assert_eq!(self.apply(Command::CloseSession(close)), Outcome::Done);
            }
            Plan::Claim(name, old) => self.claim(format!("f{name}"), *old),
            Plan::Cursor(name, to, expected) => self.set_cursor(format!("c{name}"), *to, *expected),
            Plan::Blank => assert_eq!(self.apply_payload(EntryPayload::Blank), Outcome::Done),
        }
    }

    fn append(&mut self, parts: &[BatchOf]) {
        let (mut batches, mut wanted) = (Vec::new(), Vec::new());
        for part in parts {
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
            if let Some(producer) = producer.as_mut().filter(|_| part.again) {
                let (session, is_packed) = (producer.session, part.packed.is_some());
                (producer.sequence, values) =
                    self.plain
                        .again(session, producer.sequence, values, is_packed);
            }
            let names = ["f0", "f1", "f2"];
            let conditions = part.packed.map(|(off, fence)| Conditions {
                expected_next_offset: off.map(|off| {
                    let next = self.plain.records.len() as u64;
                    Offset(next.saturating_add_signed(off.into()))
                }),
                fence: fence.map(|(name, off)| {
                    let name = names[usize::from(name)];
                    let epoch = self.plain.epochs.get(name).copied().unwrap_or(0);
                    let epoch = epoch.saturating_add_signed(off.into());
                    record::Fence {
                        name,
                        epoch,
                        claimant: owner::of_holder("h"),
                    }
                }),
            });
            batches.push(match &conditions {
                Some(conditions) => packed_of(producer, conditions, &values),
                None => {
                    let mut batch = BatchBuilder::new(producer);
                    values.iter().for_each(|value| batch.push(value, 0, 0));
                    batch.finish()
                }
            });
            wanted.push(self.plain.append(producer, &values, conditions.as_ref()));
        }
        let stamp = (parts.len() > 1).then_some(self.outcomes.len() as u64);
        let outcome = self.apply(Command::Append(join(batches.iter(), stamp)));
        let Outcome::Appended(given) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(given.iter().map(flat).collect::<Vec<_>>(), wanted);
    }

    /// The id of one of the test's sessions, which is opened if it is not.
    fn session(&mut self, session: u8) -> u128 {
        if let Some(id) = self.plain.open.get(&session) {
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
        self.plain.open.insert(session, id.into());
        self.plain.sessions.insert(id.into(), Vec::new());
        let owner = 1000 * (1 + u128::from(session));
        self.plain.owners.insert(id.into(), owner);
        id.into()
    }

    fn claim(&mut self, name: String, old: bool) {
        let current = self.plain.epochs.get(&name).copied().unwrap_or(0);
        let claim = ClaimEpoch {
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
            Outcome::Claimed(current + 1, Offset(self.plain.records.len() as u64))
        };
        assert_eq!(self.apply(Command::ClaimEpoch(claim)), wanted);
    }

    fn set_cursor(&mut self, name: String, to: u64, expected: Option<u64>) {
        let current = self.plain.cursors.get(&name).copied();
        let commit = CommitCursor {
            name: name.clone(),
            subject: String::new(),
            offset: Offset(to),
            expected: expected.map(Offset),
            create_only: false,
            now_ms: 0,
        };
        let next = self.plain.records.len() as u64;
        let wanted = if to > next {
            let (asked, next) = (Offset(to), Offset(next));
            Outcome::Refused(StateRefusal::CursorPastEnd { asked, next })
        } else if expected.is_some() && expected != current {
            let current = current.map(Offset);
            Outcome::Refused(StateRefusal::CursorDiffers { current })
        } else {
            self.plain.cursors.insert(name, to);
            Outcome::Done
        };
        assert_eq!(self.apply(Command::CommitCursor(commit)), wanted);
    }

    fn apply(&mut self, command: Command) -> Outcome {
        self.apply_payload(EntryPayload::Normal(command))
    }

    fn apply_payload(&mut self, payload: EntryPayload) -> Outcome {
        let id = types::log_id(Term(1), self.log.next_index());
        let entry = Entry::new(id, payload);
        let done = Box::new(|result: Result<(), Error>| result.unwrap());
        self.log.append(vec![codec::to_log(&entry)], done).unwrap();
        let outcome = self.fsm.apply(&self.log, &entry).unwrap();
        self.outcomes.push(outcome.clone());
        outcome
    }

    fn checkpoint(&mut self) {
        if self.fsm.applied.is_some() {
            self.log.sync_index().unwrap();
            let changes = self.fsm.take_changes(self.log.offsets().1);
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

    fn durable(&self) -> Option<pb::Checkpoint> {
        let bytes = self.checkpoint.as_deref()?;
        Some(pb::Checkpoint::decode(bytes).unwrap())
    }

    /// Applies again what the checkpoint does not cover.
    fn restart(&mut self) {
        let checkpoint = self.durable();
        let covered = checkpoint.as_ref().and_then(snapshot::covered_by);
        let (log, rows_hold) = open(&self.disk, self.floor, covered);
        assert_eq!(rows_hold, covered.is_some());
        let rows = self.rows.values();
        let rows = rows.map(|row| pb::StateRow::decode(&**row).unwrap());
        let restored = checkpoint.map(|checkpoint| Fsm::restore(checkpoint, rows).unwrap());
        (self.log, self.fsm) = (log, restored.unwrap_or_default());
        let mut at = covered.map_or(Index(0), |covered| Index(covered.applied.0 + 1));
        while at < self.log.next_index() {
            for entry in self.log.entries(at, self.log.next_index(), 500).unwrap() {
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
        let covered = self.durable().as_ref().and_then(snapshot::covered_by);
        let Some(covered) = covered else {
            return;
        };
        self.log.seal_covered(covered.applied).unwrap();
        if let Some((floor, _)) = self.log.droppable(Index(covered.applied.0 + 1)) {
            self.floor = floor;
            assert!(self.log.drop_below(floor).unwrap());
        }
    }

    fn check(&self) {
        let next = self.plain.records.len() as u64;
        assert_eq!(self.log.offsets(), (Offset(self.plain.first), Offset(next)));
        let known = self.fsm.registrations.to_pb().into_iter();
        let known = known.map(|node| (node.node_id, (node.name, node.directory_id)));
        let known: BTreeMap<_, _> = known.collect();
        assert_eq!(known, self.plain.nodes);
        let retention = self.fsm.retention.to_pb();
        let kept = (retention.max_bytes, retention.max_age_ms);
        assert_eq!(kept, self.plain.retention);
    }

    fn check_records(&self) {
        let (first, next) = self.log.offsets();
        if let Some(before) = first.0.checked_sub(1) {
            let gone = self.log.read(Offset(before), 1);
            assert!(matches!(gone, Err(Error::Trimmed { .. })));
        }
        let mut at = first;
        while at < next {
            for record in self.log.read(at, 400).unwrap() {
                assert_eq!(record.offset, at);
                assert_eq!(record.value, self.plain.records[at.0 as usize]);
                at = Offset(at.0 + 1);
            }
        }
    }
}

/// The segments below the second trim go while the durable checkpoint knows of none: what is applied again
/// must not learn of the second from them.
#[test]
fn a_trim_is_answered_again_as_it_was_after_its_segments_went() {
    let mut world = World::new();
    let part = BatchOf {
        producer: None,
        values: vec![7; 4],
        packed: None,
        again: false,
        is_stolen: false,
    };
    let trim = |to| Step::Commit(Plan::Trim(to));
    let mut steps = vec![Step::Commit(Plan::Append(vec![part])); 40];
    // The disk has no room for the first and the last checkpoint; the last is that of `Drop`.
    steps.extend([Step::Checkpoint, Step::Checkpoint, Step::Checkpoint]);
    steps.extend([trim(5), trim(150), Step::Drop]);
    steps.iter().for_each(|step| world.run(step));
    assert!(world.floor.offset > Offset(5));
    world.restart();
    world.check();
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
