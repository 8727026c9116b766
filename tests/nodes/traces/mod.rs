//! Traces of calls, as a collector gets them: from the caller through the node that it asked to the one that leads.

mod collector;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrolog::agent::{Agent, Bound, Runtimes, Seams};
use ferrolog::client::{Client, LogSettings, ProducerOptions};
use ferrolog::disk::memory::MemoryDisk;
use ferrolog::env::{Clock, Random};
use ferrolog::net::Security;
use ferrolog::net::memory::MemoryNetwork;
use ferrolog::net::stream_layer::StreamLayer;
use ferrolog::server::Policy;
use tokio::time::timeout;

use crate::harness::until_in;
use crate::harness::world::{ADDRS, World};
use collector::{Collector, Told, hex};

pub const PATIENCE: Duration = Duration::from_secs(60);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
const OTHER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
/// What the parts of a write are called that the leader tells.
const STAGES: [&str; 6] = ["queue", "append", "fsync", "quorum", "apply", "answer"];
const CREATE: &str = "ferrolog.v1.LogService/CreateLog";

/// Two nodes that tell a collector, and a client of each.
struct Traced {
    network: MemoryNetwork,
    nodes: Vec<Agent>,
}

impl Traced {
    async fn start(endpoint: &str) -> Self {
        let network = MemoryNetwork::new();
        let mut nodes = Vec::new();
        for (number, addr) in ADDRS.iter().enumerate().take(2) {
            let mut config = World::config(number);
            config.otlp_endpoint = Some(endpoint.to_owned());
            let seams = Seams {
                disk: Arc::new(MemoryDisk::default()),
                network: Arc::new(network.named(addr)),
                random: Random::seeded(number as u64),
                runtimes: Runtimes::current(),
                clock: Clock::system(),
            };
            let bound = Bound::bind(config, Security::Insecure, Policy::default(), seams);
            let started = timeout(PATIENCE, bound.await.unwrap().start()).await;
            nodes.push(started.expect("it starts").unwrap());
        }
        let traced = Self { network, nodes };
        until_in(PATIENCE, "both vote", async || {
            let view = traced.nodes[0].log().view();
            let voters = view.members.iter().filter(|member| member.voter);
            (voters.count() == 2).then_some(())
        })
        .await;
        traced
    }

    async fn leader(&self) -> usize {
        until_in(PATIENCE, "a node leads", async || {
            (0..2).find(|node| self.nodes[*node].log().view().writable)
        })
        .await
    }

    fn client(&self, node: usize) -> Client {
        let network = Arc::new(self.network.named("client"));
        let layer = StreamLayer::new(network, Security::Insecure);
        let client = Client::builder().servers([ADDRS[node]]).stream_layer(layer);
        client.build().unwrap()
    }
}

/// One trace, from the caller's span through the node that was asked to the stages on the one that leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_traced_from_its_caller_to_the_leader() {
    let collector = Collector::default();
    let cluster = Traced::start(&collector.start().await).await;
    let leader = cluster.leader().await;
    let (asked, leads) = (format!("n{}", 1 - leader), format!("n{leader}"));
    let client = cluster.client(1 - leader);
    // Nobody traces these.
    client.produce(Bytes::from("untraced")).await.unwrap();
    let unsampled = client.traced(OTHER).unwrap();
    unsampled.produce(Bytes::from("unsampled")).await.unwrap();

    let traced = client.traced(&format!("00-{TRACE}-{SPAN}-01")).unwrap();
    traced.produce(Bytes::from("one")).await.unwrap();
    let call = collector.found("log.v1.Log/Produce", &asked, SPAN).await;
    let here = collector.found("proposal", &asked, &call.id()).await;
    let forward = collector.found("forward", &asked, &here.id()).await;
    let there = collector.found("proposal", &leads, &forward.id()).await;
    for stage in STAGES {
        let told = collector.found(stage, &leads, &there.id()).await;
        let within =
            there.span.start_ns <= told.span.start_ns && told.span.start_ns <= told.span.end_ns;
        assert!(
            within && told.span.end_ns <= there.span.end_ns,
            "{told:?} of {there:?}"
        );
    }
    for (outer, inner) in [(&call, &here), (&here, &forward)] {
        let within =
            outer.span.start_ns <= inner.span.start_ns && inner.span.end_ns <= outer.span.end_ns;
        assert!(within, "{inner:?} of {outer:?}");
    }

    // The batches of a stream hang off its call, and what changes the cluster off its own.
    let producer = traced.producer(ProducerOptions::default()).unwrap();
    let sent = producer.send("two").await.unwrap();
    sent.await.unwrap();
    traced
        .admin()
        .create_log("orders", LogSettings::default())
        .await
        .unwrap();
    drop(producer);
    let call = collector.found(CREATE, &asked, SPAN).await;
    let forward = collector.found("forward", &asked, &call.id()).await;
    collector.found("command", &leads, &forward.id()).await;
    let stream = "ferrolog.v1.LogService/ProduceStream";
    let call = collector.found(stream, &asked, SPAN).await;
    collector.found("proposal", &asked, &call.id()).await;

    let all = collector.all();
    let traces: BTreeSet<_> = all.iter().map(|told| hex(&told.span.trace_id)).collect();
    assert_eq!(traces, BTreeSet::from([TRACE.to_owned()]), "one trace");
    let ids: BTreeSet<_> = all.iter().map(Told::id).collect();
    assert_eq!(ids.len(), all.len(), "each span has an id of its own");
    let roots = all.iter().filter(|told| told.parent() == SPAN);
    let hangs = |told: &Told| ids.contains(&told.parent()) || told.parent() == SPAN;
    assert!(all.iter().all(hangs), "{all:?}");
    println!(
        "{} spans of one trace, {} of them calls",
        all.len(),
        roots.count()
    );
    assert!(client.traced("00-0-0-01").is_err());
}
