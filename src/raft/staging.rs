//! Receiving a snapshot: the segments that this node lacks wait aside until all have come.
//!
//! What was fetched stays over a cut connection and over a restart, and is not fetched again.

use std::sync::Arc;

use futures::Stream;
use tonic::Status;

use crate::log::{self, Seal};
use crate::proto::raft_v1 as pb;
use crate::raft::ReplicatedLog;
use crate::raft::callers::no_member;
use crate::raft::entry::types;
use crate::raft::peer::fetch::{self, Hold};
use crate::raft::snapshot::gather::gather;
use crate::raft::snapshot::{self, Snapshot};

/// Stages what a snapshot consists of, fetching it from the sender. One is staged at a time: the
/// hold must be kept until it is adopted.
pub async fn receive(
    node: &ReplicatedLog,
    sender: u64,
    parts: impl Stream<Item = Result<pb::SnapshotPart, Status>> + Unpin,
) -> Result<(types::Vote, Snapshot, Hold), Status> {
    let hold = Arc::new(node.staging().await);
    let request = gather(parts).await?;
    let bad = |error: types::WireError| Status::invalid_argument(error.to_string());
    let vote = types::vote_from_pb(request.vote.as_ref()).map_err(bad)?;
    let data = snapshot::manifest_from_pb(&request).map_err(bad)?;
    let meta = snapshot::meta(&data.checkpoint).map_err(bad)?;
    let checked = node.pair(sender).snapshot(&vote, &meta);
    checked.map_err(|error| node.refuse(sender, &error))?;
    check_order(node, sender, meta.last_log_id.as_ref()).await?;
    let snapshots = node.snapshots();
    let dir = snapshots.staging();
    let failed = |error: &dyn std::fmt::Display| Status::internal(error.to_string());
    snapshot::make_dir(&*snapshots.disk, &dir).map_err(|error| failed(&error))?;
    let Some(addr) = node.addr_of(sender) else {
        node.want_introduction();
        return Err(no_member(sender));
    };
    let mut client = node.transport().own_client(sender, &addr);
    let mut fetched = 0;
    for seal in data.segments.iter() {
        let (looks, wanted) = (node.clone(), seal.clone());
        let is_here = fetch::on_disk_with(Some(&hold), move || is_here(&looks, &wanted)).await;
        if is_here.map_err(|error| failed(&error))? {
            continue;
        }
        let disk = snapshots.disk.clone();
        let copied = fetch::fetch(&mut client, disk, &dir, seal, Some(&hold)).await;
        copied.map_err(|error| {
            // It may be elsewhere by now, and one that is no member yet is known by introduction alone.
            node.want_introduction();
            Status::unavailable(error.to_string())
        })?;
        fetched += 1;
    }
    let segments = data.segments.len();
    tracing::info!(segments, fetched, "a snapshot is complete");
    let snapshot = data;
    Ok((vote, Snapshot { meta, snapshot }, hold))
}

/// A snapshot that ends within this node's log must end with an entry that is in it, unless that was
/// never committed.
async fn check_order(
    node: &ReplicatedLog,
    sender: u64,
    last: Option<&types::LogId>,
) -> Result<(), Status> {
    let Some(last) = last else {
        return Ok(());
    };
    match node.log().term(log::Index(last.index)) {
        Ok(held) if held.0 != last.leader_id.term => node.check_replaced(sender, last.index).await,
        // It was given up, or never came.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Whether a segment is held already, in the log or staged.
fn is_here(node: &ReplicatedLog, seal: &Seal) -> Result<bool, log::Error> {
    let snapshots = node.snapshots();
    let staging = snapshots.staging();
    if log::is_copied(&*snapshots.disk, &staging, seal)? {
        return Ok(true);
    }
    if !node.log().holds(seal) {
        return Ok(false);
    }
    // An older copy that was staged must not take the place of the whole one.
    log::remove_copy(&*snapshots.disk, &staging, seal.base)?;
    Ok(true)
}
