//! What a client call can end with: what failed, why, and what to do about it.
//!
//! The module `refused` finds the error of a status. Nothing is retried here.

use tonic::Code;

use crate::reason::Reason;

/// Why a call failed. [`Self::reason`] tells the server's reason, where one gave it.
///
/// `server` and `servers` are addresses as the client was given them, `host:port`, several with commas between.
/// `message` and `cause` are words for people. Times are seconds. Offsets count records from 0.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The client was made without a server.
    #[error("no server was named")]
    NoServers,
    /// No server answered within the client's timeout. The call was not carried out. Only records that a
    /// [`Producer`](super::Producer) had sent may be in the log.
    #[error(
        "no answer from {servers}, asked for {seconds} s: {cause}. Check that nodes listen there, and that they \
         speak TLS or plaintext as this client does"
    )]
    Unreachable {
        /// The servers that were asked.
        servers: String,
        /// For how long they were asked, in seconds.
        seconds: u64,
        /// How the last try ended.
        cause: String,
    },
    /// Servers answered, and yet nothing moved for the client's timeout: no majority is up, or no leader is known.
    #[error("{servers} answered, and nothing moved for {seconds} s: {cause}")]
    Stalled {
        /// The servers that were asked.
        servers: String,
        /// For how long nothing moved, in seconds.
        seconds: u64,
        /// What a server said last.
        cause: String,
    },
    /// The two sides do not trust each other's certificates, or one speaks TLS and the other plaintext.
    #[error(
        "{server} and this client do not trust each other: {cause}. Both need certificates of one authority, or plaintext"
    )]
    Tls {
        /// Which server.
        server: String,
        /// What the handshake ended with.
        cause: String,
    },
    /// The call needs a client certificate, and none was shown.
    #[error("{server} does not know who is asking: {message}. A client certificate is needed")]
    Unauthenticated {
        /// Which server said so.
        server: String,
        /// The reason in its details, if it gave one that this version knows.
        reason: Option<Reason>,
        /// What it said.
        message: String,
    },
    /// The access policy has no line that allows this to the client's name.
    #[error(
        "{server} does not allow this: {message}. Use a certificate that the policy allows, or change the policy"
    )]
    PermissionDenied {
        /// Which server said so.
        server: String,
        /// The reason in its details, if it gave one that this version knows.
        reason: Option<Reason>,
        /// What it said.
        message: String,
    },
    /// The request itself is wrong, over a limit for example. The same request will be refused again.
    #[error("{server} refuses the request: {message}")]
    InvalidArgument {
        /// Which server said so.
        server: String,
        /// The reason in its details, if it gave one that this version knows.
        reason: Option<Reason>,
        /// What it said.
        message: String,
    },
    /// The cluster is in a state in which the request cannot be carried out.
    #[error("{server} cannot do this in its present state: {message}")]
    FailedPrecondition {
        /// Which server said so.
        server: String,
        /// The reason in its details, if it gave one that this version knows.
        reason: Option<Reason>,
        /// What it said.
        message: String,
    },
    /// The request names a place that is not in the log.
    #[error("{server} finds the request out of range: {message}")]
    OutOfRange {
        /// Which server said so.
        server: String,
        /// The reason in its details, if it gave one that this version knows.
        reason: Option<Reason>,
        /// What it said.
        message: String,
    },
    /// The server has no such call.
    #[error(
        "{server} does not offer this call: {message}. Check that the address is a ferrolog node of this version"
    )]
    Unimplemented {
        /// Which server said so.
        server: String,
        /// The reason in its details, if it gave one that this version knows.
        reason: Option<Reason>,
        /// What it said.
        message: String,
    },
    /// The server failed, or refused for a reason that has no variant of its own. [`ClientError::reason`] says more
    /// where the server did.
    #[error("{server} failed: {message}")]
    Failed {
        /// Which server said so.
        server: String,
        /// The gRPC status code.
        code: Code,
        /// The reason in its details, if it gave one that this version knows.
        reason: Option<Reason>,
        /// What it said.
        message: String,
    },
    /// The offset is behind the end of the log.
    #[error(
        "offset {asked} is past the end of the log, whose next offset is {next}; give {next}, or one below"
    )]
    PastEnd {
        /// The offset that was asked for.
        asked: u64,
        /// The offset that the next record gets.
        next: u64,
    },
    /// The record was given up by a trim or by retention.
    #[error(
        "offset {asked} was trimmed: the log begins at {first} now. Start at {first}, or at `earliest`, if the \
         records before it may be skipped"
    )]
    Trimmed {
        /// The offset that was asked for.
        asked: u64,
        /// The first offset that can be read.
        first: u64,
    },
    /// A read got another offset than the next one. It ends rather than skip or repeat a record.
    #[error(
        "{server} sent offset {got} where {expected} was due. Records would be lost or doubled, so the read ends; \
         read again from {expected} and report this"
    )]
    Gap {
        /// Which server sent it.
        server: String,
        /// The offset that was due.
        expected: u64,
        /// The offset that came.
        got: u64,
    },
    /// A batch was to be appended at one offset only, and the log ends at another. Nothing was appended.
    #[error(
        "the log does not end at offset {expected} but at {next}: another producer appended. Read what came, and \
         append at {next} if it still holds"
    )]
    OffsetDiffers {
        /// Where the log was to end.
        expected: u64,
        /// Where it ends: the offset that the next record gets.
        next: u64,
    },
    /// The batch was under an epoch that is over. Nothing was appended.
    #[error(
        "{name} is not held under this epoch: its present one is {epoch} (0: nobody claimed it yet), and appends \
         under another are refused. If another took over, stop here; else claim the name first"
    )]
    Fenced {
        /// The fence's name.
        name: String,
        /// Its present epoch; 0 if nobody claimed the name.
        epoch: u64,
    },
    /// The cluster no longer knows the session, or no longer remembers the batch. The records may be in the log.
    #[error(
        "the cluster forgot this producer's session while the outcome of a batch was unknown, so sending it again \
         might append it twice. Read the end of the log to see what is there, and send the rest anew"
    )]
    SessionExpired,
    /// A server was lost before it told whether the records were appended. They may be in the log.
    #[error(
        "a server was lost before it told the outcome: the records may be in the log or not. Read the end of the \
         log to see; a producer with a session (`idempotent`) sends again by itself"
    )]
    OutcomeUnknown,
    /// A claim expected another epoch. Nothing was claimed.
    #[error(
        "the name's epoch is not the expected one but {current}: another claimed it. Look who holds it, and claim \
         it with {current} expected if it should move"
    )]
    EpochDiffers {
        /// The name's present epoch; 0 if nobody claimed it.
        current: u64,
    },
    /// A cursor was to be moved from one offset only, and stands at another. It was not moved.
    #[error(
        "the cursor does not stand where it was expected but {}. Read it again, and commit from there",
        match current { Some(offset) => format!("at offset {offset}"), None => "is not set".to_owned() }
    )]
    CursorDiffers {
        /// The offset that it stands at; `None` if there is no such cursor.
        current: Option<u64>,
    },
    /// No cursor has this name.
    #[error(
        "there is no cursor {name:?}. Commit one first, or begin at an offset or at `earliest`"
    )]
    NoSuchCursor {
        /// The name that was asked for.
        name: String,
    },
    /// No log has this name.
    #[error("there is no log {name:?}. Make it first, or look which there are")]
    NoSuchLog {
        /// The name that was asked for; empty if the server did not say.
        name: String,
    },
    /// The log was deleted, with all that was in it. One that was made anew under its name is another log.
    #[error(
        "the log was deleted, and its records with it. If one was made anew under its name, begin there from the start"
    )]
    LogDeleted,
    /// Another log has the name already, and other settings than those that were asked for.
    #[error(
        "a log of this name is there already, with other settings. Use it as it is, change its settings, or choose \
         another name"
    )]
    LogExists,
    /// A log's settings were to be changed only at one epoch, and have another. Nothing was changed.
    #[error(
        "the log's settings were changed meanwhile: their epoch is {current} now. Look at them, and change them with \
         {current} expected if it still holds"
    )]
    LogEpochDiffers {
        /// The settings' present epoch.
        current: u64,
    },
    /// A watch was to go on from a position whose deletions the cluster has forgotten.
    #[error(
        "what became of the logs since that position was forgotten. Watch them anew without a position: it begins with \
         those that there are"
    )]
    ResumeTooOld,
    /// No node was as fresh as the read asked for.
    #[error(
        "{server} is too far behind for this read: {message}. Allow more staleness, ask another server, or try \
         again later"
    )]
    Stale {
        /// The server that answered last.
        server: String,
        /// What it said.
        message: String,
    },
    /// A batch does not decode: the server sent what no producer can have appended.
    #[error(
        "the batch that {server} sent with offset {offset} does not decode: {message}. Read on from {offset} on \
         another server, and have this one's log verified"
    )]
    Batch {
        /// Which server sent it.
        server: String,
        /// The offset of the batch's first record.
        offset: u64,
        /// What is wrong with it.
        message: String,
    },
    /// A batch without a record.
    #[error("a batch needs at least one record, and none was given")]
    EmptyBatch,
    /// The server sent what no server of this version sends.
    #[error("{server} breaks the protocol: {what}. Check that it runs this version of ferrolog")]
    Protocol {
        /// Which server.
        server: String,
        /// What was wrong.
        what: &'static str,
    },
    /// A change of the cluster may have been made or not. A server was lost before it told, and no later try could
    /// tell, or none was made since one of the two could come late.
    #[error(
        "it may have been done or not, since a server was lost before it told: {cause}. See how things stand before it \
         is asked again"
    )]
    ChangeInDoubt {
        /// How the last try ended.
        cause: String,
    },
    /// The producer was stopped before this record was acknowledged. The record may be in the log.
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
        matches!(
            self,
            Self::OutcomeUnknown | Self::SessionExpired | Self::ChangeInDoubt { .. }
        )
    }

    /// Why the server refused, as `docs/errors.md` lists it. `None` if no server gave a reason that this version knows.
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
            Self::NoSuchLog { .. } => Some(Reason::NoSuchLog),
            Self::LogDeleted => Some(Reason::LogDeleted),
            Self::LogExists => Some(Reason::LogExists),
            Self::LogEpochDiffers { .. } => Some(Reason::LogEpochDiffers),
            Self::ResumeTooOld => Some(Reason::ResumeTooOld),
            Self::Stale { .. } => Some(Reason::Stale),
            _ => None,
        }
    }
}
