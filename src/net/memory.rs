//! A network inside one process, for whole clusters in one thread under a paused clock.
//!
//! It promises what TCP does (ordered bytes, bounded buffers, end of stream when a side is dropped) and adds
//! `cut` and `heal`. It uses no clock, no randomness and no thread, so a run repeats. Latency and loss of
//! single bytes are not modelled: streams stand above them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use futures::future::{BoxFuture, ready};
use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::sync::mpsc;

use super::{BoxIo, Io, Listener, Network};

/// Bytes in flight in each direction of a stream; a writer that runs ahead waits.
const BUFFER_BYTES_MAX: usize = 256 * 1024;
/// Streams dialled but not yet accepted; one more is refused.
const BACKLOG_MAX: usize = 128;
/// Where the ports handed out for port 0 begin.
const FIRST_FREE_PORT: u32 = 49_152;

/// A view of one shared network. Clones and named views see the same listeners and cuts.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    shared: Arc<Mutex<Topology>>,
    name: Option<Arc<str>>,
}

#[derive(Default)]
struct Topology {
    listeners: BTreeMap<String, mpsc::Sender<(BoxIo, String)>>,
    cut: BTreeSet<String>,
    links: Vec<Weak<Link>>,
    ports_given: u32,
}

impl MemoryNetwork {
    pub fn new() -> Self {
        Self::default()
    }

    /// The same network as seen by `name`, which should be the address that node listens on: its dials carry
    /// the name, so that a cut of it blocks them too.
    pub fn named(&self, name: &str) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            name: Some(name.into()),
        }
    }

    /// Cuts `addr` off until [`heal`](Self::heal): dials to and from it fail, and each of its streams fails
    /// at both ends with whatever was in flight. It still reaches itself. Names match whole and exactly.
    pub fn cut(&self, addr: &str) {
        let severed: Vec<_> = {
            let mut shared = self.lock();
            shared.cut.insert(addr.to_owned());
            shared
                .links
                .iter()
                .filter_map(Weak::upgrade)
                .filter(|link| link.crosses(addr))
                .collect()
        };
        // Outside the lock: a waker runs code of its owner, which may dial.
        for link in severed {
            link.sever();
        }
    }

    /// Lets `addr` dial and be dialled again. Streams that were cut stay broken.
    pub fn heal(&self, addr: &str) {
        self.lock().cut.remove(addr);
    }

    fn lock(&self) -> MutexGuard<'_, Topology> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self, addr: &str) -> io::Result<BoxIo> {
        let mut shared = self.lock();
        let link = Arc::new(Link {
            from: self.name.clone(),
            to: addr.to_owned(),
            severed: AtomicBool::new(false),
            wakers: Default::default(),
        });
        if let Some(name) = shared.cut.iter().find(|name| link.crosses(name)) {
            return Err(io::Error::new(
                io::ErrorKind::HostUnreachable,
                format!("{name} is cut off"),
            ));
        }
        let Some(backlog) = shared.listeners.get(addr) else {
            return Err(refused(format!("nobody listens on {addr}")));
        };

        let (near, far) = duplex(BUFFER_BYTES_MAX);
        let far = MemoryStream {
            inner: far,
            link: Arc::clone(&link),
            side: Side::Accepted,
        };
        let peer = self.name.as_deref().unwrap_or("unnamed").to_owned();
        backlog
            .try_send((Box::new(far), peer))
            .map_err(|_| refused(format!("the backlog of {addr} is full")))?;

        shared.links.retain(|link| link.strong_count() > 0);
        shared.links.push(Arc::downgrade(&link));
        Ok(Box::new(MemoryStream {
            inner: near,
            link,
            side: Side::Dialled,
        }))
    }

    fn bind(&self, addr: &str) -> io::Result<Box<dyn Listener>> {
        let mut shared = self.lock();
        let addr = match addr.strip_suffix(":0") {
            Some(host) => shared.free_addr(host),
            None => addr.to_owned(),
        };
        if shared.listeners.contains_key(&addr) {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("{addr} is taken"),
            ));
        }
        let (sender, backlog) = mpsc::channel(BACKLOG_MAX);
        shared.listeners.insert(addr.clone(), sender);
        Ok(Box::new(MemoryListener {
            network: self.clone(),
            addr,
            backlog,
        }))
    }
}

impl Network for MemoryNetwork {
    fn dial<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<BoxIo>> {
        Box::pin(async move { self.connect(addr) })
    }

    fn resolve<'a>(&'a self, _addr: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(ready(Ok(())))
    }

    fn listen<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(ready(self.bind(addr)))
    }
}

impl Topology {
    fn free_addr(&mut self, host: &str) -> String {
        loop {
            let addr = format!("{host}:{}", FIRST_FREE_PORT + self.ports_given);
            self.ports_given += 1;
            if !self.listeners.contains_key(&addr) {
                return addr;
            }
        }
    }
}

fn refused(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, reason)
}

struct MemoryListener {
    network: MemoryNetwork,
    addr: String,
    backlog: mpsc::Receiver<(BoxIo, String)>,
}

impl Listener for MemoryListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxIo, String)>> {
        Box::pin(async move {
            // The registry holds the sender for as long as this listener lives.
            self.backlog
                .recv()
                .await
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
        })
    }

    fn local_addr(&self) -> String {
        self.addr.clone()
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        self.network.lock().listeners.remove(&self.addr);
    }
}

/// What the two ends of a stream share: who they are, and whether a cut has severed them.
struct Link {
    from: Option<Arc<str>>,
    to: String,
    severed: AtomicBool,
    /// One for each side and direction, because a split stream waits in two tasks.
    wakers: [[AtomicWaker; 2]; 2],
}

impl Link {
    /// Whether the stream leads to or from `addr`, and leaves it.
    fn crosses(&self, addr: &str) -> bool {
        (self.to == addr) != (self.from.as_deref() == Some(addr))
    }

    fn sever(&self) {
        self.severed.store(true, Ordering::SeqCst);
        self.wakers.iter().flatten().for_each(AtomicWaker::wake);
    }
}

#[derive(Clone, Copy)]
enum Side {
    Dialled = 0,
    Accepted = 1,
}

#[derive(Clone, Copy)]
enum Direction {
    Read = 0,
    Write = 1,
}

struct MemoryStream {
    inner: DuplexStream,
    link: Arc<Link>,
    side: Side,
}

impl MemoryStream {
    /// The waker is left before the flag is read, so a cut between the two still wakes the task.
    fn check(&self, direction: Direction, cx: &Context<'_>) -> io::Result<()> {
        self.link.wakers[self.side as usize][direction as usize].register(cx.waker());
        if self.link.severed.load(Ordering::SeqCst) {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "the stream was cut",
            ));
        }
        Ok(())
    }
}

impl Io for MemoryStream {}

impl AsyncRead for MemoryStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(Direction::Read, cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for MemoryStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(Direction::Write, cx)?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(Direction::Write, cx)?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(Direction::Write, cx)?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(Direction::Write, cx)?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn pair(network: &MemoryNetwork, listener: &mut Box<dyn Listener>) -> (BoxIo, BoxIo) {
        let near = network.dial(&listener.local_addr()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (near, far)
    }

    async fn dial_error(network: &MemoryNetwork, addr: &str) -> ErrorKind {
        network.dial(addr).await.err().unwrap().kind()
    }

    #[tokio::test]
    async fn a_stream_carries_bytes_and_its_dialer_is_named() {
        let network = MemoryNetwork::new();
        let mut listener = network.listen("b:1").await.unwrap();
        let mut near = network.named("a:1").dial("b:1").await.unwrap();
        let (mut far, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, "a:1");

        near.write_all(b"ping").await.unwrap();
        drop(near);
        let mut bytes = Vec::new();
        far.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(
            bytes, b"ping",
            "bytes written before the drop arrive, then the end"
        );
    }

    #[tokio::test]
    async fn addresses_are_taken_and_freed() {
        let network = MemoryNetwork::new();
        assert_eq!(
            dial_error(&network, "a:1").await,
            ErrorKind::ConnectionRefused
        );

        let listener = network.listen("a:1").await.unwrap();
        assert_eq!(
            network.listen("a:1").await.err().unwrap().kind(),
            ErrorKind::AddrInUse
        );
        drop(listener);
        network.listen("a:1").await.unwrap();

        let first = network.listen("a:0").await.unwrap().local_addr();
        let second = network.listen("a:0").await.unwrap().local_addr();
        assert_ne!(first, second);
    }

    #[tokio::test]
    async fn a_full_backlog_refuses() {
        let network = MemoryNetwork::new();
        let _listener = network.listen("a:1").await.unwrap();
        let mut streams = Vec::new();
        for _ in 0..BACKLOG_MAX {
            streams.push(network.dial("a:1").await.unwrap());
        }
        assert_eq!(
            dial_error(&network, "a:1").await,
            ErrorKind::ConnectionRefused
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_breaks_streams_at_both_ends_and_wakes_who_waits() {
        let network = MemoryNetwork::new();
        let (a, c) = (network.named("a:1"), network.named("c:1"));
        let mut listener = network.listen("b:1").await.unwrap();
        let (near, mut far) = pair(&a, &mut listener).await;
        let (_near, mut listening) = pair(&a, &mut listener).await;
        let (mut other_near, mut other_far) = pair(&c, &mut listener).await;

        // One stream waits in two tasks: to write more than the buffer holds, and to read.
        let (mut reads, mut writes) = tokio::io::split(near);
        let waiting = [
            tokio::spawn(async move {
                writes
                    .write_all(&vec![0; BUFFER_BYTES_MAX + 1])
                    .await
                    .unwrap_err()
                    .kind()
            }),
            tokio::spawn(async move { reads.read_u8().await.unwrap_err().kind() }),
            tokio::spawn(async move { listening.read_u8().await.unwrap_err().kind() }),
        ];
        tokio::task::yield_now().await;
        network.cut("a:1");

        for task in waiting {
            assert_eq!(task.await.unwrap(), ErrorKind::ConnectionReset);
        }
        let lost = far.read_u8().await.unwrap_err();
        assert_eq!(
            lost.kind(),
            ErrorKind::ConnectionReset,
            "bytes in flight are lost"
        );
        other_near.write_u8(7).await.unwrap();
        assert_eq!(
            other_far.read_u8().await.unwrap(),
            7,
            "a stream between others is untouched"
        );
    }

    #[tokio::test]
    async fn a_cut_blocks_both_directions_until_healed() {
        let network = MemoryNetwork::new();
        let (a, b) = (network.named("a:1"), network.named("b:1"));
        let mut at_a = a.listen("a:1").await.unwrap();
        let mut at_b = b.listen("b:1").await.unwrap();
        network.cut("a:1");

        assert_eq!(dial_error(&b, "a:1").await, ErrorKind::HostUnreachable);
        assert_eq!(dial_error(&a, "b:1").await, ErrorKind::HostUnreachable);
        pair(&a, &mut at_a).await;

        network.heal("a:1");
        pair(&b, &mut at_a).await;
        pair(&a, &mut at_b).await;
    }
}
