//! The one map from errors to gRPC status codes.
//!
//! Every status carries google.rpc details: a reason in UPPER_SNAKE under the domain `ferrolog`,
//! and how long to wait where trying again makes sense.

use std::collections::HashMap;
use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt, pb};

use crate::log::{self, Offset};
use crate::raft::{MembershipError, ProposeError, ReadError, Refusal};

const DOMAIN: &str = "ferrolog";
/// A new leader is there after about this long.
const RETRY: Duration = Duration::from_millis(200);
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

/// The caller did not say who it is.
pub fn unauthenticated() -> Status {
    let message = "the access policy needs a client certificate, and none was shown";
    plain(Code::Unauthenticated, "NO_CERTIFICATE", message)
}

/// The caller may not do this.
pub fn denied(subject: &str, action: &str) -> Status {
    let message = format!("the access policy does not let {subject:?} {action}");
    plain(Code::PermissionDenied, "DENIED", message)
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
        ProposeError::Unknown => plain(Code::Unknown, "OUTCOME_UNKNOWN", message),
        ProposeError::Refused(Refusal::SequenceGap { expected }) => {
            let metadata = HashMap::from([("expected".to_owned(), expected.to_string())]);
            with_reason(Code::Aborted, "SEQUENCE_GAP", message, metadata, None)
        }
        ProposeError::Refused(Refusal::SessionExpired) => {
            plain(Code::FailedPrecondition, "SESSION_EXPIRED", message)
        }
        ProposeError::Malformed => plain(Code::Internal, "MALFORMED_BATCH", message),
        ProposeError::Stopping => draining(),
    }
}

pub fn read(error: &ReadError) -> Status {
    let message = error.to_string();
    let reason = match error {
        ReadError::NoLeader { .. } => "NO_LEADER",
        ReadError::Lagging { .. } => "LAGGING",
    };
    with_reason(
        Code::Unavailable,
        reason,
        message,
        HashMap::new(),
        Some(RETRY),
    )
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

/// An error of reading, in an API whose codes are the standard ones.
pub fn log(error: &log::Error) -> Status {
    let message = error.to_string();
    match error {
        log::Error::OutOfRange { first, next, .. } => {
            let metadata = HashMap::from([
                ("first_offset".to_owned(), first.to_string()),
                ("next_offset".to_owned(), next.to_string()),
            ]);
            with_reason(
                Code::OutOfRange,
                "OFFSET_OUT_OF_RANGE",
                message,
                metadata,
                None,
            )
        }
        log::Error::Corrupt { .. } | log::Error::LostTail { .. } | log::Error::Malformed(_) => {
            plain(Code::DataLoss, "CORRUPT", message)
        }
        log::Error::TooLarge { .. } => plain(Code::InvalidArgument, "RECORD_TOO_LARGE", message),
        log::Error::NoEntry { .. } | log::Error::Version { .. } | log::Error::Io { .. } => {
            plain(Code::Internal, "LOG_FAILED", message)
        }
        log::Error::Stopped => draining(),
    }
}

/// An error of reading, as the original's clients know it: past the end is 404.
pub fn log_v1(error: &log::Error) -> Status {
    match error {
        log::Error::OutOfRange { asked, .. } => past_end(*asked),
        other => log(other),
    }
}

fn past_end(asked: Offset) -> Status {
    let message = format!("offset out of range: {asked}");
    let localized = pb::LocalizedMessage {
        locale: "en-US".to_owned(),
        message: format!("The requested offset is outside the log's range: {asked}"),
    };
    let any = prost_types::Any {
        type_url: "type.googleapis.com/google.rpc.LocalizedMessage".to_owned(),
        value: localized.encode_to_vec(),
    };
    let details = pb::Status {
        code: NOT_FOUND_404,
        message: message.clone(),
        details: vec![any],
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
