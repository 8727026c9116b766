//! Reading: records as messages, and a stream that waits at the tail.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use futures::future::BoxFuture;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::log::{Offset, Record};
use crate::proto::log_v1;

use super::{CommitLog, Drain, Shared, status};

/// Request metadata: `strong` makes a read linearizable, `relaxed` is what it is without.
const CONSISTENCY: &str = "ferrolog-consistency";
/// Response metadata of a stream: the first readable offset when it began.
pub const FIRST_OFFSET: &str = "ferrolog-first-offset";
/// The same: the offset that the next record got.
pub const NEXT_OFFSET: &str = "ferrolog-next-offset";
/// Bytes that a stream reads ahead of its client.
const READ_BYTES: usize = 256 << 10;

/// What the request's metadata asks for.
pub fn is_strong(metadata: &MetadataMap) -> Result<bool, Status> {
    match metadata.get(CONSISTENCY).map(|value| value.as_bytes()) {
        None | Some(b"relaxed") => Ok(false),
        Some(b"strong") => Ok(true),
        Some(_) => {
            let message = format!("the metadata {CONSISTENCY} is `relaxed` or `strong`");
            Err(status::invalid(message))
        }
    }
}

/// The record as a message.
pub fn response(record: Record) -> log_v1::ConsumeResponse {
    log_v1::ConsumeResponse {
        record: Some(log_v1::Record {
            value: record.value,
            offset: record.offset.0,
            term: record.term,
            r#type: record.kind,
        }),
    }
}

/// Records from an offset on, for ever: at the tail it waits for the next commit and never polls.
pub struct ConsumeStream<L> {
    shared: Arc<Shared<L>>,
    next: Offset,
    read: VecDeque<Record>,
    reading: Option<BoxFuture<'static, Result<Vec<Record>, Status>>>,
    ended: bool,
}

impl<L: CommitLog> ConsumeStream<L> {
    pub fn new(shared: Arc<Shared<L>>, from: Offset) -> Result<Self, Status> {
        shared.log()?;
        Ok(Self {
            shared,
            next: from,
            read: VecDeque::new(),
            reading: None,
            ended: false,
        })
    }
}

impl<L: CommitLog> Stream for ConsumeStream<L> {
    type Item = Result<log_v1::ConsumeResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        loop {
            if let Some(record) = this.read.pop_front() {
                this.next = Offset(record.offset.0 + 1);
                return Poll::Ready(Some(Ok(response(record))));
            }
            let reading = this
                .reading
                .get_or_insert_with(|| Box::pin(read_on(this.shared.clone(), this.next)));
            match reading.as_mut().poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(records)) => this.read.extend(records),
                Poll::Ready(Err(status)) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(status)));
                }
            }
            this.reading = None;
        }
    }
}

/// Reads from an offset on, once there is a record.
async fn read_on<L: CommitLog>(
    shared: Arc<Shared<L>>,
    from: Offset,
) -> Result<Vec<Record>, Status> {
    let log = shared.log()?;
    let mut applied = log.watch_applied();
    let mut drain: Drain = shared.drain.clone();
    tokio::select! {
        biased;
        () = drain.began() => return Err(status::draining()),
        there = applied.wait_for(|applied| applied.next_offset > from) => {
            there.map_err(|_| status::draining())?;
        }
    }
    let read = log.read(from, READ_BYTES).await;
    read.map_err(|error| status::log_v1(&error))
}
