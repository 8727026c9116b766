//! What places in a log are counted in: offsets, raft indexes, terms. Where a log begins.

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
    /// A record's place in the log: dense, from 0.
    Offset
);
quantity!(
    /// A raft entry's place in the raft log: dense, from 0. Control entries have one, too.
    Index
);
quantity!(
    /// A raft term: which leader's reign.
    Term
);

/// No raft index and no offset comes near this: a larger one, from disk or from a peer, is damage.
pub const NUMBER_MAX: u64 = u64::MAX >> 1;
/// Where a log begins: what lies below was given up for good, after a snapshot covered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floor {
    /// The first raft index.
    pub index: Index,
    /// The offset of the first record at or after it.
    pub offset: Offset,
}
