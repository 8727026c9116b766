//! Rewrites sealed segments with what lives of them, as entries of the log say, and, on the leader, decides which.
//!
//! A segment lives as long as the longest-lived record in it. Where more is dead than a share, the leader has a run of
//! sealed segments rewritten. Each node does it in its own time: once its engine needs the entries no more, since a
//! snapshot covers them, and once its checkpoint knows what was given up.

use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::live::Live;
use crate::log::{Index, Rewrite, RewriteSize, Rewriting, SegmentInfo};
use crate::raft::entry::command::Command;
use crate::raft::error::Error;
use crate::raft::home::blocking::on_disk;
use crate::retry::CALL_WAIT;

use super::Upkeep;
use super::idle;
use super::planning::{Limits, SUPERSEDED_PERCENT, plan};
use super::worth::{SEGMENTS_AT_ONCE, Worth};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between two tries of the same.
const AGAIN: Duration = Duration::from_secs(2);
/// The most bytes that are read or written a second for it.
const BYTES_PER_SECOND: u64 = 64 << 20;
/// What is written may take this part of what is free.
const FREE_SHARE: u64 = 4;

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
            let done = match self.due() {
                Some(plan) => self.carry_out(&plan).await,
                None => {
                    let looked = self.look_at_some(&worth, segments, dead_percent.get());
                    looked.await.map(|()| true)
                }
            };
            match done {
                Ok(true) => {}
                Ok(false) => sleep(AGAIN).await,
                Err(error) => {
                    tracing::warn!(%error, "segments were not rewritten; it is tried again");
                    sleep(AGAIN).await;
                }
            }
        }
    }

    /// The first of the rewritings that this node has not done yet, and can do or have done.
    pub(super) fn due(&self) -> Option<Rewrite> {
        let log = &self.node.log;
        self.node.state.read(|fsm| {
            let due: Vec<_> = fsm
                .rewrites
                .all()
                .filter(|plan| !log.is_rewritten(plan))
                .collect();
            let first = due.iter().find(|plan| log.can_rewrite(plan));
            // Where this node ended a segment by itself, what another node made is taken over.
            let first = first.or_else(|| due.iter().find(|plan| log.may_take_over(plan)));
            first.map(|plan| (*plan).clone())
        })
    }

    /// Rewrites segments; false if it must wait.
    async fn carry_out(&self, plan: &Rewrite) -> Result<bool, Error> {
        let (log, wanted) = (self.node.log.clone(), plan.clone());
        let size = on_disk(move || Ok::<_, Error>(log.rewrite_size(&wanted)?)).await?;
        let Some(mut size) = size else {
            return Ok(false);
        };
        if let Some((at, lives)) = *self.outgrown.lock()
            && at == plan.at
        {
            size.lives = size.lives.max(lives);
        }
        if !self.has_room(&size, 0) {
            return Ok(false);
        }
        if !self.node.log.can_rewrite(plan) {
            return Ok(self.taken_over(plan).await);
        }
        let _one_at_a_time = self.rewriting.lock().await;
        let (log, wanted) = (self.node.log.clone(), plan.clone());
        let begun = on_disk(move || Ok::<_, Error>(log.begin_rewrite(&wanted)?)).await?;
        let Some(rewriting) = begun else {
            return Ok(false);
        };
        let began = Instant::now();
        let rewriting = match self.written(rewriting, size).await? {
            Ok(rewriting) => rewriting,
            Err(Outgrown { lives }) => {
                *self.outgrown.lock() = Some((plan.at, lives));
                return Ok(false);
            }
        };
        let rewritten = on_disk(move || Ok::<_, Error>(rewriting.finish()?)).await?;
        // From here on the engine reads none of these entries, and a start knows what was given up.
        self.purge(plan.next.0 - 1, plan.at.0).await?;
        if !self.is_covered(plan.at).await? {
            let log = self.node.log.clone();
            on_disk(move || Ok::<_, Error>(log.forget_rewriting(&rewritten)?)).await?;
            return Ok(false);
        }
        let (log, state) = (self.node.log.clone(), self.node.state.clone());
        let (bytes, of) = (rewritten.bytes(), rewritten.segments());
        let swapped = on_disk(move || {
            // No snapshot is adopted meanwhile.
            let _no_adoption = state.covered();
            Ok::<_, Error>(log.swap(&rewritten)?)
        });
        let swapped = swapped.await?;
        if swapped {
            let ms = began.elapsed().as_millis();
            tracing::info!(base = %plan.base, segments = of, bytes, ms, "rewrote segments");
        }
        Ok(swapped)
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

    /// Writes all that lives. What was written goes if that is more than was thought and there is no room.
    async fn written(
        &self,
        mut rewriting: Rewriting,
        mut size: RewriteSize,
    ) -> Result<Result<Rewriting, Outgrown>, Error> {
        loop {
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
            sleep(pace(bytes)).await;
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

    fn see_whether_idle(&self, worth: &Mutex<Worth>, segments: &[SegmentInfo]) {
        let open = segments.iter().rfind(|one| one.next_position.is_none());
        let is_idle = worth.lock().idle.see(open, Instant::now());
        self.is_idle.store(is_idle, Ordering::Relaxed);
    }

    /// Looks at some more segments. Once all were looked at, it is known what lives, and the leader decides on a run of
    /// them.
    async fn look_at_some(
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
                Ok(Some(live)) => drop(worth.lives.insert(name, live)),
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
        let percent = |beside_load| match self.is_idle.load(Ordering::Relaxed) {
            true => idle::percent(beside_load),
            false => beside_load,
        };
        let dead_percent = percent(dead_percent);
        let seen = worth.lock().ended.map(|ended| (ended, dead_percent, looks));
        if worth.lock().decided == seen {
            // What was decided on was done or refused, and nothing has changed since.
            self.searched.lock().use_up(looks);
            return;
        }
        let superseded_percent = match self.searched.lock().is_asked {
            true => 0,
            false => percent(SUPERSEDED_PERCENT),
        };
        let limits = Limits {
            segment_bytes_max: self.node.log.segment_bytes_max(),
            dead_percent,
            superseded_percent,
        };
        let planned = match dead_percent {
            0 => None,
            _ => plan(
                sealed,
                (&worth.lock().lives, &self.searched.lock().found),
                &limits,
            ),
        };
        // What gives back room otherwise comes first, and there may be no end of it: looks do not wait for that.
        let is_compacting = planned
            .as_ref()
            .is_some_and(|plan| !plan.compacted.is_empty());
        if let Some(plan) = planned {
            let written = self.node.raft.client_write(Command::Rewrite(plan));
            match timeout(CALL_WAIT, written).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%error, "segments are not rewritten: nobody was told");
                    return;
                }
                Err(_) => {
                    tracing::debug!("segments are not rewritten yet: the answer is late");
                    return;
                }
            }
        }
        if !is_compacting {
            self.searched.lock().use_up(looks);
        }
        worth.lock().decided = seen;
    }
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

/// How long to wait after so many bytes.
pub(super) fn pace(bytes: u64) -> Duration {
    Duration::from_micros(bytes.saturating_mul(1_000_000) / BYTES_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

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
