//! Carries out a command: on this node if it leads, or by passing it to the leader. The leader gives the command
//! its time.

use std::time::Duration;

use openraft::errors::{ClientWriteError, RaftError};
use prost::Message;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

use crate::log::{LogId, Offset};
use crate::net::traceparent::TRACEPARENT;
use crate::proto::raft_v1::{self as pb, ExecuteRefusalKind as Kind, execute_response as response};
use crate::raft::entry::admission::Admission;
use crate::raft::entry::audited::Note;
use crate::raft::entry::catalog::CreateLog;
use crate::raft::entry::codec;
use crate::raft::entry::command::{Command, CommitCursor, OpenSession};
use crate::raft::entry::outcome::{Full, Made, Outcome, StateRefusal};
use crate::raft::entry::types::TypeConfig;
use crate::raft::error::{DiskFull, ExecuteError, OTHER_ANSWER, WriteFailure};
use crate::reason::Reason;
use crate::retry::{self, CALL_WAIT, WAY_BACK};
use crate::spans::{Side, Span};

use super::commands::{Call, Commands};
use super::gate;

/// How long the outcome of a command is waited for at least once it was written, even if its time is over.
const WRITTEN_WAIT_MIN: Duration = Duration::from_millis(200);
/// Metadata of a command that is passed on: how long it has waited, in milliseconds.
pub(crate) const WAITED: &str = "ferrolog-waited-ms";

/// Metadata of a command that is passed on: who asked for it.
pub(crate) const ORIGIN: &str = "ferrolog-origin-bin";

pub(crate) type WriteError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

/// How long a session must be idle before it may give way to a new one, if there is no room.
const SESSION_IDLE_MIN: Duration = Duration::from_secs(10 * 60);

impl Commands {
    /// A time of the log, in milliseconds since 1970. What was last used before it has been unused for at least
    /// `idle`.
    pub(super) fn idle_before_ms(&self, idle: Duration) -> u64 {
        let surely_past = self.node.clocks.surely_past_ms(&self.node.view());
        self.node.passed.lock().before_ms(idle, surely_past)
    }

    /// Waits until some node is known to lead. Nothing was sent yet, so any node that leads by then may take the
    /// command.
    async fn leader_known(&self, deadline: Instant) {
        let me = self.node.id();
        let mut views = self.node.views.clone();
        let known = views.wait_for(|view| view.is_led(me) || view.stopped.is_some());
        // If no leader was found in time, the engine refuses the command below.
        let _ = tokio::time::timeout_at(deadline, known).await;
    }

    /// Carries out a command, on this node or on the leader.
    ///
    /// If the command was certainly not carried out, it is tried again for as long as there is time.
    pub(crate) async fn execute(
        &self,
        command: Command,
        call: Call,
    ) -> Result<Outcome, ExecuteError> {
        let deadline = call.until;
        let nobody_took_it = |error: &ExecuteError| matches!(error, ExecuteError::NoLeader { .. });
        let attempt = || async {
            self.leader_known(deadline).await;
            self.execute_once(command.clone(), &call).await
        };
        retry::until(deadline, nobody_took_it, attempt).await
    }

    async fn execute_once(&self, command: Command, call: &Call) -> Result<Outcome, ExecuteError> {
        let deadline = call.until;
        let trace = call.origin.as_ref().map(|origin| &origin.trace);
        let span = |name, side| trace.map_or_else(Span::default, |trace| trace.span(name, side));
        if let Some((id, addr)) = self.node.other_leader() {
            let mut client = self.node.transport.client(id, &addr);
            let mut request = Request::new(pb::ControlEntry {
                command: codec::command_to_control(&command),
            });
            let left = deadline.saturating_duration_since(Instant::now());
            let waited = CALL_WAIT.saturating_sub(left) + WAY_BACK;
            let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
            request.metadata_mut().insert(WAITED, waited_ms.into());
            if let Some(origin) = &call.origin {
                let origin = MetadataValue::from_bytes(&origin.to_pb().encode_to_vec());
                request.metadata_mut().insert_bin(ORIGIN, origin);
            }
            let forward = span("forward", Side::Asked);
            let traceparent = forward.traceparent().and_then(|text| text.parse().ok());
            if let Some(traceparent) = traceparent {
                request.metadata_mut().insert(TRACEPARENT, traceparent);
            }
            let until = deadline.max(Instant::now() + WAY_BACK);
            let answer = self
                .node
                .passed_on(id, until, client.execute(request))
                .await;
            return outcome_from_pb(answer.map_err(WriteFailure::from)?);
        }
        if !self.node.view().writable {
            // The engine would take the command, although no majority follows this leader.
            let reason = "none is known".to_owned();
            return Err(ExecuteError::NoLeader { reason });
        }
        if matches!(command, Command::Admission(_)) {
            self.found().await?;
        }
        if takes_room(&command) {
            self.node.space.check(&self.node.view())?;
            if !gate::caught_up(&self.node.log, deadline).await {
                let reason = "the leader's disk does not keep up".to_owned();
                return Err(ExecuteError::NoLeader { reason });
            }
        }
        let until = deadline.max(Instant::now() + WRITTEN_WAIT_MIN);
        let _command = span("command", Side::Within);
        let stamped = self.with_record(self.stamped(command), call.origin.as_deref());
        match self.write(stamped, until).await? {
            Outcome::Refused(refusal) => Err(refusal.into()),
            outcome => Ok(outcome),
        }
    }

    /// Replicates a command from here, if this node leads.
    pub(crate) async fn write(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<Outcome, WriteFailure> {
        let written = tokio::time::timeout_at(deadline, self.node.raft.client_write(command)).await;
        let late = |_| WriteFailure::Unknown("no majority answered".to_owned());
        let written: Result<_, WriteError> = written.map_err(late)?;
        match written {
            Ok(response) => Ok(response.data),
            // The engine rejected the command before it was written. Any other error leaves open whether the
            // command was committed.
            Err(error @ RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(WriteFailure::Nothing(error.to_string()))
            }
            Err(error) => Err(WriteFailure::Unknown(error.to_string())),
        }
    }

    fn stamped(&self, command: Command) -> Command {
        match command {
            Command::OpenSession(open) => Command::OpenSession(OpenSession {
                now_ms: self.stamps.next(),
                idle_before_ms: self.idle_before_ms(SESSION_IDLE_MIN),
                ..open
            }),
            Command::CreateLog(create) => Command::CreateLog(CreateLog {
                now_ms: self.stamps.next(),
                ..create
            }),
            Command::CommitCursor(commit) => Command::CommitCursor(CommitCursor {
                now_ms: self.stamps.next(),
                ..commit
            }),
            Command::Admission(Admission::Token {
                digest, life_ms, ..
            }) => Command::Admission(Admission::Token {
                digest,
                now_ms: self.stamps.next(),
                life_ms,
            }),
            other => other,
        }
    }
}

/// Whether a command is refused while disks are full. Commands that end something or make room are not refused.
fn takes_room(command: &Command) -> bool {
    match command {
        // A removal or a transfer waits for the first record of it, and may be what helps.
        Command::Notes(notes) => !notes.iter().any(Note::is_begun),
        Command::Append(_)
        | Command::OpenSession(_)
        | Command::ClaimEpoch(_)
        | Command::CreateLog(_)
        | Command::UpdateLog(_)
        | Command::CommitCursor(_) => true,
        Command::Register { .. }
        | Command::RegisterStart { .. }
        | Command::Forget { .. }
        | Command::Roll(_)
        | Command::Rewrite(_)
        | Command::DeleteLog(_)
        | Command::CompactLog(_)
        | Command::Compacted(_)
        | Command::Trim(_)
        | Command::TrimLogs(_)
        | Command::SetRetention(_)
        | Command::CloseSession(_)
        | Command::ExpireSessions(_)
        | Command::DeleteFence(_)
        | Command::DeleteCursor(..)
        | Command::Audited(_)
        | Command::Admission(_) => false,
    }
}

/// The outcome of a command as a message; an error if no node took the command, or its outcome is unknown.
pub fn outcome_to_pb(
    outcome: Result<Outcome, ExecuteError>,
) -> Result<pb::ExecuteResponse, Status> {
    let outcome = match outcome {
        Ok(Outcome::Session(session)) => response::Outcome::Session(session),
        Ok(Outcome::Claimed(epoch, next)) => response::Outcome::Claimed(pb::Claimed {
            epoch,
            next_offset: next.0,
        }),
        Ok(Outcome::Log(made)) => response::Outcome::MadeLog(pb::MadeLog {
            log: made.log.0,
            epoch: made.epoch,
        }),
        Ok(Outcome::Deleted(deleted)) => response::Outcome::Deleted(deleted),
        Ok(Outcome::Trimmed(first)) => response::Outcome::Trimmed(first.0),
        Ok(Outcome::Done) => response::Outcome::Done(pb::Blank {}),
        Ok(Outcome::Refused(refusal)) | Err(ExecuteError::Refused(refusal)) => {
            response::Outcome::Refused(refusal_to_pb(refusal))
        }
        // These are outcomes of commands that are never passed on.
        Ok(Outcome::Appended(_) | Outcome::Registered(_)) => {
            return Err(Reason::OutcomeUnknown.status(OTHER_ANSWER));
        }
        Err(ExecuteError::DiskFull(full)) => response::Outcome::Refused(pb::ExecuteRefusal {
            kind: Kind::DiskFull.into(),
            disk_full: Some(full.into()),
            ..pb::ExecuteRefusal::default()
        }),
        Err(error @ ExecuteError::NoLeader { .. }) => {
            return Err(Reason::NoLeader.status(&error.to_string()));
        }
        Err(error @ ExecuteError::Unknown { .. }) => {
            return Err(Reason::OutcomeUnknown.status(&error.to_string()));
        }
    };
    Ok(pb::ExecuteResponse {
        outcome: Some(outcome),
    })
}

fn refusal_to_pb(refusal: StateRefusal) -> pb::ExecuteRefusal {
    let mut told = pb::ExecuteRefusal::default();
    let mut limit = |full: Full| {
        told.of_subject = full.of_subject;
        Some(full.limit)
    };
    let (kind, current) = match refusal {
        StateRefusal::TooManySessions(full) => (Kind::TooManySessions, limit(full)),
        StateRefusal::NotOwner => (Kind::NotOwner, None),
        StateRefusal::EpochDiffers { current } => (Kind::EpochDiffers, Some(current)),
        StateRefusal::TooManyFences(full) => (Kind::TooManyFences, limit(full)),
        StateRefusal::CursorDiffers { current } => {
            (Kind::CursorDiffers, current.map(|offset| offset.0))
        }
        StateRefusal::CursorPastEnd { asked, next } => {
            told.asked = asked.0;
            (Kind::CursorPastEnd, Some(next.0))
        }
        StateRefusal::TooManyCursors(full) => (Kind::TooManyCursors, limit(full)),
        StateRefusal::TooManyAdmissions => (Kind::TooManyAdmissions, None),
        StateRefusal::LogExists { log } => (Kind::LogExists, Some(log.0.into())),
        StateRefusal::NoSuchLog => (Kind::NoSuchLog, None),
        StateRefusal::TooManyLogs(full) => (Kind::TooManyLogs, limit(full)),
        StateRefusal::LogEpochDiffers { current } => (Kind::LogEpochDiffers, Some(current)),
    };
    pb::ExecuteRefusal {
        kind: kind.into(),
        current,
        ..told
    }
}

fn outcome_from_pb(answer: pb::ExecuteResponse) -> Result<Outcome, ExecuteError> {
    Ok(match answer.outcome {
        Some(response::Outcome::Session(session)) => Outcome::Session(session),
        Some(response::Outcome::Claimed(claimed)) => {
            Outcome::Claimed(claimed.epoch, Offset(claimed.next_offset))
        }
        Some(response::Outcome::MadeLog(made)) => Outcome::Log(Made {
            log: LogId(made.log),
            epoch: made.epoch,
        }),
        Some(response::Outcome::Deleted(deleted)) => Outcome::Deleted(deleted),
        Some(response::Outcome::Trimmed(first)) => Outcome::Trimmed(Offset(first)),
        Some(response::Outcome::Done(_)) => Outcome::Done,
        Some(response::Outcome::Refused(refused)) => {
            let current = refused.current;
            let full = Full {
                limit: current.unwrap_or(0),
                of_subject: refused.of_subject,
            };
            let refusal = match refused.kind() {
                Kind::TooManySessions => StateRefusal::TooManySessions(full),
                Kind::NotOwner => StateRefusal::NotOwner,
                Kind::EpochDiffers => StateRefusal::EpochDiffers {
                    current: current.unwrap_or(0),
                },
                Kind::TooManyFences => StateRefusal::TooManyFences(full),
                Kind::CursorDiffers => StateRefusal::CursorDiffers {
                    current: current.map(Offset),
                },
                Kind::CursorPastEnd => StateRefusal::CursorPastEnd {
                    asked: Offset(refused.asked),
                    next: Offset(current.unwrap_or(0)),
                },
                Kind::TooManyCursors => StateRefusal::TooManyCursors(full),
                Kind::TooManyAdmissions => StateRefusal::TooManyAdmissions,
                Kind::LogExists => StateRefusal::LogExists {
                    log: LogId(current.and_then(|id| u32::try_from(id).ok()).unwrap_or(0)),
                },
                Kind::NoSuchLog => StateRefusal::NoSuchLog,
                Kind::TooManyLogs => StateRefusal::TooManyLogs(full),
                Kind::LogEpochDiffers => StateRefusal::LogEpochDiffers {
                    current: current.unwrap_or(0),
                },
                Kind::DiskFull => {
                    let full = DiskFull::from(refused.disk_full.unwrap_or_default());
                    return Err(full.into());
                }
                Kind::Unspecified => return Err(ExecuteError::other_answer()),
            };
            return Err(refusal.into());
        }
        None => return Err(ExecuteError::other_answer()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_come_back_as_they_went() {
        let full = |of_subject| Full {
            limit: 9,
            of_subject,
        };
        let outcomes = [
            Ok(Outcome::Done),
            Ok(Outcome::Session(7)),
            Ok(Outcome::Claimed(3, Offset(9))),
            Ok(Outcome::Deleted(true)),
            Ok(Outcome::Trimmed(Offset(6))),
            Err(StateRefusal::TooManySessions(full(true))),
            Err(StateRefusal::NotOwner),
            Err(StateRefusal::EpochDiffers { current: 4 }),
            Err(StateRefusal::TooManyFences(full(false))),
            Err(StateRefusal::CursorDiffers { current: None }),
            Err(StateRefusal::CursorPastEnd {
                asked: Offset(8),
                next: Offset(7),
            }),
            Err(StateRefusal::TooManyCursors(full(true))),
            Err(StateRefusal::TooManyAdmissions),
            Ok(Outcome::Log(Made {
                log: LogId(7),
                epoch: 2,
            })),
            Err(StateRefusal::LogExists { log: LogId(5) }),
            Err(StateRefusal::NoSuchLog),
            Err(StateRefusal::TooManyLogs(full(false))),
            Err(StateRefusal::LogEpochDiffers { current: 6 }),
        ];
        for outcome in outcomes {
            let outcome = outcome.map_err(ExecuteError::from);
            let sent = outcome_to_pb(outcome.clone()).unwrap();
            assert_eq!(outcome_from_pb(sent), outcome);
        }
        for voter in [None, Some("n2".to_owned())] {
            let full = DiskFull {
                available: 5,
                reserve: 6,
                voter,
            };
            let sent = outcome_to_pb(Err(full.clone().into())).unwrap();
            assert_eq!(outcome_from_pb(sent), Err(full.into()));
        }
    }
}
