//! The consumer: every record once, in order, from whichever server answers.
//!
//! The first answer's metadata says where the log begins and ends; a read that does not follow ends there. After
//! a loss the read goes on at the next offset, elsewhere. An offset out of order is an error, never a skip.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::time::Instant;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Request, Status, Streaming};

use super::attempts::{Attempts, within};
use super::error::trimmed;
use super::servers::Servers;
use super::{ClientError, FIRST_ANSWER_MAX, MESSAGE_BYTES_MAX, SILENCE_MAX};
use crate::proto::log_v1::log_client::LogClient;
use crate::proto::log_v1::{ConsumeRequest, ConsumeResponse};
use crate::proto::v1::GetStatusRequest;
use crate::proto::v1::cluster_service_client::ClusterServiceClient;

/// Request metadata that makes a read linearizable.
const CONSISTENCY: &str = "ferrolog-consistency";
/// Answer metadata of ConsumeStream: the log's end, taken after the read barrier.
const NEXT_OFFSET: &str = "ferrolog-next-offset";

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The first record the log still holds.
    Earliest,
    /// The record that comes next.
    Latest,
    Offset(u64),
}

/// How fresh the answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// What the node has applied: in order, perhaps behind.
    #[default]
    Relaxed,
    /// At least everything acknowledged before the call.
    Strong,
}

/// What to read, and how.
#[derive(Debug, Clone)]
pub struct ConsumeOptions {
    pub from: Start,
    pub consistency: Consistency,
    /// Waits for new records at the end, instead of ending there.
    pub follow: bool,
    /// Reads from this server and no other.
    pub server: Option<String>,
}

/// A record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub offset: u64,
    pub value: Bytes,
}

/// A read under way.
pub struct Consumer {
    servers: Arc<Servers>,
    options: ConsumeOptions,
    attempts: Attempts,
    silence_max: Duration,
    answers: Option<Streaming<ConsumeResponse>>,
    opened: Instant,
    /// A record came since the last fault.
    moved: bool,
    /// A record came.
    delivered: bool,
    /// The offset due next; `None` until the start is known.
    next: Option<u64>,
    /// Where the read ends; `None` for one that follows.
    end: Option<u64>,
    over: bool,
}

/// What one look at the stream brought.
enum Step {
    Record(Record),
    End,
}

/// Why a look brought nothing.
enum Fault {
    /// The stream is lost; another may do.
    Lost(Status),
    Final(ClientError),
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        Self::Lost(status)
    }
}

impl Consumer {
    pub(super) fn new(
        servers: Arc<Servers>,
        options: ConsumeOptions,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let attempts = Attempts::new(&servers, options.server.as_deref(), timeout)?;
        let silence_max = SILENCE_MAX.min(timeout);
        Ok(Self {
            servers,
            options,
            attempts,
            silence_max,
            answers: None,
            opened: Instant::now(),
            moved: false,
            delivered: false,
            next: None,
            end: None,
            over: false,
        })
    }

    /// The next record, or `None` at the end. Dropping the future loses no record.
    pub async fn next(&mut self) -> Option<Result<Record, ClientError>> {
        if self.over {
            return None;
        }
        loop {
            let fault = match self.step().await {
                Ok(Step::Record(record)) => return Some(Ok(record)),
                Ok(Step::End) => {
                    self.over = true;
                    return None;
                }
                Err(fault) => fault,
            };
            self.note_progress();
            let outcome = match fault {
                Fault::Lost(status) if trimmed(&status).is_some() => self.lost_start(&status),
                Fault::Lost(status) => self.attempts.failed(&status).await,
                Fault::Final(error) => Err(error),
            };
            if let Err(error) = outcome {
                self.over = true;
                return Some(Err(error));
            }
        }
    }

    /// The same as a stream, for those who combine streams.
    pub fn into_stream(self) -> impl Stream<Item = Result<Record, ClientError>> {
        futures::stream::unfold(self, |mut consumer| async {
            let record = consumer.next().await?;
            Some((record, consumer))
        })
    }

    /// Where this read ends: known after the first `next`, and only if it does not follow.
    pub fn end(&self) -> Option<u64> {
        self.end
    }

    async fn step(&mut self) -> Result<Step, Fault> {
        if self.answers.is_none() {
            self.answers = Some(self.open().await?);
            self.opened = Instant::now();
        }
        let next = self.next.unwrap_or(0);
        if self.end.is_some_and(|end| next >= end) {
            return Ok(Step::End);
        }
        let Some(answers) = &mut self.answers else {
            return Err(Status::unavailable("no stream").into());
        };
        // One that follows may wait for ever; one that reads up to a known end is owed a record.
        let answer = match self.options.follow {
            true => answers.message().await?,
            false => within(self.silence_max, answers.message()).await?,
        };
        let Some(answer) = answer else {
            return Err(Status::unavailable("the server ended the stream").into());
        };
        self.take(answer, next)
            .map(Step::Record)
            .map_err(Fault::Final)
    }

    /// The next record is gone. A read that asked for the earliest one, and got none yet, asks anew; records
    /// are never skipped behind a reader's back.
    fn lost_start(&mut self, status: &Status) -> Result<(), ClientError> {
        let asked = self.next.unwrap_or(match self.options.from {
            Start::Offset(offset) => offset,
            Start::Earliest | Start::Latest => 0,
        });
        let first = trimmed(status).unwrap_or(asked);
        if self.options.from == Start::Earliest && !self.delivered && first > asked {
            self.next = None;
            return Ok(());
        }
        Err(ClientError::Trimmed { asked, first })
    }

    /// After a fault: whether the lost stream was of use. A quiet tail is, a stream that breaks at once is not.
    fn note_progress(&mut self) {
        let was_open = self.answers.take().is_some();
        let was_quiet = self.options.follow && self.opened.elapsed() >= self.silence_max;
        if self.moved || (was_open && was_quiet) {
            self.attempts.progressed();
        }
        self.moved = false;
    }

    /// Takes the answer, which must be the one due.
    fn take(&mut self, answer: ConsumeResponse, expected: u64) -> Result<Record, ClientError> {
        let server = || self.attempts.server().to_owned();
        let Some(record) = answer.record else {
            return Err(ClientError::Protocol {
                server: server(),
                what: "an answer holds no record",
            });
        };
        if record.offset != expected {
            return Err(ClientError::Gap {
                server: server(),
                expected,
                got: record.offset,
            });
        }
        self.next = Some(expected + 1);
        self.moved = true;
        self.delivered = true;
        Ok(Record {
            offset: record.offset,
            value: record.value,
        })
    }

    /// Opens a stream at the next offset; at first finds out which that is.
    async fn open(&mut self) -> Result<Streaming<ConsumeResponse>, Fault> {
        let offset = match self.next {
            Some(next) => next,
            None => self.find_start().await?,
        };
        let (answers, metadata) = self.call(offset).await?;
        if self.next.is_some() {
            return Ok(answers);
        }
        let Some(log_end) = number(&metadata, NEXT_OFFSET) else {
            let what = "ConsumeStream does not say where the log ends";
            let server = self.attempts.server().to_owned();
            return Err(Fault::Final(ClientError::Protocol { server, what }));
        };
        if !self.options.follow && offset > log_end {
            return Err(Fault::Final(ClientError::PastEnd {
                asked: offset,
                next: log_end,
            }));
        }
        if !self.options.follow {
            self.end = Some(log_end);
        }
        self.next = Some(offset);
        // The end moved between the two questions: records before it are no news.
        if self.options.from == Start::Latest && log_end > offset {
            self.next = Some(log_end);
            let (answers, _) = self.call(log_end).await?;
            return Ok(answers);
        }
        Ok(answers)
    }

    async fn find_start(&self) -> Result<u64, Fault> {
        if let Start::Offset(offset) = self.options.from {
            return Ok(offset);
        }
        let mut cluster = ClusterServiceClient::new(self.servers.channel(self.attempts.server()));
        let asked = within(FIRST_ANSWER_MAX, cluster.get_status(GetStatusRequest {})).await;
        let status = asked?.into_inner();
        Ok(match self.options.from {
            Start::Latest => status.next_offset,
            _ => status.first_offset,
        })
    }

    async fn call(&self, offset: u64) -> Result<(Streaming<ConsumeResponse>, MetadataMap), Status> {
        let mut request = Request::new(ConsumeRequest { offset });
        if self.options.consistency == Consistency::Strong {
            request
                .metadata_mut()
                .insert(CONSISTENCY, AsciiMetadataValue::from_static("strong"));
        }
        let channel = self.servers.channel(self.attempts.server());
        let mut client = LogClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let answer = within(self.silence_max, client.consume_stream(request)).await?;
        let (metadata, answers, _) = answer.into_parts();
        Ok((answers, metadata))
    }
}

fn number(metadata: &MetadataMap, key: &str) -> Option<u64> {
    metadata.get(key)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
#[path = "consumer_tests.rs"]
mod tests;
