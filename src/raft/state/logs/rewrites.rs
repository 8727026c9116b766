//! Which segments are to be rewritten, and what of them lives, as entries of the log said.
//!
//! Each node rewrites in its own time, and a node that was down does it later, from what stands here. A node that comes to
//! it too late keeps the old segments until they go by themselves, or takes the new ones with a snapshot: records are read
//! from either alike.

use std::sync::Arc;

use crate::log::{Index, LogId, Rewrite};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::catalog::{rewrite_from_pb, rewrite_to_pb};
use crate::raft::entry::wire_error::WireError;
use crate::raft::state::table::{Kept, Table};

use super::Logs;

/// The most rewritings that are remembered.
const REWRITES_MAX: usize = 16;

/// The rewritings that were decided, by the indexes of their entries. Each can take megabytes: who carries it out shares it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrites(pub Table<Arc<Rewrite>>);

impl Rewrites {
    /// In the order in which they were decided.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &Arc<Rewrite>> {
        self.0.rows().values()
    }

    /// Where the log of a leader began that decided on one of them, as the latest had it. A node that has more than that
    /// has not done what was decided before: what that removed, nobody decides on again.
    pub fn begins(&self) -> Index {
        let begins = self.all().map(|plan| plan.begins);
        begins.max().unwrap_or_default()
    }

    /// Takes over one that the entry `index` decided on; the oldest is forgotten if there are too many. One that would
    /// give up a record that can be read is none, whoever proposed it: what a leader knew when it proposed it may be
    /// given up, since that never comes back.
    pub fn decide(&mut self, index: Index, plan: &Rewrite, logs: &Logs) -> bool {
        let is_dead = |(log, first): (&LogId, _)| match logs.get(*log) {
            Some(known) => first <= &known.ends.first,
            None => true,
        };
        // A log that is not compacted any more gives up nothing for its keys.
        let is_compacted = |log: &LogId| {
            let known = logs.get(*log);
            known.is_some_and(|known| known.config.compaction.is_some())
        };
        let is_sound = plan.firsts.iter().all(is_dead) && plan.compacted.iter().all(is_compacted);
        if plan.base >= plan.next || plan.next > index || !is_sound {
            return false;
        }
        if !self.is_of_what_is_there(plan) {
            return false;
        }
        // The front of what an earlier one is about is gone where this one was decided. What has done it since stays.
        let before = self.all().filter(|known| known.base < plan.begins);
        let before: Vec<_> = before.map(|known| known.at.0).collect();
        before.iter().for_each(|at| drop(self.0.remove(at)));
        let at = index;
        let plan = Rewrite { at, ..plan.clone() };
        self.0.insert(index.0, Arc::new(plan));
        while self.0.rows().len() > REWRITES_MAX {
            let oldest = self.0.rows().keys().next().copied();
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        true
    }

    /// Whether a plan was made after those that were decided on its segments: one that was proposed twice, or by a leader
    /// that did not know of another, could be carried out by nobody.
    fn is_of_what_is_there(&self, plan: &Rewrite) -> bool {
        let overlap =
            |one: &Rewrite, other: &Rewrite| one.base < other.next && other.base < one.next;
        let all: Vec<_> = self.all().collect();
        all.iter().enumerate().all(|(number, known)| {
            let is_replaced = || all[number + 1..].iter().any(|later| overlap(known, later));
            !overlap(known, plan)
                || plan.of.contains(&Some(known.at))
                || is_replaced()
                || known.base < plan.begins
        })
    }

    /// Takes over the row of a checkpoint or a snapshot.
    pub fn restore(&mut self, row: pb::Rewriting) -> Result<(), WireError> {
        let at = Index(row.index);
        let plan = row.rewrite.ok_or(WireError::Missing("rewriting"))?;
        let plan = rewrite_from_pb(plan, at)?;
        let is_new = self.0.restore(row.index, Arc::new(plan)).is_none();
        let is_possible = is_new && self.0.rows().len() <= REWRITES_MAX;
        is_possible
            .then_some(())
            .ok_or(WireError::Unknown("rewriting"))
    }
}

impl Kept for Arc<Rewrite> {
    type Key = u64;

    fn stored_key(key: &u64) -> Vec<u8> {
        [&b"rewriting/"[..], &key.to_be_bytes()].concat()
    }

    fn to_pb(&self, key: &u64) -> pb::StateRow {
        let rewriting = pb::Rewriting {
            index: *key,
            rewrite: Some(rewrite_to_pb(self)),
        };
        pb::StateRow {
            row: Some(pb::state_row::Row::Rewriting(rewriting)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Offset;
    use crate::raft::entry::catalog::Trim;

    fn plan(firsts: &[(u32, u64)]) -> Rewrite {
        let firsts = firsts
            .iter()
            .map(|(log, first)| (LogId(*log), Offset(*first)));
        Rewrite {
            at: Index(0),
            base: Index(5),
            next: Index(9),
            of: vec![None],
            sealed_ms: 7,
            firsts: firsts.collect(),
            ..Rewrite::default()
        }
    }

    #[test]
    fn nothing_that_can_be_read_is_ever_given_up() {
        let mut logs = Logs::default();
        logs.appended(LogId::DEFAULT, 10, 100, 1);
        let (log, first) = (LogId::DEFAULT, Offset(4));
        logs.trim(&Trim { log, first }).unwrap();
        let mut rewrites = Rewrites::default();
        for (firsts, decided) in [
            (&[(0, 4)][..], true),
            (&[(0, 3)], true),
            (&[(0, 5)], false),
            (&[(0, u64::MAX)], false),
            (&[(77, u64::MAX)], true),
            (&[(77, u64::MAX), (0, 9)], false),
        ] {
            let mut one = Rewrites::default();
            assert_eq!(
                one.decide(Index(20), &plan(firsts), &logs),
                decided,
                "{firsts:?}"
            );
        }
        assert!(
            !rewrites.decide(Index(8), &plan(&[]), &logs),
            "of entries to come"
        );
        let mut of = None;
        for index in 20..60 {
            let again = Rewrite {
                of: vec![of],
                ..plan(&[])
            };
            assert!(rewrites.decide(Index(index), &again, &logs));
            assert!(!rewrites.decide(Index(index + 1), &again, &logs), "twice");
            of = Some(Index(index));
        }
        let kept: Vec<_> = rewrites.all().map(|plan| plan.at.0).collect();
        assert!(kept.into_iter().eq(60 - REWRITES_MAX as u64..60));
    }

    #[test]
    fn what_lost_its_front_keeps_nothing_from_being_rewritten() {
        let (mut rewrites, logs) = (Rewrites::default(), Logs::default());
        assert!(rewrites.decide(Index(20), &plan(&[]), &logs));
        let of_the_rest = |begins| Rewrite {
            base: Index(7),
            begins: Index(begins),
            ..plan(&[])
        };
        assert!(
            !rewrites.decide(Index(21), &of_the_rest(5), &logs),
            "it can be done"
        );
        assert_eq!(rewrites.begins(), Index(0));
        assert!(rewrites.decide(Index(22), &of_the_rest(6), &logs));
        assert_eq!(rewrites.begins(), Index(6));
        let kept: Vec<_> = rewrites.all().map(|plan| plan.at.0).collect();
        assert_eq!(kept, [22]);
    }

    #[test]
    fn rows_come_back_and_no_more_than_there_may_be() {
        let mut rewrites = Rewrites::default();
        let logs = Logs::default();
        assert!(rewrites.decide(Index(20), &plan(&[(7, u64::MAX), (9, u64::MAX)]), &logs));
        let rows: Vec<_> = rewrites.0.to_pb().collect();
        let mut again = Rewrites::default();
        for row in rows {
            let Some(pb::state_row::Row::Rewriting(row)) = row.row else {
                panic!("another row")
            };
            again.restore(row.clone()).unwrap();
            again.restore(row).unwrap_err();
        }
        assert_eq!(again, rewrites);
    }
}
