//! Two consumers that do not keep up: one gives no more credit, the other gives all credit and never reads its
//! socket. They cost the node no memory and the other clients no speed. The first goes on later without a gap.
#![allow(
    clippy::disallowed_methods,
    reason = "it reads how much memory a node takes"
)]

use std::collections::VecDeque;
use std::time::Duration;

use ferrolog::net::stream_layer::ChannelOptions;
use ferrolog::proto::v1::{
    ConsumeStreamStart, ProduceRequest, ProduceStreamRequest, ProduceStreamResponse,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

use crate::harness::checker::{
    Append, Entry, History, Outcome, Read, ReadKind, Rule, hash, payload,
};
use crate::harness::native::{self, Stream};
use crate::harness::proxy::Proxy;
use crate::harness::recorder::assert_sound;
use crate::harness::{PATIENCE, Stage};

const SECONDS: u64 = 10;
const SECONDS_ENV: &str = "FERROLOG_SLOW_SECONDS";
/// Bytes that are written first, to learn the usual rate and memory.
const WARM_BYTES: u64 = 32 << 20;
const BYTES: u64 = 100 << 20;
const VALUE_BYTES: usize = 4 << 10;
const RECORDS: u32 = 16;
const BATCH_BYTES: u64 = VALUE_BYTES as u64 * RECORDS as u64;
/// The bytes of a batch with what protobuf adds.
const BATCH_BYTES_MAX: u64 = BATCH_BYTES + 16 * RECORDS as u64;
const WINDOW: u64 = 16;
const SLOW_CREDIT: u64 = 64 << 10;
const ANON_GROWTH_MAX: u64 = 64 << 20;
/// The least part of the usual rate that must remain. The machine does other work beside these tests.
const RATE_SHARE_MIN: f64 = 0.25;
/// The heartbeat of the consumer that keeps up.
const HEARTBEAT_MS: u32 = 100;
/// Between two batches once enough is written and the time is not over.
const TRICKLE: Duration = Duration::from_millis(100);

/// The resident bytes of a process: all, and those without a file behind them.
#[derive(Debug, Clone, Copy, Default)]
struct Memory {
    resident: u64,
    anon: u64,
}

impl Memory {
    fn of(stage: &Stage, place: usize) -> Self {
        let pid = stage.cluster.pid(place).expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
        let bytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
            let kib: u64 = kib.and_then(|kib| kib.trim().parse().ok()).expect(key);
            kib << 10
        };
        Self {
            resident: bytes("VmRSS:"),
            anon: bytes("RssAnon:"),
        }
    }

    fn max(self, other: Self) -> Self {
        Self {
            resident: self.resident.max(other.resident),
            anon: self.anon.max(other.anon),
        }
    }
}

/// One produce stream with a window of batches, and what came of each record.
struct Producer {
    requests: mpsc::UnboundedSender<ProduceStreamRequest>,
    answers: Streaming<ProduceStreamResponse>,
    window: u64,
    origin: Instant,
    sent: u64,
    waiting: VecDeque<(u64, Duration)>,
    appends: Vec<Append>,
}

fn value(number: u64) -> Vec<u8> {
    let mut value = payload(0, u32::try_from(number).expect("few records")).to_vec();
    value.resize(VALUE_BYTES, 0);
    value
}

impl Producer {
    async fn open(stage: &Stage, place: usize, origin: Instant) -> Self {
        let mut client = native::client_of(stage, place);
        let (requests, sent) = mpsc::unbounded_channel();
        let call = client.produce_stream(UnboundedReceiverStream::new(sent));
        let answers = timeout(PATIENCE, call).await.expect("an answer");
        let mut producer = Self {
            requests,
            answers: answers.expect("a stream").into_inner(),
            window: WINDOW,
            origin,
            sent: 0,
            waiting: VecDeque::new(),
            appends: Vec::new(),
        };
        let credit = producer.answer().await;
        let allowed = (credit.credit_bytes / (2 * BATCH_BYTES)).min(credit.credit_batches.into());
        producer.window = allowed.clamp(1, WINDOW);
        producer
    }

    async fn answer(&mut self) -> ProduceStreamResponse {
        let answer = timeout(PATIENCE, self.answers.message()).await;
        let answer = answer.expect("an answer in time").expect("an answer");
        answer.expect("a stream that goes on")
    }

    /// Sends one batch, and waits for an answer if the window is full.
    async fn send(&mut self) {
        let first = self.sent * u64::from(RECORDS);
        let values = (first..first + u64::from(RECORDS)).map(value);
        let request = ProduceRequest {
            batch: Some(native::batch(values)),
            ..ProduceRequest::default()
        };
        self.waiting.push_back((first, self.origin.elapsed()));
        let produce = Some(request);
        let sent = self.requests.send(ProduceStreamRequest {
            produce,
            many: None,
        });
        sent.expect("the stream goes on");
        self.sent += 1;
        if self.waiting.len() as u64 >= self.window {
            self.take_answer().await;
        }
    }

    async fn take_answer(&mut self) {
        let ack = self.answer().await.ack.expect("an ack");
        let (first, begin) = self.waiting.pop_front().expect("it was sent");
        for record in 0..u64::from(RECORDS) {
            self.appends.push(Append {
                producer: 0,
                seq: first + record,
                hash: hash(&value(first + record)),
                begin,
                end: self.origin.elapsed(),
                outcome: Outcome::Acked(ack.first_offset + record),
            });
        }
    }

    /// Sends so many bytes and waits for all answers. Returns the rate in bytes a second.
    async fn write(&mut self, bytes: u64, mut between: impl FnMut()) -> f64 {
        let begun = Instant::now();
        for number in 0..bytes.div_ceil(BATCH_BYTES) {
            self.send().await;
            if number % 32 == 0 {
                between();
            }
        }
        while !self.waiting.is_empty() {
            self.take_answer().await;
        }
        bytes as f64 / begun.elapsed().as_secs_f64()
    }

    fn written(&self) -> u64 {
        self.sent * u64::from(RECORDS)
    }
}

fn start_at(offset: u64) -> ConsumeStreamStart {
    ConsumeStreamStart {
        start: native::at(offset),
        consistency: native::relaxed(),
        ..ConsumeStreamStart::default()
    }
}

/// Takes what comes on a stream up to an offset, and gives credit for it.
async fn take(stream: &mut Stream, seen: &mut Vec<Entry>, end: u64) {
    while seen.last().map_or(0, |entry| entry.offset + 1) < end {
        let answer = stream.next().await.expect("an answer");
        seen.extend(native::entries(&answer.batches));
        stream.grant(native::spent(&answer));
    }
}

/// Takes all answers up to the next heartbeat. Returns the bytes of their records.
async fn take_held(stream: &mut Stream, seen: &mut Vec<Entry>) -> u64 {
    let mut held = 0;
    loop {
        let answer = stream.next().await.expect("an answer");
        if answer.batches.is_empty() && held > 0 {
            return held;
        }
        held += native::spent(&answer);
        seen.extend(native::entries(&answer.batches));
    }
}

/// A consumer that keeps up, in a task: it reads to an offset that it is told in the end, and says when it had all.
struct Reader {
    end: mpsc::UnboundedSender<u64>,
    task: JoinHandle<(Vec<Entry>, Instant)>,
}

impl Reader {
    async fn start(stage: &Stage, place: usize) -> Self {
        let mut client = native::client_of(stage, place);
        let start = ConsumeStreamStart {
            heartbeat_ms: HEARTBEAT_MS,
            ..start_at(0)
        };
        let opened = Stream::open(&mut client, start, 4 << 20).await;
        let (mut stream, _) = opened.expect("a stream");
        let (end, mut ends) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let (mut seen, mut last, mut at) = (Vec::new(), u64::MAX, Instant::now());
            // Heartbeats come often, so that the reader hears of the end soon.
            while (seen.len() as u64) < last {
                let answer = stream.next().await.expect("an answer");
                if !answer.batches.is_empty() {
                    at = Instant::now();
                    seen.extend(native::entries(&answer.batches));
                    stream.grant(native::spent(&answer));
                }
                last = ends.try_recv().unwrap_or(last);
            }
            (seen, at)
        });
        Self { end, task }
    }

    async fn finish(self, end: u64) -> (Vec<Entry>, Instant) {
        self.end.send(end).expect("it still reads");
        let ended = timeout(2 * PATIENCE, self.task).await;
        ended.expect("it reads all").expect("a task")
    }
}

/// A consumer that gives all credit there is, and whose socket nobody reads from then on.
async fn deaf_consumer(stage: &Stage, place: usize) -> (Proxy, Stream) {
    let addr = stage.cluster.addr(place);
    let proxy = Proxy::start(addr, 1, u64::MAX - 1..u64::MAX).await;
    let layer = stage.cluster.stream_layer().expect("no TLS");
    // HTTP/2 does not hold the server back: only the socket does, and it is full soon.
    let options = ChannelOptions {
        keepalive: None,
        stream_window: Some(1 << 30),
        connection_window: Some(1 << 30),
        ..ChannelOptions::default()
    };
    let mut client = native::client(&layer, &proxy.addr(), options);
    let opened = Stream::open(&mut client, start_at(0), u64::MAX / 2).await;
    let (stream, _) = opened.expect("a stream");
    proxy.pause(true);
    (proxy, stream)
}

fn seconds() -> Duration {
    let seconds = std::env::var(SECONDS_ENV).map_or(SECONDS, |seconds| {
        seconds.parse().expect("a number of seconds")
    });
    Duration::from_secs(seconds)
}

fn stream_read(number: u32, origin: Instant, seen: Vec<Entry>) -> Read {
    Read {
        session: Some(number),
        kind: ReadKind::Stream,
        node: "the serving node".to_owned(),
        begin: Duration::ZERO,
        end: origin.elapsed(),
        from: 0,
        tail: seen.len() as u64,
        seen,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_consumers_cost_no_memory_and_nobody_elses_time() {
    let stage = Stage::start_plain().await;
    let leader = stage.leader().await;
    let serving = stage.others(leader)[0];
    let origin = Instant::now();
    let mut producer = Producer::open(&stage, leader, origin).await;
    let reader = Reader::start(&stage, serving).await;
    let usual = producer.write(WARM_BYTES, || {}).await;

    let mut client = native::client_of(&stage, serving);
    let opened = Stream::open(&mut client, start_at(0), SLOW_CREDIT).await;
    let (mut slow, _) = opened.expect("a stream");
    let mut slow_seen = Vec::new();
    let (deaf_proxy, deaf) = deaf_consumer(&stage, serving).await;

    let before = Memory::of(&stage, serving);
    let mut peak = before;
    let begun = Instant::now();
    let mut look = || peak = peak.max(Memory::of(&stage, serving));
    let rate = producer.write(BYTES, &mut look).await;
    let mut trickle = tokio::time::interval(TRICKLE);
    while begun.elapsed() < seconds() {
        trickle.tick().await;
        producer.write(BATCH_BYTES, &mut look).await;
    }
    let (written, all_at) = (producer.written(), Instant::now());
    let (seen, read_at) = reader.finish(written).await;
    look();

    // The consumer without credit got no more than its credit and one batch, and goes on where it stopped.
    let slept = begun.elapsed();
    let held = take_held(&mut slow, &mut slow_seen).await;
    assert!(held > 0 && held <= SLOW_CREDIT + BATCH_BYTES_MAX, "{held}");
    let asleep = slow_seen.len();
    slow.grant(4 << 20);
    take(&mut slow, &mut slow_seen, written).await;
    deaf_proxy.pause(false);
    drop(deaf);

    let grown = peak.anon.saturating_sub(before.anon);
    let history = History {
        appends: producer.appends,
        reads: vec![
            stream_read(1, origin, seen),
            stream_read(2, origin, slow_seen),
        ],
    };
    let log = native::read_log(&stage, serving).await;
    let report = assert_sound(&history, vec![log]);
    let behind = read_at.saturating_duration_since(all_at);
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "{} MiB in {slept:.1?} beside a consumer without credit and one that reads no socket: anon memory {} MiB + {} \
         MiB, resident {} MiB at most; {:.0} MB/s, before {:.0} MB/s; the consumer beside them had all {behind:.0?} \
         after the last ack; the slow one had {asleep} of {written} records; {report}",
        mib(written * VALUE_BYTES as u64),
        mib(before.anon),
        mib(grown),
        mib(peak.resident),
        rate / 1e6,
        usual / 1e6
    );
    assert!(grown < ANON_GROWTH_MAX, "{grown} bytes of anon memory more");
    assert!(rate > usual * RATE_SHARE_MIN, "the producer slowed down");
    assert!(behind < Duration::from_secs(5), "the reader fell behind");
    assert_eq!(report.of(Rule::Stream) as u64, 2 * written);
}
