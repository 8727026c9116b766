//! The load itself, as cheap as can be: it shares the machine with the nodes that it measures.
//!
//! One task a caller and none a record; the value is one shared buffer; raw messages, with no retries, since a
//! failure must end the measurement and not hide in it.

pub mod batches;
pub mod consuming;
pub mod figures;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use futures::Stream;
use futures::future::try_join_all;
use futures::task::AtomicWaker;
use tokio::time::Instant;
use tonic::Request;
use tonic::transport::Channel;

use crate::net::Kind;
use crate::net::stream_layer::{ChannelOptions, StreamLayer};
use crate::proto::log_v1::log_client::LogClient;
use crate::proto::log_v1::{ConsumeRequest, ProduceRequest, Record};
use crate::tasks;
use figures::{Run, percentile};

/// How long the load runs before the count begins, while connections and windows open and caches fill.
pub const WARM_UP: Duration = Duration::from_millis(500);
/// How many calls one connection carries before another connection pays.
const CALLS_A_CONNECTION: usize = 64;
const CONNECTIONS_MAX: usize = 4;
/// Records in flight on a produce stream.
pub const WINDOW: u64 = 1024;
/// A server that owes an answer and is silent for this long ends the measurement.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Whom to load, and with what.
pub struct Target {
    pub stream_layer: StreamLayer,
    pub addr: String,
    pub value: Bytes,
}

impl Target {
    pub fn channel(&self) -> Channel {
        self.stream_layer
            .channel(Kind::Grpc, &self.addr, ChannelOptions::default())
    }

    /// The connections for so many calls.
    pub fn channels(&self, in_flight: usize) -> Vec<Channel> {
        let connections = in_flight
            .div_ceil(CALLS_A_CONNECTION)
            .clamp(1, CONNECTIONS_MAX);
        (0..connections).map(|_| self.channel()).collect()
    }

    fn request(&self) -> ProduceRequest {
        ProduceRequest {
            record: Some(Record {
                value: self.value.clone(),
                ..Record::default()
            }),
        }
    }

    /// Unary calls, always `in_flight` of them.
    pub async fn unary(&self, in_flight: usize, length: Duration) -> anyhow::Result<Run> {
        let channels = self.channels(in_flight);
        let from = Instant::now() + WARM_UP;
        let until = from + length;
        let callers = (0..in_flight).map(|number| {
            let client = LogClient::new(channels[number % channels.len()].clone());
            let calls = call_until(client, self.request(), from, until);
            tasks::spawn("caller", calls)
        });
        let outcomes =
            tokio::time::timeout(length + WARM_UP + SILENCE_MAX, try_join_all(callers)).await;
        let outcomes = outcomes
            .context("the calls did not end")?
            .context("a caller failed")?;

        let mut micros = Vec::new();
        for outcome in outcomes {
            micros.extend(outcome?);
        }
        micros.sort_unstable();
        let time = |percent| {
            percentile(&micros, percent).map(|micros| Duration::from_micros(micros.into()))
        };
        Ok(Run {
            per_second: rate(micros.len() as u64, length),
            p50: time(50),
            p99: time(99),
            ..Run::default()
        })
    }

    /// One produce stream with [`WINDOW`] records in flight, for a time.
    pub async fn stream_for(&self, length: Duration) -> anyhow::Result<Run> {
        let until = Instant::now() + WARM_UP + length;
        let mut counted = None;
        let end = self
            .stream(u64::MAX, |acked, now| {
                if counted.is_none() && now + length >= until {
                    counted = Some((now, acked));
                }
                now < until
            })
            .await?;
        let (from, skipped) = counted.context("no record was acknowledged; see the nodes' logs")?;
        let (now, acked) = end;
        Ok(Run {
            per_second: rate(acked - skipped, now - from),
            ..Run::default()
        })
    }

    /// One produce stream with [`WINDOW`] records in flight, for a number of records.
    pub async fn stream_count(&self, count: u64) -> anyhow::Result<()> {
        self.stream(count, |_, _| true).await.map(|_| ())
    }

    /// Streams until `go_on` says no, or `count` are acknowledged; answers with when and how many. Looks at the
    /// clock now and then, since a look costs as much as an acknowledgement.
    async fn stream(
        &self,
        count: u64,
        mut go_on: impl FnMut(u64, Instant) -> bool,
    ) -> anyhow::Result<(Instant, u64)> {
        const LOOK_EVERY: u64 = 64;
        let flow = Arc::new(Flow::new(count));
        flow.open(WINDOW);
        let request = self.request();
        let requests = flow.requests(move || request.clone());
        let mut client = LogClient::new(self.channel());
        let mut answers = client
            .produce_stream(requests)
            .await
            .context("open a produce stream")?
            .into_inner();
        let mut acked = 0;
        while acked < count {
            let answer = tokio::time::timeout(SILENCE_MAX, answers.message()).await;
            let answer = answer
                .context("the produce stream is stuck")?
                .context("the produce stream broke")?;
            ensure!(
                answer.is_some(),
                "the server ended the produce stream after {acked} records"
            );
            acked += 1;
            flow.acknowledge(acked);
            if acked % LOOK_EVERY == 0 && !go_on(acked, Instant::now()) {
                break;
            }
        }
        let end = (Instant::now(), acked);
        flow.stop();
        // What is in flight is still written: the next row must not pay for it.
        while answers
            .message()
            .await
            .context("the produce stream broke at its end")?
            .is_some()
        {}
        Ok(end)
    }

    /// Reads the first `count` records by one consume stream.
    pub async fn consume(&self, count: u64) -> anyhow::Result<Run> {
        let mut client = LogClient::new(self.channel());
        let request = Request::new(ConsumeRequest { offset: 0 });
        let started = Instant::now();
        let mut answers = client
            .consume_stream(request)
            .await
            .context("open a consume stream")?
            .into_inner();
        for expected in 0..count {
            let answer = tokio::time::timeout(SILENCE_MAX, answers.message()).await;
            let answer = answer
                .context("the consume stream is stuck")?
                .context("the consume stream broke")?;
            match answer.and_then(|answer| answer.record) {
                Some(record) if record.offset == expected => {}
                Some(record) => bail!("offset {} came where {expected} was due", record.offset),
                None => bail!("the consume stream ended at offset {expected}"),
            }
        }
        Ok(Run {
            per_second: rate(count, started.elapsed()),
            ..Run::default()
        })
    }
}

async fn call_until(
    mut client: LogClient<Channel>,
    request: ProduceRequest,
    from: Instant,
    until: Instant,
) -> anyhow::Result<Vec<u32>> {
    let mut micros = Vec::new();
    let mut started = Instant::now();
    while started < until {
        client
            .produce(request.clone())
            .await
            .context("a produce call failed")?;
        let ended = Instant::now();
        if started >= from && ended <= until {
            micros.push(u32::try_from((ended - started).as_micros()).unwrap_or(u32::MAX));
        }
        started = ended;
    }
    Ok(micros)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate of fewer than 2^52 records"
)]
pub fn rate(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64().max(1e-9)
}

/// What the two sides of a produce stream share: a window that is shut until it is opened.
#[derive(Default)]
pub struct Flow {
    count: u64,
    window: AtomicU64,
    sent: AtomicU64,
    acked: AtomicU64,
    stopped: AtomicBool,
    waker: AtomicWaker,
}

impl Flow {
    /// Ends after `count` requests.
    pub fn new(count: u64) -> Self {
        Self {
            count,
            ..Self::default()
        }
    }

    /// The request side: what `next` makes, one after the other.
    pub fn requests<F>(self: &Arc<Self>, next: F) -> Requests<F> {
        Requests {
            flow: Arc::clone(self),
            next,
        }
    }

    /// Lets so many be in flight.
    pub fn open(&self, window: u64) {
        self.window.store(window, Ordering::SeqCst);
        self.waker.wake();
    }

    /// So many are answered by now.
    pub fn acknowledge(&self, acked: u64) {
        self.acked.store(acked, Ordering::SeqCst);
        // With few in flight it writes large frames.
        let low = self.window.load(Ordering::SeqCst) / 4 * 3;
        if self.sent.load(Ordering::SeqCst) - acked <= low {
            self.waker.wake();
        }
    }

    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    /// Whether one more request may go; `None` when all have gone.
    fn take(&self) -> Option<bool> {
        let sent = self.sent.load(Ordering::SeqCst);
        if self.stopped.load(Ordering::SeqCst) || sent == self.count {
            return None;
        }
        let in_flight = sent - self.acked.load(Ordering::SeqCst);
        let has_room = in_flight < self.window.load(Ordering::SeqCst);
        if has_room {
            self.sent.store(sent + 1, Ordering::SeqCst);
        }
        Some(has_room)
    }
}

pub struct Requests<F> {
    flow: Arc<Flow>,
    next: F,
}

impl<T, F: FnMut() -> T + Unpin> Stream for Requests<F> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut has_room = self.flow.take();
        if has_room == Some(false) {
            self.flow.waker.register(cx.waker());
            // An acknowledgement between the look and the registration woke nobody.
            has_room = self.flow.take();
        }
        match has_room {
            Some(true) => Poll::Ready(Some((self.next)())),
            Some(false) => Poll::Pending,
            None => Poll::Ready(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;

    #[test]
    fn a_flow_keeps_its_window_and_ends() {
        let flow = Arc::new(Flow::new(WINDOW + 1));
        let mut requests = flow.requests(ProduceRequest::default);
        assert!(requests.next().now_or_never().is_none(), "it is shut");
        flow.open(WINDOW);
        for _ in 0..WINDOW {
            assert!(requests.next().now_or_never().unwrap().is_some());
        }
        assert!(
            requests.next().now_or_never().is_none(),
            "the window is full"
        );
        flow.acknowledge(1);
        assert!(requests.next().now_or_never().unwrap().is_some());
        assert!(
            requests.next().now_or_never().unwrap().is_none(),
            "the count is reached"
        );
    }

    #[test]
    fn a_window_of_one_moves() {
        let flow = Arc::new(Flow::new(2));
        flow.open(1);
        let mut requests = flow.requests(|| ());
        assert!(requests.next().now_or_never().unwrap().is_some());
        let mut next = requests.next();
        assert!((&mut next).now_or_never().is_none());
        flow.acknowledge(1);
        assert!(next.now_or_never().unwrap().is_some());
    }

    #[test]
    fn a_stopped_flow_ends() {
        let flow = Arc::new(Flow::new(10));
        let mut requests = flow.requests(ProduceRequest::default);
        flow.stop();
        assert!(requests.next().now_or_never().unwrap().is_none());
    }
}
