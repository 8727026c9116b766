//! The finite-state machine: committed entries in, offsets and outcomes out.
//!
//! Apply depends on the log and the command alone: it reads no clock and draws no random number (I2). It writes no
//! record either: the log holds the records already, and apply gives them their offsets.

use crate::log::record::{self, Batch};
use crate::log::{self, Index, Log, Offset, Run};
use crate::raft::entry::admission::{Admission, Entrance};
use crate::raft::entry::audited::Audited;
use crate::raft::entry::command::Command;
use crate::raft::entry::outcome::{
    BundleOutcome, NotRegistered, OffsetRange, Outcome, Receipt, Refusal, Refused, StateRefusal,
};
use crate::raft::entry::types::{Entry, EntryPayload, LogId, StoredMembership};

use super::admissions::Admissions;
use super::cursors::Cursors;
use super::fences::Fences;
use super::logs::Logs;
use super::logs::rewrites::Rewrites;
use super::registrations::Registrations;
use super::sessions::digests::Digests;
use super::sessions::{Sessions, Verdict};

/// The replicated state besides the records.
#[derive(Debug, Clone, Default)]
pub struct Fsm {
    /// The last entry that was applied; `None` before the first.
    pub applied: Option<LogId>,
    /// The members, by the last membership entry that was applied.
    pub membership: StoredMembership,
    pub registrations: Registrations,
    pub sessions: Sessions,
    pub logs: Logs,
    pub cursors: Cursors,
    pub fences: Fences,
    /// Which segments are to be rewritten.
    pub rewrites: Rewrites,
    /// Who may join.
    pub admissions: Admissions,
    /// The entry behind the last one that ended a segment of the log; 0 before any. The next one names it.
    pub rolled: Index,
    /// The latest of the leaders' times in all applied entries, in milliseconds since 1970. It never goes back.
    pub timestamp_ms: u64,
    /// Whether the stable store holds this state, except for the rows that the tables noted as changed. If it does not,
    /// the next checkpoint writes every row.
    pub(super) is_stored: bool,
}

impl Fsm {
    /// Applies the next committed entry. A command that every replica refuses alike is no error, but an outcome.
    ///
    /// # Errors
    ///
    /// An error means that this node's own copy of the log cannot be read or written. The node must stop.
    ///
    /// # Panics
    ///
    /// If the entry was applied already (I4).
    pub fn apply(&mut self, log: &Log, entry: &Entry) -> Result<Outcome, log::Error> {
        assert!(
            self.applied < Some(entry.log_id),
            "I4: {} was applied already",
            entry.log_id
        );
        let index = Index(entry.log_id.index);
        let mut runs = Vec::new();
        let outcome = match entry.payload() {
            EntryPayload::Blank => Outcome::Done,
            EntryPayload::Membership(membership) => {
                self.change_members(StoredMembership::new(
                    Some(entry.log_id),
                    membership.clone(),
                ));
                Outcome::Done
            }
            EntryPayload::Normal(Command::Append(payload)) => {
                Outcome::Appended(self.append(payload, &mut runs)?)
            }
            EntryPayload::Normal(Command::Audited(audited)) => {
                self.audited(log, index, audited, &mut runs)?
            }
            EntryPayload::Normal(command) => self.command(log, index, command),
        };
        log.publish(index, &runs)?;
        self.applied = Some(entry.log_id);
        Ok(outcome)
    }

    /// Applies a command that takes no offset.
    fn command(&mut self, log: &Log, index: Index, command: &Command) -> Outcome {
        match command {
            Command::Register {
                name,
                directory_id,
                entrance,
            } => Outcome::Registered(self.register(index, name, directory_id, *entrance)),
            Command::RegisterStart { node_id, start } => {
                self.registrations.take_over(*node_id, *start);
                Outcome::Done
            }
            Command::Roll(since) => {
                // The log ended the segment when it was appended, by the same rule.
                if *since == self.rolled {
                    self.rolled = Index(index.0 + 1);
                }
                Outcome::Done
            }
            Command::Forget { name } => {
                self.registrations.forget(name);
                self.admissions.withdraw(name);
                Outcome::Done
            }
            Command::Rewrite(plan) => {
                self.rewrites.decide(index, plan, &self.logs);
                Outcome::Done
            }
            Command::Compacted(asked) => {
                self.logs.was_compacted(*asked);
                Outcome::Done
            }
            // What they tell is appended beside them.
            Command::Notes(_) => Outcome::Done,
            command => {
                let done = match self.catalog(log, index, command) {
                    Some(done) => done,
                    None => self.keep(index, command),
                };
                if let Ok(Outcome::Log(made)) = &done
                    && self.logs.get(made.log).is_some_and(|known| known.has_gaps)
                {
                    log.may_have_gaps(made.log);
                }
                done.unwrap_or_else(Outcome::Refused)
            }
        }
    }

    /// Applies a command, and appends what tells of it to the log of changes, if it changed something.
    fn audited(
        &mut self,
        log: &Log,
        index: Index,
        audited: &Audited,
        runs: &mut Vec<Run>,
    ) -> Result<Outcome, log::Error> {
        let batches = record::batches(&audited.payload)?;
        let time_ms = record::timestamp_ms(&audited.payload);
        self.timestamp_ms = self.timestamp_ms.max(time_ms);
        let outcome = self.command(log, index, &audited.command);
        if outcome.is_change()
            && let Some(told) = batches.last()
        {
            if self.logs.begin_audit(time_ms) {
                log.begin(log::LogId::AUDIT);
            }
            let bytes = told.records(&audited.payload).len() as u64;
            let first = self.logs.appended(told.log, told.count, bytes, time_ms);
            runs.push(Run::of(told, 0, first));
        }
        Ok(outcome)
    }

    /// Applies a command about logs; `None` if the command is about something else.
    fn catalog(
        &mut self,
        of: &Log,
        index: Index,
        command: &Command,
    ) -> Option<Result<Outcome, StateRefusal>> {
        Some(match command {
            Command::CreateLog(create) => {
                self.timestamp_ms = self.timestamp_ms.max(create.now_ms);
                let made = self.logs.create(index, create);
                made.map(|made| {
                    of.begin(made.log);
                    Outcome::Log(made)
                })
            }
            Command::UpdateLog(update) => self.logs.update(index, update).map(Outcome::Log),
            Command::DeleteLog(delete) => {
                let deleted = self.logs.delete(index, delete);
                if deleted {
                    of.forget(delete.log);
                    self.cursors.delete_of(delete.log);
                }
                Ok(Outcome::Deleted(deleted))
            }
            Command::CompactLog(log) => self.logs.compact(index, *log).map(|()| Outcome::Done),
            Command::Trim(trim) => self.logs.trim(trim).map(|first| {
                of.trim(trim.log, first);
                Outcome::Trimmed(first)
            }),
            Command::TrimLogs(trims) => {
                for trim in trims {
                    if let Ok(first) = self.logs.trim(trim) {
                        of.trim(trim.log, first);
                    }
                }
                Ok(Outcome::Done)
            }
            Command::SetRetention(set) => {
                self.logs.set_retention(index, set).map(|_| Outcome::Done)
            }
            _ => return None,
        })
    }

    /// Applies a command of sessions, fences, cursors or admissions.
    fn keep(&mut self, index: Index, command: &Command) -> Result<Outcome, StateRefusal> {
        let time_ms = match command {
            Command::OpenSession(open) => open.now_ms,
            Command::CommitCursor(commit) => commit.now_ms,
            Command::Admission(Admission::Token { now_ms, .. }) => *now_ms,
            _ => 0,
        };
        self.timestamp_ms = self.timestamp_ms.max(time_ms);
        match command {
            Command::OpenSession(open) => self.sessions.open(index, open).map(Outcome::Session),
            Command::CloseSession(close) => self.sessions.close(close).map(|()| Outcome::Done),
            Command::ExpireSessions(before_ms) => {
                self.sessions.expire(*before_ms);
                Ok(Outcome::Done)
            }
            Command::ClaimEpoch(claim) => {
                let next = self.logs.get(claim.log).map(|log| log.ends.next);
                let claimed = self.fences.claim(claim, next);
                claimed.map(|(epoch, next)| Outcome::Claimed(epoch, next))
            }
            Command::DeleteFence(name) => Ok(Outcome::Deleted(self.fences.delete(name))),
            Command::CommitCursor(commit) => {
                let next = match commit.log {
                    // The cursor holds a position. The server checked that it is not past the end.
                    log::LogId::SEVERAL => Offset(log::NUMBER_MAX),
                    log => self.logs.get(log).ok_or(StateRefusal::NoSuchLog)?.ends.next,
                };
                self.cursors.commit(commit, next).map(|()| Outcome::Done)
            }
            Command::DeleteCursor(log, name) => {
                Ok(Outcome::Deleted(self.cursors.delete(*log, name)))
            }
            Command::Admission(change) => self.admissions.change(change, self.timestamp_ms),
            Command::Append(_)
            | Command::Register { .. }
            | Command::RegisterStart { .. }
            | Command::Forget { .. }
            | Command::Roll(_)
            | Command::Rewrite(_)
            | Command::CreateLog(_)
            | Command::UpdateLog(_)
            | Command::CompactLog(_)
            | Command::Compacted(_)
            | Command::DeleteLog(_)
            | Command::Trim(_)
            | Command::TrimLogs(_)
            | Command::SetRetention(_)
            | Command::Notes(_)
            | Command::Audited(_) => unreachable!("`apply` takes these itself"),
        }
    }

    /// Gives the records of an entry the next offsets of their logs. Each appended batch adds a run to `runs`.
    fn append(
        &mut self,
        payload: &[u8],
        runs: &mut Vec<Run>,
    ) -> Result<Vec<BundleOutcome>, log::Error> {
        let batches = record::batches(payload)?;
        let timestamp_ms = record::timestamp_ms(payload);
        self.timestamp_ms = self.timestamp_ms.max(timestamp_ms);
        let mut outcomes = Vec::with_capacity(batches.len());
        for bundle in record::bundles(&batches) {
            outcomes.push(self.append_bundle(payload, bundle, timestamp_ms, runs)?);
        }
        Ok(outcomes)
    }

    /// Appends all batches of a bundle, or none of them.
    fn append_bundle(
        &mut self,
        payload: &[u8],
        bundle: &[Batch<'_>],
        timestamp_ms: u64,
        runs: &mut Vec<Run>,
    ) -> Result<BundleOutcome, log::Error> {
        let producer = bundle[0].producer;
        let digests = producer.map(|_| Digests::of(payload, bundle));
        let digests = digests.transpose()?;
        let Verdict { known, skip } = match self.judge(bundle, digests.as_ref()) {
            Ok(verdict) => verdict,
            Err(refused) => return Ok(Err(refused)),
        };
        let duplicate = u64::from(skip) == record::records_of(bundle);
        let mut ranges = known;
        let from = runs.len();
        for batch in bundle.iter().filter(|_| !duplicate) {
            // `skip` is above 0 here only in a bundle of one batch: several are known as a whole or not at all.
            let count = batch.count - skip;
            let bytes = batch.records(payload).len() as u64;
            let first = self.logs.appended(batch.log, count, bytes, timestamp_ms);
            runs.push(Run::of(batch, skip, first));
            ranges.push(OffsetRange { first, count });
        }
        if let Some((producer, digests)) = producer.zip(digests).filter(|_| !duplicate) {
            let (session, digests) = (producer.session, digests.without(skip));
            self.sessions
                .appended(timestamp_ms, session, &runs[from..], digests);
        }
        Ok(Ok(Receipt {
            ranges,
            timestamp_ms: if duplicate { 0 } else { timestamp_ms },
            duplicate,
        }))
    }

    /// Decides whether a bundle is appended. Whether an earlier try appended it is looked up first. If one did, the
    /// conditions do not count any more: they held at that try.
    fn judge(&self, bundle: &[Batch<'_>], digests: Option<&Digests>) -> Result<Verdict, Refused> {
        let (log, records) = (bundle[0].log, record::records_of(bundle));
        let verdict = match bundle[0].producer.zip(digests) {
            Some((producer, digests)) => self.sessions.judge(log, producer, records, digests)?,
            None => Verdict::new_batch(),
        };
        if u64::from(verdict.skip) == records {
            return Ok(verdict);
        }
        for (number, batch) in (0..).zip(bundle) {
            let judged = self.judge_batch(batch);
            judged.map_err(|why| Refused { why, batch: number })?;
        }
        Ok(verdict)
    }

    /// Checks that a batch's log exists, and that the batch's fence and expected offset hold.
    fn judge_batch(&self, batch: &Batch<'_>) -> Result<(), Refusal> {
        let known = self.logs.get(batch.log);
        // What tells of changes comes with them, and from nobody else.
        let known = known.filter(|_| batch.log != log::LogId::AUDIT);
        let known = known.ok_or(Refusal::NoSuchLog)?;
        let next = known.ends.next;
        if let Some(fence) = &batch.conditions.fence {
            self.fences.judge(fence)?;
        }
        match batch.conditions.expected_next_offset {
            Some(expected) if expected != next => Err(Refusal::OffsetDiffers { next }),
            _ => Ok(()),
        }
    }

    /// Gives a node its id. The id is the index of the entry, so no id is ever given twice.
    fn register(
        &mut self,
        index: Index,
        name: &str,
        directory_id: &str,
        entrance: Entrance,
    ) -> Result<u64, NotRegistered> {
        if let Some(known) = self.may_register(name, directory_id, entrance)? {
            return Ok(known);
        }
        self.admissions.use_up(name, entrance);
        self.registrations.insert(index.0, name, directory_id);
        Ok(index.0)
    }

    /// Whether a node may have an id. `Some` is the id that it has already; `None` means that it gets a new one.
    pub fn may_register(
        &self,
        name: &str,
        directory_id: &str,
        entrance: Entrance,
    ) -> Result<Option<u64>, NotRegistered> {
        match self.registrations.named(name) {
            Some((id, node)) if node.directory_id == directory_id => Ok(Some(id)),
            Some((id, _)) => Err(NotRegistered::NameTaken { node_id: id }),
            None if self.admissions.admits(name, entrance, self.timestamp_ms) => Ok(None),
            None => Err(NotRegistered::NotAdmitted),
        }
    }

    /// Takes over a membership. A node that left is forgotten: its name may be used again, its id never. A permission
    /// to join that its name had is withdrawn, so that the node does not come back by it.
    fn change_members(&mut self, next: StoredMembership) {
        for (id, member) in self.membership.membership().nodes() {
            if next.membership().get_node(id).is_none() {
                self.registrations.remove(*id);
                self.admissions.withdraw(&member.name);
            }
        }
        self.membership = next;
        for (id, member) in self.membership.membership().nodes() {
            self.registrations.note_member(*id, member);
        }
    }

    /// The index of the last entry that was applied; 0 before the first.
    pub fn applied_index(&self) -> Index {
        Index(self.applied.map_or(0, |id| id.index))
    }
}
