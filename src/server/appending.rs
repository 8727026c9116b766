//! Appending, for both APIs: one batch and its outcome, or a stream of them, pipelined.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, Stream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Request, Status};

use crate::net::budget::Held;
use crate::raft::{Answer, Caller, ProposeError, Receipt};
use crate::retry::{self, CALL_WAIT};
use crate::tasks;

use super::intake::Taken;
use super::{CommitLog, Drain, status};

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

/// What one API makes of the requests of a produce stream.
pub trait Feed: Send + 'static {
    type Request: Send;
    /// What the answer to a batch needs.
    type With: Send + 'static;

    /// The next request; `None` at the end of the stream.
    fn next(&mut self) -> impl Future<Output = Result<Option<Self::Request>, Status>> + Send;

    /// Queues a batch of this request, and perhaps of those that wait behind it.
    fn send(
        &mut self,
        request: Self::Request,
    ) -> impl Future<Output = Result<Sent<Self::With>, Status>> + Send;
}

/// A batch of a stream under way.
pub struct Sent<With> {
    pub answer: Answer,
    pub with: With,
}

/// Appends a stream's batches, `batches_max` of them under way; gives what becomes of them, in their order.
///
/// The first error ends it: what follows it may be out of order. A node that stops takes no more requests.
pub fn pipelined<F: Feed, T, A: Future<Output = Result<T, Status>> + Send>(
    name: &'static str,
    feed: F,
    drain: Drain,
    batches_max: usize,
    told: impl Fn(Result<Receipt, ProposeError>, F::With) -> A + Send + Sync + 'static,
) -> impl Stream<Item = Result<T, Status>> {
    let (tell, sent) = mpsc::channel(batches_max);
    tasks::spawn(name, send_all(feed, drain, tell));
    let told = Arc::new(told);
    stream::unfold(Some(sent), move |sent| {
        let told = told.clone();
        async move {
            let mut sent = sent?;
            let answered = match sent.recv().await? {
                Ok(Sent { answer, with }) => told(outcome(answer).await, with).await,
                Err(status) => Err(status),
            };
            let rest = answered.is_ok().then_some(sent);
            Some((answered, rest))
        }
    })
}

async fn send_all<F: Feed>(
    mut feed: F,
    mut drain: Drain,
    tell: mpsc::Sender<Result<Sent<F::With>, Status>>,
) {
    loop {
        // Before a request is read: what is not read holds no memory here.
        let Ok(place) = tell.reserve().await else {
            return;
        };
        let next = tokio::select! {
            biased;
            () = drain.began() => Err(status::draining()),
            next = feed.next() => next,
        };
        let sent = match next {
            Ok(None) => return,
            Ok(Some(request)) => feed.send(request).await,
            Err(status) => Err(status),
        };
        let failed = sent.is_err();
        place.send(sent);
        if failed {
            return;
        }
    }
}
