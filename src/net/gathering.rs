//! A connection's writes, gathered: what several tasks say at the same moment leaves in one piece.
//!
//! HTTP/2 writes as soon as one of its streams has something to say. The answers to many calls become known at the
//! same moment, to as many tasks, and each would take a system call and wake the other end up; so would the head
//! of a call and its body. So before the first bytes of a burst leave, all tasks that are ready by then have
//! their turn.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use super::passing::pass_on;
use super::{BoxIo, Io, Kind};

/// A write of so many bytes is worth a system call of its own.
const LARGE_BYTES: usize = 4 << 10;

/// A stream whose small writes wait for a turn of the scheduler.
struct Gathering {
    io: BoxIo,
    /// The others had their turn since the last flush.
    gave_way: bool,
}

/// The stream as HTTP/2 is to write to it. What nodes say to each other is a message at a time, and waits for
/// nobody.
pub fn gathering(kind: Kind, io: BoxIo) -> BoxIo {
    match kind {
        Kind::Grpc => Box::new(Gathering::new(io)),
        #[cfg(feature = "server")]
        Kind::Raft | Kind::Http => io,
    }
}

impl Gathering {
    fn new(io: BoxIo) -> Self {
        // The opening waits for nobody: a client that is turned away has asked by then, and is told why.
        let gave_way = true;
        Self { io, gave_way }
    }

    /// Returns `Pending` once before the first small write of a burst.
    fn give_way(&mut self, bytes: usize, cx: &mut Context<'_>) -> Poll<()> {
        if bytes >= LARGE_BYTES || std::mem::replace(&mut self.gave_way, true) {
            return Poll::Ready(());
        }
        // Behind all tasks that are ready now.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Io for Gathering {
    fn move_here(&mut self) -> io::Result<()> {
        self.io.move_here()
    }
}

impl AsyncRead for Gathering {
    pass_on!(io: poll_read);
}

impl AsyncWrite for Gathering {
    pass_on!(io: is_write_vectored, poll_shutdown);

    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.give_way(buf.len(), cx));
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.give_way(bufs.iter().map(|buf| buf.len()).sum(), cx));
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.gave_way &= flushed.is_pending();
        flushed
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::FutureExt;
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::tasks;

    #[tokio::test]
    async fn the_first_small_write_of_a_burst_lets_ready_tasks_go_first() {
        let (near, _far) = tokio::io::duplex(4 * LARGE_BYTES);
        let mut io = gathering(Kind::Grpc, Box::new(near));
        let opening = io.write_all(b"preface").now_or_never();
        opening.expect("the opening waits for nobody").unwrap();
        io.flush().await.unwrap();
        for burst in 0..2 {
            let had_its_turn = Arc::new(AtomicBool::new(false));
            let theirs = had_its_turn.clone();
            tasks::spawn(
                "another",
                async move { theirs.store(true, Ordering::Relaxed) },
            );
            io.write_all(b"first").await.unwrap();
            assert!(had_its_turn.load(Ordering::Relaxed), "burst {burst}");
            let more = io.write_all(b"more").now_or_never();
            more.expect("it waited before the burst's first bytes")
                .unwrap();
            io.flush().await.unwrap();
        }
        let large = io.write_all(&[0; LARGE_BYTES]).now_or_never();
        large.expect("nothing is gained by a wait").unwrap();
    }
}
