//! What many logs cost beside ten million records: in a checkpoint, on the way to a new node, and as room that comes
//! back once half of them are deleted.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures::{StreamExt, stream};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::load::batches::{self, Load};
use super::load::rate;
use super::many::{CHANGES_IN_FLIGHT, Logs, READ_BATCH_RECORDS};
use super::{Bench, LocalCluster, TIMEOUT, table};
use crate::batch::Record;
use crate::cli::output::{counted, grouped, say, size};
use crate::client::{Producer, ProducerOptions};

/// Records before anything is measured: in the default log, or in all logs together.
const RECORDS: u64 = 10_000_000;
/// Given up before the new node joins, so that it gets a snapshot and not every entry: more segments than are made
/// meanwhile.
const TRIMMED: u64 = RECORDS / 2;
/// Logs that are appended to before the checkpoint.
const TOUCHED: usize = 10;
/// A checkpoint is due after some bytes: so many batches of this size are appended between two looks for one.
const TOUCH_BATCHES: u64 = 20;
const TOUCH_RECORD_BYTES: usize = 4096;
const TOUCHES_MAX: u32 = 20;
/// Records that go on while the new node joins.
const PER_SECOND: u32 = 5000;
const TICK: Duration = Duration::from_millis(20);
const JOIN_MAX: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(250);

const CHECKPOINTS: &str = "ferrolog_checkpoints_total";
const WRITTEN: &str = "ferrolog_state_written_bytes_total";
/// Logs that are read, one after the other, before and after.
const READ: usize = 200;
/// Room counts as back once what full segments take has come down to this part, in hundredths.
const BACK_PERCENT: u64 = 60;
/// How long it may take.
const BACK_MAX: Duration = Duration::from_secs(300);

const SEGMENTS: &str = "ferrolog_segments";
const SEGMENT_BYTES: &str = "ferrolog_segment_bytes";
const SNAPSHOTS_TAKEN: &str = "ferrolog_snapshots_total{direction=\"taken\"}";

/// What was measured.
pub(super) struct Idle {
    /// What a checkpoint wrote on the leader, after ten of the logs were appended to.
    pub(super) checkpoint_bytes: u64,
    /// From a new node's start until it votes.
    pub(super) joined: Duration,
    /// Meanwhile: records that were acknowledged, the longest time without any, and how often the term changed.
    pub(super) per_second: f64,
    pub(super) longest_gap: Duration,
    pub(super) term_changes: u64,
    /// Resident memory of each node after that, the new one last.
    pub(super) resident_mib: Vec<f64>,
}

/// What was measured of room that comes back.
pub(super) struct Room {
    pub(super) records: u64,
    /// What the segments of a node took beside those that were there before, filled and in the end.
    pub(super) filled_bytes: u64,
    pub(super) left_bytes: u64,
    /// From the deletion's end until it was back on all nodes.
    pub(super) back: Duration,
    /// What a reader of one log after the other comes to, before and after.
    pub(super) read_before: ReadRates,
    pub(super) read_after: ReadRates,
}

/// Records a second: from the disk, and then once more, from what the system keeps in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadRates {
    pub(super) from_disk: f64,
    pub(super) from_memory: f64,
}

impl Bench {
    /// Appends the records that stand beside the logs.
    pub(super) async fn fill_beside(&self) -> anyhow::Result<()> {
        say(&format!("appending {} records", grouped(RECORDS)));
        let log = batches::default_log();
        let load = Load::new(&log, batches::BATCH_RECORDS, batches::READ_RECORD_BYTES, 0);
        let count = RECORDS / u64::from(batches::BATCH_RECORDS);
        self.leader().await?.batches_count(load, count).await
    }

    /// Measures a checkpoint, and then a new node.
    pub(super) async fn idle(
        &self,
        cluster: &mut LocalCluster,
        logs: &Logs,
    ) -> anyhow::Result<Idle> {
        let leader = cluster.leader(TIMEOUT).await?;
        say("appending to ten logs until a checkpoint is saved");
        // The first one saves what went before.
        self.checkpoint(cluster, leader, logs).await?;
        let checkpoint_bytes = self.checkpoint(cluster, leader, logs).await?;
        say(&format!("it wrote {} bytes", grouped(checkpoint_bytes)));

        let segments = cluster.told(leader, SEGMENTS).await?;
        self.client.admin().trim(TRIMMED).await.context("trim")?;
        let began = Instant::now();
        while cluster.told(leader, SEGMENTS).await? >= segments {
            ensure!(began.elapsed() < TIMEOUT, "no segment was given up");
            sleep(LOOK_EVERY).await;
        }

        let term = self.term().await?;
        let producer = self.client.producer(ProducerOptions::default())?;
        let began = Instant::now();
        let joined = tokio::select! {
            joined = self.join(cluster) => joined?,
            failed = steadily(&producer) => return Err(failed),
        };
        let stats = producer.finish().await.context("append meanwhile")?;
        let per_second = rate(stats.acknowledged, began.elapsed());
        Ok(Idle {
            checkpoint_bytes,
            joined,
            per_second,
            longest_gap: stats.longest_gap,
            term_changes: self.term().await? - term,
            resident_mib: cluster.resident_mib()?,
        })
    }

    /// Appends to a few logs until the leader saved a checkpoint; the bytes that it wrote for that.
    async fn checkpoint(
        &self,
        cluster: &LocalCluster,
        leader: usize,
        logs: &Logs,
    ) -> anyhow::Result<u64> {
        // Far from each other: side by side their rows would stand in one page.
        let apart = (logs.all.len() / TOUCHED).max(1);
        let touched = logs.all.iter().step_by(apart).take(TOUCHED);
        let touched: Arc<[String]> = touched.cloned().collect();
        let (saved, written) = at_rest(cluster, leader).await?;
        for _ in 0..TOUCHES_MAX {
            let load = Load::new(&touched, batches::BATCH_RECORDS, TOUCH_RECORD_BYTES, 0);
            let target = self.target(cluster.addr(leader).to_owned())?;
            target.batches_count(load, TOUCH_BATCHES).await?;
            let (now_saved, now_written) = at_rest(cluster, leader).await?;
            if now_saved > saved {
                return Ok((now_written - written) / (now_saved - saved));
            }
        }
        bail!("no checkpoint was saved; see the nodes' logs")
    }

    async fn join(&self, cluster: &mut LocalCluster) -> anyhow::Result<Duration> {
        let name = cluster.next_name();
        say(&format!(
            "{name} joins while {PER_SECOND} records a second go on"
        ));
        self.client.admin().allow(&name).await?;
        let began = Instant::now();
        let place = cluster.add().await?;
        cluster.wait_ready(JOIN_MAX).await?;
        let joined = began.elapsed();
        let taken = cluster.told(place, SNAPSHOTS_TAKEN).await?;
        ensure!(taken > 0, "{name} got every entry and no snapshot");
        Ok(joined)
    }

    /// Fills the logs, deletes half of them, and gives those that stay.
    pub(super) async fn room(
        &self,
        cluster: &LocalCluster,
        logs: &Logs,
    ) -> anyhow::Result<(Room, Logs)> {
        let empty = self.segment_bytes(cluster).await?;
        let of_each = RECORDS / u64::from(READ_BATCH_RECORDS) / logs.all.len() as u64;
        let batches = of_each.max(1) * logs.all.len() as u64;
        let records = batches * u64::from(READ_BATCH_RECORDS);
        say(&format!(
            "appending {} records to the logs",
            grouped(records)
        ));
        let load = Load::new(&logs.all, READ_BATCH_RECORDS, batches::READ_RECORD_BYTES, 0);
        self.leader().await?.batches_count(load, batches).await?;
        let filled = self.segment_bytes(cluster).await?.saturating_sub(empty);

        let (gone, stay) = logs.halves();
        let of_log = records / logs.all.len() as u64;
        let read = &stay.all[..READ.min(stay.all.len())];
        let spans = vec![(0, of_log); read.len()];
        let read_before = self.read_twice(cluster, read, &spans).await?;
        let what = counted(gone.all.len() as u64, "log", "logs");
        say(&format!(
            "deleting {what}, whose records stand among the others'"
        ));
        self.delete(&gone).await?;
        let began = Instant::now();
        let left = loop {
            let left = self.segment_bytes(cluster).await?.saturating_sub(empty);
            if left <= filled * BACK_PERCENT / 100 {
                break left;
            }
            ensure!(
                began.elapsed() < BACK_MAX,
                "the room did not come back: segments take {} of {} still; see the nodes' logs",
                size(left),
                size(filled)
            );
            sleep(LOOK_EVERY).await;
        };
        let back = began.elapsed();
        table::at_rest(cluster, &self.client).await?;
        let room = Room {
            records,
            filled_bytes: filled,
            left_bytes: left,
            back,
            read_before,
            read_after: self.read_twice(cluster, read, &spans).await?,
        };
        Ok((room, stay))
    }

    async fn read_twice(
        &self,
        cluster: &LocalCluster,
        logs: &[String],
        spans: &[(u64, u64)],
    ) -> anyhow::Result<ReadRates> {
        let leader = self.leader().await?.addr;
        let place = (0..cluster.node_count()).find(|place| cluster.addr(*place) == leader);
        cluster.forget_cached(place.context("the leader is none of the own nodes")?)?;
        Ok(ReadRates {
            from_disk: self.read_logs(logs, spans).await?,
            from_memory: self.read_logs(logs, spans).await?,
        })
    }

    /// What the segments take on the node that holds the most.
    async fn segment_bytes(&self, cluster: &LocalCluster) -> anyhow::Result<u64> {
        let told = (0..cluster.node_count()).map(|place| cluster.told(place, SEGMENT_BYTES));
        let told: Vec<_> = stream::iter(told)
            .buffered(CHANGES_IN_FLIGHT)
            .collect()
            .await;
        let told: Vec<u64> = told.into_iter().collect::<anyhow::Result<_>>()?;
        Ok(told.into_iter().max().unwrap_or(0))
    }

    async fn term(&self) -> anyhow::Result<u64> {
        Ok(self.client.admin().status(None).await?.term)
    }
}

/// The checkpoints that a node saved, and the bytes that its state made it write, once neither grows.
async fn at_rest(cluster: &LocalCluster, place: usize) -> anyhow::Result<(u64, u64)> {
    let mut before = None;
    loop {
        let saved = cluster.told(place, CHECKPOINTS).await?;
        let now = (saved, cluster.told(place, WRITTEN).await?);
        if before == Some(now) {
            return Ok(now);
        }
        before = Some(now);
        sleep(LOOK_EVERY).await;
    }
}

/// Appends so many records a second until it fails.
async fn steadily(producer: &Producer) -> anyhow::Error {
    let mut ticks = interval(TICK);
    // What a late tick left out is appended behind it.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let record = Record {
        value: vec![b'x'; batches::READ_RECORD_BYTES].into(),
        ..Record::default()
    };
    let each = PER_SECOND as usize * TICK.as_millis() as usize / 1000;
    loop {
        ticks.tick().await;
        if let Err(error) = producer.send_batch(vec![record.clone(); each]).await {
            return anyhow::Error::new(error).context("append meanwhile");
        }
    }
}
