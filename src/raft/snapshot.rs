//! Snapshots: the FSM's state beside the log that holds the records.
//!
//! Nothing is purged by itself, so no follower needs a snapshot to catch up, and none is built
//! unless the engine asks. One is built in O(1): the checkpoint and a handle to the log, of which
//! nothing is copied. Installing one appends the entries that the node lacks and applies them,
//! which leads to the same state; entries that it holds already stay where they are.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use openraft::RaftSnapshotBuilder;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::log::disk::Disk;
use crate::log::{self, Index, Log};
use crate::proto::raft_v1 as pb;

use super::command;
use super::error::Error;
use super::fsm::Fsm;
use super::state_machine::StateMachine;
use super::types::{CommittedLeaderId, Member, SnapshotMeta, TypeConfig, WireError};

pub type Snapshot = openraft::Snapshot<CommittedLeaderId, u64, Member, SnapshotData>;

/// Entries moved at a time, in bytes.
const PART_BYTES: usize = 1 << 20;
/// Where a snapshot's entries wait until all have come, below the log's directory.
const STAGING: &str = "staging";

/// The FSM's state, and a log that holds the entries up to it.
#[derive(Debug, Clone)]
pub struct SnapshotData {
    pub checkpoint: pb::Checkpoint,
    pub log: Log,
}

/// Where snapshots are kept and staged.
#[derive(Debug, Clone)]
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    config: log::Config,
    current: Arc<Mutex<Option<Snapshot>>>,
}

impl Snapshots {
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, config: log::Config) -> Self {
        Self {
            disk,
            dir,
            config,
            current: Arc::default(),
        }
    }

    /// The last one built or installed by this process.
    pub fn current(&self) -> Option<Snapshot> {
        self.current.lock().clone()
    }

    /// An empty log for the entries of a snapshot on its way here.
    pub fn stage(&self) -> Result<Log, Error> {
        let dir = self.dir.join(STAGING);
        let failed = |source| Error::Directory {
            path: dir.clone(),
            source,
        };
        self.disk.create_dir(&dir).map_err(failed)?;
        log::remove(&*self.disk, &dir)?;
        let disk = self.disk.clone();
        let (log, _) = Log::open(disk, &dir, self.config.clone(), Index(0), None)?;
        Ok(log)
    }

    fn clear_staging(&self) -> Result<(), log::Error> {
        match log::remove(&*self.disk, &self.dir.join(STAGING)) {
            Err(log::Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(())
            }
            done => done,
        }
    }
}

/// Builds a snapshot of the state when it was made.
#[derive(Debug)]
pub struct Builder {
    meta: SnapshotMeta,
    data: SnapshotData,
    current: Arc<Mutex<Option<Snapshot>>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let snapshot = Snapshot {
            meta: self.meta.clone(),
            snapshot: self.data.clone(),
        };
        *self.current.lock() = Some(snapshot.clone());
        Ok(snapshot)
    }
}

/// The meta data that the engine wants of a checkpoint.
pub fn meta(checkpoint: &pb::Checkpoint) -> Result<SnapshotMeta, WireError> {
    let fsm = Fsm::from_checkpoint(checkpoint.clone())?;
    Ok(SnapshotMeta {
        last_log_id: fsm.applied,
        last_membership: fsm.membership,
    })
}

/// Appends entries to a log and waits until they are durable.
pub async fn append(log: &Log, entries: Vec<log::Entry>) -> Result<(), log::Error> {
    let (tell, told) = oneshot::channel();
    log.append(entries, Box::new(move |result| drop(tell.send(result))))?;
    told.await.unwrap_or(Err(log::Error::Stopped))
}

impl StateMachine {
    pub(super) fn snapshot_builder(&self) -> Builder {
        Builder {
            meta: self.meta(),
            data: SnapshotData {
                checkpoint: self.checkpoint(),
                log: self.log().clone(),
            },
            current: self.snapshots.current.clone(),
        }
    }

    /// Takes over a snapshot's state.
    pub(super) async fn install(
        &mut self,
        meta: &SnapshotMeta,
        data: SnapshotData,
    ) -> Result<(), Error> {
        let Some(last) = meta.last_log_id else {
            return Ok(());
        };
        let end = Index(last.index + 1);
        if data
            .log
            .last()
            .is_some_and(|(_, index)| index.0 >= last.index)
        {
            self.append_missing(&data.log, end).await?;
            self.apply_up_to(end)?;
        } else if data.checkpoint.next_offset == 0 {
            // State without a single record, whose entries are not at hand.
            self.replace(Fsm::from_checkpoint(data.checkpoint.clone())?);
        } else {
            return Err(log::Error::NoEntry {
                asked: Index(last.index),
                first: Index(0),
                next: data
                    .log
                    .last()
                    .map_or(Index(0), |(_, index)| Index(index.0 + 1)),
            }
            .into());
        }
        self.publish();
        let snapshot = SnapshotData {
            checkpoint: data.checkpoint,
            log: self.log().clone(),
        };
        drop(data.log);
        *self.snapshots.current.lock() = Some(Snapshot {
            meta: meta.clone(),
            snapshot,
        });
        self.snapshots.clear_staging()?;
        Ok(())
    }

    /// Appends the entries before `end` that this log lacks, cutting a suffix that differs.
    async fn append_missing(&mut self, from: &Log, end: Index) -> Result<(), Error> {
        let applied = self.applied().map_or(0, |id| id.index + 1);
        let mine = self.log().last().map_or(0, |(_, index)| index.0 + 1);
        // What was applied is the same by log matching; what agrees in its term is, too, and was
        // promised to a leader: it is never cut, not even to be written again.
        let mut at = applied;
        while at < mine.min(end.0) && self.log().term(Index(at))? == from.term(Index(at))? {
            at += 1;
        }
        if at < mine && at < end.0 {
            let (tell, told) = oneshot::channel();
            let done = Box::new(move |result| drop(tell.send(result)));
            self.log()
                .truncate_after(at.checked_sub(1).map(Index), done)?;
            told.await.unwrap_or(Err(log::Error::Stopped))?;
        }
        while at < end.0 {
            let entries = from.entries(Index(at), end, PART_BYTES)?;
            at += entries.len() as u64;
            append(self.log(), entries).await?;
        }
        Ok(())
    }

    fn apply_up_to(&mut self, end: Index) -> Result<(), Error> {
        let mut at = self.applied().map_or(0, |id| id.index + 1);
        while at < end.0 {
            for entry in self.log().entries(Index(at), end, PART_BYTES)? {
                let entry = command::from_log(entry)?;
                self.apply_one(&entry)?;
                at += 1;
            }
        }
        Ok(())
    }
}
