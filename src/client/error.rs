//! What a client call can end with: what failed, why, and what to do about it.
//!
//! The module `told` decides what a status means. Nothing is retried here.

use tonic::{Code, Status};

use super::told::{Told, describe, is_distrust, is_verdict};
use crate::reason::Reason;

/// Why a call failed. [`Self::reason`] tells the server's reason, where one gave it.
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
    /// Whether the call gave up because no server answered, or nothing moved for its timeout. The same call may
    /// succeed later.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Stalled { .. })
    }

    /// Whether the outcome is unknown: the change may have been made or not.
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
        if let Some(typed) = Told::of(status).and_then(|told| Self::of_reason(&told)) {
            return typed;
        }
        let (server, message) = (server.to_owned(), describe(status));
        let reason = Reason::of(status);
        // These variants carry the same facts about a status, and differ in their words.
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

    /// The error that this reason alone determines.
    fn of_reason(told: &Told) -> Option<Self> {
        Some(match told.reason {
            Reason::Fenced => Self::Fenced {
                name: told.text("name"),
                epoch: told.number("epoch").unwrap_or_default(),
            },
            Reason::SessionExpired => Self::SessionExpired,
            Reason::EpochDiffers => Self::EpochDiffers {
                current: told.number("epoch").unwrap_or_default(),
            },
            Reason::CursorDiffers => Self::CursorDiffers {
                current: told.number("offset"),
            },
            Reason::NoSuchCursor => Self::NoSuchCursor {
                name: told.text("name"),
            },
            Reason::OutcomeUnknown => Self::OutcomeUnknown,
            _ => return None,
        })
    }
}
