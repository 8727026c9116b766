//! A raft stream that this node dialled. It ends with the trust in its peer, as one does that a peer opened.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};
use tokio_rustls::client::TlsStream;

use super::{Chain, Tls};
use crate::net::passing::pass_on;
use crate::net::{BoxIo, Io};

/// Reads between two looks at the peer's certificate, while there are bytes all the time.
const LOOK_EVERY: u32 = 64;

/// A stream to a peer that showed a certificate.
pub(super) struct Dialled {
    io: TlsStream<BoxIo>,
    distrust: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
    reads: u32,
    is_over: bool,
}

impl Dialled {
    /// One whose peer showed this chain.
    pub(super) fn new(io: TlsStream<BoxIo>, tls: Tls, chain: Chain) -> Self {
        Self {
            io,
            distrust: Box::pin(distrust(tls, chain)),
            reads: 0,
            is_over: false,
        }
    }

    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.is_over = self.is_over || self.distrust.as_mut().poll(cx).is_ready();
        self.is_over
    }
}

/// Ends once these certificates are no longer good.
async fn distrust(tls: Tls, chain: Chain) {
    let ends = Instant::now() + tls.time_left(&chain);
    let mut taken_up = tls.taken_up();
    // What was taken up since the handshake began is not told any more.
    while tls.trusts(&chain) {
        tokio::select! {
            biased;
            () = sleep_until(ends) => return,
            // Who tells is held here, too.
            _ = taken_up.changed() => {}
        }
    }
}

impl Io for Dialled {
    fn move_here(&mut self) -> io::Result<()> {
        self.io.move_here()
    }
}

impl AsyncRead for Dialled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.reads = this.reads.wrapping_add(1);
        // Without a byte in the buffer this is the end of the stream.
        if this.is_over || (this.reads.is_multiple_of(LOOK_EVERY) && this.is_over(cx)) {
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        if read.is_pending() && this.is_over(cx) {
            return Poll::Ready(Ok(()));
        }
        read
    }
}

impl AsyncWrite for Dialled {
    pass_on!(io: AsyncWrite);
}
