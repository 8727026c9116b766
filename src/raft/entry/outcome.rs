//! What commands come to: the same on every replica.

use std::fmt;

use crate::log::{LogId, Offset};

/// What a command came to: the same on every replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to tell.
    Done,
    /// One outcome for each bundle of batches, in order.
    Appended(Vec<BundleOutcome>),
    /// The first offset that may be read now.
    Trimmed(Offset),
    /// The node id, or why there is none.
    Registered(Result<u64, NotRegistered>),
    /// A session's id.
    Session(u64),
    /// A log that was made, changed, or found as it was to be.
    Log(Made),
    /// A name's new epoch, and where the claim's log ended at that time.
    Claimed(u64, Offset),
    /// Whether there was something to delete: a cursor, a fence, a log, or a name that might join.
    Deleted(bool),
    /// The state machine refused the command.
    Refused(StateRefusal),
}

impl Outcome {
    /// Whether the command did what it was to do. What was refused, or was to delete what is not there, changed nothing.
    pub fn is_change(&self) -> bool {
        match self {
            Self::Done
            | Self::Trimmed(_)
            | Self::Session(_)
            | Self::Log(_)
            | Self::Claimed(..)
            | Self::Deleted(true)
            | Self::Registered(Ok(_)) => true,
            Self::Appended(_)
            | Self::Deleted(false)
            | Self::Registered(Err(_))
            | Self::Refused(_) => false,
        }
    }
}

/// A log, as a command left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    pub log: LogId,
    /// The epoch of its configuration.
    pub epoch: u64,
}

/// Where the records of a bundle's batches stand, or why none of them was appended.
pub type BundleOutcome = Result<Receipt, Refused>;

/// What an appended bundle came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Where its records stand.
    pub ranges: Ranges,
    /// When the leader took it, in milliseconds since 1970; 0 if an earlier try had appended it.
    pub timestamp_ms: u64,
    /// An earlier try had appended all of it.
    pub duplicate: bool,
}

/// The offsets of a bundle's records: one range for each batch, in order. More for a batch of plain records that
/// stands alone, if an earlier try had appended a part of it.
pub type Ranges = Vec<OffsetRange>;

/// Why the state machine did not append a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refused {
    pub why: Refusal,
    /// Which batch of the bundle was refused, counted from 0.
    pub batch: u32,
}

impl From<Refusal> for Refused {
    fn from(why: Refusal) -> Self {
        Self { why, batch: 0 }
    }
}

/// Consecutive records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetRange {
    /// The first record's offset.
    pub first: Offset,
    /// How many records.
    pub count: u32,
}

/// Why the state machine did not append a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A record of the session before this batch was never appended.
    #[error("the batch skips records of its session: sequence number {expected} comes next")]
    SequenceGap {
        /// The sequence number that comes next.
        expected: u64,
    },
    /// A part of the batch was appended in another batch.
    #[error("the batch cuts its session's records otherwise than before: {expected} comes next")]
    SequenceOverlap {
        /// The sequence number that comes next.
        expected: u64,
    },
    /// Other records were appended under the batch's numbers.
    #[error(
        "the batch is not the one that was appended under its number, and was not appended: the \
         producer numbers its records twice; {expected} comes next"
    )]
    SequenceReused {
        /// The sequence number that comes next.
        expected: u64,
    },
    /// The session is another one's.
    #[error(
        "the session is not the caller's: it was opened by another one, or with another secret"
    )]
    NotOwner,
    /// The name is held by another one.
    #[error("the batch comes in a name that another one claimed: claim it first")]
    NotHolder,
    /// The log was deleted.
    #[error("the log was deleted")]
    NoSuchLog,
    /// The log ends elsewhere.
    #[error("the log does not end at the offset that was expected: it ends at {next}")]
    OffsetDiffers {
        /// The offset that the next record gets.
        next: Offset,
    },
    /// The name has another epoch.
    #[error("the batch is fenced off: epoch {epoch} of its name is the present one")]
    Fenced {
        /// The present epoch; 0 if nobody claimed the name.
        epoch: u64,
    },
    /// The session is not known, or the batch is older than what is remembered of it.
    #[error("the session is unknown or the batch too old to tell whether it was appended")]
    SessionExpired,
}

/// Why the state machine did not do what a command of sessions, fences, cursors or admissions asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StateRefusal {
    /// There is no room for a session.
    #[error(
        "too many sessions are open ({0}), and none of them is idle: close some producers, or let \
         an administrator close sessions with `ferrolog session close`"
    )]
    TooManySessions(Full),
    /// The session is another one's.
    #[error(
        "the session is not the caller's: it was opened by another one, or with another secret"
    )]
    NotOwner,
    /// The name was claimed in between.
    #[error("the name's epoch is {current}, and another one was expected")]
    EpochDiffers {
        /// The present epoch; 0 if nobody claimed it.
        current: u64,
    },
    /// There is no room for a name.
    #[error(
        "too many names were claimed ({0}): use those that there are, or let an administrator \
         delete some with `ferrolog fence delete`"
    )]
    TooManyFences(Full),
    /// The cursor stands elsewhere.
    #[error("the cursor does not stand where it was expected to")]
    CursorDiffers {
        /// Where it stands; `None` if there is none.
        current: Option<Offset>,
    },
    /// The cursor would stand behind records that there are not.
    #[error(
        "offset {asked} is past the end of the log, whose next offset is {next}: a cursor stands at \
         {next} or below"
    )]
    CursorPastEnd {
        /// Where it was to stand.
        asked: Offset,
        /// The offset that the next record gets.
        next: Offset,
    },
    /// There is no room for a cursor.
    #[error("there are too many cursors ({0}): delete some with `ferrolog cursor delete`")]
    TooManyCursors(Full),
    /// The name is another log's.
    #[error("log {log} has the name, and another configuration")]
    LogExists {
        /// The log.
        log: LogId,
    },
    /// There is no such log.
    #[error("there is no such log: `ferrolog log list` shows those that there are")]
    NoSuchLog,
    /// There is no room for a log.
    #[error("there are too many logs ({0}): delete some with `ferrolog log delete`")]
    TooManyLogs(Full),
    /// The configuration was changed in between.
    #[error("the log's configuration has epoch {current}, and another one was expected")]
    LogEpochDiffers {
        /// The present epoch.
        current: u64,
    },
    /// There is no room for a name or a token.
    #[error(
        "as many names or tokens as there may be let nodes in already: take names back with \
         `ferrolog cluster disallow`, or wait until tokens expire"
    )]
    TooManyAdmissions,
}

/// Which limit was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// How many there may be.
    pub limit: u64,
    /// Whether this is the limit of one subject, and not of the cluster.
    pub of_subject: bool,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.of_subject {
            "for one certificate's name"
        } else {
            "in all"
        };
        write!(f, "{} is the most {whose}", self.limit)
    }
}

/// Why a node gets no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRegistered {
    /// Another directory holds the name.
    #[error("node {node_id} is known under this name with another data directory")]
    NameTaken {
        /// The node that holds it.
        node_id: u64,
    },
    /// Nobody let it in.
    #[error("nobody let the node in")]
    NotAdmitted,
}
