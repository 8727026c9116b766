//! What fails on the disk beside the log, and on the way of a segment from another node.

use std::io;
use std::path::PathBuf;

use tonic::Status;

use crate::log::{self, Index};
use crate::raft::entry::wire_error::WireError;

/// What a library said.
pub(in crate::raft) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The stable store failed.
#[derive(Debug, thiserror::Error)]
pub enum StableError {
    /// It cannot be opened.
    #[error("open {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the database said.
        source: Cause,
    },
    /// A value cannot be read.
    #[error("read the {key} from the stable store")]
    Read {
        /// Which value.
        key: &'static str,
        /// What the database said.
        source: Cause,
    },
    /// A value cannot be written.
    #[error("write the {key} to the stable store")]
    Write {
        /// Which value.
        key: &'static str,
        /// What the database said.
        source: Cause,
    },
    /// Its pages do not check, or it is missing beside the rest of a node.
    #[error(
        "{path} is {what}: this node does not know any more whom it voted for, and must not vote; \
         remove it from the cluster (`ferrolog cluster remove NAME` at another node), then start \
         it with an empty data directory"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The second copy of the vote cannot be written.
    #[error("write the vote to {path}")]
    VoteFile {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A value is not what it should be.
    #[error("the {key} in the stable store does not decode")]
    Decode {
        /// Which value.
        key: &'static str,
        /// What is wrong with it.
        source: WireError,
    },
}

/// A segment could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The peer refused, or the connection broke.
    #[error("the peer does not give raft indexes from {base} on: {status}")]
    Peer {
        /// The segment's first raft index.
        base: Index,
        /// What it said.
        status: Box<Status>,
    },
    /// The peer fell silent.
    #[error("the peer fell silent in the middle of raft indexes from {base} on")]
    Silent {
        /// The segment's first raft index.
        base: Index,
    },
    /// A message is not one of ours.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// What came does not match, or could not be written.
    #[error(transparent)]
    Log(#[from] log::Error),
}
