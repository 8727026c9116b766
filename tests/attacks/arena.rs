//! What every attack needs: a cluster with a policy, connections that break the rules, and a client that watches.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ferrolog::net::Kind;
use ferrolog::net::stream_layer::{ChannelOptions, StreamLayer};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::harness::native::{self, Client};
use super::harness::{PATIENCE, Stage, until};

/// The most resident memory, in bytes, that any attack may make a node take.
pub const RESIDENT_MAX: u64 = 300 << 20;
/// The client without any right.
pub const MALLORY: &str = "mallory";
/// A client that may produce.
pub const WRITER: &str = "writer";
/// Another client that may produce.
pub const PRESS: &str = "press";
/// A client that may consume.
pub const READER: &str = "reader";
const CANARY: &str = "canary";
const POLICY: &str = "p, canary, *, produce\np, canary, *, consume\n\
                      p, writer, *, produce\np, press, *, produce\n\
                      p, reader, *, consume\n";
const CANARY_EVERY: Duration = Duration::from_millis(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long 99 of 100 of the canary's calls may take.
const CANARY_MAX: Duration = Duration::from_millis(250);
/// The same limit for short runs, beside whatever else the machine does.
const CANARY_MAX_SHORT: Duration = Duration::from_secs(5);

/// Whether attacks run for their full length: `make attack` asks for that.
pub fn is_full() -> bool {
    std::env::var("FERROLOG_ATTACK").is_ok_and(|length| length == "full")
}

/// How long an attack goes on that wears a node down.
pub fn length() -> Duration {
    Duration::from_secs(if is_full() { 60 } else { 3 })
}

/// How long an attack is held that only fills a node. The node grows no more once its limits are reached, and has
/// ended messages that stand still by then.
pub fn held() -> Duration {
    Duration::from_secs(if is_full() { 30 } else { 3 })
}

/// Three nodes whose policy tells the clients apart.
pub struct Arena {
    pub stage: Stage,
}

impl Arena {
    pub async fn start() -> Self {
        let clients = [CANARY, MALLORY, WRITER, PRESS, READER];
        let stage = Stage::start_alone_under(POLICY, &clients).await;
        Self { stage }
    }

    /// How the client `who` dials.
    pub fn layer(&self, who: &str) -> StreamLayer {
        self.stage.layer_of(who)
    }

    pub fn client(&self, who: &str, place: usize) -> Client {
        let addr = self.stage.cluster.addr(place);
        native::client(&self.layer(who), addr, ChannelOptions::default())
    }

    /// A connection that sends whatever frames it is told to.
    pub async fn raw(&self, who: &str, place: usize) -> Raw {
        Raw::dial(&self.layer(who), self.stage.cluster.addr(place), None).await
    }

    /// The same connection with a window of zero bytes: no answer with a body can come.
    pub async fn deaf(&self, who: &str, place: usize) -> Raw {
        Raw::dial(&self.layer(who), self.stage.cluster.addr(place), Some(0)).await
    }

    /// The resident memory of the largest node, in bytes.
    pub fn resident(&self) -> u64 {
        let nodes = 0..self.stage.cluster.node_count();
        let of = |node| self.stage.cluster.resident_bytes(node).expect("it runs");
        nodes.map(of).max().expect("nodes")
    }

    /// Until the attack is over: calls one node as a canary does, and measures the largest node.
    pub async fn watch(&self, place: usize, attack: impl Future<Output = ()>) -> Watched {
        let before = self.resident();
        let canary = Canary::start(self.client(CANARY, place)).await;
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut peak = before;
        let mut attack = std::pin::pin!(attack);
        loop {
            tokio::select! {
                () = &mut attack => break,
                _ = looks.tick() => peak = peak.max(self.resident()),
            }
        }
        let times = canary.stop().await;
        Watched {
            before,
            peak,
            times,
        }
    }
}

/// How those calls ended that ended within `limit`.
pub async fn ends_within(calls: Vec<RawCall>, limit: Duration) -> Vec<Result<u32, h2::Error>> {
    let ends: FuturesUnordered<_> = calls.into_iter().map(RawCall::status).collect();
    // The question is how many end in time: time itself is the subject.
    let ends = ends.take_until(tokio::time::sleep(limit));
    ends.collect().await
}

/// What was measured beside an attack.
#[derive(Debug)]
pub struct Watched {
    before: u64,
    peak: u64,
    /// How long the canary's calls took, sorted.
    times: Vec<Duration>,
}

impl Watched {
    /// Prints what was measured, and holds it against the limits.
    pub fn check(&self, attack: &str) {
        let last = self.times.len().saturating_sub(1);
        let at = |share: usize| self.times[last * share / 100];
        let (before, peak) = (self.before >> 20, self.peak >> 20);
        println!(
            "{attack}: resident {before} -> {peak} MiB; canary {} calls, p50 {:?}, p99 {:?}, longest {:?}",
            self.times.len(),
            at(50),
            at(99),
            at(100)
        );
        assert!(self.peak <= RESIDENT_MAX, "{attack}: {peak} MiB");
        let most = if is_full() {
            CANARY_MAX
        } else {
            CANARY_MAX_SHORT
        };
        assert!(
            at(99) <= most,
            "{attack}: the canary's calls took {:?}",
            at(99)
        );
    }
}

/// A client that does nothing wrong, and measures how long its calls take.
struct Canary {
    over: Arc<Notify>,
    singing: JoinHandle<Vec<Duration>>,
}

impl Canary {
    async fn start(mut client: Client) -> Self {
        let first = native::produce(&mut client, b"canary").await;
        first.expect("a canary that sings before the attack");
        let over = Arc::new(Notify::new());
        let ends = over.clone();
        let singing = tokio::spawn(async move {
            let mut times = Vec::new();
            let mut ticks = tokio::time::interval(CANARY_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = ends.notified() => break,
                    _ = ticks.tick() => {}
                }
                let begun = Instant::now();
                let sung = native::produce(&mut client, b"canary").await;
                sung.unwrap_or_else(|status| panic!("the canary's call failed: {status:?}"));
                times.push(begun.elapsed());
            }
            times.sort_unstable();
            times
        });
        Self { over, singing }
    }

    async fn stop(self) -> Vec<Duration> {
        self.over.notify_one();
        let times = self.singing.await.expect("a canary that lives");
        assert!(!times.is_empty(), "the canary never sang");
        times
    }
}

/// A connection whose gRPC frames are written by hand.
pub struct Raw {
    requests: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A call whose request has not ended.
pub struct RawCall {
    pub answer: ResponseFuture,
    pub request: SendStream<Bytes>,
}

impl Raw {
    async fn dial(layer: &StreamLayer, addr: &str, window: Option<u32>) -> Self {
        // Beside many connections that prove nothing, the node may turn away one that is slow to prove itself.
        let dial = async || {
            let io = layer.dial(Kind::Grpc, addr, PATIENCE).await.ok()?;
            let mut builder = h2::client::Builder::new();
            // The attacker's memory is not the subject.
            builder.max_send_buffer_size(64 << 20);
            // Answers that nobody looks at must not end the attack: the library gives up a connection on
            // which many small frames wait, such as the credit that comes first on each produce stream.
            builder.data_frame_budget(1 << 30);
            if let Some(window) = window {
                builder.initial_window_size(window);
            }
            builder.handshake(io).await.ok()
        };
        let (requests, connection) = until("a connection", dial).await;
        let driver = tokio::spawn(async move {
            // An attack may be ended by its victim.
            let _ = connection.await;
        });
        Self { requests, driver }
    }

    /// Sends the headers of a call.
    pub async fn open(&mut self, path: &str) -> Option<RawCall> {
        let request = http::Request::post(format!("https://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("headers");
        let ready = timeout(PATIENCE, self.requests.clone().ready()).await;
        self.requests = ready.expect("a place for a call").ok()?;
        let (answer, request) = self.requests.send_request(request, false).ok()?;
        Some(RawCall { answer, request })
    }

    /// A whole call with one message: its `grpc-status`.
    pub async fn call(&mut self, path: &str, message: Bytes) -> Result<u32, h2::Error> {
        let mut call = self.open(path).await.expect("a call");
        call.request.send_data(message, true)?;
        call.status().await
    }
}

impl RawCall {
    /// What the call ended with: its status, or how its stream broke.
    pub async fn status(self) -> Result<u32, h2::Error> {
        let answer = self.answer.await?;
        if let Some(status) = status_of(answer.headers()) {
            return Ok(status);
        }
        let mut body: RecvStream = answer.into_body();
        while let Some(data) = body.data().await {
            let length = data?.len();
            let _ = body.flow_control().release_capacity(length);
        }
        let trailers = body
            .trailers()
            .await?
            .expect("an answer ends with a status");
        Ok(status_of(&trailers).expect("a status in numbers"))
    }
}

fn status_of(headers: &http::HeaderMap) -> Option<u32> {
    let status = headers.get("grpc-status")?;
    status.to_str().ok()?.parse().ok()
}

/// A message as it stands in the body of a gRPC request: no compression, length, bytes.
pub fn framed(message: &impl prost::Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.extend_from_slice(&[0]);
    let length = u32::try_from(message.encoded_len()).expect("a message");
    bytes.extend_from_slice(&length.to_be_bytes());
    message.encode(&mut bytes).expect("there is room");
    bytes.freeze()
}
