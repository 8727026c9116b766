//! The logs of the cluster: a row each, with its name, its configuration, and where it begins and ends.
//!
//! A log is a row and nothing else: it has no file, no task and no raft group of its own. Its id is never given to
//! another log, so that a batch for a deleted log is refused.

mod compaction;
pub mod rewrites;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use bytes::Bytes;

use crate::log::{AllEnds, Ends, Index, LogId, Offset};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::catalog::{CreateLog, DeleteLog, LogConfig, SetRetention, Trim, UpdateLog};
use crate::raft::entry::command::Retention;
use crate::raft::entry::outcome::{Full, Made, StateRefusal};
use crate::raft::entry::wire_error::WireError;

use super::history::{GoneLog, History};
use super::marks::{Mark, Marks};
use super::table::Table;

/// The name of the log that is always there.
pub const DEFAULT_NAME: &str = "default";
/// The name of the log that tells of changes.
pub const AUDIT_NAME: &str = "_audit";
/// How much is kept of it until an operator says otherwise.
const AUDIT_BYTES_MAX: u64 = 64 << 20;
const AUDIT_AGE_MS_MAX: u64 = 400 * 24 * 3600 * 1000;

/// All logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logs {
    pub by_id: Table<KnownLog>,
    by_name: BTreeMap<String, LogId>,
    /// Those that are compacted.
    compacted: BTreeSet<LogId>,
    /// The id that the next log gets.
    next_id: u32,
    /// How the catalogue changed.
    pub history: History,
}

/// What is kept of a log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KnownLog {
    pub name: String,
    pub config: LogConfig,
    /// Counts the changes of the configuration, from 1.
    pub epoch: u64,
    /// Its first and its next offset, by the entries that were applied. The files of a node may begin later: a floor is
    /// made durable before the checkpoint that holds the trims behind it.
    pub ends: Ends,
    /// The bytes of all its batches as they were appended. Batches that were given up count, too.
    pub bytes: u64,
    /// The leader's time of its last batch, in milliseconds since 1970; 0 before any.
    pub last_append_ms: u64,
    /// When it was made: the leader's time in milliseconds since 1970.
    pub created_ms: u64,
    /// Where it stood at earlier times.
    pub marks: Marks,
    /// The index of the entry that made it; 0 for the default log and the one that tells of changes.
    pub made: Index,
    /// The index of the entry that made it or changed its configuration last; 0 for a log of those two that never
    /// changed.
    pub changed: Index,
    /// The index of the entry that asked for its compaction last; 0 if none did, or what was asked for is decided.
    pub compaction_asked: Index,
    /// Whether it is compacted, or ever was.
    pub has_gaps: bool,
    /// Who made it; empty without TLS.
    subject: String,
    /// The token of the call that made it, by which a retry is known; may be empty.
    token: Bytes,
}

impl KnownLog {
    /// Where it stands now.
    pub fn end(&self) -> Mark {
        Mark {
            offset: self.ends.next,
            bytes: self.bytes,
            time_ms: self.last_append_ms,
        }
    }
}

impl Default for Logs {
    fn default() -> Self {
        let mut logs = Self {
            by_id: Table::default(),
            by_name: BTreeMap::new(),
            compacted: BTreeSet::new(),
            next_id: 1,
            history: History::default(),
        };
        let default = KnownLog {
            name: DEFAULT_NAME.to_owned(),
            epoch: 1,
            ..KnownLog::default()
        };
        logs.put(LogId::DEFAULT, default);
        logs
    }
}

impl Logs {
    fn put(&mut self, id: LogId, log: KnownLog) {
        self.by_name.insert(log.name.clone(), id);
        self.by_id.insert(id, log);
        self.note_compaction(id);
    }

    pub fn get(&self, id: LogId) -> Option<&KnownLog> {
        self.by_id.get(&id)
    }

    /// A log by its name.
    pub fn named(&self, name: &str) -> Option<(LogId, &KnownLog)> {
        let id = *self.by_name.get(name)?;
        Some((id, self.get(id)?))
    }

    /// The logs whose names begin with `prefix` and come after `after`, in the order of their names.
    pub fn list(&self, prefix: &str, after: &str) -> impl Iterator<Item = (LogId, &KnownLog)> {
        let from = prefix.max(after);
        let begin = if after >= prefix {
            Excluded(from)
        } else {
            std::ops::Bound::Included(from)
        };
        let names = self.by_name.range::<str, _>((begin, Unbounded));
        let matching = names.take_while(move |(name, _)| name.starts_with(prefix));
        matching.filter_map(|(_, id)| Some((*id, self.get(*id)?)))
    }

    /// The logs by id, from this one on.
    pub fn from(&self, first: LogId) -> impl Iterator<Item = (LogId, &KnownLog)> {
        let found = self.by_id.rows().range(first..);
        found.map(|(id, log)| (*id, log))
    }

    /// The id that the next log gets.
    pub fn next_id(&self) -> u32 {
        self.next_id
    }

    /// The first and the next offset of each log.
    pub fn ends(&self) -> Arc<AllEnds> {
        let all = self.by_id.rows().iter();
        Arc::new(all.map(|(id, log)| (*id, log.ends)).collect())
    }

    /// Makes a log; `index` is that of the entry. If there is a log of this name that the same call made, or that has
    /// the same configuration, it is the answer.
    pub fn create(&mut self, index: Index, create: &CreateLog) -> Result<Made, StateRefusal> {
        if let Some((id, known)) = self.named(&create.name) {
            let is_retry = !create.token.is_empty() && known.token == create.token;
            if is_retry || known.config == create.config {
                let epoch = known.epoch;
                return Ok(Made { log: id, epoch });
            }
            return Err(StateRefusal::LogExists { log: id });
        }
        let limit = create.logs_max.into();
        if self.of_users() as u64 >= limit || self.next_id >= LogId::RESERVED.0 {
            let of_subject = false;
            return Err(StateRefusal::TooManyLogs(Full { limit, of_subject }));
        }
        let id = LogId(self.next_id);
        self.next_id += 1;
        let log = KnownLog {
            name: create.name.clone(),
            config: create.config.clone(),
            epoch: 1,
            created_ms: create.now_ms,
            subject: create.subject.clone(),
            token: create.token.clone(),
            made: index,
            changed: index,
            has_gaps: create.config.compaction.is_some(),
            ..KnownLog::default()
        };
        self.history.changed(id, Index(0), index);
        self.put(id, log);
        Ok(Made { log: id, epoch: 1 })
    }

    /// How many logs there are, without the system's.
    pub fn of_users(&self) -> usize {
        self.by_id.rows().len() - usize::from(self.has_audit())
    }

    fn has_audit(&self) -> bool {
        self.get(LogId::AUDIT).is_some()
    }

    /// Makes the log that tells of changes, before its first record; false if it is there. It counts for no limit, and is
    /// no change of the catalogue: the entry that it is made by may be one.
    pub fn begin_audit(&mut self, time_ms: u64) -> bool {
        if self.has_audit() {
            return false;
        }
        let retention = Retention {
            max_bytes: Some(AUDIT_BYTES_MAX),
            max_age_ms: Some(AUDIT_AGE_MS_MAX),
            ..Retention::default()
        };
        let log = KnownLog {
            name: AUDIT_NAME.to_owned(),
            config: LogConfig {
                retention,
                ..LogConfig::default()
            },
            epoch: 1,
            created_ms: time_ms,
            ..KnownLog::default()
        };
        self.put(LogId::AUDIT, log);
        true
    }

    /// Whether a log has this id, or had it.
    pub fn was_given(&self, id: LogId) -> bool {
        id.0 < self.next_id || id == LogId::AUDIT && self.has_audit()
    }

    /// Replaces a log's configuration.
    pub fn update(&mut self, index: Index, update: &UpdateLog) -> Result<Made, StateRefusal> {
        let known = self.get(update.log).ok_or(StateRefusal::NoSuchLog)?;
        let current = known.epoch;
        if update
            .expected_epoch
            .is_some_and(|expected| expected != current)
        {
            return Err(StateRefusal::LogEpochDiffers { current });
        }
        let log = update.log;
        if known.config == update.config {
            let epoch = current;
            return Ok(Made { log, epoch });
        }
        let known = self.by_id.get_mut(&log).expect("it was found above");
        known.config = update.config.clone();
        known.has_gaps |= known.config.compaction.is_some();
        known.epoch += 1;
        let epoch = known.epoch;
        let before = std::mem::replace(&mut known.changed, index);
        self.history.changed(log, before, index);
        self.note_compaction(log);
        Ok(Made { log, epoch })
    }

    /// Replaces a log's retention, and leaves the rest of its configuration as it is.
    pub fn set_retention(
        &mut self,
        index: Index,
        set: &SetRetention,
    ) -> Result<Made, StateRefusal> {
        let known = self.get(set.log).ok_or(StateRefusal::NoSuchLog)?;
        let config = LogConfig {
            retention: set.retention.clone(),
            ..known.config.clone()
        };
        let update = UpdateLog {
            log: set.log,
            config,
            expected_epoch: None,
        };
        self.update(index, &update)
    }

    /// Deletes a log; false if there is none with this name and id. The default log stays, and the one that tells of
    /// changes.
    pub fn delete(&mut self, index: Index, delete: &DeleteLog) -> bool {
        let is_it = self.by_name.get(&delete.name) == Some(&delete.log);
        if !is_it || [LogId::DEFAULT, LogId::AUDIT].contains(&delete.log) {
            return false;
        }
        self.by_name.remove(&delete.name);
        let Some(gone) = self.by_id.remove(&delete.log) else {
            return false;
        };
        self.compacted.remove(&delete.log);
        let (id, name) = (delete.log, gone.name);
        let log = GoneLog { id, name };
        self.history.deleted(log, gone.changed, index);
        true
    }

    /// Moves the first offset of a log up to the trim's, though never beyond its end. Gives its first offset.
    pub fn trim(&mut self, trim: &Trim) -> Result<Offset, StateRefusal> {
        let known = self.by_id.get_mut(&trim.log);
        let known = known.ok_or(StateRefusal::NoSuchLog)?;
        let ends = &mut known.ends;
        ends.first = ends.first.max(trim.first.min(ends.next));
        known.marks.trimmed(ends.first);
        Ok(ends.first)
    }

    /// Counts `records` records of `bytes` bytes at the end of a log. `time_ms` is the leader's time in the entry.
    /// Gives the offset of the first record.
    ///
    /// # Panics
    ///
    /// If there is no such log: batches for one were refused before.
    pub fn appended(&mut self, id: LogId, records: u32, bytes: u64, time_ms: u64) -> Offset {
        let log = self.by_id.get_mut(&id);
        let log = log.expect("batches for logs that are not there are refused");
        let first = log.ends.next;
        let stood = Mark {
            offset: first,
            bytes: log.bytes,
            // A mark's time never lies before that of the mark before it, whatever a leader's clock did.
            time_ms: time_ms.max(log.last_append_ms),
        };
        log.marks.note(stood, &log.config.retention);
        log.ends.next = Offset(first.0 + u64::from(records));
        log.bytes = log.bytes.saturating_add(bytes);
        log.last_append_ms = log.last_append_ms.max(time_ms);
        first
    }

    /// An empty catalogue, to be filled from the rows of a checkpoint. The next log gets the id `next_id`; the
    /// deletions up to the index `forgotten` were forgotten.
    pub fn to_be_restored(next_id: u32, forgotten: u64) -> Self {
        Self {
            history: History::to_be_restored(forgotten),
            by_id: Table::default(),
            by_name: BTreeMap::new(),
            compacted: BTreeSet::new(),
            next_id: next_id.max(1),
        }
    }

    /// Takes over a row of a checkpoint.
    pub fn restore(&mut self, log: pb::Log) -> Result<(), WireError> {
        let id = LogId(log.id);
        let known = KnownLog::from_pb(log)?;
        let is_possible = known.ends.first <= known.ends.next
            && known.ends.next.0 <= crate::log::NUMBER_MAX
            && known.made <= known.changed
            && known.changed.max(known.compaction_asked).0 <= crate::log::NUMBER_MAX
            && known
                .marks
                .last()
                .is_none_or(|last| last.is_before(known.end()))
            && (id.0 < self.next_id || id == LogId::AUDIT && known.name == AUDIT_NAME);
        let name = known.name.clone();
        let is_new = self.by_name.insert(name, id).is_none();
        let is_new = self.history.restore(id, known.changed) && is_new;
        let is_new = self.by_id.restore(id, known).is_none() && is_new;
        self.note_compaction(id);
        (is_new && is_possible)
            .then_some(())
            .ok_or(WireError::Unknown("log"))
    }

    /// Whether the restored rows are whole: the default log is always among them.
    pub fn is_whole(&self) -> bool {
        self.get(LogId::DEFAULT)
            .is_some_and(|log| log.name == DEFAULT_NAME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(name: &str, token: &'static [u8], label: Option<u32>) -> CreateLog {
        let label = label.map(|label| ("label".to_owned(), label.to_string()));
        CreateLog {
            name: name.to_owned(),
            config: LogConfig {
                labels: label.into_iter().collect(),
                ..LogConfig::default()
            },
            token: Bytes::from_static(token),
            subject: String::new(),
            now_ms: 5,
            logs_max: 4,
        }
    }

    fn delete(name: &str, log: u32) -> DeleteLog {
        DeleteLog {
            name: name.to_owned(),
            log: LogId(log),
        }
    }

    #[test]
    fn a_log_is_made_once_and_its_id_is_not_given_again() {
        let mut logs = Logs::default();
        let made = |id| {
            let (log, epoch) = (LogId(id), 1);
            Ok(Made { log, epoch })
        };
        assert_eq!(logs.create(Index(1), &create("a", b"t", None)), made(1));
        assert_eq!(
            logs.create(Index(2), &create("a", b"t", Some(9))),
            made(1),
            "a retry"
        );
        assert_eq!(
            logs.create(Index(3), &create("a", b"u", None)),
            made(1),
            "as it is"
        );
        let other = logs.create(Index(4), &create("a", b"u", Some(9)));
        assert_eq!(other, Err(StateRefusal::LogExists { log: LogId(1) }));

        assert!(
            !logs.delete(Index(5), &delete("a", 2)),
            "another one was meant"
        );
        assert!(logs.delete(Index(6), &delete("a", 1)));
        assert!(!logs.delete(Index(7), &delete("default", 0)));
        assert_eq!(logs.create(Index(8), &create("a", b"t", None)), made(2));
        assert_eq!(logs.create(Index(9), &create("b", b"", None)), made(3));
        assert_eq!(logs.create(Index(10), &create("c", b"", None)), made(4));
        let full = logs.create(Index(11), &create("d", b"", None));
        assert!(matches!(full, Err(StateRefusal::TooManyLogs(full)) if full.limit == 4));
    }

    #[test]
    fn a_configuration_is_replaced_if_it_is_the_one_that_was_seen() {
        let mut logs = Logs::default();
        logs.create(Index(12), &create("a", b"", None)).unwrap();
        let update = |label, expected_epoch| UpdateLog {
            log: LogId(1),
            config: create("a", b"", Some(label)).config,
            expected_epoch,
        };
        assert_eq!(
            logs.update(Index(13), &update(5, Some(1))).unwrap().epoch,
            2
        );
        let late = logs.update(Index(14), &update(6, Some(1)));
        assert_eq!(late, Err(StateRefusal::LogEpochDiffers { current: 2 }));
        assert_eq!(
            logs.update(Index(15), &update(5, None)).unwrap().epoch,
            2,
            "no change"
        );
        let gone = UpdateLog {
            log: LogId(7),
            ..update(5, None)
        };
        assert_eq!(logs.update(Index(16), &gone), Err(StateRefusal::NoSuchLog));
    }

    #[test]
    fn logs_are_listed_by_prefix_in_pages() {
        let mut logs = Logs::default();
        for name in ["a/2", "a/1", "b"] {
            logs.create(Index(17), &create(name, b"", None)).unwrap();
        }
        let names = |prefix, after, count| {
            let found = logs.list(prefix, after).take(count);
            let names = found.map(|(_, log)| log.name.clone());
            names.collect::<Vec<_>>()
        };
        assert_eq!(names("", "", 9), ["a/1", "a/2", "b", "default"]);
        assert_eq!(names("a/", "", 9), ["a/1", "a/2"]);
        assert_eq!(names("a/", "a/1", 9), ["a/2"]);
        assert_eq!(names("", "a/2", 1), ["b"]);
        assert!(names("c", "", 9).is_empty());
    }

    #[test]
    fn rows_bring_the_logs_back() {
        let mut logs = Logs::default();
        logs.create(Index(18), &create("a", b"t", Some(3))).unwrap();
        logs.appended(LogId(1), 7, 700, 9);
        let (log, first) = (LogId(1), Offset(99));
        assert_eq!(logs.trim(&Trim { log, first }), Ok(Offset(7)));
        let rows = |of: &Logs| {
            let rows = of.by_id.to_pb().map(|row| row.row.unwrap());
            let log = |row| match row {
                pb::state_row::Row::Log(log) => log,
                other => panic!("{other:?}"),
            };
            rows.map(log).collect::<Vec<_>>()
        };
        let mut again = Logs::to_be_restored(logs.next_id(), 0);
        for row in rows(&logs) {
            again.restore(row).unwrap();
        }
        assert!(again.is_whole() && again == logs);
        let twice = rows(&logs).remove(1);
        assert!(again.restore(twice).is_err());
        let mut short = Logs::to_be_restored(1, 0);
        assert!(
            short.restore(rows(&logs).remove(1)).is_err(),
            "not given yet"
        );
    }
}
