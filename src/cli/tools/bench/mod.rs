//! `ferrolog bench`: measures a cluster, its own or a given one.
//!
//! Each row runs several times, and the median counts. Every acknowledgement comes after the sync on a
//! majority, because there is no other kind.

mod args;
mod beside;
mod expiring;
mod filled;
mod following;
mod load;
mod many;
mod many_report;
mod report;
mod rows;
mod table;
mod together;

use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;

use super::local_cluster::LocalCluster;
use crate::cli::Format;
use crate::cli::files::scratch_dir;
use crate::cli::output::{grouped, print, say};
use crate::client::Client;
use crate::net::stream_layer::StreamLayer;
use crate::proto::v1::GetStatusResponse;
pub(in crate::cli) use args::BenchArgs;
use load::figures::{Row, Run};
use load::{Target, batches};
use rows::RowName;

const TIMEOUT: Duration = Duration::from_secs(60);
/// How many records the log holds before reads, memory and disk are measured.
const RECORDS_FOR_READS: u64 = 1_000_000;

/// A cluster under measurement, and how to reach it.
struct Bench {
    client: Client,
    stream_layer: StreamLayer,
    value: Bytes,
    runs: u32,
    length: Duration,
    /// Where the batches begin that the consume-batch rows read.
    batches_from: Cell<Option<u64>>,
    /// What the batch rows appended: their records have sizes of their own.
    batched: Cell<Batched>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Batched {
    records: u64,
    bytes: u64,
}

/// What the nodes took after all rows.
struct NodeFigures {
    records: u64,
    disk_per_record_byte: Vec<f64>,
    resident_mib: Vec<f64>,
}

pub(in crate::cli) async fn run(args: BenchArgs, format: Format) -> anyhow::Result<()> {
    let has_servers = !args.connection.servers.is_empty();
    // The directory outlives the cluster: the nodes write into it until they have stopped.
    let (dir, _temporary) = scratch_dir(args.dir.clone(), "bench")?;
    if let Some(logs) = args.expiring {
        let shown = expired(&args, logs, dir, format).await?;
        return print(&shown).context("write to standard output");
    }
    let rows = many::rows_of(&args)?;
    let mut cluster = match has_servers {
        true => None,
        false => {
            let options = args.own_nodes(dir)?;
            Some(LocalCluster::start(options).await?)
        }
    };
    let client = match &cluster {
        Some(cluster) => cluster.client(TIMEOUT)?,
        None => args.connection.client(None)?,
    };
    let stream_layer = client.stream_layer().clone();
    let bench = Bench {
        client,
        stream_layer,
        value: Bytes::from(vec![b'x'; args.size as usize]),
        runs: args.runs,
        length: args.seconds,
        batches_from: Cell::new(None),
        batched: Cell::default(),
    };

    let shown = bench.shown(&args, format, &rows, cluster.as_mut()).await;
    if let Some(cluster) = cluster {
        cluster.stop().await?;
    }
    print(&shown?).context("write to standard output")
}

/// Measures logs that forget; what is printed of it.
async fn expired(
    args: &BenchArgs,
    logs: u32,
    dir: PathBuf,
    format: Format,
) -> anyhow::Result<String> {
    let shape = expiring::Shape {
        logs: logs as usize,
        record_bytes: args.size as usize,
        length: args.seconds,
        pairs: args.runs,
        per_second: args.calls_per_second,
    };
    let outcome = expiring::measure(&args.own_nodes(dir)?, shape).await?;
    Ok(report::shown(
        args,
        format,
        || outcome.text(),
        || outcome.json(),
    ))
}

impl Bench {
    /// Measures what was asked for; what is printed of it.
    async fn shown(
        &self,
        args: &BenchArgs,
        format: Format,
        rows: &[RowName],
        cluster: Option<&mut LocalCluster>,
    ) -> anyhow::Result<String> {
        if let (Some(keys), Some(cluster)) = (args.keys, &cluster) {
            let shape = table::Shape {
                keys: keys.into(),
                updates: args.updates.into(),
                value_bytes: args.size as usize,
            };
            let outcome = table::measure(cluster, &self.client, shape).await?;
            return Ok(report::shown(
                args,
                format,
                || outcome.text(),
                || outcome.json(),
            ));
        }
        if let Some(logs) = args.logs {
            let outcome = self.many(logs as usize, rows, cluster).await?;
            return Ok(many_report::shown(args, format, &outcome));
        }
        let (rows, nodes) = self.all(rows, cluster.as_deref()).await?;
        Ok(match format {
            Format::Text => report::text(args, &rows, nodes.as_ref()),
            Format::Json => report::json(args, &rows, nodes.as_ref()).to_string(),
        })
    }

    async fn all(
        &self,
        names: &[RowName],
        cluster: Option<&LocalCluster>,
    ) -> anyhow::Result<(Vec<Row>, Option<NodeFigures>)> {
        let mut rows = Vec::new();
        // Reads last, whatever the order asked for: the rows before them fill the log.
        let mut names_in_turn = names.to_vec();
        names_in_turn.sort_by_key(|name| name.reads());
        for name in names_in_turn {
            if name.reads() {
                self.fill().await?;
            }
            if name.reads_batches() && self.batches_from.get().is_none() {
                self.fill_with_batches().await?;
            }
            if let Some(row) = self
                .row(name)
                .await
                .with_context(|| format!("measure {name:?}"))?
            {
                rows.push(row);
            }
        }
        let nodes = match cluster {
            Some(cluster) if names.contains(&RowName::Nodes) => Some(self.nodes(cluster).await?),
            _ => None,
        };
        Ok((rows, nodes))
    }

    async fn row(&self, name: RowName) -> anyhow::Result<Option<Row>> {
        let (label, what) = match name {
            RowName::Unary1 => ("unary1", "unary produce, 1 in flight".to_owned()),
            RowName::Unary64 => ("unary64", "unary produce, 64 in flight".to_owned()),
            RowName::Unary1024 => ("unary1024", "unary produce, 1024 in flight".to_owned()),
            RowName::Stream1024 => (
                "stream1024",
                format!("streamed produce, window {}", load::WINDOW),
            ),
            RowName::Batch100x100 => ("batch100x100", batches::produced(100)),
            RowName::Batch100x1024 => ("batch100x1024", batches::produced(1024)),
            RowName::ConsumeLeader => ("consume-leader", "consume stream, leader".to_owned()),
            RowName::ConsumeFollower => ("consume-follower", "consume stream, follower".to_owned()),
            RowName::ConsumeBatch => ("consume-batch", batches::consumed("leader")),
            RowName::ConsumeBatchFollower => {
                ("consume-batch-follower", batches::consumed("follower"))
            }
            RowName::Nodes
            | RowName::Together
            | RowName::Prefix
            | RowName::Along
            | RowName::OneByOne
            | RowName::Idle
            | RowName::Room => return Ok(None),
        };
        let mut runs = Vec::new();
        for number in 1..=self.runs {
            say(&format!("{label}: run {number} of {}", self.runs));
            runs.push(self.one_run(name).await?);
        }
        Ok(Some(Row {
            name: label,
            what,
            runs,
        }))
    }

    async fn one_run(&self, name: RowName) -> anyhow::Result<Run> {
        match name {
            RowName::Unary1 => self.leader().await?.unary(1, self.length).await,
            RowName::Unary64 => self.leader().await?.unary(64, self.length).await,
            RowName::Unary1024 => self.leader().await?.unary(1024, self.length).await,
            RowName::Stream1024 => self.leader().await?.stream_for(self.length).await,
            RowName::Batch100x100 => self.write_batches(100).await,
            RowName::Batch100x1024 => self.write_batches(1024).await,
            RowName::ConsumeBatch => self.read_batches(self.leader().await?).await,
            RowName::ConsumeBatchFollower => self.read_batches(self.follower().await?).await,
            RowName::ConsumeLeader => self.leader().await?.consume(RECORDS_FOR_READS).await,
            RowName::ConsumeFollower => self.follower().await?.consume(RECORDS_FOR_READS).await,
            RowName::Nodes
            | RowName::Together
            | RowName::Prefix
            | RowName::Along
            | RowName::OneByOne
            | RowName::Idle
            | RowName::Room => Ok(Run::default()),
        }
    }

    /// Tops the log up to what the reads need.
    async fn fill(&self) -> anyhow::Result<()> {
        let present = self.next_offset().await?;
        if present < RECORDS_FOR_READS {
            let records = grouped(RECORDS_FOR_READS);
            say(&format!("filling the log up to {records} records"));
            self.leader()
                .await?
                .stream_count(RECORDS_FOR_READS - present)
                .await?;
        }
        Ok(())
    }

    /// Appends the batches that the consume-batch rows read, whatever the log holds before.
    async fn fill_with_batches(&self) -> anyhow::Result<()> {
        let from = self.next_offset().await?;
        let records = grouped(RECORDS_FOR_READS);
        say(&format!("appending {records} records in batches"));
        let leader = self.leader().await?;
        let batch_records = batches::BATCH_RECORDS;
        let (log, size) = (batches::default_log(), batches::READ_RECORD_BYTES);
        let load = batches::Load::new(&log, batch_records, size, 0);
        let count = RECORDS_FOR_READS.div_ceil(batch_records.into());
        leader.batches_count(load, count).await?;
        self.batches_from.set(Some(from));
        self.note_batched(from, batches::READ_RECORD_BYTES).await
    }

    async fn write_batches(&self, record_bytes: usize) -> anyhow::Result<Run> {
        let from = self.next_offset().await?;
        let leader = self.leader().await?;
        let run = leader
            .batches_for(&batches::default_log(), record_bytes, self.length)
            .await?;
        self.note_batched(from, record_bytes).await?;
        Ok(run)
    }

    /// Counts what was appended since the log ended at `from`.
    async fn note_batched(&self, from: u64, record_bytes: usize) -> anyhow::Result<()> {
        let records = self.next_offset().await?.saturating_sub(from);
        let before = self.batched.get();
        self.batched.set(Batched {
            records: before.records + records,
            bytes: before.bytes + records * record_bytes as u64,
        });
        Ok(())
    }

    /// Where the log ends, as the leader knows it: a follower may be behind.
    async fn next_offset(&self) -> anyhow::Result<u64> {
        let leader = self.leader().await?;
        let status = self.client.admin().status(Some(&leader.addr)).await?;
        Ok(status.next_offset)
    }

    async fn read_batches(&self, target: Target) -> anyhow::Result<Run> {
        let from = self.batches_from.get().context("there are no batches")?;
        batches::consume(target.channel(), "", from, RECORDS_FOR_READS).await
    }

    async fn leader(&self) -> anyhow::Result<Target> {
        let status = self.client.admin().status(None).await?;
        let leader = status.nodes.iter().find(|node| node.is_leader);
        self.target(
            leader
                .context("the cluster has no leader; see `ferrolog cluster status`")?
                .addr
                .clone(),
        )
    }

    async fn follower(&self) -> anyhow::Result<Target> {
        let status: GetStatusResponse = self.client.admin().status(None).await?;
        let follower = status.nodes.iter().find(|node| !node.is_leader);
        self.target(
            follower
                .context("the cluster has no follower")?
                .addr
                .clone(),
        )
    }

    fn target(&self, addr: String) -> anyhow::Result<Target> {
        Ok(Target {
            stream_layer: self.stream_layer.clone(),
            addr,
            value: self.value.clone(),
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "sizes of fewer than 2^52 bytes")]
    async fn nodes(&self, cluster: &LocalCluster) -> anyhow::Result<NodeFigures> {
        let records = self.next_offset().await?;
        let batched = self.batched.get();
        let single = records.saturating_sub(batched.records);
        let record_bytes = single * self.value.len().max(1) as u64 + batched.bytes;
        ensure!(record_bytes > 0, "the log is empty");
        let mut figures = NodeFigures {
            records,
            disk_per_record_byte: Vec::new(),
            resident_mib: cluster.resident_mib()?,
        };
        for place in 0..cluster.node_count() {
            figures
                .disk_per_record_byte
                .push(cluster.disk_bytes(place)? as f64 / record_bytes as f64);
        }
        Ok(figures)
    }
}
