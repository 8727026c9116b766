//! The stream both sides of the port hand out, and the wrapper that puts a first byte back.
//!
//! They pass bytes through and add nothing; who may open which stream is decided in `mux` and `tls`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tonic::transport::server::Connected;

use super::tls::Identity;
use super::{BoxIo, Io};

/// What is known of the other end; a request finds it in its extensions.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    pub addr: String,
    /// `None` on a stream without TLS: nobody has proven anything.
    pub identity: Option<Identity>,
    pub tls: bool,
    /// Bytes that all requests of this connection together may have under way.
    pub in_flight: Arc<Semaphore>,
}

/// Bytes of records that one connection may have under way.
pub const CONNECTION_IN_FLIGHT_BYTES_MAX: usize = 32 << 20;

impl PeerInfo {
    pub fn new(addr: String, identity: Option<Identity>, tls: bool) -> Self {
        Self {
            addr,
            identity,
            tls,
            in_flight: Arc::new(Semaphore::new(CONNECTION_IN_FLIGHT_BYTES_MAX)),
        }
    }
}

/// A stream past its first byte and its handshake.
pub struct MuxStream {
    io: BoxIo,
    info: PeerInfo,
}

impl MuxStream {
    pub(super) fn new(io: BoxIo, info: PeerInfo) -> Self {
        Self { io, info }
    }

    pub fn info(&self) -> &PeerInfo {
        &self.info
    }

    /// As [`Io::move_here`].
    pub(super) fn move_here(&mut self) -> io::Result<()> {
        self.io.move_here()
    }
}

impl Connected for MuxStream {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

/// A stream with its first byte put back.
pub(super) struct Prefixed {
    byte: Option<u8>,
    io: BoxIo,
}

impl Prefixed {
    pub(super) fn new(byte: u8, io: BoxIo) -> Self {
        Self {
            byte: Some(byte),
            io,
        }
    }
}

impl Io for Prefixed {
    fn move_here(&mut self) -> io::Result<()> {
        self.io.move_here()
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() > 0
            && let Some(byte) = self.byte.take()
        {
            buf.put_slice(&[byte]);
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
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

/// Both wrappers write straight through, gathered writes included.
macro_rules! write_through {
    ($stream:ty) => {
        impl AsyncWrite for $stream {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.io).poll_write(cx, buf)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                self.io.is_write_vectored()
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.io).poll_flush(cx)
            }

            fn poll_shutdown(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.io).poll_shutdown(cx)
            }
        }
    };
}

write_through!(Prefixed);
write_through!(MuxStream);
