//! The producer: pipelined, bounded, and exactly once across lost servers.
//!
//! Each producer is a session. A stream says which session it carries and the sequence number of its first
//! record; after a loss the next stream starts at the first unacknowledged record, and the server answers
//! what it already holds with the offsets of the first time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Request, Status};

use super::attempts::{Attempts, within};
use super::servers::Servers;
use super::window::{ProducerStats, Window};
use super::{ClientError, FIRST_ANSWER_MAX, SILENCE_MAX};
use crate::proto::log_v1::log_client::LogClient;

/// Request metadata: 32 hexadecimal digits that name the producer's session.
const SESSION: &str = "ferrolog-session";
/// Request metadata: the decimal sequence number of the stream's first record.
const SEQUENCE: &str = "ferrolog-sequence";

/// Appends records in the order of its `send` calls, each exactly once.
///
/// Dropping it sends what is in flight in the background; [`finish`](Self::finish) waits for that.
pub struct Producer {
    window: Arc<Window>,
    session: JoinHandle<Result<(), ClientError>>,
}

/// The offset of a sent record, once it is synced on a majority.
#[derive(Debug)]
pub struct Ack(oneshot::Receiver<Result<u64, ClientError>>);

impl Producer {
    pub(super) fn new(
        servers: Arc<Servers>,
        id: u128,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let window = Arc::new(Window::new());
        let attempts = Attempts::new(&servers, None, timeout)?;
        let session = Session {
            servers,
            window: Arc::clone(&window),
            id,
            silence_max: SILENCE_MAX.min(timeout),
        };
        Ok(Self {
            window,
            session: tokio::spawn(session.run(attempts)),
        })
    }

    /// Queues a record. Waits while 1,024 records or 8 MiB are unacknowledged.
    pub async fn send(&self, value: Bytes) -> Result<Ack, ClientError> {
        self.window.push(value).await.map(Ack)
    }

    pub fn stats(&self) -> ProducerStats {
        self.window.stats()
    }

    /// Waits until every record is acknowledged.
    pub async fn finish(mut self) -> Result<ProducerStats, ClientError> {
        self.window.close();
        (&mut self.session)
            .await
            .unwrap_or(Err(ClientError::Closed))?;
        Ok(self.window.stats())
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.window.close();
    }
}

impl Future for Ack {
    type Output = Result<u64, ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|answer| answer.unwrap_or(Err(ClientError::Closed)))
    }
}

/// The task behind a producer: keeps one stream open while there is something to send.
struct Session {
    servers: Arc<Servers>,
    window: Arc<Window>,
    id: u128,
    silence_max: Duration,
}

impl Session {
    async fn run(self, attempts: Attempts) -> Result<(), ClientError> {
        let outcome = self.keep_streaming(attempts).await;
        if let Err(failure) = &outcome {
            self.window.fail(failure);
        }
        outcome
    }

    async fn keep_streaming(&self, mut attempts: Attempts) -> Result<(), ClientError> {
        while self.window.wait_for_work().await {
            let acknowledged = self.window.stats().acknowledged;
            let server = attempts.server().to_owned();
            let Err(status) = self.stream(&server).await else {
                return Ok(());
            };
            if self.window.stats().acknowledged > acknowledged {
                attempts.progressed();
            }
            attempts.waiting_since(self.window.waiting_since().unwrap_or_else(Instant::now));
            attempts.failed(&status).await?;
        }
        Ok(())
    }

    /// Sends and takes answers until the stream breaks, or all is done.
    async fn stream(&self, server: &str) -> Result<(), Status> {
        let (outgoing, sequence) = self.window.restart();
        let mut request = Request::new(outgoing);
        identify(request.metadata_mut(), self.id, sequence);
        let mut client = LogClient::new(self.servers.channel(server));
        let calling = client.produce_stream(request);
        let mut answers = within(FIRST_ANSWER_MAX, calling).await?.into_inner();

        let silence = tokio::time::sleep(self.silence_max);
        tokio::pin!(silence);
        loop {
            tokio::select! {
                biased;
                answer = answers.message() => match answer? {
                    Some(answer) if self.window.acknowledge(answer.offset) => {}
                    Some(_) => return Err(Status::failed_precondition("an answer came without a request")),
                    None if self.window.is_done() => return Ok(()),
                    None => return Err(Status::unavailable("the server ended the stream")),
                },
                () = &mut silence => {
                    let since = self.window.waiting_since().unwrap_or_else(Instant::now);
                    if since.elapsed() >= self.silence_max {
                        let text = format!("no acknowledgement for {:?}", self.silence_max);
                        return Err(Status::deadline_exceeded(text));
                    }
                    silence.as_mut().reset(since + self.silence_max);
                }
            }
        }
    }
}

fn identify(metadata: &mut MetadataMap, session: u128, sequence: u64) {
    // Digits are legal in a header, so the parse cannot fail.
    if let Ok(value) = AsciiMetadataValue::try_from(format!("{session:032x}")) {
        metadata.insert(SESSION, value);
    }
    metadata.insert(SEQUENCE, sequence.into());
}

#[cfg(test)]
#[path = "producer_tests.rs"]
mod tests;
