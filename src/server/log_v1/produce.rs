//! Appending: one record, or a pipelined stream whose waiting records become batches.

use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::time::Instant;
use tonic::{Request, Status, Streaming};

use crate::log::Offset;
use crate::log::record::{BatchBuilder, Producer};
use crate::proto::log_v1::{ProduceRequest, ProduceResponse, Record};
use crate::raft::{Caller, OffsetRange, ProposeError, Receipt, owner};

use crate::server::appending::{Feed, Sent, append, counted, pipelined, taken};
use crate::server::intake::Taken;
use crate::server::{ApiContext, CommitLog, auth, deadline, log_v1, status};

/// Request metadata: a session that was opened by `ferrolog.v1.LogService/OpenSession`, as 32
/// hexadecimal digits.
const SESSION: &str = "ferrolog-session";
/// Request metadata: the secret that it was opened with, as 32 hexadecimal digits.
const SECRET: &str = "ferrolog-secret";
/// Request metadata: which record of the session the request, or the stream's first one, is.
const SEQUENCE: &str = "ferrolog-sequence";
/// Records of a stream that become one batch.
const BATCH_RECORDS_MAX: u32 = 1024;
/// How many records of a stream under a session become one batch. The session must remember all batches under
/// way until they are answered, so they are small.
const SESSION_BATCH_RECORDS_MAX: u32 = 32;
/// Batches of a stream under way: with them the node holds a bounded part of what a client sends.
const BATCHES_MAX: usize = 16;
/// The session that the request's metadata names, if it names one.
fn producer<T>(request: &Request<T>) -> Result<Option<Producer>, Status> {
    let metadata = request.metadata();
    let text = |key| metadata.get(key).map(|value| value.to_str().unwrap_or(""));
    let parts = [SESSION, SECRET, SEQUENCE].map(text);
    if parts.iter().all(Option::is_none) {
        return Ok(None);
    }
    let [Some(session), Some(secret), Some(sequence)] = parts else {
        let message = format!("the metadata {SESSION}, {SECRET} and {SEQUENCE} come together");
        return Err(status::invalid(message));
    };
    // A sign, which the parser takes, is no digit.
    let are_digits = |text: &str| text.len() == 32 && !text.starts_with('+');
    let digits = |text: &str| {
        let number = u128::from_str_radix(text, 16).ok();
        number.filter(|_| are_digits(text))
    };
    match (digits(session), digits(secret), sequence.parse().ok()) {
        (Some(session), Some(secret), Some(sequence)) => Ok(Some(Producer {
            session,
            sequence,
            owner: owner::of_session(auth::subject(request), secret),
        })),
        _ => Err(status::invalid(format!(
            "the metadata {SESSION} and {SECRET} are 32 hexadecimal digits, {SEQUENCE} a decimal \
             number"
        ))),
    }
}

/// Appends one record.
pub async fn one<L: CommitLog>(
    api: &ApiContext<L>,
    request: Request<ProduceRequest>,
) -> Result<Offset, Status> {
    let (rights, name) = (api.rights(&request), super::log_name(&request)?);
    let log = api
        .log_to(&rights, (&name, None), deadline::of(&request))
        .await?;
    let producer = producer(&request)?;
    let (held, deadline) = (taken(&request).take(), deadline::of(&request));
    let record = log_v1::record(request.into_inner(), &api.limits, log.demands())?;
    let mut batch = BatchBuilder::of(log.id(), producer);
    batch.push(&record.value, record.term, record.r#type);
    let batch = counted(batch.finish(), held);
    let appended = append(&log, batch, deadline).await;
    let appended = appended.map_err(|error| status::propose(&error));
    let receipt = api.as_named(&name, appended).await?;
    let first = receipt.ranges.first().map(|range| range.first);
    first.ok_or_else(|| Status::internal("an append without an offset"))
}

/// The answers to a stream's records, in order. The first error ends it.
pub type Answers = BoxStream<'static, Result<ProduceResponse, Status>>;

/// Appends a stream's records; answers in their order.
pub async fn stream<L: CommitLog>(
    api: Arc<ApiContext<L>>,
    request: Request<Streaming<ProduceRequest>>,
) -> Result<Answers, Status> {
    let (rights, name) = (api.rights(&request), super::log_name(&request)?);
    let (until, taken) = (deadline::of(&request), taken(&request));
    let (producer, drain) = (producer(&request)?, api.drain.clone());
    let (requests, names) = (request.into_inner(), api.clone());
    let batcher = Batcher {
        log: api.log_to(&rights, (&name, None), until).await?,
        api,
        producer,
        caller: Caller::next(),
        taken,
        requests,
        ahead: None,
    };
    let told = move |outcome: Result<Receipt, ProposeError>, ()| {
        let (names, name) = (names.clone(), name.clone());
        async move {
            let outcome = outcome.map_err(|error| status::propose(&error));
            let receipt = names.as_named(&name, outcome).await?;
            Ok(receipt.ranges)
        }
    };
    let ranges = pipelined("produce stream", batcher, drain, BATCHES_MAX, told);
    let offsets = |range: OffsetRange| range.first.0..range.first.0 + u64::from(range.count);
    let answers = ranges.map_ok(move |ranges| {
        let offsets = ranges.into_iter().flat_map(offsets);
        stream::iter(offsets.map(|offset| Ok::<_, Status>(ProduceResponse { offset })))
    });
    Ok(answers.try_flatten().boxed())
}

/// Makes batches of what a client has sent by the time that the last batch was queued.
struct Batcher<L> {
    log: L,
    api: Arc<ApiContext<L>>,
    producer: Option<Producer>,
    caller: Caller,
    taken: Arc<Taken>,
    requests: Streaming<ProduceRequest>,
    /// What came after the last batch: a record that did not fit, the stream's end, its error.
    ahead: Option<Result<Option<Record>, Status>>,
}

impl<L: CommitLog> Feed for Batcher<L> {
    type Request = Record;
    type With = ();

    /// The next record; `None` at the end of the stream.
    async fn next(&mut self) -> Result<Option<Record>, Status> {
        if let Some(ahead) = self.ahead.take() {
            return ahead;
        }
        let Some(request) = self.requests.message().await? else {
            return Ok(None);
        };
        let demands = self.log.demands();
        Ok(Some(log_v1::record(request, &self.api.limits, demands)?))
    }

    /// Queues a batch of this record and those that wait behind it.
    async fn send(&mut self, first: Record) -> Result<Sent<()>, Status> {
        let bytes_max = self.api.limits.batch_bytes_max;
        let mut batch = BatchBuilder::of(self.log.id(), self.producer);
        batch.push(&first.value, first.term, first.r#type);
        self.taken.keep();
        let records_max = match self.producer {
            Some(_) => SESSION_BATCH_RECORDS_MAX,
            None => BATCH_RECORDS_MAX,
        };
        while batch.count() < records_max {
            match self.next().now_or_never() {
                Some(Ok(Some(record))) if batch.bytes() + record.value.len() <= bytes_max => {
                    batch.push(&record.value, record.term, record.r#type);
                    self.taken.keep();
                }
                ahead => {
                    self.ahead = ahead;
                    break;
                }
            }
        }
        if let Some(producer) = &mut self.producer {
            producer.sequence += u64::from(batch.count());
        }
        let queued = self
            .log
            .propose(
                self.caller,
                counted(batch.finish(), self.taken.take_kept()),
                Instant::now(),
            )
            .await;
        Ok(Sent {
            answer: queued.map_err(|error| status::propose(&error))?,
            with: (),
        })
    }
}
