//! The one map from errors to gRPC status codes.
//!
//! Every status carries google.rpc details: a reason in UPPER_SNAKE under the domain `ferrolog`,
//! and how long to wait where trying again makes sense.

use std::collections::HashMap;
use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt, pb};

use crate::batch::BatchError;
use crate::log::{self, Offset};
use crate::name::Shown;
use crate::net::budget::Full;
use crate::raft::{ExecuteError, MembershipError, ProposeError, ReadError, Refusal, StateRefusal};

const DOMAIN: &str = "ferrolog";
/// A new leader is there after about this long.
const RETRY: Duration = Duration::from_millis(200);
/// Room on a disk is looked at anew several times in this.
const MAKE_ROOM: Duration = Duration::from_secs(1);
/// A damaged segment is copied from another node in about this long.
const REPAIR: Duration = Duration::from_secs(1);
const TRIMMED: &str = "OFFSET_TRIMMED";
/// Carries a status number that tonic's type cannot hold, up to the router's layer.
pub const NUMBER: &str = "ferrolog-status-number";
/// What the original answers past the end of the log.
const NOT_FOUND_404: i32 = 404;

/// An error with its reason.
fn with_reason(
    code: Code,
    reason: &'static str,
    message: impl Into<String>,
    metadata: HashMap<String, String>,
    retry: Option<Duration>,
) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    if let Some(delay) = retry {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(code, message, details)
}

fn plain(code: Code, reason: &'static str, message: impl Into<String>) -> Status {
    with_reason(code, reason, message, HashMap::new(), None)
}

/// The node belongs to no cluster yet.
pub fn starting() -> Status {
    let message = "this node is starting: it belongs to no cluster yet";
    with_reason(
        Code::Unavailable,
        "STARTING",
        message,
        HashMap::new(),
        Some(RETRY),
    )
}

/// The node is going down.
pub fn draining() -> Status {
    let message = "this node is stopping; another one goes on";
    with_reason(
        Code::Unavailable,
        "STOPPING",
        message,
        HashMap::new(),
        Some(RETRY),
    )
}

/// The request is not one.
pub fn invalid(message: impl Into<String>) -> Status {
    plain(Code::InvalidArgument, "INVALID_REQUEST", message)
}

/// There is no log of this name.
pub fn no_such_log(name: &str) -> Status {
    let message = format!(
        "there is no log {}: the only one is \"default\"",
        Shown(name)
    );
    plain(Code::NotFound, "NO_SUCH_LOG", message)
}

/// The record is over the limit.
pub fn too_large(bytes: usize, limit: usize) -> Status {
    let message = format!(
        "a record of {bytes} bytes is over the limit of {limit} bytes: split it, or start the \
         nodes with a higher --record-bytes-max"
    );
    let metadata = HashMap::from([("limit_bytes".to_owned(), limit.to_string())]);
    with_reason(
        Code::InvalidArgument,
        "RECORD_TOO_LARGE",
        message,
        metadata,
        None,
    )
}

/// A batch is longer than any may be, as its message tells.
pub fn batch_too_large(size: usize, limit: usize) -> Status {
    let what = "a batch";
    batch(&BatchError::OverLimit { what, size, limit })
}

/// A request of a kind that is never so long.
pub fn message_too_large(bytes: usize, limit: usize) -> Status {
    let message = format!("a request of {bytes} bytes is over this call's limit of {limit} bytes");
    let metadata = HashMap::from([("limit_bytes".to_owned(), limit.to_string())]);
    let code = Code::InvalidArgument;
    with_reason(code, "MESSAGE_TOO_LARGE", message, metadata, None)
}

/// A request began and did not come on.
pub fn request_stalled(stall: Duration) -> Status {
    let seconds = stall.as_secs();
    let message = format!(
        "the request stood still for {seconds} s, or came too slowly on the whole, so nothing was done: send it again"
    );
    plain(Code::DeadlineExceeded, "REQUEST_STALLED", message)
}

/// The request's encoding is none that this node reads.
pub fn unsupported_encoding(encoding: &[u8]) -> Status {
    let encoding = told(encoding);
    let message = format!(
        "requests are taken as they are, not as {encoding}: send them without grpc-encoding; records may be \
         compressed inside their batches"
    );
    plain(Code::Unimplemented, "UNSUPPORTED_ENCODING", message)
}

/// There is no such call.
pub fn no_such_method(path: &str) -> Status {
    let path = told(path.as_bytes());
    let message = format!(
        "this node has no call {path}: see the server's reflection for those that there are"
    );
    plain(Code::Unimplemented, "NO_SUCH_METHOD", message)
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
    plain(Code::Unauthenticated, "NO_CERTIFICATE", message)
}

/// The caller may not do this.
pub fn denied(subject: &str, action: &str) -> Status {
    let message = format!("the access policy does not let {} {action}", Shown(subject));
    plain(Code::PermissionDenied, "DENIED", message)
}

/// A batch was not appended, or may not have been; `fence` is the name that it came in.
pub fn propose_under(error: &ProposeError, fence: Option<&str>) -> Status {
    let (Some(name), ProposeError::Refused(Refusal::Fenced { epoch })) = (fence, error) else {
        return propose(error);
    };
    let message = format!(
        "{} has epoch {epoch} now: the batch is fenced off",
        Shown(name)
    );
    let metadata = HashMap::from([
        ("name".to_owned(), name.to_owned()),
        ("epoch".to_owned(), epoch.to_string()),
    ]);
    let code = Code::FailedPrecondition;
    with_reason(code, "FENCED", message, metadata, None)
}

pub fn propose(error: &ProposeError) -> Status {
    let message = error.to_string();
    match error {
        ProposeError::NoLeader { leader, .. } => {
            let hint = leader
                .iter()
                .map(|leader| ("leader".to_owned(), leader.clone()));
            with_reason(
                Code::Unavailable,
                "NO_LEADER",
                message,
                hint.collect(),
                Some(RETRY),
            )
        }
        ProposeError::DiskFull {
            available,
            reserve,
            voter,
        } => disk_full(message, *available, *reserve, voter.as_deref()),
        ProposeError::Unknown => plain(Code::Unknown, "OUTCOME_UNKNOWN", message),
        ProposeError::Refused(Refusal::SequenceGap { expected }) => {
            let metadata = HashMap::from([("expected".to_owned(), expected.to_string())]);
            with_reason(Code::Aborted, "SEQUENCE_GAP", message, metadata, None)
        }
        ProposeError::Refused(Refusal::SequenceOverlap { expected }) => {
            let metadata = HashMap::from([("expected".to_owned(), expected.to_string())]);
            with_reason(Code::Aborted, "SEQUENCE_OVERLAP", message, metadata, None)
        }
        ProposeError::Refused(Refusal::SequenceReused { expected }) => {
            let metadata = HashMap::from([("expected".to_owned(), expected.to_string())]);
            let code = Code::FailedPrecondition;
            with_reason(code, "SEQUENCE_REUSED", message, metadata, None)
        }
        ProposeError::Refused(Refusal::NotOwner | Refusal::NotHolder) => {
            plain(Code::PermissionDenied, "NOT_OWNER", message)
        }
        ProposeError::Refused(Refusal::OffsetDiffers { next }) => {
            let metadata = HashMap::from([("next_offset".to_owned(), next.to_string())]);
            with_reason(Code::Aborted, "OFFSET_DIFFERS", message, metadata, None)
        }
        ProposeError::Refused(Refusal::Fenced { epoch }) => {
            let metadata = HashMap::from([("epoch".to_owned(), epoch.to_string())]);
            let code = Code::FailedPrecondition;
            with_reason(code, "FENCED", message, metadata, None)
        }
        ProposeError::Refused(Refusal::SessionExpired) => {
            plain(Code::FailedPrecondition, "SESSION_EXPIRED", message)
        }
        ProposeError::Malformed => plain(Code::Internal, "MALFORMED_BATCH", message),
        ProposeError::Stopping => draining(),
    }
}

/// Too few disks have room.
fn disk_full(message: String, available: u64, reserve: u64, voter: Option<&str>) -> Status {
    let mut metadata = HashMap::from([
        ("available_bytes".to_owned(), available.to_string()),
        ("reserve_bytes".to_owned(), reserve.to_string()),
    ]);
    metadata.extend(voter.map(|voter| ("voter".to_owned(), voter.to_owned())));
    let (code, wait) = (Code::ResourceExhausted, Some(MAKE_ROOM));
    with_reason(code, "DISK_FULL", message, metadata, wait)
}

pub fn read(error: &ReadError) -> Status {
    let message = error.to_string();
    let mut metadata = HashMap::new();
    let reason = match error {
        ReadError::NoLeader { .. } => "NO_LEADER",
        ReadError::Lagging { .. } | ReadError::Behind { .. } => "LAGGING",
        ReadError::Stale { staleness_ms, .. } => {
            let known = staleness_ms.map(|millis| ("staleness_ms".to_owned(), millis.to_string()));
            metadata.extend(known);
            "STALE"
        }
    };
    with_reason(Code::Unavailable, reason, message, metadata, Some(RETRY))
}

pub fn membership(error: &MembershipError) -> Status {
    let message = error.to_string();
    let (code, reason) = match error {
        MembershipError::NameTaken { .. } => (Code::FailedPrecondition, "NAME_TAKEN"),
        MembershipError::OtherCluster { .. } => (Code::FailedPrecondition, "OTHER_CLUSTER"),
        MembershipError::Removed { .. } => (Code::FailedPrecondition, "NODE_REMOVED"),
        MembershipError::LastVoter { .. } => (Code::FailedPrecondition, "LAST_VOTER"),
        MembershipError::NoSuchVoter { .. } => (Code::NotFound, "NO_SUCH_VOTER"),
        MembershipError::Refused { code, .. } => (Code::from_i32(*code), "REFUSED"),
        MembershipError::BadName { .. } => (Code::InvalidArgument, "BAD_NAME"),
        MembershipError::NoLeader { .. } => {
            return with_reason(
                Code::Unavailable,
                "NO_LEADER",
                message,
                HashMap::new(),
                Some(RETRY),
            );
        }
    };
    plain(code, reason, message)
}

/// A command of sessions, fences or cursors was not carried out.
pub fn execute(error: &ExecuteError) -> Status {
    let message = error.to_string();
    let refusal = match error {
        ExecuteError::Refused(refusal) => refusal,
        ExecuteError::DiskFull {
            available,
            reserve,
            voter,
        } => return disk_full(message, *available, *reserve, voter.as_deref()),
        ExecuteError::NoLeader { .. } => {
            // It may have been carried out: all of these commands may be sent again.
            let wait = Some(RETRY);
            let metadata = HashMap::new();
            return with_reason(Code::Unknown, "OUTCOME_UNKNOWN", message, metadata, wait);
        }
    };
    let mut metadata = HashMap::new();
    let (code, reason) = match refusal {
        // No wait helps: somebody has to give some up.
        StateRefusal::TooManySessions(full) => {
            metadata.insert("limit".to_owned(), full.limit.to_string());
            (Code::ResourceExhausted, "TOO_MANY_SESSIONS")
        }
        StateRefusal::TooManyFences(full) => {
            metadata.insert("limit".to_owned(), full.limit.to_string());
            (Code::ResourceExhausted, "TOO_MANY_FENCES")
        }
        StateRefusal::TooManyCursors(full) => {
            metadata.insert("limit".to_owned(), full.limit.to_string());
            (Code::ResourceExhausted, "TOO_MANY_CURSORS")
        }
        StateRefusal::NotOwner => (Code::PermissionDenied, "NOT_OWNER"),
        StateRefusal::EpochDiffers { current } => {
            metadata.insert("epoch".to_owned(), current.to_string());
            (Code::Aborted, "EPOCH_DIFFERS")
        }
        StateRefusal::CursorDiffers { current } => {
            metadata.extend(current.map(|offset| ("offset".to_owned(), offset.to_string())));
            (Code::Aborted, "CURSOR_DIFFERS")
        }
    };
    with_reason(code, reason, message, metadata, None)
}

/// There is no cursor of this name.
pub fn no_such_cursor(name: &str) -> Status {
    let message = format!(
        "there is no cursor {}: see `ferrolog cursor list`",
        Shown(name)
    );
    plain(Code::NotFound, "NO_SUCH_CURSOR", message)
}

/// A batch that is not taken.
pub fn batch(error: &BatchError) -> Status {
    let message = error.to_string();
    let mut metadata = HashMap::new();
    let reason = match error {
        BatchError::OverLimit { limit, .. } => {
            metadata.insert("limit".to_owned(), limit.to_string());
            "BATCH_OVER_LIMIT"
        }
        BatchError::Malformed(_)
        | BatchError::Count { .. }
        | BatchError::UnknownCompression(_)
        | BatchError::Compressed(_) => "INVALID_BATCH",
    };
    with_reason(Code::InvalidArgument, reason, message, metadata, None)
}

/// Too much is under way.
pub fn in_flight(full: &Full) -> Status {
    let message = format!(
        "{full}, as much as it may have, so that nothing was done: wait for answers and take them, \
         or use a produce stream, which waits by itself"
    );
    let metadata = HashMap::from([("limit_bytes".to_owned(), full.limit.to_string())]);
    let wait = Some(RETRY);
    with_reason(
        Code::ResourceExhausted,
        "IN_FLIGHT_LIMIT",
        message,
        metadata,
        wait,
    )
}

/// The client took nothing of an answer.
pub fn unread(waited: Duration) -> Status {
    let seconds = waited.as_secs();
    let message = format!(
        "the answer waited {seconds} s for this client to take any of it, and was given up: read on \
         where you are, and ask for no more than you take"
    );
    let metadata = HashMap::new();
    let wait = Some(RETRY);
    with_reason(
        Code::Unavailable,
        "ANSWER_NOT_TAKEN",
        message,
        metadata,
        wait,
    )
}

/// An error of reading, in an API whose codes are the standard ones.
pub fn log(error: &log::Error) -> Status {
    let message = error.to_string();
    match error {
        log::Error::OutOfRange { first, next, .. } => {
            let metadata = bounds(*first, *next);
            let reason = "OFFSET_OUT_OF_RANGE";
            with_reason(Code::OutOfRange, reason, message, metadata, None)
        }
        log::Error::Trimmed { first, next, .. } => {
            let metadata = bounds(*first, *next);
            with_reason(Code::OutOfRange, TRIMMED, message, metadata, None)
        }
        log::Error::Damaged { .. } => {
            let metadata = HashMap::new();
            let wait = Some(REPAIR);
            with_reason(
                Code::Unavailable,
                "SEGMENT_DAMAGED",
                message,
                metadata,
                wait,
            )
        }
        log::Error::Corrupt { .. }
        | log::Error::LostTail { .. }
        | log::Error::Unreadable(_)
        | log::Error::Malformed(_) => plain(Code::DataLoss, "CORRUPT", message),
        log::Error::TooLarge { .. } => plain(Code::InvalidArgument, "RECORD_TOO_LARGE", message),
        log::Error::NoEntry { .. }
        | log::Error::Mismatch { .. }
        | log::Error::Version { .. }
        | log::Error::Io { .. } => plain(Code::Internal, "LOG_FAILED", message),
        log::Error::Stopped => draining(),
    }
}

fn bounds(first: Offset, next: Offset) -> HashMap<String, String> {
    HashMap::from([
        ("first_offset".to_owned(), first.to_string()),
        ("next_offset".to_owned(), next.to_string()),
    ])
}

/// An error of reading, as the original's clients know it: outside the log is 404. Of a trimmed
/// offset the details tell more.
pub fn log_v1(error: &log::Error) -> Status {
    match error {
        log::Error::OutOfRange { asked, .. } => {
            out_of_range(*asked, format!("offset out of range: {asked}"), None)
        }
        log::Error::Trimmed { asked, first, next } => {
            let info = pb::ErrorInfo {
                reason: TRIMMED.to_owned(),
                domain: DOMAIN.to_owned(),
                metadata: bounds(*first, *next),
            };
            out_of_range(*asked, error.to_string(), Some(info))
        }
        other => log(other),
    }
}

fn out_of_range(asked: Offset, message: String, info: Option<pb::ErrorInfo>) -> Status {
    let localized = pb::LocalizedMessage {
        locale: "en-US".to_owned(),
        message: format!("The requested offset is outside the log's range: {asked}"),
    };
    let any = |name: &str, value| prost_types::Any {
        type_url: format!("type.googleapis.com/google.rpc.{name}"),
        value,
    };
    let mut all = vec![any("LocalizedMessage", localized.encode_to_vec())];
    all.extend(info.map(|info| any("ErrorInfo", info.encode_to_vec())));
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

/// Puts a number that tonic cannot hold in its place.
pub fn write_number<B>(mut response: http::Response<B>) -> http::Response<B> {
    if let Some(number) = response.headers_mut().remove(NUMBER) {
        response.headers_mut().insert("grpc-status", number);
    }
    response
}
