//! Reading: records as messages, and a stream that waits at the tail.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures::Stream;
use futures::future::BoxFuture;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use crate::batch::Compression;
use crate::log::record::Stored;
use crate::log::{self, Offset, Read, Record};
use crate::net::budget::{Accounts, Held, SMALL_BYTES_MAX};
use crate::proto::log_v1;

use crate::server::answers::Outbox;
use crate::server::answers::reading::{Asked, Failed, PART_BYTES, Shape, is_copied};
use crate::server::auth::Action;
use crate::server::{ApiContext, CommitLog, Drain, counts, status};

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

/// The log that a request reads, once it is as fresh as the request asks for.
pub async fn log<L: CommitLog>(
    api: &ApiContext<L>,
    request: &Request<log_v1::ConsumeRequest>,
) -> Result<L, Status> {
    let name = super::log_name(request)?;
    let is_strong = is_strong(request.metadata())?;
    let asked = match is_strong {
        true => counts::Asked::Strong,
        false => counts::Asked::Relaxed,
    };
    api.counts.reads.of(asked).one_more();
    match is_strong {
        true => api.current_log_for(request, &name, Action::Consume).await,
        false => api.log_for(request, &name, Action::Consume).await,
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

/// Records as `log.v1` sends them.
#[derive(Debug, Clone, Copy)]
pub struct Records {
    pub from: Offset,
    /// About so many bytes, but at least one record.
    pub bytes_max: usize,
}

impl Shape for Records {
    type Answer = VecDeque<Record>;

    fn is_long(&self, stored: &[Stored]) -> bool {
        let packed = |part: &Stored| part.packed.is_some_and(|how| how != Compression::None);
        stored.iter().any(packed)
    }

    fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn make(&self, read: &Read) -> Result<(Self::Answer, usize), log::Error> {
        let parts = read.stored.iter();
        let count = parts.map(|part| part.count as usize).sum::<usize>();
        let mut records = Vec::with_capacity(count.min(self.bytes_max / PART_BYTES));
        let mut left = self.bytes_max.max(1);
        for part in &read.stored {
            left = part.read_into(self.from.max(part.first), left, &mut records)?;
            if left == 0 || records.len() * PART_BYTES >= self.bytes_max {
                break;
            }
        }
        let values = records.iter().map(|record: &Record| record.value.len());
        let bytes = values.sum::<usize>() + records.len() * PART_BYTES;
        if is_copied(bytes, read) {
            copy(&mut records);
            return Ok((records.into(), bytes));
        }
        Ok((records.into(), bytes.max(read.kept_bytes)))
    }
}

/// Lets go of what the records were read from.
fn copy(records: &mut [Record]) {
    let bytes = records.iter().map(|record| record.value.len()).sum();
    let mut values = BytesMut::with_capacity(bytes);
    for record in records {
        values.extend_from_slice(&record.value);
        record.value = values.split().freeze();
    }
}

/// Records from an offset on, for ever: at the tail it waits for the next commit and never polls.
pub struct ConsumeStream<L> {
    api: Arc<ApiContext<L>>,
    log: L,
    accounts: Option<Accounts>,
    outbox: Outbox,
    next: Offset,
    read: VecDeque<Record>,
    /// The room that they take.
    held: Option<Held>,
    reading: Option<BoxFuture<'static, Result<Answer, Status>>>,
    ended: bool,
}

type Answer = (VecDeque<Record>, Option<Held>);

impl<L: CommitLog> ConsumeStream<L> {
    pub fn new(
        api: Arc<ApiContext<L>>,
        log: L,
        accounts: Option<Accounts>,
        outbox: Outbox,
        from: Offset,
    ) -> Self {
        Self {
            api,
            log,
            accounts,
            outbox,
            next: from,
            read: VecDeque::new(),
            held: None,
            reading: None,
            ended: false,
        }
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
                if this.read.is_empty() {
                    this.outbox.built(this.held.take());
                }
                return Poll::Ready(Some(Ok(response(record))));
            }
            let reading = this.reading.get_or_insert_with(|| {
                let (api, log) = (this.api.clone(), this.log.clone());
                Box::pin(read_on(api, log, this.accounts.clone(), this.next))
            });
            match reading.as_mut().poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok((records, held))) => (this.read, this.held) = (records, held),
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
    api: Arc<ApiContext<L>>,
    log: L,
    accounts: Option<Accounts>,
    from: Offset,
) -> Result<Answer, Status> {
    let mut applied = log.watch_applied();
    let mut drain: Drain = api.drain.clone();
    tokio::select! {
        biased;
        () = drain.began() => return Err(status::draining()),
        there = applied.wait_for(|_| log.is_past(from)) => {
            there.map_err(|_| status::draining())?;
        }
    }
    tokio::select! {
        biased;
        read = read(&api, &log, accounts.as_ref(), from, READ_BYTES) => read,
        () = drain.began() => Err(status::draining()),
    }
}

/// Reads about so many bytes of records, with the room that they take.
pub async fn read<L: CommitLog>(
    api: &ApiContext<L>,
    log: &L,
    accounts: Option<&Accounts>,
    from: Offset,
    bytes_max: usize,
) -> Result<Answer, Status> {
    let shape = Records { from, bytes_max };
    let expected = bytes_max.max(SMALL_BYTES_MAX);
    let read = api.reading.answer(
        log.log(),
        accounts,
        Asked::Log(log.id(), from),
        expected,
        shape,
    );
    let read = read.await.map_err(|failed| match failed {
        Failed::Log(error) => status::log_v1(&error),
        Failed::Status(status) => status,
    });
    let (records, held) = read?;
    let bytes = records.iter().map(|record| record.value.len() as u64);
    api.counts.bytes_out.add(bytes.sum());
    api.counts.records_out.add(records.len() as u64);
    Ok((records, held))
}
