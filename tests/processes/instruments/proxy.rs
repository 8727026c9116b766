//! The proxy of the cluster tests, judged before a server that sends back what it gets.
#![allow(
    clippy::disallowed_methods,
    reason = "it listens and dials itself, on the loopback"
)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::harness::proxy::Proxy;
use crate::harness::{PATIENCE, until};

const FOREVER: std::ops::Range<u64> = u64::MAX - 1..u64::MAX;
/// How long a test waits to see that nothing passes. What does pass takes less.
const QUIET: Duration = Duration::from_millis(200);

/// An echo server, and how many bytes it got.
struct Echo {
    addr: String,
    got: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("its address").to_string();
        let got = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&got);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(echo(stream, Arc::clone(&count)));
            }
        });
        Self { addr, got, task }
    }

    fn got(&self) -> u64 {
        self.got.load(Ordering::Relaxed)
    }
}

async fn echo(mut stream: TcpStream, got: Arc<AtomicU64>) -> io::Result<()> {
    let mut chunk = [0; 1024];
    loop {
        let read = stream.read(&mut chunk).await?;
        if read == 0 {
            return Ok(());
        }
        got.fetch_add(read as u64, Ordering::Relaxed);
        stream.write_all(&chunk[..read]).await?;
    }
}

async fn dial(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.addr()).await;
    stream.expect("the proxy listens")
}

/// Sends bytes and reads them back, or what comes of them before the end.
async fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    let mut back = Vec::new();
    let both = async {
        stream.write_all(bytes).await?;
        let mut chunk = [0; 1024];
        while back.len() < bytes.len() {
            let read = stream.read(&mut chunk).await?;
            if read == 0 {
                break;
            }
            back.extend_from_slice(&chunk[..read]);
        }
        io::Result::Ok(())
    };
    // A broken connection is an end like another.
    let _ = timeout(PATIENCE, both).await.expect("an end");
    back
}

#[tokio::test]
async fn bytes_pass_unchanged_while_faults_are_off() {
    let echo = Echo::start().await;
    let proxy = Proxy::start(&echo.addr, 1, FOREVER).await;
    let bytes: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
    let mut stream = dial(&proxy).await;
    for part in bytes.chunks(20_000) {
        assert_eq!(exchange(&mut stream, part).await, part);
    }
    let counts = proxy.counts();
    assert_eq!((counts.connections, counts.cuts()), (1, 0));
}

#[tokio::test]
async fn a_reply_is_lost_though_the_request_came_through() {
    let echo = Echo::start().await;
    let proxy = Proxy::start(&echo.addr, 2, FOREVER).await;
    let mut stream = dial(&proxy).await;
    assert_eq!(exchange(&mut stream, b"before").await, b"before");
    proxy.lose_replies();
    assert_eq!(exchange(&mut stream, b"lost").await, b"");
    assert_eq!(echo.got(), 10, "the server got both");
    until("it is counted", async || {
        (proxy.counts().replies_lost == 1).then_some(())
    })
    .await;
    // A new connection is whole.
    let mut stream = dial(&proxy).await;
    assert_eq!(exchange(&mut stream, b"after").await, b"after");
}

#[tokio::test]
async fn a_reply_is_cut_at_any_byte() {
    let echo = Echo::start().await;
    let proxy = Proxy::start(&echo.addr, 3, FOREVER).await;
    let sent = [7; 100];
    let mut lengths = Vec::new();
    for _ in 0..20 {
        let mut stream = dial(&proxy).await;
        assert_eq!(exchange(&mut stream, b"before").await, b"before");
        proxy.cut_replies();
        lengths.push(exchange(&mut stream, &sent).await.len());
    }
    assert!(lengths.iter().all(|length| *length < sent.len()));
    lengths.sort_unstable();
    lengths.dedup();
    assert!(lengths.len() > 5, "at different bytes: {lengths:?}");
}

#[tokio::test]
async fn new_connections_are_refused_for_a_while() {
    let echo = Echo::start().await;
    let proxy = Proxy::start(&echo.addr, 4, FOREVER).await;
    let mut old = dial(&proxy).await;
    assert_eq!(exchange(&mut old, b"old").await, b"old");
    proxy.refuse_for(QUIET);
    assert_eq!(exchange(&mut dial(&proxy).await, b"new").await, b"");
    assert!(proxy.counts().refused >= 1);
    assert_eq!(exchange(&mut old, b"old").await, b"old", "it goes on");
    until("they are taken again", async || {
        let back = exchange(&mut dial(&proxy).await, b"new").await;
        (back == b"new").then_some(())
    })
    .await;
}

#[tokio::test]
async fn nothing_passes_a_pause_and_nothing_is_lost_by_it() {
    let echo = Echo::start().await;
    let proxy = Proxy::start(&echo.addr, 5, FOREVER).await;
    let mut stream = dial(&proxy).await;
    assert_eq!(exchange(&mut stream, b"before").await, b"before");
    proxy.pause(true);
    // What was being read when the pause began may still pass: one chunk each way.
    exchange_in(&mut stream, b"one", QUIET).await;
    let got = echo.got();
    let early = exchange_in(&mut stream, b"two", QUIET).await;
    assert_eq!(early, b"", "something came back in a pause");
    assert_eq!(echo.got(), got);
    proxy.pause(false);
    until("all has come through", async || {
        (echo.got() == 12).then_some(())
    })
    .await;
}

/// Sends bytes, and gives what comes back within a span.
async fn exchange_in(stream: &mut TcpStream, bytes: &[u8], span: Duration) -> Vec<u8> {
    stream.write_all(bytes).await.expect("it is buffered");
    let mut chunk = [0; 1024];
    match timeout(span, stream.read(&mut chunk)).await {
        Ok(read) => chunk[..read.expect("a sound connection")].to_vec(),
        Err(_) => Vec::new(),
    }
}

/// What a client sees of a proxy with faults: how many bytes came back on each connection, one after the other.
async fn seeded(seed: u64) -> (Vec<usize>, u64) {
    let echo = Echo::start().await;
    let proxy = Proxy::start(&echo.addr, seed, 50..500).await;
    proxy.set_faults(true);
    let mut lives = Vec::new();
    until("twelve connections are broken", async || {
        let mut stream = dial(&proxy).await;
        let mut life = 0;
        loop {
            let back = exchange(&mut stream, b"0123456789").await.len();
            life += back;
            if back < 10 {
                break;
            }
        }
        // A connection that was refused had no life at all.
        lives.extend((life > 0).then_some(life));
        (lives.len() == 12).then_some(())
    })
    .await;
    let cuts = proxy.counts().cuts();
    proxy.set_faults(false);
    until("new connections are taken and last", async || {
        let mut stream = dial(&proxy).await;
        let back = exchange(&mut stream, &[1; 900]).await;
        (back.len() == 900).then_some(())
    })
    .await;
    (lives, cuts)
}

#[tokio::test]
async fn connections_break_where_the_seed_says() {
    let (lives, cuts) = seeded(6).await;
    assert_eq!(cuts, 12);
    assert!(
        lives.iter().all(|life| (40..=500).contains(life)),
        "{lives:?}"
    );
}

#[tokio::test]
async fn all_connections_end_with_the_proxy() {
    let echo = Echo::start().await;
    let proxy = Proxy::start(&echo.addr, 7, FOREVER).await;
    let mut stream = dial(&proxy).await;
    assert_eq!(exchange(&mut stream, b"before").await, b"before");
    let addr = proxy.addr();
    drop(proxy);
    assert_eq!(exchange(&mut stream, b"after").await, b"");
    until("nobody listens", async || {
        TcpStream::connect(&addr).await.is_err().then_some(())
    })
    .await;
}
