//! The batches of a producer that are not acknowledged yet, of all its logs: bounded, in order, and sent again
//! after a loss.
//!
//! The window is the only owner of a record until its offset is known. Records gather in it until their batch
//! is closed; a closed batch keeps its bytes, so that it is sent again as it was. Streams come and go: each
//! takes the batches from the first unacknowledged one on ([`Outgoing`]). A batch keeps its log and its number: all
//! logs share one order and one session.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::Status;

use super::ack::{Ack, BatchAck, Promise};
use super::backlog::{Backlog, Credit, ProducerStats};
use super::ids::AnotherLog;
use super::outgoing::Outgoing;
use crate::batch::{Record, bytes_in_batch};
use crate::client::session::Opened;
use crate::client::told::Doubt;
use crate::client::{ClientError, ProducerOptions};
use crate::proto::v1::ProduceResponse;

/// What a stream's status says of the batches on it that have no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// None of them was appended.
    NoneAppended,
    /// The first one was not appended. Of the others nothing is known.
    FirstRefused,
    Unknown,
}

pub(super) struct Window {
    pub(in crate::client) options: ProducerOptions,
    state: Mutex<Backlog>,
    room: Notify,
    work: Notify,
}

impl Window {
    pub(in crate::client) fn new(options: ProducerOptions) -> Self {
        Self {
            options,
            state: Mutex::new(Backlog::new()),
            room: Notify::new(),
            work: Notify::new(),
        }
    }

    /// Adds a record for a log as soon as there is room. The default log has the empty name.
    pub(in crate::client) async fn push(
        &self,
        log: &str,
        record: &Record,
    ) -> Result<Ack, ClientError> {
        let bytes = bytes_in_batch(record);
        if let Some(ack) = self.try_push(log, record, bytes)? {
            return Ok(ack);
        }
        self.when_room(|| self.try_push(log, record, bytes)).await
    }

    /// Adds a batch of its own for a log as soon as there is room.
    pub(super) async fn push_batch(
        &self,
        log: &str,
        records: Bytes,
        count: u32,
    ) -> Result<BatchAck, ClientError> {
        self.when_room(|| self.try_push_batch(log, &records, count))
            .await
    }

    async fn when_room<T>(
        &self,
        mut look: impl FnMut() -> Result<Option<T>, ClientError>,
    ) -> Result<T, ClientError> {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            // Register before looking at the state: an acknowledgement that comes in between must wake this
            // caller.
            room.as_mut().enable();
            if let Some(done) = look()? {
                return Ok(done);
            }
            room.await;
        }
    }

    fn try_push(
        &self,
        log: &str,
        record: &Record,
        bytes: usize,
    ) -> Result<Option<Ack>, ClientError> {
        let (ack, waker, was_empty) = {
            let mut state = self.lock();
            state.check_open()?;
            let gathers = state.gathers(log);
            let overflows =
                |at: &usize| state.gathered_bytes(*at) + bytes > self.options.batch_bytes_max;
            let overflowing = gathers.filter(overflows);
            let begins = gathers.is_none() || overflowing.is_some();
            if !state.has_room(bytes, 1, usize::from(begins)) {
                return Ok(None);
            }
            let was_empty = state.is_empty();
            if let Some(at) = overflowing {
                state.close_batch(at);
            }
            let at = match gathers {
                Some(at) if !begins => at,
                _ => state.begin(log),
            };
            let (ack, count) = state.gather(at, record, bytes);
            let is_full = count >= self.options.batch_records_max
                || state.gathered_bytes(at) >= self.options.batch_bytes_max;
            // With nothing under way, the record goes at once: a lone caller waits for no timer.
            let is_idle = state.unacknowledged.is_empty();
            if is_full || is_idle {
                state.close_batch(at);
            }
            // The stream sets its timer when a batch begins.
            let wakes = is_full || is_idle || begins;
            let waker = if wakes {
                state.wake_stream.take()
            } else {
                None
            };
            (ack, waker, was_empty)
        };
        self.wake_sender(waker, was_empty);
        Ok(Some(ack))
    }

    fn try_push_batch(
        &self,
        log: &str,
        records: &Bytes,
        count: u32,
    ) -> Result<Option<BatchAck>, ClientError> {
        let (ack, waker, was_empty) = {
            let mut state = self.lock();
            state.check_open()?;
            if !state.has_room(records.len(), count as usize, 1) {
                return Ok(None);
            }
            let was_empty = state.is_empty();
            // Records that gather for the log were queued before these.
            state.close_log(log);
            if was_empty {
                state.progress = Instant::now();
            }
            state.bytes += records.len();
            state.records += count as usize;
            let promise = Promise::default();
            let ack = promise.batch_ack();
            state.queue(log.into(), records.clone(), count, promise);
            (ack, state.wake_stream.take(), was_empty)
        };
        self.wake_sender(waker, was_empty);
        Ok(Some(ack))
    }

    fn wake_sender(&self, waker: Option<Waker>, was_empty: bool) {
        if let Some(waker) = waker {
            waker.wake();
        }
        if was_empty {
            self.work.notify_one();
        }
    }

    /// Waits for something to send; false once the window is closed and empty.
    pub(super) async fn wait_for_work(&self) -> bool {
        loop {
            {
                let state = self.lock();
                if !state.is_empty() {
                    return true;
                }
                if state.closed {
                    return false;
                }
            }
            self.work.notified().await;
        }
    }

    /// Begins a new stream: everything unacknowledged goes again, numbered anew if the session is a new one.
    pub(super) fn restart(self: &Arc<Self>, session: Option<Opened>) -> Outgoing {
        let mut state = self.lock();
        state.stream += 1;
        state.stats.streams += 1;
        state.sent = 0;
        state.sent_bytes = 0;
        state.credit = None;
        if state.session != session {
            state.session = session;
            state.session_first = state.first();
        }
        Outgoing::new(Arc::clone(self), state.stream)
    }

    /// Takes the server's credit, which is the stream's first answer.
    pub(super) fn grant(&self, credit: Credit) {
        let waker = {
            let mut state = self.lock();
            state.credit = Some(credit);
            state.wake_stream.take()
        };
        self.wake_sender(waker, false);
    }

    /// Notes that the stream is lost. Batches on it may be in the log, unless the status denies that.
    pub(in crate::client) fn lost(&self, loss: Loss) {
        let mut state = self.lock();
        let known = match loss {
            Loss::NoneAppended => true,
            Loss::FirstRefused => state.sent <= 1,
            Loss::Unknown => false,
        };
        if let Some(last) = state.sent.checked_sub(1).filter(|_| !known) {
            let last = &state.unacknowledged[last];
            state.uncertain_until = last.first + u64::from(last.count);
        }
        state.sent = 0;
        state.sent_bytes = 0;
        // Whoever still holds the lost stream must take nothing more.
        state.stream += 1;
        let waker = state.wake_stream.take();
        drop(state);
        self.wake_sender(waker, false);
    }

    /// Whether a batch may be in the log though its answer did not come.
    pub(super) fn is_uncertain(&self) -> bool {
        let state = self.lock();
        state.first() < state.uncertain_until
    }

    /// Of which logs these batches are.
    pub(super) fn doubt(&self) -> Doubt {
        let state = self.lock();
        let unacknowledged = state.unacknowledged.iter();
        let uncertain = unacknowledged.take_while(|batch| batch.first < state.uncertain_until);
        Doubt::of(uncertain.map(|batch| &*batch.log))
    }

    /// Takes the server's answer to the first unacknowledged batch.
    pub(super) fn acknowledge(&self, answer: &ProduceResponse) -> Result<(), Status> {
        let (promise, waker, has_room, known) = {
            let mut state = self.lock();
            let first = state.unacknowledged.front();
            if state.sent == 0 || first.is_none_or(|batch| batch.count != answer.count) {
                return Err(Status::failed_precondition(
                    "an answer came that fits no batch under way",
                ));
            }
            let Some(batch) = state.unacknowledged.pop_front() else {
                return Ok(());
            };
            state.took_answer(&batch, answer.duplicate);
            let known = state.ids.note(&batch.log, answer.log_id);
            if state.unacknowledged.is_empty() {
                state.close_all();
            }
            let wakes = state.closed || state.sent < state.unacknowledged.len();
            let waker = if wakes {
                state.wake_stream.take()
            } else {
                None
            };
            (batch.promise, waker, state.is_low(), known)
        };
        promise.settle(Ok(answer.into()));
        self.wake_sender(waker, false);
        if has_room {
            self.room.notify_waiters();
        }
        // The batch was under way before its log's id was known; of those behind it nothing is known.
        known.map_err(|AnotherLog| {
            let what =
                "a log was made anew under its name while the first batches for it were under way";
            Status::failed_precondition(what)
        })
    }

    /// Since when records wait with no acknowledgement; `None` while nothing is in flight.
    pub(in crate::client) fn waiting_since(&self) -> Option<Instant> {
        let state = self.lock();
        (!state.is_empty()).then_some(state.progress)
    }

    pub(super) fn is_done(&self) -> bool {
        let state = self.lock();
        state.closed && state.is_empty()
    }

    pub(super) fn stats(&self) -> ProducerStats {
        let state = self.lock();
        match state.failure {
            // `fail` counted the records in doubt before it dropped them.
            Some(_) => state.stats,
            None => ProducerStats {
                in_doubt: state.in_doubt(),
                ..state.stats
            },
        }
    }

    /// The log of the first batch without an answer when the producer failed.
    pub(super) fn failed_log(&self) -> Option<Arc<str>> {
        self.lock().failed_log.clone()
    }

    /// Takes no more records; what is in flight is still sent.
    pub(in crate::client) fn close(&self) {
        let waker = {
            let mut state = self.lock();
            state.closed = true;
            state.close_all();
            state.wake_stream.take()
        };
        self.wake_sender(waker, true);
        self.room.notify_waiters();
    }

    /// Ends every wait with `failure`.
    pub(super) fn fail(&self, failure: &ClientError) {
        let (waiting, waker) = {
            let mut state = self.lock();
            if state.failure.is_some() {
                return;
            }
            state.stats.in_doubt = state.in_doubt();
            state.close_all();
            state.failed_log = state.unacknowledged.front().map(|batch| batch.log.clone());
            state.failure = Some(failure.clone());
            state.bytes = 0;
            state.records = 0;
            state.sent = 0;
            (
                std::mem::take(&mut state.unacknowledged),
                state.wake_stream.take(),
            )
        };
        for batch in waiting {
            batch.promise.settle(Err(failure.clone()));
        }
        self.wake_sender(waker, true);
        self.room.notify_waiters();
    }

    pub(in crate::client) fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
