//! Load through the native API: whole batches on produce streams, and a consume stream that is given credit.
//!
//! The bytes of a batch are built once and shared, so that the load costs little of the machine that it shares
//! with the nodes. Raw messages, no retries: a failure ends the measurement.
//!
//! Goals: `batch100x100` 600,000 records a second, `batch100x1024` 120 MB a
//! second, `consume-batch` 800,000 records a second.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use tokio::time::{Instant, timeout};
use tonic::Streaming;
use tonic::transport::Channel;

use super::consuming::Consuming;
use super::figures::Run;
use super::{Flow, SILENCE_MAX, Target, WARM_UP, rate};
use crate::batch::{Builder, Record};
use crate::proto::v1::consistency::Level;
use crate::proto::v1::log_service_client::LogServiceClient;
use crate::proto::v1::start::At;
use crate::proto::v1::{
    Batch, Consistency, ConsumeStreamStart, ManyBatch, ProduceManyRequest, ProduceRequest,
    ProduceStreamRequest, ProduceStreamResponse, Start,
};
use crate::tasks;

pub const BATCH_RECORDS: u32 = 100;
/// The size of the records that are read back.
pub const READ_RECORD_BYTES: usize = 100;
const STREAMS: usize = 2;
/// Batches in flight on each stream, if its credit allows.
const IN_FLIGHT: u64 = 32;

/// What a produce row does.
pub fn produced(record_bytes: usize) -> String {
    format!("native produce, {STREAMS} streams, batches of {BATCH_RECORDS} x {record_bytes} bytes")
}

/// What a consume row does.
pub fn consumed(whom: &str) -> String {
    format!("native consume stream, batches of {BATCH_RECORDS} x {READ_RECORD_BYTES} bytes, {whom}")
}

/// What a stream appends: equal batches, to logs in turn.
pub struct Load {
    logs: Arc<[String]>,
    batch: Batch,
    /// The place of the next one's log.
    turn: usize,
    /// Batches of a request: more than one go together.
    each: usize,
}

impl Load {
    pub fn new(logs: &Arc<[String]>, records: u32, record_bytes: usize, turn: usize) -> Self {
        Self {
            logs: logs.clone(),
            batch: batch(records, record_bytes),
            turn,
            each: 1,
        }
    }

    /// So many batches in each request, to as many logs, all of them or none.
    pub fn together(self, each: usize) -> Self {
        Self { each, ..self }
    }

    /// The records of a request.
    fn records(&self) -> u64 {
        self.each as u64 * u64::from(self.batch.count)
    }

    /// The place of the log that the next request is for, or the first of them.
    pub fn place(&self) -> usize {
        self.turn % self.logs.len()
    }

    fn log(&mut self) -> String {
        let log = self.logs[self.place()].clone();
        self.turn += 1;
        log
    }

    pub fn next(&mut self) -> ProduceStreamRequest {
        if self.each > 1 {
            let each = self.each;
            let batch = || ManyBatch {
                log: self.log(),
                batch: Some(self.batch.clone()),
                ..ManyBatch::default()
            };
            let batches = std::iter::repeat_with(batch).take(each).collect();
            let session = None;
            return ProduceStreamRequest {
                produce: None,
                many: Some(ProduceManyRequest { batches, session }),
            };
        }
        ProduceStreamRequest {
            produce: Some(ProduceRequest {
                log: self.log(),
                batch: Some(self.batch.clone()),
                ..ProduceRequest::default()
            }),
            many: None,
        }
    }
}

/// The log that is always there.
pub fn default_log() -> Arc<[String]> {
    [String::new()].into()
}

/// A batch of equal records.
fn batch(records: u32, record_bytes: usize) -> Batch {
    let record = Record {
        value: vec![b'x'; record_bytes].into(),
        ..Record::default()
    };
    let mut builder = Builder::default();
    for _ in 0..records {
        builder.push(&record);
    }
    let (records, count) = builder.take();
    Batch {
        records,
        count,
        ..Batch::default()
    }
}

/// Which batches of a stream count.
#[derive(Clone, Copy)]
struct Span {
    from: Instant,
    until: Instant,
}

impl Target {
    /// Appends batches on several streams for a time.
    pub async fn batches_for(
        &self,
        logs: &Arc<[String]>,
        record_bytes: usize,
        length: Duration,
    ) -> anyhow::Result<Run> {
        let load = |turn| Load::new(logs, BATCH_RECORDS, record_bytes, turn);
        let per_second = self.produce_for(load, logs.len(), length).await?;
        #[expect(clippy::cast_precision_loss, reason = "a record is no exabyte")]
        let bytes_per_second = Some(per_second * record_bytes as f64);
        Ok(Run {
            per_second,
            bytes_per_second,
            ..Run::default()
        })
    }

    /// Appends on several streams for a time, each to other ones of so many logs in turn; records a second.
    pub async fn produce_for(
        &self,
        load: impl Fn(usize) -> Load,
        logs: usize,
        length: Duration,
    ) -> anyhow::Result<f64> {
        let from = Instant::now() + WARM_UP;
        let until = from + length;
        let span = Span { from, until };
        let records = load(0).records();
        let streams = (0..STREAMS).map(|number| {
            let load = load(number * logs / STREAMS);
            self.produce(load, u64::MAX, span)
        });
        let requests: u64 = try_join_all(streams).await?.into_iter().sum();
        ensure!(
            requests > 0,
            "no batch was acknowledged; see the nodes' logs"
        );
        Ok(rate(requests * records, length))
    }

    /// Appends so many batches for reads.
    pub async fn batches_count(&self, load: Load, count: u64) -> anyhow::Result<()> {
        let from = Instant::now();
        // The count ends it; what takes longer is stuck, and the stream's silence tells.
        let until = from + Duration::from_secs(3600);
        let batches = self.produce(load, count, Span { from, until });
        ensure!(batches.await? == count, "an hour did not do");
        Ok(())
    }

    /// Unary calls with a record each, always `in_flight` of them, to logs in turn.
    pub async fn unary_to(
        &self,
        logs: &Arc<[String]>,
        in_flight: usize,
        length: Duration,
    ) -> anyhow::Result<Run> {
        let channels = self.channels(in_flight);
        let from = Instant::now() + WARM_UP;
        let until = from + length;
        let callers = (0..in_flight).map(|number| {
            let mut client = LogServiceClient::new(channels[number % channels.len()].clone());
            let mut load = Load::new(logs, 1, self.value.len(), number * 7919);
            tasks::spawn("caller", async move {
                let mut counted = 0;
                while Instant::now() < until {
                    let request = load.next().produce.unwrap_or_default();
                    client.produce(request).await.context("a produce call")?;
                    let now = Instant::now();
                    counted += u64::from(from <= now && now < until);
                }
                anyhow::Ok(counted)
            })
        });
        let done = timeout(length + WARM_UP + SILENCE_MAX, try_join_all(callers)).await;
        let done = done.context("the calls did not end")?;
        let mut calls = 0;
        for counted in done.context("a caller failed")? {
            calls += counted?;
        }
        Ok(Run {
            per_second: rate(calls, length),
            ..Run::default()
        })
    }

    /// One stream of up to `count` batches; answers with how many were acknowledged within the span.
    async fn produce(&self, mut load: Load, count: u64, span: Span) -> anyhow::Result<u64> {
        let bytes = (load.each * load.batch.records.len()) as u64;
        let records = load.records();
        let flow = Arc::new(Flow::new(count));
        let requests = flow.requests(move || load.next());
        let mut client = LogServiceClient::new(self.channel());
        let answers = client.produce_stream(requests).await;
        let mut answers = answers.context("open a produce stream")?.into_inner();
        let credit = answer(&mut answers).await?;
        let credit = credit.context("the server ended the produce stream at once")?;
        flow.open(window(&credit, bytes)?);

        let (mut acked, mut counted) = (0, 0);
        while acked < count {
            let told = answer(&mut answers).await?;
            let told = told.context("the server ended the produce stream early")?;
            let many = told.many.into_iter().flat_map(|many| many.appended);
            let all = told.ack.into_iter().chain(many);
            let appended: u64 = all.map(|ack| u64::from(ack.count)).sum();
            ensure!(appended == records, "a request was acknowledged in part");
            acked += 1;
            flow.acknowledge(acked);
            let now = Instant::now();
            counted += u64::from(span.from <= now && now < span.until);
            if now >= span.until {
                break;
            }
        }
        flow.stop();
        // What is in flight is still written: the next row must not pay for it.
        while answer(&mut answers).await?.is_some() {}
        Ok(counted)
    }
}

/// Reads the `count` records of a log from `from` on by one consume stream, and walks every batch.
pub async fn consume(channel: Channel, log: &str, from: u64, count: u64) -> anyhow::Result<Run> {
    let mut stream = Consuming::open(channel, start(log, from, from + count)).await?;
    // The first answer says that the node has all that will be read.
    stream.next().await?;
    let started = Instant::now();
    let (mut next, mut bytes) = (from, 0);
    while next < from + count {
        for stored in stream.next().await? {
            ensure!(
                stored.first_offset == next,
                "offset {} came where {next} was due",
                stored.first_offset
            );
            let walked = stream.take(&stored)?;
            next += walked.records;
            bytes += walked.value_bytes;
        }
        stream.give().await?;
    }
    let elapsed = started.elapsed();
    Ok(Run {
        per_second: rate(next - from, elapsed),
        bytes_per_second: Some(rate(bytes, elapsed)),
        ..Run::default()
    })
}

/// How many batches of this size a stream may have under way.
fn window(answer: &ProduceStreamResponse, batch_bytes: u64) -> anyhow::Result<u64> {
    let batches = u64::from(answer.credit_batches);
    let window = IN_FLIGHT
        .min(batches)
        .min(answer.credit_bytes / batch_bytes);
    ensure!(
        window > 0,
        "the server gives credit for {} bytes in {batches} batches, and a batch has {batch_bytes} bytes",
        answer.credit_bytes
    );
    Ok(window)
}

async fn answer(
    answers: &mut Streaming<ProduceStreamResponse>,
) -> anyhow::Result<Option<ProduceStreamResponse>> {
    let answer = timeout(SILENCE_MAX, answers.message()).await;
    answer
        .context("the produce stream is stuck")?
        .context("the produce stream broke")
}

fn start(log: &str, from: u64, needed: u64) -> ConsumeStreamStart {
    ConsumeStreamStart {
        log: log.to_owned(),
        start: Some(Start {
            at: Some(At::Offset(from)),
        }),
        // Wait for a follower that is behind: otherwise its catching up would be measured.
        consistency: Some(Consistency {
            level: Some(Level::AtLeastOffset(needed)),
        }),
        ..ConsumeStreamStart::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::consuming::walk;
    use super::*;
    use crate::proto::v1::StoredBatch;

    #[test]
    fn a_batch_is_built_and_walked() {
        let stored = StoredBatch {
            batch: Some(batch(100, 7)),
            ..StoredBatch::default()
        };
        let walked = walk(&stored).unwrap();
        assert_eq!((walked.records, walked.value_bytes), (100, 700));
    }

    #[test]
    fn the_window_keeps_the_credit() {
        let credit = |credit_bytes, credit_batches| ProduceStreamResponse {
            credit_bytes,
            credit_batches,
            ack: None,
            many: None,
        };
        assert_eq!(window(&credit(1 << 30, 1000), 100).unwrap(), IN_FLIGHT);
        assert_eq!(window(&credit(1 << 30, 3), 100).unwrap(), 3);
        assert_eq!(window(&credit(250, 1000), 100).unwrap(), 2);
        assert!(window(&credit(99, 1000), 100).is_err());
    }
}
