//! The request side of one consume stream: where to begin, and then credit as records are handed out.
//!
//! Credit that was granted and not yet sent becomes one message, so that messages do not pile up.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::Stream;
use futures::task::AtomicWaker;

use crate::proto::v1::{ConsumeStreamRequest, ConsumeStreamStart};

/// How many bytes the server may send beyond those that the reader has taken.
pub(super) const CREDIT_BYTES: u64 = 4 * 1024 * 1024;
/// Credit is given in strides of this many bytes, so that few messages go to the server.
const STRIDE_BYTES: u64 = CREDIT_BYTES / 4;

#[derive(Debug, Default)]
struct OwedCredit {
    owed: AtomicU64,
    closed: AtomicBool,
    waker: AtomicWaker,
}

/// The reader's end. Dropping it ends the stream of requests.
#[derive(Debug)]
pub(super) struct Grants {
    shared: Arc<OwedCredit>,
    handed_out: u64,
}

/// The wire's end.
#[derive(Debug)]
pub(super) struct Requests {
    start: Option<ConsumeStreamStart>,
    shared: Arc<OwedCredit>,
}

/// The two ends of a stream that begins with `start`.
pub(in crate::client) fn requests(start: ConsumeStreamStart) -> (Grants, Requests) {
    let shared = Arc::new(OwedCredit::default());
    shared.owed.store(CREDIT_BYTES, Ordering::Relaxed);
    let grants = Grants {
        shared: Arc::clone(&shared),
        handed_out: 0,
    };
    let start = Some(start);
    (grants, Requests { start, shared })
}

impl Grants {
    /// Notes that the reader took so many bytes; the server may send as many more.
    pub(in crate::client) fn give(&mut self, bytes: u64) {
        self.handed_out += bytes;
        if self.handed_out >= STRIDE_BYTES {
            let bytes = std::mem::take(&mut self.handed_out);
            self.shared.owed.fetch_add(bytes, Ordering::AcqRel);
            self.shared.waker.wake();
        }
    }
}

impl Drop for Grants {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.waker.wake();
    }
}

impl Stream for Requests {
    type Item = ConsumeStreamRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(start) = self.start.take() {
            return Poll::Ready(Some(ConsumeStreamRequest {
                start: Some(start),
                credit_bytes: 0,
            }));
        }
        self.shared.waker.register(cx.waker());
        if self.shared.closed.load(Ordering::Acquire) {
            return Poll::Ready(None);
        }
        match self.shared.owed.swap(0, Ordering::AcqRel) {
            0 => Poll::Pending,
            credit_bytes => Poll::Ready(Some(ConsumeStreamRequest {
                start: None,
                credit_bytes,
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;

    #[tokio::test]
    async fn credit_goes_in_strides_and_adds_up() {
        let (mut grants, mut requests) = requests(ConsumeStreamStart::default());
        assert!(requests.next().await.unwrap().start.is_some());
        assert_eq!(requests.next().await.unwrap().credit_bytes, CREDIT_BYTES);
        grants.give(STRIDE_BYTES - 1);
        assert!(requests.next().now_or_never().is_none());
        grants.give(1);
        grants.give(STRIDE_BYTES);
        let credit = requests.next().await.unwrap().credit_bytes;
        assert_eq!(credit, 2 * STRIDE_BYTES);
        drop(grants);
        assert!(requests.next().await.is_none());
    }
}
