//! Bodies of streams without records, read ahead of their verbs.
//!
//! Such a stream lives long and sends little: where to begin, and credit now and then. Its verb reads it when
//! it has nothing else to do, and a client could meanwhile fill a window with bytes that nobody reads. So a
//! task reads it all the time, a few bytes ahead; a client that sends more than that is told so and ended.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use tokio::sync::mpsc;
use tonic::Status;
use tonic::body::Body;

use crate::net::budget::{Full, Scope};
use crate::tasks;

use super::super::status;

/// Bytes that were read and not looked at.
pub const AHEAD_BYTES_MAX: usize = 32 << 10;
/// What a frame takes beside its data.
const FRAME_BYTES: usize = 128;

type Next = Result<Frame<Bytes>, Status>;

/// See the module.
pub struct Ahead {
    frames: mpsc::UnboundedReceiver<Next>,
    waiting: Arc<AtomicUsize>,
}

impl Ahead {
    pub fn new(mut inner: Body) -> Self {
        let (tell, frames) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let counted = waiting.clone();
        tasks::spawn("read-ahead of a stream", async move {
            loop {
                let next = poll_fn(|context| Pin::new(&mut inner).poll_frame(context));
                let next = tokio::select! {
                    next = next => next,
                    () = tell.closed() => return,
                };
                let Some(next) = next else {
                    return;
                };
                let bytes = weight(&next);
                let next = match counted.fetch_add(bytes, Ordering::Relaxed) + bytes {
                    0..=AHEAD_BYTES_MAX => next,
                    _ => Err(too_far()),
                };
                let is_last = next.is_err();
                if tell.send(next).is_err() || is_last {
                    return;
                }
            }
        });
        Self { frames, waiting }
    }
}

fn weight(next: &Next) -> usize {
    let data = next.as_ref().ok().and_then(Frame::data_ref);
    FRAME_BYTES + data.map_or(0, Bytes::len)
}

fn too_far() -> Status {
    status::in_flight(&Full {
        scope: Scope::Stream,
        limit: AHEAD_BYTES_MAX,
    })
}

impl http_body::Body for Ahead {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Next>> {
        let next = ready!(self.frames.poll_recv(context));
        if let Some(next) = &next {
            self.waiting.fetch_sub(weight(next), Ordering::Relaxed);
        }
        Poll::Ready(next)
    }
}
