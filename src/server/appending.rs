//! Appending a batch and waiting for its outcome, with what was taken for it: for both APIs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tonic::Request;

use crate::net::budget::Held;
use crate::raft::{Answer, Caller, ProposeError, Receipt};
use crate::retry::{self, CALL_WAIT};

use super::CommitLog;
use super::intake::Taken;

/// How long an outcome may take before it is called unknown.
const OUTCOME_WAIT: Duration = Duration::from_secs(30);

/// What was taken for the request of a call, or for the messages of its stream.
pub fn taken<T>(request: &Request<T>) -> Arc<Taken> {
    let taken = request.extensions().get::<Arc<Taken>>();
    taken.cloned().unwrap_or_default()
}

/// The batch with the room that was taken for it. The room is given back with the batch's last copy, since the
/// call may end before.
pub fn counted(batch: Bytes, held: Option<Held>) -> Bytes {
    match held {
        Some(held) => held.around(batch),
        None => batch,
    }
}

/// Waits for a batch's outcome.
pub async fn outcome(answer: Answer) -> Result<Receipt, ProposeError> {
    match tokio::time::timeout(OUTCOME_WAIT, answer).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown),
    }
}

/// Appends a batch. It is tried again only while it was surely not appended; all tries together wait for a
/// leader as long as one may, or as its caller waits.
pub async fn append<L: CommitLog>(
    log: &L,
    batch: Bytes,
    deadline: Option<Instant>,
) -> Result<Receipt, ProposeError> {
    let (caller, came) = (Caller::next(), retry::waiting_since(deadline));
    let nobody_took_it = |error: &ProposeError| matches!(error, ProposeError::NoLeader { .. });
    let attempt = || {
        let batch = batch.clone();
        async move { outcome(log.propose(caller, batch, came).await?).await }
    };
    retry::until(came + CALL_WAIT, nobody_took_it, attempt).await
}
