//! What a node tells over plain HTTP: to whom, what the numbers say, and that they stay few.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ferrolog::agent::{Agent, Bound, Policy, Runtimes, Seams};
use ferrolog::certs::Authority;
use ferrolog::client::{Client, Consistency, ConsumeOptions, LogSettings, ProducerOptions, Start};
use ferrolog::config::{Config, Options};
use ferrolog::disk::memory::MemoryDisk;
use ferrolog::env::{Clock, Random, wall_clock};
use ferrolog::metrics::families::{self, Sort};
use ferrolog::net::memory::MemoryNetwork;
use ferrolog::net::stream_layer::StreamLayer;
use ferrolog::net::tls::Tls;
use ferrolog::net::{BoxIo, Kind, Network, Security};
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::exposition::Exposition;
use crate::harness::until;
use crate::harness::world::PATIENCE;

const ADDR: &str = "127.0.0.1:7401";
const PROBES: &str = "127.0.0.1:9464";
const POLICY: &str = "p, scraper, *, metrics\np, app, *, produce\np, app, *, admin\n";

/// A node alone, in memory.
struct Lone {
    network: MemoryNetwork,
    authority: Option<Authority>,
    /// How the node proves itself.
    security: Security,
    agent: Option<Agent>,
}

/// What came back.
#[derive(Debug)]
struct Reply {
    code: u16,
    head: String,
    body: String,
}

fn config(rest: &str) -> Config {
    let text = format!(
        "name = 'n1'\ndata_dir = '/n1'\nlisten = '{ADDR}'\ninsecure = true\n\
         segment_bytes_max = 65536\nrecord_bytes_max = 8192\nmetrics_listen = '9464'\n{rest}"
    );
    let options = Options::parse(&text, "lone.toml".into()).unwrap();
    let mut config = options.resolve().unwrap();
    config.log.inline_io = true;
    config
}

impl Lone {
    fn new(authority: Option<Authority>) -> Self {
        let tls = authority.as_ref().map(tls_of_node);
        Self {
            network: MemoryNetwork::new(),
            security: tls.map_or(Security::Insecure, Security::Mutual),
            authority,
            agent: None,
        }
    }

    /// A node without TLS, which leads itself.
    async fn plain() -> Self {
        let mut lone = Self::new(None);
        let bound = lone.bind(config("bootstrap = true"), "").await;
        lone.agent = Some(bound.start().await.unwrap());
        lone.leads().await
    }

    /// The same with TLS, under a policy.
    async fn secure(policy: &str) -> Self {
        let mut lone = Self::new(Some(Authority::new(wall_clock()).unwrap()));
        let bound = lone.bind(config("bootstrap = true"), policy).await;
        lone.agent = Some(bound.start().await.unwrap());
        lone.leads().await
    }

    async fn leads(self) -> Self {
        let mut views = self.agent.as_ref().unwrap().log().watch_view();
        let leads = views.wait_for(|view| view.writable);
        timeout(PATIENCE, leads).await.expect("it leads").unwrap();
        self
    }

    async fn bind(&self, config: Config, policy: &str) -> Bound {
        let seams = Seams {
            disk: Arc::new(MemoryDisk::default()),
            network: Arc::new(self.network.named(ADDR)),
            random: Random::seeded(7),
            runtimes: Runtimes::current(),
            clock: Clock::system(),
        };
        let policy = match policy {
            "" => Policy::default(),
            policy => Policy::parse(policy).unwrap(),
        };
        let security = self.security.clone();
        Bound::bind(config, security, policy, seams).await.unwrap()
    }

    /// The way to the node with the certificate of this client.
    fn layer_of(&self, client: &str) -> StreamLayer {
        let security = match &self.authority {
            None => Security::Insecure,
            Some(authority) => {
                let pem = authority.client(client).unwrap();
                Security::Mutual(tls(authority, &pem.cert, &pem.key))
            }
        };
        StreamLayer::new(Arc::new(self.network.named("client")), security)
    }

    fn client_of(&self, name: &str) -> Client {
        let client = Client::builder().servers([ADDR]);
        let client = client.stream_layer(self.layer_of(name)).timeout(PATIENCE);
        client.build().unwrap()
    }

    async fn ask(&self, client: &str, path: &str) -> Reply {
        let io = self.layer_of(client).dial(Kind::Http, ADDR, PATIENCE).await;
        get(io.unwrap(), path, "").await
    }

    async fn probe(&self, path: &str) -> Reply {
        let io = self.network.named("probe").dial(PROBES).await;
        get(io.unwrap(), path, "").await
    }

    async fn page(&self) -> Exposition {
        let reply = self.probe("/metrics").await;
        assert_eq!(reply.code, 200, "{reply:?}");
        Exposition::parse(&reply.body)
    }
}

fn tls(authority: &Authority, cert: &str, key: &str) -> Tls {
    let ca = authority.ca_pem().as_bytes();
    Tls::from_pem(ca, cert.as_bytes(), key.as_bytes()).unwrap()
}

fn tls_of_node(authority: &Authority) -> Tls {
    let pem = authority.node("n1", &["127.0.0.1".to_owned()]).unwrap();
    tls(authority, &pem.cert, &pem.key)
}

/// One request, and what comes until the end of the connection.
async fn get(mut io: BoxIo, path: &str, headers: &str) -> Reply {
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\n{headers}\r\n");
    io.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    let read = timeout(PATIENCE, io.read_to_string(&mut text)).await;
    read.expect("the connection ends").unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole answer");
    let code = head.split(' ').nth(1).expect("a status line");
    Reply {
        code: code.parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

async fn produce(client: &Client, count: u64) {
    let producer = client.producer(ProducerOptions::default()).unwrap();
    for number in 0..count {
        let ack = producer.send(format!("record {number}")).await.unwrap();
        ack.await.unwrap();
    }
}

#[tokio::test]
async fn metrics_are_told_to_certificates_with_the_right_and_to_no_other() {
    let lone = Lone::secure(POLICY).await;
    for path in ["/metrics", "/healthz", "/readyz"] {
        let told = lone.ask("scraper", path).await;
        assert_eq!(told.code, 200, "{path}: {told:?}");
        let denied = lone.ask("app", path).await;
        assert_eq!(denied.code, 403, "{path}: {denied:?}");
        assert!(denied.body.contains("metrics"), "{denied:?}");
    }
    let page = Exposition::parse(&lone.ask("scraper", "/metrics").await.body);
    let ends_s = page.value("ferrolog_certificate_expiry_timestamp_seconds", &[]);
    let now_s = ferrolog::env::wall_clock_ms() as f64 / 1e3;
    assert!(ends_s.is_some_and(|ends_s| ends_s > now_s), "{ends_s:?}");
    // The right opens nothing else.
    let refused = lone.client_of("scraper").admin().status(None).await;
    assert!(refused.is_err(), "{refused:?}");
    // Who shows no certificate is told why, and nothing else.
    let mut io = lone.network.named("nobody").dial(ADDR).await.unwrap();
    io.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // A reset is as good as an end.
    let _ = timeout(PATIENCE, io.read_to_end(&mut answer))
        .await
        .expect("it ends");
    let answer = String::from_utf8(answer).expect("HTTP/1.1");
    let is_refused = answer.starts_with("HTTP/1.1 400") && answer.contains("speaks TLS");
    assert!(is_refused && !answer.contains("ferrolog_"), "{answer}");
    until("the refusal is counted", async || {
        let page = Exposition::parse(&lone.ask("scraper", "/metrics").await.body);
        let refused = "ferrolog_connections_refused_total";
        let count = page.value(refused, &[("reason", "plain_to_tls")])?;
        (count == 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_end_that_is_told_is_that_of_the_certificate_in_use() {
    const DAY: Duration = Duration::from_hours(24);
    let lone = Lone::secure(POLICY).await;
    let ends_s = async || {
        let ends_s = "ferrolog_certificate_expiry_timestamp_seconds";
        lone.page().await.value(ends_s, &[]).expect("it is told")
    };
    let before = ends_s().await;
    let older = Authority::new(wall_clock() - DAY).unwrap();
    let Security::Mutual(tls) = &lone.security else {
        unreachable!("it was made with TLS");
    };
    tls.take_up(&tls_of_node(&older));
    let earlier = before - ends_s().await;
    assert!((earlier - DAY.as_secs_f64()).abs() < 60.0, "{earlier} s");
}

#[tokio::test]
async fn numbers_say_what_was_done() {
    let lone = Lone::plain().await;
    let client = lone.client_of("app");
    produce(&client, 10).await;
    let options = ConsumeOptions {
        from: Start::Earliest,
        consistency: Consistency::Strong,
        ..ConsumeOptions::default()
    };
    let mut consumer = client.consume(options).unwrap();
    let mut read = 0;
    while let Some(record) = timeout(PATIENCE, consumer.next()).await.expect("an answer") {
        record.unwrap();
        read += 1;
    }
    assert_eq!(read, 10);
    let page = lone.page().await;
    let value = |name: &str, labels: &[(&str, &str)]| {
        let value = page.value(name, labels);
        value.unwrap_or_else(|| panic!("{name} {labels:?} is not told"))
    };
    for (name, told) in [
        ("ferrolog_records_in_total", 10.0),
        ("ferrolog_records_applied_total", 10.0),
        ("ferrolog_records_out_total", 10.0),
        ("ferrolog_raft_is_leader", 1.0),
        ("ferrolog_raft_has_leader", 1.0),
        ("ferrolog_raft_elections_total", 1.0),
        ("ferrolog_raft_leader_changes_total", 1.0),
        ("ferrolog_ready", 1.0),
        ("ferrolog_logs", 1.0),
    ] {
        assert_eq!(value(name, &[]), told, "{name}");
    }
    assert_eq!(value("ferrolog_log_records", &[("log", "default")]), 10.0);
    assert!(value("ferrolog_bytes_in_total", &[]) >= 10.0 * "record 0".len() as f64);
    assert!(value("ferrolog_bytes_out_total", &[]) >= 10.0 * "record 0".len() as f64);
    assert!(value("ferrolog_proposals_committed_total", &[]) >= 1.0);
    assert_eq!(
        value("ferrolog_reads_total", &[("consistency", "strong")]),
        1.0
    );
    for stage in ["queue", "append", "fsync", "quorum", "apply", "answer"] {
        let count = value("ferrolog_write_stage_seconds_count", &[("stage", stage)]);
        assert!(count >= 1.0, "{stage}");
    }
    let open = [
        ("verb", "ferrolog.v1.LogService/OpenSession"),
        ("code", "OK"),
    ];
    assert_eq!(value("ferrolog_requests_total", &open), 1.0);
    assert_eq!(value("ferrolog_request_seconds_count", &open[..1]), 1.0);
    let streams = value(
        "ferrolog_calls",
        &[("verb", "ferrolog.v1.LogService/ProduceStream")],
    );
    assert!(streams <= 1.0, "what has ended is not under way: {streams}");
    assert!(value("ferrolog_process_resident_memory_bytes", &[]) > 1e6);
    assert!(value("ferrolog_process_open_fds", &[]) > 2.0);
}

#[tokio::test]
async fn what_is_told_is_what_the_table_of_families_says() {
    let lone = Lone::secure(POLICY).await;
    // Nobody knows how stale a node is before somebody asks.
    let _ = lone.agent.as_ref().unwrap().log().read_barrier().await;
    let page = lone.page().await;
    let told: BTreeSet<_> = page
        .kinds
        .iter()
        .map(|(name, kind)| (&**name, &**kind))
        .collect();
    let kind = |sort| match sort {
        Sort::Counter => "counter",
        Sort::Gauge => "gauge",
        Sort::Times => "histogram",
    };
    let table = families::ALL.iter();
    let table: BTreeSet<_> = table
        .map(|family| (family.name, kind(family.sort)))
        .collect();
    assert_eq!(told, table);
}

#[tokio::test]
async fn the_second_address_is_for_anybody_and_answers_before_the_node_is_a_member() {
    let lone = Lone::new(Some(Authority::new(wall_clock()).unwrap()));
    let bound = lone.bind(config("join = ['127.0.0.1:1']"), POLICY).await;
    let starting = tokio::spawn(bound.start());
    let health = lone.probe("/healthz").await;
    assert_eq!(health.code, 200, "{health:?}");
    let ready = lone.probe("/readyz").await;
    assert_eq!(ready.code, 503, "{ready:?}");
    assert!(ready.body.contains("no cluster"), "{ready:?}");
    let page = lone.page().await;
    assert_eq!(page.value("ferrolog_ready", &[]), Some(0.0));
    starting.abort();

    let lone = Lone::secure(POLICY).await;
    let ready = lone.probe("/readyz").await;
    assert_eq!((ready.code, ready.body.as_str()), (200, "ready\n"));
    let missing = lone.probe("/").await;
    assert_eq!(missing.code, 404, "{missing:?}");
    let io = lone.network.named("probe").dial(PROBES).await.unwrap();
    let open = "Accept: application/openmetrics-text; version=1.0.0\r\n";
    let told = get(io, "/metrics", open).await;
    assert!(
        told.head.contains("application/openmetrics-text"),
        "{}",
        told.head
    );
    assert!(told.body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn plain_http_is_told_from_the_other_protocols_of_the_port() {
    let lone = Lone::plain().await;
    let told = lone.ask("anybody", "/healthz").await;
    assert_eq!(told.code, 200, "{told:?}");
    let mut io = lone.network.named("probe").dial(ADDR).await.unwrap();
    io.write_all(b"HEAD /readyz HTTP/1.1\r\nHost: node\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    let read = timeout(PATIENCE, io.read_to_string(&mut answer)).await;
    read.expect("the connection ends").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    produce(&lone.client_of("app"), 1).await;
}

/// What a client may do on a connection of plain HTTP has an end.
#[tokio::test(start_paused = true)]
async fn a_slow_or_long_request_ends_with_its_connection() {
    let lone = Lone::plain().await;
    for addr in [ADDR, PROBES] {
        let mut io = lone.network.named("probe").dial(addr).await.unwrap();
        io.write_all(b"GET /healthz HTTP/1.1\r\nHost:")
            .await
            .unwrap();
        let (began, mut answer) = (Instant::now(), Vec::new());
        let read = timeout(PATIENCE, io.read_to_end(&mut answer)).await;
        let _ = read.expect("the connection ends");
        let took = began.elapsed();
        assert!(took <= Duration::from_secs(11), "{addr}: {took:?}");
        assert_eq!(answer, b"", "{addr}");

        let io = lone.network.named("probe").dial(addr).await.unwrap();
        let long = format!("Long: {}\r\n", "x".repeat(20_000));
        let refused = get(io, "/healthz", &long).await;
        assert_eq!(refused.code, 431, "{addr}: {refused:?}");
    }
}

const LOGS: usize = 1_000;
const SERIES_MAX: usize = 2_000;
const SCRAPE_MAX: Duration = Duration::from_millis(10);

#[tokio::test]
async fn a_thousand_logs_are_few_series_and_a_quick_page() {
    let lone = Lone::plain().await;
    let client = lone.client_of("app");
    let names: Vec<_> = (0..LOGS - 1)
        .map(|number| format!("log-{number}"))
        .collect();
    for part in names.chunks(64) {
        let admin = client.admin();
        let made = part
            .iter()
            .map(|name| admin.create_log(name, LogSettings::default()));
        join_all(made)
            .await
            .into_iter()
            .for_each(|made| drop(made.unwrap()));
    }
    produce(&client, 3).await;
    let page = lone.page().await;
    assert_eq!(page.value("ferrolog_logs", &[]), Some(LOGS as f64));
    let count = page.samples.len();
    assert!(count <= SERIES_MAX, "{count} series");
    let told = page
        .samples
        .iter()
        .filter(|(name, ..)| name == "ferrolog_log_records");
    assert_eq!(told.count(), 100, "those with the most records");
    assert_eq!(
        page.value("ferrolog_log_records", &[("log", "default")]),
        Some(3.0)
    );
    let mut quickest = Duration::MAX;
    for _ in 0..20 {
        let began = Instant::now();
        lone.probe("/metrics").await;
        quickest = quickest.min(began.elapsed());
    }
    println!("{count} series, the quickest of 20 pages in {quickest:?}");
    assert!(quickest <= SCRAPE_MAX, "{quickest:?}");
}
