//! What can go wrong in the replicated log.

pub mod refusal;

use std::path::PathBuf;
use std::sync::Arc;

use crate::log;
use crate::name::Shown;
use crate::raft::entry::types::WireError;
use crate::raft::home::stable_store::StableError;
use crate::raft::view::space::DiskFull;
use crate::reason::Reason;

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
        source: Option<Box<crate::raft::peer::fetch::FetchError>>,
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

/// A batch was not appended, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader took it: surely not appended.
    #[error("no leader took the record within {waited_ms} ms; it was not appended")]
    NoLeader {
        /// How long the node waited for one.
        waited_ms: u64,
        /// Where the leader was last seen.
        leader: Option<String>,
    },
    /// The leader was lost with the batch under way: it may or may not have been appended.
    #[error("the leader was lost while the record was under way; it may have been appended")]
    Unknown,
    /// Too few disks have room: surely not appended.
    #[error(
        "{0}; the record was not appended: make room, or trim the log with `ferrolog log trim`; records are taken again by themselves"
    )]
    DiskFull(#[from] DiskFull),
    /// The state machine refused it.
    #[error(transparent)]
    Refused(#[from] crate::raft::entry::command::Refusal),
    /// The bytes are not a batch.
    #[error("the bytes are not a batch of records")]
    Malformed,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// A command of sessions, fences or cursors was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError {
    /// The state machine refused it.
    #[error(transparent)]
    Refused(#[from] crate::raft::entry::command::StateRefusal),
    /// No leader took it: surely nothing was changed.
    #[error("no leader took the command, and nothing was changed: {reason}; try again")]
    NoLeader {
        /// What happened.
        reason: String,
    },
    /// Too few disks have room, and the command takes some: surely not carried out.
    #[error(
        "{0}; the command was not carried out: make room, or trim the log with `ferrolog log trim`; commands are taken again by themselves"
    )]
    DiskFull(#[from] DiskFull),
    /// The leader was lost, or took too long, with the command under way.
    #[error("the command may have been carried out or not: {reason}; it may be given again")]
    Unknown {
        /// What happened.
        reason: String,
    },
}

impl ExecuteError {
    pub(crate) fn other_answer() -> Self {
        Self::Unknown {
            reason: OTHER_ANSWER.to_owned(),
        }
    }
}

/// A reply of the state machine that does not fit the command.
pub(crate) const OTHER_ANSWER: &str = "the state machine gave another answer";

/// A strong read cannot be answered now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader confirmed its reign in time.
    #[error("no leader confirmed the read within {waited_ms} ms; a relaxed read works meanwhile")]
    NoLeader {
        /// How long the node waited.
        waited_ms: u64,
    },
    /// This node may be further behind than the read allows.
    #[error(
        "this node cannot tell that it is at most {bound_ms} ms behind: the leader has not \
         confirmed it in time; ask another node, or allow more"
    )]
    Stale {
        /// What the read allows.
        bound_ms: u64,
        /// How far behind the node may be; `None` if it never heard.
        staleness_ms: Option<u64>,
    },
    /// This node has not applied an offset in time.
    #[error("this node has not applied offset {offset} within {waited_ms} ms; ask another node")]
    Behind {
        /// The offset.
        offset: crate::log::Offset,
        /// How long the node waited.
        waited_ms: u64,
    },
    /// The leader confirmed, but this node did not catch up with it in time.
    #[error("this node did not catch up with the leader within {waited_ms} ms")]
    Lagging {
        /// How long the node waited.
        waited_ms: u64,
    },
}

/// A change of the membership was refused or did not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// The name belongs to a node with another directory.
    #[error(
        "node {name} is a member with another data directory (a wiped or replaced disk?): remove \
         it first with `ferrolog cluster remove {name}`, let it in with `ferrolog cluster allow \
         {name}`, then start this node again"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Nobody let the node in.
    #[error(
        "node {name} may not join: let it in with `ferrolog cluster allow {name}`, or give it what \
         `ferrolog cluster token` prints with --join-token, and start it again"
    )]
    NotAdmitted {
        /// Its name.
        name: String,
    },
    /// The node belongs to another cluster.
    #[error(
        "the node belongs to cluster {}, this is cluster {ours}: give it an empty data directory, \
         or the addresses of its own cluster",
        Shown(.theirs)
    )]
    OtherCluster {
        /// The cluster of the node that asked.
        theirs: String,
        /// The cluster of the node that answers.
        ours: String,
    },
    /// The node was removed; its id is not used again.
    #[error(
        "node {name} (id {node_id}) was removed from the cluster and cannot come back under that \
         id: give it an empty data directory and start it again"
    )]
    Removed {
        /// Its name.
        name: String,
        /// Its id.
        node_id: u64,
    },
    /// Another process runs as the node.
    #[error(
        "another start of node {name} runs at {addr}: is this a copy of its data \
         directory? Two of them would share one vote. Stop that one first; a node of its own needs \
         an empty data directory and a name of its own"
    )]
    AnotherStart {
        /// Its name.
        name: String,
        /// Where it answers.
        addr: String,
    },
    /// The last voter cannot be removed.
    #[error("{name} is the only voter: add another one before it is removed")]
    LastVoter {
        /// Its name.
        name: String,
    },
    /// There is no such voter.
    #[error("there is no voter named {}: see `ferrolog cluster status`", Shown(.name))]
    NoSuchVoter {
        /// The name.
        name: String,
    },
    /// The leader refused, in its own words.
    #[error("{message}")]
    Refused {
        /// Why.
        reason: Reason,
        /// What it said.
        message: String,
    },
    /// The name is not one.
    #[error(
        "a node's name is 1 to 63 of the characters a-z, 0-9, '-' and '.'; {} is not",
        Shown(.name)
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// Another change has not ended: this one was not begun.
    #[error("another change of the membership is under way; this one was not begun: {reason}")]
    UnderWay {
        /// What the engine said.
        reason: String,
    },
    /// No leader took the change: surely nothing was changed.
    #[error("no leader took the change, and nothing was changed: {reason}; try again")]
    NoLeader {
        /// What happened.
        reason: String,
    },
    /// The leader was lost, or took too long, with the change under way.
    #[error(
        "the change may have been made or not: {reason}; look at how things stand before it is \
         made again"
    )]
    Unknown {
        /// What happened.
        reason: String,
    },
}

impl MembershipError {
    /// What a caller is told.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NameTaken { .. } => Reason::NameTaken,
            Self::NotAdmitted { .. } => Reason::NotAdmitted,
            Self::AnotherStart { .. } => Reason::AnotherStart,
            Self::OtherCluster { .. } => Reason::OtherCluster,
            Self::Removed { .. } => Reason::NodeRemoved,
            Self::LastVoter { .. } => Reason::LastVoter,
            Self::NoSuchVoter { .. } => Reason::NoSuchVoter,
            Self::BadName { .. } => Reason::BadName,
            Self::UnderWay { .. } => Reason::ChangeUnderWay,
            Self::NoLeader { .. } => Reason::NoLeader,
            Self::Unknown { .. } => Reason::OutcomeUnknown,
            Self::Refused { reason, .. } => *reason,
        }
    }
}

/// The engine did not carry out what it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WriteFailure {
    /// It was refused before it was written.
    Nothing(String),
    /// It may be written, and be carried out yet.
    Unknown(String),
}

impl From<WriteFailure> for MembershipError {
    fn from(failure: WriteFailure) -> Self {
        match failure {
            WriteFailure::Nothing(reason) => Self::NoLeader { reason },
            WriteFailure::Unknown(reason) => Self::Unknown { reason },
        }
    }
}

impl From<WriteFailure> for ExecuteError {
    fn from(failure: WriteFailure) -> Self {
        match failure {
            WriteFailure::Nothing(reason) => Self::NoLeader { reason },
            WriteFailure::Unknown(reason) => Self::Unknown { reason },
        }
    }
}
