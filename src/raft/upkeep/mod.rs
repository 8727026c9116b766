//! The upkeep of a node's log: seals finished segments, removes trimmed ones, trims by the retention that was set,
//! and finds and mends damage.

mod compacting;
mod deciding;
mod mend;
mod planning;
pub mod progress;
mod retention;
mod rewriting;
mod scrub;
mod searched;
mod taking_over;
mod worth;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::log::{self, Floor, Index, Log, Term};
use crate::raft::engine::state_machine::Checkpointer;
use crate::raft::entry::types::TypeConfig;
use crate::raft::error::Error;
use crate::raft::home::blocking::on_disk;
use crate::raft::home::stable_store::StableStore;
use crate::raft::node::Node;
use crate::raft::snapshot::{self, DurableFloor, Snapshots};
use crate::raft::write::commands::Commands;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between two tries to mend the same damage.
const AGAIN: Duration = Duration::from_secs(2);

/// The most bytes that are given back a second of segments that were removed. Beside a load it is as much as is rewritten: a
/// disk that is told of hundreds of megabytes a second, by several nodes, has syncs wait.
const FREED_PER_SECOND: u64 = 256 << 20;

/// How long the engine may take to build a snapshot and to purge the entries that it covers.
const ENGINE_MAX: Duration = Duration::from_secs(10);

/// The stores beside the log that upkeep changes.
pub struct Kept {
    pub snapshots: Snapshots,
    pub checkpointer: Checkpointer,
    pub stable: StableStore,
    pub floor: DurableFloor,
}

/// Looks after the log of a node.
pub struct Upkeep {
    node: Arc<Node>,
    commands: Arc<Commands>,
    kept: Kept,
    walk: Mutex<retention::Walk>,
    /// Held while a copy of another node's segment is fetched and takes the place of one: all copies come to one directory.
    copying: tokio::sync::Mutex<()>,
    /// The bytes of batches in sealed segments of which a record lives, as they were seen last.
    live_bytes: AtomicU64,
    /// The rewritings that are due and must wait: for room, or for who reads their segments.
    waiting: Arc<Mutex<BTreeSet<Index>>>,
    /// The rewritings that had no room for what they came to, and how many bytes lived of each so far.
    outgrown: Mutex<BTreeMap<Index, u64>>,
    /// Whether the log hardly grows.
    is_idle: AtomicBool,
    /// What the leader knows of records that later ones of their keys stand for.
    searched: Mutex<searched::Searched>,
    /// The entry up to which the engine was to purge and did not in time; 0 if it always did.
    put_off: AtomicU64,
}

impl Upkeep {
    pub fn new(node: Arc<Node>, commands: Arc<Commands>, kept: Kept) -> Self {
        Self {
            node,
            commands,
            kept,
            walk: Mutex::default(),
            copying: tokio::sync::Mutex::default(),
            live_bytes: AtomicU64::default(),
            waiting: Arc::default(),
            outgrown: Mutex::default(),
            is_idle: AtomicBool::default(),
            searched: Mutex::default(),
            put_off: AtomicU64::default(),
        }
    }

    /// Whether it is durable that the log no longer begins with its first entry.
    #[cfg(test)]
    pub fn has_floor(&self) -> bool {
        self.kept.floor.lock().is_some()
    }

    /// The bytes of batches in sealed segments of which a record can be read, as they were when all were looked at last.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Ordering::Relaxed)
    }

    /// Where the state is saved.
    pub fn stable(&self) -> &StableStore {
        &self.kept.stable
    }

    /// The handle with which others have the state saved.
    pub fn checkpointer(&self) -> &Checkpointer {
        &self.kept.checkpointer
    }

    /// Seals, removes trimmed segments and trims by retention. Never returns.
    pub async fn keep_up(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let log_ms = self.node.state.read(|fsm| fsm.timestamp_ms);
            self.node.passed.lock().look(log_ms);
            self.node.clocks.look(&self.node.view(), log_ms);
            if let Err(error) = self.keep_up_once().await {
                tracing::warn!(%error, "upkeep of the log failed; it is tried again");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Each part is done whatever becomes of the others: trims may be what gives a full disk room for the rest.
    async fn keep_up_once(&self) -> Result<(), Error> {
        let sealed = self.seal().await;
        self.keep_retentions().await;
        self.commands.expire_sessions().await;
        self.commands.found_in_time().await;
        if let Some((floor, term)) = self.droppable().await? {
            self.give_up(floor, term).await?;
        }
        sealed
    }

    /// Seals what can be.
    async fn seal(&self) -> Result<(), Error> {
        let applied = self.node.indexes()[2];
        if applied.is_some_and(|applied| self.node.log.can_seal(Index(applied))) {
            let checkpointer = self.kept.checkpointer.clone();
            on_disk(move || checkpointer.save()).await?;
        }
        Ok(())
    }

    /// Gives back, a piece at a time, what segments take that were removed. Never returns.
    pub async fn free(&self) {
        let mut since = None;
        loop {
            let (log, began) = (self.node.log.clone(), Instant::now());
            let before = *since.get_or_insert_with(|| (began, log.appended_bytes()));
            let freed = on_disk(move || Ok::<_, Error>(log.free_some())).await;
            let pause = if let Ok(Some(bytes)) = freed {
                let rate = self.rate(before, FREED_PER_SECOND);
                rewriting::rest(bytes, began.elapsed(), rate)
            } else {
                since = None;
                LOOK_EVERY
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Where the log could begin. It may take a look at the disk. A run of segments that is about to be rewritten goes as a
    /// whole or not at all: without its front it could not be rewritten, and what all nodes have would not be the same.
    async fn droppable(&self) -> Result<Option<(Floor, Term)>, Error> {
        let (log, due) = (self.node.log.clone(), self.due_now());
        log.let_go_before(self.node.state.read(|fsm| fsm.rewrites.begins()));
        on_disk(move || Ok(whole_runs(&log, &due)?)).await
    }

    /// Has the engine purge the entries up to `last`, once a snapshot covers those up to `covers`.
    async fn purge(&self, last: u64, covers: u64) -> Result<(), Error> {
        let raft = &self.node.raft;
        // A leader's engine puts a purge off while it sends these entries. If it follows another leader by then, it
        // forgets to do it, and does nothing about a purge up to the same entry; it does about one that goes further.
        let put_off = self.put_off.load(Ordering::Relaxed);
        // Nothing is purged that is not applied.
        let applied = self.node.indexes()[2].unwrap_or(0);
        let last = match last <= put_off {
            true => (put_off + 1).min(applied).max(last),
            false => last,
        };
        let covers = covers.max(last);
        let stopped = |error: &dyn std::fmt::Display| Error::Engine(error.to_string());
        let metrics = raft.metrics();
        let covered = metrics.borrow_watched().snapshot.map(|id| id.index);
        if covered.is_none_or(|covered| covered < covers) {
            let asked = raft.trigger().snapshot().await;
            asked.map_err(|error| stopped(&error))?;
            let built = move |metrics: &openraft::RaftMetrics<TypeConfig>| {
                metrics.snapshot.is_some_and(|id| id.index >= covers)
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
        if let Err(error) = waited {
            self.put_off.fetch_max(last, Ordering::Relaxed);
            return Err(stopped(&error));
        }
        Ok(())
    }

    /// Removes the segments below a floor, once a snapshot covers them and the engine has purged them (I4).
    async fn give_up(&self, floor: Floor, term: Term) -> Result<(), Error> {
        let last = floor.index.0 - 1;
        self.purge(last, last).await?;
        // A start should know the trims that let the segments go. A disk with no room for a checkpoint must still
        // be able to give some up: its reads then say what was trimmed until the trims are applied again.
        let checkpointer = self.kept.checkpointer.clone();
        let saved = on_disk(move || checkpointer.save()).await;
        if let Err(error) = saved {
            tracing::warn!(%error, "trimmed segments go before a checkpoint says so");
        }
        let (stable, log) = (self.kept.stable.clone(), self.node.log.clone());
        let (kept, state) = (self.kept.floor.clone(), self.node.state.clone());
        let (node, waiting) = (self.node.clone(), self.waiting.clone());
        on_disk(move || {
            // A snapshot may have been installed while this waited for the engine. Its floor then stays.
            let _no_adoption = state.covered();
            // What was decided since is not to lose its front.
            let due = rewriting::due_now(&node, &waiting);
            if due.iter().any(|run| is_cut(run, floor.index)) {
                return Ok(());
            }
            let now = log.droppable(floor.index)?;
            let begins = begins(&kept);
            if now.is_none_or(|(now, _)| now.index < floor.index) || begins > floor.index {
                return Ok(());
            }
            // The floor is saved before the segments are removed: a start finishes a removal that a crash cut
            // short. If a pin held the segments the last time, the floor is saved already.
            if begins < floor.index {
                let durable = snapshot::floor_to_pb(floor, term);
                stable.save_floor(&durable)?;
                *kept.lock() = Some(durable);
            }
            if log.drop_below(floor)? {
                tracing::info!(first = %floor.position, "removed trimmed segments");
            }
            Ok(())
        })
        .await
    }
}

/// Where it is durable that the log begins.
fn begins(floor: &DurableFloor) -> Index {
    snapshot::floor_of(floor.lock().as_ref()).index
}

/// Whether a run would lose its front alone, if the log began there.
fn is_cut(run: &Range<Index>, at: Index) -> bool {
    run.start < at && at < run.end
}

/// Where the log could begin, if each of these runs goes as a whole or not at all.
fn whole_runs(log: &Log, runs: &[Range<Index>]) -> Result<Option<(Floor, Term)>, log::Error> {
    let mut before = Index(u64::MAX);
    loop {
        let found = log.droppable(before)?;
        let cut = found.and_then(|(floor, _)| runs.iter().find(|run| is_cut(run, floor.index)));
        match cut {
            Some(run) => before = run.start,
            None => return Ok(found),
        }
    }
}
