//! A disk that is slower than the others': what its node keeps in memory is bounded, and it leads no more.

use std::sync::Arc;
use std::time::Duration;

use ferrolog::agent::{Agent, Bound, Runtimes, Seams};
use ferrolog::disk::memory::{Event, MemoryDisk};
use ferrolog::env::{Clock, Random};
use ferrolog::log::Offset;
use ferrolog::log::record::BatchBuilder;
use ferrolog::net::Security;
use ferrolog::net::memory::MemoryNetwork;
use ferrolog::raft::{Answer, ProposeError, ReplicatedLog};
use ferrolog::server::Policy;
use parking_lot::{Condvar, Mutex};
use tokio::time::timeout;

use crate::harness::until_in;
use crate::harness::world::{ADDRS, World};

const PATIENCE: Duration = Duration::from_secs(120);
/// How many unsynced bytes a leader may have.
const UNSYNCED: u64 = 64 << 20;
const RECORD: usize = 1 << 20;
/// More records than a leader takes with the limit and what is under way.
const RECORDS: u64 = 100;
/// More records than may be under way to a follower.
const SOME_RECORDS: u64 = 30;
/// How many bytes are under way to a follower at most: four messages, of one entry each.
const TO_A_FOLLOWER: u64 = 8 << 20;

/// Keeps syncs of stores waiting while it is shut.
#[derive(Default)]
struct Gate {
    shut: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn on(disk: &MemoryDisk) -> Arc<Self> {
        let gate = Arc::new(Self::default());
        let theirs = gate.clone();
        disk.watch(move |event, path| {
            let of_store = path.extension().is_some_and(|suffix| suffix == "store");
            let mut shut = theirs.shut.lock();
            while event == Event::Sync && of_store && *shut {
                theirs.changed.wait(&mut shut);
            }
            Ok(())
        });
        gate
    }

    fn set(&self, shut: bool) {
        *self.shut.lock() = shut;
        self.changed.notify_all();
    }
}

/// Three nodes on disks in memory, whose writers have threads of their own.
struct Cluster {
    nodes: Vec<Agent>,
    gates: Vec<Arc<Gate>>,
}

impl Cluster {
    async fn start() -> Self {
        let network = MemoryNetwork::new();
        let (mut nodes, mut gates) = (Vec::new(), Vec::new());
        for (number, addr) in ADDRS.iter().enumerate() {
            let mut config = World::config(number);
            config.log.inline_io = false;
            config.log.segment_bytes_max = 8 << 20;
            config.limits.record_bytes_max = 2 * RECORD;
            // Large records on a busy machine: nobody is to be elected for that.
            config.timing.heartbeat_ms = 300;
            config.timing.election_ms = (1_500, 3_000);
            let disk = MemoryDisk::default();
            gates.push(Gate::on(&disk));
            let seams = Seams {
                disk: Arc::new(disk),
                network: Arc::new(network.named(addr)),
                random: Random::seeded(number as u64),
                runtimes: Runtimes::current(),
                clock: Clock::system(),
            };
            let bound = Bound::bind(config, Security::Insecure, Policy::default(), seams);
            let started = timeout(PATIENCE, bound.await.unwrap().start()).await;
            nodes.push(started.expect("it starts").unwrap());
        }
        let cluster = Self { nodes, gates };
        until_in(PATIENCE, "all are voters", async || {
            let view = cluster.log(0).view();
            let voters = view.members.iter().filter(|member| member.voter);
            (voters.count() == ADDRS.len()).then_some(())
        })
        .await;
        cluster
    }

    fn log(&self, number: usize) -> &ReplicatedLog {
        self.nodes[number].log()
    }

    async fn leader(&self) -> usize {
        until_in(PATIENCE, "a node leads", async || {
            (0..ADDRS.len()).find(|node| self.log(*node).view().writable)
        })
        .await
    }

    /// The writers go on, whatever became of the test.
    fn open_gates(&self) {
        self.gates.iter().for_each(|gate| gate.set(false));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A node is not gone before its writer is.
        self.open_gates();
    }
}

async fn propose(log: &ReplicatedLog, number: u64) -> Answer {
    let mut batch = BatchBuilder::new(None);
    batch.push(&vec![number as u8; RECORD], 0, 0);
    log.propose(batch.finish()).await.expect("it is queued")
}

/// Proposes so many records, one batch each; gives how many were taken. The others surely were not.
async fn produce(log: ReplicatedLog, records: u64) -> u64 {
    let mut answers = Vec::new();
    for number in 0..records {
        answers.push(propose(&log, number).await);
    }
    let mut taken = 0;
    for answer in answers {
        let answer = timeout(PATIENCE, answer).await.expect("an answer");
        match answer.expect("an answer") {
            Ok(_) => taken += 1,
            Err(error) => assert!(matches!(error, ProposeError::NoLeader { .. }), "{error}"),
        }
    }
    taken
}

async fn until_it_holds(cluster: &Cluster, node: usize, records: u64) {
    until_in(PATIENCE, "it catches up", async || {
        let log = cluster.log(node);
        let all = log.offsets().1 == Offset(records) && log.log().unsynced_bytes() == 0;
        all.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_is_slow_is_bounded_and_leads_no_more() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let slow = cluster.log(leader).log().clone();
    cluster.gates[leader].set(true);
    // They commit by the disks of the others, though nothing is synced here.
    let producing = tokio::spawn(produce(cluster.log(leader).clone(), RECORDS));
    let mut most = 0;
    until_in(PATIENCE, "another one leads", async || {
        most = most.max(slow.unsynced_bytes());
        let mut others = (0..ADDRS.len()).filter(|other| *other != leader);
        let leads = others.any(|other| cluster.log(other).view().writable);
        leads.then_some(())
    })
    .await;
    assert!(most >= UNSYNCED, "it was not for want of records: {most}");
    let under_way = 20 << 20;
    assert!(most <= UNSYNCED + under_way, "{most}");
    cluster.gates[leader].set(false);
    let taken = producing.await.expect("no panic");
    assert!(taken * RECORD as u64 >= UNSYNCED, "{taken}");
    for node in 0..ADDRS.len() {
        until_it_holds(&cluster, node, taken).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_disk_is_slow_takes_no_more_than_is_under_way() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % ADDRS.len();
    let slow = cluster.log(follower).log().clone();
    cluster.gates[follower].set(true);
    let producing = tokio::spawn(produce(cluster.log(leader).clone(), SOME_RECORDS));
    let mut most = 0;
    until_in(PATIENCE, "all are answered", async || {
        most = most.max(slow.unsynced_bytes());
        producing.is_finished().then_some(())
    })
    .await;
    let taken = producing.await.expect("no panic");
    assert!(taken * RECORD as u64 > TO_A_FOLLOWER, "{taken}");
    assert!(most > 0 && most <= TO_A_FOLLOWER, "{most}");
    cluster.gates[follower].set(false);
    until_it_holds(&cluster, follower, taken).await;
}
