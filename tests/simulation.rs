//! Three whole nodes in one thread: streams and disks in memory, time paused.
//!
//! They are the nodes that `ferrolog serve` runs, from the port to the fsync: only the seams differ. This is
//! the door through which whole-node simulation comes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrolog::agent::{Agent, Bound, Seams};
use ferrolog::client::{Client, ClientConfig};
use ferrolog::config::{Config, Options};
use ferrolog::env::Random;
use ferrolog::log::memory_disk::MemoryDisk;
use ferrolog::log::{Offset, Record};
use ferrolog::net::Security;
use ferrolog::net::memory::MemoryNetwork;
use ferrolog::net::stream_layer::StreamLayer;
use ferrolog::server::Policy;
use tokio::time::timeout;

const ADDRS: [&str; 3] = ["127.0.0.1:7401", "127.0.0.1:7402", "127.0.0.1:7403"];
/// Of paused time: it bounds what a broken build may wait.
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    network: MemoryNetwork,
    random: Random,
    disks: Vec<MemoryDisk>,
    nodes: Vec<Option<Agent>>,
}

impl World {
    async fn new(seed: u64) -> Self {
        let mut world = Self {
            network: MemoryNetwork::new(),
            random: Random::seeded(seed),
            disks: Vec::new(),
            nodes: Vec::new(),
        };
        for number in 0..ADDRS.len() {
            world.disks.push(MemoryDisk::default());
            world.nodes.push(None);
            world.start(number).await;
        }
        world.settled().await;
        world
    }

    fn config(number: usize) -> Config {
        let join = if number == 0 {
            "bootstrap = true"
        } else {
            "join = ['127.0.0.1:7401']"
        };
        let text = format!(
            "name = 'n{number}'\ndata_dir = '/n{number}'\nlisten = '{}'\ninsecure = true\n\
             segment_bytes_max = 65536\nrecord_bytes_max = 8192\n{join}",
            ADDRS[number]
        );
        let options = Options::parse(&text, "simulated.toml".into()).unwrap();
        let mut config = options.resolve().unwrap();
        // No thread may run beside the paused clock.
        config.log.inline_io = true;
        config.log.tail_cache_bytes_max = 16 << 10;
        config
    }

    async fn start(&mut self, number: usize) {
        let seams = Seams {
            disk: Arc::new(self.disks[number].clone()),
            network: Arc::new(self.network.named(ADDRS[number])),
            random: self.random.clone(),
        };
        let bound = Bound::bind(
            Self::config(number),
            Security::Insecure,
            Policy::default(),
            seams,
        );
        let started = bound.await.unwrap().start();
        let agent = timeout(PATIENCE, started)
            .await
            .expect("it starts")
            .unwrap();
        self.nodes[number] = Some(agent);
    }

    /// Cuts the power of some nodes at once, and starts them again on what their disks kept.
    async fn power_cut(&mut self, numbers: &[usize]) {
        for number in numbers {
            self.disks[*number] = self.disks[*number].crash();
        }
        for number in numbers {
            self.nodes[*number].take().unwrap().kill().await;
        }
        for number in numbers {
            self.start(*number).await;
        }
    }

    fn node(&self, number: usize) -> &Agent {
        self.nodes[number].as_ref().unwrap()
    }

    async fn settled(&self) {
        for number in 0..self.nodes.len() {
            let mut views = self.node(number).log().watch_view();
            let voters = views.wait_for(|view| {
                let voters = view.members.iter().filter(|member| member.voter);
                voters.count() == ADDRS.len() && view.leader.is_some()
            });
            timeout(PATIENCE, voters)
                .await
                .expect("all are voters")
                .unwrap();
        }
    }

    fn leader(&self) -> usize {
        let leads =
            |node: &Option<Agent>| node.as_ref().is_some_and(|node| node.log().view().writable);
        self.nodes.iter().position(leads).expect("a node leads")
    }

    fn client(&self, addrs: &[&str]) -> Client {
        Client::new(ClientConfig {
            servers: addrs.iter().map(|addr| (*addr).to_owned()).collect(),
            stream_layer: StreamLayer::new(
                Arc::new(self.network.named("client")),
                Security::Insecure,
            ),
            timeout: PATIENCE,
        })
    }

    /// Appends records `from..to` and gives their offsets.
    async fn produce(&self, addrs: &[&str], from: u64, to: u64) -> Vec<u64> {
        let client = self.client(addrs);
        let producer = client.producer().unwrap();
        let mut acks = Vec::new();
        for number in from..to {
            acks.push(producer.send(value(number)).await.unwrap());
        }
        let mut offsets = Vec::new();
        for ack in acks {
            offsets.push(timeout(PATIENCE, ack).await.expect("an ack").unwrap());
        }
        offsets
    }

    /// Every node's records, once each has applied up to `next`.
    async fn records(&self, next: u64) -> Vec<Vec<Record>> {
        let mut all = Vec::new();
        for number in 0..self.nodes.len() {
            let log = self.node(number).log();
            let mut applied = log.watch_applied();
            let there = applied.wait_for(|applied| applied.next_offset >= Offset(next));
            timeout(PATIENCE, there)
                .await
                .expect("it catches up")
                .unwrap();
            let mut records = Vec::new();
            while (records.len() as u64) < next {
                records.extend(log.log().read(Offset(records.len() as u64), 4096).unwrap());
            }
            all.push(records);
        }
        all
    }

    async fn check(&self, count: u64) {
        for (number, records) in self.records(count).await.into_iter().enumerate() {
            assert_eq!(records.len() as u64, count, "node {number}");
            for (offset, record) in records.iter().enumerate() {
                assert_eq!(record.offset, Offset(offset as u64));
                assert_eq!(
                    record.value,
                    value(offset as u64),
                    "node {number}, offset {offset}"
                );
            }
        }
    }
}

fn value(number: u64) -> Bytes {
    format!("record {number} {}", "x".repeat((number % 97) as usize)).into()
}

#[tokio::test(start_paused = true)]
async fn three_nodes_in_one_thread_hold_the_same_log() {
    let world = World::new(1).await;
    for (part, addr) in ADDRS.iter().enumerate() {
        let (from, to) = (part as u64 * 300, part as u64 * 300 + 300);
        let offsets = world.produce(&[addr], from, to).await;
        assert_eq!(offsets, (from..to).collect::<Vec<_>>(), "through {addr}");
    }
    world.check(900).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_loses_nothing_and_comes_back() {
    let world = World::new(2).await;
    world.produce(&ADDRS, 0, 200).await;
    let old = world.leader();
    world.network.cut(ADDRS[old]);
    let others: Vec<_> = ADDRS
        .into_iter()
        .filter(|addr| *addr != ADDRS[old])
        .collect();
    let offsets = world.produce(&others, 200, 400).await;
    assert_eq!(offsets, (200..400).collect::<Vec<_>>());

    for number in 0..ADDRS.len() {
        let members = world.node(number).log().view().members;
        let voters = members.iter().filter(|member| member.voter).count();
        assert_eq!(voters, 3, "a node that is not heard stays a voter");
    }
    let strong = world.node(old).log().read_barrier();
    assert!(
        timeout(PATIENCE, strong).await.unwrap().is_err(),
        "a strong read without a quorum"
    );

    world.network.heal(ADDRS[old]);
    world.check(400).await;
    world.node(old).log().read_barrier().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn records_of_any_size_through_a_follower() {
    let world = World::new(4).await;
    let follower = (world.leader() + 1) % ADDRS.len();
    let client = world.client(&ADDRS[follower..=follower]);
    let values: Vec<Bytes> = [0, 1, 8191, 8192]
        .into_iter()
        .map(|size| vec![7; size].into())
        .collect();
    for (offset, value) in values.iter().enumerate() {
        let told = timeout(PATIENCE, client.produce(value.clone()))
            .await
            .unwrap();
        assert_eq!(told.unwrap(), offset as u64);
    }
    let refused = timeout(PATIENCE, client.produce(vec![7; 8193].into()))
        .await
        .unwrap();
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("8193 bytes") && refused.contains("--record-bytes-max"),
        "{refused}"
    );
    for records in world.records(4).await {
        let found: Vec<_> = records.into_iter().map(|record| record.value).collect();
        assert_eq!(found, values);
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_run_safely_is_refused_before_it_starts() {
    let network = MemoryNetwork::new();
    let seams = Seams {
        disk: Arc::new(MemoryDisk::default()),
        network: Arc::new(network.named("n0")),
        random: Random::seeded(5),
    };
    let refusal = async |listen: &str| {
        let mut config = World::config(0);
        config.listen = listen.to_owned();
        let bound = Bound::bind(config, Security::Insecure, Policy::default(), seams.clone()).await;
        bound
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    let reachable = refusal("192.0.2.7:7400").await;
    assert!(
        reachable.contains("--insecure") && reachable.contains("ferrolog certs"),
        "{reachable}"
    );
    let wildcard = refusal("0.0.0.0:7400").await;
    assert!(wildcard.contains("--insecure"), "{wildcard}");
    assert_eq!(refusal("127.0.0.1:7400").await, "");
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_of_all_nodes_keeps_every_acknowledged_record() {
    let mut world = World::new(3).await;
    for round in 0..3 {
        world.produce(&ADDRS, round * 150, round * 150 + 150).await;
        world.power_cut(&[0, 1, 2]).await;
        world.settled().await;
        // A new leader's own entry commits what the old one acknowledged.
        world.check(round * 150 + 150).await;
    }
}
