//! What can go wrong in the log, with what a caller needs to act on it.

use std::io;
use std::path::PathBuf;

use super::{Index, LogId, Offset, Position};
use crate::disk;

/// An error of the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log holds no record at this offset.
    #[error("offset {asked} is outside {first}..{next}")]
    OutOfRange {
        /// What the caller asked for.
        asked: Offset,
        /// The first readable offset.
        first: Offset,
        /// The offset that the next record gets.
        next: Offset,
    },
    /// The record at this offset was given up by retention or a trim.
    #[error("offset {asked} was trimmed; the first one is {first}")]
    Trimmed {
        /// What the caller asked for.
        asked: Offset,
        /// The first readable offset.
        first: Offset,
        /// The offset that the next record gets.
        next: Offset,
    },
    /// No record has this position yet, and the one before has none either.
    #[error("position {asked} is behind the end, which is at {next}")]
    PastEnd {
        /// What the caller asked for.
        asked: Position,
        /// The position that the next record gets.
        next: Position,
    },
    /// There is no log with this id: it was deleted, or was never made.
    #[error("there is no log {0}")]
    NoLog(LogId),
    /// A sealed segment does not check. Its bytes are not served; other segments are.
    #[error(
        "{path} is damaged: raft indexes {first}..{next} wait for repair from another node; read \
         from another node meanwhile"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first raft index in it.
        first: Index,
        /// The raft index after its last one.
        next: Index,
    },
    /// A copy from another node is not the segment that was asked for.
    #[error("a copy of raft indexes from {base} on does not match: {what}")]
    Mismatch {
        /// The segment's first raft index.
        base: Index,
        /// What differs.
        what: &'static str,
    },
    /// The log holds no entry at this raft index.
    #[error("raft index {asked} is outside {first}..{next}")]
    NoEntry {
        /// What the caller asked for.
        asked: Index,
        /// The first index held.
        first: Index,
        /// The index that the next entry gets.
        next: Index,
    },
    /// Bytes on disk do not check, and they are not a torn tail.
    #[error(
        "{path} is corrupt at byte {position}: {what}; keep the file, remove this node from the \
         cluster and join it again with an empty data directory"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        position: u64,
        /// What does not check.
        what: &'static str,
    },
    /// The log ends before an entry that was synced to it.
    #[error(
        "{path} {}, but entries up to {synced} were synced to it; the disk lost data: remove this \
         node from the cluster and join it again with an empty data directory",
        .last.map_or("holds no entry".to_owned(), |last| format!("ends at raft index {last}"))
    )]
    LostTail {
        /// The log's directory.
        path: PathBuf,
        /// The last index found.
        last: Option<Index>,
        /// The last index known to have been durable.
        synced: Index,
    },
    /// A file of a version that this binary does not know.
    #[error("{path} has format version {found}; this binary reads version {known}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version that is understood.
        known: u32,
    },
    /// An entry does not fit into a segment.
    #[error("an entry of {bytes} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// The entry's payload, in bytes.
        bytes: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// Bytes that should hold batches of records do not.
    #[error("malformed batch: {0}")]
    Malformed(&'static str),
    /// An earlier write or sync failed; nothing is written until a restart.
    #[error("the log stopped writing after an error; see the first one")]
    Stopped,
    /// Packed records cannot be read, although their checksum says that they are unchanged since the append.
    #[error("packed records cannot be read, though they are what was appended")]
    Unreadable(#[source] crate::batch::BatchError),
    /// The disk refused.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl Error {
    /// Whether the disk has no room.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        let full = |source: &io::Error| matches!(source.kind(), StorageFull | QuotaExceeded);
        matches!(self, Self::Io { source, .. } if full(source))
    }

    /// Whether what was tried can be tried again once there is room: on the disk, or for one more open file. A
    /// failed sync is never tried again: it may have lost bytes for good.
    pub fn waits_for_room(&self) -> bool {
        let is_sync = matches!(self, Self::Io { action, .. } if action.starts_with("sync"));
        (self.is_full() && !is_sync) || self.is_short_of_files()
    }

    /// Whether the process, or the system, has no descriptor left to open a file with: nothing is
    /// wrong with the file, and the same works again later.
    pub fn is_short_of_files(&self) -> bool {
        matches!(self, Self::Io { source, .. } if disk::is_short_of_files(source))
    }

    /// What was found, without what to do about it.
    pub(crate) fn finding(&self) -> String {
        match self {
            Self::Corrupt {
                path,
                position,
                what,
            } => format!("{} at byte {position}: {what}", path.display()),
            other => other.to_string(),
        }
    }

    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
