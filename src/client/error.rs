//! What a client call can end with: what failed, why, and what to do about it.
//!
//! Which statuses are worth another try is decided here, once, for every verb. Nothing is retried here.

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

/// How a call ended without what it was to bring. [`Self::reason`] tells the server's reason, where one gave it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    #[error("no server was named")]
    NoServers,
    #[error(
        "no answer from {servers}, asked for {seconds} s: {cause}. Check that nodes listen there, and that they \
         speak TLS or plaintext as this client does"
    )]
    Unreachable {
        servers: String,
        seconds: u64,
        cause: String,
    },
    #[error(
        "{servers} made no progress for {seconds} s: {cause}. A majority of the nodes must be up"
    )]
    Stalled {
        servers: String,
        seconds: u64,
        cause: String,
    },
    #[error(
        "{server} and this client do not trust each other: {cause}. Both need certificates of one authority, or plaintext"
    )]
    Tls { server: String, cause: String },
    #[error("{server} does not know who is asking: {message}. A client certificate is needed")]
    Unauthenticated {
        server: String,
        reason: Option<Reason>,
        message: String,
    },
    #[error(
        "{server} does not allow this: {message}. Use a certificate that the policy allows, or change the policy"
    )]
    PermissionDenied {
        server: String,
        reason: Option<Reason>,
        message: String,
    },
    #[error("{server} refuses the request: {message}")]
    InvalidArgument {
        server: String,
        reason: Option<Reason>,
        message: String,
    },
    #[error("{server} cannot do this in its present state: {message}")]
    FailedPrecondition {
        server: String,
        reason: Option<Reason>,
        message: String,
    },
    #[error("{server} finds the request out of range: {message}")]
    OutOfRange {
        server: String,
        reason: Option<Reason>,
        message: String,
    },
    #[error(
        "{server} does not offer this call: {message}. Check that the address is a ferrolog node of this version"
    )]
    Unimplemented {
        server: String,
        reason: Option<Reason>,
        message: String,
    },
    #[error("{server} failed: {message} ({code:?})")]
    Failed {
        server: String,
        code: Code,
        reason: Option<Reason>,
        message: String,
    },
    #[error(
        "offset {asked} is past the end of the log, whose next offset is {next}; give {next}, or one below"
    )]
    PastEnd { asked: u64, next: u64 },
    #[error(
        "offset {asked} was trimmed: the log begins at {first} now. Start at {first}, or at `earliest`, if the \
         records before it may be skipped"
    )]
    Trimmed { asked: u64, first: u64 },
    #[error(
        "{server} sent offset {got} where {expected} was due. Records would be lost or doubled, so the read ends; \
         read again from {expected} and report this"
    )]
    Gap {
        server: String,
        expected: u64,
        got: u64,
    },
    #[error(
        "the log does not end at offset {expected} but at {next}: another producer appended. Read what came, and \
         append at {next} if it still holds"
    )]
    OffsetDiffers { expected: u64, next: u64 },
    #[error(
        "{name} is not held under this epoch: its present one is {epoch} (0: nobody claimed it yet), and appends \
         under another are refused. If another took over, stop here; else claim the name first"
    )]
    Fenced { name: String, epoch: u64 },
    #[error(
        "the cluster forgot this producer's session while the outcome of a batch was unknown, so sending it again \
         might append it twice. Read the end of the log to see what is there, and send the rest anew"
    )]
    SessionExpired,
    #[error(
        "a server was lost before it told the outcome: the records may be in the log or not. Read the end of the \
         log to see; a producer with a session (`idempotent`) sends again by itself"
    )]
    OutcomeUnknown,
    #[error(
        "the name's epoch is not the expected one but {current}: another claimed it. Look who holds it, and claim \
         it with {current} expected if it should move"
    )]
    EpochDiffers { current: u64 },
    #[error(
        "the cursor does not stand where it was expected but {}. Read it again, and commit from there",
        match current { Some(offset) => format!("at offset {offset}"), None => "is not set".to_owned() }
    )]
    CursorDiffers { current: Option<u64> },
    #[error(
        "there is no cursor {name:?}. Commit one first, or begin at an offset or at `earliest`"
    )]
    NoSuchCursor { name: String },
    #[error(
        "{server} is too far behind for this read: {message}. Allow more staleness, ask another server, or try \
         again later"
    )]
    Stale { server: String, message: String },
    #[error(
        "the batch that {server} sent with offset {offset} does not decode: {message}. Read on from {offset} on \
         another server, and have this one's log verified"
    )]
    Batch {
        server: String,
        offset: u64,
        message: String,
    },
    #[error("a batch needs at least one record, and none was given")]
    EmptyBatch,
    #[error("{server} breaks the protocol: {what}. Check that it runs this version of ferrolog")]
    Protocol { server: String, what: &'static str },
    #[error(
        "it may have been done or not, since a server was lost before it told: {cause}. See how things stand before it \
         is asked again"
    )]
    ChangeInDoubt { cause: String },
    #[error("the producer was closed before this record was acknowledged")]
    Closed,
}

impl ClientError {
    /// The servers may be fine later: nobody answered, or nothing moved.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Stalled { .. })
    }

    /// Nobody can say whether what was asked was done.
    pub fn is_doubt(&self) -> bool {
        matches!(self, Self::OutcomeUnknown | Self::ChangeInDoubt { .. })
    }

    /// The error of a change of the cluster that an earlier try may have made: what says how things stand
    /// is an answer, and all else leaves the doubt.
    pub(super) fn after_doubt(self, in_doubt: bool) -> Self {
        match self {
            Self::EpochDiffers { .. } | Self::CursorDiffers { .. } => self,
            other if in_doubt => Self::ChangeInDoubt {
                cause: other.to_string(),
            },
            other => other,
        }
    }

    /// The error that ends a call, or a doubt that it does not settle: an earlier try may have done what was
    /// asked, whatever a later one met.
    pub(super) fn unless_in_doubt(self, in_doubt: bool, last: &Status) -> Self {
        if !in_doubt || is_verdict(last) {
            return self;
        }
        tracing::warn!(cause = %self, "the outcome of an earlier try stays unknown");
        Self::OutcomeUnknown
    }

    /// The error of one call to `server` that is not tried again.
    pub(super) fn of_status(server: &str, status: &Status) -> Self {
        if let Some(typed) = Told::of(status).and_then(|told| told.typed()) {
            return typed;
        }
        let (server, message) = (server.to_owned(), describe(status));
        let reason = Reason::of(status);
        // Each of these says the same of its status, in words of its own.
        macro_rules! told {
            ($variant:ident) => {
                Self::$variant {
                    server,
                    reason,
                    message,
                }
            };
        }
        match status.code() {
            _ if is_distrust(status) => Self::Tls {
                server,
                cause: message,
            },
            Code::InvalidArgument => told!(InvalidArgument),
            Code::PermissionDenied => told!(PermissionDenied),
            Code::Unauthenticated => told!(Unauthenticated),
            Code::FailedPrecondition => told!(FailedPrecondition),
            Code::OutOfRange => told!(OutOfRange),
            Code::Unimplemented => told!(Unimplemented),
            code => Self::Failed {
                server,
                code,
                reason,
                message,
            },
        }
    }

    /// Why the server refused, as `docs/errors.md` lists it; none where no server gave a reason that this version
    /// knows.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Unauthenticated { reason, .. }
            | Self::PermissionDenied { reason, .. }
            | Self::InvalidArgument { reason, .. }
            | Self::FailedPrecondition { reason, .. }
            | Self::OutOfRange { reason, .. }
            | Self::Unimplemented { reason, .. }
            | Self::Failed { reason, .. } => *reason,
            Self::PastEnd { .. } => Some(Reason::OffsetOutOfRange),
            Self::Trimmed { .. } => Some(Reason::OffsetTrimmed),
            Self::OffsetDiffers { .. } => Some(Reason::OffsetDiffers),
            Self::Fenced { .. } => Some(Reason::Fenced),
            Self::SessionExpired => Some(Reason::SessionExpired),
            Self::EpochDiffers { .. } => Some(Reason::EpochDiffers),
            Self::CursorDiffers { .. } => Some(Reason::CursorDiffers),
            Self::NoSuchCursor { .. } => Some(Reason::NoSuchCursor),
            Self::Stale { .. } => Some(Reason::Stale),
            _ => None,
        }
    }
}

/// What a status of ours tells.
struct Told {
    reason: Reason,
    info: ErrorInfo,
}

impl Told {
    fn of(status: &Status) -> Option<Self> {
        let info = reason::info(status)?;
        let reason = Reason::named(&info.reason)?;
        Some(Self { reason, info })
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.info.metadata.get(key)?.parse().ok()
    }

    fn text(&self, key: &str) -> String {
        self.info.metadata.get(key).cloned().unwrap_or_default()
    }

    /// The error that this reason alone determines.
    fn typed(&self) -> Option<ClientError> {
        Some(match self.reason {
            Reason::Fenced => ClientError::Fenced {
                name: self.text("name"),
                epoch: self.number("epoch").unwrap_or_default(),
            },
            Reason::SessionExpired => ClientError::SessionExpired,
            Reason::EpochDiffers => ClientError::EpochDiffers {
                current: self.number("epoch").unwrap_or_default(),
            },
            Reason::CursorDiffers => ClientError::CursorDiffers {
                current: self.number("offset"),
            },
            Reason::NoSuchCursor => ClientError::NoSuchCursor {
                name: self.text("name"),
            },
            Reason::OutcomeUnknown => ClientError::OutcomeUnknown,
            _ => return None,
        })
    }
}

/// Whether another server, or the same one later, may answer differently.
///
/// A retried produce is safe because the session makes the server drop what it already holds.
pub(super) fn is_retryable(status: &Status) -> bool {
    let again = match Reason::of(status) {
        Some(reason) => reason.retry() != Retry::Never,
        // Of a connection, or of another server.
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

/// Whether the log itself decided on the batch. It knows what an earlier try appended, so this holds for all
/// tries; what a server refuses on its own says nothing of those before.
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

/// Whether a call that ended so may have been carried out, though no answer says so.
pub(super) fn leaves_doubt(status: &Status) -> bool {
    is_retryable(status) && !is_refusal(status) && !was_unreached(status)
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
    number_under(Reason::OffsetOutOfRange, "next_offset", status)
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

/// Whether the node lacks what the read must see.
pub(super) fn is_behind(status: &Status) -> bool {
    matches!(Reason::of(status), Some(Reason::Stale | Reason::Lagging))
}

/// The message with its causes, which tonic's own text leaves out.
pub(super) fn describe(status: &Status) -> String {
    let mut text = match status.message() {
        "" | "transport error" => format!("{:?}", status.code()),
        message => message.to_owned(),
    };
    let mut cause = status.source();
    while let Some(error) = cause {
        let part = error.to_string();
        // Says nothing that its neighbours do not say better.
        if part != "transport error" && !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

/// A refused handshake or certificate: waiting does not mend those.
pub(super) fn is_distrust(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        let io_error = error.downcast_ref::<io::Error>();
        // How the TLS layer marks its verdicts; a connection that merely broke has another kind.
        if io_error.is_some_and(|error| error.kind() == io::ErrorKind::InvalidData) {
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
