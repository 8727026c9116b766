//! The parts of what a snapshot consists of, put together again.

use std::time::Duration;

use bytes::BytesMut;
use futures::{Stream, StreamExt};
use prost::Message;
use tonic::Status;

use crate::proto::raft_v1 as pb;

use super::STATE_BYTES_MAX;

/// How long the next part may take. While one snapshot is received, others wait.
const PART_WAIT: Duration = Duration::from_secs(10);

/// Puts the parts together again, as far as there can be any.
pub async fn gather(
    mut parts: impl Stream<Item = Result<pb::SnapshotPart, Status>> + Unpin,
) -> Result<pb::InstallSnapshotRequest, Status> {
    let mut bytes = BytesMut::new();
    loop {
        let next = tokio::time::timeout(PART_WAIT, parts.next()).await;
        let next =
            next.map_err(|_| Status::deadline_exceeded("the snapshot's next part is late"))?;
        let Some(part) = next.transpose()? else {
            break;
        };
        if part.bytes.len() > STATE_BYTES_MAX - bytes.len() {
            let what = format!("a snapshot's state is at most {STATE_BYTES_MAX} bytes");
            return Err(Status::out_of_range(what));
        }
        bytes.extend_from_slice(&part.bytes);
    }
    let request = pb::InstallSnapshotRequest::decode(bytes.freeze());
    request.map_err(|error| Status::invalid_argument(error.to_string()))
}
