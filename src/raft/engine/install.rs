//! The state machine's part in building a snapshot for the engine, and in installing one.

use std::io;
use std::sync::Arc;

use openraft::RaftSnapshotBuilder;
use tokio::sync::oneshot;

use crate::log::{self, Done, Index, Position, Seal};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::codec;
use crate::raft::entry::types::{self, SnapshotMeta, TypeConfig};
use crate::raft::error::Error;
use crate::raft::home::blocking::{on_disk, with_descriptors};
use crate::raft::snapshot::{self, Snapshot, SnapshotData, Snapshots};
use crate::raft::state::fsm::Fsm;
use crate::raft::view::counts::Way;

use super::state_machine::StateMachine;

/// How many bytes of entries are read from the log and applied at a time.
const PART_BYTES: usize = 1 << 20;

/// Builds a snapshot of the state when it was made.
#[derive(Debug)]
pub struct SnapshotBuilder {
    snapshot: Result<Snapshot, log::Error>,
    snapshots: Snapshots,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let taken = std::mem::replace(&mut self.snapshot, Err(log::Error::Stopped));
        let snapshot = taken.map_err(io::Error::other)?;
        tracing::info!(
            up_to = snapshot.meta.last_log_id.map(|id| id.index),
            segments = snapshot.snapshot.segments.len(),
            rows = snapshot.snapshot.rows.count(),
            "made a snapshot"
        );
        self.snapshots.set_current(snapshot.clone());
        Ok(snapshot)
    }
}

impl StateMachine {
    /// The state and the segments as they are now.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, log::Error> {
        let meta = self.meta();
        let end = meta.last_log_id.map_or(0, |id| id.index + 1);
        let floor = *self.floor.lock();
        let begins = snapshot::floor_of(floor.as_ref()).index;
        let mut segments = self.log().manifest(Index(end))?;
        segments.retain(|seal| seal.base >= begins);
        let (checkpoint, rows) = self.checkpoint();
        Ok(Snapshot {
            meta,
            snapshot: SnapshotData {
                checkpoint,
                rows,
                floor,
                segments: Arc::new(segments),
            },
        })
    }

    pub(crate) fn snapshot_builder(&self) -> SnapshotBuilder {
        SnapshotBuilder {
            snapshot: self.snapshot(),
            snapshots: self.snapshots.clone(),
        }
    }

    /// Makes the snapshot's state this node's own.
    pub(crate) async fn install(
        &mut self,
        meta: &SnapshotMeta,
        data: SnapshotData,
    ) -> Result<(), Error> {
        let Some(last) = meta.last_log_id else {
            return Ok(());
        };
        // An entry that this node holds with its term is part of an equal log (log matching), and
        // this node promised it to a leader: then the log stays, and only apply has to go on.
        let end = Index(last.index + 1);
        let held = self
            .log()
            .last()
            .is_some_and(|(_, held)| held.0 >= last.index);
        let same =
            held && types::log_id(self.log().term(Index(last.index))?, Index(last.index)) == last;
        let reached = data.segments.last().map(Seal::next_index);
        let reached = reached.unwrap_or(snapshot::floor_of(data.floor.as_ref()).index);
        if same {
            self.apply_up_to(end).await?;
            self.snapshots.clear_staging()?;
        } else if reached < end && data.checkpoint.next_position == 0 {
            // This happens in the engine's own test suite alone, which applies entries that it never appended.
            self.replace(restored(&data)?.not_stored());
        } else {
            self.adopt(&data).await?;
        }
        self.publish();
        self.counts.snapshots.of(Way::Taken).one_more();
        tracing::info!(
            up_to = last.index,
            segments = data.segments.len(),
            rows = data.rows.count(),
            kept_own_log = same,
            "installed a snapshot of the leader's"
        );
        let current = Snapshot {
            meta: meta.clone(),
            snapshot: data,
        };
        self.snapshots.set_current(current);
        Ok(())
    }

    /// Puts the staged segments in the place of this node's log. A crash in between is finished on
    /// the next start.
    async fn adopt(&mut self, data: &SnapshotData) -> Result<(), Error> {
        let fsm = restored(data)?;
        let next = Position(data.checkpoint.next_position);
        let Some(covered) = fsm.covered(next) else {
            return Ok(());
        };
        let rows: Vec<_> = fsm.stored_rows().collect();
        let rewritten = |seal: &Seal| seal.rewritten.map_or(0, |at| at.0);
        let adoption = pb::Adoption {
            checkpoint: Some(data.checkpoint.clone()),
            floor: data.floor,
            bases: data.segments.iter().map(|seal| seal.base.0).collect(),
            rewritten: data.segments.iter().map(rewritten).collect(),
        };
        let names = snapshot::names_of(&adoption);
        let (stable, log) = (self.stable.clone(), self.log().clone());
        let (staging, floor) = (
            self.snapshots.staging(),
            snapshot::floor_of(data.floor.as_ref()),
        );
        let (disk, state) = (self.snapshots.disk.clone(), self.state());
        let (segments, kept, begins) = (data.segments.clone(), self.floor.clone(), data.floor);
        let gaps: Vec<_> = fsm.logs.with_gaps().collect();
        let withdrawn = self.withdrawn().await?;
        let adopted = on_disk(move || -> Result<(), Error> {
            let mut reached = state.covered();
            with_descriptors(|| snapshot::make_dir(&*disk, &staging))?;
            for seal in segments.iter() {
                let is_copied = with_descriptors(|| log::is_copied(&*disk, &staging, seal))?;
                if !is_copied && !log.holds(seal) {
                    let (base, what) = (seal.base, "it is neither staged nor held any more");
                    return Err(log::Error::Mismatch { base, what }.into());
                }
            }
            stable.begin_adoption(&adoption, rows)?;
            gaps.iter().for_each(|id| log.may_have_gaps(*id));
            with_descriptors(|| log.adopt(&staging, &names, floor, &covered))?;
            stable.end_adoption(&adoption)?;
            *reached = covered.applied.0 + 1;
            *kept.lock() = begins;
            with_descriptors(|| log::remove(&*disk, &staging))?;
            Ok(())
        });
        adopted.await?;
        self.replace(fsm);
        // The snapshot holds what they were to append.
        withdrawn.into_iter().for_each(|done| done(Ok(())));
        Ok(())
    }

    /// The callbacks of entries that wait to be written. None is written any more: the writer would write it into the
    /// files that a snapshot brings, or make files in their place.
    async fn withdrawn(&self) -> Result<Vec<Done>, Error> {
        let (tell, told) = oneshot::channel();
        let tell = Box::new(move |withdrawn| drop(tell.send(withdrawn)));
        self.log().withdraw_appends(tell);
        Ok(told.await.map_err(|_| log::Error::Stopped)?)
    }

    async fn apply_up_to(&mut self, end: Index) -> Result<(), Error> {
        let mut at = self.applied().map_or(0, |id| id.index + 1);
        while at < end.0 {
            let log = self.log().clone();
            let read = move || with_descriptors(|| log.entries(Index(at), end, PART_BYTES));
            for entry in on_disk(read).await? {
                let entry = codec::from_log(entry)?;
                self.apply_one(&entry)?;
                at += 1;
            }
            // There may be many entries to apply: let other tasks run in between.
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

/// The state of a snapshot.
fn restored(data: &SnapshotData) -> Result<Fsm, Error> {
    Ok(Fsm::restore(data.checkpoint.clone(), data.rows.iter())?)
}
