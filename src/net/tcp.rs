//! The real network, and the only file that names sockets.
//!
//! Every stream sends at once (no Nagle) and notices a dead peer within about ten seconds, idle or not.
//! How long a dial may take is left to the caller.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the home of real sockets"
)]

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};

use super::{BoxIo, Io, Listener, Network};

/// Sent bytes not acknowledged for this long end the stream; the kernel's own default is a quarter hour.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// An idle stream is probed after this long, then at each interval.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// Connections the kernel holds between its handshake and our `accept`.
const BACKLOG_MAX: u32 = 1024;

/// The most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;
/// An address that has not answered by then is left to itself while the next one is tried: the least
/// that RFC 8305 allows, since a call that waits for the dial may have little time.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(100);

/// The network of the host.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpNetwork;

impl Network for TcpNetwork {
    fn dial<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<BoxIo>> {
        Box::pin(async move {
            let found = lookup_host(addr).await?.take(ADDRESSES_MAX).collect();
            let stream = connect_to_any(in_turns(found)).await?;
            configure(&stream)?;
            Ok(Box::new(Socket(Some(stream))) as BoxIo)
        })
    }

    fn resolve<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            lookup_host(addr).await?.next().map(drop).ok_or_else(none)
        })
    }

    fn listen<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let mut failure = None;
            for candidate in lookup_host(addr).await? {
                match bind(candidate) {
                    Ok(listener) => return Ok(Box::new(listener) as Box<dyn Listener>),
                    Err(error) => failure = Some(error),
                }
            }
            Err(failure.unwrap_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{addr} resolves to no address"),
                )
            }))
        })
    }
}

/// The addresses of a name, as the resolver sorted them, but with the two families in turns: one of them may
/// lead nowhere from here.
fn in_turns(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_ipv4 = found.first().is_some_and(SocketAddr::is_ipv4);
    let (first, other): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|addr| addr.is_ipv4() == first_is_ipv4);
    let (mut first, mut other) = (first.into_iter(), other.into_iter());
    let mut turns = Vec::new();
    loop {
        let before = turns.len();
        turns.extend(first.next().into_iter().chain(other.next()));
        if turns.len() == before {
            return turns;
        }
    }
}

/// The first connection that comes about. Each address has a while for itself, then the next one is tried
/// beside it, so that one which answers nothing costs little; the first failure is told if all fail.
async fn connect_to_any(addrs: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut addrs = addrs.into_iter();
    let mut tries = FuturesUnordered::new();
    let mut failure = None;
    loop {
        if let Some(addr) = addrs.next() {
            tries.push(TcpStream::connect(addr));
        } else if tries.is_empty() {
            let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            return Err(failure.unwrap_or_else(none));
        }
        tokio::select! {
            Some(tried) = tries.next() => match tried {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = failure.or(Some(error)),
            },
            () = tokio::time::sleep(NEXT_ADDRESS_AFTER), if addrs.len() > 0 => {}
        }
    }
}

fn bind(addr: SocketAddr) -> io::Result<PortListener> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // Streams of the last run linger in TIME_WAIT; without this a restarted node cannot bind its port.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    let inner = socket.listen(BACKLOG_MAX)?;
    let addr = inner.local_addr()?.to_string();
    Ok(PortListener { inner, addr })
}

fn configure(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

struct PortListener {
    inner: TcpListener,
    addr: String,
}

impl Listener for PortListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxIo, String)>> {
        Box::pin(async move {
            let (stream, peer) = self.inner.accept().await?;
            // A peer that is gone already fails here on some systems. The first read will tell; an error
            // now would make the accept loop back off for everybody.
            if let Err(error) = configure(&stream) {
                tracing::debug!(%peer, %error, "could not set socket options");
            }
            let io = Box::new(Socket(Some(stream))) as BoxIo;
            Ok((io, peer.to_string()))
        })
    }

    fn local_addr(&self) -> String {
        self.addr.clone()
    }
}

/// A stream that can move from one runtime to another; `None` if that failed.
struct Socket(Option<TcpStream>);

impl Socket {
    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        let stream = self.0.as_mut().map(Pin::new);
        stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
    }
}

impl Io for Socket {
    fn move_here(&mut self) -> io::Result<()> {
        let stream = self.0.take().map(TcpStream::into_std).transpose()?;
        self.0 = stream.map(TcpStream::from_std).transpose()?;
        Ok(())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_dialled_stream_carries_bytes_both_ways() {
        let mut listener = TcpNetwork.listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr();
        assert!(
            !addr.ends_with(":0"),
            "port 0 is replaced by the port in use"
        );

        let (dialled, accepted) = tokio::join!(TcpNetwork.dial(&addr), listener.accept());
        let (mut near, (mut far, peer)) = (dialled.unwrap(), accepted.unwrap());
        assert!(peer.starts_with("127.0.0.1:"));

        near.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        far.read_exact(&mut bytes).await.unwrap();
        far.write_all(&bytes).await.unwrap();
        near.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
    }

    #[test]
    fn a_stream_moves_to_another_runtime_and_is_served_by_it_alone() {
        let build = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build().unwrap()
        };
        let (first, second) = (build(), build());
        let (mut near, mut far) = first.block_on(async {
            let mut listener = TcpNetwork.listen("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr();
            let (dialled, accepted) = tokio::join!(TcpNetwork.dial(&addr), listener.accept());
            (dialled.unwrap(), accepted.unwrap().0)
        });
        // The first runtime does nothing from here on: whatever still hung on it would never wake.
        second.block_on(async {
            near.move_here().unwrap();
            far.move_here().unwrap();
            let read = tokio::spawn(async move { far.read_u8().await.unwrap() });
            tokio::task::yield_now().await;
            near.write_u8(7).await.unwrap();
            assert_eq!(read.await.unwrap(), 7);
        });
    }

    #[tokio::test]
    async fn sockets_are_configured() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        configure(&stream).unwrap();

        let socket = SockRef::from(&stream);
        assert!(stream.nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
    }

    #[tokio::test]
    async fn a_restarted_node_binds_its_port_again() {
        let mut listener = TcpNetwork.listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr();
        let (near, accepted) = tokio::join!(TcpNetwork.dial(&addr), listener.accept());
        // Our side closes first, so our port is the one left in TIME_WAIT.
        drop(accepted);
        let mut rest = Vec::new();
        near.unwrap().read_to_end(&mut rest).await.unwrap();
        drop(listener);

        let again = TcpNetwork.listen(&addr).await.unwrap();
        assert_eq!(again.local_addr(), addr);
    }

    /// An address that answers nothing: its port has taken as many connections as it holds, and drops the rest.
    async fn black_hole(host: &str) -> (SocketAddr, TcpListener, Vec<TcpStream>) {
        let addr: SocketAddr = format!("{host}:0").parse().unwrap();
        let socket = if addr.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        };
        let socket = socket.unwrap();
        socket.bind(addr).unwrap();
        let listener = socket.listen(1).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut held = Vec::new();
        let second = Duration::from_secs(1);
        while let Ok(stream) = tokio::time::timeout(second, TcpStream::connect(addr)).await {
            held.push(stream.unwrap());
        }
        (addr, listener, held)
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_tried_though_the_first_answers_nothing() {
        for (dead, alive) in [("127.0.0.1", "[::1]"), ("[::1]", "127.0.0.1")] {
            let (hole, _listener, _held) = black_hole(dead).await;
            let listener = TcpListener::bind(format!("{alive}:0")).await.unwrap();
            let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let refuses = closed.local_addr().unwrap();
            drop(closed);
            let lives = listener.local_addr().unwrap();
            let addrs = vec![hole, hole, refuses, lives];
            let limit = Duration::from_secs(2);
            // One after the other, the first takes all the time there is.
            let in_order = tokio::time::timeout(limit, TcpStream::connect(&addrs[..])).await;
            assert!(in_order.is_err(), "the first address answers");
            let connected = tokio::time::timeout(limit, connect_to_any(addrs)).await;
            let connected = connected.expect("in time").unwrap();
            assert_eq!(connected.peer_addr().unwrap(), lives);
        }
        let none = connect_to_any(Vec::new()).await.unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_families_of_a_name_take_turns() {
        let addrs = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let found: Vec<SocketAddr> = addrs(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"]);
        let turns = addrs(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]);
        assert_eq!(in_turns(found), turns);
    }

    #[tokio::test]
    async fn nobody_listening_is_refused() {
        let listener = TcpNetwork.listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr();
        drop(listener);
        let error = TcpNetwork.dial(&addr).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
