//! The state machine as it would be written on a blackboard: what the oracle's test compares with.
//!
//! It has no files, no digests and no stretches: a `Vec` of records for each log, and for each record of a session
//! where it stands and the batch that it came in. It forgets nothing.

use std::collections::BTreeMap;

use crate::log::record::{Conditions, Producer};
use crate::log::{AllEnds, Ends, LogId, Offset};
use crate::raft::entry::catalog::{CreateLog, DeleteLog, LogConfig, SetRetention, Trim, UpdateLog};
use crate::raft::entry::command::{CommitCursor, Retention};
use crate::raft::entry::outcome::{Full, Made, Outcome, Refusal, Refused, StateRefusal};
use crate::raft::state::logs::DEFAULT_NAME;

/// All of it.
pub(crate) struct Plain {
    pub(crate) logs: BTreeMap<LogId, PlainLog>,
    /// How many logs were made, the first one too.
    made: u32,
    /// How many records were appended to all of them.
    pub(crate) appended: u64,
    /// The records of a session.
    pub(crate) sessions: BTreeMap<u128, Vec<Sent>>,
    /// What their owners show.
    pub(crate) owners: BTreeMap<u128, u128>,
    pub(crate) epochs: BTreeMap<String, u64>,
    pub(crate) nodes: BTreeMap<u64, (String, String)>,
}

/// A log, with its cursors.
#[derive(Default)]
pub(crate) struct PlainLog {
    pub(crate) name: String,
    pub(crate) config: LogConfig,
    pub(crate) epoch: u64,
    token: Vec<u8>,
    pub(crate) records: Vec<Vec<u8>>,
    pub(crate) first: u64,
    pub(crate) cursors: BTreeMap<String, u64>,
}

/// A record of a session: where it stands, and the packed batches that it came in.
#[derive(Clone)]
pub(crate) struct Sent {
    log: LogId,
    offset: u64,
    value: Vec<u8>,
    packed: Option<(usize, Parts)>,
}

/// Batches that are appended together: the log of each, and its records.
pub(crate) type Parts = Vec<(LogId, Vec<Vec<u8>>)>;

/// One of them, and what it depends on.
pub(crate) struct PlainPart<'a> {
    pub(crate) log: LogId,
    pub(crate) values: Vec<Vec<u8>>,
    pub(crate) conditions: Conditions<'a>,
}

/// The offset of each record of a batch, or why there are none.
pub(crate) type Offsets = Result<Vec<u64>, Refused>;

/// Whether a command that is told did something.
pub(crate) fn is_change(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Refused(_) | Outcome::Deleted(false) | Outcome::Registered(Err(_)) => false,
        Outcome::Appended(_) => panic!("it is no batch"),
        _ => true,
    }
}

impl PlainLog {
    pub(crate) fn next(&self) -> Offset {
        Offset(self.records.len() as u64)
    }
}

impl Default for Plain {
    fn default() -> Self {
        let default = PlainLog {
            name: DEFAULT_NAME.to_owned(),
            epoch: 1,
            ..PlainLog::default()
        };
        Self {
            logs: [(LogId::DEFAULT, default)].into(),
            made: 1,
            appended: 0,
            sessions: BTreeMap::new(),
            owners: BTreeMap::new(),
            epochs: BTreeMap::new(),
            nodes: BTreeMap::new(),
        }
    }
}

impl Plain {
    /// Where each log begins and ends.
    pub(crate) fn ends(&self) -> AllEnds {
        let ends = |log: &PlainLog| Ends {
            first: Offset(log.first),
            next: log.next(),
        };
        self.logs.iter().map(|(id, log)| (*id, ends(log))).collect()
    }

    fn named(&mut self, name: &str) -> Option<(LogId, &mut PlainLog)> {
        let mut logs = self.logs.iter_mut();
        let (id, log) = logs.find(|(_, log)| log.name == name)?;
        Some((*id, log))
    }

    /// Tells this in the log of changes, which is made for its first record.
    pub(crate) fn tell(&mut self, lines: [String; 2]) {
        let log = self.logs.entry(LogId::AUDIT).or_insert_with(|| PlainLog {
            name: "_audit".to_owned(),
            config: LogConfig {
                retention: Retention {
                    max_bytes: Some(67_108_864),
                    max_age_ms: Some(34_560_000_000),
                    ..Retention::default()
                },
                ..LogConfig::default()
            },
            epoch: 1,
            ..PlainLog::default()
        });
        self.appended += lines.len() as u64;
        log.records.extend(lines.map(String::into_bytes));
    }

    pub(crate) fn create(&mut self, create: &CreateLog) -> Outcome {
        if let Some((id, known)) = self.named(&create.name) {
            let is_retry = !create.token.is_empty() && known.token == create.token;
            if !is_retry && known.config != create.config {
                return Outcome::Refused(StateRefusal::LogExists { log: id });
            }
            let epoch = known.epoch;
            return Outcome::Log(Made { log: id, epoch });
        }
        let audit = usize::from(self.logs.contains_key(&LogId::AUDIT));
        if self.logs.len() - audit >= create.logs_max as usize {
            let (limit, of_subject) = (create.logs_max.into(), false);
            return Outcome::Refused(StateRefusal::TooManyLogs(Full { limit, of_subject }));
        }
        let id = LogId(self.made);
        self.made += 1;
        let log = PlainLog {
            name: create.name.clone(),
            config: create.config.clone(),
            epoch: 1,
            token: create.token.to_vec(),
            ..PlainLog::default()
        };
        self.logs.insert(id, log);
        Outcome::Log(Made { log: id, epoch: 1 })
    }

    pub(crate) fn update(&mut self, update: &UpdateLog) -> Outcome {
        let log = update.log;
        let Some(known) = self.logs.get_mut(&log) else {
            return Outcome::Refused(StateRefusal::NoSuchLog);
        };
        let current = known.epoch;
        if update.expected_epoch.is_some_and(|epoch| epoch != current) {
            return Outcome::Refused(StateRefusal::LogEpochDiffers { current });
        }
        if known.config != update.config {
            known.config = update.config.clone();
            known.epoch += 1;
        }
        let epoch = known.epoch;
        Outcome::Log(Made { log, epoch })
    }

    pub(crate) fn delete(&mut self, delete: &DeleteLog) -> Outcome {
        let known = self.logs.get(&delete.log);
        let goes = delete.log != LogId::DEFAULT && known.is_some_and(|log| log.name == delete.name);
        if goes {
            self.logs.remove(&delete.log);
        }
        Outcome::Deleted(goes)
    }

    pub(crate) fn trim(&mut self, trim: &Trim) -> Outcome {
        let Some(log) = self.logs.get_mut(&trim.log) else {
            return Outcome::Refused(StateRefusal::NoSuchLog);
        };
        log.first = log.first.max(trim.first.0.min(log.next().0));
        Outcome::Trimmed(Offset(log.first))
    }

    pub(crate) fn set_retention(&mut self, set: &SetRetention) -> Outcome {
        let Some(log) = self.logs.get(&set.log) else {
            return Outcome::Refused(StateRefusal::NoSuchLog);
        };
        let config = LogConfig {
            retention: set.retention.clone(),
            ..log.config.clone()
        };
        self.update(&UpdateLog {
            log: set.log,
            config,
            expected_epoch: None,
        });
        Outcome::Done
    }

    pub(crate) fn set_cursor(&mut self, commit: &CommitCursor) -> Outcome {
        let Some(log) = self.logs.get_mut(&commit.log) else {
            return Outcome::Refused(StateRefusal::NoSuchLog);
        };
        let current = log.cursors.get(&commit.name).copied().map(Offset);
        let (asked, next) = (commit.offset, log.next());
        if asked > next {
            return Outcome::Refused(StateRefusal::CursorPastEnd { asked, next });
        }
        if commit.expected.is_some() && commit.expected != current {
            return Outcome::Refused(StateRefusal::CursorDiffers { current });
        }
        log.cursors.insert(commit.name.clone(), asked.0);
        Outcome::Done
    }

    pub(crate) fn delete_cursor(&mut self, id: LogId, name: &str) -> Outcome {
        let log = self.logs.get_mut(&id);
        Outcome::Deleted(log.is_some_and(|log| log.cursors.remove(name).is_some()))
    }

    /// Puts a record at a log's end.
    fn push(&mut self, id: LogId, value: &[u8]) -> u64 {
        let log = self.logs.get_mut(&id).expect("it was judged to be there");
        log.records.push(value.to_vec());
        self.appended += 1;
        log.records.len() as u64 - 1
    }

    /// Appends packed batches together, or none of them.
    pub(crate) fn append_packed(
        &mut self,
        producer: Option<Producer>,
        parts: &[PlainPart<'_>],
    ) -> Offsets {
        let sent: Parts = parts
            .iter()
            .map(|part| (part.log, part.values.clone()))
            .collect();
        if let Some(producer) = producer {
            let (known, begins) = self.known(producer)?;
            let old = &known[begins..known.len().min(begins + records_of(&sent))];
            if !old.is_empty() {
                compare_packed(old, begins, &sent, known.len() as u64)?;
                return Ok(old.iter().map(|sent| sent.offset).collect());
            }
        }
        for (number, part) in (0..).zip(parts) {
            let judged = self.judge(part.log, Some(&part.conditions));
            judged.map_err(|why| Refused { why, batch: number })?;
        }
        let begins = producer.map(|producer| producer.sequence as usize);
        let packed = begins.map(|begins| (begins, sent.clone()));
        let mut stand = Vec::new();
        for (log, values) in &sent {
            for value in values {
                stand.push(self.sent(*log, producer, value, packed.clone()));
            }
        }
        Ok(stand)
    }

    /// Appends plain records.
    pub(crate) fn append(
        &mut self,
        log: LogId,
        producer: Option<Producer>,
        values: &[Vec<u8>],
    ) -> Offsets {
        let mut old = Vec::new();
        if let Some(producer) = producer {
            let (known, begins) = self.known(producer)?;
            let again = &known[begins..known.len().min(begins + values.len())];
            compare(again, log, values, known.len() as u64)?;
            old = again.iter().map(|sent| sent.offset).collect();
        }
        if old.len() < values.len() {
            self.judge(log, None)?;
        }
        for value in &values[old.len()..] {
            old.push(self.sent(log, producer, value, None));
        }
        Ok(old)
    }

    /// The records of a session, and where in them a batch begins.
    fn known(&self, producer: Producer) -> Result<(&[Sent], usize), Refusal> {
        let known = self.sessions.get(&producer.session);
        let known = known.ok_or(Refusal::SessionExpired)?;
        if self.owners[&producer.session] != producer.owner {
            return Err(Refusal::NotOwner);
        }
        let (begins, expected) = (producer.sequence as usize, known.len() as u64);
        if begins > known.len() {
            return Err(Refusal::SequenceGap { expected });
        }
        Ok((known, begins))
    }

    /// Appends a record, and notes it for its session.
    fn sent(
        &mut self,
        log: LogId,
        producer: Option<Producer>,
        value: &[u8],
        packed: Option<(usize, Parts)>,
    ) -> u64 {
        let offset = self.push(log, value);
        if let Some(producer) = producer {
            let session = self.sessions.entry(producer.session).or_default();
            session.push(Sent {
                log,
                offset,
                value: value.to_vec(),
                packed,
            });
        }
        offset
    }

    /// The plain records from `sequence` on as they were sent, as far as they were, and to which log.
    pub(crate) fn again(
        &self,
        session: u128,
        sequence: u64,
        mut values: Vec<Vec<u8>>,
    ) -> (Option<LogId>, Vec<Vec<u8>>) {
        let known = self.sessions.get(&session).map_or(&[][..], |known| known);
        let old = known.get(sequence as usize..).unwrap_or_default();
        for (value, sent) in values.iter_mut().zip(old) {
            value.clone_from(&sent.value);
        }
        (old.first().map(|sent| sent.log), values)
    }

    /// The packed batches that a session's record came in, and where they began.
    pub(crate) fn packed_again(&self, session: u128, sequence: u64) -> Option<(u64, Parts)> {
        let sent = self.sessions.get(&session)?.get(sequence as usize)?;
        let (begins, parts) = sent.packed.clone()?;
        Some((begins as u64, parts))
    }

    fn judge(&self, log: LogId, conditions: Option<&Conditions<'_>>) -> Result<(), Refusal> {
        let log = self.logs.get(&log).ok_or(Refusal::NoSuchLog)?;
        let Some(conditions) = conditions else {
            return Ok(());
        };
        if let Some(fence) = conditions.fence {
            let epoch = self.epochs.get(fence.name).copied().unwrap_or(0);
            if epoch != fence.epoch {
                return Err(Refusal::Fenced { epoch });
            }
        }
        let next = log.next();
        match conditions.expected_next_offset {
            Some(expected) if expected != next => Err(Refusal::OffsetDiffers { next }),
            _ => Ok(()),
        }
    }

    pub(crate) fn register(&mut self, id: u64, name: String, dir: String) -> Result<u64, u64> {
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

impl Sent {
    /// The log of the first batch that it came with.
    fn lead(&self) -> LogId {
        self.packed
            .as_ref()
            .map_or(self.log, |(_, parts)| parts[0].0)
    }
}

fn records_of(parts: &Parts) -> usize {
    parts.iter().map(|(_, values)| values.len()).sum()
}

/// Whether packed batches that are sent again are what was sent.
fn compare_packed(
    old: &[Sent],
    begins: usize,
    parts: &Parts,
    expected: u64,
) -> Result<(), Refusal> {
    if old[0].lead() != parts[0].0 {
        return Err(Refusal::SequenceReused { expected });
    }
    match &old[0].packed {
        Some((at, sent)) if *at == begins && records_of(sent) == records_of(parts) => {
            let is_same = sent == parts;
            let reused = Refusal::SequenceReused { expected };
            is_same.then_some(()).ok_or(reused)
        }
        _ => Err(Refusal::SequenceOverlap { expected }),
    }
}

/// Whether plain records that are sent again are what was sent.
fn compare(old: &[Sent], log: LogId, values: &[Vec<u8>], expected: u64) -> Result<(), Refusal> {
    let reused = Err(Refusal::SequenceReused { expected });
    if old.first().is_some_and(|first| first.lead() != log) {
        return reused;
    }
    for (sent, value) in old.iter().zip(values) {
        if sent.packed.is_some() {
            return Err(Refusal::SequenceOverlap { expected });
        }
        if sent.log != log || sent.value != *value {
            return reused;
        }
    }
    Ok(())
}
