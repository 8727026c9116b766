//! The consumer: every record once, in order, from whichever server answers.
//!
//! The first answer of a stream says where it begins and how far the node is; a read that does not follow ends
//! there. After a loss the read goes on at the next offset, elsewhere, or at the next position of several logs.
//! What comes out of order is an error, never a skip.

use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::time::{Instant, timeout_at};
use tonic::{Status, Streaming};

use super::due::Due;
use super::grants::{Grants, requests};
use super::reading::{Consistency, ConsumeOptions, Start};
use super::unpacked::{ConsumedRecord, Unpacked};
use crate::client::attempts::{Attempts, within};
use crate::client::servers::Servers;
use crate::client::told::{is_behind, is_no_such_cursor, is_no_such_log, past_end, trimmed};
use crate::client::{ClientError, DEFAULT_LOG, Freshness, SILENCE_MAX, native};
use crate::proto::v1;

/// The consumer replaces a stream that missed this many heartbeats.
const HEARTBEATS_MISSED: u32 = 3;
/// If a leader confirmed within this time how far the node is, the node lacks only records that are under way.
const FRESH: Duration = Duration::from_secs(2);
/// How long a node may wait for an offset before it gives its first answer.
const CATCH_UP_MAX: Duration = Duration::from_secs(30);

/// A read under way.
pub struct Consumer {
    servers: Arc<Servers>,
    log: String,
    options: ConsumeOptions,
    attempts: Attempts,
    silence_max: Duration,
    first_answer_max: Duration,
    stream: Option<Incoming>,
    unpacked: Unpacked,
    opened: Instant,
    /// Since when the caller waits: first for any answer, then for a record.
    waiting_since: Option<Instant>,
    owed_since: Option<Instant>,
    /// A record came since the last fault.
    moved: bool,
    /// A record came.
    delivered: bool,
    /// How many servers in a row were too far behind.
    behind: usize,
    due: Due,
    freshness: Option<Freshness>,
    /// The id of the one log that is read, once an answer told it: a log made anew under its name is another.
    log_id: Option<u32>,
    over: bool,
}

struct Incoming {
    answers: Streaming<v1::ConsumeStreamResponse>,
    grants: Grants,
}

/// Why waiting brought no record.
enum Fault {
    /// The stream is lost; another stream may bring the record.
    Lost(Status),
    Final(ClientError),
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        Self::Lost(status)
    }
}

impl Consumer {
    pub(in crate::client) fn new(
        servers: Arc<Servers>,
        log: &str,
        options: ConsumeOptions,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let attempts = Attempts::new(&servers, options.server.as_deref(), timeout)?;
        let silence_max = (options.heartbeat * HEARTBEATS_MISSED).max(SILENCE_MAX);
        let first_answer_max = match options.consistency {
            Consistency::AtLeast(_) => CATCH_UP_MAX,
            _ => silence_max,
        };
        let name = if log.is_empty() { DEFAULT_LOG } else { log };
        let only = options.selection.is_none().then(|| name.to_owned());
        Ok(Self {
            servers,
            log: only.clone().unwrap_or_default(),
            due: Due::new(&options),
            unpacked: Unpacked::of(only.as_deref()),
            options,
            attempts,
            silence_max: silence_max.min(timeout),
            first_answer_max: first_answer_max.min(timeout),
            stream: None,
            opened: Instant::now(),
            waiting_since: None,
            owed_since: None,
            moved: false,
            delivered: false,
            behind: 0,
            freshness: None,
            log_id: None,
            over: false,
        })
    }

    /// The next record, or `None` at the end. Dropping the future loses no record.
    ///
    /// # Errors
    ///
    /// An error ends the read, and nothing follows it. [`ClientError::Trimmed`]: the next record was given up.
    /// [`ClientError::NoSuchLog`], [`ClientError::LogDeleted`] or [`ClientError::NoSuchCursor`]: what was to be read is
    /// not there. [`ClientError::PastEnd`]: the read was to begin behind the end. [`ClientError::Stale`]: no node is as
    /// fresh as was asked. [`ClientError::Gap`] or [`ClientError::Batch`]: a server sent what cannot be right. Else a
    /// timeout, or a refusal as its own variant.
    pub async fn next(&mut self) -> Option<Result<ConsumedRecord, ClientError>> {
        while !self.over {
            let outcome = match self.at_hand() {
                Ok(Some(record)) => return Some(Ok(record)),
                Ok(None) if self.due.is_at_end() => {
                    self.finish();
                    return None;
                }
                Ok(None) => match self.hear().await {
                    Ok(()) => Ok(()),
                    Err(fault) => self.recover(fault).await,
                },
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                self.finish();
                return Some(Err(error));
            }
        }
        None
    }

    /// The same as a stream, for those who combine streams.
    pub fn into_stream(self) -> impl Stream<Item = Result<ConsumedRecord, ClientError>> {
        futures::stream::unfold(self, |mut consumer| async {
            let record = consumer.next().await?;
            Some((record, consumer))
        })
    }

    /// The offset of the next record; at first where the read begins, which the first answer tells. In a read of
    /// several logs it is a position, from which [`Start::Position`] goes on.
    ///
    /// # Errors
    ///
    /// As [`Self::next`], while the first answer has not come; [`ClientError::Closed`] if the read ended before it
    /// came.
    pub async fn position(&mut self) -> Result<u64, ClientError> {
        loop {
            match self.due.next {
                Some(next) => return Ok(next),
                None if self.over => return Err(ClientError::Closed),
                None => {}
            }
            let outcome = match self.hear().await {
                Ok(()) => Ok(()),
                Err(fault) => self.recover(fault).await,
            };
            if let Err(error) = outcome {
                self.finish();
                return Err(error);
            }
        }
    }

    /// Where this read ends: known after the first `next`, and only if it does not follow.
    pub fn end(&self) -> Option<u64> {
        self.due.end
    }

    /// How far the node was when it last said so, which it does with each heartbeat. `None` before the first answer.
    pub fn freshness(&self) -> Option<&Freshness> {
        self.freshness.as_ref()
    }

    /// Whether records may be missing at the end of this read. `Some` is where the log on the node's disk ends: the
    /// read stopped before that, and no leader had confirmed within 2 s how far the node is.
    pub fn stopped_short(&self) -> Option<u64> {
        let (told, end) = (self.freshness.as_ref()?, self.due.end?);
        let fresh = |ms| Duration::from_millis(ms) <= FRESH;
        let is_fresh = told.staleness_ms.is_some_and(fresh);
        let held = match self.options.selection {
            Some(_) => told.held_position,
            None => told.held_offset,
        };
        (!is_fresh && held > end).then_some(held)
    }

    fn finish(&mut self) {
        self.over = true;
        self.stream = None;
        self.unpacked.clear();
    }

    /// The next record, if it has come already.
    fn at_hand(&mut self) -> Result<Option<ConsumedRecord>, ClientError> {
        if self.due.is_at_end() {
            return Ok(None);
        }
        match self.unpacked.next() {
            Ok(Some((record, ended_bytes))) => {
                self.due.handed_out(&record);
                self.delivered = true;
                self.waiting_since = None;
                if let Some(stream) = self.stream.as_mut().filter(|_| ended_bytes > 0) {
                    stream.grants.give(ended_bytes);
                }
                Ok(Some(record))
            }
            Ok(None) => {
                self.due.all_handed_out();
                Ok(None)
            }
            Err(error) => Err(ClientError::Batch {
                server: self.attempts.server().to_owned(),
                offset: self.due.next.unwrap_or_default(),
                message: error.to_string(),
            }),
        }
    }

    /// Waits for one more answer.
    async fn hear(&mut self) -> Result<(), Fault> {
        let Some(stream) = &mut self.stream else {
            return self.open().await;
        };
        let now = Instant::now();
        let silent = *self.waiting_since.get_or_insert(now) + self.silence_max;
        let owed = *self.owed_since.get_or_insert(now) + self.silence_max;
        let Ok(answer) = timeout_at(silent, stream.answers.message()).await else {
            let text = format!("no sign of life for {:?}", self.silence_max);
            return Err(Status::deadline_exceeded(text).into());
        };
        let answer = answer?.ok_or_else(|| Status::unavailable("the server ended the stream"))?;
        self.waiting_since = None;
        // A read up to a known end can expect records; a read that follows may wait for ever.
        let is_empty = answer.batches.is_empty();
        if is_empty && !self.options.follow && Instant::now() >= owed {
            let text = format!("heartbeats, but no record for {:?}", self.silence_max);
            return Err(Status::unavailable(text).into());
        }
        self.take(answer).map_err(Fault::Final)
    }

    /// Opens a stream at the next offset, at first where the caller wants to begin.
    async fn open(&mut self) -> Result<(), Fault> {
        let selection = self.options.selection.as_ref();
        let place = selection.map_or(Start::Offset as fn(u64) -> Start, |_| Start::Position);
        let from = self.due.next.map(place);
        let (grants, requests) = requests(v1::ConsumeStreamStart {
            log_id: self.log_id,
            log: self.log.clone(),
            start: Some(from.as_ref().unwrap_or(&self.options.from).into()),
            consistency: Some(self.options.consistency.into()),
            accept: vec![v1::Compression::Lz4.into(), v1::Compression::Zstd.into()],
            heartbeat_ms: self.options.heartbeat_ms(),
            selection: selection.map(v1::Selection::from),
        });
        let mut client = native(self.servers.channel(self.attempts.server()));
        let deadline = self.first_answer_max;
        let calling = within(deadline, client.consume_stream(requests));
        let mut answers = calling.await?.into_inner();
        let first = within(deadline, answers.message()).await?;
        let first = first.ok_or_else(|| Status::unavailable("the server ended the stream"))?;

        self.opened = Instant::now();
        (self.waiting_since, self.owed_since) = (None, None);
        self.stream = Some(Incoming { answers, grants });
        if self.due.next.is_none() {
            let (server, follow) = (self.attempts.server(), self.options.follow);
            let begun = self.due.begin(server, &first, follow);
            begun.map_err(Fault::Final)?;
        }
        self.behind = 0;
        self.take(first).map_err(Fault::Final)
    }

    /// Takes an answer, whose records must be the ones due.
    fn take(&mut self, answer: v1::ConsumeStreamResponse) -> Result<(), ClientError> {
        if self.due.take(self.attempts.server(), &answer)? {
            self.moved = true;
            self.owed_since = None;
        }
        for batch in answer.batches {
            self.unpacked.push(batch);
        }
        self.log_id = self.log_id.or(answer.log_id);
        if answer.freshness.is_some() {
            self.freshness = answer.freshness;
        }
        Ok(())
    }

    /// Goes on elsewhere, or says why the read is over.
    async fn recover(&mut self, fault: Fault) -> Result<(), ClientError> {
        self.note_progress();
        let status = match fault {
            Fault::Lost(status) => status,
            Fault::Final(error) => return Err(error),
        };
        if trimmed(&status).is_some() {
            return self.lost_start(&status);
        }
        if let (Start::Cursor(name), true) = (&self.options.from, is_no_such_cursor(&status)) {
            let name = name.clone();
            return Err(ClientError::NoSuchCursor { name });
        }
        if self.due.next.is_some() && is_no_such_log(&status) {
            // The log was there when the read began. The stream that would have told of its end was lost.
            return Err(ClientError::LogDeleted);
        }
        if let Some(next) = past_end(&status) {
            if self.due.next.is_some() {
                // This server is behind the one that told the offset.
                let again = Status::unavailable(status.message());
                return self.attempts.failed(&again).await;
            }
            if let Start::Offset(asked) | Start::Position(asked) = self.options.from {
                return Err(ClientError::PastEnd { asked, next });
            }
        }
        if is_behind(&status) {
            self.behind += 1;
            if self.behind >= self.attempts.len() {
                return Err(ClientError::Stale {
                    server: self.attempts.server().to_owned(),
                    message: status.message().to_owned(),
                });
            }
        }
        self.attempts.failed(&status).await
    }

    /// The next record is gone. A read that asked for the earliest one, and got none yet, asks anew; records
    /// are never skipped behind a reader's back.
    fn lost_start(&mut self, status: &Status) -> Result<(), ClientError> {
        let asked = self.due.next.unwrap_or(match self.options.from {
            Start::Offset(offset) => offset,
            _ => 0,
        });
        let first = trimmed(status).unwrap_or(asked);
        if self.options.from == Start::Earliest && !self.delivered && first > asked {
            self.due.next = None;
            return Ok(());
        }
        Err(ClientError::Trimmed { asked, first })
    }

    /// After a fault: whether the lost stream made progress. A stream that waited at a quiet end of the log
    /// did; a stream that broke at once did not.
    fn note_progress(&mut self) {
        let was_open = self.stream.take().is_some();
        let was_quiet = self.options.follow && self.opened.elapsed() >= self.silence_max;
        if self.moved || (was_open && was_quiet) {
            self.attempts.progressed();
        }
        self.moved = false;
    }
}
