//! A network on which answers and requests can be made late: nothing is lost or reordered on a stream, as TCP
//! has it, but what a test holds back arrives when the test lets it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};

use ferrolog::net::memory::MemoryNetwork;
use ferrolog::net::{BoxIo, Listener, Network};
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex};
use tokio::sync::Notify;

const BUFFER_BYTES: usize = 1 << 20;
/// Of an HTTP/2 frame, and the type of those that carry messages.
const FRAME_HEADER_BYTES: usize = 9;
const DATA: u8 = 0;

/// What one node says to another and hears back, over all streams that it dialled.
#[derive(Default)]
pub struct Link {
    orders: Mutex<Orders>,
    changed: Notify,
    streams: Mutex<Vec<Arc<Stream>>>,
}

#[derive(Default, Clone, Copy)]
struct Orders {
    hold_requests: bool,
    hold_answers: bool,
}

/// Answers of one stream that are held back, and how many messages may pass all the same.
#[derive(Default)]
struct Stream {
    held: Mutex<VecDeque<Vec<u8>>>,
    pass: Mutex<usize>,
    kick: Notify,
}

impl Link {
    /// From now on requests stay with their sender, answers with theirs, or both flow again.
    pub fn hold(&self, requests: bool, answers: bool) {
        *self.orders.lock().unwrap() = Orders {
            hold_requests: requests,
            hold_answers: answers,
        };
        self.wake();
    }

    fn wake(&self) {
        self.changed.notify_waiters();
        for stream in self.streams.lock().unwrap().iter() {
            stream.kick.notify_one();
        }
    }

    fn orders(&self) -> Orders {
        *self.orders.lock().unwrap()
    }

    /// How many messages each stream of the link holds back.
    pub fn held(&self) -> Vec<usize> {
        let streams = self.streams.lock().unwrap();
        let data = |frame: &&Vec<u8>| frame[3] == DATA;
        let count = |stream: &Arc<Stream>| stream.held.lock().unwrap().iter().filter(data).count();
        streams.iter().map(count).collect()
    }

    /// Lets one held message of a stream arrive.
    pub fn pass_one(&self, stream: usize) {
        let streams = self.streams.lock().unwrap();
        *streams[stream].pass.lock().unwrap() += 1;
        streams[stream].kick.notify_one();
    }
}

type ByEnds = BTreeMap<(String, String), Arc<Link>>;

/// The links of a whole network, by who dials whom.
#[derive(Clone, Default)]
pub struct Links(Arc<Mutex<ByEnds>>);

impl Links {
    pub fn between(&self, from: &str, to: &str) -> Arc<Link> {
        let mut links = self.0.lock().unwrap();
        let key = (from.to_owned(), to.to_owned());
        links.entry(key).or_default().clone()
    }
}

/// The network as one node sees it.
#[derive(Clone)]
pub struct LateNetwork {
    inner: MemoryNetwork,
    me: String,
    links: Links,
}

impl LateNetwork {
    pub fn new(inner: &MemoryNetwork, me: &str, links: &Links) -> Self {
        Self {
            inner: inner.named(me),
            me: me.to_owned(),
            links: links.clone(),
        }
    }
}

impl Network for LateNetwork {
    fn dial<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<BoxIo>> {
        Box::pin(async move {
            let io = self.inner.dial(addr).await?;
            let link = self.links.between(&self.me, addr);
            let stream = Arc::new(Stream::default());
            link.streams.lock().unwrap().push(stream.clone());
            let (near, far) = duplex(BUFFER_BYTES);
            let (from_peer, to_peer) = tokio::io::split(io);
            let (from_node, to_node) = tokio::io::split(far);
            tokio::spawn(carry_requests(from_node, to_peer, link.clone()));
            tokio::spawn(carry_answers(from_peer, to_node, link, stream));
            Ok(Box::new(near) as BoxIo)
        })
    }

    fn resolve<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, std::io::Result<()>> {
        self.inner.resolve(addr)
    }

    fn listen<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        self.inner.listen(addr)
    }
}

async fn carry_requests(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    link: Arc<Link>,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        loop {
            let changed = link.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !link.orders().hold_requests {
                break;
            }
            changed.await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown().await;
}

async fn carry_answers(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    link: Arc<Link>,
    stream: Arc<Stream>,
) {
    let mut buffer = vec![0; 1 << 16];
    let mut rest = Vec::new();
    loop {
        tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(0) | Err(_) => break,
                Ok(count) => rest.extend_from_slice(&buffer[..count]),
            },
            () = stream.kick.notified() => {}
        }
        while let Some(frame) = take_frame(&mut rest) {
            stream.held.lock().unwrap().push_back(frame);
        }
        while let Some(frame) = next_to_pass(&link, &stream) {
            if to.write_all(&frame).await.is_err() {
                return;
            }
        }
    }
    let _ = to.shutdown().await;
}

fn take_frame(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = bytes.get(..3)?;
    let length = length
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let frame = FRAME_HEADER_BYTES + length;
    (bytes.len() >= frame).then(|| bytes.drain(..frame).collect())
}

/// Frames without a message go before the next one that may pass, and with everything that flows.
fn next_to_pass(link: &Link, stream: &Stream) -> Option<Vec<u8>> {
    let mut held = stream.held.lock().unwrap();
    if link.orders().hold_answers {
        let mut pass = stream.pass.lock().unwrap();
        if *pass == 0 {
            return None;
        }
        if held.front()?[3] == DATA {
            *pass -= 1;
        }
    }
    held.pop_front()
}
