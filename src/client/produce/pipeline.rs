//! The task behind a producer: a session, and one stream at a time while there is something to send.
//!
//! After a loss it opens a stream to the next server and sends every unacknowledged batch again, as it was.
//! The session makes that safe. Without one, a loss with batches under way is the end.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::backlog::Credit;
use super::window::{Loss, Window};
use crate::client::attempts::{Attempts, within};
use crate::client::servers::Servers;
use crate::client::session::{self, Opened, Token};
use crate::client::told::{is_retryable, is_session_expired, was_not_done};
use crate::client::{ClientError, FIRST_ANSWER_MAX, SILENCE_MAX, native};
use crate::proto::v1::ProduceStreamResponse;

pub(super) struct Pipeline {
    servers: Arc<Servers>,
    window: Arc<Window>,
    token: Token,
    session: Option<Opened>,
    silence_max: Duration,
}

impl Pipeline {
    pub(in crate::client) fn new(
        servers: Arc<Servers>,
        window: Arc<Window>,
        timeout: Duration,
    ) -> Self {
        Self {
            servers,
            window,
            token: Token::random(),
            session: None,
            silence_max: SILENCE_MAX.min(timeout),
        }
    }

    pub(in crate::client) async fn run(
        mut self,
        mut attempts: Attempts,
    ) -> Result<(), ClientError> {
        let outcome = self.keep_streaming(&mut attempts).await;
        if let Err(failure) = &outcome {
            self.window.fail(failure);
        }
        // If no server answered, none would answer the close either.
        let answers = !outcome.as_ref().is_err_and(ClientError::is_timeout);
        if let Some(session) = self.session.filter(|_| answers) {
            session::close(&self.servers, attempts.server(), session).await;
        }
        outcome
    }

    async fn keep_streaming(&mut self, attempts: &mut Attempts) -> Result<(), ClientError> {
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
            // Asked before `judge`: what of an earlier stream may be in the log.
            let doubt = self.window.doubt();
            let status = self.judge(status)?;
            let failed = attempts.failed(&status).await;
            failed.map_err(|error| match error {
                // A timeout says already that no answer came.
                error if error.is_timeout() => error,
                error => error.unless_in_doubt(doubt, &status),
            })?;
        }
        Ok(())
    }

    /// Whether sending again is safe after this status, and under which one the next try is made.
    fn judge(&mut self, status: Status) -> Result<Status, ClientError> {
        let expired = self.session.is_some() && is_session_expired(&status);
        self.window.lost(match was_not_done(&status) {
            // A session takes batches in order only: behind a batch that was not appended, none is.
            true if self.session.is_some() => Loss::NoneAppended,
            true => Loss::FirstRefused,
            false => Loss::Unknown,
        });
        if expired {
            self.session = None;
            self.token = Token::random();
            if self.window.is_uncertain() {
                return Err(ClientError::SessionExpired);
            }
            return Ok(Status::unavailable(status.message()));
        }
        let again = is_retryable(&status) && self.window.is_uncertain();
        if again && !self.window.options.idempotent {
            return Err(ClientError::OutcomeUnknown);
        }
        Ok(status)
    }

    /// Sends and takes answers until the stream breaks, or all is done.
    async fn stream(&mut self, server: &str) -> Result<(), Status> {
        if self.window.options.idempotent && self.session.is_none() {
            self.session = Some(session::open(&self.servers, server, self.token).await?);
        }
        let outgoing = self.window.restart(self.session);
        let mut client = native(self.servers.channel(server));
        let calling = client.produce_stream(outgoing);
        let mut answers = within(FIRST_ANSWER_MAX, calling).await?.into_inner();
        let first = within(FIRST_ANSWER_MAX, answers.message()).await?;
        let first = first.ok_or_else(ended)?;
        if first.ack.is_some() {
            let text = "the first answer of a produce stream holds more than the credit";
            return Err(Status::failed_precondition(text));
        }
        self.window.grant(Credit {
            bytes: usize::try_from(first.credit_bytes).unwrap_or(usize::MAX),
            batches: first.credit_batches as usize,
        });
        self.take_answers(&mut answers).await
    }

    async fn take_answers(
        &self,
        answers: &mut Streaming<ProduceStreamResponse>,
    ) -> Result<(), Status> {
        let silence = tokio::time::sleep(self.silence_max);
        tokio::pin!(silence);
        loop {
            tokio::select! {
                biased;
                answer = answers.message() => match answer? {
                    Some(answer) => {
                        let ack = answer.ack.ok_or_else(|| {
                            Status::failed_precondition("an answer holds no acknowledgement")
                        })?;
                        self.window.acknowledge(&ack)?;
                    }
                    None if self.window.is_done() => return Ok(()),
                    None => return Err(ended()),
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

fn ended() -> Status {
    Status::unavailable("the server ended the stream")
}
