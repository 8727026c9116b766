//! Marks: where a log stood at earlier times, with its offset, its bytes and the time. Retention gives up the records
//! before a mark.
//!
//! Marks follow from the log alone (I2), not from the segments on a node's disk. They are few: when there are too many,
//! every second one is forgotten.

use crate::log::{Ends, Offset};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::command::Retention;

/// The most marks of one log.
pub const MARKS_MAX: usize = 16;
/// Marks cut what a retention keeps into about this many parts. Retention gives up whole parts.
const PARTS: u64 = 8;
/// Marks are at least this many bytes apart, unless a retention keeps less.
const APART_BYTES: u64 = 64 << 10;

/// Where a log stood at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// The offset that the next record got.
    pub offset: Offset,
    /// The bytes of all batches before it.
    pub bytes: u64,
    /// No record before it has a later time than this: the leader's, in milliseconds since 1970.
    pub time_ms: u64,
}

impl Mark {
    /// Whether a log that stands at `now` can have stood at `self` before.
    pub fn is_before(&self, now: Mark) -> bool {
        self.offset < now.offset && self.bytes <= now.bytes && self.time_ms <= now.time_ms
    }
}

/// The marks of a log, oldest first. The first one may stand before where the log begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marks(Vec<Mark>);

impl Marks {
    /// Adds a mark where a log stands before an append, if that is far enough from the last mark.
    pub fn note(&mut self, at: Mark, retention: &Retention) {
        if let Some((first, last)) = self.0.first().zip(self.0.last()) {
            let spread = (at.bytes.saturating_sub(first.bytes) / PARTS).max(APART_BYTES);
            let apart = retention
                .max_bytes
                .map_or(spread, |most| most / PARTS)
                .min(spread);
            let is_far = at.bytes.saturating_sub(last.bytes) >= apart.max(1);
            let passed = at.time_ms.saturating_sub(last.time_ms);
            let is_later = retention.max_age_ms.is_some_and(|age| passed > age / PARTS);
            if !is_far && !is_later {
                return;
            }
        }
        if self.0.len() == MARKS_MAX {
            let mut number = 0;
            self.0.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
        if self.0.is_empty() {
            // Many logs never get a second mark.
            self.0.reserve_exact(1);
        }
        self.0.push(at);
    }

    pub fn last(&self) -> Option<&Mark> {
        self.0.last()
    }

    /// Forgets the marks that a log needs no more since it begins at `first`. The last one at or before `first` stays,
    /// to count from.
    pub fn trimmed(&mut self, first: Offset) {
        let passed = self.0.partition_point(|mark| mark.offset <= first);
        self.0.drain(..passed.saturating_sub(1));
    }

    /// About how many bytes a log holds from its first offset on. Counting begins at the last mark at or before that
    /// offset, so trimmed records behind that mark count, too. Records before the first mark never count.
    pub fn kept_bytes(&self, ends: Ends, end: Mark) -> u64 {
        end.bytes.saturating_sub(self.bytes_before(ends, end).1)
    }

    /// The number of the first mark behind a log's first offset, and the bytes before the mark in front of that one.
    fn bytes_before(&self, ends: Ends, end: Mark) -> (usize, u64) {
        let begins = self.0.partition_point(|mark| mark.offset <= ends.first);
        // A log without marks may hold records that no mark counts. They are not counted here, so none is given up.
        let base = self.0.get(begins.saturating_sub(1)).unwrap_or(&end);
        (begins, base.bytes)
    }

    /// The first offset that a retention keeps of a log that stands at `end` now; `None` if it keeps all. Records from
    /// the offset `waited_for` on stay while the log has at most `wait_bytes_max` bytes. Records from before
    /// `old_before_ms`, in milliseconds since 1970, are too old.
    pub fn first_kept(
        &self,
        retention: &Retention,
        (ends, end): (Ends, Mark),
        waited_for: Option<Offset>,
        old_before_ms: u64,
    ) -> Option<Offset> {
        let (begins, before) = self.bytes_before(ends, end);
        let mut kept = end.bytes.saturating_sub(before);
        let mut first = None;
        for mark in self.0[begins..].iter().chain([&end]) {
            let is_over = retention.max_bytes.is_some_and(|most| kept > most);
            // The records behind the last mark stay: they are the log's last ones.
            let is_over = is_over && mark.offset < ends.next;
            let is_old = mark.time_ms < old_before_ms;
            let waits = waited_for.is_some_and(|cursor| mark.offset > cursor);
            if !(is_over || is_old) || (waits && kept <= retention.wait_bytes_max) {
                break;
            }
            kept = end.bytes.saturating_sub(mark.bytes);
            first = Some(mark.offset);
        }
        first.filter(|first| *first > ends.first)
    }

    /// For a checkpoint: each mark as its distance from the one before, which takes fewer bytes.
    pub fn to_pb(&self) -> pb::Marks {
        let mut marks = pb::Marks::default();
        let mut last = Mark::default();
        for mark in &self.0 {
            marks.offsets.push(mark.offset.0 - last.offset.0);
            marks.bytes.push(mark.bytes - last.bytes);
            marks.times_ms.push(mark.time_ms - last.time_ms);
            last = *mark;
        }
        marks
    }

    /// From a checkpoint; `None` if there are too many marks, or they do not follow each other.
    pub fn from_pb(marks: &pb::Marks) -> Option<Self> {
        let count = marks.offsets.len();
        let is_even = marks.bytes.len() == count && marks.times_ms.len() == count;
        if !is_even || count > MARKS_MAX {
            return None;
        }
        let mut all = Vec::with_capacity(count);
        let mut last = Mark::default();
        let distances = marks.offsets.iter().zip(&marks.bytes).zip(&marks.times_ms);
        for ((records, bytes), ms) in distances {
            last = Mark {
                offset: Offset(last.offset.0.checked_add(*records)?),
                bytes: last.bytes.checked_add(*bytes)?,
                time_ms: last.time_ms.checked_add(*ms)?,
            };
            if *records == 0 && !all.is_empty() {
                return None;
            }
            all.push(last);
        }
        Some(Self(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(number: u64) -> Mark {
        Mark {
            offset: Offset(number),
            bytes: number * 100,
            time_ms: number * 1000,
        }
    }

    fn ends(first: u64, next: u64) -> Ends {
        let (first, next) = (Offset(first), Offset(next));
        Ends { first, next }
    }

    fn bytes(most: u64) -> Retention {
        Retention {
            max_bytes: Some(most),
            ..Retention::default()
        }
    }

    fn noted(count: u64, retention: &Retention) -> Marks {
        let mut marks = Marks::default();
        for number in 0..count {
            marks.note(mark(number), retention);
        }
        marks
    }

    #[test]
    fn marks_are_few_and_lie_as_far_apart_as_the_retention_asks_for() {
        assert_eq!(noted(1, &Retention::default()).0.len(), 1);
        assert_eq!(
            noted(600, &Retention::default()).0.len(),
            1,
            "less than 64 KiB"
        );
        let offsets = |marks: &Marks| marks.0.iter().map(|mark| mark.offset.0).collect::<Vec<_>>();
        assert_eq!(offsets(&noted(20, &bytes(4000))), [0, 5, 10, 15]);
        let age = Retention {
            max_age_ms: Some(40_000),
            ..Retention::default()
        };
        assert_eq!(offsets(&noted(20, &age)), [0, 6, 12, 18]);
        for count in [1000, 10_000, 1_000_000] {
            let all = noted(count, &Retention::default());
            assert!(all.0.len() <= MARKS_MAX, "{all:?}");
            let far = all
                .0
                .windows(2)
                .map(|two| two[1].offset.0 - two[0].offset.0);
            assert!(far.max().unwrap_or(0) <= (count / 4).max(2000), "{all:?}");
        }
        let mut all = noted(20, &bytes(4000));
        all.trimmed(Offset(12));
        assert_eq!(offsets(&all), [10, 15], "one stays to count from");
        assert_eq!(Marks::from_pb(&all.to_pb()), Some(all.clone()));
        let spoiled = |spoil: fn(&mut pb::Marks)| {
            let mut marks = all.to_pb();
            spoil(&mut marks);
            Marks::from_pb(&marks)
        };
        assert_eq!(spoiled(|marks| marks.offsets[1] = 0), None, "twice");
        assert_eq!(spoiled(|marks| marks.times_ms[1] = u64::MAX), None);
        assert_eq!(spoiled(|marks| marks.bytes.truncate(1)), None);
        assert_eq!(spoiled(|marks| marks.offsets.push(1)), None);
        let many = vec![1; MARKS_MAX + 1];
        let many = pb::Marks {
            offsets: many.clone(),
            bytes: many.clone(),
            times_ms: many,
        };
        assert_eq!(Marks::from_pb(&many), None);
    }

    #[test]
    fn a_retention_gives_up_what_lies_before_a_mark() {
        let marks = noted(20, &bytes(4000));
        let kept = |retention: &Retention, first, waited: Option<u64>, old_before_ms| {
            let state = (ends(first, 20), mark(20));
            let waited = waited.map(Offset);
            let first = marks.first_kept(retention, state, waited, old_before_ms);
            first.map(|first| first.0)
        };
        assert_eq!(kept(&bytes(2000), 0, None, 0), None);
        assert_eq!(kept(&bytes(1999), 0, None, 0), Some(5));
        assert_eq!(kept(&bytes(1), 0, None, 0), Some(15), "the last ones stay");
        assert_eq!(kept(&bytes(1000), 10, None, 0), None);
        assert_eq!(kept(&bytes(1000), 12, None, 0), None, "a part of a part");
        let all = Retention::default();
        assert_eq!(kept(&all, 0, None, 0), None, "nothing is old");
        assert_eq!(kept(&all, 0, None, 5000), None);
        assert_eq!(kept(&all, 0, None, 5001), Some(5));
        assert_eq!(kept(&all, 0, None, 20_001), Some(20), "all of it");
        assert_eq!(kept(&all, 20, None, 99_000), None);
        let wait = Retention {
            wait_bytes_max: 1600,
            ..bytes(1)
        };
        assert_eq!(kept(&wait, 0, Some(20), 0), Some(15));
        assert_eq!(kept(&wait, 0, Some(10), 0), Some(10));
        assert_eq!(kept(&wait, 0, Some(10), 99_000), Some(10), "the age waits");
        assert_eq!(kept(&wait, 0, Some(3), 0), Some(5), "over the cap");
        assert_eq!(marks.kept_bytes(ends(11, 20), mark(20)), 1000);
    }

    #[test]
    fn a_log_that_came_without_marks_loses_nothing_for_what_it_had_before() {
        let mut marks = Marks::default();
        let kept = |marks: &Marks, number| {
            let state = (ends(40, number), mark(number));
            let first = marks.first_kept(&bytes(1000), state, None, 0);
            first.map(|first| first.0)
        };
        assert_eq!(kept(&marks, 50), None);
        for number in 50..60 {
            marks.note(mark(number), &bytes(1000));
            assert_eq!(kept(&marks, number + 1), None);
        }
        marks.note(mark(60), &bytes(1000));
        assert_eq!(kept(&marks, 61), Some(52), "what came since is over");
    }
}
