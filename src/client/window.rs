//! The records of a producer that are not acknowledged yet: bounded, in order, and sent again after a loss.
//!
//! The window is the only owner of a record until its offset is known. Streams come and go: each takes the
//! records from the first unacknowledged one on. Dialling and deciding what to retry is left to `producer`.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::ClientError;
use crate::proto::log_v1::{ProduceRequest, Record};

const RECORDS_MAX: usize = 1024;
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// Waiting senders wake below these, so that they fill the window in strides and not record by record.
const RECORDS_LOW: usize = RECORDS_MAX / 4 * 3;
const BYTES_LOW: usize = BYTES_MAX / 4 * 3;

/// What a producer has achieved so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProducerStats {
    pub acknowledged: u64,
    /// The longest time that records waited without any acknowledgement coming in.
    pub longest_gap: Duration,
    /// Streams opened; more than one means that a server was lost.
    pub streams: u64,
}

type Answer = oneshot::Sender<Result<u64, ClientError>>;

pub(super) struct Window {
    state: Mutex<State>,
    room: Notify,
    work: Notify,
}

struct State {
    unacknowledged: VecDeque<(Bytes, Answer)>,
    bytes: usize,
    /// How many of the unacknowledged are on the present stream.
    sent: usize,
    /// The sequence number of the first unacknowledged record.
    sequence: u64,
    /// Counts streams; an older one gets no more records.
    stream: u64,
    wake_stream: Option<Waker>,
    closed: bool,
    failure: Option<ClientError>,
    progress: Instant,
    stats: ProducerStats,
}

impl Window {
    pub(super) fn new() -> Self {
        let state = State {
            unacknowledged: VecDeque::new(),
            bytes: 0,
            sent: 0,
            sequence: 0,
            stream: 0,
            wake_stream: None,
            closed: false,
            failure: None,
            progress: Instant::now(),
            stats: ProducerStats::default(),
        };
        Self {
            state: Mutex::new(state),
            room: Notify::new(),
            work: Notify::new(),
        }
    }

    /// Adds a record as soon as there is room.
    pub(super) async fn push(
        &self,
        value: Bytes,
    ) -> Result<oneshot::Receiver<Result<u64, ClientError>>, ClientError> {
        loop {
            // Made before the look at the state, or an acknowledgement in between would wake nobody.
            let room = self.room.notified();
            if let Some(answer) = self.try_push(&value)? {
                return Ok(answer);
            }
            room.await;
        }
    }

    fn try_push(
        &self,
        value: &Bytes,
    ) -> Result<Option<oneshot::Receiver<Result<u64, ClientError>>>, ClientError> {
        let (waker, was_empty, receiver) = {
            let mut state = self.lock();
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if state.closed {
                return Err(ClientError::Closed);
            }
            let was_empty = state.unacknowledged.is_empty();
            let full =
                state.unacknowledged.len() >= RECORDS_MAX || state.bytes + value.len() > BYTES_MAX;
            // A record larger than the window travels alone.
            if full && !was_empty {
                return Ok(None);
            }
            let (sender, receiver) = oneshot::channel();
            state.bytes += value.len();
            state.unacknowledged.push_back((value.clone(), sender));
            if was_empty {
                state.progress = Instant::now();
            }
            (state.wake_stream.take(), was_empty, receiver)
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        if was_empty {
            self.work.notify_one();
        }
        Ok(Some(receiver))
    }

    /// Waits for something to send; false once the window is closed and empty.
    pub(super) async fn wait_for_work(&self) -> bool {
        loop {
            {
                let state = self.lock();
                if !state.unacknowledged.is_empty() {
                    return true;
                }
                if state.closed {
                    return false;
                }
            }
            self.work.notified().await;
        }
    }

    /// Begins a new stream: everything unacknowledged goes again. Answers with the first sequence number.
    pub(super) fn restart(self: &Arc<Self>) -> (Outgoing, u64) {
        let mut state = self.lock();
        state.stream += 1;
        state.stats.streams += 1;
        state.sent = 0;
        let outgoing = Outgoing {
            window: Arc::clone(self),
            stream: state.stream,
        };
        (outgoing, state.sequence)
    }

    /// The server answered the first unacknowledged record; false if none was sent.
    #[must_use]
    pub(super) fn acknowledge(&self, offset: u64) -> bool {
        let (answer, has_room) = {
            let mut state = self.lock();
            if state.sent == 0 {
                return false;
            }
            let Some((value, answer)) = state.unacknowledged.pop_front() else {
                return false;
            };
            state.sent -= 1;
            state.bytes -= value.len();
            state.sequence += 1;
            let now = Instant::now();
            state.stats.longest_gap = state.stats.longest_gap.max(now - state.progress);
            state.stats.acknowledged += 1;
            state.progress = now;
            let has_room = state.unacknowledged.len() <= RECORDS_LOW && state.bytes <= BYTES_LOW;
            (answer, has_room)
        };
        // A sender that no longer waits for its offset dropped the other end.
        let _ = answer.send(Ok(offset));
        if has_room {
            self.room.notify_waiters();
        }
        true
    }

    /// Since when records wait with no acknowledgement; `None` while nothing is in flight.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        let state = self.lock();
        (!state.unacknowledged.is_empty()).then_some(state.progress)
    }

    pub(super) fn is_done(&self) -> bool {
        let state = self.lock();
        state.closed && state.unacknowledged.is_empty()
    }

    pub(super) fn stats(&self) -> ProducerStats {
        self.lock().stats
    }

    /// Takes no more records; what is in flight is still sent.
    pub(super) fn close(&self) {
        let waker = {
            let mut state = self.lock();
            state.closed = true;
            state.wake_stream.take()
        };
        self.wake_all(waker);
    }

    /// Ends every wait with `failure`.
    pub(super) fn fail(&self, failure: &ClientError) {
        let (waiting, waker) = {
            let mut state = self.lock();
            state.failure = Some(failure.clone());
            state.bytes = 0;
            state.sent = 0;
            (
                std::mem::take(&mut state.unacknowledged),
                state.wake_stream.take(),
            )
        };
        for (_, answer) in waiting {
            let _ = answer.send(Err(failure.clone()));
        }
        self.wake_all(waker);
    }

    fn wake_all(&self, waker: Option<Waker>) {
        if let Some(waker) = waker {
            waker.wake();
        }
        self.work.notify_one();
        self.room.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The request side of one stream: takes the records straight out of the window.
pub(super) struct Outgoing {
    window: Arc<Window>,
    stream: u64,
}

impl Stream for Outgoing {
    type Item = ProduceRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ProduceRequest>> {
        let mut state = self.window.lock();
        if state.stream != self.stream || state.failure.is_some() {
            return Poll::Ready(None);
        }
        let Some((value, _)) = state.unacknowledged.get(state.sent) else {
            if state.closed {
                return Poll::Ready(None);
            }
            state.wake_stream = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let record = Record {
            value: value.clone(),
            ..Record::default()
        };
        state.sent += 1;
        Poll::Ready(Some(ProduceRequest {
            record: Some(record),
        }))
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;

    fn value(len: usize) -> Bytes {
        Bytes::from(vec![b'x'; len])
    }

    #[tokio::test]
    async fn the_window_holds_its_limits_and_opens_in_strides() {
        let window = Arc::new(Window::new());
        let (mut outgoing, first) = window.restart();
        assert_eq!(first, 0);
        for _ in 0..RECORDS_MAX {
            assert!(window.push(value(1)).now_or_never().is_some());
            outgoing.next().await.unwrap();
        }
        let mut waiting = Box::pin(window.push(value(1)));
        assert!(
            (&mut waiting).now_or_never().is_none(),
            "the window is full"
        );
        for offset in 0..(RECORDS_MAX - RECORDS_LOW) as u64 {
            assert!((&mut waiting).now_or_never().is_none());
            assert!(window.acknowledge(offset));
        }
        assert!(waiting.now_or_never().is_some());
    }

    #[tokio::test]
    async fn bytes_are_bounded_but_a_giant_travels_alone() {
        let window = Window::new();
        assert!(window.push(value(BYTES_MAX + 1)).now_or_never().is_some());
        assert!(window.push(value(0)).now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_new_stream_starts_at_the_first_unacknowledged_and_ends_the_old_one() {
        let window = Arc::new(Window::new());
        let _acks: Vec<_> =
            futures::future::join_all((1..=3).map(|len| window.push(value(len)))).await;
        let (mut old, _) = window.restart();
        for _ in 0..3 {
            old.next().await.unwrap();
        }
        assert!(window.acknowledge(7));
        let (mut new, first) = window.restart();
        assert_eq!(first, 1);
        assert!(old.next().await.is_none());
        assert!(!window.acknowledge(8), "nothing is on the new stream yet");
        let len = |request: ProduceRequest| request.record.unwrap().value.len();
        assert_eq!(len(new.next().await.unwrap()), 2);
        assert_eq!(len(new.next().await.unwrap()), 3);
        assert!(new.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_failure_reaches_every_waiter() {
        let window = Window::new();
        let answer = window.push(value(1)).await.unwrap();
        window.fail(&ClientError::NoServers);
        assert!(matches!(answer.await.unwrap(), Err(ClientError::NoServers)));
        assert!(matches!(
            window.push(value(1)).await,
            Err(ClientError::NoServers)
        ));
        assert!(!{
            window.close();
            window.wait_for_work().await
        });
    }
}
