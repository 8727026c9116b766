//! A proxy before one node that breaks connections: where a seed says, or at once when a test says so.
//!
//! It knows no protocol. Bytes pass in order and unchanged until a connection is cut; then both sides lose it.
//! Dropping the proxy ends all its connections.
#![allow(
    clippy::disallowed_methods,
    reason = "it stands between real sockets, and listens and dials itself"
)]

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ferrolog::env::Random;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout_at};

/// A reply that is to be lost is waited for, so that the node has done the work, but not longer than this.
const SWALLOW_MAX: Duration = Duration::from_millis(300);
/// Of a lost reply, at most so many bytes are taken before the cut.
const SWALLOWED_MAX: u64 = 400;
/// New connections are refused for less than this.
const REFUSAL_MS: u64 = 300;
const CHUNK: usize = 16 << 10;

/// What a proxy has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub connections: u64,
    /// Cut after a request had passed and before any byte of its reply.
    pub replies_lost: u64,
    /// Cut within a reply.
    pub replies_cut: u64,
    /// New connections that were turned away.
    pub refused: u64,
}

impl Counts {
    pub fn cuts(self) -> u64 {
        self.replies_lost + self.replies_cut
    }
}

#[derive(Default)]
struct Tally {
    connections: AtomicU64,
    replies_lost: AtomicU64,
    replies_cut: AtomicU64,
    refused: AtomicU64,
}

/// What is asked of every connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Orders {
    paused: bool,
    /// Grows with each order to lose a reply, and to cut one.
    lose: u64,
    cut: u64,
}

struct ProxyState {
    upstream: String,
    random: Random,
    /// After so many bytes of replies a connection breaks, while faults are on.
    lifetime: Range<u64>,
    faults: AtomicBool,
    refused_until: std::sync::Mutex<Option<Instant>>,
    orders: watch::Sender<Orders>,
    tally: Tally,
}

/// How a connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    LoseReply,
    CutReply,
}

/// A proxy that runs; faults are off.
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<ProxyState>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Stands before `upstream`. While faults are on, each connection breaks after a number of bytes of replies
    /// within `lifetime`, drawn by the seed.
    pub async fn start(upstream: &str, seed: u64, lifetime: Range<u64>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("its address");
        let shared = Arc::new(ProxyState {
            upstream: upstream.to_owned(),
            random: Random::seeded(seed),
            lifetime,
            faults: AtomicBool::new(false),
            refused_until: std::sync::Mutex::new(None),
            orders: watch::channel(Orders::default()).0,
            tally: Tally::default(),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { addr, shared, task }
    }

    pub fn addr(&self) -> String {
        self.addr.to_string()
    }

    /// Switches the seeded faults on or off.
    pub fn set_faults(&self, on: bool) {
        self.shared.faults.store(on, Ordering::Relaxed);
    }

    /// Every connection loses the reply to what is sent next.
    pub fn lose_replies(&self) {
        self.shared.orders.send_modify(|orders| orders.lose += 1);
    }

    /// Every connection breaks within the next reply.
    pub fn cut_replies(&self) {
        self.shared.orders.send_modify(|orders| orders.cut += 1);
    }

    /// Turns new connections away for so long.
    pub fn refuse_for(&self, span: Duration) {
        self.shared.refuse_for(span);
    }

    /// While it is paused nothing is read from either side.
    pub fn pause(&self, paused: bool) {
        self.shared
            .orders
            .send_modify(|orders| orders.paused = paused);
    }

    pub fn counts(&self) -> Counts {
        let tally = &self.shared.tally;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            connections: read(&tally.connections),
            replies_lost: read(&tally.replies_lost),
            replies_cut: read(&tally.replies_cut),
            refused: read(&tally.refused),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The connections are tasks of this one, and end with it.
        self.task.abort();
    }
}

impl ProxyState {
    /// A number below `limit`.
    fn draw(&self, limit: u64) -> u64 {
        let drawn = self.random.next_u128() % u128::from(limit.max(1));
        u64::try_from(drawn).expect("less than a u64")
    }

    fn refuse_for(&self, span: Duration) {
        let until = Instant::now() + span;
        *self.refused_until.lock().expect("no panic before") = Some(until);
    }

    fn refuses(&self) -> bool {
        let until = *self.refused_until.lock().expect("no panic before");
        until.is_some_and(|until| Instant::now() < until)
    }

    fn count(&self, end: End) {
        match end {
            End::LoseReply => &self.tally.replies_lost,
            End::CutReply => &self.tally.replies_cut,
        }
        .fetch_add(1, Ordering::Relaxed);
    }
}

async fn accept(listener: TcpListener, shared: Arc<ProxyState>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                if shared.refuses() {
                    shared.tally.refused.fetch_add(1, Ordering::Relaxed);
                    reset(&client);
                    continue;
                }
                shared.tally.connections.fetch_add(1, Ordering::Relaxed);
                connections.spawn(connection(client, Arc::clone(&shared)));
            }
        }
    }
}

/// The other side sees an error at once, and nothing that is under way.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

async fn connection(client: TcpStream, shared: Arc<ProxyState>) {
    let Ok(server) = TcpStream::connect(&shared.upstream).await else {
        reset(&client);
        return;
    };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
        // The node, too, must see a broken connection and no good end.
        reset(stream);
    }
    let orders = shared.orders.subscribe();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Tells the replies' side when a request has passed.
    let (passed, requests) = watch::channel(0_u64);
    let up = requests_pass(from_client, to_server, orders.clone(), passed);
    let mut down = Replies {
        from_server,
        to_client,
        orders,
        requests,
        shared: Arc::clone(&shared),
    };
    // Whichever side ends first ends both.
    tokio::select! {
        _ = up => {}
        end = down.pass() => {
            if let Ok(Some(end)) = end {
                shared.count(end);
                if shared.faults.load(Ordering::Relaxed) && shared.draw(4) == 0 {
                    shared.refuse_for(Duration::from_millis(shared.draw(REFUSAL_MS)));
                }
            }
        }
    }
}

/// Waits while the proxy is paused. Ends never once the proxy is gone: then the task is too.
async fn go_on(orders: &mut watch::Receiver<Orders>) {
    if orders.wait_for(|orders| !orders.paused).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn requests_pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut orders: watch::Receiver<Orders>,
    passed: watch::Sender<u64>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        go_on(&mut orders).await;
        let read = from.read(&mut chunk).await?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&chunk[..read]).await?;
        passed.send_modify(|count| *count += 1);
    }
}

/// The side of the replies, which decides when the connection breaks.
struct Replies {
    from_server: OwnedReadHalf,
    to_client: OwnedWriteHalf,
    orders: watch::Receiver<Orders>,
    requests: watch::Receiver<u64>,
    shared: Arc<ProxyState>,
}

impl Replies {
    /// Passes replies on until a side ends, or until it is time to break: then it says how it broke.
    async fn pass(&mut self) -> io::Result<Option<End>> {
        let mut chunk = vec![0; CHUNK];
        let span = self
            .shared
            .lifetime
            .end
            .saturating_sub(self.shared.lifetime.start);
        let mut left = self.shared.lifetime.start + self.shared.draw(span);
        let known = *self.orders.borrow();
        loop {
            go_on(&mut self.orders).await;
            let read = tokio::select! {
                read = self.from_server.read(&mut chunk) => read?,
                ordered = ordered(&mut self.orders, known) => match ordered {
                    End::LoseReply => return self.lose_reply().await,
                    End::CutReply => return self.cut_reply(&[]).await,
                },
            };
            if read == 0 {
                return Ok(None);
            }
            left = left.saturating_sub(read as u64);
            if left > 0 || !self.shared.faults.load(Ordering::Relaxed) {
                self.to_client.write_all(&chunk[..read]).await?;
            } else if self.shared.draw(2) == 0 {
                return self.cut_reply(&chunk[..read]).await;
            } else {
                self.to_client.write_all(&chunk[..read]).await?;
                return self.lose_reply().await;
            }
        }
    }

    /// Lets one more request pass and keeps what the node says to it.
    async fn lose_reply(&mut self) -> io::Result<Option<End>> {
        let deadline = Instant::now() + SWALLOW_MAX;
        self.requests.mark_unchanged();
        // A client that sends nothing more loses the replies that it waits for.
        let _ = timeout_at(deadline, self.requests.changed()).await;
        let mut chunk = vec![0; CHUNK];
        let mut left = 1 + self.shared.draw(SWALLOWED_MAX);
        while left > 0 {
            let read = timeout_at(deadline, self.from_server.read(&mut chunk)).await;
            match read {
                Ok(Ok(read)) if read > 0 => left = left.saturating_sub(read as u64),
                _ => break,
            }
        }
        Ok(Some(End::LoseReply))
    }

    /// Passes a part of a reply: of this one, or of the next.
    async fn cut_reply(&mut self, reply: &[u8]) -> io::Result<Option<End>> {
        let mut reply = reply.to_vec();
        if reply.is_empty() {
            reply.resize(CHUNK, 0);
            let read = self.from_server.read(&mut reply).await?;
            reply.truncate(read);
        }
        let kept = usize::try_from(self.shared.draw(reply.len() as u64)).expect("of a chunk");
        self.to_client.write_all(&reply[..kept]).await?;
        // What has passed is to arrive before the end.
        let _ = SockRef::from(self.to_client.as_ref()).set_linger(None);
        Ok(Some(End::CutReply))
    }
}

/// Waits for an order that was given after these.
async fn ordered(orders: &mut watch::Receiver<Orders>, known: Orders) -> End {
    let given = |orders: &Orders| orders.lose != known.lose || orders.cut != known.cut;
    let now = orders.wait_for(given).await.ok().map(|orders| *orders);
    match now {
        Some(now) if now.lose != known.lose => End::LoseReply,
        Some(_) => End::CutReply,
        None => std::future::pending().await,
    }
}
