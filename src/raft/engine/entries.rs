//! Entries as the engine asks for them and gets them.

use std::io;
use std::ops::{Bound, RangeBounds};

use crate::log;
use crate::raft::entry::codec;
use crate::raft::entry::types::Entry;

/// Entries of the log, as the engine has them.
pub fn entries_of(entries: Vec<log::Entry>) -> io::Result<Vec<Entry>> {
    let entries = entries.into_iter();
    entries
        .map(|entry| codec::from_log(entry).map_err(io::Error::other))
        .collect()
}

/// A range of indexes as `from..to`.
pub fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}
