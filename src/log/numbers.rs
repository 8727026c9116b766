//! What places in a log are counted in: offsets, raft indexes, terms. Where a log begins.

use std::collections::BTreeMap;
use std::fmt;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

quantity!(
    /// A record's place in its log: dense, from 0.
    Offset
);
quantity!(
    /// A record's place among those of all logs, in the order in which they were committed: dense, from 0.
    Position
);
quantity!(
    /// A raft entry's place in the raft log: dense, from 0. Control entries have one, too.
    Index
);
quantity!(
    /// A raft term: which leader's reign.
    Term
);

/// No raft index, no offset and no position comes near this: a larger one, from disk or from a peer, is damage.
pub const NUMBER_MAX: u64 = u64::MAX >> 1;
/// Where a log begins: what lies below was given up for good, after a snapshot covered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floor {
    /// The first raft index.
    pub index: Index,
    /// The position of the first record at or after it.
    pub position: Position,
}

/// Which log: a number that is given once and never again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub u32);

impl LogId {
    /// The log that is always there.
    pub const DEFAULT: Self = Self(0);
    /// No log has it. What is kept under it is of several logs that are read as one, such as a reader's position.
    pub const SEVERAL: Self = Self(u32::MAX);
    /// No log has it. Rows of a rewritten segment have it that stand where records were which are gone.
    pub const GONE: Self = Self(u32::MAX - 2);
    /// The log that tells of changes, once there was one.
    pub const AUDIT: Self = Self(u32::MAX - 1);
    /// The logs that clients make have smaller ones.
    pub const RESERVED: Self = Self(u32::MAX - 16);
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where one log begins and ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ends {
    /// The first offset that may be read.
    pub first: Offset,
    /// The offset that the next record gets.
    pub next: Offset,
}

/// Where each log begins and ends. One that is not here is not there.
pub type AllEnds = BTreeMap<LogId, Ends>;
