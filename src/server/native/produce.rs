//! Appending batches: one, or a pipelined stream with credit.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::{Request, Status, Streaming};

use crate::net::budget::Accounts;
use crate::proto::v1::{
    ProduceRequest, ProduceResponse, ProduceStreamRequest, ProduceStreamResponse,
};
use crate::raft::{Caller, ProposeError, Receipt, ReplicatedLog};

use super::super::appending::{Feed, Sent, append, counted, pipelined, taken};
use super::super::auth::Rights;
use super::super::intake::Taken;
use super::super::{ApiContext, accounts, auth, deadline, status};
use super::batches;

/// Bytes of batches that one stream may have under way: its credit.
pub const STREAM_BYTES_MAX: usize = 8 << 20;
/// And batches.
pub const STREAM_BATCHES_MAX: usize = 64;

/// The answers of a produce stream.
pub type Answers = BoxStream<'static, Result<ProduceStreamResponse, Status>>;

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

/// Appends one batch.
pub async fn one(
    api: &ApiContext<ReplicatedLog>,
    log: &ReplicatedLog,
    request: Request<ProduceRequest>,
) -> Result<ProduceResponse, Status> {
    let (held, deadline) = (taken(&request).take(), deadline::of(&request));
    let accounts = accounts(&request);
    let fence = fence_of(request.get_ref());
    let subject = auth::subject(&request).to_owned();
    let (bulk, limits) = (api.reading.bulk(), &api.limits);
    let request = request.into_inner();
    let sender = batches::Sender {
        log: log.id(),
        subject: &subject,
    };
    let batch = batches::taken(request, sender, limits, bulk, accounts.as_ref()).await?;
    let appended = append(log, counted(batch, held), deadline).await;
    let receipt = appended.map_err(|error| status::propose_under(&error, fence.as_deref()))?;
    response(&receipt)
}

/// The name that a batch is appended in.
fn fence_of(request: &ProduceRequest) -> Option<String> {
    request.fence.as_ref().map(|fence| fence.name.clone())
}

/// Appends a stream's batches; answers in their order, the credit first.
pub fn stream(
    api: Arc<ApiContext<ReplicatedLog>>,
    request: Request<Streaming<ProduceStreamRequest>>,
) -> Answers {
    let drain = api.drain.clone();
    let reader = Reader {
        rights: api.rights(&request),
        api,
        subject: auth::subject(&request).to_owned(),
        caller: Caller::next(),
        taken: taken(&request),
        accounts: accounts(&request),
        credit: Arc::new(Semaphore::new(STREAM_BYTES_MAX)),
        requests: request.into_inner(),
    };
    let first = ProduceStreamResponse {
        credit_bytes: STREAM_BYTES_MAX as u64,
        credit_batches: STREAM_BATCHES_MAX as u32,
        ack: None,
    };
    let told = |outcome: Result<Receipt, ProposeError>, with: With| {
        let fence = with.fence.as_deref();
        let receipt = outcome.map_err(|error| status::propose_under(&error, fence))?;
        Ok(ProduceStreamResponse {
            ack: Some(response(&receipt)?),
            ..ProduceStreamResponse::default()
        })
    };
    let name = "native produce stream";
    let answers = pipelined(name, reader, drain, STREAM_BATCHES_MAX, told);
    stream::once(std::future::ready(Ok(first)))
        .chain(answers)
        .boxed()
}

/// What the answer to a batch needs; its credit comes back with it.
struct With {
    fence: Option<String>,
    _credit: OwnedSemaphorePermit,
}

/// Reads a stream's requests, as far as there is room for them.
struct Reader {
    api: Arc<ApiContext<ReplicatedLog>>,
    /// Who sends them, and to which logs it may.
    subject: String,
    rights: Rights,
    caller: Caller,
    taken: Arc<Taken>,
    accounts: Option<Accounts>,
    credit: Arc<Semaphore>,
    requests: Streaming<ProduceStreamRequest>,
}

impl Feed for Reader {
    type Request = ProduceStreamRequest;
    type With = With;

    async fn next(&mut self) -> Result<Option<ProduceStreamRequest>, Status> {
        self.requests.message().await
    }

    async fn send(&mut self, request: ProduceStreamRequest) -> Result<Sent<With>, Status> {
        let missing = || status::invalid("the message has no batch to produce");
        let held = self.taken.take();
        let request = request.produce.ok_or_else(missing)?;
        let (rights, name) = (&self.rights, &request.log);
        let log = self.api.log_to(rights, name, None).await?;
        let fence = fence_of(&request);
        let (limits, bulk) = (&self.api.limits, self.api.reading.bulk());
        let accounts = self.accounts.as_ref();
        let sender = batches::Sender {
            log: log.id(),
            subject: &self.subject,
        };
        let batch = batches::taken(request, sender, limits, bulk, accounts).await?;
        let mut drain = self.api.drain.clone();
        let credit = tokio::select! {
            biased;
            credit = self.credit(batch.len()) => credit?,
            () = drain.began() => return Err(status::draining()),
        };
        let batch = counted(batch, held);
        let answer = log.propose_for(self.caller, batch, Instant::now()).await;
        Ok(Sent {
            answer: answer.map_err(|error| status::propose(&error))?,
            with: With {
                fence,
                _credit: credit,
            },
        })
    }
}

impl Reader {
    /// Waits for credit: the client is read no further meanwhile. It comes back with the answers that the
    /// client takes.
    async fn credit(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Status> {
        let weight = u32::try_from(bytes.clamp(1, STREAM_BYTES_MAX)).unwrap_or(u32::MAX);
        let credit = self.credit.clone().acquire_many_owned(weight).await;
        credit.map_err(|_| status::draining())
    }
}
