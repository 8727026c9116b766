//! The network of a simulation: hosts, and between each two of them a way that is late, loses, holds or breaks.
//!
//! Streams are TCP's: what arrives, arrives in order. What a way loses is sent again, later; a way that is cut
//! holds everything until it is open again, or its streams are reset.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use ferrolog::client::Client;
use ferrolog::env::Random;
use ferrolog::net::stream_layer::StreamLayer;
use ferrolog::net::{BoxIo, Io, Listener, Network, Security};
use ferrolog::tasks::Process;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::draw;
use super::events;
use super::harness::checker::hash;
use super::pipe::Pipe;

/// Streams dialled but not accepted.
const BACKLOG_MAX: usize = 128;
/// A dial into nothing ends after so long.
const DIAL_MAX: Duration = Duration::from_secs(20);

/// What a way does to bytes.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Least and most that a message takes.
    pub late_us: (u64, u64),
    /// Of a thousand messages, those that are lost and sent again.
    pub lost_of_1000: u64,
    /// Bytes that pass in a second.
    pub bytes_per_second: u64,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            late_us: (50, 1000),
            lost_of_1000: 0,
            bytes_per_second: 1 << 30,
        }
    }
}

type Ends = (String, String);

#[derive(Clone)]
pub struct SimNetwork(Arc<NetworkCore>);

struct NetworkCore {
    state: Mutex<NetworkState>,
    opened: Notify,
    random: Random,
    numbers: AtomicU64,
}

#[derive(Default)]
struct NetworkState {
    usual: Weather,
    /// Ways that differ.
    ways: BTreeMap<Ends, Weather>,
    held: BTreeMap<Ends, ()>,
    /// Hosts that refuse dials.
    refusing: BTreeMap<String, ()>,
    listeners: BTreeMap<String, Port>,
    streams: Vec<Weak<Stream>>,
}

struct Port {
    host: String,
    number: u64,
    backlog: mpsc::Sender<(BoxIo, String)>,
    life: Life,
}

/// A process: once it is over, nothing of it reaches anybody.
#[derive(Clone)]
pub struct Life {
    goes_on: Arc<AtomicBool>,
    pub process: Process,
}

impl Life {
    pub fn new() -> Self {
        Self {
            goes_on: Arc::new(AtomicBool::new(true)),
            process: Process::default(),
        }
    }

    pub fn is_over(&self) -> bool {
        !self.goes_on.load(Ordering::Relaxed)
    }
}

impl SimNetwork {
    pub fn new(random: Random) -> Self {
        Self(Arc::new(NetworkCore {
            state: Mutex::default(),
            opened: Notify::new(),
            random,
            numbers: AtomicU64::new(0),
        }))
    }

    /// The network as a process on this host sees it.
    pub fn of(&self, host: &str, life: &Life) -> HostNetwork {
        HostNetwork {
            network: self.clone(),
            host: host.to_owned(),
            life: life.clone(),
        }
    }

    /// How a client on this host dials.
    pub fn layer(&self, host: &str) -> StreamLayer {
        StreamLayer::new(Arc::new(self.of(host, &Life::new())), Security::Insecure)
    }

    /// A client on this host.
    pub fn client(&self, host: &str, servers: &[String], timeout: Duration) -> Client {
        let client = Client::builder().servers(servers).timeout(timeout);
        let client = client.stream_layer(self.layer(host)).build();
        client.expect("a client with servers")
    }

    fn lock(&self) -> MutexGuard<'_, NetworkState> {
        self.0.state.lock().expect("no panic before")
    }

    pub fn set_usual(&self, weather: Weather) {
        self.lock().usual = weather;
    }

    /// From now on the way from one host to another is so; `None`: as usual.
    pub fn set_way(&self, from: &str, to: &str, weather: Option<Weather>) {
        let key = (from.to_owned(), to.to_owned());
        let mut state = self.lock();
        match weather {
            Some(weather) => drop(state.ways.insert(key, weather)),
            None => drop(state.ways.remove(&key)),
        }
    }

    /// Nothing arrives any more from one host at another, or all does.
    pub fn hold(&self, from: &str, to: &str, is_held: bool) {
        let key = (from.to_owned(), to.to_owned());
        let streams = {
            let mut state = self.lock();
            match is_held {
                true => drop(state.held.insert(key, ())),
                false => drop(state.held.remove(&key)),
            }
            state.streams()
        };
        for stream in streams {
            stream.hold(from, to, is_held);
        }
        self.0.opened.notify_waiters();
    }

    /// Every way is open.
    pub fn heal(&self) {
        let held: Vec<_> = self.lock().held.keys().cloned().collect();
        for (from, to) in held {
            self.hold(&from, &to, false);
        }
        let mut state = self.lock();
        state.ways.clear();
        state.refusing.clear();
        state.usual = Weather::default();
    }

    pub fn refuse(&self, host: &str, does: bool) {
        let mut state = self.lock();
        match does {
            true => drop(state.refusing.insert(host.to_owned(), ())),
            false => drop(state.refusing.remove(host)),
        }
    }

    /// Resets the streams between two hosts, or of one with all.
    pub fn reset(&self, host: &str, other: Option<&str>) {
        let streams = self.lock().streams();
        for stream in streams {
            if stream.touches(host) && other.is_none_or(|other| stream.touches(other)) {
                stream.sever();
            }
        }
    }

    /// Ends one direction of every stream from one host to another.
    pub fn half_close(&self, from: &str, to: &str) {
        let streams = self.lock().streams();
        for stream in streams {
            stream.half_close(from, to);
        }
    }

    /// A process is over: its ports are closed, and its streams are reset, or silent until somebody sends.
    pub fn end(&self, life: &Life) {
        life.goes_on.store(false, Ordering::Relaxed);
        let streams = {
            let mut state = self.lock();
            state.listeners.retain(|_, port| !port.life.is_over());
            state.streams()
        };
        for stream in streams {
            if stream.lives.iter().any(Life::is_over) {
                stream.sever();
            }
        }
    }

    fn weather(&self, from: &str, to: &str) -> Weather {
        let state = self.lock();
        let key = (from.to_owned(), to.to_owned());
        state.ways.get(&key).copied().unwrap_or(state.usual)
    }

    /// How long a message takes.
    fn takes(&self, from: &str, to: &str, bytes: usize) -> Duration {
        let weather = self.weather(from, to);
        let random = &self.0.random;
        let mut us = draw(random, weather.late_us.0..=weather.late_us.1);
        us += bytes as u64 * 1_000_000 / weather.bytes_per_second;
        while draw(random, 1..=1000) <= weather.lost_of_1000 {
            us += draw(random, 200_000..=400_000);
        }
        Duration::from_micros(us)
    }

    async fn open(&self, from: &str, to: &str) {
        loop {
            let opened = self.0.opened.notified();
            tokio::pin!(opened);
            opened.as_mut().enable();
            let is_open = {
                let held = &self.lock().held;
                let held = |from: &str, to: &str| held.contains_key(&(from.into(), to.into()));
                !held(from, to) && !held(to, from)
            };
            if is_open {
                return;
            }
            opened.await;
        }
    }

    async fn connect(&self, from: &HostNetwork, addr: &str) -> io::Result<BoxIo> {
        let host = self
            .lock()
            .listeners
            .get(addr)
            .map(|port| port.host.clone());
        let host = host.unwrap_or_else(|| addr.to_owned());
        let takes = self.takes(&from.host, &host, 0) + self.takes(&host, &from.host, 0);
        let arrives = async {
            self.open(&from.host, &host).await;
            tokio::time::sleep(takes).await;
        };
        let arrived = tokio::time::timeout(DIAL_MAX, arrives).await;
        arrived.map_err(|_| io::Error::from(ErrorKind::TimedOut))?;
        let mut state = self.lock();
        let refused = || Err(ErrorKind::ConnectionRefused.into());
        let Some(port) = state.listeners.get(addr) else {
            return refused();
        };
        if from.life.is_over() || state.refusing.contains_key(&port.host) {
            return refused();
        }
        let number = self.0.numbers.fetch_add(1, Ordering::Relaxed);
        let stream = Arc::new(Stream {
            number,
            hosts: [from.host.clone(), port.host.clone()],
            lives: [from.life.clone(), port.life.clone()],
            pipes: Default::default(),
        });
        let end = |side| End {
            network: self.clone(),
            stream: stream.clone(),
            side,
        };
        let far = (Box::new(end(1)) as BoxIo, from.host.clone());
        if port.backlog.try_send(far).is_err() {
            return refused();
        }
        state.streams.retain(|stream| stream.strong_count() > 0);
        state.streams.push(Arc::downgrade(&stream));
        drop(state);
        events::note(format_args!("dial {number} {} {host}", from.host));
        Ok(Box::new(end(0)))
    }
}

impl NetworkState {
    fn streams(&self) -> Vec<Arc<Stream>> {
        self.streams.iter().filter_map(Weak::upgrade).collect()
    }
}

/// One host's view.
#[derive(Clone)]
pub struct HostNetwork {
    network: SimNetwork,
    host: String,
    life: Life,
}

impl Network for HostNetwork {
    fn dial<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<BoxIo>> {
        Box::pin(self.network.connect(self, addr))
    }

    fn resolve<'a>(&'a self, _addr: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn listen<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let mut state = self.network.lock();
            if state.listeners.contains_key(addr) {
                return Err(ErrorKind::AddrInUse.into());
            }
            let (sender, backlog) = mpsc::channel(BACKLOG_MAX);
            let number = self.network.0.numbers.fetch_add(1, Ordering::Relaxed);
            let port = Port {
                host: self.host.clone(),
                number,
                backlog: sender,
                life: self.life.clone(),
            };
            state.listeners.insert(addr.to_owned(), port);
            let (network, addr) = (self.network.clone(), addr.to_owned());
            let listener = SimListener {
                network,
                addr,
                number,
                backlog,
            };
            Ok(Box::new(listener) as Box<dyn Listener>)
        })
    }
}

struct SimListener {
    network: SimNetwork,
    addr: String,
    number: u64,
    backlog: mpsc::Receiver<(BoxIo, String)>,
}

impl Listener for SimListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxIo, String)>> {
        Box::pin(async move {
            match self.backlog.recv().await {
                Some(accepted) => Ok(accepted),
                // The process is over.
                None => std::future::pending().await,
            }
        })
    }

    fn local_addr(&self) -> String {
        self.addr.clone()
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let mut state = self.network.lock();
        if state
            .listeners
            .get(&self.addr)
            .is_some_and(|port| port.number == self.number)
        {
            state.listeners.remove(&self.addr);
        }
    }
}

/// A stream: the dialling side is 0, and its pipe is the one that it writes to.
struct Stream {
    number: u64,
    hosts: [String; 2],
    lives: [Life; 2],
    pipes: [Pipe; 2],
}

impl Stream {
    fn touches(&self, host: &str) -> bool {
        self.hosts.iter().any(|one| one == host)
    }

    fn sever(&self) {
        self.pipes.iter().for_each(Pipe::sever);
    }

    fn ways(&self, from: &str, to: &str) -> impl Iterator<Item = &Pipe> {
        let is_it = move |side: usize| self.hosts[side] == from && self.hosts[1 - side] == to;
        (0..2)
            .filter(move |side| is_it(*side))
            .map(|side| &self.pipes[side])
    }

    fn hold(&self, from: &str, to: &str, is_held: bool) {
        self.ways(from, to).for_each(|pipe| pipe.hold(is_held));
    }

    fn half_close(&self, from: &str, to: &str) {
        self.ways(from, to)
            .for_each(|pipe| pipe.end(Instant::now()));
    }
}

struct End {
    network: SimNetwork,
    stream: Arc<Stream>,
    side: usize,
}

impl Io for End {}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.stream.lives[self.side].process.stands_still(cx) {
            return Poll::Pending;
        }
        self.stream.pipes[1 - self.side].poll_read(cx, buf)
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Stream {
            number,
            hosts,
            lives,
            pipes,
        } = &*self.stream;
        if lives[self.side].process.stands_still(cx) {
            return Poll::Pending;
        }
        let (from, to) = (&hosts[self.side], &hosts[1 - self.side]);
        let arrives = |part| Instant::now() + self.network.takes(from, to, part);
        let written = pipes[self.side].poll_write(cx, bytes, arrives);
        if let Poll::Ready(Ok(part)) = &written {
            let (side, sum) = (self.side, hash(&bytes[..*part]));
            events::note(format_args!("sent {number}.{side} {part} {sum:016x}"));
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let hosts = &self.stream.hosts;
        let takes = self
            .network
            .takes(&hosts[self.side], &hosts[1 - self.side], 0);
        self.stream.pipes[self.side].end(Instant::now() + takes);
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.stream.pipes[1 - self.side].leave();
        self.stream.pipes[self.side].end(Instant::now());
    }
}
