//! Watching the catalogue of logs: those that there are, then each change once and in order, from whichever server
//! answers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::{Status, Streaming};

use crate::client::attempts::{Attempts, within};
use crate::client::info::LogInfo;
use crate::client::servers::Servers;
use crate::client::{ClientError, SILENCE_MAX, native};
use crate::proto::v1::{
    self, CataloguePosition, LogChangeKind, WatchLogsRequest, WatchLogsResponse,
};

/// The watch replaces a stream that missed this many heartbeats.
const HEARTBEATS_MISSED: u32 = 3;
const HEARTBEAT: Duration = Duration::from_secs(1);

/// What became of a log.
#[derive(Debug, Clone, PartialEq)]
pub enum LogChange {
    /// The log was there when the watch began.
    Existing(LogInfo),
    /// Every log that was there when the watch began was told. Changes follow.
    Current,
    /// The log was made.
    Created(LogInfo),
    /// The log's settings were replaced. The log may not have been told before: it changed while the others were
    /// listed.
    Updated(LogInfo),
    /// The log was deleted. It may not have been told before: it was made and deleted since.
    Deleted {
        /// Its name. Another log may have been made under it.
        name: String,
        /// Its id.
        id: u32,
    },
}

/// How much of the catalogue a watch has told. It holds on every node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchPosition {
    /// The changes up to this index were told.
    pub index: u64,
    /// While the watch lists the logs that there are: the name of the last one that was told, empty before the first.
    /// `None` once all are listed.
    pub listed: Option<String>,
}

impl From<u64> for WatchPosition {
    /// The position behind the change of this index.
    fn from(index: u64) -> Self {
        let listed = None;
        Self { index, listed }
    }
}

/// A watch under way.
pub struct LogWatch {
    servers: Arc<Servers>,
    prefix: String,
    attempts: Attempts,
    silence_max: Duration,
    /// Where the caller is; `None` before the first answer of a watch without a position.
    at: Option<WatchPosition>,
    stream: Option<Streaming<WatchLogsResponse>>,
    /// The changes that came, each with the position behind it.
    came: VecDeque<(LogChange, WatchPosition)>,
    /// An answer came since the last fault.
    heard: bool,
    over: bool,
}

impl LogWatch {
    pub(in crate::client) fn new(
        servers: Arc<Servers>,
        prefix: &str,
        from: Option<WatchPosition>,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            attempts: Attempts::new(&servers, None, timeout)?,
            servers,
            prefix: prefix.to_owned(),
            silence_max: (HEARTBEAT * HEARTBEATS_MISSED)
                .max(SILENCE_MAX)
                .min(timeout),
            at: from,
            stream: None,
            came: VecDeque::new(),
            heard: false,
            over: false,
        })
    }

    /// Waits for the next change. Of several changes of one log, only the last may come. Dropping the future loses no
    /// change.
    ///
    /// # Errors
    ///
    /// An error ends the watch; each later call gives [`ClientError::Closed`]. [`ClientError::ResumeTooOld`]: the
    /// cluster has forgotten deletions since the position. [`ClientError::Unreachable`] or [`ClientError::Stalled`]: no
    /// server answered for the client's timeout. Else a refusal as its own variant.
    pub async fn next(&mut self) -> Result<LogChange, ClientError> {
        loop {
            if let Some((change, at)) = self.came.pop_front() {
                self.at = Some(at);
                return Ok(change);
            }
            if self.over {
                return Err(ClientError::Closed);
            }
            if let Err(status) = self.hear().await {
                self.stream = None;
                if std::mem::take(&mut self.heard) {
                    self.attempts.progressed();
                }
                if let Err(error) = self.attempts.failed(&status).await {
                    self.over = true;
                    return Err(error);
                }
            }
        }
    }

    /// The position behind what [`Self::next`] gave, to go on from later; `None` before the first answer. It also moves
    /// on while nothing changes.
    pub fn position(&self) -> Option<&WatchPosition> {
        self.at.as_ref()
    }

    /// Waits for one more answer, at first for a stream.
    async fn hear(&mut self) -> Result<(), Status> {
        let Some(stream) = &mut self.stream else {
            self.stream = Some(self.open().await?);
            return Ok(());
        };
        let silent = Instant::now() + self.silence_max;
        let Ok(answer) = timeout_at(silent, stream.message()).await else {
            let text = format!("no sign of life for {:?}", self.silence_max);
            return Err(Status::deadline_exceeded(text));
        };
        let answer = answer?.ok_or_else(|| Status::unavailable("the server ended the stream"))?;
        self.take(answer)
    }

    async fn open(&self) -> Result<Streaming<WatchLogsResponse>, Status> {
        let request = WatchLogsRequest {
            prefix: self.prefix.clone(),
            from: self.at.clone().map(|at| CataloguePosition {
                index: at.index,
                listed: at.listed,
            }),
            heartbeat_ms: u32::try_from(HEARTBEAT.as_millis()).unwrap_or(u32::MAX),
        };
        let mut client = native(self.servers.channel(self.attempts.server()));
        let calling = within(self.silence_max, client.watch_logs(request));
        Ok(calling.await?.into_inner())
    }

    fn take(&mut self, answer: WatchLogsResponse) -> Result<(), Status> {
        let wrong = || Status::failed_precondition("a watch's answer lacks what it is about");
        self.heard = true;
        let next = answer.next.ok_or_else(wrong)?;
        let next = WatchPosition {
            index: next.index,
            listed: next.listed,
        };
        let was_listing = self.at.as_ref().is_none_or(|at| at.listed.is_some());
        for change in answer.changes {
            let log = change.log.ok_or_else(wrong)?;
            let at = match was_listing {
                true => WatchPosition {
                    index: next.index,
                    listed: Some(log.name.clone()),
                },
                false => change.index.into(),
            };
            let told = match LogChangeKind::try_from(change.kind) {
                Ok(LogChangeKind::Existing) => LogChange::Existing(log.into()),
                Ok(LogChangeKind::Created) => LogChange::Created(log.into()),
                Ok(LogChangeKind::Updated) => LogChange::Updated(log.into()),
                Ok(LogChangeKind::Deleted) => deleted(log),
                Ok(LogChangeKind::Unspecified) | Err(_) => return Err(wrong()),
            };
            self.came.push_back((told, at));
        }
        if was_listing && next.listed.is_none() {
            self.came.push_back((LogChange::Current, next));
        } else if let Some((_, at)) = self.came.back_mut() {
            *at = next;
        } else {
            self.at = Some(next);
        }
        Ok(())
    }
}

fn deleted(log: v1::Log) -> LogChange {
    let (name, id) = (log.name, log.id);
    LogChange::Deleted { name, id }
}
