//! What the doctor can find: the kinds of faults, and from where on something is one.

use std::time::Duration;

/// From where on something is worth a word.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Entries that a node lacks.
    pub lag: u64,
    /// Records between a cursor and the end of its log.
    pub cursor_lag: u64,
    /// What 99 of 100 syncs of a disk take at most.
    pub fsync: Duration,
}

impl Bounds {
    pub const USUAL: Self = Self {
        lag: 10_000,
        cursor_lag: 1_000_000,
        fsync: Duration::from_millis(250),
    };
}

/// What is wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    NoQuorum,
    NoLeader,
    Down,
    Untrusted,
    Foreign,
    Unheard,
    Lagging,
    Damaged,
    Full,
    ReserveReached,
    NearlyFull,
    SlowFsync,
    CertificateEnds,
    CertificateName,
    BudgetUsedUp,
    DescriptorsShort,
    ClocksApart,
    WrongAddress,
    EvenVoters,
    Learner,
    AllDrained,
    VersionsMixed,
    NotTakenUp,
    CursorBehind,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::NoQuorum => "no-quorum",
            Self::NoLeader => "no-leader",
            Self::Down => "down",
            Self::Untrusted => "untrusted",
            Self::Foreign => "other-cluster",
            Self::Unheard => "unheard",
            Self::Lagging => "lagging",
            Self::Damaged => "damaged",
            Self::Full => "full",
            Self::ReserveReached => "reserve-reached",
            Self::NearlyFull => "nearly-full",
            Self::SlowFsync => "slow-fsync",
            Self::CertificateEnds => "certificate-ends",
            Self::CertificateName => "certificate-name",
            Self::BudgetUsedUp => "budget-used-up",
            Self::DescriptorsShort => "descriptors-short",
            Self::ClocksApart => "clocks-apart",
            Self::WrongAddress => "wrong-address",
            Self::EvenVoters => "even-voters",
            Self::Learner => "learner",
            Self::AllDrained => "all-drained",
            Self::VersionsMixed => "versions-mixed",
            Self::NotTakenUp => "not-taken-up",
            Self::CursorBehind => "cursor-behind",
        }
    }
}

/// One fault.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    pub kind: Kind,
    /// The node that has it, if it is one's.
    pub node: Option<String>,
    pub what: String,
    /// What to do about it.
    pub next: String,
}

pub fn of_all(kind: Kind, what: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding {
        kind,
        node: None,
        what: what.into(),
        next: next.into(),
    }
}

pub fn of_node(
    kind: Kind,
    node: &str,
    what: impl Into<String>,
    next: impl Into<String>,
) -> Finding {
    Finding {
        node: Some(node.to_owned()),
        ..of_all(kind, what, next)
    }
}
