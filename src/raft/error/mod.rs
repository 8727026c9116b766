//! What can go wrong in the replicated log.

pub mod refusal;

mod calls;
mod membership;
mod storage;

pub use calls::{DiskFull, ExecuteError, ProposeError, ReadError};
pub(crate) use calls::{OTHER_ANSWER, WriteFailure};
pub use membership::MembershipError;
pub(in crate::raft) use storage::Cause;
pub use storage::{FetchError, StableError};

use std::path::PathBuf;
use std::sync::Arc;

use crate::log;
use crate::raft::entry::wire_error::WireError;

/// A node cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log failed.
    #[error(transparent)]
    Log(#[from] log::Error),
    /// The stable store failed.
    #[error(transparent)]
    Stable(#[from] StableError),
    /// A message from disk or network is not one of ours.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The consensus engine stopped; the process must be started again.
    #[error("the consensus engine stopped: {0}")]
    Engine(String),
    /// The disk failed under the running node: nothing is written until a restart.
    #[error(
        "its disk failed, and what failed once is not trusted again: see to the disk, then start \
         this node again; the others go on, and bring it up to date then"
    )]
    Disk(#[source] Arc<log::Error>),
    /// Another process holds the data directory.
    #[error("{0} is in use by another process: stop it, or give this node its own --data-dir")]
    InUse(PathBuf),
    /// Another process runs as the node.
    #[error(transparent)]
    AnotherStart(MembershipError),
    /// No other node has an intact copy of a damaged segment.
    #[error(
        "no other node gave an intact copy of raft indexes from {base} on; what is left of the \
         files is kept"
    )]
    NoCopy {
        /// The segment's first raft index.
        base: log::Index,
        /// What the last one said; `None` if there is no other node.
        source: Option<Box<FetchError>>,
    },
    /// The data directory cannot be made or locked.
    #[error("prepare the data directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Others than this process's user may change what is in the data directory.
    #[error(
        "others than this user may change the data directory {path} (mode {mode:o}): run: {mend}"
    )]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The command that takes it from them.
        mend: String,
    },
    /// The directory belongs to a node of another name.
    #[error(
        "the data directory holds node {found}, not {asked}: start it with --name {found}, or give \
         {asked} a directory of its own"
    )]
    OtherName {
        /// The name in the directory.
        found: String,
        /// The name asked for.
        asked: String,
    },
}
