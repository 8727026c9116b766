//! What a table costs that is kept in a log which is compacted by key: how many records are kept of each key, what the
//! nodes' memory comes to meanwhile, and how long a new reader takes for all of it. What is read is held against a plain
//! map of what was written.

mod report;

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use tokio::time::{Instant, interval, sleep, timeout};

use super::load::{SILENCE_MAX, rate};
use crate::batch::Record;
use crate::cli::output::say;
use crate::cli::tools::local_cluster::LocalCluster;
use crate::client::{
    AppenderOptions, Client, Compaction, ConsumeOptions, Consumer, LogSettings, ProducerOptions,
};

/// Records of a batch that is appended.
const BATCH_RECORDS: u64 = 100;
/// The least that a value has: the number of its update.
const NUMBER_BYTES: usize = 8;
/// Between two looks at the nodes' memory.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// The nodes are at rest once they have had nothing to look for and nothing to rewrite for so long.
const REST: Duration = Duration::from_secs(5);
const REST_MAX: Duration = Duration::from_secs(900);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The table that is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) keys: u64,
    /// How often each key is set, on average.
    pub(super) updates: u64,
    /// The bytes of a value.
    pub(super) value_bytes: usize,
}

/// What the table came to once the nodes were at rest.
#[derive(Debug)]
struct Settled {
    /// Since the last record was appended, or somebody asked.
    after: Duration,
    records: u64,
    /// What the segments took on each node.
    segment_bytes: Vec<u64>,
    /// How long a new reader took for all of it.
    read: Duration,
}

/// What was measured.
#[derive(Debug)]
pub(super) struct Outcome {
    shape: Shape,
    written: u64,
    per_second: f64,
    /// By themselves, and once somebody asked for it.
    settled: Settled,
    asked: Settled,
    memory: Vec<Phase>,
}

/// The most resident memory that each node had while something was done, in MiB.
#[derive(Debug, Clone)]
struct Phase {
    what: &'static str,
    peak_mib: Vec<f64>,
}

/// Which phase it is, and those before it.
type Phases = RefCell<Vec<Phase>>;

/// Measures a table on these nodes, and holds what every node has of it against a plain map.
pub(super) async fn measure(
    cluster: &LocalCluster,
    client: &Client,
    shape: Shape,
) -> anyhow::Result<Outcome> {
    let phases = Phases::default();
    let mut outcome = tokio::select! {
        measured = measured((cluster, client), shape, &phases) => measured?,
        failed = watch(cluster, &phases) => return Err(failed),
    };
    outcome.memory = phases.take();
    Ok(outcome)
}

/// Begins a phase.
fn begin(phases: &Phases, what: &'static str) {
    say(what);
    phases.borrow_mut().push(Phase {
        what,
        peak_mib: Vec::new(),
    });
}

/// Takes note of the nodes' memory until it cannot.
async fn watch(cluster: &LocalCluster, phases: &Phases) -> anyhow::Error {
    let mut ticks = interval(WATCH_EVERY);
    loop {
        ticks.tick().await;
        let now = match cluster.resident_mib() {
            Ok(now) => now,
            Err(error) => return error,
        };
        if let Some(phase) = phases.borrow_mut().last_mut() {
            phase.peak_mib.resize(now.len(), 0.0);
            for (peak, now) in phase.peak_mib.iter_mut().zip(now) {
                *peak = now.max(*peak);
            }
        }
    }
}

async fn measured(
    (cluster, client): (&LocalCluster, &Client),
    shape: Shape,
    phases: &Phases,
) -> anyhow::Result<Outcome> {
    let name = format!("bench-{:016x}", crate::env::random_u64());
    let settings = LogSettings {
        compaction: Some(Compaction::default()),
        ..LogSettings::default()
    };
    let admin = client.admin();
    let log = admin.create_log(&name, settings).await?;
    begin(phases, "keys are set at random");
    let began = Instant::now();
    let client = client.log(&name);
    let mut work = Work {
        cluster,
        shape,
        values: write(&client, shape).await?,
        client,
        phases,
    };
    let written = shape.keys * shape.updates;
    let per_second = rate(written, began.elapsed());
    begin(phases, "the nodes come to rest");
    let settled = work.settled().await?;
    begin(phases, "all is compacted, as was asked");
    admin.compact_log(&name).await?;
    let asked = work.settled().await?;
    admin.delete_log(&name, log.id).await?;
    Ok(Outcome {
        shape,
        written,
        per_second,
        settled,
        asked,
        memory: Vec::new(),
    })
}

/// A table that is kept on some nodes.
struct Work<'a> {
    cluster: &'a LocalCluster,
    client: Client,
    shape: Shape,
    phases: &'a Phases,
    /// The plain map: the number of each key's last update.
    values: Vec<u64>,
}

fn record(key: u64, number: u64, shape: Shape) -> Record {
    let mut value = vec![b'x'; shape.value_bytes.max(NUMBER_BYTES)];
    value[..NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
    Record {
        key: Some(key_of(key)),
        value: value.into(),
        ..Record::default()
    }
}

fn key_of(key: u64) -> Bytes {
    format!("key-{key:09}").into()
}

fn key_from(key: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(key).ok()?.strip_prefix("key-")?;
    digits.parse().ok()
}

/// Sets keys at random; gives what each was set to last.
async fn write(client: &Client, shape: Shape) -> anyhow::Result<Vec<u64>> {
    let places = usize::try_from(shape.keys).context("too many keys")?;
    let mut values = vec![0; places];
    let producer = client.producer(ProducerOptions::default())?;
    let all = shape.keys * shape.updates;
    let mut number = 0;
    while number < all {
        let mut records = Vec::with_capacity(BATCH_RECORDS as usize);
        for _ in 0..BATCH_RECORDS.min(all - number) {
            number += 1;
            // Each key is there: the first round sets them in turn.
            let key = match number <= shape.keys {
                true => number - 1,
                false => crate::env::random_u64() % shape.keys,
            };
            values[key as usize] = number;
            records.push(record(key, number, shape));
        }
        producer.send_batch(records).await.context("set keys")?;
    }
    producer.finish().await.context("set keys")?;
    Ok(values)
}

/// Waits until the nodes have nothing to look for and nothing to rewrite: how long that took, and what the segments take on
/// each node.
pub(super) async fn at_rest(
    cluster: &LocalCluster,
    client: &Client,
) -> anyhow::Result<(Duration, Vec<u64>)> {
    let admin = client.admin();
    let began = Instant::now();
    let (mut before, mut since) = (Vec::new(), began);
    loop {
        let mut now = Vec::new();
        for addr in cluster.addrs() {
            let status = admin.status(Some(&addr)).await?;
            let left = status.rewriting.unwrap_or_default();
            let is_busy = left.due > 0 || left.asked || left.looked_percent.is_some();
            now.push((status.segment_bytes, status.segments, is_busy));
        }
        if now != before || now.iter().any(|(.., is_busy)| *is_busy) {
            (before, since) = (now, Instant::now());
        } else if since.elapsed() >= REST {
            let bytes = before.into_iter().map(|(bytes, ..)| bytes).collect();
            return Ok((since - began, bytes));
        }
        ensure!(began.elapsed() < REST_MAX, "the nodes do not come to rest");
        sleep(LOOK_EVERY).await;
    }
}

impl Work<'_> {
    /// Waits until the nodes are at rest, and reads the table on each: all have the same records, and the last one of each
    /// key is what it was set to.
    async fn settled(&mut self) -> anyhow::Result<Settled> {
        let (after, segment_bytes) = at_rest(self.cluster, &self.client).await?;
        begin(self.phases, "each node's table is read");
        let (mut of_first, mut read) = (None, Duration::ZERO);
        for place in 0..self.cluster.node_count() {
            let name = self.cluster.name(place).to_owned();
            let seen = self.read_on(place).await;
            let seen = seen.with_context(|| format!("read the table on {name}"))?;
            read = seen.took.max(read);
            ensure!(
                seen.values == self.values,
                "{name} has other values than were set"
            );
            let first = of_first.get_or_insert_with(|| seen.records.clone());
            ensure!(
                *first == seen.records,
                "{name} has other records than the first"
            );
        }
        self.follow().await?;
        Ok(Settled {
            after,
            records: of_first.map_or(0, |records| records.len() as u64),
            segment_bytes,
            read,
        })
    }

    /// Reads all that a node has.
    async fn read_on(&self, place: usize) -> anyhow::Result<Seen> {
        let began = Instant::now();
        let mut consumer = self.client.consume(ConsumeOptions {
            server: Some(self.cluster.addr(place).to_owned()),
            ..ConsumeOptions::default()
        })?;
        let mut seen = Seen {
            values: vec![0; self.values.len()],
            records: Vec::new(),
            took: Duration::ZERO,
        };
        while let Some((offset, key, number)) = next(&mut consumer).await? {
            let value = seen.values.get_mut(key).context("a key that nobody set")?;
            *value = number;
            seen.records.push((offset, number));
        }
        seen.took = began.elapsed();
        Ok(seen)
    }

    /// A new reader that has read all of it gets what comes after.
    async fn follow(&mut self) -> anyhow::Result<()> {
        let mut consumer = self.client.consume(ConsumeOptions {
            follow: true,
            ..ConsumeOptions::default()
        })?;
        let last = self.values.iter().copied().max().unwrap_or(0);
        while let Some((_, _, number)) = next(&mut consumer).await? {
            if number == last {
                break;
            }
        }
        let mut appender = self.client.appender(AppenderOptions::default())?;
        let update = record(0, last + 1, self.shape);
        appender.append(vec![update]).await?;
        appender.close().await;
        self.values[0] = last + 1;
        let came = next(&mut consumer).await?;
        let came = came.map(|(_, key, number)| (key, number));
        ensure!(
            came == Some((0, last + 1)),
            "a reader that follows got {came:?}"
        );
        Ok(())
    }
}

/// What a node has of the table.
struct Seen {
    values: Vec<u64>,
    /// Each record's offset, and the number of its update.
    records: Vec<(u64, u64)>,
    took: Duration,
}

/// The next record: its offset, its key's place, and the number of its update.
async fn next(consumer: &mut Consumer) -> anyhow::Result<Option<(u64, usize, u64)>> {
    let next = timeout(SILENCE_MAX, consumer.next()).await;
    let next = next.context("the consume stream is stuck")?;
    let Some(consumed) = next.transpose()? else {
        return Ok(None);
    };
    let number = consumed.record.value.first_chunk().copied();
    let number = u64::from_le_bytes(number.context("a value that nobody set")?);
    let key = consumed.record.key.as_deref().and_then(key_from);
    Ok(Some((
        consumed.offset,
        key.context("a key that nobody set")?,
        number,
    )))
}
