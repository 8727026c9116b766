//! Receiving a snapshot: the segments that this node lacks wait aside until all have come.
//!
//! What was fetched stays over a cut connection and over a restart, and is not fetched again.

use std::sync::Arc;

use futures::Stream;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tonic::Status;

use crate::log::{self, Seal};
use crate::proto::raft_v1 as pb;
use crate::raft::ReplicatedLog;
use crate::raft::entry::types;
use crate::raft::members::hearing::no_member;
use crate::raft::peer::fetch::{self, Hold};
use crate::raft::snapshot::gather::gather;
use crate::raft::snapshot::{self, Snapshot, Snapshots};
use crate::raft::state::fsm::Fsm;

/// Where snapshots are received, one at a time.
pub struct Staging {
    pub snapshots: Snapshots,
    one_at_a_time: Arc<Mutex<()>>,
}

impl Staging {
    pub fn new(snapshots: Snapshots) -> Self {
        Self {
            snapshots,
            one_at_a_time: Arc::default(),
        }
    }

    /// Waits until nobody stages a snapshot, and keeps others from it.
    pub async fn hold(&self) -> OwnedMutexGuard<()> {
        self.one_at_a_time.clone().lock_owned().await
    }

    /// Whether a snapshot is staged, or adopted, now.
    #[cfg(test)]
    pub fn is_held(&self) -> bool {
        self.one_at_a_time.try_lock().is_err()
    }
}

/// Stages what a snapshot consists of, fetching it from the sender. One is staged at a time: the
/// hold must be kept until it is adopted.
pub async fn receive(
    log: &ReplicatedLog,
    sender: u64,
    parts: impl Stream<Item = Result<pb::InstallSnapshotRequest, Status>> + Unpin,
) -> Result<(types::Vote, Snapshot, Hold), Status> {
    let hold = Arc::new(log.0.staging.hold().await);
    let (request, rows) = gather(parts).await?;
    let bad = |error: crate::raft::entry::wire_error::WireError| {
        Status::invalid_argument(error.to_string())
    };
    let vote = types::vote_from_pb(request.vote.as_ref()).map_err(bad)?;
    let data = snapshot::manifest_from_pb(&request, rows).map_err(bad)?;
    let meta = snapshot::meta(&data.checkpoint).map_err(bad)?;
    // A state that cannot be taken over is refused before anything is fetched for it.
    let state = Fsm::restore(data.checkpoint.clone(), data.rows.iter());
    state.map_err(bad)?;
    let checked = log.0.hearing.pair(sender).snapshot(&vote, &meta);
    checked.map_err(|error| log.0.hearing.refuse(sender, &error))?;
    if let Some(last) = &meta.last_log_id {
        log.0.hearing.check_snapshot(sender, &vote, last).await?;
    }
    let snapshots = &log.0.staging.snapshots;
    let dir = snapshots.staging();
    let failed = |error: &dyn std::fmt::Display| Status::internal(error.to_string());
    snapshot::make_dir(&*snapshots.disk, &dir).map_err(|error| failed(&error))?;
    let Some(addr) = log.0.hearing.addr_of(sender) else {
        log.0.hearing.want_introduction();
        return Err(no_member(sender));
    };
    let mut client = log.0.node.transport.own_client(sender, &addr);
    let mut fetched = 0;
    for seal in data.segments.iter() {
        let (looks, wanted) = (log.clone(), seal.clone());
        let is_here = fetch::on_disk_with(Some(&hold), move || is_here(&looks, &wanted)).await;
        if is_here.map_err(|error| failed(&error))? {
            continue;
        }
        let disk = snapshots.disk.clone();
        let copied = fetch::fetch(&mut client, disk, &dir, seal, Some(&hold)).await;
        copied.map_err(|error| {
            // It may be elsewhere by now, and one that is no member yet is known by introduction alone.
            log.0.hearing.want_introduction();
            tracing::warn!(base = %seal.base, %error, "a segment of a snapshot was not copied; the leader sends it again");
            Status::unavailable(error.to_string())
        })?;
        fetched += 1;
    }
    let segments = data.segments.len();
    tracing::info!(segments, fetched, "a snapshot is complete");
    let snapshot = data;
    Ok((vote, Snapshot { meta, snapshot }, hold))
}

/// Whether a segment is held already, in the log or staged.
fn is_here(log: &ReplicatedLog, seal: &Seal) -> Result<bool, log::Error> {
    let snapshots = &log.0.staging.snapshots;
    let staging = snapshots.staging();
    if log::is_copied(&*snapshots.disk, &staging, seal)? {
        return Ok(true);
    }
    if !log.log().holds(seal) {
        return Ok(false);
    }
    // An older copy that was staged must not take the place of the whole one.
    log::remove_copy(&*snapshots.disk, &staging, seal.name())?;
    Ok(true)
}
