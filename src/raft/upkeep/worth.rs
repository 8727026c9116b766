//! What a node knows of its sealed segments: what lives of each, and how far it has looked.

use std::collections::{BTreeMap, BTreeSet};

use crate::log::{Index, Live, SegmentInfo, SegmentName};

use super::idle::Idle;

/// Segments that one look is at.
pub const SEGMENTS_AT_ONCE: usize = 16;

/// How often records were given up, how many sealed segments there are, and the latest rewriting among them.
pub type Sight = (u64, usize, Option<Index>);

/// What a node knows of its sealed segments.
#[derive(Debug, Default)]
pub struct Worth {
    pub lives: BTreeMap<SegmentName, Live>,
    /// The raft index from which on the next segment is looked at.
    pub next: Index,
    /// How it was when the look at all of them began.
    began: Sight,
    /// The same of the last look that came to its end: while nothing changes, none begins.
    pub ended: Option<Sight>,
    /// What was seen, the share of dead bytes, and how often superseded records were looked for, when the leader decided
    /// last.
    pub decided: Option<(Sight, u64, u64)>,
    pub idle: Idle,
}

impl Worth {
    /// What lives of all that was looked at.
    pub fn bytes(&self) -> u64 {
        self.lives.values().map(|live| live.bytes).sum()
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
}
