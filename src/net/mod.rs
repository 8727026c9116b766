//! The network: one port, three protocols, mutual TLS, and a seam for a twin without sockets.
//!
//! `mux` tells gRPC, raft and plain HTTP apart by the first byte and by ALPN, and `tls` proves who the peer is; `stream_layer` is the
//! dialling side of both. Bytes move through `tcp`, or through `memory` when a whole cluster is simulated
//! in one thread. What the streams carry is the affair of the layers above.

#[cfg(feature = "server")]
pub mod budget;
mod gathering;
#[cfg(feature = "server")]
pub mod identity;
#[cfg(feature = "server")]
pub mod memory;
#[cfg(feature = "server")]
pub mod mux;
mod passing;
mod security;
pub mod stream_layer;
pub mod tcp;
pub mod tls;
pub mod traceparent;

pub use security::Security;

use std::io;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream of either network.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Moves the stream to the runtime that calls this. The stream's bytes are then reported by that runtime,
    /// and not late by another one whose threads are busy. Nobody may wait on the stream meanwhile.
    fn move_here(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Needs no runtime: its bytes come from a task.
impl Io for tokio::io::DuplexStream {}

pub type BoxIo = Box<dyn Io>;

/// The network seam: the one way a node reaches others.
///
/// The real one is [`tcp::TcpNetwork`], its twin [`memory::MemoryNetwork`]. Neither bounds the time of a
/// dial: the caller owns the deadline.
pub trait Network: Send + Sync + 'static {
    /// Connects to `addr`, written `host:port`. The name is resolved again at each dial, because a node
    /// that moves keeps its name, and every address that it has is tried.
    fn dial<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<BoxIo>>;

    /// Whether the name in `addr` has an address at all.
    fn resolve<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<()>>;

    /// Listens on `addr`; port 0 picks a free port, which [`Listener::local_addr`] then tells.
    fn listen<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>>;
}

/// An open port. Dropping it closes the port; streams already accepted live on.
pub trait Listener: Send + 'static {
    /// The next stream and the address of its peer, as text for logs.
    ///
    /// Dropping the future loses no stream. An error concerns one attempt: the caller may try again.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxIo, String)>>;

    fn local_addr(&self) -> String;
}

/// The protocols of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Grpc,
    #[cfg(feature = "server")]
    Raft,
    /// HTTP/1.1, for scrapers and probes.
    #[cfg(feature = "server")]
    Http,
}

/// The first byte of a raft stream, sent in clear before TLS begins.
#[cfg(feature = "server")]
pub const RAFT_RPC: u8 = 0x01;
