//! Rewrites sealed segments with what lives of them, as entries of the log say.
//!
//! A segment lives as long as the longest-lived record in it. Where more is dead than a share, the leader has a run of
//! sealed segments rewritten (`deciding.rs`). Each node does it in its own time: once its engine needs the entries no
//! more, since a snapshot covers them, and once its checkpoint knows what was given up.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::live::Live;
use crate::log::{Index, Rewrite, RewriteSize, Rewriting, Rewritten};
use crate::raft::error::Error;
use crate::raft::home::blocking::on_disk;
use crate::raft::node::Node;

use super::worth::Worth;
use super::{Upkeep, begins};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between two tries of the same.
const AGAIN: Duration = Duration::from_secs(2);
/// The most bytes that are read or written a second for it.
pub(super) const BYTES_PER_SECOND: u64 = 64 << 20;
/// Beside a load it is so many a second, and so many for each byte that is appended meanwhile. No more dies than was
/// appended, and what is written again is no more than what dies, so that rewriting does not fall behind.
const LOADED_BYTES_PER_SECOND: u64 = 8 << 20;
const BYTES_PER_APPENDED: u64 = 2;
/// A disk or a machine with much to do is left alone after a step for as long as the step took, and for so long at most.
const REST_MAX: Duration = Duration::from_secs(1);
/// What is written may take this part of what is free.
const FREE_SHARE: u64 = 4;

/// What became of the rewritings that are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// One was carried out.
    Done,
    /// All of them wait, or failed.
    Waits,
    /// None is due.
    Idle,
}

/// There was no room for all that lives.
struct Outgrown {
    /// How many bytes live at least: so many were written.
    lives: u64,
}

impl Upkeep {
    /// Rewrites segments. Never returns.
    pub async fn rewrite(&self, dead_percent: Live<u64>) {
        let worth = Mutex::new(Worth::default());
        loop {
            sleep(LOOK_EVERY).await;
            let segments = self.node.log.segments();
            self.see_whether_idle(&worth, &segments);
            let turn = self.carry_out_one().await;
            if turn == Turn::Done {
                continue;
            }
            // What must wait keeps nothing else from being decided on.
            let looked = self.look_at_some(&worth, segments, dead_percent.get());
            let looked = looked.await.inspect_err(|error| {
                tracing::warn!(%error, "segments were not looked at; it is tried again");
            });
            if turn == Turn::Waits || looked.is_err() {
                sleep(AGAIN).await;
            }
        }
    }

    /// Carries out the first of the rewritings that are due and need not wait.
    async fn carry_out_one(&self) -> Turn {
        let due = self.due();
        let is_due = |at: &Index| due.iter().any(|plan| plan.at == *at);
        self.waiting.lock().retain(is_due);
        self.outgrown.lock().retain(|at, _| is_due(at));
        for plan in &due {
            match self.carry_out(plan).await {
                Ok(true) => {
                    self.waiting.lock().remove(&plan.at);
                    return Turn::Done;
                }
                Ok(false) => drop(self.waiting.lock().insert(plan.at)),
                // It may be done the next time, and its segments are kept for that.
                Err(error) => {
                    tracing::warn!(%error, "segments were not rewritten; it is tried again");
                }
            }
        }
        match due.is_empty() {
            true => Turn::Idle,
            false => Turn::Waits,
        }
    }

    /// The rewritings that this node has not done yet.
    pub(super) fn not_done(&self) -> Vec<Arc<Rewrite>> {
        not_done(&self.node)
    }

    /// Those of them that it can do, or have done.
    pub(super) fn due(&self) -> Vec<Arc<Rewrite>> {
        due(&self.node)
    }

    /// The entries that are to be rewritten here, of runs that need not wait.
    pub(super) fn due_now(&self) -> Vec<Range<Index>> {
        due_now(&self.node, &self.waiting)
    }

    /// Whether the log begins behind this index, or will: removing what is before there was begun.
    pub fn is_given_up(&self, base: Index) -> bool {
        begins(&self.kept.floor) > base
    }

    /// Rewrites segments; false if it must wait.
    async fn carry_out(&self, plan: &Arc<Rewrite>) -> Result<bool, Error> {
        if self.node.log.is_pinned_before(plan.next) || self.is_given_up(plan.base) {
            return Ok(false);
        }
        let (log, wanted) = (self.node.log.clone(), plan.clone());
        let size = on_disk(move || Ok::<_, Error>(log.rewrite_size(&wanted)?)).await?;
        let Some(mut size) = size else {
            return Ok(false);
        };
        if let Some(lives) = self.outgrown.lock().get(&plan.at) {
            size.lives = size.lives.max(*lives);
        }
        if !self.has_room(&size, 0) {
            return Ok(false);
        }
        if !self.node.log.can_rewrite(plan) {
            return Ok(self.taken_over(plan).await);
        }
        let (log, wanted) = (self.node.log.clone(), plan.clone());
        let begun = on_disk(move || Ok::<_, Error>(log.begin_rewrite(&wanted)?)).await?;
        let Some(rewriting) = begun else {
            return Ok(false);
        };
        let began = Instant::now();
        let rewriting = match self.written(rewriting, size).await? {
            Ok(rewriting) => rewriting,
            Err(Outgrown { lives }) => {
                self.outgrown.lock().insert(plan.at, lives);
                return Ok(false);
            }
        };
        let rewritten = on_disk(move || Ok::<_, Error>(rewriting.finish()?)).await?;
        let (bytes, of) = (rewritten.bytes(), rewritten.segments());
        let swapped = self.put_in_place(plan, rewritten).await?;
        if swapped {
            let ms = began.elapsed().as_millis();
            tracing::info!(base = %plan.base, segments = of, bytes, ms, "rewrote segments");
        }
        Ok(swapped)
    }

    /// Puts what was written in the place of the segments that it was made of; false, and it is gone, if it must wait.
    async fn put_in_place(&self, plan: &Rewrite, rewritten: Rewritten) -> Result<bool, Error> {
        // From here on the engine reads none of these entries, and a start knows what was given up.
        self.purge(plan.next.0 - 1, plan.at.0).await?;
        let is_covered = self.is_covered(plan.at).await?;
        let (log, state) = (self.node.log.clone(), self.node.state.clone());
        let (floor, base) = (self.kept.floor.clone(), plan.base);
        on_disk(move || {
            // No snapshot is adopted meanwhile, and no floor is saved. A start would remove what begins below the floor.
            let _no_adoption = state.covered();
            if !is_covered || begins(&floor) > base {
                log.forget_rewriting(&rewritten)?;
                return Ok(false);
            }
            Ok::<_, Error>(log.swap(&rewritten)?)
        })
        .await
    }

    /// Whether there is room for a rewriting, of which so many bytes are written.
    fn has_room(&self, size: &RewriteSize, written: u64) -> bool {
        let snapshots = &self.kept.snapshots;
        let free = snapshots.disk.available(&snapshots.dir).unwrap_or(u64::MAX);
        let (_, reserve) = self.node.space.room();
        let has_room = may_write(size, (free.saturating_add(written), reserve));
        if !has_room {
            tracing::debug!(
                ?size,
                written,
                free,
                reserve,
                "segments wait to be rewritten until there is room"
            );
        }
        has_room
    }

    /// How many bytes a second may be moved, `most` at most, of work that began when so many had been appended.
    pub(super) fn rate(&self, (began, before): (Instant, u64), most: u64) -> u64 {
        let free = self.kept.snapshots.disk.available(&self.kept.snapshots.dir);
        let (_, reserve) = self.node.space.room();
        let is_short = free.is_ok_and(|free| free < 2 * reserve);
        if is_short || self.is_idle.load(Ordering::Relaxed) {
            return most;
        }
        let appended = self.node.log.appended_bytes().saturating_sub(before);
        rate_beside(appended, began.elapsed())
    }

    /// Writes all that lives. What was written goes if that is more than was thought and there is no room.
    async fn written(
        &self,
        mut rewriting: Rewriting,
        mut size: RewriteSize,
    ) -> Result<Result<Rewriting, Outgrown>, Error> {
        let before = (Instant::now(), self.node.log.appended_bytes());
        loop {
            let began = Instant::now();
            let (back, moved) = on_disk(move || step(rewriting)).await?;
            rewriting = back;
            let Some(bytes) = moved else {
                return Ok(Ok(rewriting));
            };
            // What is left of compressed batches is not compressed.
            let written = rewriting.written();
            if written > size.takes() {
                size.lives = written;
                if !self.has_room(&size, written) {
                    on_disk(move || {
                        drop(rewriting);
                        Ok::<_, Error>(())
                    })
                    .await?;
                    return Ok(Err(Outgrown { lives: written }));
                }
            }
            sleep(rest(
                bytes,
                began.elapsed(),
                self.rate(before, BYTES_PER_SECOND),
            ))
            .await;
        }
    }

    /// Has what a peer made of this plan, or of a later one, in the place of segments that end elsewhere there.
    async fn taken_over(&self, plan: &Rewrite) -> bool {
        let before = plan.at.0.checked_sub(1).map(Index);
        let taken = self.take_over(plan.base, before).await;
        if taken {
            tracing::info!(base = %plan.base, "took over what another node rewrote");
        }
        taken
    }

    /// Has a checkpoint saved that covers an entry; false if that could not be.
    pub(super) async fn is_covered(&self, at: Index) -> Result<bool, Error> {
        let (state, checkpointer) = (self.node.state.clone(), self.kept.checkpointer.clone());
        on_disk(move || {
            if *state.covered() > at.0 {
                return Ok(true);
            }
            checkpointer.save()?;
            let covered = *state.covered();
            Ok(covered > at.0)
        })
        .await
    }
}

fn not_done(node: &Node) -> Vec<Arc<Rewrite>> {
    node.state.read(|fsm| {
        let all = fsm.rewrites.all();
        let all = all.filter(|plan| !node.log.is_rewritten(plan));
        all.cloned().collect()
    })
}

/// What a node can do, in the order in which it was decided, and then what it can have done: where it ended a segment by
/// itself, what another node made is taken over.
fn due(node: &Node) -> Vec<Arc<Rewrite>> {
    let log = &node.log;
    let mut due = not_done(node);
    due.retain(|plan| log.can_rewrite(plan) || log.may_take_over(plan));
    due.sort_by_key(|plan| !log.can_rewrite(plan));
    due
}

/// The entries of what is due and need not wait.
pub(super) fn due_now(node: &Node, waiting: &Mutex<BTreeSet<Index>>) -> Vec<Range<Index>> {
    let waiting = waiting.lock().clone();
    let now = due(node).into_iter();
    let now = now.filter(|plan| !waiting.contains(&plan.at));
    now.map(|plan| plan.base..plan.next).collect()
}

/// A step on a thread that may wait for the disk.
fn step(mut rewriting: Rewriting) -> Result<(Rewriting, Option<u64>), Error> {
    let moved = rewriting.step()?;
    Ok((rewriting, moved))
}

/// Whether a rewriting may be written: it takes a part of what is free at most, and of the reserve only if more than half
/// of what it removes is dead.
fn may_write(size: &RewriteSize, (free, reserve): (u64, u64)) -> bool {
    let stays_free = free.saturating_sub(size.takes()) >= reserve;
    size.takes() <= free / FREE_SHARE && (stays_free || size.holds > 2 * size.lives)
}

/// How many bytes a second may be moved beside a load that appended so many bytes in this time.
fn rate_beside(appended: u64, time: Duration) -> u64 {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    // What comes in a moment tells little.
    let per_second = appended.saturating_mul(1000) / millis.max(1000);
    let rate =
        LOADED_BYTES_PER_SECOND.saturating_add(per_second.saturating_mul(BYTES_PER_APPENDED));
    rate.min(BYTES_PER_SECOND)
}

/// How long to wait after a step of so many bytes that took so long, at a rate of bytes a second.
pub(super) fn rest(bytes: u64, took: Duration, rate: u64) -> Duration {
    let pace = Duration::from_micros(bytes.saturating_mul(1_000_000) / rate);
    pace.max(took.min(REST_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_a_load_no_more_is_moved_than_keeps_up_with_it() {
        let rate = |mib: u64, millis| rate_beside(mib << 20, Duration::from_millis(millis)) >> 20;
        assert_eq!(rate(0, 5000), 8);
        assert_eq!(rate(30, 5000), 20);
        assert_eq!(rate(6, 1), 20, "the first moments");
        assert_eq!(rate(1000, 5000), 64, "never more");
        let ms = Duration::from_millis;
        assert_eq!(rest(1 << 20, ms(0), 8 << 20), ms(125));
        assert_eq!(rest(1 << 20, ms(300), 8 << 20), ms(300), "a slow step");
        assert_eq!(rest(1 << 20, ms(3000), 8 << 20), REST_MAX);
    }

    #[test]
    fn a_full_disk_is_written_to_only_for_what_gives_back_more() {
        let may = |lives, holds, reserve| may_write(&RewriteSize { lives, holds }, (1000, reserve));
        assert!(may(160, 170, 760), "the reserve stays free");
        assert!(!may(168, 1000, 0), "a quarter of what is free");
        assert!(!may(160, 320, 761), "it gives back what it takes");
        assert!(may(160, 321, 761), "it gives back more");
        assert!(may(0, 10, 5000), "nothing is left of them");
    }
}
