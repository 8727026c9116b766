//! Decides, on the leader, which sealed segments are rewritten: looks at what lives of all of them, some at a time, and once
//! that is known has a run of them rewritten.

use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::log::{Index, Rewrite, RewriteSize, SegmentInfo};
use crate::raft::entry::command::Command;
use crate::raft::error::Error;
use crate::raft::home::blocking::on_disk;
use crate::retry::CALL_WAIT;

use super::Upkeep;
use super::planning::{Limits, SUPERSEDED_PERCENT, choose, plan};
use super::worth::{SEGMENTS_AT_ONCE, Worth, idle_percent, patient_percent};

/// Rewritings that may wait on the leader while it decides on others. Only so many are remembered, and one that was forgotten
/// would be decided on again.
const DUE_MAX: usize = 4;

impl Upkeep {
    pub(super) fn see_whether_idle(&self, worth: &Mutex<Worth>, segments: &[SegmentInfo]) {
        let open = segments.iter().rfind(|one| one.next_position.is_none());
        let is_idle = worth.lock().idle.see(open, Instant::now());
        self.is_idle.store(is_idle, Ordering::Relaxed);
    }

    /// Looks at some more segments. Once all were looked at, it is known what lives, and the leader decides on a run of
    /// them.
    pub(super) async fn look_at_some(
        &self,
        worth: &Mutex<Worth>,
        mut segments: Vec<SegmentInfo>,
        dead_percent: u64,
    ) -> Result<(), Error> {
        segments.retain(|one| one.next_position.is_some());
        let sealed = segments;
        let rewritten = sealed.iter().filter_map(|one| one.name.rewritten).max();
        let now = (self.node.log.given_up(), sealed.len(), rewritten);
        let (some, is_end) = worth.lock().next_some(&sealed, now);
        let (log, is_full) = (self.node.log.clone(), some.len() == SEGMENTS_AT_ONCE);
        let seen = on_disk(move || {
            let live = |one: SegmentInfo| (one.name, log.live(one.base));
            Ok::<_, Error>(some.into_iter().map(live).collect::<Vec<_>>())
        });
        let mut failed = None;
        for (name, live) in seen.await? {
            let mut worth = worth.lock();
            match live {
                Ok(Some(live)) => {
                    let size = RewriteSize {
                        lives: live.bytes,
                        holds: live.of_bytes,
                    };
                    worth.lives.insert(name, size);
                }
                Ok(None) => drop(worth.lives.remove(&name)),
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            // The next look is at what is not known yet.
            let mut worth = worth.lock();
            (worth.next, worth.ended) = (Index(0), None);
            return Err(error.into());
        }
        if is_full {
            return Ok(());
        }
        if is_end {
            let bytes = worth.lock().bytes();
            self.live_bytes.store(bytes, Ordering::Relaxed);
        }
        if !self.node.view().writable {
            worth.lock().decided = None;
            return Ok(());
        }
        self.decide(worth, &sealed, dead_percent).await;
        Ok(())
    }

    /// Decides on a run of segments, once for what was seen of them.
    async fn decide(&self, worth: &Mutex<Worth>, sealed: &[SegmentInfo], dead_percent: u64) {
        let looks = {
            let searched = self.searched.lock();
            if searched.looked_percent.is_some() {
                return;
            }
            searched.number
        };
        let (dead_percent, superseded_percent) = self.enough(worth, dead_percent);
        let due: Vec<_> = self
            .not_done()
            .iter()
            .map(|plan| plan.base..plan.next)
            .collect();
        let ended = worth.lock().ended;
        let seen = ended.map(|ended| (ended, dead_percent, looks, due.clone()));
        if self.due().len() >= DUE_MAX {
            return;
        }
        if worth.lock().decided == seen {
            // What was decided on was done or refused, and nothing has changed since.
            self.searched.lock().use_up(looks);
            return;
        }
        let superseded_percent = match self.searched.lock().is_asked {
            true => 0,
            false => superseded_percent,
        };
        let may_settle = due.is_empty() && dead_percent > 0;
        let limits = Limits {
            segment_bytes_max: self.node.log.segment_bytes_max(),
            dead_percent,
            superseded_percent,
            due,
        };
        let chosen = match dead_percent {
            0 => None,
            _ => choose(
                sealed,
                (&worth.lock().lives, &self.searched.lock().found),
                &limits,
            ),
        };
        let Some(planned) = self.planned(chosen).await else {
            return;
        };
        let is_settled = may_settle && planned.is_none();
        // What gives back room otherwise comes first, and there may be no end of it: looks do not wait for that.
        let is_compacting = planned
            .as_ref()
            .is_some_and(|plan| !plan.compacted.is_empty());
        if let Some(plan) = planned
            && !self.propose(Command::Rewrite(plan)).await
        {
            return;
        }
        let mut searched = self.searched.lock();
        if !is_compacting {
            searched.use_up(looks);
        }
        if is_settled {
            searched.settle(looks);
        }
        drop(searched);
        worth.lock().decided = seen;
    }

    /// Which parts of a segment are to be dead, or superseded, in hundredths.
    fn enough(&self, worth: &Mutex<Worth>, dead_percent: u64) -> (u64, u64) {
        if self.is_idle.load(Ordering::Relaxed) {
            return (idle_percent(dead_percent), idle_percent(SUPERSEDED_PERCENT));
        }
        let dead_percent = match worth.lock().is_little_dead(dead_percent) {
            true => patient_percent(dead_percent),
            false => dead_percent,
        };
        (dead_percent, SUPERSEDED_PERCENT)
    }

    /// Tells all nodes of a decision; false if that may not have been done.
    pub(super) async fn propose(&self, command: Command) -> bool {
        let what = command.to_string();
        match timeout(CALL_WAIT, self.node.raft.client_write(command)).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => {
                tracing::debug!(%error, what, "a decision was not told to all nodes");
                false
            }
            Err(_) => {
                tracing::debug!(
                    what,
                    "a decision may not have been told to all nodes: the answer is late"
                );
                false
            }
        }
    }

    /// What is to be rewritten of a run that was chosen, if anything; `None` if that cannot be told, and what lives is to be
    /// looked at anew.
    async fn planned(&self, chosen: Option<Vec<SegmentInfo>>) -> Option<Option<Rewrite>> {
        let Some(run) = chosen else {
            return Some(None);
        };
        self.plan_of(run).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "segments are not rewritten: they cannot be looked at");
            None
        })
    }

    /// The same of a run; `None` if one of its segments went, or waits for repair, or if its first one is about to go.
    async fn plan_of(&self, run: Vec<SegmentInfo>) -> Result<Option<Option<Rewrite>>, Error> {
        let (log, looked) = (self.node.log.clone(), run.clone());
        let lives = on_disk(move || {
            let lives = looked.iter().map(|one| log.live(one.base));
            Ok::<_, Error>(lives.collect::<Result<Option<Vec<_>>, _>>()?)
        });
        let Some(lives) = lives.await? else {
            return Ok(None);
        };
        let begins = self.node.log.first_base();
        let is_dead = lives.first().is_some_and(|first| first.bytes == 0);
        let base = run.first().map_or(begins, |first| first.base);
        if base < begins || (base == begins && is_dead) {
            return Ok(None);
        }
        let planned = plan(&run, &lives, &self.searched.lock().found);
        Ok(Some(planned.map(|plan| Rewrite { begins, ..plan })))
    }
}
