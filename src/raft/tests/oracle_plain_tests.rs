//! The state machine as it would be written on a blackboard: what the oracle's test compares with.
//!
//! It has no files, no digests and no stretches: a `Vec` of records for each log, and for each record of a session
//! where it stands and the batch that it came in. It forgets nothing.

use std::collections::BTreeMap;

use crate::log::record::{Conditions, Producer};
use crate::log::{AllEnds, Ends, LogId, Offset};
use crate::raft::entry::catalog::{CreateLog, DeleteLog, LogConfig, UpdateLog};
use crate::raft::entry::command::CommitCursor;
use crate::raft::entry::outcome::{Full, Made, Outcome, Refusal, StateRefusal};
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

/// A record of a session: where it stands, and the packed batch that it came in.
#[derive(Clone)]
pub(crate) struct Sent {
    log: LogId,
    offset: u64,
    value: Vec<u8>,
    packed: Option<(usize, Vec<Vec<u8>>)>,
}

/// The offset of each record of a batch, or why there are none.
pub(crate) type Offsets = Result<Vec<u64>, Refusal>;

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

    pub(crate) fn create(&mut self, create: &CreateLog) -> Outcome {
        if let Some((id, known)) = self.named(&create.name) {
            let is_retry = !create.token.is_empty() && known.token == create.token;
            if !is_retry && known.config != create.config {
                return Outcome::Refused(StateRefusal::LogExists { log: id });
            }
            let epoch = known.epoch;
            return Outcome::Log(Made { log: id, epoch });
        }
        if self.logs.len() >= create.logs_max as usize {
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

    pub(crate) fn trim(&mut self, id: LogId, to: u64) -> Outcome {
        let Some(log) = self.logs.get_mut(&id) else {
            return Outcome::Refused(StateRefusal::NoSuchLog);
        };
        log.first = log.first.max(to.min(log.next().0));
        Outcome::Trimmed(Offset(log.first))
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

    pub(crate) fn append(
        &mut self,
        log: LogId,
        producer: Option<Producer>,
        values: &[Vec<u8>],
        packed: Option<&Conditions<'_>>,
    ) -> Offsets {
        let Some(producer) = producer else {
            self.judge(log, packed)?;
            let all = values.iter();
            return Ok(all.map(|value| self.push(log, value)).collect());
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
        compare(old, log, begins, values, packed.is_some(), expected)?;
        let old = old.len();
        if old < values.len() {
            self.judge(log, packed)?;
        }
        for value in &values[old..] {
            let sent = Sent {
                log,
                offset: self.push(log, value),
                value: value.clone(),
                packed: packed.map(|_| (begins, values.to_vec())),
            };
            self.sessions
                .entry(producer.session)
                .or_default()
                .push(sent);
        }
        let stand = self.sessions[&producer.session][begins..begins + values.len()].iter();
        Ok(stand.map(|sent| sent.offset).collect())
    }

    /// The records from `sequence` on as they were sent, as far as they were, and to which log: a packed batch as
    /// a whole.
    pub(crate) fn again(
        &self,
        session: u128,
        sequence: u64,
        mut values: Vec<Vec<u8>>,
        is_packed: bool,
    ) -> (Option<LogId>, u64, Vec<Vec<u8>>) {
        let known = self.sessions.get(&session).map_or(&[][..], |known| known);
        let old = known.get(sequence as usize..).unwrap_or_default();
        let log = old.first().map(|sent| sent.log);
        if let (true, Some(sent)) = (is_packed, old.first().and_then(|sent| sent.packed.clone())) {
            return (log, sent.0 as u64, sent.1);
        }
        for (value, sent) in values.iter_mut().zip(old) {
            value.clone_from(&sent.value);
        }
        (log, sequence, values)
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

/// Whether what is sent again is what was sent.
fn compare(
    old: &[Sent],
    log: LogId,
    begins: usize,
    values: &[Vec<u8>],
    is_packed: bool,
    expected: u64,
) -> Result<(), Refusal> {
    let reused = Err(Refusal::SequenceReused { expected });
    let Some(first) = old.first() else {
        return Ok(());
    };
    if first.log != log {
        return reused;
    }
    if is_packed {
        let same_cut =
            |(at, sent): &(usize, Vec<Vec<u8>>)| *at == begins && sent.len() == values.len();
        let sent = first.packed.as_ref().filter(|sent| same_cut(sent));
        let (_, sent) = sent.ok_or(Refusal::SequenceOverlap { expected })?;
        return if sent == values { Ok(()) } else { reused };
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
