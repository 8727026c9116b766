//! What the callers of a producer wait on: each batch has one cell, which it shares with the acks of its records.
//!
//! A record costs no allocation and no channel: its ack is the batch's cell and its place in the batch.

use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::client::ClientError;
use crate::proto::v1::ProduceResponse;

/// Where a batch stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The offset of its first record; the others follow.
    pub first_offset: u64,
    /// How many records the batch has.
    pub count: u32,
    /// The leader's time when it took the batch, in milliseconds since 1970; 0 if an earlier try had appended it.
    pub append_timestamp_ms: u64,
    /// An earlier try had appended it.
    pub duplicate: bool,
}

impl From<&ProduceResponse> for Appended {
    fn from(answer: &ProduceResponse) -> Self {
        Self {
            first_offset: answer.first_offset,
            count: answer.count,
            append_timestamp_ms: answer.append_timestamp_ms,
            duplicate: answer.duplicate,
        }
    }
}

/// A sent record. Awaiting it gives the record's offset once the record is synced on a majority.
#[derive(Debug)]
pub struct Ack {
    wait: Wait,
    /// The record's place in its batch.
    place: u32,
}

/// A batch that was sent as one. Awaiting it tells where the batch stands once it is synced on a majority.
#[derive(Debug)]
pub struct BatchAck(Wait);

type Outcome = Result<Appended, ClientError>;

#[derive(Debug, Default)]
struct Cell {
    outcome: OnceLock<Outcome>,
    wakers: Mutex<Vec<Waker>>,
}

/// The batch's end of a cell. Dropped without an outcome, it tells that the producer is closed.
#[derive(Debug, Default)]
pub(super) struct Promise(Arc<Cell>);

impl Promise {
    /// An ack for the record at `place` in the batch.
    pub(in crate::client) fn ack(&self, place: u32) -> Ack {
        let wait = self.wait();
        Ack { wait, place }
    }

    /// An ack for the batch as a whole.
    pub(super) fn batch_ack(&self) -> BatchAck {
        BatchAck(self.wait())
    }

    /// Tells the outcome to everybody who waits.
    pub(in crate::client) fn settle(self, outcome: Outcome) {
        self.0.settle(outcome);
    }

    fn wait(&self) -> Wait {
        Wait {
            cell: Arc::clone(&self.0),
            slot: None,
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if self.0.outcome.get().is_none() {
            self.0.settle(Err(ClientError::Closed));
        }
    }
}

impl Cell {
    fn settle(&self, outcome: Outcome) {
        // The first outcome is the one that counts.
        let _ = self.outcome.set(outcome);
        let wakers = std::mem::take(&mut *self.wakers());
        for waker in wakers {
            waker.wake();
        }
    }

    fn wakers(&self) -> std::sync::MutexGuard<'_, Vec<Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Wait {
    cell: Arc<Cell>,
    /// Which of the cell's wakers is this one's.
    slot: Option<usize>,
}

impl Wait {
    fn poll(&mut self, cx: &Context<'_>) -> Poll<Outcome> {
        if let Some(outcome) = self.cell.outcome.get() {
            return Poll::Ready(outcome.clone());
        }
        let mut wakers = self.cell.wakers();
        // Look again under the lock: an outcome that came since the first look has woken nobody.
        if let Some(outcome) = self.cell.outcome.get() {
            return Poll::Ready(outcome.clone());
        }
        match self.slot {
            Some(slot) => wakers[slot].clone_from(cx.waker()),
            None => {
                self.slot = Some(wakers.len());
                wakers.push(cx.waker().clone());
            }
        }
        Poll::Pending
    }
}

impl Future for Ack {
    type Output = Result<u64, ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let place = u64::from(self.place);
        let outcome = self.wait.poll(cx);
        outcome.map_ok(|appended| appended.first_offset + place)
    }
}

impl Future for BatchAck {
    type Output = Result<Appended, ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn every_record_of_a_batch_is_told_its_own_offset() {
        let promise = Promise::default();
        let mut acks: Vec<_> = (0..3).map(|place| promise.ack(place)).collect();
        let whole = promise.batch_ack();
        assert!((&mut acks[0]).now_or_never().is_none());
        assert!((&mut acks[0]).now_or_never().is_none(), "asked again");
        let waiting = tokio::spawn(async move { futures::future::join_all(acks).await });
        tokio::task::yield_now().await;
        let appended = Appended {
            first_offset: 7,
            count: 3,
            append_timestamp_ms: 1,
            duplicate: false,
        };
        promise.settle(Ok(appended));
        let offsets = waiting.await.unwrap();
        let offsets: Vec<_> = offsets.into_iter().map(Result::unwrap).collect();
        assert_eq!(offsets, [7, 8, 9]);
        assert_eq!(whole.await.unwrap(), appended);
    }

    #[tokio::test]
    async fn a_batch_that_is_dropped_tells_its_waiters() {
        let promise = Promise::default();
        let ack = promise.ack(0);
        drop(promise);
        assert!(matches!(ack.await, Err(ClientError::Closed)));
    }
}
