//! `ferrolog trial`: proves on this machine that nothing is lost when the leader dies.
//!
//! Writes an input into three real nodes, reads it back from a follower, writes it again while the leader is
//! killed, and reads both copies back from another node. Every byte is compared.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::json;
use tokio::time::Instant;

use super::local_cluster::{LocalCluster, LocalClusterOptions, Signal};
use crate::cli::feeder::{Fed, Feeder};
use crate::cli::files::scratch_dir;
use crate::cli::output::{grouped, millis, per_second, print, progress, span, table};
use crate::cli::records::{Delimiter, RecordSource};
use crate::cli::{Format, files};
use crate::client::{Client, Consistency, ConsumeOptions, ProducerOptions, ProducerStats, Start};

const TIMEOUT: Duration = Duration::from_secs(60);
const STRIDE: u64 = 1024;

const HELP: &str = "\
Exits with 0 only if every record came back, in order, once, byte for byte.

Example:
  ferrolog trial --input /usr/share/dict/words";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct TrialArgs {
    /// A text; each of its lines becomes a record
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Keep data, logs and certificates here [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What one pass over the input showed.
struct Pass {
    fed: Fed,
    stats: ProducerStats,
    elapsed: Duration,
    leader: String,
    read_from: String,
    read: u64,
    read_elapsed: Duration,
}

pub(in crate::cli) async fn run(args: TrialArgs, format: Format) -> anyhow::Result<()> {
    ensure!(
        files::input_bytes(&args.input).is_some(),
        "{} is not a plain file, and the trial reads it several times; give one with --input",
        args.input.display()
    );
    // The directory outlives the cluster: the nodes write into it until they have stopped.
    let (dir, _temporary) = scratch_dir(args.dir, "trial")?;
    let binary = std::env::current_exe().context("find this program's own path")?;
    let mut cluster = LocalCluster::start(LocalClusterOptions::new(binary, &dir)).await?;
    let empty = cluster
        .client(TIMEOUT)?
        .admin()
        .status(None)
        .await?
        .next_offset
        == 0;
    ensure!(
        empty,
        "{} holds records of an earlier trial; give an empty --dir",
        dir.display()
    );

    let outcome = both_passes(&mut cluster, &args.input).await;
    let stopped = cluster.stop().await;
    let (first, second) = outcome?;
    stopped?;
    print(&report(&first, &second, format)).context("write to standard output")
}

async fn both_passes(cluster: &mut LocalCluster, input: &Path) -> anyhow::Result<(Pass, Pass)> {
    let leader = cluster.leader(TIMEOUT).await?;
    let written = write(cluster, input, "appending", None).await?;
    check_offsets(&written.fed, 0)?;
    let first = read_elsewhere(cluster, input, written, leader, None).await?;

    let count = first.fed.records;
    let kill = Kill {
        leader,
        after: count / 3,
    };
    let bar = "appending, leader killed on the way";
    let written = write(cluster, input, bar, Some(kill)).await?;
    cluster.wait_exit(leader, TIMEOUT).await?;
    check_offsets(&written.fed, count)?;
    let next = cluster.leader(TIMEOUT).await?;
    let second = read_elsewhere(cluster, input, written, next, Some(leader)).await?;
    Ok((first, second))
}

/// Whom to kill, and when: once so many records are acknowledged.
struct Kill {
    leader: usize,
    after: u64,
}

/// What appending the input came to.
struct Written {
    fed: Fed,
    stats: ProducerStats,
    elapsed: Duration,
}

/// Appends the input, and kills the leader on the way if that is asked.
async fn write(
    cluster: &mut LocalCluster,
    input: &Path,
    what: &'static str,
    mut kill: Option<Kill>,
) -> anyhow::Result<Written> {
    let producer = cluster
        .client(TIMEOUT)?
        .producer(ProducerOptions::default())?;
    let bar = progress(files::input_bytes(input), what);
    let started = Instant::now();
    let mut feeder = Feeder::new(&producer);
    let mut source = RecordSource::split(input, Delimiter::newline())?;
    while let Some(record) = source.next().await? {
        // A short input is sent before a third of it is acknowledged: then wait, so that a part of it meets
        // the dead leader.
        let is_time = |kill: &mut Kill| {
            producer.stats().acknowledged >= kill.after || feeder.fed.records >= 2 * kill.after
        };
        if let Some(kill) = kill.take_if(is_time) {
            feeder.settle_first(kill.after).await?;
            cluster.signal(kill.leader, Signal::KILL)?;
        }
        feeder.send(record).await?;
        if feeder.fed.records.is_multiple_of(STRIDE) {
            bar.set_position(feeder.fed.bytes);
        }
    }
    if let Some(kill) = kill {
        cluster.signal(kill.leader, Signal::KILL)?;
    }
    feeder.settle().await?;
    let (fed, elapsed) = (feeder.fed, started.elapsed());
    bar.finish_and_clear();
    Ok(Written {
        fed,
        stats: producer.finish().await?,
        elapsed,
    })
}

/// Reads all copies of the input back, from a node that neither leads nor is dead.
async fn read_elsewhere(
    cluster: &LocalCluster,
    input: &Path,
    written: Written,
    leader: usize,
    dead: Option<usize>,
) -> anyhow::Result<Pass> {
    let mut nodes = 0..cluster.node_count();
    let reader = nodes.find(|&place| place != leader && Some(place) != dead);
    let reader = reader.context("no other node")?;
    let copies = if dead.is_some() { 2 } else { 1 };
    let (read, read_elapsed) = read_back(cluster, reader, input, copies).await?;
    let expected = copies * written.fed.records;
    ensure!(read == expected, "{read} records came back of {expected}");
    Ok(Pass {
        fed: written.fed,
        stats: written.stats,
        elapsed: written.elapsed,
        leader: cluster.name(leader).to_owned(),
        read_from: cluster.name(reader).to_owned(),
        read,
        read_elapsed,
    })
}

fn check_offsets(fed: &Fed, first: u64) -> anyhow::Result<()> {
    let expected = (fed.records > 0).then(|| (first, first + fed.records - 1));
    let got = fed.offsets();
    ensure!(
        got == expected,
        "the acknowledged offsets are {got:?} where {expected:?} was due"
    );
    Ok(())
}

/// Reads the whole log from one node, strongly, and compares it with so many copies of the input.
async fn read_back(
    cluster: &LocalCluster,
    place: usize,
    input: &Path,
    copies: u64,
) -> anyhow::Result<(u64, Duration)> {
    let client = cluster.client(TIMEOUT)?;
    let server = cluster.addr(place).to_owned();
    let started = Instant::now();
    let read = compare(&client, &server, input, copies)
        .await
        .with_context(|| format!("read back from {} at {server}", cluster.name(place)))?;
    Ok((read, started.elapsed()))
}

async fn compare(client: &Client, server: &str, input: &Path, copies: u64) -> anyhow::Result<u64> {
    let mut consumer = client.consume(ConsumeOptions {
        from: Start::Offset(0),
        consistency: Consistency::Strong,
        server: Some(server.to_owned()),
        ..ConsumeOptions::default()
    })?;
    let bar = progress(None, "reading back");
    let (mut read, mut bytes) = (0, 0);
    for copy in 1..=copies {
        let mut source = RecordSource::split(input, Delimiter::newline())?;
        while let Some(expected) = source.next().await? {
            let Some(record) = consumer.next().await else {
                bail!(
                    "the log ends at offset {read}, within copy {copy} of the input: records are lost"
                );
            };
            let record = record?;
            ensure!(
                record.record.value == expected,
                "offset {} differs from copy {copy} of the input: {} bytes instead of {}",
                record.offset,
                record.record.value.len(),
                expected.len()
            );
            read += 1;
            bytes += expected.len() as u64;
            if read % STRIDE == 0 {
                bar.set_position(bytes);
            }
        }
    }
    bar.finish_and_clear();
    if let Some(more) = consumer.next().await {
        bail!(
            "the log goes on at offset {} after all copies: a record is in it twice",
            more?.offset
        );
    }
    Ok(read)
}

fn report(first: &Pass, second: &Pass, format: Format) -> String {
    let passes = [("healthy", first), ("leader killed", second)];
    if format == Format::Json {
        let passes = passes.map(|(name, pass)| {
            json!({
                "pass": name,
                "records": pass.fed.records,
                "bytes": pass.fed.bytes,
                "records_per_second": per_second(pass.fed.records, pass.elapsed),
                "longest_ack_gap_ms": millis(pass.stats.longest_gap),
                "streams": pass.stats.streams,
                "leader_after": pass.leader,
                "read_from": pass.read_from,
                "records_read": pass.read,
                "records_read_per_second": per_second(pass.read, pass.read_elapsed),
            })
        });
        return json!({ "matched": true, "leader_before": first.leader, "passes": passes })
            .to_string();
    }
    let head = [
        "",
        "records",
        "bytes",
        "records/s",
        "longest ack gap",
        "leader",
        "read from",
        "read",
        "read/s",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let leaders = [
        first.leader.clone(),
        format!("{} > {}", first.leader, second.leader),
    ];
    for ((name, pass), leader) in passes.into_iter().zip(leaders) {
        rows.push(vec![
            name.to_owned(),
            grouped(pass.fed.records),
            grouped(pass.fed.bytes),
            grouped(per_second(pass.fed.records, pass.elapsed)),
            span(pass.stats.longest_gap),
            leader,
            pass.read_from.clone(),
            grouped(pass.read),
            grouped(per_second(pass.read, pass.read_elapsed)),
        ]);
    }
    format!(
        "{}\n\nall records came back, in order, once, byte for byte",
        table(&rows)
    )
}
