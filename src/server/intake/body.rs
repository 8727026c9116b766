//! A request's body: each message waits, unread, until there is room for all of it.
//!
//! The five bytes before a message tell its length. Only when so many bytes were taken from the accounts of the
//! connection, its subject and the node does the message pass on to the decoder. The room stays taken: the verb
//! takes it over ([`Taken::take`]) and keeps it with whatever it makes of the message. Room that no verb takes
//! over is given back when the next message is asked for, or when the call is over.
//!
//! Why one stalled stream does not freeze its connection: bytes that wait here lie in HTTP/2's windows, and all
//! streams of a connection share the connection's window. A stream that has something under way therefore takes
//! a whole stream window from the connection's account of unread bytes, which is smaller than the connection's
//! window. A stream that finds no room there is refused, which frees its window. So the other streams always
//! have the rest of the connection's window. A stream that is read as fast as it comes holds nothing in its
//! window, and a single request never waits.
//!
//! A message that stops coming ends its call, since others wait for the room that it holds.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use http_body::{Body as _, Frame};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;

use crate::net::budget::{Accounts, Held, SMALL_BYTES_MAX};

use super::super::limits::MANY_BATCHES_MAX;
use super::super::status;
use super::batches::{Batches, PREFIX_BYTES};
use super::methods::Method;

/// How long a message may stand still before its call ends.
const STALL_MAX: Duration = Duration::from_secs(10);
/// The least pace of a message from its first byte to its last, in bytes a second.
const PACE_MIN: u64 = 64 << 10;

/// What was taken for a call's messages, oldest first. A verb finds it in the extensions of its request.
#[derive(Debug, Default)]
pub struct Taken(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    held: Option<Held>,
    /// How many bytes of it the verb has asked to keep.
    kept: usize,
    /// How many bytes belong to each of the other messages.
    parts: VecDeque<usize>,
}

impl Taken {
    /// What was taken for the oldest message that nobody has asked for yet.
    pub fn take(&self) -> Option<Held> {
        self.keep();
        self.take_kept()
    }

    /// Keeps what was taken for the oldest message that nobody has asked for yet, until [`Self::take_kept`] takes
    /// it. For many small messages this is cheaper than taking for each.
    pub fn keep(&self) {
        let mut queue = self.0.lock();
        queue.kept += queue.parts.pop_front().unwrap_or(0);
    }

    /// What was kept.
    pub fn take_kept(&self) -> Option<Held> {
        let mut queue = self.0.lock();
        let kept = std::mem::take(&mut queue.kept);
        match kept {
            0 => None,
            _ if queue.parts.is_empty() => queue.held.take(),
            _ => queue.held.as_mut().map(|held| held.split(kept)),
        }
    }

    /// Gives back what is left, but for what was kept.
    pub fn clear(&self) {
        let mut queue = self.0.lock();
        queue.parts.clear();
        let kept = queue.kept;
        let rest = queue.held.take();
        queue.held = rest.and_then(|mut held| (kept > 0).then(|| held.split(kept)));
    }

    fn put(&self, new: Held, parts: &[usize]) {
        let mut queue = self.0.lock();
        queue.parts.extend(parts);
        match &mut queue.held {
            Some(held) => held.merge(new),
            None => queue.held = Some(new),
        }
    }
}

/// Messages that may pass together.
#[derive(Debug, Default)]
struct Run {
    /// How many of its bytes have come, prefixes included.
    here: usize,
    /// How many bytes of its last message are still to come.
    to_come: usize,
    weight: usize,
}

/// See the module.
pub struct Messages {
    inner: Body,
    method: Method,
    accounts: Accounts,
    taken: Arc<Taken>,
    /// Bytes that have come and not passed: a run that waits, and at most a frame more.
    rest: Bytes,
    run: Run,
    /// How many bytes to take for each of the run's messages.
    parts: Vec<usize>,
    waiting: Option<BoxFuture<'static, Held>>,
    /// The stream's window, while it has something under way.
    window: Option<Held>,
    count: u64,
    batches: Batches,
    clock: Clock,
    ended: bool,
}

impl Messages {
    pub fn new(inner: Body, method: Method, accounts: Accounts, taken: Arc<Taken>) -> Self {
        Self {
            inner,
            method,
            accounts,
            taken,
            rest: Bytes::new(),
            run: Run::default(),
            parts: Vec::new(),
            waiting: None,
            window: None,
            count: 0,
            batches: Batches::new(method.batches()),
            clock: Clock::default(),
            ended: false,
        }
    }

    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                let held = ready!(waiting.as_mut().poll(context));
                self.waiting = None;
                self.taken.put(held, &self.parts);
            }
            if let Some(passing) = self.pass() {
                if self.batches.pass(&passing).is_err() {
                    let what =
                        format!("a call appends 1 to {MANY_BATCHES_MAX} batches, and no more");
                    return Poll::Ready(Some(Err(status::invalid(what))));
                }
                return Poll::Ready(Some(Ok(Frame::data(passing))));
            }
            if self.rest.len() >= PREFIX_BYTES {
                self.admit()?;
                continue;
            }
            match ready!(self.poll_more(context)) {
                None => return Poll::Ready(self.check_end().err().map(Err)),
                Some(frame) => match frame?.into_data() {
                    Ok(data) => self.join(data),
                    Err(trailers) => {
                        self.check_end()?;
                        return Poll::Ready(Some(Ok(trailers)));
                    }
                },
            }
        }
    }

    /// What of the run is there.
    fn pass(&mut self) -> Option<Bytes> {
        let run = &mut self.run;
        if run.here == 0 {
            let more = run.to_come.min(self.rest.len());
            (run.here, run.to_come) = (more, run.to_come - more);
        }
        let here = std::mem::take(&mut run.here);
        (here > 0).then(|| self.rest.split_to(here))
    }

    /// Finds the messages that can pass now, and takes room for them or begins to wait for it.
    fn admit(&mut self) -> Result<(), Status> {
        self.run = Run::default();
        self.parts.clear();
        self.clock.stop();
        while let Some(prefix) = self.rest[self.run.here..].first_chunk::<PREFIX_BYTES>() {
            match self.weigh(*prefix) {
                Ok((length, weight)) if self.add(length, weight) => {}
                // The message waits for its own room; the messages before it do not wait with it.
                Ok(_) => break,
                // The messages before this one are sound, and pass first.
                Err(_) if !self.parts.is_empty() => break,
                Err(status) => return Err(status),
            }
            if self.run.to_come > 0 || self.run.weight > SMALL_BYTES_MAX {
                break;
            }
        }
        self.take()
    }

    /// Adds a message to the run, if it is the first or is there as a whole.
    fn add(&mut self, length: usize, weight: usize) -> bool {
        let run = &mut self.run;
        let end = run.here + PREFIX_BYTES + length;
        let is_whole = end <= self.rest.len();
        if !is_whole && !self.parts.is_empty() {
            return false;
        }
        run.here = end.min(self.rest.len());
        run.to_come = end - run.here;
        run.weight += weight;
        self.parts.push(weight);
        self.count += 1;
        true
    }

    fn weigh(&self, [flag, length @ ..]: [u8; PREFIX_BYTES]) -> Result<(usize, usize), Status> {
        if flag != 0 {
            let what =
                "a message is compressed, though nothing was said of an encoding: send it plain";
            return Err(status::invalid(what));
        }
        if self.method.is_single && self.count > 0 {
            return Err(status::invalid("the call takes one message, and more came"));
        }
        let length = u32::from_be_bytes(length) as usize;
        Ok((length, self.method.weight(length)?))
    }

    fn take(&mut self) -> Result<(), Status> {
        if !self.method.is_single && self.window.is_none() {
            let window = self
                .accounts
                .unread
                .try_take(self.method.unread_bytes_max());
            self.window = Some(window.map_err(|full| status::in_flight(&full))?);
        }
        let weight = self.run.weight;
        match self.accounts.bytes.try_take(weight) {
            Ok(held) => self.taken.put(held, &self.parts),
            Err(full) if self.method.is_single => return Err(status::in_flight(&full)),
            Err(_) => {
                let account = self.accounts.bytes.clone();
                self.waiting = Some(Box::pin(async move { account.take(weight).await }));
            }
        }
        Ok(())
    }

    fn poll_more(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let is_between = self.run.to_come == 0 && self.rest.is_empty();
        if is_between && !self.method.is_single {
            // The decoder asks for more, so it has given all of the messages before.
            self.taken.clear();
        }
        match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Pending if is_between && !self.method.is_single => {
                self.clock.stop();
                self.window = None;
                Poll::Pending
            }
            Poll::Pending => {
                ready!(self.clock.poll_over(self.run.to_come, context));
                Poll::Ready(Some(Err(status::request_stalled(STALL_MAX))))
            }
            Poll::Ready(more) => {
                self.clock.moved = true;
                Poll::Ready(more)
            }
        }
    }

    fn join(&mut self, data: Bytes) {
        if self.rest.is_empty() {
            self.rest = data;
            return;
        }
        // A prefix that came in parts: nothing longer is left over.
        let mut joined = BytesMut::with_capacity(self.rest.len() + data.len());
        joined.extend_from_slice(&self.rest);
        joined.extend_from_slice(&data);
        self.rest = joined.freeze();
    }

    fn check_end(&self) -> Result<(), Status> {
        if self.run.to_come > 0 || !self.rest.is_empty() {
            return Err(status::invalid("the request ends within a message"));
        }
        if self.method.is_single && self.count == 0 {
            return Err(status::invalid("the request has no message"));
        }
        Ok(())
    }
}

impl http_body::Body for Messages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = ready!(self.poll_next(context));
        if !matches!(polled, Some(Ok(_))) {
            self.ended = true;
            // Nobody will read the rest, which lies in the connection's window.
            self.inner = Body::empty();
            (self.rest, self.window) = (Bytes::new(), None);
        }
        Poll::Ready(polled)
    }
}

/// How long a message has stood still. It runs while one is being waited for.
#[derive(Default)]
struct Clock {
    ring: Option<Pin<Box<Sleep>>>,
    /// When the message must be here, however it comes.
    due: Option<Instant>,
    moved: bool,
}

impl Clock {
    fn stop(&mut self) {
        (self.ring, self.due) = (None, None);
    }

    /// Ready once the message has stood still too long, or was too slow on the whole.
    fn poll_over(&mut self, to_come: usize, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = Instant::now;
            let due = *self.due.get_or_insert_with(|| {
                now() + STALL_MAX + Duration::from_secs(to_come as u64 / PACE_MIN)
            });
            let ring = self.ring.get_or_insert_with(|| {
                self.moved = false;
                Box::pin(tokio::time::sleep_until(due.min(now() + STALL_MAX)))
            });
            ready!(ring.as_mut().poll(context));
            if !self.moved || now() >= due {
                return Poll::Ready(());
            }
            self.ring = None;
        }
    }
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
