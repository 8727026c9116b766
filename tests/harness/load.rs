//! Load on a cluster: producers with sessions of their own, and what each of them saw.
//!
//! Every value is sent once and is unlike every other. What the history means is the checker's affair.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ferrolog::client::{Ack, Consistency, Producer, Start};
use futures::future;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::checker::{
    self, Append, Entry, FinalLogs, History, NodeLog, Outcome, Report, Violation,
};
use super::{PATIENCE, Stage, until};

/// How many bytes follow a value's name, in turn: none, few, and more than a page.
const PADDING: [usize; 5] = [0, 10, 100, 700, 5_000];
/// How many bytes follow a value's name in a load that is to fill disks.
const FILLING: [usize; 5] = [0, 700, 5_000, 20_000, 60_000];
/// The pause of a producer with many records in flight. Without it a local cluster would take a million records,
/// and the check would take minutes.
const PACE: Duration = Duration::from_millis(2);

/// A load under way.
pub struct Load {
    origin: Instant,
    stop: watch::Sender<bool>,
    acked: Vec<Arc<AtomicU64>>,
    producers: Vec<JoinHandle<Vec<Append>>>,
}

impl Load {
    /// Starts so many producers, each on another server first. The first of them waits for each answer, the
    /// others keep ever more in flight.
    pub fn start(stage: &Stage, producers: usize) -> Self {
        Self::start_padded(stage, producers, PADDING)
    }

    /// Starts so many producers of large records.
    pub fn start_filling(stage: &Stage, producers: usize) -> Self {
        Self::start_padded(stage, producers, FILLING)
    }

    fn start_padded(stage: &Stage, producers: usize, padding: [usize; 5]) -> Self {
        let origin = Instant::now();
        let (stop, stopped) = watch::channel(false);
        let acked: Vec<_> = (0..producers).map(|_| Arc::default()).collect();
        let run = |(number, acked): (usize, &Arc<AtomicU64>)| {
            let mut servers = stage.cluster.addrs();
            let servers_len = servers.len();
            servers.rotate_left(number % servers_len);
            let client = stage.cluster.client_of(servers, PATIENCE);
            let producer = client.and_then(|client| {
                Ok(client.producer(ferrolog::client::ProducerOptions::default())?)
            });
            let lane = Lane {
                number,
                in_flight_max: 1 + 16 * number,
                padding,
                origin,
                acked: Arc::clone(acked),
                appends: Vec::new(),
                waiting: VecDeque::new(),
            };
            tokio::spawn(lane.run(producer.expect("a producer"), stopped.clone()))
        };
        let producers = acked.iter().enumerate().map(run).collect();
        Self {
            origin,
            stop,
            acked,
            producers,
        }
    }

    /// Waits until each producer has so many more records acknowledged than now.
    pub async fn progress(&self, more: u64) {
        let count = |acked: &Arc<AtomicU64>| acked.load(Ordering::Relaxed);
        let before: Vec<_> = self.acked.iter().map(count).collect();
        let moved = || {
            let mut pairs = self.acked.iter().zip(&before);
            pairs.all(|(acked, before)| count(acked) >= before + more)
        };
        let what = format!("each producer has {more} records more acknowledged");
        until(&what, async || moved().then_some(())).await;
    }

    /// Waits until so many records more are acknowledged, of whichever producers.
    pub async fn progress_of_any(&self, more: u64) {
        let count = || -> u64 {
            let acked = self.acked.iter();
            acked.map(|acked| acked.load(Ordering::Relaxed)).sum()
        };
        let before = count();
        let what = format!("{more} records more are acknowledged");
        until(&what, async || (count() >= before + more).then_some(())).await;
    }

    /// Now, as the history tells time.
    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Nothing more is sent; what was is still waited for.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Ends the load and waits for all answers: a producer that gives up is a fault of the cluster.
    pub async fn finish(self) -> History {
        self.stop();
        let ended = future::join_all(self.producers).await;
        let ended = ended.into_iter().map(|appends| appends.expect("a lane"));
        History {
            appends: ended.flatten().collect(),
            reads: Vec::new(),
        }
    }
}

/// One producer at work.
struct Lane {
    number: usize,
    in_flight_max: usize,
    padding: [usize; 5],
    origin: Instant,
    acked: Arc<AtomicU64>,
    appends: Vec<Append>,
    waiting: VecDeque<Ack>,
}

impl Lane {
    async fn run(mut self, producer: Producer, stopped: watch::Receiver<bool>) -> Vec<Append> {
        let mut paces = tokio::time::interval(PACE);
        while !*stopped.borrow() {
            if self.waiting.len() >= self.in_flight_max {
                self.take_answer().await;
                continue;
            }
            // Between two sends answers are taken as they come, so that their times are true.
            tokio::select! {
                biased;
                _ = paces.tick(), if self.number > 0 => {}
                () = self.take_answer(), if !self.waiting.is_empty() => continue,
                else => {}
            }
            self.send(&producer).await;
        }
        while !self.waiting.is_empty() {
            self.take_answer().await;
        }
        let stats = producer.finish().await.expect("a producer that ends well");
        assert_eq!(stats.acknowledged, self.appends.len() as u64);
        self.appends
    }

    async fn send(&mut self, producer: &Producer) {
        let seq = self.appends.len() as u64;
        let mut value = format!("p{}-{seq}-", self.number).into_bytes();
        let padding = self.padding[seq as usize % self.padding.len()];
        value.resize(value.len() + padding, b'.');
        let value = Bytes::from(value);
        let now = self.origin.elapsed();
        self.appends.push(Append {
            producer: u32::try_from(self.number).expect("few producers"),
            seq,
            hash: checker::hash(&value),
            begin: now,
            end: now,
            outcome: Outcome::Unknown,
        });
        let ack = producer.send(value).await.expect("a producer that goes on");
        self.waiting.push_back(ack);
    }

    /// Waits for the oldest answer. Dropping the future loses no answer.
    async fn take_answer(&mut self) {
        let Some(oldest) = self.waiting.front_mut() else {
            return;
        };
        let offset = oldest.await.expect("an acknowledgement");
        let at = self.appends.len() - self.waiting.len();
        self.appends[at].outcome = Outcome::Acked(offset);
        self.appends[at].end = self.origin.elapsed();
        self.waiting.pop_front();
        self.acked.fetch_add(1, Ordering::Relaxed);
    }
}

impl History {
    /// The longest time without any acknowledgement, and without one for some single producer, in this span:
    /// from the last one before it, up to its end.
    pub fn longest_gaps(&self, from: Duration, to: Duration) -> (Duration, Duration) {
        let producers = self.appends.iter().map(|append| append.producer).max();
        let all = longest_gap(self.acks(None), from, to);
        let worst = (0..=producers.unwrap_or(0))
            .map(|producer| longest_gap(self.acks(Some(producer)), from, to))
            .max();
        (all, worst.unwrap_or_default())
    }

    fn acks(&self, producer: Option<u32>) -> Vec<Duration> {
        let of = |append: &&Append| producer.is_none_or(|producer| append.producer == producer);
        let acked = |append: &&Append| matches!(append.outcome, Outcome::Acked(_));
        let acks = self.appends.iter().filter(of).filter(acked);
        acks.map(|append| append.end).collect()
    }

    /// Checks a log that was trimmed: `before` is what each node told from offset 0 on before the trim, at least
    /// up to `first`, where the log begins now.
    pub async fn check_trimmed(
        &self,
        stage: &Stage,
        before: Vec<NodeLog>,
        first: u64,
    ) -> Result<Report, Vec<Violation>> {
        let mut logs = before;
        for (place, log) in logs.iter_mut().enumerate() {
            log.entries.retain(|entry| entry.offset < first);
            let start = Start::Offset(first);
            let rest = stage.read_from(place, start, Consistency::Strong).await;
            log.entries.extend(rest.iter().map(Entry::of));
        }
        checker::check(self, &FinalLogs(logs))
    }

    /// Reads the log from these nodes and checks it.
    pub async fn check(&self, stage: &Stage, places: &[usize]) -> Result<Report, Vec<Violation>> {
        let mut logs = Vec::new();
        for &place in places {
            let records = stage.read_all(place, Consistency::Strong).await;
            logs.push(NodeLog::whole(stage.cluster.name(place), &records));
        }
        checker::check(self, &FinalLogs(logs))
    }

    /// Reads the log from every node and checks it; panics with the first violations.
    pub async fn assert_sound(&self, stage: &Stage) {
        let places: Vec<_> = (0..stage.cluster.node_count()).collect();
        let checked = self.check(stage, &places).await;
        let report = checked.unwrap_or_else(|found| panic!("{}", checker::shown(&found)));
        let acked = self.acked();
        assert_eq!(acked, self.appends.len(), "every producer waited for all");
        println!("{acked} acknowledged records, 0 violations; checked: {report}");
    }
}

/// The longest silence from the last acknowledgement before `from` up to `to`.
pub fn longest_gap(mut acks: Vec<Duration>, from: Duration, to: Duration) -> Duration {
    acks.sort();
    let first = acks.partition_point(|at| *at <= from);
    let last = acks.partition_point(|at| *at < to);
    let before = first.checked_sub(1).map_or(from, |i| acks[i]);
    let mut inside = acks[first..last.max(first)].to_vec();
    inside.insert(0, before);
    // Silence up to the end is a gap too; what comes after it belongs to the next span.
    inside.push(to);
    let gaps = inside.windows(2).map(|pair| pair[1] - pair[0]);
    gaps.max().unwrap_or_default()
}
