//! Appending batches: one, or a pipelined stream with credit.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tonic::{Request, Status, Streaming};

use crate::net::budget::{Account, Held};
use crate::net::mux::PeerInfo;
use crate::proto::v1::{
    ProduceRequest, ProduceResponse, ProduceStreamRequest, ProduceStreamResponse,
};
use crate::raft::{Answer, ProposeError, Receipt, ReplicatedLog};

use super::super::produce::{LEADER_WAIT, RETRY, outcome};
use super::super::{Shared, auth, check_log, status};
use super::batches;

/// Bytes of batches that one stream may have under way: its credit.
pub const STREAM_BYTES_MAX: usize = 8 << 20;
/// And batches.
pub const STREAM_BATCHES_MAX: usize = 64;

/// The answers of a produce stream.
pub type Answers = BoxStream<'static, Result<ProduceStreamResponse, Status>>;

/// The account of the connection that a call came by.
fn account<T>(request: &Request<T>) -> Option<Account> {
    let peer = request.extensions().get::<PeerInfo>();
    peer.map(|peer| peer.accounts.bytes.clone())
}

fn response(receipt: &Receipt) -> Result<ProduceResponse, Status> {
    let [range] = receipt.ranges[..] else {
        return Err(Status::internal("an append without a place of its own"));
    };
    Ok(ProduceResponse {
        first_offset: range.first.0,
        count: range.count,
        append_timestamp_ms: receipt.timestamp_ms,
        duplicate: receipt.duplicate,
    })
}

/// Appends one batch. It is tried again only while it was surely not appended.
pub async fn one(
    shared: &Shared<ReplicatedLog>,
    request: Request<ProduceRequest>,
) -> Result<ProduceResponse, Status> {
    let log = shared.log()?;
    let account = account(&request);
    let fence = fence_of(request.get_ref());
    let subject = auth::subject(&request).to_owned();
    let batch = batches::taken(request.into_inner(), &subject, &shared.limits)?;
    // A single call does not wait for room: the bytes that wait would be held, too.
    let held = account.map(|account| account.try_take(batch.len()));
    let held = held.transpose().map_err(|full| status::in_flight(&full))?;
    let batch = counted(batch, held);
    let deadline = Instant::now() + LEADER_WAIT;
    loop {
        let proposed = match log.propose(batch.clone()).await {
            Ok(answer) => outcome(answer).await,
            Err(error) => Err(error),
        };
        match proposed {
            Ok(receipt) => return response(&receipt),
            Err(ProposeError::NoLeader { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(status::propose_under(&error, fence.as_deref())),
        }
    }
}

/// The batch, and with its last copy goes what it holds: the call may end before.
fn counted(batch: Bytes, held: Option<Held>) -> Bytes {
    match held {
        Some(held) => held.around(batch),
        None => batch,
    }
}

/// The name that a batch is appended in.
fn fence_of(request: &ProduceRequest) -> Option<String> {
    request.fence.as_ref().map(|fence| fence.name.clone())
}

/// A batch of a stream under way.
struct Sent {
    answer: Answer,
    fence: Option<String>,
    _credit: OwnedSemaphorePermit,
}

/// Appends a stream's batches; answers in their order, the credit first.
pub fn stream(
    shared: Arc<Shared<ReplicatedLog>>,
    request: Request<Streaming<ProduceStreamRequest>>,
) -> Answers {
    let (tell, sent) = mpsc::channel(STREAM_BATCHES_MAX);
    let reader = Reader {
        shared,
        subject: auth::subject(&request).to_owned(),
        account: account(&request),
        credit: Arc::new(Semaphore::new(STREAM_BYTES_MAX)),
        requests: request.into_inner(),
    };
    tokio::spawn(reader.run(tell));
    let first = ProduceStreamResponse {
        credit_bytes: STREAM_BYTES_MAX as u64,
        credit_batches: STREAM_BATCHES_MAX as u32,
        ack: None,
    };
    let answers = stream::unfold(Some(sent), async |sent| {
        let mut sent = sent?;
        let answered = match sent.recv().await? {
            Ok(sent) => match outcome(sent.answer).await {
                Ok(receipt) => response(&receipt),
                Err(error) => Err(status::propose_under(&error, sent.fence.as_deref())),
            },
            Err(status) => Err(status),
        };
        // The first error ends the stream: what follows it may be out of order.
        let rest = answered.is_ok().then_some(sent);
        let answered = answered.map(|ack| ProduceStreamResponse {
            ack: Some(ack),
            ..ProduceStreamResponse::default()
        });
        Some((answered, rest))
    });
    stream::once(std::future::ready(Ok(first)))
        .chain(answers)
        .boxed()
}

/// Reads a stream's requests, as far as there is room for them.
struct Reader {
    shared: Arc<Shared<ReplicatedLog>>,
    /// Who sends them.
    subject: String,
    account: Option<Account>,
    credit: Arc<Semaphore>,
    requests: Streaming<ProduceStreamRequest>,
}

impl Reader {
    async fn run(mut self, tell: mpsc::Sender<Result<Sent, Status>>) {
        let mut drain = self.shared.drain.clone();
        loop {
            // Before the request is read: what is not read holds no memory here.
            let Ok(place) = tell.reserve().await else {
                return;
            };
            let next = tokio::select! {
                biased;
                () = drain.began() => Err(status::draining()),
                next = self.requests.message() => match next {
                    Ok(None) => return,
                    Ok(Some(request)) => Ok(request),
                    Err(status) => Err(status),
                },
            };
            let sent = match next {
                Ok(request) => self.send(request).await,
                Err(status) => Err(status),
            };
            let failed = sent.is_err();
            place.send(sent);
            if failed {
                return;
            }
        }
    }

    async fn send(&self, request: ProduceStreamRequest) -> Result<Sent, Status> {
        let missing = || status::invalid("the message has no batch to produce");
        let request = request.produce.ok_or_else(missing)?;
        check_log(&request.log)?;
        let fence = fence_of(&request);
        let batch = batches::taken(request, &self.subject, &self.shared.limits)?;
        let mut drain = self.shared.drain.clone();
        let (credit, held) = tokio::select! {
            biased;
            room = self.room(batch.len()) => room?,
            () = drain.began() => return Err(status::draining()),
        };
        let answer = self.shared.log()?.propose(counted(batch, held)).await;
        Ok(Sent {
            answer: answer.map_err(|error| status::propose(&error))?,
            fence,
            _credit: credit,
        })
    }

    /// Waits for credit and for room: the client is read no further meanwhile. Credit comes back
    /// with the answers that the client takes.
    async fn room(&self, bytes: usize) -> Result<(OwnedSemaphorePermit, Option<Held>), Status> {
        let weight = u32::try_from(bytes.clamp(1, STREAM_BYTES_MAX)).unwrap_or(u32::MAX);
        let credit = self.credit.clone().acquire_many_owned(weight).await;
        let credit = credit.map_err(|_| status::draining())?;
        let held = match &self.account {
            Some(account) => Some(account.take(bytes).await),
            None => None,
        };
        Ok((credit, held))
    }
}
