//! The request side of one produce stream: takes the batches straight out of the window.
//!
//! It closes the gathering batch once the linger time is over, compresses a batch before it is sent for the
//! first time, and never has more bytes under way than the server gave credit for.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::backlog::{Backlog, Batch};
use super::window::Window;
use crate::batch::compress_if_smaller;
use crate::proto::v1;

pub(super) struct Outgoing {
    window: Arc<Window>,
    stream: u64,
    linger: Option<Pin<Box<Sleep>>>,
}

/// What to do next, as the window says.
enum Next {
    Send(v1::ProduceRequest),
    /// Compress these records, before which the producer had so many others.
    Pack(u64, Bytes),
    LingerUntil(Instant),
    Wait,
    End,
}

impl Outgoing {
    pub(in crate::client) fn new(window: Arc<Window>, stream: u64) -> Self {
        Self {
            window,
            stream,
            linger: None,
        }
    }

    fn look(&self, cx: &Context<'_>) -> Next {
        let options = &self.window.options;
        let mut guard = self.window.lock();
        let state = &mut *guard;
        if state.stream != self.stream || state.failure.is_some() {
            return Next::End;
        }
        if state.credit.is_some() && state.sent == state.unacknowledged.len() {
            let now = Instant::now();
            match state.gathering_since() {
                Some(since) if state.sent > 0 && since + options.linger > now => {
                    state.wake_stream = Some(cx.waker().clone());
                    return Next::LingerUntil(since + options.linger);
                }
                // With nothing under way no batch waits; beside others, a batch goes once it has waited long enough.
                Some(_) if state.sent == 0 => state.close_all(),
                Some(_) => state.close_due(now, options.linger),
                None if state.closed => return Next::End,
                None => {}
            }
        }
        let next = state.unacknowledged.get(state.sent);
        match next {
            Some(batch) if !batch.is_packed => {
                return Next::Pack(batch.first, batch.records.clone());
            }
            Some(batch) if has_credit(state, batch) => {}
            _ => {
                state.wake_stream = Some(cx.waker().clone());
                return Next::Wait;
            }
        }
        let fence = options.fence.clone().map(Into::into);
        Next::Send(wire(state, fence))
    }

    /// Compresses outside the lock. A batch that gets no smaller is sent without compression.
    fn pack(&self, first: u64, plain: Bytes) {
        let wanted = self.window.options.compression;
        let (records, compression) = compress_if_smaller(plain, wanted);
        let mut state = self.window.lock();
        let mut batches = state.unacknowledged.iter_mut();
        // An earlier stream may have packed it meanwhile. A batch that was sent once is sent again in the same
        // bytes.
        if let Some(batch) = batches.find(|batch| batch.first == first && !batch.is_packed) {
            batch.records = records;
            batch.compression = compression;
            batch.is_packed = true;
        }
    }
}

/// Whether the batch may go. One that is larger than the credit goes alone.
fn has_credit(state: &Backlog, batch: &Batch) -> bool {
    state.credit.is_some_and(|credit| {
        let fits = state.sent_bytes + batch.records.len() <= credit.bytes;
        state.sent == 0 || (fits && state.sent < credit.batches)
    })
}

/// The next batch as a message; it counts as sent.
fn wire(state: &mut Backlog, fence: Option<v1::Fence>) -> v1::ProduceRequest {
    let batch = &state.unacknowledged[state.sent];
    let sequence = batch.first - state.session_first;
    state.sent += 1;
    state.sent_bytes += batch.records.len();
    v1::ProduceRequest {
        log_id: state.ids.of(&batch.log),
        log: batch.log.to_string(),
        batch: Some(v1::Batch {
            records: batch.records.clone(),
            compression: batch.compression as i32,
            count: batch.count,
        }),
        session: state.session.map(|session| session.sequence(sequence)),
        expected_next_offset: None,
        fence,
    }
}

impl Stream for Outgoing {
    type Item = v1::ProduceStreamRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match self.look(cx) {
                Next::Send(produce) => {
                    let produce = Some(produce);
                    return Poll::Ready(Some(v1::ProduceStreamRequest {
                        produce,
                        many: None,
                    }));
                }
                Next::Pack(first, plain) => self.pack(first, plain),
                Next::Wait => return Poll::Pending,
                Next::End => return Poll::Ready(None),
                Next::LingerUntil(deadline) => {
                    let linger = self
                        .linger
                        .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
                    if linger.deadline() != deadline {
                        linger.as_mut().reset(deadline);
                    }
                    if linger.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}
