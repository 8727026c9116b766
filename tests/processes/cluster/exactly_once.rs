//! Exactly once, over connections and nodes that break: sessions send each batch until it is answered, and every
//! record is in the log once, in order. A control without sessions must put records there twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ferrolog::cli::local_cluster::Signal;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::harness::checker::verdict::count;
use crate::harness::checker::{self, FinalLogs, History, NodeLog, Report, Rule, Violation, shown};
use crate::harness::lane::{Counts, Lane, RECORDS, Sessions};
use crate::harness::proxy::Proxy;
use crate::harness::{PATIENCE, Stage, native, until, until_in};

const SESSIONS: u32 = 8;
const BATCHES: u64 = 100_000;
const BATCHES_ENV: &str = "FERROLOG_EXACTLY_ONCE_BATCHES";
/// How many batches the control sends.
const BATCHES_WITHOUT_SESSIONS: u64 = 3_000;
/// How many batches are sent between two faults of nodes: a second or two of this load.
const BATCHES_A_FAULT: u64 = 4_000;
const FAULTS_MIN: u64 = 6;
/// How long the whole load may take. A lane that makes no progress ends it.
const RUN_MAX: Duration = Duration::from_secs(540);
const SEED: u64 = 42;

/// How often nodes were killed.
#[derive(Default)]
struct Kills {
    leader: u32,
    all: u32,
}

/// Kills the leader, or all nodes at a third and at two thirds of the load, each time so many batches further.
async fn break_nodes(stage: &mut Stage, batches: u64, counts: &Counts) -> Kills {
    let faults = (batches / BATCHES_A_FAULT).max(FAULTS_MIN);
    let mut kills = Kills::default();
    for fault in 1..=faults {
        let due = batches * fault / (faults + 1);
        until_in(RUN_MAX, "the load goes on", async || {
            (counts.answered.load(Ordering::Relaxed) >= due).then_some(())
        })
        .await;
        let all = fault == faults / 3 || fault == faults * 2 / 3;
        let places = if all {
            kills.all += 1;
            vec![0, 1, 2]
        } else {
            kills.leader += 1;
            vec![stage.leader().await]
        };
        for &place in &places {
            stage.cluster.signal(place, Signal::KILL).expect("signal");
        }
        for &place in &places {
            let ended = stage.cluster.wait_exit(place, PATIENCE).await;
            ended.expect("it is killed");
        }
        for &place in &places {
            stage.cluster.restart(place).await.expect("restarted");
        }
        // Wait until all is well, so that the next fault finds a leader and a majority.
        stage.ready().await;
    }
    kills
}

/// The log of every node, once all tell the same end: a late try of the control may still come in.
async fn final_logs(stage: &Stage) -> Vec<NodeLog> {
    let places = 0..stage.cluster.node_count();
    until("all nodes tell the same end", async || {
        let mut tails = BTreeSet::new();
        for place in places.clone() {
            let mut client = native::client_of(stage, place);
            tails.insert(native::tail(&mut client).await.ok()?);
        }
        (tails.len() == 1).then_some(())
    })
    .await;
    let mut logs = Vec::new();
    for place in places {
        logs.push(native::read_log(stage, place).await);
    }
    logs
}

/// A proxy before each node, with faults.
async fn proxies(stage: &Stage, batches: u64) -> Vec<Proxy> {
    // A reply is some thirty bytes, and few share a packet.
    let lifetime = 1_000..(batches * 4 / u64::from(SESSIONS)).clamp(2_000, 20_000);
    let mut proxies = Vec::new();
    for (seed, addr) in (SEED..).zip(stage.cluster.addrs()) {
        let proxy = Proxy::start(&addr, seed, lifetime.clone()).await;
        proxy.set_faults(true);
        proxies.push(proxy);
    }
    proxies
}

/// Lanes produce while nodes break, until every batch is answered.
async fn produce(
    stage: &mut Stage,
    lanes: impl Iterator<Item = Lane>,
    batches: u64,
    counts: &Counts,
) -> (Kills, History) {
    let mut running: JoinSet<_> = lanes.map(Lane::run).collect();
    let (mut history, mut ids) = (History::default(), BTreeSet::new());
    let ends = async {
        while let Some(lane) = running.join_next().await {
            let lane = lane.expect("a lane that ends well");
            history.appends.extend(lane.appends());
            assert!(
                lane.session.is_none() || ids.insert(lane.session),
                "a session was given twice"
            );
        }
    };
    // Side by side, so that a lane that fails ends all.
    let both = async { tokio::join!(break_nodes(stage, batches, counts), ends).0 };
    let kills = timeout(RUN_MAX, both).await;
    (kills.expect("every batch is answered"), history)
}

/// Runs the whole load through faults, prints its figures, and checks all that was seen.
async fn run(batches: u64, sessions: Sessions) -> Result<Report, Vec<Violation>> {
    let mut stage = Stage::start_plain().await;
    let proxies = proxies(&stage, batches).await;
    let (origin, counts) = (Instant::now(), Arc::new(Counts::default()));
    let layer = stage.cluster.stream_layer().expect("no TLS");
    let lanes = (0..SESSIONS).map(|number| Lane {
        number,
        batches: batches / u64::from(SESSIONS),
        sessions,
        session: None,
        addrs: proxies.iter().map(Proxy::addr).collect(),
        layer: layer.clone(),
        origin,
        counts: Arc::clone(&counts),
        begun: Vec::new(),
        acked: Vec::new(),
    });
    let batches = batches / u64::from(SESSIONS) * u64::from(SESSIONS);
    let (kills, history) = produce(&mut stage, lanes, batches, &counts).await;
    let took = origin.elapsed();
    proxies.iter().for_each(|proxy| proxy.set_faults(false));
    let logs = final_logs(&stage).await;
    let records = logs[0].entries.len();
    let checked = checker::check(&history, &FinalLogs(logs));
    let found = checked.as_ref().err().map_or(&[][..], Vec::as_slice);
    let of_each_node = |rule| count(found, rule).div_ceil(proxies.len());
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let cuts: u64 = proxies.iter().map(|proxy| proxy.counts().cuts()).sum();
    let lost = proxies.iter().map(|proxy| proxy.counts().replies_lost);
    let lost: u64 = lost.sum();
    println!(
        "{batches} batches of {RECORDS} in {took:.1?}, sessions {sessions:?}: {} sent again, {} known to the server \
         as duplicates; {cuts} connections cut ({lost} between a request and its reply), {} streams broken, {} kills \
         of the leader, {} of all nodes; {records} records in the log, {} lost, {} twice",
        read(&counts.retried),
        read(&counts.duplicates),
        read(&counts.breaks),
        kills.leader,
        kills.all,
        of_each_node(Rule::Durability),
        of_each_node(Rule::Uniqueness),
    );
    assert!(cuts > 0 && read(&counts.retried) > 0, "nothing was broken");
    if sessions == Sessions::Opened {
        assert!(read(&counts.duplicates) > 0, "no retry met its own record");
        assert_eq!(records, batches as usize * RECORDS as usize);
    }
    checked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_batch_is_in_the_log_once_whatever_breaks() {
    let batches = match std::env::var(BATCHES_ENV) {
        Ok(batches) => batches.parse().expect("a number of batches"),
        Err(_) => BATCHES,
    };
    let checked = run(batches, Sessions::Opened).await;
    let report = checked.unwrap_or_else(|found| panic!("{}", shown(&found)));
    println!("{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_without_sessions_batches_are_in_the_log_twice() {
    let found = run(BATCHES_WITHOUT_SESSIONS, Sessions::None).await;
    let found = found.expect_err("retries without sessions must leave duplicates");
    assert!(count(&found, Rule::Uniqueness) > 0, "{}", shown(&found));
    for rule in [Rule::Durability, Rule::Agreement, Rule::NoPhantom] {
        assert_eq!(count(&found, rule), 0, "{}", shown(&found));
    }
}
