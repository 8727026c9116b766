//! Receiving a snapshot: its entries wait in a log of their own until all have come.

use prost::Message;
use tonic::{Status, Streaming};

use crate::log::Index;
use crate::proto::raft_v1 as pb;

use super::error::Error;
use super::snapshot::{self, Snapshot, SnapshotData};
use super::types::{self, WireError};
use super::{ReplicatedLog, command};

fn bad(error: &WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// Stages a snapshot's entries until all have come.
pub async fn receive(
    node: &ReplicatedLog,
    mut parts: Streaming<pb::InstallSnapshotRequest>,
) -> Result<(types::Vote, Snapshot), Status> {
    use pb::install_snapshot_request::Part;
    let _one_at_a_time = node.staging().await;
    let head = match parts.message().await?.and_then(|message| message.part) {
        Some(Part::Head(head)) => head,
        _ => return Err(Status::invalid_argument("a snapshot begins with its head")),
    };
    let checkpoint = head
        .checkpoint
        .ok_or_else(|| bad(&WireError::Missing("checkpoint")))?;
    let vote = types::vote_from_pb(head.vote.as_ref()).map_err(|error| bad(&error))?;
    let failed = |error: Error| Status::internal(error.to_string());
    let log = node.snapshots().stage().map_err(failed)?;
    while let Some(message) = parts.message().await? {
        let Some(Part::Entries(part)) = message.part else {
            return Err(Status::invalid_argument("a snapshot has one head"));
        };
        let mut entries = Vec::with_capacity(part.entries.len());
        for entry in part.entries {
            let entry = command::from_wire(entry).map_err(|error| bad(&error))?;
            entries.push(command::to_log(&entry));
        }
        let next = log.last().map_or(Index(0), |(_, last)| Index(last.0 + 1));
        let follows =
            |(at, entry): (usize, &crate::log::Entry)| entry.index.0 == next.0 + at as u64;
        if !entries.iter().enumerate().all(follows) {
            return Err(Status::invalid_argument("a snapshot's entries have a gap"));
        }
        let appended = snapshot::append(&log, entries).await;
        appended.map_err(|error| Status::internal(error.to_string()))?;
    }
    let meta = snapshot::meta(&checkpoint).map_err(|error| bad(&error))?;
    tracing::info!(bytes = checkpoint.encoded_len(), "received a snapshot");
    Ok((
        vote,
        Snapshot {
            meta,
            snapshot: SnapshotData { checkpoint, log },
        },
    ))
}
