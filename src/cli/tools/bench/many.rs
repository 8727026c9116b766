//! The same work over many logs and over one, in turn: what their number costs.
//!
//! All goes through the native API, to logs that are made for the measurement and deleted behind it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;

use super::beside::{Idle, Room};
use super::load::batches;
use super::load::figures::Run;
use super::load::rate;
use super::{Bench, BenchArgs, LocalCluster, RowName, TIMEOUT};
use super::{following, together};
use crate::cli::output::{counted, say};
use crate::client::LogSettings;

/// Logs that are made or deleted at once, by one client.
pub(super) const CHANGES_IN_FLIGHT: usize = 256;
/// The records of a batch that is read back: small ones are what many logs have.
pub(super) const READ_BATCH_RECORDS: u32 = 10;
/// How long the nodes are watched at rest.
const IDLE: Duration = Duration::from_secs(5);

/// The rows that are asked for, or all that there are.
pub(super) fn rows_of(args: &BenchArgs) -> anyhow::Result<Vec<RowName>> {
    let mut rows = args.rows.clone();
    if args.logs.is_none() {
        let is_of_many = |row: &&RowName| OF_MANY.contains(row) || ON_OWN_NODES.contains(row);
        if let Some(row) = rows.iter().find(is_of_many) {
            bail!("{row:?} is measured over many logs: give --logs, too");
        }
    } else {
        if rows == RowName::ALL {
            rows.retain(|row| is_covered(*row));
            rows.extend(OF_MANY);
        }
        if let Some(other) = rows.iter().find(|row| !is_covered(**row)) {
            bail!(
                "{other:?} is not measured over many logs: leave it out of --rows, or leave --logs out"
            );
        }
        let is_own = |row: &&RowName| ON_OWN_NODES.contains(row);
        let own = rows.iter().find(is_own);
        if let Some(row) = own.filter(|_| !args.connection.servers.is_empty()) {
            bail!("{row:?} looks into nodes of its own: leave --servers out");
        }
    }
    Ok(rows)
}

/// Rows that are of many logs alone.
const OF_MANY: [RowName; 4] = [
    RowName::Together,
    RowName::Prefix,
    RowName::Along,
    RowName::OneByOne,
];

/// Rows that are measured only when they are asked for.
const ON_OWN_NODES: [RowName; 2] = [RowName::Idle, RowName::Room];

/// Whether a row can be measured over many logs.
fn is_covered(row: RowName) -> bool {
    use RowName::{Batch100x100, ConsumeBatch, Nodes, Unary64, Unary1024};
    let both = matches!(
        row,
        Unary64 | Unary1024 | Batch100x100 | ConsumeBatch | Nodes
    );
    both || OF_MANY.contains(&row) || ON_OWN_NODES.contains(&row)
}

/// A row: rates over one log and over all.
pub(super) struct Compared {
    pub(super) name: &'static str,
    pub(super) what: String,
    pub(super) one: Vec<f64>,
    pub(super) many: Vec<f64>,
}

/// What the logs cost while nobody uses them, on each own node.
pub(super) struct AtRest {
    pub(super) resident_mib: Vec<f64>,
    /// Without the logs.
    pub(super) resident_before_mib: Vec<f64>,
    pub(super) cpu_percent: Vec<f64>,
    pub(super) cpu_before_percent: Vec<f64>,
    /// From a follower's start until it is ready.
    pub(super) start: Duration,
}

/// What was measured.
pub(super) struct Outcome {
    pub(super) logs: usize,
    pub(super) created_per_second: f64,
    pub(super) deleted_per_second: f64,
    pub(super) rows: Vec<Compared>,
    pub(super) at_rest: Option<AtRest>,
    pub(super) idle: Option<Idle>,
    pub(super) room: Option<Room>,
}

/// The logs of the measurement.
pub(super) struct Logs {
    /// What their names begin with.
    pub(super) prefix: String,
    pub(super) all: Arc<[String]>,
    ids: Vec<u32>,
}

impl Logs {
    /// Every other one, and the rest.
    pub(super) fn halves(&self) -> (Self, Self) {
        let half = |rest: usize| {
            let mine = |place: &usize| place % 2 == rest;
            let places = || (0..self.all.len()).filter(mine);
            Self {
                prefix: self.prefix.clone(),
                all: places().map(|place| self.all[place].clone()).collect(),
                ids: places().map(|place| self.ids[place]).collect(),
            }
        };
        (half(0), half(1))
    }
}

impl Bench {
    /// Measures the rows over so many logs.
    pub(super) async fn many(
        &self,
        logs: usize,
        rows: &[RowName],
        mut cluster: Option<&mut LocalCluster>,
    ) -> anyhow::Result<Outcome> {
        let is_idle = rows.contains(&RowName::Idle);
        if is_idle {
            self.fill_beside().await?;
        }
        let watched = is_idle || rows.contains(&RowName::Nodes);
        let before = match cluster.as_deref().filter(|_| watched) {
            Some(cluster) => Some(rest(cluster).await?),
            None => None,
        };
        say(&format!("making {}", counted(logs as u64, "log", "logs")));
        let (mut made, created_per_second) = self.make(logs).await?;
        let mut at_rest = None;
        if let (Some(cluster), Some((resident, cpu))) = (cluster.as_deref_mut(), before) {
            let (resident_mib, cpu_percent) = rest(cluster).await?;
            at_rest = Some(AtRest {
                resident_mib,
                resident_before_mib: resident,
                cpu_percent,
                cpu_before_percent: cpu,
                start: self.start(cluster).await?,
            });
        }
        let idle = match cluster.as_deref_mut() {
            Some(cluster) if is_idle => Some(self.idle(cluster, &made).await?),
            _ => None,
        };
        let mut compared = Vec::new();
        let is_compared = |row: &&RowName| **row != RowName::Nodes && !ON_OWN_NODES.contains(row);
        for row in rows.iter().filter(is_compared) {
            let outcome = self.compare(*row, &made).await;
            compared.push(outcome.with_context(|| format!("measure {row:?}"))?);
        }
        let mut room = None;
        if let Some(cluster) = cluster.filter(|_| rows.contains(&RowName::Room)) {
            let (measured, left) = self.room(cluster, &made).await?;
            (room, made) = (Some(measured), left);
        }
        let left = made.all.len() as u64;
        say(&format!("deleting {}", counted(left, "log", "logs")));
        let deleted_per_second = self.delete(&made).await?;
        Ok(Outcome {
            logs,
            created_per_second,
            deleted_per_second,
            rows: compared,
            at_rest,
            idle,
            room,
        })
    }

    async fn make(&self, count: usize) -> anyhow::Result<(Logs, f64)> {
        let run = format!("bench-{:016x}", crate::env::random_u64());
        let prefix = format!("{run}/");
        let all: Arc<[String]> = (0..count).map(|log| format!("{prefix}{log:06}")).collect();
        let admin = self.client.admin();
        let started = Instant::now();
        let calls = all
            .iter()
            .map(|name| admin.create_log(name, LogSettings::default()));
        let made: Vec<_> = stream::iter(calls)
            .buffered(CHANGES_IN_FLIGHT)
            .try_collect()
            .await
            .context("make a log")?;
        let per_second = rate(count as u64, started.elapsed());
        let ids = made.iter().map(|log| log.id).collect();
        Ok((Logs { prefix, all, ids }, per_second))
    }

    pub(super) async fn delete(&self, logs: &Logs) -> anyhow::Result<f64> {
        let admin = self.client.admin();
        let started = Instant::now();
        let calls = logs.all.iter().zip(&logs.ids);
        let calls = calls.map(|(name, id)| admin.delete_log(name, *id));
        let mut calls = stream::iter(calls).buffered(CHANGES_IN_FLIGHT);
        while let Some(deleted) = calls.next().await {
            ensure!(deleted.context("delete a log")?, "a log was gone already");
        }
        Ok(rate(logs.all.len() as u64, started.elapsed()))
    }

    /// Measures over one log and over all in turn, so that a slow minute of the machine meets both.
    async fn compare(&self, row: RowName, logs: &Logs) -> anyhow::Result<Compared> {
        let (name, what) = described(row);
        let one: Arc<[String]> = logs.all[..1].into();
        let filled = match row {
            RowName::Prefix | RowName::ConsumeBatch | RowName::OneByOne => {
                Some(self.fill_both(logs, &one).await?)
            }
            _ => None,
        };
        let (mut ones, mut manys) = (Vec::new(), Vec::new());
        for number in 1..=self.runs {
            say(&format!("{name}: run {number} of {}", self.runs));
            let (of_one, of_many) = match &filled {
                Some(filled) => self.read_both(row, (logs, &one), filled).await?,
                None if row == RowName::Along => (
                    self.read_one_along(&one).await?,
                    self.read_all_along(logs).await?,
                ),
                None => (
                    self.write_logs(row, &one).await?.per_second,
                    self.write_logs(row, &logs.all).await?.per_second,
                ),
            };
            ones.push(of_one);
            manys.push(of_many);
        }
        Ok(Compared {
            name,
            what,
            one: ones,
            many: manys,
        })
    }

    async fn write_logs(&self, row: RowName, logs: &Arc<[String]>) -> anyhow::Result<Run> {
        let leader = self.leader().await?;
        match row {
            RowName::Unary64 => leader.unary_to(logs, 64, self.length).await,
            RowName::Unary1024 => leader.unary_to(logs, 1024, self.length).await,
            RowName::Together if logs.len() > 1 => leader.together_for(logs, self.length).await,
            _ => leader.batches_for(logs, 100, self.length).await,
        }
    }

    /// Stops a follower and starts it again; the time until it is ready.
    async fn start(&self, cluster: &mut LocalCluster) -> anyhow::Result<Duration> {
        let follower = self.follower().await?.addr;
        let place = (0..cluster.node_count()).find(|place| cluster.addr(*place) == follower);
        let place = place.context("the follower is none of the own nodes")?;
        cluster.terminate(place).await?;
        let started = Instant::now();
        cluster.restart(place).await?;
        // It is a voter again and knows the leader, as all others do.
        cluster.wait_ready(TIMEOUT).await?;
        Ok(started.elapsed())
    }
}

/// The row's name, and what it does.
fn described(row: RowName) -> (&'static str, String) {
    match row {
        RowName::Unary64 => ("unary64", "native unary produce, 64 in flight".to_owned()),
        RowName::Unary1024 => (
            "unary1024",
            "native unary produce, 1024 in flight".to_owned(),
        ),
        RowName::Batch100x100 => ("batch100x100", batches::produced(100)),
        RowName::Together => ("together", together::produced()),
        RowName::Prefix => (
            "prefix",
            format!("one client's reads by a prefix, batches of {READ_BATCH_RECORDS} x 100 bytes"),
        ),
        RowName::Along => ("along", together::followed()),
        RowName::OneByOne => (
            "one-by-one",
            format!("one reader, log by log, batches of {READ_BATCH_RECORDS} x 100 bytes"),
        ),
        _ => ("consume-batch", following::followed()),
    }
}

/// Resident memory in MiB and percent of a core, of each node at rest.
async fn rest(cluster: &LocalCluster) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let places = || 0..cluster.node_count();
    // What was done before is done to its end.
    tokio::time::sleep(IDLE).await;
    let started = Instant::now();
    let before: Vec<_> = places()
        .map(|place| cluster.cpu_time(place))
        .collect::<Result<_, _>>()?;
    tokio::time::sleep(IDLE).await;
    let elapsed = started.elapsed();
    let mut percent = Vec::new();
    for place in places() {
        let used = cluster.cpu_time(place)?.saturating_sub(before[place]);
        percent.push(100.0 * used.as_secs_f64() / elapsed.as_secs_f64());
    }
    Ok((cluster.resident_mib()?, percent))
}
