//! The engine's door to the FSM: applies committed entries, answers their proposers, checkpoints.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftStateMachine};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::watch;

use crate::disk::Disk;
use crate::log::{self, Index, Log, Offset};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::command::Retention;
use crate::raft::entry::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig};
use crate::raft::error::Error;
use crate::raft::home::directory::Directory;
use crate::raft::home::stable_store::StableStore;
use crate::raft::snapshot::{self, SnapshotData, Snapshots};
use crate::raft::state::cursors::Cursor;
use crate::raft::state::fences::Epoch;
use crate::raft::state::fsm::{Fsm, Registration};
use crate::raft::state::sessions::SessionInfo;
use crate::tasks;

/// Entries applied between two checkpoints: what a restart has to apply again at most.
const CHECKPOINT_ENTRIES: u64 = 50_000;
/// Payload bytes applied between two checkpoints: about a segment's.
const CHECKPOINT_BYTES: u64 = 64 << 20;

/// How far a node has applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// The last raft index; `None` before the first.
    pub index: Option<u64>,
    /// The offset that the next record gets.
    pub next_offset: Offset,
}

/// The FSM with what it stands on.
#[derive(Debug)]
pub struct StateMachine {
    log: Log,
    pub(crate) stable: StableStore,
    shared: Arc<Shared>,
    since_checkpoint: (u64, u64),
    pub(crate) snapshots: Snapshots,
    /// Where the log begins, as it was made durable.
    pub(crate) floor: Arc<Mutex<Option<pb::Floor>>>,
}

/// What others see of the FSM.
#[derive(Debug)]
pub struct Shared {
    pub(crate) fsm: Mutex<Fsm>,
    applied: watch::Sender<Applied>,
    /// The raft index after the last one that the durable checkpoint covers; 0 without one. Held
    /// while a checkpoint is written, so that none ever goes back: what is sealed, and what was
    /// given up, lies below it.
    pub(crate) covered: Mutex<u64>,
}

impl Shared {
    /// A node's registration, by name.
    pub fn registration(&self, name: &str) -> Option<(u64, Registration)> {
        let fsm = self.fsm.lock();
        let mut nodes = fsm.registrations().iter();
        let found = nodes.find(|(_, node)| node.name == name);
        found.map(|(id, node)| (*id, node.clone()))
    }

    /// A node's name by id, if it was given that and not removed; and how far that is known.
    pub fn registered(&self, id: u64) -> (Option<String>, Option<u64>) {
        let fsm = self.fsm.lock();
        let node = fsm.registrations().get(&id);
        let applied = fsm.applied.map(|applied| applied.index);
        (node.map(|node| node.name.clone()), applied)
    }

    /// How much of the log is to be kept.
    pub fn retention(&self) -> Retention {
        self.fsm.lock().retention.clone()
    }

    /// Where the slowest of these cursors stands; those that are not there hold nothing up.
    pub fn slowest_cursor(&self, names: &[String]) -> Option<Offset> {
        let fsm = self.fsm.lock();
        let stands = names.iter().filter_map(|name| fsm.cursors.get(name));
        stands.map(|cursor| cursor.offset).min()
    }

    /// A cursor by name.
    pub fn cursor(&self, name: &str) -> Option<Cursor> {
        self.fsm.lock().cursors.get(name).copied()
    }

    /// Up to `count` cursors by name, behind `after`.
    pub fn cursors(&self, after: &str, count: usize) -> Vec<(String, Cursor)> {
        self.fsm.lock().cursors.list(after, count)
    }

    /// Who holds a name.
    pub fn epoch(&self, name: &str) -> Option<Epoch> {
        self.fsm.lock().fences.get(name).cloned()
    }

    /// Up to `count` claimed names behind `after`.
    pub fn fences(&self, after: &str, count: usize) -> Vec<(String, Epoch)> {
        self.fsm.lock().fences.list(after, count)
    }

    /// Up to `count` sessions behind `after`.
    pub fn sessions(&self, after: u64, count: usize) -> Vec<SessionInfo> {
        self.fsm.lock().sessions.list(after, count)
    }

    /// Whether a session was last used before a time.
    pub fn any_idle_session(&self, before_ms: u64) -> bool {
        self.fsm.lock().sessions.any_idle(before_ms)
    }

    /// The last time that a leader gave to an applied entry, in milliseconds since 1970.
    pub fn timestamp_ms(&self) -> u64 {
        self.fsm.lock().timestamp_ms
    }

    /// How far the FSM is, and a wait for it to get further.
    pub fn watch_applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }
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
        let checkpoint = stable.checkpoint()?.unwrap_or_default();
        let covered = snapshot::covered_by(&checkpoint);
        let mut fsm = Fsm::from_checkpoint(checkpoint)?;
        let floor = stable.floor()?;
        let begins = snapshot::floor_of(floor.as_ref());
        let (log, opened) = Log::open(disk, &dir, config, begins, covered)?;
        report(&opened, covered.is_some());
        if !opened.rows_hold {
            fsm = Fsm::default();
        }
        let (_, next_offset) = log.offsets();
        let applied = Applied {
            index: fsm.applied.map(|id| id.index),
            next_offset,
        };
        let shared = Shared {
            fsm: Mutex::new(fsm),
            applied: watch::Sender::new(applied),
            covered: Mutex::new(applied.index.map_or(0, |index| index + 1)),
        };
        let machine = Self {
            snapshots,
            log,
            stable: stable.clone(),
            shared: Arc::new(shared),
            since_checkpoint: (0, 0),
            floor: Arc::new(Mutex::new(floor)),
        };
        if floor.is_some() {
            // The engine wants a snapshot that reaches at least to where the log begins.
            machine.snapshots.set_current(machine.snapshot()?);
        }
        Ok(machine)
    }

    /// The log under the FSM.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// What others may see.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Applies one entry and tells nobody yet.
    pub(crate) fn apply_one(
        &mut self,
        entry: &crate::raft::entry::types::Entry,
    ) -> Result<crate::raft::entry::outcome::Outcome, log::Error> {
        let outcome = self.shared.fsm.lock().apply(&self.log, entry)?;
        self.since_checkpoint.0 += 1;
        if let crate::raft::entry::types::EntryPayload::Normal(
            crate::raft::entry::command::Command::Append(payload),
        ) = &entry.payload
        {
            self.since_checkpoint.1 += payload.len() as u64;
        }
        Ok(outcome)
    }

    /// Lets readers see what was applied, and checkpoints now and then.
    pub(crate) fn publish(&mut self) {
        let (_, next_offset) = self.log.offsets();
        let index = self.shared.fsm.lock().applied.map(|id| id.index);
        self.shared
            .applied
            .send_replace(Applied { index, next_offset });
        let (entries, bytes) = self.since_checkpoint;
        if entries >= CHECKPOINT_ENTRIES || bytes >= CHECKPOINT_BYTES {
            self.since_checkpoint = (0, 0);
            let checkpointer = self.checkpointer();
            // Off the apply path: it waits for the disk. A failure costs a longer restart only;
            // a disk that fails for good stops the node at the next append.
            tasks::spawn_blocking("checkpoint", move || {
                if let Err(error) = checkpointer.save() {
                    tracing::error!(%error, "the checkpoint failed");
                }
            });
        }
    }

    /// Saves the state as it is when asked.
    pub fn checkpointer(&self) -> Checkpointer {
        Checkpointer {
            snapshots: self.snapshots.clone(),
            log: self.log.clone(),
            stable: self.stable.clone(),
            shared: self.shared.clone(),
        }
    }

    pub(crate) fn applied(&self) -> Option<LogId> {
        self.shared.fsm.lock().applied
    }

    pub(crate) fn meta(&self) -> SnapshotMeta {
        let fsm = self.shared.fsm.lock();
        SnapshotMeta {
            last_log_id: fsm.applied,
            last_membership: fsm.membership.clone(),
        }
    }

    pub(crate) fn checkpoint(&self) -> pb::Checkpoint {
        self.shared.fsm.lock().to_checkpoint(self.log.offsets())
    }

    pub(crate) fn replace(&mut self, fsm: Fsm) {
        *self.shared.fsm.lock() = fsm;
    }
}

/// Makes the FSM's state durable.
#[derive(Debug, Clone)]
pub struct Checkpointer {
    snapshots: Snapshots,
    log: Log,
    stable: StableStore,
    shared: Arc<Shared>,
}

impl Checkpointer {
    /// Saves a checkpoint of what is applied now, if the log is durable that far, and seals the
    /// segments that it covers.
    ///
    /// A checkpoint past the durable log would make a restarted node believe that it holds
    /// entries which a power cut took.
    pub fn save(&self) -> Result<(), Error> {
        let mut covered = self.shared.covered.lock();
        let (checkpoint, applied) = {
            let fsm = self.shared.fsm.lock();
            let Some(applied) = fsm.applied else {
                return Ok(());
            };
            (fsm.to_checkpoint(self.log.offsets()), applied)
        };
        if self.log.durable() <= Index(applied.index) {
            return Ok(());
        }
        if applied.index < *covered {
            // Nothing is new, but what was covered may be ready to be sealed.
            self.log.seal_covered(Index(*covered - 1))?;
            return Ok(());
        }
        if self.snapshots.has_little_room(checkpoint.encoded_len()) {
            // What is left is for votes, and for the floor of a trim.
            return Ok(());
        }
        // Rows first: the checkpoint says that they are there.
        self.log.sync_index()?;
        self.stable.save_checkpoint(&checkpoint, &applied)?;
        *covered = applied.index + 1;
        self.log.seal_covered(Index(applied.index))?;
        Ok(())
    }
}

/// Says how the log was found.
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
    type SnapshotBuilder = snapshot::Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let fsm = self.shared.fsm.lock();
        Ok((fsm.applied, fsm.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            let outcome = self.apply_one(&entry).map_err(io::Error::other)?;
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        self.publish();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> snapshot::Builder {
        self.snapshot_builder()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        data: SnapshotData,
    ) -> io::Result<()> {
        self.install(meta, data).await.map_err(io::Error::other)
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<
        Option<
            openraft::Snapshot<
                crate::raft::entry::types::CommittedLeaderId,
                u64,
                crate::raft::entry::types::Member,
                SnapshotData,
            >,
        >,
    > {
        Ok(self.snapshots.current())
    }
}
