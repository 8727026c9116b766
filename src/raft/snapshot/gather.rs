//! Puts the parts of a snapshot's state and manifest together again.

use std::time::Duration;

use futures::{Stream, StreamExt};
use prost::Message;
use tonic::Status;

use crate::proto::raft_v1 as pb;

use super::STATE_BYTES_MAX;
use super::rows::Rows;

/// How long the next part may take. While one snapshot comes in, others wait.
const PART_WAIT: Duration = Duration::from_secs(10);

/// Puts the parts together again: all but the rows, and the rows.
///
/// # Errors
///
/// `DEADLINE_EXCEEDED` if a part takes longer than [`PART_WAIT`]; `OUT_OF_RANGE` if the parts have more than
/// [`STATE_BYTES_MAX`] bytes; an error of the stream as it is.
pub async fn gather(
    mut parts: impl Stream<Item = Result<pb::InstallSnapshotRequest, Status>> + Unpin,
) -> Result<(pb::InstallSnapshotRequest, Rows), Status> {
    let mut whole = pb::InstallSnapshotRequest::default();
    let mut rows = Rows::default();
    let mut bytes = 0;
    loop {
        let next = tokio::time::timeout(PART_WAIT, parts.next()).await;
        let next =
            next.map_err(|_| Status::deadline_exceeded("the snapshot's next part is late"))?;
        let Some(part) = next.transpose()? else {
            break;
        };
        bytes += part.encoded_len();
        if bytes > STATE_BYTES_MAX {
            let what = format!("a snapshot's state is at most {STATE_BYTES_MAX} bytes");
            return Err(Status::out_of_range(what));
        }
        whole.vote = part.vote.or(whole.vote);
        whole.checkpoint = part.checkpoint.or(whole.checkpoint);
        whole.floor = part.floor.or(whole.floor);
        rows.extend(part.rows);
        whole.segments.extend(part.segments);
    }
    Ok((whole, rows))
}
