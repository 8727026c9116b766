//! Connections that say nothing, little, or far too much.
#![allow(
    clippy::disallowed_methods,
    reason = "an attacker opens sockets that no client of ours would"
)]

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::Duration;

use ferrolog::cli::local_cluster::Signal;
use ferrolog::net::Kind;
use ferrolog::net::stream_layer::StreamLayer;
use ferrolog::net::tls::TlsFiles;
use ferrolog::proto::v1::GetLimitsRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, timeout};

use crate::harness::{PATIENCE, Stage, command, native, until, wire};

/// More connections than there are places for those that have proven nothing.
pub const SILENT: usize = 1100;
/// A client that does nothing wrong is served within this time, which is shorter than a silent connection holds its
/// place.
const SERVED_WITHIN: Duration = Duration::from_secs(3);

/// Holds connections that sent `opening` and nothing more. A connection that the node closes is dialled again.
pub struct Flood(JoinHandle<()>);

impl Flood {
    pub async fn begin(addr: &str, opening: &'static [u8], count: usize) -> Self {
        let addr = addr.to_owned();
        let (tell, mut full) = tokio::sync::watch::channel(false);
        let held = tokio::spawn(async move {
            let mut held = VecDeque::with_capacity(count);
            // Two hundred new ones a second, so that each place is asked for every five seconds.
            let mut ticks = tokio::time::interval(Duration::from_millis(5));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                if let Ok(Ok(mut stream)) = timeout(PATIENCE, TcpStream::connect(&addr)).await {
                    // One that the node has closed already makes room for another below.
                    let _ = stream.write_all(opening).await;
                    held.push_back(stream);
                }
                if held.len() >= count {
                    tell.send_replace(true);
                }
                if *tell.borrow() {
                    ticks.tick().await;
                    held.retain(|stream| match stream.try_read(&mut [0]) {
                        Ok(count) => count > 0,
                        Err(error) => error.kind() == ErrorKind::WouldBlock,
                    });
                    held.truncate(count - 1);
                }
            }
        });
        let filled = timeout(PATIENCE, full.wait_for(|full| *full)).await;
        filled.expect("they connect").expect("it goes on");
        Self(held)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How long a new client takes from its handshake to its first answer.
async fn new_client(stage: &Stage, place: usize) -> Duration {
    let begun = Instant::now();
    let mut client = native::client_of(stage, place);
    let asked = timeout(PATIENCE, client.get_limits(GetLimitsRequest {})).await;
    if let Err(status) = asked.expect("an answer") {
        panic!("not served: {status:?}; {}", stage.log_since(place, 0));
    }
    begun.elapsed()
}

#[tokio::test]
async fn connections_that_say_nothing_lock_nobody_out() {
    let mut stage = Stage::start_alone().await;
    let leader = stage.leader().await;
    let follower = stage.others(leader)[0];
    for opening in [&b""[..], b"\x16", b"\x01"] {
        let flood = Flood::begin(stage.cluster.addr(leader), opening, SILENT).await;
        for _ in 0..12 {
            let took = new_client(&stage, leader).await;
            assert!(took < SERVED_WITHIN, "{opening:?}: a client took {took:?}");
        }
        // A node that comes back needs connections of its own to the leader.
        stage.cluster.kill(follower).await.expect("killed");
        stage.cluster.restart(follower).await.expect("restarted");
        until("the follower passes records on", async || {
            let mut client = native::client_of(&stage, follower);
            let told = timeout(SERVED_WITHIN, native::produce(&mut client, b"peer")).await;
            told.ok()?.ok()
        })
        .await;
        drop(flood);
    }
}

/// A connection whose frames are written by hand.
struct Raw {
    io: ferrolog::net::BoxIo,
    last_id: u32,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header that HPACK keeps in no table.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.push(u8::try_from(text.len()).expect("a short text"));
        bytes.extend(text.as_bytes());
    }
    bytes
}

impl Raw {
    async fn open(layer: &StreamLayer, addr: &str) -> Self {
        let mut io = layer.dial(Kind::Grpc, addr, PATIENCE).await.expect("TLS");
        let opening = [PREFACE, &frame(4, 0, 0, &[])].concat();
        io.write_all(&opening).await.expect("open");
        io.flush().await.expect("open");
        Self { io, last_id: 0 }
    }

    /// The frames that begin a call.
    fn call(&mut self, path: &str) -> (u32, Vec<u8>) {
        self.last_id += if self.last_id == 0 { 1 } else { 2 };
        let headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ];
        let headers: Vec<_> = headers.map(|(name, value)| literal(name, value)).concat();
        (self.last_id, frame(1, 4, self.last_id, &headers))
    }

    async fn write(&mut self, bytes: &[u8]) {
        let written = timeout(PATIENCE, self.io.write_all(bytes)).await;
        written.expect("it is read").expect("it is open");
        self.io.flush().await.expect("it is open");
    }

    /// The next frame: kind, flags, stream, payload.
    async fn next(&mut self) -> (u8, u8, u32, Vec<u8>) {
        let read = async {
            let mut head = [0; 9];
            self.io.read_exact(&mut head).await.expect("a frame");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.io.read_exact(&mut payload).await.expect("its payload");
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            (head[3], head[4], stream, payload)
        };
        timeout(PATIENCE, read).await.expect("a frame in time")
    }

    /// The payload of the first frame of a kind on a stream; nothing may end the connection before it.
    async fn until(&mut self, wanted: u8, on: u32) -> Vec<u8> {
        loop {
            let (kind, flags, stream, payload) = self.next().await;
            if (kind, stream) == (wanted, on) {
                return payload;
            }
            let text = String::from_utf8_lossy(&payload).into_owned();
            assert_ne!(kind, 7, "the connection is given up: {text}");
            if kind == 6 && flags & 1 == 0 {
                self.write(&frame(6, 1, 0, &payload)).await;
            }
        }
    }
}

/// The message of a health check of the whole node: empty.
const EMPTY: &[u8] = &[0, 0, 0, 0, 0];
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const CHECK: &str = "/grpc.health.v1.Health/Check";

#[tokio::test]
async fn a_storm_of_cancelled_calls_leaves_the_others_of_its_connection_alone() {
    let stage = Stage::start().await;
    let layer = stage.cluster.stream_layer().expect("a certificate");
    let mut raw = Raw::open(&layer, stage.cluster.addr(0)).await;
    let (watch, begun) = raw.call(WATCH);
    let body = frame(0, 1, watch, EMPTY);
    raw.write(&[begun, body].concat()).await;
    raw.until(0, watch).await;
    // Calls that are cancelled before the node has even seen them, by hundreds at once.
    for _ in 0..20 {
        let mut storm = Vec::new();
        for _ in 0..300 {
            let (id, begun) = raw.call(CHECK);
            storm.extend(begun);
            storm.extend(frame(3, 0, id, &8u32.to_be_bytes()));
        }
        raw.write(&storm).await;
        let (check, begun) = raw.call(CHECK);
        let body = frame(0, 1, check, EMPTY);
        raw.write(&[begun, body].concat()).await;
        raw.until(0, check).await;
    }
    // The call from before the storm is under way still, and hears that the node stops.
    let pid_stops = stage.cluster.signal(0, Signal::TERM);
    pid_stops.expect("told to stop");
    loop {
        let (kind, _, stream, payload) = raw.next().await;
        if (kind, stream) == (0, watch) && payload.last() == Some(&2) {
            break;
        }
        assert_ne!((kind, stream), (3, watch), "the call was cut");
    }
}

/// A new client's certificate.
async fn certificate(stage: &Stage, name: &str) -> TlsFiles {
    let certs = stage.path().join("certs");
    let out = certs.to_str().expect("UTF-8");
    let mint = ["certs", "--out", out, "--nodes", "n4", "--clients", name];
    command::run(&mint.map(str::to_owned))
        .await
        .expect_success();
    TlsFiles {
        ca: certs.join("ca.pem"),
        cert: certs.join(format!("{name}.pem")),
        key: certs.join(format!("{name}-key.pem")),
        crl: None,
    }
}

#[tokio::test]
async fn one_certificate_does_not_take_every_connection() {
    const CONNECTIONS_MAX: usize = 200;
    let stage = Stage::start_with(&["--connections-max", "200"]).await;
    let layer = wire::layer_of(&certificate(&stage, "mallory").await);
    let seen = stage.log_len(0);
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX / 4 {
        let mut raw = Raw::open(&layer, stage.cluster.addr(0)).await;
        raw.until(4, 0).await;
        held.push(raw);
    }
    let mut refused = Raw::open(&layer, stage.cluster.addr(0)).await;
    let goodbye = loop {
        let (kind, _, _, payload) = refused.next().await;
        if kind == 7 {
            break String::from_utf8_lossy(&payload).into_owned();
        }
    };
    let said = |text: &str| text.contains("50 connections of \"mallory\"");
    assert!(said(&goodbye), "{goodbye:?}");
    drop(refused);
    until("the log says so", async || {
        said(&stage.log_since(0, seen).replace('\\', "")).then_some(())
    })
    .await;
    // Other clients are served, and so is this one, on the connections that it holds.
    assert!(new_client(&stage, 0).await < SERVED_WITHIN);
    let mut first = held.swap_remove(0);
    let (check, begun) = first.call(CHECK);
    first
        .write(&[begun, frame(0, 1, check, EMPTY)].concat())
        .await;
    first.until(0, check).await;
    // A place that was given back can be taken.
    drop(first);
    until("a place is free", async || {
        let mut raw = Raw::open(&layer, stage.cluster.addr(0)).await;
        (raw.next().await.0 == 4 && raw.next().await.0 != 7).then_some(())
    })
    .await;
}

/// Connections of this machine to or from a port that were closed a moment ago.
fn closed_lately(addr: &str) -> usize {
    const TIME_WAIT: &str = "06";
    let port = addr.rsplit_once(':').expect("a port").1;
    let port = format!(":{:04X}", port.parse::<u16>().expect("a number"));
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table of connections");
    let ended = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""));
        let is_ours = local.ends_with(&port) || remote.ends_with(&port);
        is_ours && fields.next() == Some(TIME_WAIT)
    };
    table.lines().filter(ended).count()
}

#[tokio::test]
async fn commands_through_a_follower_share_one_connection_to_the_leader() {
    const COMMANDS: u64 = 60;
    let stage = Stage::start_alone().await;
    let leader = stage.leader().await;
    let client = stage.client_of(stage.others(leader)[0]);
    let before = closed_lately(stage.cluster.addr(leader));
    for number in 0..COMMANDS {
        let name = format!("cursor-{number}");
        client
            .admin()
            .create_cursor(&name, 0)
            .await
            .expect("a cursor");
    }
    let left = closed_lately(stage.cluster.addr(leader)) - before;
    assert!(
        left < 10,
        "{left} of {COMMANDS} commands dialled for themselves"
    );
}
