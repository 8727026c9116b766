//! What many logs cost that forget their records each after a time of its own: what they take on the disk beside what
//! lives of them, what is written for each byte, and what calls pay for it, with rewriting and without.

mod account;
mod calls;
mod report;
mod stolen;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::load::figures::percentile;
use super::load::{SILENCE_MAX, Target, rate};
use crate::cli::files;
use crate::cli::output::say;
use crate::cli::tools::local_cluster::{LocalCluster, LocalClusterOptions};
use crate::client::{Client, LogSettings, Retention};
use crate::proto::v1::log_service_client::LogServiceClient;
use crate::tasks;
use account::{Account, age_of};
use calls::{Caller, Loaded, Pace, STRETCH};
use stolen::Stolen;

const CALLERS: usize = 64;
/// Records of a call.
const CALL_RECORDS: u32 = 10;
/// How long the speed is measured of which half is the load.
const FULL_SPEED: Duration = Duration::from_secs(10);
/// The load settles for this part of its length, and for so long at most.
const SETTLING_SHARE: u32 = 6;
const SETTLING_MAX: Duration = Duration::from_secs(300);
/// In less than that hardly anything is forgotten.
const LENGTH_MIN: Duration = Duration::from_secs(120);
/// The host leaves the processors alone while it takes less than this share of them.
const STOLEN_MAX: f64 = 0.02;
const TIMEOUT: Duration = Duration::from_secs(60);
/// Logs that are made at a time.
const MADE_AT_ONCE: usize = 64;

/// What is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) logs: usize,
    pub(super) record_bytes: usize,
    /// How long the load lasts each time.
    pub(super) length: Duration,
    /// How often it is done with rewriting and without.
    pub(super) pairs: u32,
    /// Calls a second; without a number half of what the callers reach.
    pub(super) per_second: Option<u32>,
}

impl Shape {
    fn call_bytes(&self) -> u64 {
        u64::from(CALL_RECORDS) * self.record_bytes as u64
    }

    fn settling(&self) -> Duration {
        (self.length / SETTLING_SHARE).min(SETTLING_MAX)
    }
}

/// What was measured.
#[derive(Debug)]
pub(super) struct Outcome {
    shape: Shape,
    /// Calls a second that the callers make one after the other, if that was measured.
    full: Option<f64>,
    /// The load: half of it, or as was said.
    per_second: f64,
    /// With rewriting and without, in turn.
    sides: Vec<Side>,
}

/// One time.
#[derive(Debug)]
struct Side {
    is_rewritten: bool,
    per_second: f64,
    /// Of calls after the load settled, from when each was due.
    p50: Duration,
    p99: Duration,
    /// The median of the p99 of stretches of a few seconds: a moment in which the machine stands still is in one of them.
    usual_p99: Duration,
    /// Of the calls in stretches in which the host left the processors alone; zero without one.
    quiet_p99: Duration,
    /// The share of the processors that the host gave to others meanwhile.
    stolen: f64,
    stretches: Vec<Stretch>,
    looks: Vec<Look>,
    /// For each byte of the records, on each node.
    written_per_byte: Vec<f64>,
}

/// Calls that were due in some seconds.
#[derive(Debug)]
struct Stretch {
    /// When it was over.
    after: Duration,
    p99: Duration,
    /// The share of the processors that the host gave to others.
    stolen: f64,
}

/// What the nodes' data take on the disk beside what lives, by the callers' account.
#[derive(Debug)]
struct Look {
    after: Duration,
    live_bytes: u64,
    disk_bytes: Vec<u64>,
}

impl Look {
    /// On the node that takes most.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 bytes")]
    fn per_live_byte(&self) -> f64 {
        let most = self.disk_bytes.iter().copied().max().unwrap_or(0);
        most as f64 / self.live_bytes.max(1) as f64
    }
}

/// Measures on clusters like this one, one after the other.
pub(super) async fn measure(
    options: &LocalClusterOptions,
    shape: Shape,
) -> anyhow::Result<Outcome> {
    ensure!(
        shape.length >= LENGTH_MIN,
        "logs forget after a minute at the least: say `--seconds 2m` or more"
    );
    let (full, per_second) = if let Some(said) = shape.per_second {
        (None, f64::from(said))
    } else {
        say("measuring the full speed");
        let world = World::start(options, shape, true, "full").await?;
        let full = world.full_speed().await;
        world.stop().await?;
        let full = full?;
        (Some(full), full / 2.0)
    };
    let mut sides = Vec::new();
    for number in 1..=shape.pairs {
        // What one leaves of the machine is not always the other's.
        let order = [number % 2 == 1, number % 2 == 0];
        for is_rewritten in order {
            let how = if is_rewritten { "with" } else { "without" };
            say(&format!(
                "pair {number} of {}, {how} rewriting: {per_second:.0} calls a second",
                shape.pairs
            ));
            let name = format!("{how}-{number}");
            let world = World::start(options, shape, is_rewritten, &name).await?;
            let side = world.side(per_second).await;
            world.stop().await?;
            let side = side.with_context(|| format!("measure {how} rewriting"))?;
            say(&side.line());
            sides.push(side);
        }
    }
    Ok(Outcome {
        shape,
        full,
        per_second,
        sides,
    })
}

/// A cluster with logs that forget.
struct World {
    cluster: LocalCluster,
    client: Client,
    logs: Arc<[String]>,
    shape: Shape,
    is_rewritten: bool,
}

impl World {
    async fn start(
        options: &LocalClusterOptions,
        shape: Shape,
        is_rewritten: bool,
        name: &str,
    ) -> anyhow::Result<Self> {
        let mut options = options.clone();
        options.dir = options.dir.join(name);
        if !is_rewritten {
            let off = ["--rewrite-dead-percent", "0"].map(str::to_owned);
            options.serve_args.extend(off);
        }
        let cluster = LocalCluster::start(options).await?;
        let client = cluster.client(TIMEOUT)?;
        let logs: Arc<[String]> = (0..shape.logs)
            .map(|log| format!("aging/{log:06}"))
            .collect();
        let admin = client.admin();
        let made = logs.iter().enumerate().map(|(number, name)| {
            let retention = Retention {
                max_age_ms: age_of(number).unwrap_or(0) * 1000,
                ..Retention::default()
            };
            let settings = LogSettings {
                retention,
                ..LogSettings::default()
            };
            admin.create_log(name, settings)
        });
        let made = stream::iter(made).buffered(MADE_AT_ONCE);
        let made = made.try_for_each(|_| async { Ok(()) }).await;
        made.context("make a log")?;
        Ok(Self {
            cluster,
            client,
            logs,
            shape,
            is_rewritten,
        })
    }

    /// Stops the nodes, and removes their data: there is not to be room for that of all of them.
    async fn stop(self) -> anyhow::Result<()> {
        let nodes = 0..self.cluster.node_count();
        let dirs: Vec<_> = nodes.map(|place| self.cluster.data_dir(place)).collect();
        self.cluster.stop().await?;
        for dir in dirs {
            files::remove_dir(&dir)?;
        }
        Ok(())
    }

    async fn target(&self) -> anyhow::Result<Target> {
        let leader = self.cluster.leader(TIMEOUT).await?;
        Ok(Target {
            stream_layer: self.client.stream_layer().clone(),
            addr: self.cluster.addr(leader).to_owned(),
            value: bytes::Bytes::new(),
        })
    }

    /// Calls a second that the callers make one after the other.
    async fn full_speed(&self) -> anyhow::Result<f64> {
        let load = self.load(&Arc::default(), FULL_SPEED).await?;
        Ok(rate(load.count() as u64, FULL_SPEED))
    }

    async fn side(&self, per_second: f64) -> anyhow::Result<Side> {
        let nodes = 0..self.cluster.node_count();
        let written = || nodes.clone().map(|place| self.cluster.written_bytes(place));
        let before: Vec<_> = written().collect::<anyhow::Result<_>>()?;
        let pace = Pace {
            per_second: Some(per_second),
            account: Mutex::new(Account::new(self.shape.logs)),
        };
        let pace = Arc::new(pace);
        let mut looks = Vec::new();
        let mut stolen = Stolen::new()?;
        let began = Instant::now();
        let load = tokio::select! {
            load = self.load(&pace, self.shape.length) => load?,
            failed = self.watch(&pace.account, (&mut looks, &mut stolen)) => return Err(failed),
        };
        let took = began.elapsed();
        let appended = pace.account.lock().appended_bytes();
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 bytes")]
        let per_byte = |(now, before): (u64, &u64)| (now - before) as f64 / appended as f64;
        let now: Vec<_> = written().collect::<anyhow::Result<_>>()?;
        let all = load.sorted(|_| true);
        let quiet = load.sorted(|number| stolen.of(number) < STOLEN_MAX);
        let time = |micros: Option<u32>| Duration::from_micros(micros.unwrap_or(0).into());
        Ok(Side {
            is_rewritten: self.is_rewritten,
            per_second: rate(appended / self.shape.call_bytes(), took),
            p50: time(percentile(&all, 50)),
            p99: time(percentile(&all, 99)),
            usual_p99: time(load.usual_p99()),
            quiet_p99: time(percentile(&quiet, 99)),
            stolen: stolen.of_all(),
            stretches: load
                .stretches
                .iter()
                .map(|(number, p99)| Stretch {
                    after: STRETCH * (number + 1),
                    p99: time(Some(*p99)),
                    stolen: stolen.of(*number),
                })
                .collect(),
            looks,
            written_per_byte: now.into_iter().zip(&before).map(per_byte).collect(),
        })
    }

    /// Looks at the disk, and at what the host takes away, until it cannot.
    async fn watch(
        &self,
        account: &Mutex<Account>,
        (looks, stolen): (&mut Vec<Look>, &mut Stolen),
    ) -> anyhow::Error {
        let began = Instant::now();
        let mut ticks = interval(STRETCH);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let after = began.elapsed();
            if let Err(error) = stolen.look() {
                return error;
            }
            let nodes = 0..self.cluster.node_count();
            let disk = nodes.map(|place| self.cluster.disk_bytes(place));
            let disk_bytes: Vec<_> = match disk.collect() {
                Ok(bytes) => bytes,
                Err(error) => return error,
            };
            let live_bytes = account.lock().live_bytes(after.as_secs());
            if after >= self.shape.settling() {
                looks.push(Look {
                    after,
                    live_bytes,
                    disk_bytes,
                });
            }
        }
    }

    /// Has all callers call for a time.
    async fn load(&self, pace: &Arc<Pace>, length: Duration) -> anyhow::Result<Loaded> {
        let target = self.target().await?;
        let channels = target.channels(CALLERS);
        let began = Instant::now();
        let settled = began + self.shape.settling().min(length);
        let counted_from = if pace.per_second.is_some() {
            settled
        } else {
            began
        };
        let callers = (0..CALLERS).map(|number| {
            let caller = Caller {
                client: LogServiceClient::new(channels[number % channels.len()].clone()),
                number,
                logs: self.logs.clone(),
                shape: self.shape,
                pace: pace.clone(),
            };
            let call = tasks::spawn("caller", caller.call((began, counted_from), length));
            // The first that fails ends it for all.
            async move { call.await.context("a caller failed")? }
        });
        let done = timeout(length + SILENCE_MAX, try_join_all(callers)).await;
        let done = done.context("the calls did not end")?;
        let mut calls = Vec::new();
        done?.into_iter().for_each(|of| calls.extend(of));
        Ok(Loaded::new(calls))
    }
}
