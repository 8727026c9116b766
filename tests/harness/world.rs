//! Whole nodes in one thread: streams and disks in memory, time paused.
//!
//! They are the nodes that `ferrolog serve` runs, from the port to the fsync. Only the seams differ.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ferrolog::agent::{Agent, AgentError, Bound, Runtimes, Seams};
use ferrolog::client::Client;
use ferrolog::config::{Config, Options};
use ferrolog::disk::memory::MemoryDisk;
use ferrolog::env::{Clock, Random};
use ferrolog::live::Live;
use ferrolog::log::{Offset, Record};
use ferrolog::net::memory::MemoryNetwork;
use ferrolog::net::stream_layer::StreamLayer;
use ferrolog::net::{Network, Security};
use ferrolog::server::Policy;
use tokio::time::timeout;

use super::checker::{Entry, NodeLog, Outcome, hash};
use super::late::{LateNetwork, Links};
use super::recorder::{Recorder, assert_sound};

pub const ADDRS: [&str; 3] = ["127.0.0.1:7401", "127.0.0.1:7402", "127.0.0.1:7403"];
/// How long a test waits, in simulated time, before it calls the build broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The slowest heartbeat: with a slower one a leader would be taken to be silent.
const SLOW_HEARTBEAT_MS: u64 = 400;
/// When every world begins, in milliseconds since 1970.
pub const START_MS: u64 = 1_800_000_000_000;

pub struct World {
    pub network: MemoryNetwork,
    /// What makes messages between nodes late, if anything does.
    links: Option<Links>,
    random: Random,
    /// How often a leader is heard, if not as often as usual.
    heartbeat_ms: Option<u64>,
    /// Whether the nodes make a log when somebody first appends to its name.
    pub creates_logs: Live<bool>,
    pub disks: Vec<MemoryDisk>,
    /// The clock that is right.
    pub clock: Clock,
    /// The clocks of the nodes, by number.
    pub clocks: Vec<Clock>,
    pub nodes: Vec<Option<Agent>>,
    /// Every record that was appended by [`Self::produce`].
    recorder: Mutex<Recorder>,
}

impl World {
    pub async fn new(seed: u64) -> Self {
        Self::with(seed, ADDRS.len(), None, None).await
    }

    /// A world of one node.
    pub async fn alone(seed: u64) -> Self {
        Self::with(seed, 1, None, None).await
    }

    /// A world whose nodes hear each other as late as the links have it.
    pub async fn late(seed: u64, links: &Links) -> Self {
        Self::with(seed, ADDRS.len(), Some(links.clone()), None).await
    }

    /// One in which much time may pass.
    pub async fn slow(seed: u64) -> Self {
        Self::with(seed, ADDRS.len(), None, Some(SLOW_HEARTBEAT_MS)).await
    }

    async fn with(
        seed: u64,
        nodes: usize,
        links: Option<Links>,
        heartbeat_ms: Option<u64>,
    ) -> Self {
        let mut world = Self {
            network: MemoryNetwork::new(),
            links,
            random: Random::seeded(seed),
            heartbeat_ms,
            creates_logs: Live::new(false),
            disks: Vec::new(),
            clock: Clock::simulated(START_MS),
            clocks: Vec::new(),
            nodes: Vec::new(),
            recorder: Mutex::default(),
        };
        for number in 0..nodes {
            world.disks.push(MemoryDisk::default());
            world.clocks.push(Clock::simulated(START_MS));
            world.nodes.push(None);
            world.start(number).await;
        }
        world.settled().await;
        world
    }

    pub fn config(number: usize) -> Config {
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

    pub async fn start(&mut self, number: usize) {
        let started = self.try_start(number).await;
        let agent = started.unwrap_or_else(|error| panic!("node {number}: {error}"));
        self.nodes[number] = Some(agent);
    }

    /// Starts a node on its data at another address, with these to ask for the others.
    pub async fn start_at(&mut self, number: usize, addr: &str, join: &[&str]) {
        let mut config = Self::config(number);
        config.listen = addr.to_owned();
        config.join = join.iter().map(|&addr| addr.to_owned()).collect();
        let started = self.try_start_as(number, config).await;
        self.nodes[number] = Some(started.unwrap_or_else(|error| panic!("{addr}: {error}")));
    }

    /// Starts a node, unless its directory does not let it.
    pub async fn try_start(&self, number: usize) -> Result<Agent, AgentError> {
        self.try_start_as(number, Self::config(number)).await
    }

    async fn try_start_as(&self, number: usize, mut config: Config) -> Result<Agent, AgentError> {
        let network: Arc<dyn Network> = match &self.links {
            Some(links) => Arc::new(LateNetwork::new(&self.network, &config.listen, links)),
            None => Arc::new(self.network.named(&config.listen)),
        };
        let seams = Seams {
            disk: Arc::new(self.disks[number].clone()),
            network,
            random: self.random.clone(),
            runtimes: Runtimes::current(),
            clock: self.clocks[number].clone(),
        };
        if let Some(heartbeat_ms) = self.heartbeat_ms {
            config.timing.heartbeat_ms = heartbeat_ms;
            config.timing.election_ms = (3 * heartbeat_ms, 6 * heartbeat_ms);
        }
        config.limits.create_logs_on_produce = self.creates_logs.clone();
        let bound = Bound::bind(config, Security::Insecure, Policy::default(), seams);
        let started = bound.await.unwrap().start();
        timeout(PATIENCE, started).await.expect("it starts")
    }

    /// Stops a node as a crash would.
    pub async fn kill(&mut self, number: usize) {
        self.nodes[number].take().unwrap().kill().await;
    }

    /// Cuts the power of some nodes at once, and starts them again on what their disks kept.
    pub async fn power_cut(&mut self, numbers: &[usize]) {
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

    pub fn node(&self, number: usize) -> &Agent {
        self.nodes[number].as_ref().unwrap()
    }

    pub async fn settled(&self) {
        for number in 0..self.nodes.len() {
            let mut views = self.node(number).log().watch_view();
            let voters = views.wait_for(|view| {
                let voters = view.members.iter().filter(|member| member.voter);
                voters.count() == self.nodes.len() && view.leader.is_some()
            });
            timeout(PATIENCE, voters)
                .await
                .expect("all are voters")
                .unwrap();
        }
    }

    /// Why nodes stopped, those that did.
    pub fn stopped(&self) -> Vec<String> {
        let nodes = self.nodes.iter().flatten();
        nodes.filter_map(|node| node.log().view().stopped).collect()
    }

    pub fn leader(&self) -> usize {
        let leads =
            |node: &Option<Agent>| node.as_ref().is_some_and(|node| node.log().view().writable);
        self.nodes.iter().position(leads).expect("a node leads")
    }

    pub fn client(&self, addrs: &[&str]) -> Client {
        let layer = StreamLayer::new(Arc::new(self.network.named("client")), Security::Insecure);
        let client = Client::builder().servers(addrs).stream_layer(layer);
        client.timeout(PATIENCE).build().expect("servers")
    }

    /// Appends records `from..to` and gives their offsets.
    pub async fn produce(&self, addrs: &[&str], from: u64, to: u64) -> Vec<u64> {
        let client = self.client(addrs);
        let producer = client
            .producer(ferrolog::client::ProducerOptions {
                // Several batches shall fit into the small segments here.
                batch_bytes_max: 1024,
                ..ferrolog::client::ProducerOptions::default()
            })
            .unwrap();
        let now = || self.recorder.lock().expect("no panic before").now();
        let mut acks = Vec::new();
        for number in from..to {
            let begin = now();
            let sent = producer.send(value(number)).await;
            let ack = sent.unwrap_or_else(|error| panic!("{error}; {:?}", self.stopped()));
            acks.push((number, begin, ack));
        }
        let mut offsets = Vec::new();
        for (number, begin, ack) in acks {
            let acked = timeout(PATIENCE, ack).await.expect("an ack");
            let offset = acked.unwrap_or_else(|error| panic!("{error}; {:?}", self.stopped()));
            let mut recorder = self.recorder.lock().expect("no panic before");
            recorder.append(0, &value(number), begin, Outcome::Acked(offset));
            offsets.push(offset);
        }
        offsets
    }

    /// Every node's records, once each has applied up to `next`.
    pub async fn records(&self, next: u64) -> Vec<Vec<Record>> {
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
                records.extend(
                    log.log()
                        .read(log.id(), Offset(records.len() as u64), 4096)
                        .unwrap(),
                );
            }
            all.push(records);
        }
        all
    }

    /// Every node has these records, and all of them as their producers were told.
    pub async fn check(&self, count: u64) {
        let mut logs = Vec::new();
        for (number, records) in self.records(count).await.into_iter().enumerate() {
            assert_eq!(records.len() as u64, count, "node {number}");
            let entries = records.iter().map(|record| Entry {
                offset: record.offset.0,
                hash: hash(&record.value),
            });
            logs.push(NodeLog {
                node: ADDRS[number].to_owned(),
                first: 0,
                entries: entries.collect(),
            });
        }
        let recorder = self.recorder.lock().expect("no panic before");
        assert_eq!(recorder.history.acked() as u64, count);
        assert_sound(&recorder.history, logs);
    }
}

pub fn value(number: u64) -> Bytes {
    format!("record {number} {}", "x".repeat((number % 97) as usize)).into()
}
