//! What a status tells a client: whether another try may help, whether the call was carried out, and which server to
//! ask instead. It is decided here, once, for every call.

use std::error::Error;
use std::io;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorInfo, StatusExt};

use crate::net::stream_layer::{DialError, was_unreached};
use crate::net::tls::TlsError;
use crate::reason::{self, Reason, Retry};

/// The detail of a status under which a server names the leader's address.
const LEADER_METADATA: &str = "leader";

/// The facts that a status of a ferrolog server carries.
pub(super) struct Told {
    pub(super) reason: Reason,
    info: ErrorInfo,
}

impl Told {
    pub(super) fn of(status: &Status) -> Option<Self> {
        let info = reason::info(status)?;
        let reason = Reason::named(&info.reason)?;
        Some(Self { reason, info })
    }

    pub(super) fn number(&self, key: &str) -> Option<u64> {
        self.info.metadata.get(key)?.parse().ok()
    }

    pub(super) fn text(&self, key: &str) -> String {
        self.info.metadata.get(key).cloned().unwrap_or_default()
    }
}

/// Whether another server, or the same one later, may answer differently.
///
/// A retried produce is safe because the session makes the server drop what it already holds.
pub(super) fn is_retryable(status: &Status) -> bool {
    let again = match Reason::of(status) {
        Some(reason) => reason.retry() != Retry::Never,
        // The connection failed, or the other end is no ferrolog node.
        None => !matches!(
            status.code(),
            Code::InvalidArgument
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::FailedPrecondition
                | Code::OutOfRange
                | Code::Unimplemented
                | Code::NotFound
                | Code::AlreadyExists
                | Code::Aborted
        ),
    };
    again && !is_distrust(status)
}

/// Whether the log itself decided on the batch. The log knows what an earlier try appended, so its decision holds for
/// all tries. A refusal by the server alone says nothing about earlier tries.
pub(super) fn is_verdict(status: &Status) -> bool {
    matches!(
        Reason::of(status),
        Some(
            Reason::Fenced
                | Reason::OffsetDiffers
                | Reason::SequenceOverlap
                | Reason::SequenceReused
                | Reason::NotOwner
                | Reason::SessionExpired
        )
    )
}

/// Whether a log of the batches is not there. Servers say so before they ask what an earlier try appended.
pub(super) fn is_without_log(status: &Status) -> bool {
    let reason = Reason::of(status);
    matches!(reason, Some(Reason::NoSuchLog | Reason::LogDeleted))
}

/// What may be in the log though no answer said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Nothing.
    None,
    /// Batches of one log.
    OfOneLog,
    /// Batches of several.
    OfSeveral,
}

impl Doubt {
    /// That of batches for these logs.
    pub(super) fn of<'a>(mut logs: impl Iterator<Item = &'a str>) -> Self {
        let Some(first) = logs.next() else {
            return Self::None;
        };
        match logs.all(|log| log == first) {
            true => Self::OfOneLog,
            false => Self::OfSeveral,
        }
    }
}

/// Whether a change is given again once a try may have made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// A try that comes late does no harm: a token or a condition goes with it, or what it does is done for good.
    Always,
    /// A try that comes late would undo what its caller did since: a node may still have it under way to a leader that it
    /// did not reach.
    UnlessInDoubt,
}

/// Whether a call that ended so may have been carried out, though no answer says so.
pub(super) fn leaves_doubt(status: &Status) -> bool {
    is_retryable(status) && !is_refusal(status) && !was_unreached(status)
}

/// Whether a server said that it did not do what was asked.
pub(super) fn was_not_done(status: &Status) -> bool {
    let done = Reason::of(status).map(Reason::done);
    done == Some(reason::Done::Nothing)
}

/// Whether a server said that it did not do what was asked, though it may later.
pub(super) fn is_refusal(status: &Status) -> bool {
    let retry = Reason::of(status).map(Reason::retry);
    matches!(retry, Some(Retry::Elsewhere(_) | Retry::Later(_)))
}

/// The address of the leader, if the status tells it.
pub(super) fn leader_hint(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    info.metadata
        .get(LEADER_METADATA)
        .filter(|addr| !addr.is_empty())
        .cloned()
}

/// When there may be room, if the server had none.
pub(super) fn room_comes_in(status: &Status) -> Option<Duration> {
    if status.code() != Code::ResourceExhausted {
        return None;
    }
    status.get_details_retry_info()?.retry_delay
}

/// Where the log begins, if the status says that a trimmed offset was asked for.
pub(super) fn trimmed(status: &Status) -> Option<u64> {
    number_under(Reason::OffsetTrimmed, "first_offset", status)
}

/// Where the log ends, if the status says that an offset past the end was asked for.
pub(super) fn past_end(status: &Status) -> Option<u64> {
    let end = |key| number_under(Reason::OffsetOutOfRange, key, status);
    // A read of one log is told an offset, one of several logs a position.
    end("next_offset").or_else(|| end("next_position"))
}

/// Where the log ends, if the status says that another end was expected.
pub(super) fn offset_differs(status: &Status) -> Option<u64> {
    number_under(Reason::OffsetDiffers, "next_offset", status)
}

fn number_under(reason: Reason, key: &str, status: &Status) -> Option<u64> {
    let told = Told::of(status).filter(|told| told.reason == reason)?;
    told.number(key)
}

pub(super) fn is_session_expired(status: &Status) -> bool {
    Reason::of(status) == Some(Reason::SessionExpired)
}

pub(super) fn is_no_such_cursor(status: &Status) -> bool {
    Reason::of(status) == Some(Reason::NoSuchCursor)
}

pub(super) fn is_no_such_log(status: &Status) -> bool {
    Reason::of(status) == Some(Reason::NoSuchLog)
}

/// Whether the node lacks what the read must see.
pub(super) fn is_behind(status: &Status) -> bool {
    matches!(Reason::of(status), Some(Reason::Stale | Reason::Lagging))
}

/// The words that the other end gave when it ended the connection: `h2` shows them as bytes, behind its own.
fn last_words(part: &str) -> Option<&str> {
    part.split_once(" (b\"")?.1.strip_suffix("\")")
}

/// The message with its causes, which tonic's own text leaves out.
pub(super) fn describe(status: &Status) -> String {
    let mut text = match status.message() {
        "" | "transport error" => status.code().to_string(),
        message => message.to_owned(),
    };
    let mut cause = status.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if let Some(words) = last_words(&part) {
            return words.to_owned();
        }
        // This cause adds nothing to the ones beside it.
        if part != "transport error" && !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

/// Whether a handshake or a certificate was refused. Waiting does not mend that.
pub(super) fn is_distrust(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        let io_error = error.downcast_ref::<io::Error>();
        // The TLS layer marks its verdicts with this kind. A connection that merely broke has another one.
        if io_error.is_some_and(|error| error.kind() == io::ErrorKind::InvalidData) {
            return true;
        }
        // A node says so of plaintext where it speaks TLS.
        let ended = error.downcast_ref::<h2::Error>();
        if ended.and_then(h2::Error::reason) == Some(h2::Reason::INADEQUATE_SECURITY) {
            return true;
        }
        if matches!(error.downcast_ref(), Some(DialError::Tls { source, .. }) if !matches!(**source, TlsError::Handshake { .. }))
        {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;
    use crate::client::ClientError;

    #[test]
    fn a_status_names_the_leader_in_its_details() {
        let metadata = HashMap::from([("leader".to_owned(), "b:1".to_owned())]);
        let details = ErrorDetails::with_error_info("NOT_LEADER", "ferrolog", metadata);
        let status = Status::with_error_details(Code::Unavailable, "not the leader", details);
        assert_eq!(leader_hint(&status).as_deref(), Some("b:1"));
        assert_eq!(leader_hint(&Status::unavailable("x")), None);
    }

    /// What the table says of a reason is what the client does about it.
    #[test]
    fn the_client_does_as_the_reason_says() {
        for reason in Reason::ALL {
            let status = reason.status("x");
            let again = reason.retry() != Retry::Never;
            assert_eq!(is_retryable(&status), again, "{reason:?}");
            let in_doubt = reason.done() == reason::Done::Unknown;
            if in_doubt && again {
                assert!(leaves_doubt(&status), "{reason:?}");
            }
            if matches!(reason.retry(), Retry::Elsewhere(_) | Retry::Later(_)) {
                assert!(!leaves_doubt(&status), "{reason:?}");
            }
        }
    }

    #[test]
    fn what_the_caller_got_wrong_is_not_tried_again() {
        let fine = [
            Code::Unavailable,
            Code::Unknown,
            Code::Cancelled,
            Code::Internal,
            Code::DeadlineExceeded,
        ];
        assert!(
            fine.iter()
                .all(|&code| is_retryable(&Status::new(code, "")))
        );
        let wrong = [
            Code::InvalidArgument,
            Code::PermissionDenied,
            Code::FailedPrecondition,
            Code::OutOfRange,
        ];
        assert!(
            !wrong
                .iter()
                .any(|&code| is_retryable(&Status::new(code, "")))
        );
    }

    #[test]
    fn a_refused_certificate_is_final() {
        let refused = io::Error::new(io::ErrorKind::InvalidData, "unknown authority");
        let status = Status::from_error(Box::new(refused));
        assert!(!is_retryable(&status));
        assert!(matches!(
            ClientError::of_status("a:1", &status),
            ClientError::Tls { .. }
        ));
    }
}
