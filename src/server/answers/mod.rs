//! Answers that were built and not yet taken by their client.
//!
//! Each is counted for its connection, its subject and the node until the connection has sent it. HTTP/2 keeps
//! what it was given for as long as the client's window is shut. So it gets small pieces, and the rest of an
//! answer stays here. A client that takes nothing of it for long loses it, and its call ends.

pub mod bulk;
pub mod reading;
pub mod telling;

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use crate::net::budget::Held;
use crate::net::mux;
use crate::tasks;

use super::status;

/// The largest piece that HTTP/2 gets at a time, in bytes.
const PIECE_BYTES_MAX: usize = 264 << 10;
/// How long an answer waits for its client to take anything of it.
pub const UNREAD_MAX: Duration = Duration::from_secs(60);
/// A connection ends that has kept what it got of such an answer for so long: the answer's call cannot end before.
pub const DEAF_MAX: Duration = Duration::from_secs(5 * 60);
/// How often this looks for answers that wait for longer.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The calls of a node whose answers are counted; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Unread(Arc<Calls>);

#[derive(Debug, Default)]
struct Calls {
    begun: AtomicU64,
    open: Mutex<HashMap<u64, Weak<Call>>>,
}

impl Unread {
    /// Counts answers, and ends calls whose answers wait for too long. Needs a tokio runtime.
    pub fn watched() -> Self {
        let unread = Self::default();
        tasks::spawn(
            "watch over unread answers",
            watch(Arc::downgrade(&unread.0)),
        );
        unread
    }

    /// What a new call has built.
    pub fn outbox(&self) -> Outbox {
        let number = self.0.begun.fetch_add(1, Ordering::Relaxed);
        let call = Arc::new(Call {
            number,
            calls: self.0.clone(),
            built: Mutex::default(),
            state: Mutex::default(),
            beside: OnceLock::new(),
        });
        let known = Arc::downgrade(&call);
        self.0.open.lock().insert(number, known);
        Outbox(call)
    }

    /// The one answer of a call, which waits for its client from now on.
    pub fn put_out<T>(&self, response: &mut tonic::Response<T>, held: Option<Held>) {
        let outbox = self.outbox();
        outbox.built(held);
        outbox.hand_over(|| response.extensions_mut().insert(outbox.clone()));
    }
}

async fn watch(calls: Weak<Calls>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(calls) = calls.upgrade() else { return };
        // Outside the lock: the last reference to a call takes it.
        let open: Vec<_> = calls.open.lock().values().cloned().collect();
        for call in open.iter().filter_map(Weak::upgrade) {
            call.give_up_if_unread();
            call.end_if_deaf();
        }
    }
}

/// One call's answers. It travels in the response's extensions, to [`counted`].
#[derive(Clone)]
pub struct Outbox(Arc<Call>);

struct Call {
    number: u64,
    calls: Arc<Calls>,
    /// The room taken for the messages that come into the body next.
    built: Mutex<Vec<Held>>,
    state: Mutex<Delivery>,
    /// Those of its connection.
    beside: OnceLock<Arc<mux::Calls>>,
}

#[derive(Default)]
struct Delivery {
    body: Option<Body>,
    /// Bytes of the body that the connection did not get yet.
    rest: Bytes,
    /// Whether it got bytes before these.
    cut: bool,
    held: Option<Held>,
    /// Since when an answer waits for the client.
    since: Option<Instant>,
    given_up: Option<GivenUp>,
    /// When it was given up, until the connection asks again.
    deaf_since: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum GivenUp {
    BetweenMessages,
    InMessage,
    Told,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outbox").field(&self.0.number).finish()
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("number", &self.number)
            .finish()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.open.lock().remove(&self.number);
    }
}

impl Outbox {
    /// A message goes into the body that takes so much.
    pub fn built(&self, held: Option<Held>) {
        self.0.built.lock().extend(held);
    }

    /// The answers are for a connection with these calls.
    pub fn go_to(&self, calls: Arc<mux::Calls>) {
        // A call has one connection.
        let _ = self.0.beside.set(calls);
    }

    /// Hands the body something, which waits for the client from now on.
    pub fn hand_over<T>(&self, over: impl FnOnce() -> T) -> T {
        // Do both under the lock, so that the body is not polled in between.
        let mut state = self.0.state.lock();
        let handed = over();
        state.since.get_or_insert_with(Instant::now);
        handed
    }
}

impl Call {
    fn give_up_if_unread(&self) {
        let mut state = self.state.lock();
        if state.since.is_none_or(|since| since.elapsed() < UNREAD_MAX) {
            return;
        }
        state.since = None;
        state.deaf_since = Some(Instant::now());
        state.given_up = Some(if state.rest.is_empty() {
            GivenUp::BetweenMessages
        } else {
            GivenUp::InMessage
        });
        let rest = std::mem::take(&mut state.rest);
        let given_up = (state.body.take(), rest, state.held.take());
        drop(state);
        let built = std::mem::take(&mut *self.built.lock());
        tracing::debug!("a client took nothing of an answer for long: its call ends");
        drop((given_up, built));
    }

    /// HTTP/2 asks for more than it can send, and then no more until it can: a call that was given up does not hear of it.
    fn end_if_deaf(&self) {
        let since = self.state.lock().deaf_since;
        let is_deaf = since.is_some_and(|since| since.elapsed() + UNREAD_MAX >= DEAF_MAX);
        if let Some(calls) = self.beside.get().filter(|_| is_deaf) {
            tracing::debug!("a client took nothing of an answer for long: its connection ends");
            calls.end_connection();
        }
    }
}

impl Delivery {
    /// The next bytes for the connection, counted until it has sent them.
    fn piece(&mut self) -> Bytes {
        let last = self.rest.len() <= PIECE_BYTES_MAX;
        let piece = if last {
            std::mem::take(&mut self.rest)
        } else {
            self.rest.split_to(PIECE_BYTES_MAX)
        };
        // Copy the piece: a piece that is stuck would otherwise keep the whole answer in memory.
        let piece = if self.cut || !last {
            Bytes::copy_from_slice(&piece)
        } else {
            piece
        };
        self.cut = !last;
        let held = self.held.as_mut().map(|held| held.split(piece.len()));
        if last {
            self.held = None;
        }
        match held {
            Some(held) => held.around(piece),
            None => piece,
        }
    }
}

/// Counts the body of a response that has an [`Outbox`].
pub fn counted(response: http::Response<Body>) -> http::Response<Body> {
    let (parts, body) = response.into_parts();
    let body = match parts.extensions.get::<Outbox>().cloned() {
        Some(outbox) => {
            outbox.0.state.lock().body = Some(body);
            Body::new(Counted(outbox.0))
        }
        None => body,
    };
    http::Response::from_parts(parts, body)
}

struct Counted(Arc<Call>);

impl Drop for Counted {
    fn drop(&mut self) {
        // The task that fills the body may keep the call alive, so its bytes are dropped here.
        let state = std::mem::take(&mut *self.0.state.lock());
        let built = std::mem::take(&mut *self.0.built.lock());
        drop((state, built));
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    /// The connection asks once it may send, or once more before: what it got before that is with the client.
    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut state = self.0.state.lock();
        let state = &mut *state;
        if let Some(given_up) = state.given_up.replace(GivenUp::Told) {
            state.deaf_since = None;
            return Poll::Ready(last_word(given_up));
        }
        state.given_up = None;
        (state.since, state.deaf_since) = (None, None);
        if state.rest.is_empty() {
            let Some(body) = &mut state.body else {
                return Poll::Ready(None);
            };
            let frame = match ready!(Pin::new(body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            match frame.into_data() {
                Ok(bytes) => state.rest = bytes,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
            for held in self.0.built.lock().drain(..) {
                match &mut state.held {
                    Some(all) => all.merge(held),
                    None => state.held = Some(held),
                }
            }
        }
        let piece = state.piece();
        state.since = Some(Instant::now());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

/// The status of a client that opens its window too late.
fn last_word(given_up: GivenUp) -> Option<Result<Frame<Bytes>, Status>> {
    let status = status::unread(UNREAD_MAX);
    match given_up {
        GivenUp::Told => None,
        GivenUp::InMessage => Some(Err(status)),
        GivenUp::BetweenMessages => {
            let mut trailers = http::HeaderMap::new();
            let told = status.add_header(&mut trailers);
            Some(told.map(|()| Frame::trailers(trailers)))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use futures::FutureExt;
    use tonic::Code;

    use super::*;
    use crate::net::budget::{ANSWERS, NodeAccount};

    /// A body of these bytes, which goes on for ever.
    struct Bodies(VecDeque<Bytes>);

    impl http_body::Body for Bodies {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            match self.0.pop_front() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => Poll::Pending,
            }
        }
    }

    fn answered(unread: &Unread, held: Held, bodies: &[usize]) -> http::Response<Body> {
        let mut response = tonic::Response::new(());
        unread.put_out(&mut response, Some(held));
        let bodies = bodies.iter().map(|bytes| vec![7; *bytes].into());
        let mut answer = http::Response::new(Body::new(Bodies(bodies.collect())));
        *answer.extensions_mut() = response.extensions().clone();
        counted(answer)
    }

    /// The bytes that the connection gets if it asks now.
    fn next(response: &mut http::Response<Body>) -> Option<Result<Frame<Bytes>, Status>> {
        let body = response.body_mut();
        let frame = poll_fn(|context| http_body::Body::poll_frame(Pin::new(&mut *body), context));
        frame.now_or_never().flatten()
    }

    fn data(response: &mut http::Response<Body>) -> Bytes {
        let frame = next(response).expect("a frame").expect("no error");
        frame.into_data().expect("bytes")
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_until_the_connection_has_sent_it() {
        let (unread, node) = (Unread::watched(), NodeAccount::new(ANSWERS));
        let held = node.account("a").try_take(3 * PIECE_BYTES_MAX).unwrap();
        let mut response = answered(&unread, held, &[2 * PIECE_BYTES_MAX + 100]);
        let sent: Vec<_> = (0..2).map(|_| data(&mut response)).collect();
        assert_eq!(node.held(), 3 * PIECE_BYTES_MAX);
        drop(sent);
        assert_eq!(node.held(), PIECE_BYTES_MAX, "two pieces were sent");
        let last = data(&mut response);
        assert_eq!((last.len(), node.held()), (100, 100));
        drop(response);
        assert_eq!(node.held(), 100, "the connection has it still");
        drop(last);
        assert_eq!(node.held(), 0);
        assert!(unread.0.open.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_keeps_what_nobody_takes_ends() {
        let (unread, node) = (Unread::watched(), NodeAccount::new(ANSWERS));
        let [deaf, slow] = [0, 1].map(|number| {
            let peer = mux::PeerInfo::new(format!("127.0.0.1:{number}"), None, false);
            let held = node.account("a").try_take(1 << 20).unwrap();
            let answer = answered(&unread, held, &[1 << 20]);
            let outbox = answer.extensions().get::<Outbox>().unwrap();
            outbox.go_to(peer.calls.clone());
            (answer, peer.calls)
        });
        let (mut deaf, mut slow) = (deaf, slow);
        let _pieces = [&mut deaf.0, &mut slow.0].map(data);
        tokio::time::sleep(DEAF_MAX - 2 * LOOK_EVERY).await;
        assert!(!deaf.1.are_over());
        // It could send after all, and hears that the call is over.
        next(&mut slow.0).unwrap().unwrap_err();
        tokio::time::sleep(4 * LOOK_EVERY).await;
        assert!(deaf.1.are_over() && !slow.1.are_over());
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_client_takes_is_given_up_and_its_call_ends() {
        let (unread, node) = (Unread::watched(), NodeAccount::new(ANSWERS));
        let account = node.account("a");
        let mut answers = [1, 2, 3].map(|_| {
            let held = account.try_take(1 << 20).unwrap();
            answered(&unread, held, &[1 << 20])
        });
        // The first is never asked for, of the second a part is taken, the third is read on and on.
        let piece = data(&mut answers[1]);
        while node.held() > 2 << 20 {
            data(&mut answers[2]);
        }
        assert!(next(&mut answers[2]).is_none(), "it waits for more");
        tokio::time::sleep(UNREAD_MAX - LOOK_EVERY).await;
        assert_eq!(node.held(), 2 << 20, "there is time");
        tokio::time::sleep(3 * LOOK_EVERY).await;
        assert_eq!(node.held(), piece.len(), "what the connection has");
        let trailers = next(&mut answers[0]).unwrap().unwrap().into_trailers();
        let told = Status::from_header_map(&trailers.unwrap()).unwrap();
        assert_eq!(told.code(), Code::Unavailable);
        assert!(next(&mut answers[0]).is_none());
        let cut = next(&mut answers[1]).unwrap().unwrap_err();
        assert_eq!(cut.code(), Code::Unavailable, "in the middle of a message");
        assert!(next(&mut answers[2]).is_none(), "nothing waits for it");
        drop(answers);
        assert!(unread.0.open.lock().is_empty());
    }
}
