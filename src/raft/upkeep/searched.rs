//! What the last look for superseded records found, and whether another one is due.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use crate::log::{InSegment, Index, Left, LogId, Search, SegmentInfo, SegmentName};
use crate::raft::entry::catalog::Compaction;

/// A look begins once sealed segments hold so much more, in percent of what was left by the last one; and the open segment
/// is ended for it once that holds as much, and this part of a full one.
pub const GROWTH_PERCENT: u64 = 25;
const OPEN_SHARE: u64 = 8;

/// What the last look found.
#[derive(Debug, Default)]
pub struct Searched {
    /// What of each segment is superseded.
    pub found: BTreeMap<SegmentName, InSegment>,
    /// Counts the looks.
    pub number: u64,
    /// The look of which nothing is left that is worth a run.
    used_up: u64,
    /// The look of which nothing is left for a run, while nothing else was worth one either.
    settled: u64,
    /// The index behind the entries that were looked at.
    before: Index,
    /// The bytes of batches of compacted logs that it left, and those that were appended to these logs before the open
    /// segment.
    left_bytes: u64,
    appended_bytes: u64,
    /// Where the open segment begins, and the bytes that were appended to compacted logs before it, about.
    open: Option<(Index, u64)>,
    /// Those that were appended to them when the segments were seen last.
    seen_bytes: u64,
    /// How many keys there were.
    pub keys: u64,
    /// How the logs were compacted then.
    how: BTreeMap<LogId, Compaction>,
    /// Whether nothing is rewritten, and so nothing looked for.
    pub is_off: bool,
    /// How far a look is that is under way, in percent: no run is decided on until it ends, since that would take segments
    /// away from it.
    pub looked_percent: Option<u32>,
    /// The latest entry that had asked for one.
    pub asked: Index,
    /// Whether all that was found is to go, however little: somebody asked for it.
    pub is_asked: bool,
    /// Whether it left the last segments out.
    is_cut: bool,
    /// The segments in which it found more than a plan can say.
    unsaid: BTreeSet<SegmentName>,
    pub tombstones: Left,
    /// The segments that were looked at, if all nodes had the same.
    pub agreed: Option<Vec<u8>>,
    /// When the nodes were asked last.
    pub compared: Option<Instant>,
}

impl Searched {
    /// Takes over what a look found.
    pub fn take(&mut self, search: &mut Search, wanted: &Wanted, agreed: Option<Vec<u8>>) {
        // What nothing came of yet is to go by this look, however little it is.
        let is_left = !self.found.is_empty() && self.settled != self.number;
        self.found = search.found();
        self.number += 1;
        self.before = search.before();
        self.keys = search.keys();
        let gone: u64 = self.found.values().map(|one| one.bytes).sum();
        self.left_bytes = search.looked_at().saturating_sub(gone);
        // What it did not find it finds the next time, and that is soon.
        self.appended_bytes = if search.is_cut() {
            0
        } else {
            wanted.sealed_bytes
        };
        // Tombstones that had to stay the last time are part of what was asked for.
        self.is_asked = wanted.asked > self.asked
            || (self.is_asked && (self.agreed.is_none() || !self.unsaid.is_empty() || is_left))
            || search.is_cut();
        self.is_cut = search.is_cut();
        self.unsaid = search.unsaid().clone();
        self.how = wanted.logs.clone();
        self.agreed = agreed;
        self.asked = wanted.asked;
        self.tombstones = search.left().clone();
    }

    /// Forgets what was found, if a log is not compacted any more, or in another way: that may not go now.
    pub fn forget_changed(&mut self, wanted: &Wanted) {
        let is_same = |(log, how): (&LogId, &Compaction)| wanted.logs.get(log) == Some(how);
        if !self.how.iter().all(is_same) {
            self.forget();
        }
    }

    /// Forgets all. What comes next is told apart from it by its number.
    pub fn forget(&mut self) {
        let number = self.number + u64::from(!self.found.is_empty());
        *self = Self {
            number,
            ..Self::default()
        };
    }

    /// Takes note that nothing of what this look found is worth a run now.
    pub fn use_up(&mut self, number: u64) {
        self.used_up = number;
    }

    /// Takes note that nothing is left that would be rewritten for what this look found.
    pub fn settle(&mut self, number: u64) {
        self.settled = number;
    }

    /// Whether all that was asked for is in plans that were carried out, but for what has to stay: no other leader need look
    /// for it.
    pub fn is_served(&self, wanted: &Wanted) -> bool {
        let is_looked_at = wanted.asked <= self.asked && wanted.asked < self.before && !self.is_cut;
        let is_said =
            self.unsaid.is_empty() && (self.found.is_empty() || self.settled == self.number);
        let do_tombstones_wait = self.agreed.is_none() && !self.tombstones.tombstones.is_empty();
        wanted.asked > Index(0) && is_looked_at && is_said && !do_tombstones_wait
    }

    /// Whether what was found is in plans that were carried out, but for what is not worth it. Another look before that
    /// would find it again.
    pub fn is_used_up(&self) -> bool {
        self.found.is_empty() || self.used_up == self.number
    }

    /// Takes note that no segment before this index holds a record of a compacted log.
    pub fn found_none(&mut self, wanted: &Wanted, before: Index) {
        (self.before, self.asked) = (before, wanted.asked);
        (self.left_bytes, self.appended_bytes) = (0, wanted.sealed_bytes);
    }

    /// Whether there is enough that is new in sealed segments, or somebody asks.
    pub fn is_due(&self, wanted: &Wanted, before: Index, growth_percent: u64) -> bool {
        let appended = wanted.sealed_bytes.saturating_sub(self.appended_bytes);
        let has_grown = appended > 0 && appended >= self.enough(growth_percent);
        wanted.asked > self.asked || (before > self.before && has_grown)
    }

    /// Whether somebody asked for more than was said, and what was said of it has gone. What could not go would be found
    /// again and again.
    pub fn is_more_to_say(&self, segments: &[SegmentInfo]) -> bool {
        let is_there = |name| segments.iter().any(|one| one.name == name);
        self.is_asked && self.unsaid.iter().any(|name| !is_there(*name))
    }

    /// So many hundredths of what the last look left.
    fn enough(&self, growth_percent: u64) -> u64 {
        self.left_bytes / 100 * growth_percent
    }

    /// Takes note of what stands in the open segment.
    pub fn see_open(&mut self, wanted: &mut Wanted, open: Option<&SegmentInfo>) {
        let Some(open) = open else {
            return;
        };
        let before = match self.open.filter(|(base, _)| *base == open.base) {
            Some((_, before)) => before,
            // All that it holds may be theirs, but for what was appended before it was there.
            None => {
                let before = wanted.appended_bytes.saturating_sub(open.bytes);
                before.max(self.seen_bytes.min(wanted.appended_bytes))
            }
        };
        self.open = Some((open.base, before));
        self.seen_bytes = wanted.appended_bytes;
        wanted.sealed_bytes = before;
    }

    /// Whether so much stands in the open segment that it is to be ended for a look.
    pub fn holds_enough(
        &self,
        wanted: &Wanted,
        growth_percent: u64,
        segment_bytes_max: u64,
    ) -> bool {
        let open = wanted.appended_bytes.saturating_sub(wanted.sealed_bytes);
        open >= self
            .enough(growth_percent)
            .max(segment_bytes_max / OPEN_SHARE)
    }
}

/// The logs that are compacted, with how, and the latest entry that asked for it.
pub struct Wanted {
    pub logs: BTreeMap<LogId, Compaction>,
    pub asked: Index,
    /// The bytes that were ever appended to them, and of these the ones before the open segment, about.
    pub appended_bytes: u64,
    pub sealed_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::super::planning::tests::segments;
    use super::*;

    const SEGMENT: u64 = 8000;

    fn wanted(appended_bytes: u64) -> Wanted {
        Wanted {
            logs: BTreeMap::new(),
            asked: Index(0),
            appended_bytes,
            sealed_bytes: appended_bytes,
        }
    }

    #[test]
    fn the_open_segment_is_ended_once_it_holds_a_quarter_of_what_was_left() {
        let (mut infos, _) = segments(&[(900, 900, false), (1000, 1000, false)]);
        let mut searched = Searched {
            left_bytes: 6000,
            ..Searched::default()
        };
        let mut is_enough = |open: &SegmentInfo, appended, left_bytes| {
            let mut wanted = wanted(appended);
            searched.left_bytes = left_bytes;
            searched.see_open(&mut wanted, Some(open));
            let enough = searched.holds_enough(&wanted, GROWTH_PERCENT, SEGMENT);
            (wanted.sealed_bytes, enough)
        };
        assert_eq!(is_enough(&infos[0], 50_900, 6000), (50_000, false));
        assert_eq!(is_enough(&infos[0], 51_499, 6000), (50_000, false));
        assert_eq!(is_enough(&infos[0], 51_500, 6000), (50_000, true));
        // A small table has no segments of a few records.
        assert_eq!(is_enough(&infos[0], 50_999, 10), (50_000, false));
        assert_eq!(is_enough(&infos[0], 51_000, 10), (50_000, true));
        // What came since is theirs at most, whatever else is in it.
        assert_eq!(is_enough(&infos[1], 51_030, 10), (51_000, false));
        infos[0].bytes = 20;
        assert_eq!(is_enough(&infos[0], 51_530, 10), (51_510, false));
    }

    #[test]
    fn what_was_asked_for_and_not_said_is_looked_for_once_the_rest_has_gone() {
        let (mut infos, _) = segments(&[(900, 900, false); 2]);
        let mut searched = Searched {
            unsaid: [infos[1].name].into(),
            ..Searched::default()
        };
        let rewritten = infos.remove(1);
        assert!(!searched.is_more_to_say(&infos), "nobody asked");
        searched.is_asked = true;
        assert!(searched.is_more_to_say(&infos));
        infos.push(rewritten);
        assert!(!searched.is_more_to_say(&infos), "it could not go");
    }

    #[test]
    fn a_look_waits_until_the_last_ones_records_are_in_plans() {
        let mut searched = Searched::default();
        assert!(searched.is_used_up());
        let (infos, _) = segments(&[(900, 900, false)]);
        searched.found.insert(infos[0].name, InSegment::default());
        searched.number = 1;
        assert!(!searched.is_used_up());
        searched.use_up(1);
        assert!(searched.is_used_up());
        searched.number = 2;
        assert!(!searched.is_used_up(), "another look");
        searched.forget();
        assert_eq!((searched.is_used_up(), searched.number), (true, 3));
    }

    #[test]
    fn what_was_asked_for_is_served_once_nothing_is_left_of_a_look_behind_it() {
        let (infos, _) = segments(&[(900, 900, false)]);
        let asked = |at| Wanted {
            asked: Index(at),
            ..wanted(9)
        };
        let looked = || Searched {
            asked: Index(7),
            before: Index(10),
            number: 3,
            found: [(infos[0].name, InSegment::default())].into(),
            ..Searched::default()
        };
        let mut searched = looked();
        searched.use_up(3);
        assert!(!searched.is_served(&asked(7)), "other runs came first");
        searched.settle(2);
        assert!(!searched.is_served(&asked(7)), "of another look");
        searched.settle(3);
        assert!(searched.is_served(&asked(7)));
        assert!(!searched.is_served(&asked(8)), "asked for since");
        assert!(!searched.is_served(&asked(0)), "nobody asked");
        searched.before = Index(7);
        assert!(!searched.is_served(&asked(7)), "it ended before that");
        let cut = Searched {
            is_cut: true,
            settled: 3,
            ..looked()
        };
        assert!(!cut.is_served(&asked(7)));
        let unsaid = Searched {
            unsaid: [infos[0].name].into(),
            settled: 3,
            ..looked()
        };
        assert!(!unsaid.is_served(&asked(7)));
        let nothing = || Searched {
            found: BTreeMap::new(),
            ..looked()
        };
        assert!(nothing().is_served(&asked(7)));
        let mut waits = nothing();
        waits.tombstones.tombstones.insert(LogId(3), u64::MAX);
        assert!(
            !waits.is_served(&asked(7)),
            "a node did not say what it holds"
        );
        waits.agreed = Some(Vec::new());
        assert!(waits.is_served(&asked(7)), "they are too young");
    }

    #[test]
    fn a_look_is_due_once_sealed_segments_have_grown_by_a_quarter() {
        let searched = Searched {
            before: Index(10),
            left_bytes: 4000,
            appended_bytes: 100_000,
            ..Searched::default()
        };
        let is_due = |sealed_bytes, before| {
            let wanted = Wanted {
                sealed_bytes,
                ..wanted(200_000)
            };
            searched.is_due(&wanted, Index(before), GROWTH_PERCENT)
        };
        assert!(!is_due(100_999, 20));
        assert!(is_due(101_000, 20));
        assert!(!is_due(101_000, 10), "nothing more was sealed");
    }
}
