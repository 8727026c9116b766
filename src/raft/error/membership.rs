//! Why a change of the membership was refused or did not come about.

use crate::name::Shown;
use crate::reason::Reason;

use super::calls::{OTHER_ANSWER, WriteFailure};

/// A change of the membership was refused or did not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// The name belongs to a node with another directory.
    #[error(
        "node {name} is a member with another data directory, and was last known at {addr}. Is --data-dir the directory \
         that it had there? If not, give that one: it holds the node's records. Only if its disk was wiped or replaced: \
         remove it with `ferrolog cluster remove {name}`, let it in with `ferrolog cluster allow {name}`, then start \
         this node again"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Where the member was last known to be, or that this is not known.
        addr: String,
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
    /// Those that would stay, and answer, could commit nothing.
    #[error(
        "{name} stays: of the {voters} voters that would be left, {needed} must answer to commit anything, and {up} \
         of them {}. No answer comes from {}: start what is down, or remove first what will not come back",
        does(.up),
        .silent.join(", ")
    )]
    QuorumAtRisk {
        /// The name of the node that was to go.
        name: String,
        /// How many of those that would stay answer.
        up: usize,
        /// How many voters would stay.
        voters: usize,
        /// How many of them are a majority.
        needed: usize,
        /// Those that do not answer.
        silent: Vec<String>,
    },
    /// There is no such voter.
    #[error("there is no voter named {}: see `ferrolog cluster status`", Shown(.name))]
    NoSuchVoter {
        /// The name.
        name: String,
    },
    /// There is no such member.
    #[error("there is no member {}: see `ferrolog cluster status`", Shown(.name))]
    NoSuchMember {
        /// The name.
        name: String,
    },
    /// Leadership is not handed to a node that is drained.
    #[error("{name} is drained: `ferrolog cluster undrain {name}` lets it lead again")]
    Drained {
        /// Its name.
        name: String,
    },
    /// The node that was meant did not answer.
    #[error(
        "{name} does not answer ({reason}): what is down does not lead; make the call again once it is up"
    )]
    Silent {
        /// Its name.
        name: String,
        /// What happened.
        reason: String,
    },
    /// The node could not write down what it was to remember.
    #[error("the node could not keep it on its disk, and nothing was changed: {reason}")]
    NotKept {
        /// What the disk said.
        reason: String,
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

fn does(count: &usize) -> &'static str {
    match count {
        1 => "does",
        _ => "do",
    }
}

impl MembershipError {
    /// The state machine gave a reply that does not fit the command.
    pub(crate) fn other_answer() -> Self {
        Self::Unknown {
            reason: OTHER_ANSWER.to_owned(),
        }
    }

    /// What a caller is told.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NameTaken { .. } => Reason::NameTaken,
            Self::NotAdmitted { .. } => Reason::NotAdmitted,
            Self::AnotherStart { .. } => Reason::AnotherStart,
            Self::OtherCluster { .. } => Reason::OtherCluster,
            Self::Removed { .. } => Reason::NodeRemoved,
            Self::LastVoter { .. } => Reason::LastVoter,
            Self::QuorumAtRisk { .. } => Reason::QuorumAtRisk,
            Self::NoSuchVoter { .. } => Reason::NoSuchVoter,
            Self::NoSuchMember { .. } => Reason::NoSuchMember,
            Self::Drained { .. } => Reason::NodeDrained,
            Self::Silent { .. } => Reason::NodeSilent,
            Self::NotKept { .. } => Reason::LogFailed,
            Self::BadName { .. } => Reason::BadName,
            Self::UnderWay { .. } => Reason::ChangeUnderWay,
            Self::NoLeader { .. } => Reason::NoLeader,
            Self::Unknown { .. } => Reason::OutcomeUnknown,
            Self::Refused { reason, .. } => *reason,
        }
    }
}

impl From<WriteFailure> for MembershipError {
    fn from(failure: WriteFailure) -> Self {
        match failure {
            WriteFailure::Nothing(reason) => Self::NoLeader { reason },
            WriteFailure::Unknown(reason) => Self::Unknown { reason },
        }
    }
}
