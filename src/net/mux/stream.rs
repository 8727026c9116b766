//! The stream both sides of the port hand out, and the wrapper that puts bytes back.
//!
//! They pass bytes through; a client's stream without a call for long ends as if the client had closed it. Who
//! may open which stream is decided in `gate` and `tls`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

use super::places::Place;
use super::term::Term;
use crate::net::budget::{self, Accounts, Budget};
use crate::net::identity::Identity;
use crate::net::passing::pass_on;
use crate::net::{BoxIo, Io};

/// What is known of the other end; a request finds it in its extensions.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    pub addr: String,
    /// `None` on a stream without TLS: nobody has proven anything.
    pub identity: Option<Arc<Identity>>,
    pub tls: bool,
    /// What its calls may make this node hold.
    pub accounts: Accounts,
    pub calls: Arc<Calls>,
}

/// The calls of a connection.
#[derive(Debug)]
pub struct Calls {
    /// How many are under way, and since when there is none.
    under_way: Mutex<(usize, Instant)>,
    /// The connection is to end, whatever is under way.
    is_over: AtomicBool,
    reader: AtomicWaker,
}

/// A call under way, until it is dropped.
#[derive(Debug)]
pub struct Call(Arc<Calls>);

impl Calls {
    pub fn begin(self: &Arc<Self>) -> Call {
        self.under_way.lock().0 += 1;
        Call(Arc::clone(self))
    }

    /// Ends their connection.
    pub fn end_connection(&self) {
        self.is_over.store(true, Ordering::Release);
        self.reader.wake();
    }

    /// Whether the connection is to end.
    pub fn are_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    fn idle_since(&self) -> Option<Instant> {
        let (under_way, since) = *self.under_way.lock();
        (under_way == 0).then_some(since)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut calls = self.0.under_way.lock();
        *calls = (calls.0 - 1, Instant::now());
    }
}

impl PeerInfo {
    pub fn new(addr: String, identity: Option<Identity>, tls: bool) -> Self {
        let subject = subject(&addr, identity.as_ref());
        // Alone until a server takes it into its own budget.
        let accounts = Budget::new(budget::BYTES).accounts(subject);
        Self {
            addr,
            identity: identity.map(Arc::new),
            tls,
            accounts,
            calls: Arc::new(Calls {
                under_way: Mutex::new((0, Instant::now())),
                is_over: AtomicBool::default(),
                reader: AtomicWaker::new(),
            }),
        }
    }
}

impl PeerInfo {
    /// Who calls: the name that it has proven, or else where it comes from.
    pub fn subject(&self) -> &str {
        subject(&self.addr, self.identity.as_deref())
    }
}

/// Whom a connection's limits are counted for: the name that it has proven, or else where it comes from.
fn subject<'a>(addr: &'a str, identity: Option<&'a Identity>) -> &'a str {
    let name = identity.and_then(Identity::subject);
    name.unwrap_or_else(|| addr.rsplit_once(':').map_or(addr, |(host, _)| host))
}

/// Reads of a stream between two looks at its term, while it has bytes all the time.
const LOOK_EVERY: u32 = 64;

/// A stream past its first byte and its handshake.
pub struct MuxStream {
    io: BoxIo,
    info: PeerInfo,
    /// Bytes that were read already, and are given to the reader first.
    read: Bytes,
    idle: Option<Idle>,
    term: Option<Term>,
    is_over: bool,
    reads: u32,
    /// Held until the stream is dropped.
    _place: Option<Place>,
}

/// When a stream without a call ends.
struct Idle {
    after: Duration,
    until: Pin<Box<Sleep>>,
}

impl MuxStream {
    pub(in crate::net) fn new(io: BoxIo, info: PeerInfo) -> Self {
        Self {
            io,
            info,
            read: Bytes::new(),
            idle: None,
            term: None,
            is_over: false,
            reads: 0,
            _place: None,
        }
    }

    /// One that holds a place of the port, and of which this was read already.
    pub(super) fn accepted(self, read: Bytes, place: Place) -> Self {
        Self {
            read,
            _place: Some(place),
            ..self
        }
    }

    /// Ends once there was no call for so long.
    pub(super) fn ending_idle(self, after: Duration) -> Self {
        let until = Box::pin(tokio::time::sleep(after));
        Self {
            idle: Some(Idle { after, until }),
            ..self
        }
    }

    /// Ends once the term is over, whatever is under way.
    pub(super) fn ending(self, term: Option<Term>) -> Self {
        Self { term, ..self }
    }

    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(term) = &mut self.term
            && term.poll_over(cx).is_ready()
        {
            self.term = None;
            self.is_over = true;
        }
        self.info.calls.reader.register(cx.waker());
        self.is_over |= self.info.calls.are_over();
        self.is_over
    }

    pub fn info(&self) -> &PeerInfo {
        &self.info
    }

    /// As [`Io::move_here`].
    pub(super) fn move_here(&mut self) -> io::Result<()> {
        self.io.move_here()
    }

    /// From now on what the connection holds counts for this node, and for all connections of its subject.
    #[must_use]
    pub fn counted(mut self, budget: &Budget) -> Self {
        let subject = subject(&self.info.addr, self.info.identity.as_deref());
        self.info.accounts = budget.accounts(subject);
        self
    }
}

impl Idle {
    fn poll_over(&mut self, calls: &Calls, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.until.as_mut().poll(cx));
            let now = Instant::now();
            let over = calls.idle_since().unwrap_or(now) + self.after;
            if over <= now {
                return Poll::Ready(());
            }
            self.until.as_mut().reset(over);
        }
    }
}

impl Connected for MuxStream {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

/// A stream with its first bytes put back.
pub(super) struct Prefixed {
    read: Bytes,
    io: BoxIo,
}

impl Prefixed {
    pub(super) fn new(read: Bytes, io: BoxIo) -> Self {
        Self { read, io }
    }
}

impl Io for Prefixed {
    fn move_here(&mut self) -> io::Result<()> {
        self.io.move_here()
    }
}

/// Gives what was read already, as far as there is room for it.
fn put_back(read: &mut Bytes, buf: &mut ReadBuf<'_>) -> bool {
    let count = read.len().min(buf.remaining());
    buf.put_slice(&read[..count]);
    read.advance(count);
    count > 0
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if put_back(&mut self.read, buf) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncRead for MuxStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if put_back(&mut this.read, buf) {
            return Poll::Ready(Ok(()));
        }
        // One that is never without bytes ends, too, soon after its term.
        this.reads = this.reads.wrapping_add(1);
        if this.reads.is_multiple_of(LOOK_EVERY) && this.is_over(cx) {
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        if read.is_ready() {
            return read;
        }
        // Without a byte in the buffer this is the end of the stream.
        if this.is_over(cx) {
            return Poll::Ready(Ok(()));
        }
        match &mut this.idle {
            Some(idle) => idle.poll_over(&this.info.calls, cx).map(Ok),
            None => Poll::Pending,
        }
    }
}

impl AsyncWrite for Prefixed {
    pass_on!(io: AsyncWrite);
}

impl AsyncWrite for MuxStream {
    pass_on!(io: AsyncWrite);
}
