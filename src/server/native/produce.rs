//! Appending batches: one, or a pipelined stream with credit.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::{self, BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, FuturesOrdered, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::{Request, Status, Streaming};

use crate::log::LogId;
use crate::net::budget::{Accounts, Held};
use crate::proto::v1::{
    ProduceManyRequest, ProduceRequest, ProduceResponse, ProduceStreamRequest,
    ProduceStreamResponse,
};
use crate::raft::{Caller, OffsetRange, ProposeError, Receipt, ReplicatedLog};

use super::super::appending::{Feed, Sent, append, counted, pipelined, taken};
use super::super::auth::Rights;
use super::super::intake::Taken;
use super::super::limits::MANY_BATCHES_MAX;
use super::super::{ApiContext, accounts, auth, deadline, status};
use super::batches::Target;
use super::{batches, many};

/// Bytes of batches that one stream may have under way: its credit.
pub const STREAM_BYTES_MAX: usize = 8 << 20;
/// And batches.
pub const STREAM_BATCHES_MAX: usize = 64;
/// Requests that are read on while logs are made for those before them, these included.
const AHEAD_MAX: usize = STREAM_BATCHES_MAX;

/// The answers of a produce stream.
pub type Answers = BoxStream<'static, Result<ProduceStreamResponse, Status>>;

/// What is told of one batch.
pub fn response(receipt: &Receipt, range: OffsetRange, log: LogId) -> ProduceResponse {
    ProduceResponse {
        first_offset: range.first.0,
        count: range.count,
        append_timestamp_ms: receipt.timestamp_ms,
        duplicate: receipt.duplicate,
        log_id: Some(log.0),
    }
}

fn response_of_one(receipt: &Receipt, log: LogId) -> Result<ProduceResponse, Status> {
    match receipt.ranges[..] {
        [range] => Ok(response(receipt, range, log)),
        _ => Err(Status::internal("an append without a place of its own")),
    }
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
        to: Target::of(log),
        subject: &subject,
    };
    let batch = batches::taken(request, sender, limits, bulk, accounts.as_ref()).await?;
    let appended = append(log, counted(batch, held), deadline).await;
    let receipt = appended.map_err(|error| status::propose_under(&error, fence.as_deref()))?;
    response_of_one(&receipt, log.id())
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
    let (drain, names) = (api.drain.clone(), api.clone());
    let reader = Reader {
        rights: api.rights(&request),
        api,
        subject: auth::subject(&request).to_owned(),
        caller: Caller::next(),
        taken: taken(&request),
        accounts: accounts(&request),
        credit: Arc::new(Semaphore::new(STREAM_BYTES_MAX)),
        places: Arc::new(Semaphore::new(STREAM_BATCHES_MAX)),
        requests: request.into_inner(),
        ahead: FuturesOrdered::new(),
        is_over: false,
    };
    let first = ProduceStreamResponse {
        credit_bytes: STREAM_BYTES_MAX as u64,
        credit_batches: STREAM_BATCHES_MAX as u32,
        ..ProduceStreamResponse::default()
    };
    let told = move |outcome, with| told(names.clone(), outcome, with);
    let name = "native produce stream";
    let answers = pipelined(name, reader, drain, STREAM_BATCHES_MAX, told);
    stream::once(std::future::ready(Ok(first)))
        .chain(answers)
        .boxed()
}

/// The answer to a request of a stream.
async fn told(
    api: Arc<ApiContext<ReplicatedLog>>,
    outcome: Result<Receipt, ProposeError>,
    with: With,
) -> Result<ProduceStreamResponse, Status> {
    match with.of {
        Of::One { log, id, fence } => {
            let under = |error| status::propose_under(&error, fence.as_deref());
            let receipt = api.as_named(&log, outcome.map_err(under)).await?;
            Ok(ProduceStreamResponse {
                ack: Some(response_of_one(&receipt, id)?),
                ..ProduceStreamResponse::default()
            })
        }
        Of::Many(whose) => {
            let receipt = many::told(&api, outcome, &whose).await?;
            Ok(ProduceStreamResponse {
                many: Some(many::answer(&receipt, &whose)),
                ..ProduceStreamResponse::default()
            })
        }
    }
}

/// What the answer to a request needs; its credit comes back with it.
struct With {
    of: Of,
    _credit: Credit,
}

/// Bytes, and places among the batches under way.
type Credit = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// What a request brought: one batch, or several that go together.
enum Of {
    One {
        log: String,
        id: LogId,
        fence: Option<String>,
    },
    Many(many::Whose),
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
    places: Arc<Semaphore>,
    requests: Streaming<ProduceStreamRequest>,
    /// What was read, in order, while logs are made for some of it.
    ahead: FuturesOrdered<BoxFuture<'static, Read>>,
    /// Nothing more is to be read.
    is_over: bool,
}

/// The next request of a stream, with the room that was taken for it; `None` at its end.
type Read = Result<Option<(ProduceStreamRequest, Option<Held>)>, Status>;

impl Feed for Reader {
    type Request = (ProduceStreamRequest, Option<Held>);
    type With = With;

    async fn next(&mut self) -> Read {
        loop {
            let reads_on = !self.is_over && self.ahead.len() < AHEAD_MAX;
            let read = tokio::select! {
                biased;
                Some(read) = self.ahead.next() => return read,
                read = self.requests.message(), if reads_on => read,
                else => return Ok(None),
            };
            // Asking for the next one gives back what was taken for it and not taken over.
            let read = read.map(|read| read.map(|request| (request, self.taken.take())));
            let request = read.as_ref().ok().and_then(Option::as_ref);
            let request = request.map(|(request, _)| request);
            let missing = request.map_or_else(Vec::new, |request| self.missing(request));
            if missing.is_empty() && self.ahead.is_empty() {
                return read;
            }
            self.is_over = request.is_none();
            self.ahead.push_back(self.once_made(missing, read));
        }
    }

    async fn send(
        &mut self,
        (request, held): (ProduceStreamRequest, Option<Held>),
    ) -> Result<Sent<With>, Status> {
        let (log, batch, places, of) = match (request.produce, request.many) {
            (Some(request), None) => {
                let name = request.log.clone();
                let (log, batch, fence) = self.one(request).await?;
                let of = Of::One {
                    log: name,
                    id: log.id(),
                    fence,
                };
                (log, batch, 1, of)
            }
            (None, Some(request)) => {
                let places = many::places(&request);
                let (log, batch, whose) = self.many(request).await?;
                (log, batch, places, Of::Many(whose))
            }
            _ => {
                let what = "a message produces one batch, or several that go together";
                return Err(status::invalid(what));
            }
        };
        let mut drain = self.api.drain.clone();
        let credit = tokio::select! {
            biased;
            credit = self.credit(batch.len(), places) => credit?,
            () = drain.began() => return Err(status::draining()),
        };
        let batch = counted(batch, held);
        let answer = log.propose_for(self.caller, batch, Instant::now()).await;
        Ok(Sent {
            answer: answer.map_err(|error| status::propose(&error))?,
            with: With {
                of,
                _credit: credit,
            },
        })
    }
}

// What is ahead may not be looked at by two at once: so a reader is borrowed by one.
impl Reader {
    /// The logs that a request is the first to append to, as far as this node knows, if they are made then.
    fn missing(&self, request: &ProduceStreamRequest) -> Vec<String> {
        let one = request.produce.iter().map(|one| (&one.log, one.log_id));
        let many = request.many.iter().flat_map(|many| &many.batches);
        let many = many.map(|batch| (&batch.log, batch.log_id));
        let without_id = |(name, id): (_, Option<u32>)| id.is_none().then_some(name);
        let names = one.chain(many).filter_map(without_id);
        let names = names.take(MANY_BATCHES_MAX);
        let is_missing = |name: &&String| self.api.makes_on_produce(&self.rights, name);
        names.filter(is_missing).cloned().collect()
    }

    /// What was read, once its logs are made. Whether they could be, whoever appends to them finds out.
    fn once_made(&self, missing: Vec<String>, read: Read) -> BoxFuture<'static, Read> {
        let (api, rights) = (self.api.clone(), self.rights.clone());
        let made = async move {
            let make = |name| api.log_to(&rights, (name, None), None);
            future::join_all(missing.iter().map(|name| make(name))).await;
            read
        };
        made.boxed()
    }

    /// The batch of a request, and the name that it comes in.
    async fn one(
        &mut self,
        request: ProduceRequest,
    ) -> Result<(ReplicatedLog, Bytes, Option<String>), Status> {
        let to = (&*request.log, request.log_id);
        let log = self.api.log_to(&self.rights, to, None).await?;
        let fence = fence_of(&request);
        let (limits, bulk) = (&self.api.limits, self.api.reading.bulk());
        let accounts = self.accounts.as_ref();
        let sender = batches::Sender {
            to: Target::of(&log),
            subject: &self.subject,
        };
        let batch = batches::taken(request, sender, limits, bulk, accounts).await?;
        Ok((log, batch, fence))
    }

    /// The batches of a request, and whose they are.
    async fn many(
        &mut self,
        request: ProduceManyRequest,
    ) -> Result<(ReplicatedLog, Bytes, many::Whose), Status> {
        let (log, logs) = many::logs(&self.api, &self.rights, None, &request).await?;
        let whose = many::whose(&request, &logs);
        let (subject, accounts) = (&*self.subject, self.accounts.as_ref());
        let bundle = many::bundle(&self.api, logs, request, subject, accounts).await?;
        Ok((log, bundle, whose))
    }

    /// Waits for credit: the client is read no further meanwhile. It comes back with the answers that the
    /// client takes.
    async fn credit(&mut self, bytes: usize, places: usize) -> Result<Credit, Status> {
        let weight =
            |count: usize, most: usize| u32::try_from(count.clamp(1, most)).unwrap_or(u32::MAX);
        let bytes = self
            .credit
            .clone()
            .acquire_many_owned(weight(bytes, STREAM_BYTES_MAX));
        let places = self
            .places
            .clone()
            .acquire_many_owned(weight(places, STREAM_BATCHES_MAX));
        let credit = (bytes.await, places.await);
        match credit {
            (Ok(bytes), Ok(places)) => Ok((bytes, places)),
            _ => Err(status::draining()),
        }
    }
}
