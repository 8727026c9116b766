//! What a node knows of its sealed segments: what lives of each, and how far it has looked; and whether the node is idle.
//! Then it rewrites what would not be worth it beside a load: the disk has nothing else to do.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use crate::log::{Index, SegmentInfo};

use super::planning::Lives;

/// Segments that one look is at.
pub const SEGMENTS_AT_ONCE: usize = 16;

/// How often records were given up, how many sealed segments there are, and the latest rewriting among them.
pub type Sight = (u64, usize, Option<Index>);

/// What was seen, the share of dead bytes, how often superseded records were looked for, and what was due already.
pub type Known = (Sight, u64, u64, Vec<Range<Index>>);

/// What a node knows of its sealed segments.
#[derive(Debug, Default)]
pub struct Worth {
    pub lives: Lives,
    /// The raft index from which on the next segment is looked at.
    pub next: Index,
    /// How it was when the look at all of them began.
    began: Sight,
    /// The same of the last look that came to its end: while nothing changes, none begins.
    pub ended: Option<Sight>,
    /// What was known when the leader decided last.
    pub decided: Option<Known>,
    pub idle: Idle,
}

impl Worth {
    /// What lives of all that was looked at.
    pub fn bytes(&self) -> u64 {
        self.lives.values().map(|live| live.lives).sum()
    }

    /// Whether less is dead of all segments together than two thirds of the share with which one is worth rewriting. Then
    /// the disk holds little beside what lives, and segments can wait until less of them has to be written again.
    pub fn is_little_dead(&self, dead_percent: u64) -> bool {
        let holds: u64 = self.lives.values().map(|live| live.holds).sum();
        let dead = holds.saturating_sub(self.bytes());
        dead.saturating_mul(300) < holds.saturating_mul(2 * dead_percent)
    }

    /// The segment that is looked at next: none at the end of a look at all of them. `None` if nothing changed since the
    /// last such look.
    fn next_of(&mut self, sealed: &[SegmentInfo], now: Sight) -> Option<Option<SegmentInfo>> {
        if self.next == Index(0) {
            if self.ended == Some(now) {
                return None;
            }
            self.began = now;
            // Without a trim what is known of a segment stays true.
            let is_known = self.ended.is_some_and(|ended| ended.0 == now.0);
            let names: BTreeSet<_> = sealed.iter().map(|one| one.name).collect();
            self.lives
                .retain(|name, _| is_known && names.contains(name));
        }
        let is_next =
            |one: &&SegmentInfo| one.base >= self.next && !self.lives.contains_key(&one.name);
        let next = sealed.iter().find(is_next);
        match next {
            Some(next) => self.next = next.next_index,
            None => {
                self.next = Index(0);
                self.ended = Some(self.began);
            }
        }
        Some(next.copied())
    }

    /// Some that are looked at next, and whether a look at all of them ends with these.
    pub fn next_some(&mut self, sealed: &[SegmentInfo], now: Sight) -> (Vec<SegmentInfo>, bool) {
        let mut some = Vec::new();
        while some.len() < SEGMENTS_AT_ONCE {
            match self.next_of(sealed, now) {
                Some(Some(next)) => some.push(next),
                end => return (some, end.is_some()),
            }
        }
        (some, false)
    }
}

/// A node is idle once the log has grown by less than this in this time.
const IDLE_BYTES: u64 = 1 << 20;
const IDLE_AFTER: Duration = Duration::from_secs(5);

/// How much the log grows.
#[derive(Debug, Default)]
pub struct Idle {
    /// Since when it is looked at, and how it was then: where the open segment began, and how many bytes it had.
    since: Option<(Instant, Index, u64)>,
    is_idle: bool,
}

impl Idle {
    /// Looks at the open segment; gives whether the node is idle.
    pub fn see(&mut self, open: Option<&SegmentInfo>, now: Instant) -> bool {
        let (base, bytes) = open.map_or((Index(0), 0), |open| (open.base, open.bytes));
        let is_quiet = self.since.is_some_and(|(_, begun, before)| {
            base == begun && bytes.saturating_sub(before) < IDLE_BYTES
        });
        let is_long = |since: Instant| now.saturating_duration_since(since) >= IDLE_AFTER;
        match self.since {
            Some((since, ..)) if is_quiet && !is_long(since) => {}
            _ => {
                self.is_idle = is_quiet;
                self.since = Some((now, base, bytes));
            }
        }
        self.is_idle
    }
}

/// The part of a segment's bytes, in percent, that is to be dead while little of all segments is: of what would live of it
/// otherwise, a third less.
pub fn patient_percent(dead_percent: u64) -> u64 {
    dead_percent + (100 - dead_percent) / 3
}

/// The part of something, in percent, that is enough for work on an idle node: half of what it is beside a load. 0 stays
/// 0.
pub fn idle_percent(beside_load: u64) -> u64 {
    beside_load.div_ceil(2)
}

#[cfg(test)]
mod tests {
    use super::super::planning::tests::segments;
    use super::*;

    #[test]
    fn a_look_ends_and_none_begins_before_something_changed() {
        let (infos, _) = segments(&[(1000, 100, false); 2]);
        let mut worth = Worth::default();
        let looks = |worth: &mut Worth, (given_up, segments)| {
            let next = worth.next_of(&infos, (given_up, segments, None));
            next.map(|next| next.map(|one| one.base.0))
        };
        let look = [Some(Some(0)), Some(Some(10)), Some(None), None];
        assert_eq!(look.map(|_| looks(&mut worth, (1, 2))), look);
        assert_eq!(looks(&mut worth, (2, 2)), Some(Some(0)), "a trim");
        // What changes in the midst of a look is looked at in the next one.
        let look = [Some(Some(10)), Some(None), Some(Some(0))];
        assert_eq!(look.map(|_| looks(&mut worth, (3, 2))), look);
    }

    #[test]
    fn a_look_is_at_some_at_a_time() {
        let (infos, _) = segments(&[(1000, 100, false); 2 * SEGMENTS_AT_ONCE - 1]);
        let mut worth = Worth::default();
        let mut looks = || {
            let (some, is_end) = worth.next_some(&infos, (1, infos.len(), None));
            (some.len(), is_end)
        };
        assert_eq!(looks(), (SEGMENTS_AT_ONCE, false));
        assert_eq!(looks(), (SEGMENTS_AT_ONCE - 1, true));
        assert_eq!(looks(), (0, false), "nothing changed");
    }

    #[test]
    fn one_segment_in_the_place_of_one_is_a_change() {
        let (mut infos, lives) = segments(&[(1000, 100, false); 2]);
        let mut worth = Worth {
            lives,
            ended: Some((1, 2, None)),
            ..Worth::default()
        };
        assert_eq!(worth.next_of(&infos, (1, 2, None)), None);
        infos[1].name.rewritten = Some(Index(30));
        let next = worth.next_of(&infos, (1, 2, Some(Index(30))));
        assert_eq!(next, Some(Some(infos[1])), "the new one alone");
    }

    #[test]
    fn a_node_is_idle_while_its_log_hardly_grows() {
        let (infos, _) = segments(&[(0, 0, false), (0, 0, false)]);
        let mut idle = Idle::default();
        let began = Instant::now();
        let mut see = |segment: usize, bytes, seconds| {
            let open = SegmentInfo {
                bytes,
                ..infos[segment]
            };
            idle.see(Some(&open), began + Duration::from_secs(seconds))
        };
        assert!(!see(0, 0, 0), "it is not known yet");
        assert!(!see(0, IDLE_BYTES - 1, 4));
        assert!(see(0, IDLE_BYTES - 1, 5));
        assert!(see(0, 2 * IDLE_BYTES - 2, 9), "a little");
        assert!(!see(0, 2 * IDLE_BYTES - 1, 9), "a load");
        assert!(!see(0, 2 * IDLE_BYTES - 1, 13));
        assert!(see(0, 2 * IDLE_BYTES - 1, 14));
        assert!(!see(1, 0, 15), "another segment");
        assert!(see(1, 0, 20));
    }

    #[test]
    fn segments_wait_while_little_of_all_is_dead() {
        let is_little = |of: &[(u64, u64, bool)], percent| {
            let (_, lives) = segments(of);
            let worth = Worth {
                lives,
                ..Worth::default()
            };
            worth.is_little_dead(percent)
        };
        let half = (1000, 500, false);
        assert!(is_little(&[half, (1000, 840, false)], 50), "33 of 100");
        assert!(!is_little(&[half, (1000, 832, false)], 50), "a third");
        assert!(!is_little(&[half, (1000, 1000, false)], 10));
        assert!(!is_little(&[(1000, 1000, false)], 0), "it is off");
        assert_eq!([1, 50, 99].map(patient_percent), [34, 66, 99]);
    }

    #[test]
    fn an_idle_node_rewrites_what_is_half_as_dead_or_nothing_as_before() {
        assert_eq!([0, 1, 50, 99].map(idle_percent), [0, 1, 25, 50]);
    }
}
