//! The one map from errors to what a client is told: a reason, and what its details hold.
//!
//! What a reason means for the caller is the affair of [`Reason`].

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};
use tonic_types::pb;

use crate::batch::BatchError;
use crate::log::{self, LogId, Offset};
use crate::name::Shown;
use crate::net::budget::Full;
use crate::raft::{DiskFull, ExecuteError, MembershipError, ReadError, StateRefusal};
use crate::reason::{self, Reason};

use super::auth::On;

mod propose;

pub use propose::{propose, propose_many, propose_under};

/// Carries a status number that tonic's type cannot hold, up to the router's layer.
pub const NUMBER: &str = "ferrolog-status-number";
/// What the original answers past the end of the log.
const NOT_FOUND_404: i32 = 404;

/// What the details hold beside the reason.
fn details<const N: usize>(pairs: [(&str, &dyn Display); N]) -> HashMap<String, String> {
    let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_string()));
    HashMap::from(pairs)
}

/// The node belongs to no cluster yet.
pub fn starting() -> Status {
    Reason::Starting.status("this node is starting: it belongs to no cluster yet")
}

/// The node is going down.
pub fn draining() -> Status {
    Reason::Stopping.status("this node is stopping; another one goes on")
}

/// The request is not one.
pub fn invalid(message: impl Into<String>) -> Status {
    Reason::InvalidRequest.status(&message.into())
}

/// There is no log of this name.
pub fn no_such_log(name: &str) -> Status {
    let message = format!(
        "there is no log {}: `ferrolog log list` shows those that there are",
        Shown(name)
    );
    Reason::NoSuchLog.status_with(&message, details([("log", &name)]))
}

/// The log is one that nobody appends to, or deletes.
pub fn of_system(name: &str) -> Status {
    let message = format!(
        "{} is the system's own log: it is read, and kept as `ferrolog log retention` says, and nothing else",
        Shown(name)
    );
    Reason::InvalidRequest.status(&message)
}

/// The log was deleted.
pub fn log_deleted() -> Status {
    Reason::LogDeleted.status("the log was deleted")
}

/// The log that was meant is gone, and another one has its name, of which this node had not heard.
pub fn log_made_anew(name: &str) -> Status {
    let message = format!(
        "{} was deleted and made anew, which this node had not heard of: nothing was done; make the call again",
        Shown(name)
    );
    Reason::Lagging.status(&message)
}

/// What became of the logs since then was forgotten.
pub fn resume_too_old() -> Status {
    let text = "what became of the logs since then was forgotten: list them anew, by a watch without a position";
    Reason::ResumeTooOld.status(text)
}

/// The log of this name is not the one that was meant: a name's ids grow.
pub fn another_log(name: &str, meant: LogId, known: LogId) -> Status {
    if meant < known {
        let message = format!(
            "the log with id {meant} was deleted: {} is another log now, with id {known}",
            Shown(name)
        );
        return Reason::LogDeleted.status(&message);
    }
    let message = format!(
        "no log {} has the id {meant}: see `ferrolog log show` for its id",
        Shown(name)
    );
    Reason::NoSuchLog.status_with(&message, details([("log", &name)]))
}

/// The record is over the limit.
pub fn too_large(bytes: usize, limit: usize) -> Status {
    let message = format!(
        "a record of {bytes} bytes is over the limit of {limit} bytes: split it, or start the \
         nodes with a higher --record-bytes-max"
    );
    Reason::RecordTooLarge.status_with(&message, details([("limit_bytes", &limit)]))
}

/// The record is over the limit of its log.
pub fn too_large_for_log(bytes: usize, limit: usize) -> Status {
    let message = format!(
        "a record of {bytes} bytes is over the log's own limit of {limit} bytes: split it, or raise the limit with \
         `ferrolog log set --record-bytes-max`"
    );
    Reason::RecordTooLarge.status_with(&message, details([("limit_bytes", &limit)]))
}

/// A batch is longer than any may be, as its message tells.
pub fn batch_too_large(size: usize, limit: usize) -> Status {
    let what = "a batch";
    batch(&BatchError::OverLimit { what, size, limit })
}

/// A request of a kind that is never so long.
pub fn message_too_large(bytes: usize, limit: usize) -> Status {
    let message = format!("a request of {bytes} bytes is over this call's limit of {limit} bytes");
    Reason::MessageTooLarge.status_with(&message, details([("limit_bytes", &limit)]))
}

/// A request's headers are longer than any may be.
pub fn metadata_too_large(bytes: usize, limit: usize) -> Status {
    let message = format!("metadata of {bytes} bytes is over the limit of {limit} bytes");
    Reason::MetadataTooLarge.status_with(&message, details([("limit_bytes", &limit)]))
}

/// A request began and did not come on.
pub fn request_stalled(stall: Duration) -> Status {
    let seconds = stall.as_secs();
    let message = format!(
        "the request stood still for {seconds} s, or came too slowly on the whole, so nothing was done: send it again"
    );
    Reason::RequestStalled.status(&message)
}

/// The request's encoding is none that this node reads.
pub fn unsupported_encoding(encoding: &[u8]) -> Status {
    let encoding = told(encoding);
    let message = format!(
        "requests are taken as they are, not as {encoding}: send them without grpc-encoding; records may be \
         compressed inside their batches"
    );
    Reason::UnsupportedEncoding.status(&message)
}

/// There is no such call.
pub fn no_such_method(path: &str) -> Status {
    let path = told(path.as_bytes());
    let message = format!(
        "this node has no call {path}: see the server's reflection for those that there are"
    );
    Reason::NoSuchMethod.status(&message)
}

/// What a stranger sent, as it may stand in an answer.
fn told(bytes: &[u8]) -> String {
    const BYTES_MAX: usize = 128;
    let short = &bytes[..bytes.len().min(BYTES_MAX)];
    format!("{:?}", String::from_utf8_lossy(short))
}

/// The caller did not say who it is.
pub fn unauthenticated() -> Status {
    let message = "the access policy needs a client certificate, and none was shown";
    Reason::NoCertificate.status(message)
}

/// The caller may not do this.
pub fn denied(subject: &str, action: &str, on: On<'_>) -> Status {
    let message = format!(
        "the access policy does not let {} {action} {on}",
        Shown(subject)
    );
    Reason::Denied.status(&message)
}

/// Too few disks have room.
fn disk_full(full: &DiskFull) -> (Reason, HashMap<String, String>) {
    let mut metadata = details([
        ("available_bytes", &full.available),
        ("reserve_bytes", &full.reserve),
    ]);
    let voter = full.voter.iter();
    metadata.extend(voter.map(|voter| ("voter".to_owned(), voter.clone())));
    (Reason::DiskFull, metadata)
}

pub fn read(error: &ReadError) -> Status {
    let mut metadata = HashMap::new();
    let reason = match error {
        ReadError::NoLeader { .. } => Reason::NoLeader,
        ReadError::Lagging { .. } | ReadError::Behind { .. } => Reason::Lagging,
        ReadError::Stale { staleness_ms, .. } => {
            let known = staleness_ms.map(|millis| ("staleness_ms".to_owned(), millis.to_string()));
            metadata.extend(known);
            Reason::Stale
        }
    };
    reason.status_with(&error.to_string(), metadata)
}

/// The membership, or what is kept of the log, was not changed, or may not have been.
pub fn membership(error: &MembershipError) -> Status {
    error.reason().status(&error.to_string())
}

/// A command of sessions, fences or cursors was not carried out, or may not have been.
pub fn execute(error: &ExecuteError) -> Status {
    let none = HashMap::new;
    let (reason, metadata) = match error {
        ExecuteError::NoLeader { .. } => (Reason::NoLeader, none()),
        ExecuteError::Unknown { .. } => (Reason::OutcomeUnknown, none()),
        ExecuteError::DiskFull(full) => disk_full(full),
        ExecuteError::Refused(StateRefusal::TooManySessions(full)) => {
            (Reason::TooManySessions, details([("limit", &full.limit)]))
        }
        ExecuteError::Refused(StateRefusal::TooManyFences(full)) => {
            (Reason::TooManyFences, details([("limit", &full.limit)]))
        }
        ExecuteError::Refused(StateRefusal::TooManyCursors(full)) => {
            (Reason::TooManyCursors, details([("limit", &full.limit)]))
        }
        ExecuteError::Refused(StateRefusal::NoSuchLog) => (Reason::NoSuchLog, none()),
        ExecuteError::Refused(StateRefusal::LogExists { .. }) => (Reason::LogExists, none()),
        ExecuteError::Refused(StateRefusal::TooManyLogs(full)) => {
            (Reason::TooManyLogs, details([("limit", &full.limit)]))
        }
        ExecuteError::Refused(StateRefusal::LogEpochDiffers { current }) => {
            (Reason::LogEpochDiffers, details([("epoch", current)]))
        }
        ExecuteError::Refused(StateRefusal::NotOwner) => (Reason::NotOwner, none()),
        ExecuteError::Refused(StateRefusal::TooManyAdmissions) => {
            (Reason::TooManyAdmissions, none())
        }
        ExecuteError::Refused(StateRefusal::EpochDiffers { current }) => {
            (Reason::EpochDiffers, details([("epoch", current)]))
        }
        ExecuteError::Refused(StateRefusal::CursorDiffers { current }) => {
            let offset = current.map(|offset| ("offset".to_owned(), offset.to_string()));
            (Reason::CursorDiffers, offset.into_iter().collect())
        }
        ExecuteError::Refused(StateRefusal::CursorPastEnd { next, .. }) => (
            Reason::OffsetOutOfRange,
            details([("next_offset", &next.0)]),
        ),
    };
    reason.status_with(&error.to_string(), metadata)
}

/// There is no cursor of this name.
pub fn no_such_cursor(name: &str) -> Status {
    let message = format!(
        "there is no cursor {}: see `ferrolog cursor list`",
        Shown(name)
    );
    Reason::NoSuchCursor.status_with(&message, details([("name", &name)]))
}

/// A batch that is not taken.
pub fn batch(error: &BatchError) -> Status {
    let message = error.to_string();
    match error {
        BatchError::OverLimit { limit, .. } => {
            Reason::BatchOverLimit.status_with(&message, details([("limit", limit)]))
        }
        BatchError::NoTimestamp { .. } => {
            let message = format!("{message}, which the log asks for: set `client_timestamp_ms`");
            Reason::TimestampRequired.status(&message)
        }
        BatchError::NoKey { .. } => {
            let message = format!("{message}, and the log is compacted by key: give it one");
            Reason::KeyRequired.status(&message)
        }
        BatchError::Malformed(_)
        | BatchError::Count { .. }
        | BatchError::UnknownCompression(_)
        | BatchError::Compressed(_) => Reason::InvalidBatch.status(&message),
    }
}

/// Too much is under way.
pub fn in_flight(full: &Full) -> Status {
    let message = format!(
        "{full}, as much as it may have, so that nothing was done: wait for answers and take them, \
         or use a produce stream, which waits by itself"
    );
    Reason::InFlightLimit.status_with(&message, details([("limit_bytes", &full.limit)]))
}

/// The client took nothing of an answer.
pub fn unread(waited: Duration) -> Status {
    let seconds = waited.as_secs();
    let message = format!(
        "the answer waited {seconds} s for this client to take any of it, and was given up: read on \
         where you are, and ask for no more than you take"
    );
    Reason::AnswerNotTaken.status(&message)
}

/// An error of reading, in an API whose codes are the standard ones.
pub fn log(error: &log::Error) -> Status {
    let (reason, metadata) = log_reason(error);
    reason.status_with(&error.to_string(), metadata)
}

fn log_reason(error: &log::Error) -> (Reason, HashMap<String, String>) {
    let bounds =
        |first: &Offset, next: &Offset| details([("first_offset", first), ("next_offset", next)]);
    let reason = match error {
        log::Error::OutOfRange { first, next, .. } => {
            return (Reason::OffsetOutOfRange, bounds(first, next));
        }
        log::Error::Trimmed { first, next, .. } => {
            return (Reason::OffsetTrimmed, bounds(first, next));
        }
        log::Error::PastEnd { next, .. } => {
            let end = details([("next_position", next)]);
            return (Reason::OffsetOutOfRange, end);
        }
        log::Error::NoLog(_) => Reason::LogDeleted,
        log::Error::Damaged { .. } => Reason::SegmentDamaged,
        log::Error::Corrupt { .. }
        | log::Error::LostTail { .. }
        | log::Error::Unreadable(_)
        | log::Error::Malformed(_) => Reason::Corrupt,
        log::Error::TooLarge { .. } => Reason::RecordTooLarge,
        error if error.is_short_of_files() => Reason::NoDescriptors,
        log::Error::NoEntry { .. }
        | log::Error::Mismatch { .. }
        | log::Error::Version { .. }
        | log::Error::Io { .. } => Reason::LogFailed,
        log::Error::Stopped => Reason::Stopping,
    };
    (reason, HashMap::new())
}

/// An error of reading, as the original's clients know it: outside the log is 404. The details
/// tell more.
pub fn log_v1(error: &log::Error) -> Status {
    match error {
        log::Error::OutOfRange { asked, .. } => {
            out_of_range(*asked, &format!("offset out of range: {asked}"), error)
        }
        log::Error::Trimmed { asked, .. } => out_of_range(*asked, &error.to_string(), error),
        other => log(other),
    }
}

fn out_of_range(asked: Offset, message: &str, error: &log::Error) -> Status {
    let localized = pb::LocalizedMessage {
        locale: "en-US".to_owned(),
        message: format!("The requested offset is outside the log's range: {asked}"),
    };
    let (reason, metadata) = log_reason(error);
    let info = reason.info(metadata);
    let info = pb::ErrorInfo {
        reason: info.reason,
        domain: info.domain,
        metadata: info.metadata,
    };
    let any = |name: &str, value| prost_types::Any {
        type_url: format!("type.googleapis.com/google.rpc.{name}"),
        value,
    };
    let message = reason::bounded(message).into_owned();
    let all = vec![
        any("LocalizedMessage", localized.encode_to_vec()),
        any("ErrorInfo", info.encode_to_vec()),
    ];
    let details = pb::Status {
        code: NOT_FOUND_404,
        message: message.clone(),
        details: all,
    };
    let bytes = details.encode_to_vec().into();
    let mut status = Status::with_details(Code::Unknown, message, bytes);
    status.metadata_mut().insert(NUMBER, NOT_FOUND_404.into());
    status
}
