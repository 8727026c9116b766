//! The reasons that statuses give, in one table: for servers, clients and `docs/errors.md`.
//!
//! A reason fixes the gRPC code, whether the call may have done what it was to do, and whether and
//! where to try again; the message beside it is for people. Statuses travel as HTTP headers, which
//! clients limit to some 8 KiB, so what they quote is cut here, in one place.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, ErrorInfo, StatusExt};

/// Whose reasons these are, in `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "ferrolog";
/// The most bytes of a status's message. It travels twice, once escaped, with up to three bytes for each.
const STATUS_TEXT_BYTES_MAX: usize = 1024;
/// The most bytes of one value in the details.
const VALUE_BYTES_MAX: usize = 256;
const CUT: &str = "...";

/// A new leader is there after about this long.
const ELECTION: Duration = Duration::from_millis(200);
/// Room on a disk is looked at anew several times in this, and a damaged segment copied.
const SECOND: Duration = Duration::from_secs(1);

/// Whether the call that ended so did what it was to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Surely not, and nothing of it.
    Nothing,
    /// Perhaps: no answer says.
    Unknown,
}

/// Whether the same call may come to something else when it is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Not unless something about it changes.
    Never,
    /// On another node at once, on this one after a while.
    Elsewhere(Duration),
    /// On this node, after a while.
    Later(Duration),
    /// If it says under which session or token it was sent before, or if twice is as good as once.
    Again,
}

impl Retry {
    fn after(self) -> Option<Duration> {
        match self {
            Self::Elsewhere(after) | Self::Later(after) => Some(after),
            Self::Never | Self::Again => None,
        }
    }
}

/// One line of the table.
#[cfg_attr(not(test), allow(dead_code, reason = "the documents have all of it"))]
struct Line {
    name: &'static str,
    code: Code,
    done: Done,
    retry: Retry,
    /// What the details hold beside the reason.
    metadata: &'static str,
    /// What to do.
    advice: &'static str,
}

/// Makes the type, the list of all and the table, so that none lacks another.
macro_rules! reasons {
    ($($reason:ident $name:literal $code:ident $done:ident $retry:expr, $metadata:literal, $advice:literal;)*) => {
        /// Why a call ended without what it was to bring.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(#[doc = $advice] $reason,)*
        }

        impl Reason {
            /// All of them, in the order of the documents.
            pub const ALL: &[Self] = &[$(Self::$reason,)*];

            fn line(self) -> Line {
                match self {
                    $(Self::$reason => Line {
                        name: $name,
                        code: Code::$code,
                        done: Done::$done,
                        retry: $retry,
                        metadata: $metadata,
                        advice: $advice,
                    },)*
                }
            }
        }
    };
}

use Retry::{Again, Elsewhere, Later, Never};

reasons! {
    Starting "STARTING" Unavailable Nothing Elsewhere(ELECTION), "", "the node belongs to no cluster yet: ask another, or wait";
    Stopping "STOPPING" Unavailable Nothing Elsewhere(ELECTION), "", "ask another node";
    NoLeader "NO_LEADER" Unavailable Nothing Elsewhere(ELECTION), "`leader`, if known", "try again, at the leader first";
    ChangeUnderWay "CHANGE_UNDER_WAY" Unavailable Nothing Later(ELECTION), "", "the membership is changing: try again when that has ended";
    OutcomeUnknown "OUTCOME_UNKNOWN" Unknown Unknown Again, "", "records: send them again under the same session; a change: look whether it was made, or make it again";
    TimedOut "TIMED_OUT" DeadlineExceeded Unknown Again, "", "the call's own deadline was over: as OUTCOME_UNKNOWN";
    Cancelled "CANCELLED" Cancelled Unknown Again, "", "the caller went away: as OUTCOME_UNKNOWN";
    SequenceGap "SEQUENCE_GAP" Aborted Nothing Again, "`expected`", "send the session's records from `expected` on";
    SequenceOverlap "SEQUENCE_OVERLAP" Aborted Nothing Never, "`expected`", "a part of the batch was appended in another batch: send again what was sent before";
    SequenceReused "SEQUENCE_REUSED" FailedPrecondition Nothing Never, "`expected`", "other records were appended under the same number: mend the producer, and go on at `expected`";
    NotOwner "NOT_OWNER" PermissionDenied Nothing Never, "", "the session, or the fence, is another client's: open, or claim, one's own";
    OffsetDiffers "OFFSET_DIFFERS" Aborted Nothing Never, "`next_offset`", "read up to `next_offset`, then decide anew";
    Fenced "FENCED" FailedPrecondition Nothing Never, "`name`, `epoch`", "another one took over the name: stop";
    EpochDiffers "EPOCH_DIFFERS" Aborted Nothing Never, "`epoch`", "somebody claimed the name before: see who holds it";
    CursorDiffers "CURSOR_DIFFERS" Aborted Nothing Never, "`offset`, if there is one", "somebody else moved the cursor: read where it stands";
    NoSuchCursor "NO_SUCH_CURSOR" NotFound Nothing Never, "`name`", "`ferrolog cursor list` shows those that there are";
    NoSuchLog "NO_SUCH_LOG" NotFound Nothing Never, "`log`, if it was named", "`ferrolog log list` shows those that there are";
    LogDeleted "LOG_DELETED" NotFound Nothing Never, "", "the log was deleted: one that was made anew under its name is another";
    LogExists "LOG_EXISTS" AlreadyExists Nothing Never, "", "another log has the name, with another configuration: use it, or choose another name";
    LogEpochDiffers "LOG_EPOCH_DIFFERS" Aborted Nothing Never, "`epoch`", "somebody changed the configuration before: look at it, then decide anew";
    TooManyLogs "TOO_MANY_LOGS" ResourceExhausted Nothing Never, "`limit`", "`ferrolog log delete` those that nobody uses";
    TooManySessions "TOO_MANY_SESSIONS" ResourceExhausted Nothing Never, "`limit`", "close producers, or `ferrolog session close` some; idle sessions give way after ten minutes";
    TooManyFences "TOO_MANY_FENCES" ResourceExhausted Nothing Never, "`limit`", "use the names that were claimed before, or `ferrolog fence delete` some";
    TooManyCursors "TOO_MANY_CURSORS" ResourceExhausted Nothing Never, "`limit`", "`ferrolog cursor delete` those that nobody uses";
    TooManyAdmissions "TOO_MANY_ADMISSIONS" ResourceExhausted Nothing Never, "", "`ferrolog cluster disallow` names that are not to join, or wait until tokens expire";
    SessionExpired "SESSION_EXPIRED" FailedPrecondition Nothing Never, "", "not by this try: read back what an earlier one appended, then begin a new session";
    Lagging "LAGGING" Unavailable Nothing Elsewhere(ELECTION), "", "this node is behind: ask another, or read relaxed";
    Stale "STALE" Unavailable Nothing Elsewhere(ELECTION), "`staleness_ms`, if known", "the bound does not hold here: ask another node, or allow more";
    OffsetOutOfRange "OFFSET_OUT_OF_RANGE" OutOfRange Nothing Never, "`next_offset`, of a read `first_offset`, too; of a selection of logs `next_position` alone", "read inside the range, and set a cursor at `next_offset` or below";
    OffsetTrimmed "OFFSET_TRIMMED" OutOfRange Nothing Never, "`first_offset`, `next_offset`", "the record is gone: go on at `first_offset` if you may skip it";
    ResumeTooOld "RESUME_TOO_OLD" OutOfRange Nothing Never, "", "what became of the logs since then was forgotten: watch anew, without a position";
    NoDescriptors "NO_DESCRIPTORS" Unavailable Nothing Elsewhere(SECOND), "", "the process may open no more files just now: try again, or ask another node; raise its limit (`ulimit -n`, LimitNOFILE)";
    SegmentDamaged "SEGMENT_DAMAGED" Unavailable Nothing Elsewhere(SECOND), "", "read from another node, or wait: this one is being mended from it";
    InvalidRequest "INVALID_REQUEST" InvalidArgument Nothing Never, "", "mend the request: the message says where";
    InvalidBatch "INVALID_BATCH" InvalidArgument Nothing Never, "", "the message says what is wrong with the batch";
    BatchOverLimit "BATCH_OVER_LIMIT" InvalidArgument Nothing Never, "`limit`", "send smaller batches: `GetLimits` tells what is taken";
    RecordTooLarge "RECORD_TOO_LARGE" InvalidArgument Nothing Never, "`limit_bytes`", "split the record, or raise the limit: on all nodes, or the log's own with `ferrolog log set`";
    TimestampRequired "TIMESTAMP_REQUIRED" InvalidArgument Nothing Never, "", "the log asks for the client's own time: set `client_timestamp_ms` of each record, through `ferrolog.v1`";
    KeyRequired "KEY_REQUIRED" InvalidArgument Nothing Never, "", "the log is compacted by key: give each record one, through `ferrolog.v1`";
    MetadataTooLarge "METADATA_TOO_LARGE" InvalidArgument Nothing Never, "`limit_bytes`", "send less metadata: values, names, and 32 bytes for each";
    MessageTooLarge "MESSAGE_TOO_LARGE" InvalidArgument Nothing Never, "`limit_bytes`, if known", "no message of this call is so long: send less in one, `GetLimits` tells what is taken";
    RequestStalled "REQUEST_STALLED" DeadlineExceeded Nothing Again, "", "the request did not come on for 10 s, or came slower than 64 KiB/s on the whole: send it again";
    UnsupportedEncoding "UNSUPPORTED_ENCODING" Unimplemented Nothing Never, "", "send requests without `grpc-encoding`; `grpc-accept-encoding` tells what is taken";
    MalformedMessage "MALFORMED_MESSAGE" InvalidArgument Nothing Never, "", "the bytes are no message of this call: see that both sides use the same protos";
    MalformedBatch "MALFORMED_BATCH" Internal Nothing Never, "", "a fault of this software: report it";
    InFlightLimit "IN_FLIGHT_LIMIT" ResourceExhausted Nothing Later(ELECTION), "`limit_bytes`", "wait for answers, or use a stream";
    AnswerNotTaken "ANSWER_NOT_TAKEN" Unavailable Unknown Again, "", "the client took nothing of an answer for a minute: read on where you are, ask for no more than you take";
    DiskFull "DISK_FULL" ResourceExhausted Nothing Later(SECOND), "`available_bytes`, `reserve_bytes`, `voter` if it is a follower's disk", "make room or trim; what was refused (records, a session, an epoch, a cursor) is taken again by itself";
    NoSuchService "NO_SUCH_SERVICE" NotFound Nothing Never, "", "ask for the health of a service that there is";
    NoSuchMethod "NO_SUCH_METHOD" Unimplemented Nothing Never, "", "reflection tells which calls there are";
    Corrupt "CORRUPT" DataLoss Nothing Never, "", "read from another node; replace this one";
    LogFailed "LOG_FAILED" Internal Nothing Never, "", "see the node's log";
    Internal "INTERNAL" Internal Unknown Never, "", "a fault of this software: report it";
    NoCertificate "NO_CERTIFICATE" Unauthenticated Nothing Never, "", "show a client certificate";
    Denied "DENIED" PermissionDenied Nothing Never, "", "ask for a line in the access policy: for this action, on this log";
    NameTaken "NAME_TAKEN" FailedPrecondition Nothing Never, "", "see that the node has its own data directory; if that is lost, `ferrolog cluster remove NAME`, then `ferrolog cluster allow NAME`";
    AnotherStart "ANOTHER_START" FailedPrecondition Nothing Never, "", "two processes run on a data directory and its copy: stop one";
    NotAdmitted "NOT_ADMITTED" PermissionDenied Nothing Never, "", "`ferrolog cluster allow NAME`, or start the node with `--join-token`";
    OtherCluster "OTHER_CLUSTER" FailedPrecondition Nothing Never, "", "use the addresses of the node's own cluster";
    NodeRemoved "NODE_REMOVED" FailedPrecondition Nothing Never, "", "give the node an empty data directory";
    LastVoter "LAST_VOTER" FailedPrecondition Nothing Never, "", "add another voter first";
    QuorumAtRisk "QUORUM_AT_RISK" FailedPrecondition Nothing Never, "", "start the nodes that do not answer, or remove those first that will not come back";
    NoSuchVoter "NO_SUCH_VOTER" NotFound Nothing Never, "", "see `ferrolog cluster status`";
    NoSuchMember "NO_SUCH_MEMBER" NotFound Nothing Never, "", "see `ferrolog cluster status`";
    NodeDrained "NODE_DRAINED" FailedPrecondition Nothing Never, "", "`ferrolog cluster undrain NAME` lets it lead again";
    NodeSilent "NODE_SILENT" FailedPrecondition Unknown Never, "", "the node that is meant does not answer: make the call again once it is up";
    BadName "BAD_NAME" InvalidArgument Nothing Never, "", "1 to 63 of a-z, 0-9, `-` and `.`";
    PeerRefused "PEER_REFUSED" FailedPrecondition Nothing Never, "", "the message is the leader's";
}

impl Reason {
    /// The reason as it stands in `ErrorInfo`: `NO_LEADER`, for example.
    pub fn name(self) -> &'static str {
        self.line().name
    }

    /// The gRPC code of a status that gives this reason.
    pub fn code(self) -> Code {
        self.line().code
    }

    /// Whether the call may have done what it was to do.
    pub fn done(self) -> Done {
        self.line().done
    }

    /// Whether to make the call again.
    pub fn retry(self) -> Retry {
        self.line().retry
    }

    /// The reason of this name.
    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find(|reason| reason.name() == name).copied()
    }

    /// The reason that a status gives, if it is one of ours.
    pub fn of(status: &Status) -> Option<Self> {
        info(status).and_then(|info| Self::named(&info.reason))
    }

    /// What a status without a reason is taken for: those that the gRPC library gives by itself.
    pub fn of_code(code: Code) -> Self {
        match code {
            Code::Cancelled => Self::Cancelled,
            Code::Ok | Code::Unknown | Code::Unavailable => Self::OutcomeUnknown,
            Code::InvalidArgument => Self::InvalidRequest,
            Code::DeadlineExceeded => Self::TimedOut,
            Code::NotFound => Self::NoSuchService,
            Code::PermissionDenied => Self::Denied,
            Code::Unauthenticated => Self::NoCertificate,
            Code::ResourceExhausted => Self::InFlightLimit,
            Code::FailedPrecondition => Self::PeerRefused,
            Code::Unimplemented => Self::NoSuchMethod,
            // What does not decode, and what is over the limit of a message.
            Code::Internal => Self::MalformedMessage,
            Code::OutOfRange => Self::MessageTooLarge,
            Code::AlreadyExists | Code::Aborted | Code::DataLoss => Self::Internal,
        }
    }

    /// A status that gives this reason.
    pub fn status(self, message: &str) -> Status {
        self.status_with(message, HashMap::new())
    }

    /// A status that gives this reason, with more in its details.
    pub fn status_with(self, message: &str, metadata: HashMap<String, String>) -> Status {
        let info = self.info(metadata);
        let mut details = ErrorDetails::with_error_info(info.reason, info.domain, info.metadata);
        if let Some(after) = self.retry().after() {
            details.set_retry_info(Some(after));
        }
        Status::with_error_details(self.code(), bounded(message), details)
    }

    /// What the details of a status hold of this reason.
    pub fn info(self, metadata: HashMap<String, String>) -> ErrorInfo {
        let bounded = metadata
            .into_iter()
            .map(|(key, value)| (key, cut(&value, VALUE_BYTES_MAX).into_owned()));
        ErrorInfo::new(self.name(), DOMAIN, bounded.collect::<HashMap<_, _>>())
    }
}

/// The `ErrorInfo` of a status of ours.
pub fn info(status: &Status) -> Option<ErrorInfo> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN).then_some(info)
}

/// A message as short as a status may carry it.
pub fn bounded(message: &str) -> Cow<'_, str> {
    cut(message, STATUS_TEXT_BYTES_MAX)
}

fn cut(text: &str, bytes_max: usize) -> Cow<'_, str> {
    if text.len() <= bytes_max {
        return text.into();
    }
    let end = text.floor_char_boundary(bytes_max - CUT.len());
    format!("{}{CUT}", &text[..end]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(retry: Retry) -> String {
        match retry {
            Never => "no".to_owned(),
            Elsewhere(after) => format!("elsewhere, here after {} ms", after.as_millis()),
            Later(after) => format!("after {} ms", after.as_millis()),
            Again => "yes".to_owned(),
        }
    }

    fn row(reason: Reason) -> String {
        let line = reason.line();
        // As gRPC writes its codes.
        let code = format!("{:?}", line.code).chars().enumerate().fold(
            String::new(),
            |mut text, (place, letter)| {
                if letter.is_uppercase() && place > 0 {
                    text.push('_');
                }
                text.extend(letter.to_uppercase());
                text
            },
        );
        let done = match line.done {
            Done::Nothing => "no",
            Done::Unknown => "perhaps",
        };
        let (name, retry) = (line.name, words(line.retry));
        let metadata = match line.metadata {
            "" => String::new(),
            metadata => format!("{metadata} "),
        };
        format!(
            "| `{name}` | {code} | {done} | {retry} | {metadata}| {} |",
            line.advice
        )
    }

    /// The page that users read is the table, no less and no more.
    #[test]
    fn the_documents_say_what_the_table_says() {
        #[allow(clippy::disallowed_methods, reason = "it is a file of the project")]
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md"));
        let page = page.unwrap();
        let told: Vec<_> = page
            .lines()
            .filter(|line| line.starts_with("| `"))
            .collect();
        let table: Vec<_> = Reason::ALL.iter().map(|reason| row(*reason)).collect();
        assert_eq!(told.join("\n"), table.join("\n"), "docs/errors.md differs");
    }

    #[test]
    fn a_status_comes_back_as_its_reason() {
        for reason in Reason::ALL {
            let metadata = HashMap::from([("name".to_owned(), "x".to_owned())]);
            let status = reason.status_with("it is so", metadata.clone());
            assert_eq!(Reason::of(&status), Some(*reason));
            assert_eq!(status.code(), reason.code());
            assert_eq!(info(&status).unwrap().metadata, metadata);
            let told = status.get_details_retry_info();
            assert_eq!(
                told.and_then(|info| info.retry_delay),
                reason.retry().after()
            );
        }
        let names: std::collections::HashSet<_> =
            Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len(), "a name is given twice");
    }

    /// What sends a caller elsewhere has surely done nothing, and what may have, says so.
    #[test]
    fn no_retry_hides_a_doubt() {
        for reason in Reason::ALL {
            if matches!(reason.retry(), Elsewhere(_) | Later(_)) {
                assert_eq!(reason.done(), Done::Nothing, "{reason:?}");
            }
        }
    }

    #[test]
    fn a_status_fits_into_the_headers_of_any_client() {
        let long = "\u{e9}".repeat(100_000);
        let metadata = HashMap::from([("name".to_owned(), long.clone())]);
        for reason in Reason::ALL {
            let status = reason.status_with(&long, metadata.clone());
            let mut headers = http::HeaderMap::new();
            status.add_header(&mut headers).unwrap();
            let bytes: usize = headers
                .iter()
                .map(|(key, value)| key.as_str().len() + value.len() + 32)
                .sum();
            assert!(bytes < 6 << 10, "{reason:?}: {bytes}");
            assert!(status.message().ends_with(CUT));
        }
        assert_eq!(bounded("short"), "short");
    }
}
