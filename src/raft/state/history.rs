//! The changes of the catalogue of logs: enough to tell a watcher every change that it missed.
//!
//! A change is named by the raft index of its entry, which is the same on every node. Of a log that exists, the last
//! change is kept; of deleted logs, the last deletions. A watcher that stopped before the oldest of those must list the
//! logs anew. The history is part of the state: it follows from the log alone (I2), and travels in checkpoints and
//! snapshots.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use crate::log::{Index, LogId};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::wire_error::WireError;

use super::logs::{KnownLog, Logs};
use super::table::{self, Table};

/// The most deletions that are remembered.
pub const GONE_MAX: usize = 4096;

/// The changes that can be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The logs that exist, by the index of their last change. A log that never changed has none, and is left out.
    by_index: BTreeMap<u64, LogId>,
    /// Deleted logs, by the index of their deletion.
    pub gone: Table<GoneLog>,
    /// The index of the last deletion that was forgotten; 0 if none was.
    forgotten: Index,
}

/// A log that was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoneLog {
    pub id: LogId,
    pub name: String,
}

/// What became of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change<'a> {
    /// The log was made, or its configuration replaced. The log's row tells which.
    Is(LogId),
    Gone(&'a GoneLog),
}

impl History {
    /// Notes that the entry `index` changed a log, and that the entry `before` had changed it last.
    pub fn changed(&mut self, id: LogId, before: Index, index: Index) {
        self.by_index.remove(&before.0);
        // Index 0 says that a log never changed: no command can be the first entry of a log.
        if index.0 > 0 {
            self.by_index.insert(index.0, id);
        }
    }

    /// Notes that the entry `index` deleted a log, and that the entry `before` had changed it last. Forgets the oldest
    /// deletions if there are too many.
    pub fn deleted(&mut self, log: GoneLog, before: Index, index: Index) {
        self.by_index.remove(&before.0);
        self.gone.insert(index.0, log);
        while self.gone.rows().len() > GONE_MAX {
            let oldest = self.gone.rows().keys().next().copied();
            let Some(oldest) = oldest else { break };
            self.gone.remove(&oldest);
            self.forgotten = Index(oldest);
        }
    }

    /// The index of the last change; 0 before any.
    pub fn last(&self) -> Index {
        let is = self.by_index.keys().next_back();
        let gone = self.gone.rows().keys().next_back();
        Index(is.max(gone).copied().unwrap_or(0))
    }

    /// Up to `count` changes after the index `after`, in order; `None` if some of them were forgotten.
    fn behind(&self, after: Index, count: usize) -> Option<Vec<(Index, Change<'_>)>> {
        if after < self.forgotten {
            return None;
        }
        let range = (Excluded(after.0), Unbounded);
        let is = self.by_index.range(range).take(count);
        let is = is.map(|(index, id)| (Index(*index), Change::Is(*id)));
        let gone = self.gone.rows().range(range).take(count);
        let gone = gone.map(|(index, log)| (Index(*index), Change::Gone(log)));
        let mut all: Vec<_> = is.chain(gone).collect();
        all.sort_by_key(|(index, _)| *index);
        all.truncate(count);
        Some(all)
    }

    /// An empty history, to be filled from the rows of a checkpoint. The deletions up to `forgotten` were forgotten.
    pub fn to_be_restored(forgotten: u64) -> Self {
        Self {
            forgotten: Index(forgotten),
            ..Self::default()
        }
    }

    /// The index of the last deletion that was forgotten, for a checkpoint; 0 if none was.
    pub fn forgotten(&self) -> u64 {
        self.forgotten.0
    }

    /// Takes over the last change of a log that exists; false if another log has the same index.
    pub fn restore(&mut self, id: LogId, changed: Index) -> bool {
        changed.0 == 0 || self.by_index.insert(changed.0, id).is_none()
    }

    /// Takes over the row of a deleted log.
    pub fn restore_gone(&mut self, gone: pb::GoneLog) -> Result<(), WireError> {
        let index = gone.index;
        let log = GoneLog {
            id: LogId(gone.id),
            name: gone.name,
        };
        let is_new = self.gone.restore(index, log).is_none();
        let is_possible = index > self.forgotten.0 && self.gone.rows().len() <= GONE_MAX;
        (is_new && is_possible)
            .then_some(())
            .ok_or(WireError::Unknown("deleted log"))
    }
}

/// A change of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogChange {
    /// The log exists, and looks like this now.
    Is(LogId, Box<KnownLog>),
    Gone(GoneLog),
}

/// Changes of the catalogue, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChanges {
    /// Each change with the index of its entry. Of a log that changed several times, only the last change.
    pub changes: Vec<(Index, LogChange)>,
    /// Every change up to this index is among them, unless its log is not to be shown.
    pub passed: Index,
    /// Whether there may be more changes after that index.
    pub more: bool,
}

impl Logs {
    /// Looks at up to `count` changes after the index `after`, and gives those of logs whose names `is_shown` accepts.
    /// `applied` is the index of the last applied entry. `None` if some changes were forgotten.
    pub fn changes(
        &self,
        after: Index,
        applied: Index,
        count: usize,
        is_shown: impl Fn(&str) -> bool,
    ) -> Option<LogChanges> {
        let behind = self.history.behind(after, count)?;
        let more = behind.len() == count;
        let last = behind.last().map(|(index, _)| *index).filter(|_| more);
        let mut changes = Vec::new();
        for (index, change) in behind {
            match change {
                Change::Is(id) => {
                    let known = self.get(id).filter(|known| is_shown(&known.name));
                    let known = known.map(|known| Box::new(known.clone()));
                    changes.extend(known.map(|known| (index, LogChange::Is(id, known))));
                }
                Change::Gone(log) if is_shown(&log.name) => {
                    changes.push((index, LogChange::Gone(log.clone())));
                }
                Change::Gone(_) => {}
            }
        }
        Some(LogChanges {
            changes,
            passed: last.unwrap_or(applied.max(after)),
            more,
        })
    }
}

impl table::Kept for GoneLog {
    type Key = u64;

    fn stored_key(index: &u64) -> Vec<u8> {
        [&b"gone/"[..], &index.to_be_bytes()].concat()
    }

    fn to_pb(&self, index: &u64) -> pb::StateRow {
        let gone = pb::GoneLog {
            index: *index,
            id: self.id.0,
            name: self.name.clone(),
        };
        pb::StateRow {
            row: Some(pb::state_row::Row::Gone(gone)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(id: u32) -> GoneLog {
        GoneLog {
            id: LogId(id),
            name: id.to_string(),
        }
    }

    fn told(history: &History, after: u64, count: usize) -> Option<Vec<(u64, u32, bool)>> {
        let behind = history.behind(Index(after), count)?;
        let told = behind.into_iter().map(|(index, change)| match change {
            Change::Is(id) => (index.0, id.0, true),
            Change::Gone(log) => (index.0, log.id.0, false),
        });
        Some(told.collect())
    }

    #[test]
    fn the_last_change_of_each_log_is_told_in_order() {
        let mut history = History::default();
        assert_eq!(
            (told(&history, 0, 9), history.last()),
            (Some(vec![]), Index(0))
        );
        history.changed(LogId(1), Index(0), Index(5));
        history.changed(LogId(2), Index(0), Index(6));
        history.changed(LogId(1), Index(5), Index(8));
        history.deleted(gone(2), Index(6), Index(9));
        history.changed(LogId(3), Index(0), Index(11));
        let all = [(8, 1, true), (9, 2, false), (11, 3, true)];
        assert_eq!(told(&history, 0, 9).unwrap(), all);
        assert_eq!(told(&history, 8, 9).unwrap(), all[1..]);
        assert_eq!(told(&history, 0, 2).unwrap(), all[..2]);
        assert_eq!(told(&history, 11, 9).unwrap(), []);
        assert_eq!(history.last(), Index(11));
    }

    #[test]
    fn old_deletions_are_forgotten_and_that_is_known() {
        let mut history = History::default();
        for id in 0..GONE_MAX as u32 + 3 {
            history.deleted(gone(id), Index(0), Index(u64::from(id) + 10));
        }
        assert_eq!(history.gone.rows().len(), GONE_MAX);
        assert_eq!(history.forgotten(), 12);
        assert_eq!(told(&history, 11, 1), None, "the one at 12 is forgotten");
        assert_eq!(told(&history, 12, 1).unwrap(), [(13, 3, false)]);
        let mut again = History::to_be_restored(history.forgotten());
        for row in history.gone.to_pb() {
            let Some(pb::state_row::Row::Gone(row)) = row.row else {
                panic!("{row:?}");
            };
            again.restore_gone(row.clone()).unwrap();
            assert!(again.clone().restore_gone(row).is_err(), "twice");
        }
        assert_eq!(again, history);
        let before = pb::GoneLog {
            index: 12,
            ..pb::GoneLog::default()
        };
        assert!(again.restore_gone(before).is_err(), "it was forgotten");
    }
}
