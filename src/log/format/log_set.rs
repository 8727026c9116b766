//! A set of logs: those that have records in a segment.
//!
//! Every sealed segment keeps one in memory, so that most need no look for a log. A log can be in thousands of segments,
//! and a segment can hold a hundred thousand logs: a bitmap takes 12 KiB for those, and a few bytes for a few.

use bytes::BytesMut;
use roaring::RoaringBitmap;

use crate::batch::varint::{self, TooLarge};
use crate::log::LogId;

/// Logs, in the order of their ids.
#[derive(Debug, Clone, Default)]
pub struct LogSet(RoaringBitmap);

impl LogSet {
    pub fn len(&self) -> usize {
        usize::try_from(self.0.len()).unwrap_or(usize::MAX)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, log: LogId) -> bool {
        self.0.contains(log.0)
    }

    /// How many of the set are before a log that is in it.
    pub fn place_of(&self, log: LogId) -> Option<usize> {
        let through = self.contains(log).then(|| self.0.rank(log.0))?;
        usize::try_from(through).ok()?.checked_sub(1)
    }

    pub fn iter(&self) -> impl Iterator<Item = LogId> + '_ {
        self.0.iter().map(LogId)
    }

    /// Runs of ids that follow each other. Of each: how many ids are left out before it, and how many it has besides its
    /// first.
    pub fn encode(&self) -> BytesMut {
        let mut out = BytesMut::new();
        let mut ids = self.0.iter().peekable();
        let mut behind = 0;
        while let Some(first) = ids.next() {
            let mut last = first;
            while let Some(next) = ids.next_if(|next| last.checked_add(1) == Some(*next)) {
                last = next;
            }
            varint::put(&mut out, u64::from(first) - behind);
            varint::put(&mut out, u64::from(last - first));
            behind = u64::from(last) + 1;
        }
        out
    }

    /// Reads a set of so many logs; `None` if these bytes are none.
    pub fn decode(mut bytes: &[u8], logs: usize) -> Option<Self> {
        let mut number = || -> Result<u64, NoSet> {
            varint::read(|| {
                let (first, rest) = bytes.split_first().ok_or(NoSet)?;
                bytes = rest;
                Ok(*first)
            })
        };
        let (mut set, mut left, mut behind) = (RoaringBitmap::new(), logs as u64, 0u64);
        while left > 0 {
            let (gap, more) = (number().ok()?, number().ok()?);
            // Runs side by side would be one: each set is written in one way.
            if gap == 0 && behind > 0 {
                return None;
            }
            left = left.checked_sub(more.checked_add(1)?)?;
            let first = u32::try_from(behind.checked_add(gap)?).ok()?;
            let last = u32::try_from(u64::from(first).checked_add(more)?).ok()?;
            set.insert_range(first..=last);
            behind = u64::from(last) + 1;
        }
        bytes.is_empty().then_some(())?;
        set.optimize();
        Some(Self(set))
    }
}

struct NoSet;

impl From<TooLarge> for NoSet {
    fn from(_: TooLarge) -> Self {
        Self
    }
}

/// A set can be kept in several ways.
impl PartialEq for LogSet {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for LogSet {}

impl FromIterator<LogId> for LogSet {
    fn from_iter<I: IntoIterator<Item = LogId>>(logs: I) -> Self {
        let mut set: RoaringBitmap = logs.into_iter().map(|log| log.0).collect();
        set.optimize();
        Self(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: impl IntoIterator<Item = u32>) -> LogSet {
        ids.into_iter().map(LogId).collect()
    }

    #[test]
    fn a_set_comes_back_and_tells_places() {
        let sets = [
            set([]),
            set([0]),
            set([u32::MAX]),
            set([0, 1, 2, 9, 10, 4000, u32::MAX - 1, u32::MAX]),
            set((0..100_000).filter(|id| id % 3 != 1)),
            set(5..100_000),
        ];
        for set in sets {
            let bytes = set.encode();
            assert_eq!(LogSet::decode(&bytes, set.len()), Some(set.clone()));
            for (place, log) in set.iter().enumerate() {
                assert_eq!(set.place_of(log), Some(place));
            }
            assert_eq!(set.place_of(LogId(4)), set.contains(LogId(4)).then_some(3));
            // Fewer or more than are said, or cut off.
            assert_eq!(LogSet::decode(&bytes, set.len() + 1), None);
            if !set.is_empty() {
                assert_eq!(LogSet::decode(&bytes, set.len() - 1), None);
                assert_eq!(LogSet::decode(&bytes[..bytes.len() - 1], set.len()), None);
            }
        }
        assert_eq!(set(5..100_000).encode().len(), 4);
    }

    #[test]
    fn bytes_that_are_no_set_are_refused() {
        let decode = |bytes: &[u8], logs| LogSet::decode(bytes, logs);
        assert_eq!(decode(&[3, 1], 2), Some(set([3, 4])));
        assert_eq!(decode(&[3, 1, 0, 0], 3), None, "two runs side by side");
        assert_eq!(decode(&[3, 1, 1, 0], 3), Some(set([3, 4, 6])));
        let largest = [0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(
            decode(&[&largest[..], &[0]].concat(), 1),
            Some(set([u32::MAX]))
        );
        assert_eq!(
            decode(&[&largest[..], &[1]].concat(), 2),
            None,
            "over 32 bits"
        );
        let huge = [0xff; 9].iter().copied().chain([1]).collect::<Vec<_>>();
        assert_eq!(decode(&[&[0], &huge[..]].concat(), 1 << 22), None);
        assert_eq!(decode(&[&huge[..], &[0]].concat(), 1), None);
    }
}
