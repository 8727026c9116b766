//! One direction of a stream: bytes that arrive in order, each when the network lets it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use tokio::io::ReadBuf;
use tokio::time::{Instant, Sleep};

/// Bytes under way; a writer that runs ahead waits.
const BYTES_MAX: usize = 256 << 10;

#[derive(Default)]
pub struct Pipe(Mutex<PipeState>);

#[derive(Default)]
struct PipeState {
    under_way: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// When the end arrives.
    end: Option<Instant>,
    is_broken: bool,
    /// Nothing arrives: it is sent again once the way is open.
    is_held: bool,
    /// Nobody reads any more.
    is_left: bool,
    timer: Option<Pin<Box<Sleep>>>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl PipeState {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }

    /// Pending until then.
    fn wait_until(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(cx)
    }
}

impl Pipe {
    fn lock(&self) -> std::sync::MutexGuard<'_, PipeState> {
        self.0.lock().expect("no panic before")
    }

    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.lock();
        if state.is_broken {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        let next = state.under_way.front().map(|(at, _)| *at).or(state.end);
        let arrives = match next {
            Some(at) if !state.is_held && at <= Instant::now() => true,
            Some(at) if !state.is_held => state.wait_until(at, cx).is_ready(),
            _ => false,
        };
        if !arrives {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        while let Some((at, bytes)) = state.under_way.front_mut()
            && *at <= Instant::now()
            && buf.remaining() > 0
        {
            let part = bytes.len().min(buf.remaining());
            buf.put_slice(&bytes[..part]);
            bytes.advance(part);
            state.bytes -= part;
            if bytes.is_empty() {
                state.under_way.pop_front();
            }
        }
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }

    /// Puts bytes under way that arrive then.
    pub fn poll_write(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        arrives: impl FnOnce(usize) -> Instant,
    ) -> Poll<io::Result<usize>> {
        let state = &mut *self.lock();
        if state.is_broken || state.is_left || state.end.is_some() {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let part = bytes.len().min(BYTES_MAX - state.bytes);
        if part == 0 && !bytes.is_empty() {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let last = state.under_way.back().map(|(at, _)| *at);
        let at = arrives(part).max(last.unwrap_or_else(Instant::now));
        let bytes = Bytes::copy_from_slice(&bytes[..part]);
        state.under_way.push_back((at, bytes));
        state.bytes += part;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(part))
    }

    /// The writer says no more.
    pub fn end(&self, arrives: Instant) {
        let state = &mut *self.lock();
        let last = state.under_way.back().map(|(at, _)| *at);
        state
            .end
            .get_or_insert(arrives.max(last.unwrap_or(arrives)));
        state.wake();
    }

    /// The reader is gone.
    pub fn leave(&self) {
        let state = &mut *self.lock();
        state.is_left = true;
        state.wake();
    }

    /// Both sides see it reset; what was under way is lost.
    pub fn sever(&self) {
        let state = &mut *self.lock();
        state.is_broken = true;
        state.wake();
    }

    pub fn hold(&self, is_held: bool) {
        let state = &mut *self.lock();
        state.is_held = is_held;
        state.wake();
    }
}
