//! `ferrolog bench`: measures a cluster, its own or a given one.
//!
//! Each row runs several times, and the median counts. Every acknowledgement comes after the sync on a
//! majority, because there is no other kind.

mod figures;
mod load;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use serde_json::{Value, json};

use super::connection::ConnectionArgs;
use super::dev::scratch_dir;
use super::local_cluster::{LocalCluster, LocalClusterOptions};
use super::output::{grouped, print, table};
use super::{Format, files};
use crate::client::Client;
use crate::net::stream_layer::StreamLayer;
use crate::proto::v1::GetStatusResponse;
use figures::{Row, Run, spread};
use load::Target;

const TIMEOUT: Duration = Duration::from_secs(60);
/// What reads, memory and disk are measured over.
const RECORDS_FOR_READS: u64 = 1_000_000;

const HELP: &str = "\
Without --servers it starts three nodes of its own on this machine, in plaintext unless --tls is given, and
measures their memory and disk too.

Rows:
  unary1, unary64, unary1024        single calls to the leader, so many in flight
  stream1024                        one produce stream to the leader, 1024 records in flight
  consume-leader, consume-follower  one consume stream over a million records
  nodes                             disk bytes per record byte, memory per node (own nodes only)

Examples:
  ferrolog bench
  ferrolog bench --rows unary64,stream1024 --runs 5 --tls
  ferrolog bench --servers n1:8400,n2:8400,n3:8400 --insecure --rows unary64 --output json";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// How often each row runs; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// How long a run of a produce row is
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = RowName::ALL)]
    rows: Vec<RowName>,
    /// The bytes of a record
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=4 * 1024 * 1024))]
    size: u32,
    /// Own nodes speak mutual TLS
    #[arg(long, conflicts_with = "servers")]
    tls: bool,
    /// Where own nodes keep their data [default: a temporary directory]
    #[arg(long, value_name = "DIR", conflicts_with = "servers")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RowName {
    Unary1,
    Unary64,
    Unary1024,
    Stream1024,
    ConsumeLeader,
    ConsumeFollower,
    Nodes,
}

impl RowName {
    const ALL: [Self; 7] = [
        Self::Unary1,
        Self::Unary64,
        Self::Unary1024,
        Self::Stream1024,
        Self::ConsumeLeader,
        Self::ConsumeFollower,
        Self::Nodes,
    ];

    /// Whether the row needs a filled log.
    fn reads(self) -> bool {
        matches!(
            self,
            Self::ConsumeLeader | Self::ConsumeFollower | Self::Nodes
        )
    }
}

/// A cluster under measurement, and how to reach it.
struct Bench {
    client: Client,
    stream_layer: StreamLayer,
    value: Bytes,
    runs: u32,
    length: Duration,
}

/// What the nodes took after all rows.
struct NodeFigures {
    records: u64,
    disk_per_record_byte: Vec<f64>,
    resident_mib: Vec<f64>,
}

pub(super) async fn run(args: BenchArgs, format: Format) -> anyhow::Result<()> {
    let has_servers = !args.connection.servers.is_empty();
    // Outlives the cluster: the nodes write into it until they have stopped.
    let (dir, _temporary) = scratch_dir(args.dir.clone(), "bench")?;
    let cluster = match has_servers {
        true => None,
        false => {
            let binary = std::env::current_exe().context("find this program's own path")?;
            let mut options = LocalClusterOptions::new(binary, dir);
            options.tls = args.tls;
            Some(LocalCluster::start(options).await?)
        }
    };
    let (client, stream_layer) = match &cluster {
        Some(cluster) => (cluster.client(TIMEOUT)?, cluster.stream_layer()?),
        None => (
            args.connection.client(None)?,
            args.connection.stream_layer()?,
        ),
    };
    let bench = Bench {
        client,
        stream_layer,
        value: Bytes::from(vec![b'x'; args.size as usize]),
        runs: args.runs,
        length: Duration::from_secs(args.seconds),
    };

    let outcome = bench.all(&args.rows, cluster.as_ref()).await;
    if let Some(cluster) = cluster {
        cluster.stop().await?;
    }
    let (rows, nodes) = outcome?;
    let shown = match format {
        Format::Text => report_text(&args, &rows, nodes.as_ref()),
        Format::Json => report_json(&args, &rows, nodes.as_ref()).to_string(),
    };
    print(&shown).context("write to standard output")
}

impl Bench {
    async fn all(
        &self,
        names: &[RowName],
        cluster: Option<&LocalCluster>,
    ) -> anyhow::Result<(Vec<Row>, Option<NodeFigures>)> {
        let mut rows = Vec::new();
        // Reads last, whatever the order asked for: the rows before them fill the log.
        let writes = names.iter().filter(|name| !name.reads());
        for &name in writes.chain(names.iter().filter(|name| name.reads())) {
            if name.reads() {
                self.fill().await?;
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
            RowName::ConsumeLeader => ("consume-leader", "consume stream, leader".to_owned()),
            RowName::ConsumeFollower => ("consume-follower", "consume stream, follower".to_owned()),
            RowName::Nodes => return Ok(None),
        };
        let mut runs = Vec::new();
        for number in 1..=self.runs {
            eprintln!("{label}: run {number} of {}", self.runs);
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
            RowName::ConsumeLeader => self.leader().await?.consume(RECORDS_FOR_READS).await,
            RowName::ConsumeFollower => self.follower().await?.consume(RECORDS_FOR_READS).await,
            RowName::Nodes => Ok(Run::default()),
        }
    }

    /// Tops the log up to what the reads need.
    async fn fill(&self) -> anyhow::Result<()> {
        let present = self.client.status(None).await?.next_offset;
        if present < RECORDS_FOR_READS {
            eprintln!(
                "filling the log up to {} records",
                grouped(RECORDS_FOR_READS)
            );
            self.leader()
                .await?
                .stream_count(RECORDS_FOR_READS - present)
                .await?;
        }
        Ok(())
    }

    async fn leader(&self) -> anyhow::Result<Target> {
        let status = self.client.status(None).await?;
        let leader = status.nodes.iter().find(|node| node.is_leader);
        self.target(
            leader
                .context("the cluster has no leader; see `ferrolog cluster status`")?
                .addr
                .clone(),
        )
    }

    async fn follower(&self) -> anyhow::Result<Target> {
        let status: GetStatusResponse = self.client.status(None).await?;
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
        let records = self.client.status(None).await?.next_offset;
        let record_bytes = records * self.value.len().max(1) as u64;
        ensure!(record_bytes > 0, "the log is empty");
        let mut figures = NodeFigures {
            records,
            disk_per_record_byte: Vec::new(),
            resident_mib: Vec::new(),
        };
        for place in 0..cluster.node_count() {
            figures
                .disk_per_record_byte
                .push(cluster.disk_bytes(place)? as f64 / record_bytes as f64);
            figures
                .resident_mib
                .push(cluster.resident_bytes(place)? as f64 / (1024.0 * 1024.0));
        }
        Ok(figures)
    }
}

fn report_text(args: &BenchArgs, rows: &[Row], nodes: Option<&NodeFigures>) -> String {
    let head = ["WORK", "PER SECOND", "RANGE", "P50 MS", "P99 MS"]
        .map(str::to_owned)
        .to_vec();
    let cells: Vec<_> = [head]
        .into_iter()
        .chain(rows.iter().map(Row::cells))
        .collect();
    let mut text = format!("{}\n{}", setting(args), files::machine());
    if !rows.is_empty() {
        text = format!("{text}\n\n{}", table(&cells));
    }
    let range = |values: &[f64]| spread(values.iter().copied()).unwrap_or_default();
    if let Some(nodes) = nodes {
        let (disk_low, disk, disk_high) = range(&nodes.disk_per_record_byte);
        let (mib_low, mib, mib_high) = range(&nodes.resident_mib);
        text = format!(
            "{text}\n\nafter {} records, per node:\n  disk bytes per record byte  {disk:.2} ({disk_low:.2} to \
             {disk_high:.2}), preallocated space counted\n  resident memory             {mib:.0} MiB \
             ({mib_low:.0} to {mib_high:.0})",
            grouped(nodes.records)
        );
    }
    text
}

fn setting(args: &BenchArgs) -> String {
    let cluster = match (args.connection.servers.is_empty(), args.tls) {
        (false, _) => format!("servers {}", args.connection.servers.join(",")),
        (true, true) => "three local nodes over mutual TLS".to_owned(),
        (true, false) => "three local nodes in plaintext".to_owned(),
    };
    format!(
        "{cluster}, records of {} bytes, medians of {} runs",
        args.size, args.runs
    )
}

fn report_json(args: &BenchArgs, rows: &[Row], nodes: Option<&NodeFigures>) -> Value {
    json!({
        "machine": files::machine(),
        "setting": setting(args),
        "record_bytes": args.size,
        "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
        "nodes": nodes.map(|nodes| json!({
            "records": nodes.records,
            "disk_bytes_per_record_byte": nodes.disk_per_record_byte,
            "resident_mib": nodes.resident_mib,
        })),
    })
}
