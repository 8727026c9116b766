//! Clients' threads stand still on a node, as if calls kept them busy for good: consensus does not notice.

use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use bytes::Bytes;
use ferrolog::agent::{Agent, Bound, Runtimes, Seams};
use ferrolog::client::Client;
use ferrolog::config::Options;
use ferrolog::disk::memory::MemoryDisk;
use ferrolog::env::{Clock, Random};
use ferrolog::net::Security;
use ferrolog::net::tcp::TcpNetwork;
use ferrolog::server::Policy;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);
/// How long the threads stand still: many election timeouts.
const STANDSTILL: Duration = Duration::from_millis(1500);

fn runtime(name: &str) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    let builder = builder.worker_threads(1).thread_name(name).enable_all();
    builder.build().expect("threads")
}

struct Node {
    agent: Agent,
    clients: Runtime,
}

impl Node {
    fn start(number: usize, join: &[String], consensus: &Runtime) -> Self {
        let clients = runtime("clients");
        let joined = if join.is_empty() {
            "bootstrap = true".to_owned()
        } else {
            format!("join = {join:?}")
        };
        let text = format!(
            "name = 'n{number}'\ndata_dir = '/n{number}'\nlisten = '127.0.0.1:0'\ninsecure = true\n{joined}"
        );
        let options = Options::parse(&text, "settings.toml".into()).expect("settings");
        let config = options.resolve().expect("settings");
        let handle = clients.handle().clone();
        let seams = Seams {
            disk: Arc::new(MemoryDisk::default()),
            network: Arc::new(TcpNetwork),
            clock: Clock::system(),
            random: Random::system(),
            runtimes: Runtimes {
                consensus: consensus.handle().clone(),
                clients: handle.clone(),
                bulk: handle.clone(),
                upkeep: handle,
            },
        };
        let agent = clients.block_on(async {
            let bound = Bound::bind(config, Security::Insecure, Policy::default(), seams).await;
            let started = timeout(PATIENCE, bound.expect("a port").start()).await;
            started.expect("it starts in time").expect("it starts")
        });
        Self { agent, clients }
    }

    /// Holds the one thread that serves clients, until the sender is dropped.
    fn stand_still(&self) -> Sender<()> {
        let (release, released) = mpsc::channel::<()>();
        let (begin, begun) = mpsc::channel();
        self.clients.spawn(async move {
            begin.send(()).expect("the test waits");
            // The wait ends when the sender is dropped.
            let _ = released.recv();
        });
        begun.recv().expect("it holds the thread");
        release
    }
}

#[test]
fn a_standstill_of_the_threads_for_clients_changes_no_term() {
    let consensus = runtime("consensus");
    let first = Node::start(0, &[], &consensus);
    let join = [first.agent.addr().to_owned()];
    let rest = (1..3).map(|number| Node::start(number, &join, &consensus));
    let nodes: Vec<_> = std::iter::once(first).chain(rest).collect();
    let leader = &nodes[0];
    let mut views = nodes[1].agent.log().watch_view();
    let term = consensus.block_on(async {
        let voters = views.wait_for(|view| {
            let voters = view.members.iter().filter(|member| member.voter);
            voters.count() == nodes.len() && view.leader.is_some()
        });
        let view = timeout(PATIENCE, voters).await.expect("three voters");
        view.expect("it runs").term
    });
    for held in [&nodes[..1], &nodes[..]] {
        let releases: Vec<_> = held.iter().map(Node::stand_still).collect();
        let changed = consensus.block_on(async {
            let other = views.wait_for(|view| view.term != term || view.leader.is_none());
            timeout(STANDSTILL, other).await.is_ok()
        });
        drop(releases);
        assert!(!changed, "the standstill of {} nodes", held.len());
    }
    // The leader is the one that it was, and serves.
    let client = Client::builder().servers([leader.agent.addr()]);
    let client = client.plaintext(true).timeout(PATIENCE);
    let client = client.build().expect("a server");
    let offset = consensus.block_on(async {
        let produced = client.produce(Bytes::from_static(b"record")).await;
        produced.expect("it is appended")
    });
    assert_eq!(offset, 0);
    assert_eq!(leader.agent.log().view().term, term);
    for node in nodes {
        node.clients.block_on(node.agent.kill());
        node.clients.shutdown_background();
    }
    consensus.shutdown_background();
}
