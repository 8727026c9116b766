//! What a node does besides serving: it seals what is finished, gives up what was trimmed, keeps to
//! the retention that was set, and finds and mends damage.

use std::path::PathBuf;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;

use crate::log::{self, Damage, Damaged, Floor, Index, Offset, SegmentInfo, Term};
use crate::raft::entry::command::Retention;
use crate::raft::entry::types::TypeConfig;
use crate::raft::error::{Error, FetchError};
use crate::raft::home::blocking::on_disk;
use crate::raft::peer::fetch;
use crate::raft::{ReplicatedLog, snapshot};
use crate::tasks;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Between two tries to mend the same damage.
const MEND_AGAIN: Duration = Duration::from_secs(2);
/// Between two scrubs of the whole log.
const SCRUB_EVERY: Duration = Duration::from_secs(3600);
/// How long the engine may take to build a snapshot and to let go of what it covers.
const ENGINE_MAX: Duration = Duration::from_secs(10);
/// Where copies of damaged segments are built, below the log's directory.
const REPAIR: &str = "repair";

impl ReplicatedLog {
    /// Seals, trims and keeps retention. Never returns.
    pub async fn keep_up(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let log_ms = self.log_time_ms();
            self.0.passed.lock().look(log_ms);
            self.0.clocks.look(&self.view(), log_ms);
            if let Err(error) = self.keep_up_once().await {
                tracing::warn!(%error, "upkeep of the log failed; it is tried again");
                tokio::time::sleep(MEND_AGAIN).await;
            }
        }
    }

    async fn keep_up_once(&self) -> Result<(), Error> {
        let applied = self.indexes()[2];
        if applied.is_some_and(|applied| self.log().can_seal(Index(applied))) {
            let checkpointer = self.0.checkpointer.clone();
            on_disk(move || checkpointer.save()).await?;
        }
        self.keep_retention().await;
        self.expire_sessions().await;
        self.found_in_time().await;
        if let Some((floor, term)) = self.log().droppable(Index(u64::MAX)) {
            self.give_up(floor, term).await?;
        }
        Ok(())
    }

    /// Removes the segments below a floor, once a snapshot covers them and the engine let go.
    async fn give_up(&self, floor: Floor, term: Term) -> Result<(), Error> {
        let last = floor.index.0 - 1;
        let raft = self.raft();
        let stopped = |error: &dyn std::fmt::Display| Error::Engine(error.to_string());
        let metrics = raft.metrics();
        let covered = metrics.borrow_watched().snapshot.map(|id| id.index);
        if covered.is_none_or(|covered| covered < last) {
            let asked = raft.trigger().snapshot().await;
            asked.map_err(|error| stopped(&error))?;
            let built = move |metrics: &openraft::RaftMetrics<TypeConfig>| {
                metrics.snapshot.is_some_and(|id| id.index >= last)
            };
            let wait = raft.wait(Some(ENGINE_MAX));
            let waited = wait.metrics(built, "a snapshot").await;
            waited.map_err(|error| stopped(&error))?;
        }
        let asked = raft.trigger().purge_log(last).await;
        asked.map_err(|error| stopped(&error))?;
        let purged = move |metrics: &openraft::RaftMetrics<TypeConfig>| {
            metrics.purged.is_some_and(|id| id.index >= last)
        };
        let wait = raft.wait(Some(ENGINE_MAX));
        let waited = wait.metrics(purged, "the purge").await;
        waited.map_err(|error| stopped(&error))?;
        let (stable, log) = (self.0.stable.clone(), self.log().clone());
        let (kept, fsm) = (self.0.floor.clone(), self.0.fsm.clone());
        on_disk(move || {
            // A snapshot may have been adopted while the engine was waited for: its floor stays.
            let _no_adoption = fsm.covered();
            let now = log.droppable(floor.index);
            let begins = snapshot::floor_of(kept.lock().as_ref()).index;
            if now.is_none_or(|(now, _)| now.index < floor.index) || begins > floor.index {
                return Ok(());
            }
            // The floor first: a removal that a crash cuts short is finished on the next start. It
            // is saved already if a pin held the segments when it was.
            if begins < floor.index {
                let durable = snapshot::floor_to_pb(floor, term);
                stable.save_floor(&durable)?;
                *kept.lock() = Some(durable);
            }
            if log.drop_below(floor)? {
                tracing::info!(first = %floor.offset, "removed trimmed segments");
            }
            Ok(())
        })
        .await
    }

    /// The leader trims what the retention does not keep; every node lets old segments end.
    async fn keep_retention(&self) {
        let retention = self.retention();
        let segments = self.log().segments();
        let last = segments.last().filter(|last| last.next_offset.is_none());
        // Ending a segment removes nothing: this node's clock will do.
        let now = Some(self.clock_ms());
        let old = |last: &SegmentInfo| {
            let age = retention.max_age_ms.filter(|_| last.since_ms > 0);
            age.is_some_and(|age| is_old(last, last, age, now))
        };
        if last.is_some_and(old) {
            let log = self.log().clone();
            let rolled = on_disk(move || log.roll()).await;
            if let Err(error) = rolled {
                tracing::warn!(%error, "the old segment stays open");
            }
        }
        let (first, _) = self.log().offsets();
        let waited_for = self
            .0
            .fsm
            .read(|fsm| fsm.slowest_cursor(&retention.wait_for_cursors));
        let now = self.0.clocks.surely_past_ms(&self.view());
        let wanted = first_kept(&segments, &retention, waited_for, now);
        if let Some(wanted) = wanted.filter(|wanted| *wanted > first)
            && self.view().writable
        {
            match self.trim(wanted).await {
                Ok(first) => tracing::info!(%first, "trimmed by retention"),
                Err(error) => tracing::warn!(%error, "retention was not kept; it is tried again"),
            }
        }
    }

    /// Mends damaged segments as they are found. Never returns.
    pub async fn mend(&self) {
        loop {
            let damaged = self.log().damaged();
            for segment in &damaged {
                let began = Instant::now();
                let base = segment.seal.base;
                match self.mend_one(segment).await {
                    Ok(how) => {
                        let ms = began.elapsed().as_millis();
                        tracing::info!(%base, how, ms, "mended a damaged segment");
                    }
                    Err(error) => {
                        tracing::error!(%base, %error, "a damaged segment could not be mended");
                    }
                }
            }
            let left = !self.log().damaged().is_empty();
            tokio::time::sleep(if left { MEND_AGAIN } else { LOOK }).await;
        }
    }

    async fn mend_one(&self, damaged: &Damaged) -> Result<&'static str, Error> {
        let seal = damaged.seal.clone();
        if damaged.damage == Damage::Index {
            let (log, seal) = (self.log().clone(), seal.clone());
            let derived = on_disk(move || Ok(log.derive_index(&seal)?)).await;
            match derived {
                Ok(true) => return Ok("from its store"),
                Ok(false) | Err(Error::Log(log::Error::Damaged { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        let dir = self.repair_dir();
        snapshot::make_dir(&*self.snapshots().disk, &dir)?;
        let me = self.identity().node_id;
        let view = self.view();
        let mut peers: Vec<_> = view.members.iter().filter(|peer| peer.id != me).collect();
        peers.sort_by_key(|peer| Some(peer.id) != view.leader);
        let mut last = None;
        for peer in peers {
            let mut client = self.transport().own_client(peer.id, &peer.member.addr);
            let disk = self.snapshots().disk.clone();
            match fetch::fetch(&mut client, disk, &dir, &seal, None).await {
                Ok(()) => {
                    let log = self.log().clone();
                    let (seal, dir) = (seal.clone(), dir.clone());
                    on_disk(move || log.replace(&seal, &dir)).await?;
                    return Ok("from another node");
                }
                Err(FetchError::Log(error @ log::Error::Io { .. })) => return Err(error.into()),
                Err(error) => last = Some(error),
            }
        }
        Err(Error::NoCopy {
            base: seal.base,
            source: last.map(Box::new),
        })
    }

    fn repair_dir(&self) -> PathBuf {
        self.snapshots().dir.join(REPAIR)
    }

    /// Reads every sealed segment now and then, `bytes_per_second` at most, so that damage is found
    /// while other nodes are whole. Never returns.
    pub async fn scrub(&self, bytes_per_second: u64) {
        loop {
            let began = Instant::now();
            let (bytes, damaged) = self.scrub_once(bytes_per_second).await;
            if bytes > 0 {
                tracing::info!(
                    bytes,
                    damaged,
                    seconds = began.elapsed().as_secs(),
                    "scrubbed"
                );
            }
            tokio::time::sleep_until(began + SCRUB_EVERY).await;
        }
    }

    /// Reads every sealed segment once; gives the bytes read and the segments found damaged.
    pub async fn scrub_once(&self, bytes_per_second: u64) -> (u64, u64) {
        let (mut bytes, mut damaged) = (0, 0);
        let mut from = Index(0);
        while let Some(mut scrub) = self.log().scrub(from) {
            from = scrub.next_index();
            loop {
                let began = Instant::now();
                let stepped = tasks::spawn_blocking("scrub", move || {
                    let step = scrub.step();
                    (scrub, step)
                });
                let Ok((back, step)) = stepped.await else {
                    return (bytes, damaged);
                };
                scrub = back;
                match step {
                    Ok(0) => break,
                    Ok(read) => bytes += read as u64,
                    // That says nothing of the segment, which is looked at the next time.
                    Err(error) if error.is_short_of_files() => break,
                    Err(_) => {
                        damaged += 1;
                        break;
                    }
                }
                let pace = SCRUB_STEP_BYTES / bytes_per_second.max(1) as f64;
                tokio::time::sleep_until(began + Duration::from_secs_f64(pace)).await;
            }
        }
        (bytes, damaged)
    }
}

/// What a step of a scrub reads, about.
const SCRUB_STEP_BYTES: f64 = (1 << 20) as f64;

/// Whether all that is in a segment is older than an age: by the time that passed since the next one
/// began, or, if this process was not there, by the log's times and a time that has surely come.
fn is_old(segment: &SegmentInfo, next: &SegmentInfo, age_ms: u64, now_ms: Option<u64>) -> bool {
    let told = |now| segment.since_ms.saturating_add(age_ms) <= now;
    next.opened.elapsed() >= Duration::from_millis(age_ms)
        || (segment.found && now_ms.is_some_and(told))
}

/// The first offset that a retention keeps; `None` if it keeps all that is sealed. Nothing from
/// `waited_for` on is given up while the segments take no more than the cap.
fn first_kept(
    segments: &[SegmentInfo],
    retention: &Retention,
    waited_for: Option<Offset>,
    now_ms: Option<u64>,
) -> Option<Offset> {
    let mut total: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut first = None;
    for (number, segment) in segments.iter().enumerate() {
        let Some(next) = segment.next_offset else {
            break;
        };
        let over = retention.max_bytes.is_some_and(|max| total > max);
        let age = retention.max_age_ms;
        let behind = segments.get(number + 1);
        let old = age.zip(behind);
        let old = old.is_some_and(|(age, behind)| is_old(segment, behind, age, now_ms));
        let waits = waited_for.is_some_and(|cursor| next > cursor);
        if (!over && !old) || (waits && total <= retention.wait_bytes_max) {
            break;
        }
        total -= segment.bytes;
        first = Some(next);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(base: u64, bytes: u64, since_ms: u64, sealed: bool) -> SegmentInfo {
        SegmentInfo {
            base: Index(base),
            next_index: Index(base + 10),
            bytes,
            next_offset: sealed.then_some(Offset(base + 10)),
            opened: Instant::now(),
            found: true,
            since_ms,
            damaged: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retention_gives_up_whole_sealed_segments_from_the_front() {
        let all = [
            segment(0, 100, 1000, true),
            segment(10, 100, 2000, true),
            segment(20, 100, 3000, false),
        ];
        let keep = |max_bytes, max_age_ms, now| {
            let retention = Retention {
                max_bytes,
                max_age_ms,
                ..Retention::default()
            };
            first_kept(&all, &retention, None, Some(now)).map(|first| first.0)
        };
        assert_eq!(keep(None, None, 9999), None);
        assert_eq!(keep(Some(300), None, 0), None);
        assert_eq!(keep(Some(299), None, 0), Some(10));
        assert_eq!(keep(Some(1), None, 0), Some(20), "never the open one");
        assert_eq!(keep(None, Some(500), 1499), None);
        assert_eq!(keep(None, Some(500), 1500), Some(10));
        assert_eq!(keep(Some(200), Some(500), 9999), Some(20));

        let wait = |cursor, wait_bytes_max| {
            let retention = Retention {
                max_bytes: Some(1),
                wait_bytes_max,
                ..Retention::default()
            };
            first_kept(&all, &retention, Some(Offset(cursor)), None).map(|first| first.0)
        };
        assert_eq!(wait(9, 300), None, "its record is in the first segment");
        assert_eq!(wait(10, 300), Some(10));
        assert_eq!(wait(20, 300), Some(20));
        assert_eq!(wait(0, 299), Some(10), "over the cap");
        assert_eq!(wait(0, 100), Some(20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_segment_is_as_old_as_the_time_that_passed_since_it_ended() {
        let step = Duration::from_millis(1000);
        let mut all = Vec::new();
        for base in [0, 10, 20] {
            all.push(SegmentInfo {
                found: false,
                // A wrong clock's.
                since_ms: if base == 0 { 1 } else { u64::MAX },
                ..segment(base, 100, 0, base < 20)
            });
            tokio::time::advance(step).await;
        }
        let retention = Retention {
            max_age_ms: Some(2500),
            ..Retention::default()
        };
        let keep = |now| first_kept(&all, &retention, None, now).map(|first| first.0);
        // The last record of the first one may be two seconds old.
        assert_eq!((keep(None), keep(Some(u64::MAX))), (None, None));
        tokio::time::advance(step / 2).await;
        assert_eq!((keep(None), keep(Some(0))), (Some(10), Some(10)));
        tokio::time::advance(step).await;
        assert_eq!((keep(None), keep(Some(0))), (Some(20), Some(20)));
    }
}
