//! The appender: one batch at a time, each with its own outcome. A batch may depend on where the log ends.
//!
//! It works under a session, so a try whose outcome is unknown is made again safely. If the outcome stays
//! unknown, the appender gives the session up. Otherwise a later batch could be taken for the lost one, since
//! both have the same number.

use std::sync::Arc;
use std::time::Duration;

use tonic::Status;

use super::ack::Appended;
use super::ids::Ids;
use crate::batch::{Compression, Record, compress_if_smaller};
use crate::client::attempts::{Attempts, limited, within};
use crate::client::named::Log;
use crate::client::servers::Servers;
use crate::client::session::{self, Opened, Token};
use crate::client::told::{Doubt, is_session_expired, leaves_doubt, offset_differs};
use crate::client::{ClientError, Fence, SILENCE_MAX, build, native};
use crate::proto::v1::{
    Batch, ManyBatch, ProduceManyRequest, ProduceRequest, ProduceResponse, SessionSequence,
};

/// How an appender appends.
#[derive(Clone, Debug, Default)]
pub struct AppenderOptions {
    /// How batches are compressed; not at all unless said otherwise.
    pub compression: Compression,
    /// Appends only as long as this epoch of the name is the present one.
    pub fence: Option<Fence>,
}

/// Appends batches one after another.
///
/// A log that is deleted and made anew under its name is another one: once a batch was appended, later ones are refused
/// with [`ClientError::LogDeleted`], not appended to the new log.
pub struct Appender {
    servers: Arc<Servers>,
    log: String,
    options: AppenderOptions,
    timeout: Duration,
    session: Option<Session>,
    /// The logs that were appended to: one made anew under the name is another.
    ids: Ids,
    /// The server that answered last: the leader, or a node that reaches it.
    server: Option<String>,
}

/// A session of which no batch has an unknown outcome.
#[derive(Debug, Clone, Copy)]
struct Session {
    opened: Opened,
    /// How many records were appended under it.
    sequence: u64,
}

impl Appender {
    pub(in crate::client) fn new(
        servers: Arc<Servers>,
        log: &str,
        options: AppenderOptions,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        servers.rotation(None)?;
        Ok(Self {
            servers,
            log: log.to_owned(),
            options,
            timeout,
            session: None,
            ids: Ids::default(),
            server: None,
        })
    }

    /// Appends the records as one batch: all of them, side by side, or none.
    ///
    /// # Errors
    ///
    /// [`ClientError::EmptyBatch`] without a record; [`ClientError::Fenced`] under an epoch that is over;
    /// [`ClientError::OutcomeUnknown`] or [`ClientError::SessionExpired`] if the batch may be in the log. With
    /// every other error, a timeout among them, it is not.
    pub async fn append(&mut self, records: Vec<Record>) -> Result<Appended, ClientError> {
        self.append_if(None, &records).await
    }

    /// Appends the records as one batch, only if the log ends at this offset.
    ///
    /// # Errors
    ///
    /// [`ClientError::OffsetDiffers`] if the log ends elsewhere; else as [`Self::append`].
    pub async fn append_at(
        &mut self,
        expected_next_offset: u64,
        records: Vec<Record>,
    ) -> Result<Appended, ClientError> {
        self.append_if(Some(expected_next_offset), &records).await
    }

    /// Appends batches to several logs in one step: all of them, or none. Each batch names its log; the appender's own
    /// log plays no part. Gives where each batch stands, in order.
    ///
    /// # Errors
    ///
    /// [`ClientError::EmptyBatch`] without a batch, or with one that has no record; [`ClientError::InvalidArgument`] if
    /// a log is named twice; [`ClientError::Failed`] with
    /// [`Reason::OffsetDiffers`](crate::client::Reason::OffsetDiffers) if a log ends elsewhere than was expected, with
    /// a message that says which; else as [`Self::append`].
    pub async fn append_all(&mut self, batches: &[BatchFor]) -> Result<Vec<Appended>, ClientError> {
        if batches.is_empty() {
            return Err(ClientError::EmptyBatch);
        }
        let batches = batches.iter().map(|one| {
            Ok::<_, ClientError>(ManyBatch {
                log_id: self.ids.of(&one.log),
                log: one.log.clone(),
                batch: Some(self.batch(&one.records)?),
                expected_next_offset: one.expected_next_offset,
                fence: self.options.fence.clone().map(Into::into),
            })
        });
        let batches = batches.collect::<Result<_, _>>()?;
        let session = None;
        self.appended(Call::Many(ProduceManyRequest { batches, session }))
            .await
    }

    /// Closes the session, if a server answers.
    pub async fn close(self) {
        if let (Some(session), Some(server)) = (self.session, &self.server) {
            session::close(&self.servers, server, session.opened).await;
        }
    }

    async fn append_if(
        &mut self,
        expected: Option<u64>,
        records: &[Record],
    ) -> Result<Appended, ClientError> {
        let request = ProduceRequest {
            log_id: self.ids.of(&self.log),
            log: self.log.clone(),
            batch: Some(self.batch(records)?),
            session: None,
            expected_next_offset: expected,
            fence: self.options.fence.clone().map(Into::into),
        };
        let mut appended = self.appended(Call::One(request)).await?;
        appended.pop().ok_or(ClientError::Closed)
    }

    async fn appended(&mut self, call: Call) -> Result<Vec<Appended>, ClientError> {
        let attempts = Attempts::new(&self.servers, None, self.timeout)?;
        // The session is taken out while an outcome is open, so that it is gone if the caller drops the call.
        let mut tries = Tries {
            servers: &self.servers,
            attempts: attempts.beginning_at(self.server.take()),
            call,
            session: self.session.take(),
            token: Token::random(),
            uncertain: false,
        };
        let outcome = tries.run().await;
        if !tries.uncertain {
            self.session = tries.session;
        }
        self.server = Some(tries.attempts.server().to_owned());
        let answers = outcome?;
        for (log, answer) in tries.call.logs().zip(&answers) {
            // Its first batch may have been tried on the log that was there before; that one is gone with it.
            let _ = self.ids.note(log, answer.log_id);
        }
        Ok(answers.iter().map(Appended::from).collect())
    }

    fn batch(&self, records: &[Record]) -> Result<Batch, ClientError> {
        let (plain, count) = build(records)?;
        let (records, compression) = compress_if_smaller(plain, self.options.compression);
        Ok(Batch {
            records,
            compression: compression as i32,
            count,
        })
    }
}

/// A batch for one of several logs.
#[derive(Clone, Debug)]
pub struct BatchFor {
    log: String,
    records: Vec<Record>,
    expected_next_offset: Option<u64>,
}

impl BatchFor {
    /// Records for a log, side by side.
    pub fn new(log: impl Into<String>, records: Vec<Record>) -> Self {
        Self {
            log: log.into(),
            records,
            expected_next_offset: None,
        }
    }

    /// Makes the whole call depend on this: the log must end at this offset.
    pub fn only_at(mut self, expected_next_offset: u64) -> Self {
        self.expected_next_offset = Some(expected_next_offset);
        self
    }
}

/// The call that is made, and made again.
enum Call {
    One(ProduceRequest),
    Many(ProduceManyRequest),
}

impl Call {
    /// Where the log was expected to end; `None` without that condition, and for several logs.
    fn expected(&self) -> Option<u64> {
        match self {
            Self::One(request) => request.expected_next_offset,
            Self::Many(_) => None,
        }
    }

    /// The log of each batch.
    fn logs(&self) -> impl Iterator<Item = &str> {
        let (one, many) = match self {
            Self::One(request) => (Some(&*request.log), &[][..]),
            Self::Many(request) => (None, &*request.batches),
        };
        one.into_iter().chain(many.iter().map(|batch| &*batch.log))
    }

    /// Makes the call once.
    async fn make(
        &mut self,
        mut client: Log,
        session: SessionSequence,
    ) -> Result<Vec<ProduceResponse>, Status> {
        match self {
            Self::One(request) => {
                request.session = Some(session);
                let answer = within(SILENCE_MAX, client.produce(request.clone())).await?;
                Ok(vec![answer.into_inner()])
            }
            Self::Many(request) => {
                request.session = Some(session);
                let answer = within(SILENCE_MAX, client.produce_many(request.clone())).await?;
                Ok(answer.into_inner().appended)
            }
        }
    }
}

/// The tries to append what one call brings.
struct Tries<'a> {
    servers: &'a Arc<Servers>,
    attempts: Attempts,
    call: Call,
    session: Option<Session>,
    token: Token,
    /// A try may have appended the batches, or may still do so.
    uncertain: bool,
}

impl Tries<'_> {
    async fn run(&mut self) -> Result<Vec<ProduceResponse>, ClientError> {
        loop {
            let status = match self.once().await {
                Ok(answer) => {
                    self.uncertain = false;
                    return Ok(answer);
                }
                Err(status) => status,
            };
            let expected = self.call.expected();
            if let (Some(expected), Some(next)) = (expected, offset_differs(&status)) {
                return Err(ClientError::OffsetDiffers { expected, next });
            }
            let failed = if is_session_expired(&status) && self.session.is_some() {
                self.session = None;
                self.token = Token::random();
                if self.uncertain {
                    return Err(ClientError::SessionExpired);
                }
                let again = Status::unavailable(status.message());
                self.attempts.failed(&again).await
            } else {
                self.attempts.failed(&status).await
            };
            let doubt = match self.uncertain {
                true => Doubt::of(self.call.logs()),
                false => Doubt::None,
            };
            failed.map_err(|error| error.unless_in_doubt(doubt, &status))?;
        }
    }

    async fn once(&mut self) -> Result<Vec<ProduceResponse>, Status> {
        let server = self.attempts.server().to_owned();
        let mut session = match self.session {
            Some(session) => session,
            None => Session {
                opened: session::open(self.servers, &server, self.token).await?,
                sequence: 0,
            },
        };
        self.session = Some(session);
        let sequence = session.opened.sequence(session.sequence);
        let client = native(limited(self.servers.channel(&server), SILENCE_MAX));
        let was_uncertain = std::mem::replace(&mut self.uncertain, true);
        let answer = self.call.make(client, sequence).await;
        if let Err(status) = &answer {
            self.uncertain = was_uncertain || leaves_doubt(status);
        }
        let answer = answer?;
        let records = answer.iter().map(|batch| u64::from(batch.count));
        session.sequence += records.sum::<u64>();
        self.session = Some(session);
        Ok(answer)
    }
}
