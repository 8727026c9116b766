//! Which logs are compacted, and what was asked for of them.

use crate::log::{Index, LogId};
use crate::raft::entry::catalog::Compaction;
use crate::raft::entry::outcome::StateRefusal;

use super::{KnownLog, Logs};

impl Logs {
    /// The logs that are compacted, and how.
    pub fn compacted(&self) -> impl Iterator<Item = (LogId, Compaction, &KnownLog)> {
        self.compacted.iter().filter_map(|id| {
            let known = self.get(*id)?;
            Some((*id, known.config.compaction?, known))
        })
    }

    /// The logs that are compacted, or ever were.
    pub fn with_gaps(&self) -> impl Iterator<Item = LogId> {
        let all = self.by_id.rows().iter().filter(|(_, log)| log.has_gaps);
        all.map(|(id, _)| *id)
    }

    pub(super) fn note_compaction(&mut self, id: LogId) {
        let is_compacted = |log: &KnownLog| log.config.compaction.is_some();
        match self.get(id).is_some_and(is_compacted) {
            true => self.compacted.insert(id),
            false => self.compacted.remove(&id),
        };
    }

    /// Notes that a log is to be compacted as soon as may be.
    pub fn compact(&mut self, index: Index, log: LogId) -> Result<(), StateRefusal> {
        let known = self.by_id.get_mut(&log).ok_or(StateRefusal::NoSuchLog)?;
        known.compaction_asked = index;
        Ok(())
    }

    /// Notes that what entries up to this one asked for is in rewritings that were decided on: no leader need look for it
    /// again.
    pub fn was_compacted(&mut self, asked: Index) {
        for log in &self.compacted {
            let was_asked = |known: &KnownLog| (1..=asked.0).contains(&known.compaction_asked.0);
            if self.by_id.get(log).is_some_and(was_asked)
                && let Some(known) = self.by_id.get_mut(log)
            {
                known.compaction_asked = Index(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_since_is_not_served_with_what_was_asked_before() {
        let mut logs = Logs::default();
        let compaction = Some(Compaction {
            min_age_ms: 0,
            tombstone_ms: 0,
        });
        for (id, asked) in [(7, 5), (8, 9), (9, 0)] {
            let log = LogId(id);
            let mut known = KnownLog::default();
            known.config.compaction = compaction;
            known.name = log.to_string();
            logs.put(log, known);
            if asked > 0 {
                logs.compact(Index(asked), log).unwrap();
            }
        }
        logs.was_compacted(Index(8));
        let asked = |id| logs.get(LogId(id)).unwrap().compaction_asked;
        assert_eq!([7, 8, 9].map(asked), [Index(0), Index(9), Index(0)]);
    }
}
