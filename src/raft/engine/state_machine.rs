//! The engine's state machine: applies committed entries to the FSM, answers their proposers, saves checkpoints.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftStateMachine};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::disk::Disk;
use crate::log::{self, Index, Log, Offset, Position};
use crate::proto::raft_v1 as pb;
use crate::raft::engine::install::SnapshotBuilder;
use crate::raft::entry::outcome::Outcome;
use crate::raft::entry::types::{Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig};
use crate::raft::error::Error;
use crate::raft::home::directory::Directory;
use crate::raft::home::stable_store::StableStore;
use crate::raft::snapshot::rows::Rows;
use crate::raft::snapshot::{self, DurableFloor, Snapshot, SnapshotData, Snapshots};
use crate::raft::state::applied::AppliedState;
use crate::raft::state::checkpoint::Changes;
use crate::raft::state::fsm::Fsm;
use crate::raft::view::counts::Counts;
use crate::tasks;

/// How many entries are applied between two checkpoints. A restart applies about so many again at most.
const CHECKPOINT_ENTRIES: u64 = 50_000;
/// How many bytes of payload are applied between two checkpoints: about one segment.
const CHECKPOINT_BYTES: u64 = 64 << 20;

/// The FSM with its log, its stores and its snapshots; the engine owns it.
#[derive(Debug)]
pub struct StateMachine {
    log: Log,
    pub(crate) stable: StableStore,
    state: Arc<AppliedState>,
    since_checkpoint: (u64, u64),
    pub(crate) snapshots: Snapshots,
    /// Where the log begins, as it was made durable.
    pub(crate) floor: DurableFloor,
    pub(crate) counts: Arc<Counts>,
}

impl StateMachine {
    /// Opens what a node's directory holds.
    pub fn open_in(directory: &Directory, config: log::Config) -> Result<Self, Error> {
        let (disk, dir) = (directory.disk.clone(), directory.path.clone());
        Self::open(disk, dir, config, &directory.stable)
    }

    /// Brings back the FSM from its checkpoint and opens the log in `dir` under it.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        config: log::Config,
        stable: &StableStore,
    ) -> Result<Self, Error> {
        let snapshots = Snapshots::new(disk.clone(), dir.clone());
        snapshot::finish_adoption(&snapshots, stable)?;
        snapshots.clear_repair()?;
        let checkpoint = stable.checkpoint()?.unwrap_or_default();
        let next = Position(checkpoint.next_position);
        let mut fsm = match checkpoint.applied {
            Some(_) => Fsm::restore(checkpoint, stable.rows()?)?,
            None => Fsm::default(),
        };
        let covered = fsm.covered(next);
        let is_covered = covered.is_some();
        let floor = stable.floor()?;
        let begins = snapshot::floor_of(floor.as_ref());
        let (log, opened) = Log::open(disk, &dir, config, begins, covered)?;
        report(&opened, is_covered);
        if !opened.rows_hold {
            fsm = Fsm::default();
        }
        fsm.logs.with_gaps().for_each(|id| log.may_have_gaps(id));
        let next_offset = default_end(&log);
        let machine = Self {
            snapshots,
            log,
            stable: stable.clone(),
            state: Arc::new(AppliedState::new(fsm, next_offset)),
            since_checkpoint: (0, 0),
            floor: Arc::new(Mutex::new(floor)),
            counts: Arc::default(),
        };
        if floor.is_some() || machine.log.rewritten_to().is_some() {
            // Where the log no longer holds its first entry, the engine needs a snapshot of what came before.
            machine.snapshots.set_current(machine.snapshot()?);
        }
        Ok(machine)
    }

    /// The log under the FSM.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The state, for others to read.
    pub fn state(&self) -> Arc<AppliedState> {
        self.state.clone()
    }

    /// Applies one entry. Readers see it after [`Self::publish`].
    pub(crate) fn apply_one(&mut self, entry: &Entry) -> Result<Outcome, log::Error> {
        let outcome = self.state.change(|fsm| fsm.apply(&self.log, entry))?;
        self.since_checkpoint.0 += 1;
        if let crate::raft::entry::types::EntryPayload::Normal(
            crate::raft::entry::command::Command::Append(payload),
        ) = entry.payload()
        {
            self.since_checkpoint.1 += payload.len() as u64;
        }
        Ok(outcome)
    }

    /// Shows readers what was applied, and begins a checkpoint when one is due.
    pub(crate) fn publish(&mut self) {
        self.state.publish(default_end(&self.log));
        let (entries, bytes) = self.since_checkpoint;
        if entries >= CHECKPOINT_ENTRIES || bytes >= CHECKPOINT_BYTES {
            self.since_checkpoint = (0, 0);
            let checkpointer = self.checkpointer();
            // On another thread, since it waits for the disk and apply must not. A checkpoint that fails only
            // makes the next restart longer; a disk that fails for good stops the node at the next append.
            tasks::spawn_blocking("checkpoint", move || {
                if let Err(error) = checkpointer.save() {
                    tracing::error!(%error, "the checkpoint failed");
                }
            });
        }
    }

    /// The handle with which others have the state saved.
    pub fn checkpointer(&self) -> Checkpointer {
        Checkpointer {
            snapshots: self.snapshots.clone(),
            log: self.log.clone(),
            stable: self.stable.clone(),
            state: self.state.clone(),
        }
    }

    pub(crate) fn applied(&self) -> Option<LogId> {
        self.state.read(|fsm| fsm.applied)
    }

    pub(crate) fn meta(&self) -> SnapshotMeta {
        self.state.read(|fsm| SnapshotMeta {
            last_log_id: fsm.applied,
            last_membership: fsm.membership.clone(),
        })
    }

    /// The state, as a snapshot holds it.
    pub(crate) fn checkpoint(&self) -> (pb::Checkpoint, Rows) {
        self.state.read(|fsm| {
            let rows = fsm.to_rows().collect();
            (fsm.to_checkpoint(self.log.positions().1), rows)
        })
    }

    pub(crate) fn replace(&mut self, fsm: Fsm) {
        self.state.change(|state| *state = fsm);
    }
}

/// Where the default log ends.
fn default_end(of: &Log) -> Offset {
    of.ends(log::LogId::DEFAULT).unwrap_or_default().next
}

/// Makes the FSM's state durable.
#[derive(Debug, Clone)]
pub struct Checkpointer {
    snapshots: Snapshots,
    log: Log,
    stable: StableStore,
    state: Arc<AppliedState>,
}

impl Checkpointer {
    /// Saves a checkpoint of what is applied now, if the log is durable that far, and seals the
    /// segments that it covers.
    ///
    /// A checkpoint past the durable log would make a restarted node believe that it holds
    /// entries which a power cut took.
    pub fn save(&self) -> Result<(), Error> {
        let mut covered = self.state.covered();
        let durable = self.log.durable();
        let taken = self.state.change(|fsm| {
            let applied = fsm.applied?;
            let is_new = applied.index >= *covered && Index(applied.index) < durable;
            is_new.then(|| (applied.index, fsm.take_changes(self.log.positions().1)))
        });
        let Some((applied, changes)) = taken else {
            // There is nothing new to save. But a segment under the last checkpoint may be ready to be sealed now.
            return match covered.checked_sub(1) {
                Some(last) => Ok(self.log.seal_covered(Index(last)).map(drop)?),
                None => Ok(()),
            };
        };
        let saved = self.write(&changes);
        let is_durable = saved.as_ref().is_ok_and(|written| *written);
        self.state.change(|fsm| fsm.saved(is_durable));
        if saved? {
            *covered = applied + 1;
            self.log.seal_covered(Index(applied))?;
        }
        Ok(())
    }

    /// Writes what changed. Returns false, with nothing written, if the disk has little room: the rest is kept for
    /// votes and for the floor of a trim.
    fn write(&self, changes: &Changes) -> Result<bool, Error> {
        if self.snapshots.has_little_room(changes.bytes()) {
            return Ok(false);
        }
        // The log's rows are synced first: the checkpoint claims that they are there.
        self.log.sync_index()?;
        let (checkpoint, rows) = (&changes.checkpoint, &changes.rows);
        self.stable
            .save_checkpoint(checkpoint, rows, changes.is_all)?;
        Ok(true)
    }
}

/// Logs how the log was found at the start.
fn report(opened: &log::Opened, had_checkpoint: bool) {
    tracing::info!(
        segments = opened.segments,
        sealed = opened.sealed,
        read_bytes = opened.read_bytes,
        "opened the log"
    );
    if opened.torn_bytes > 0 {
        let bytes = opened.torn_bytes;
        tracing::warn!(bytes, "cut a torn tail that was never acknowledged");
    }
    if had_checkpoint && !opened.rows_hold {
        tracing::warn!("the index does not match its checkpoint: applying the whole log again");
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let seen = |fsm: &Fsm| (fsm.applied, fsm.membership.clone());
        Ok(self.state.read(seen))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            let (index, began) = (entry.log_id.index, Instant::now());
            self.counts.is_committed(index, began);
            let outcome = self.apply_one(&entry).map_err(io::Error::other)?;
            self.counts.is_applied(index, began);
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        self.publish();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.snapshot_builder()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        data: SnapshotData,
    ) -> io::Result<()> {
        self.install(meta, data).await.map_err(io::Error::other)
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.snapshots.current())
    }
}
