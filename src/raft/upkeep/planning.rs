//! Which sealed segments are worth rewriting: those that give back most.

use std::collections::BTreeMap;

use crate::log::{
    GONE_BYTES_MAX, GoneWriter, InSegment, Index, Live, LogId, Offset, Rewrite, STORE_BYTES_MAX,
    SegmentInfo, SegmentName,
};
use crate::raft::entry::catalog::{REWRITE_LOGS_MAX, REWRITE_SEGMENTS_MAX};

use super::compacting::logs_of;

/// Rewritten segments beside each other that are merged though nothing in them is dead, if half a segment holds them.
const SMALL_MIN: usize = 8;
/// Segments are rewritten once this part of their bytes is of superseded records, whatever else is dead.
pub const SUPERSEDED_PERCENT: u64 = 20;
/// A run of positions takes so many bytes at most.
const RUN_BYTES_MAX: usize = 20;

/// Batches of which a record lives, about, of a run of several segments. A node that rewrites them needs some memory for
/// each: 56 bytes, and then 72 for its row.
const BATCHES_MAX: u64 = 1 << 17;

/// What lives of a run takes so much at most: what tells the places of its batches is to fit beside it.
const LIVE_BYTES_MAX: u64 = STORE_BYTES_MAX as u64 / 4 * 3;

/// Which runs are worth it.
pub struct Limits {
    /// What lives of one is to fit into so much.
    pub segment_bytes_max: u64,
    /// So much of it is dead, or is superseded.
    pub dead_percent: u64,
    pub superseded_percent: u64,
}

/// What is superseded, by segment.
pub type Found = BTreeMap<SegmentName, InSegment>;

/// Sealed segments side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    from: usize,
    to: usize,
    /// What is left of them takes so much at most.
    live: u64,
    bytes: u64,
    /// Of the bytes those of superseded records.
    superseded: u64,
    /// Batches of which a record lives, at most.
    batches: u64,
}

impl Run {
    /// What comes back, at least.
    fn dead(&self) -> u64 {
        self.bytes.saturating_sub(self.live)
    }

    /// A log of states is to hold little more than the last record of each key. Whether room comes back does not matter
    /// if somebody asked.
    fn is_worth_compacting(&self, limits: &Limits) -> bool {
        let is_asked = limits.superseded_percent == 0;
        let is_enough = self.superseded * 100 >= self.bytes * limits.superseded_percent;
        self.superseded > 0 && is_enough && (self.dead() > 0 || is_asked)
    }

    /// Whether what lives fits into a segment. What a lone one holds may take more than it does now, since what is left
    /// of batches is not compressed.
    fn fits(&self, limits: &Limits) -> bool {
        let max = match self.to - self.from {
            1 => LIVE_BYTES_MAX,
            _ => limits.segment_bytes_max.min(LIVE_BYTES_MAX),
        };
        self.live <= max && (self.batches <= BATCHES_MAX || self.to - self.from == 1)
    }
}

/// The run of segments that is rewritten next; `None` if none is worth it.
pub fn plan(
    sealed: &[SegmentInfo],
    (lives, found): (&BTreeMap<SegmentName, Live>, &Found),
    limits: &Limits,
) -> Option<Rewrite> {
    let run = best(sealed, (lives, found), limits)?;
    let segments = &sealed[run.from..run.to];
    let superseded = segments.iter().filter_map(|one| found.get(&one.name));
    let mut gone = GoneWriter::default();
    for one in superseded.clone() {
        gone.extend(&one.gone).ok()?;
    }
    let compacted = logs_of(superseded);
    let mut firsts: BTreeMap<LogId, Offset> = BTreeMap::new();
    for segment in segments {
        for (log, first) in &lives.get(&segment.name)?.firsts {
            // One look is later than another: what is given up stays so.
            let known = firsts.entry(*log).or_insert(*first);
            *known = (*known).max(*first);
        }
    }
    if firsts.len().max(compacted.len()) > REWRITE_LOGS_MAX {
        return None;
    }
    Some(Rewrite {
        at: Index(0),
        base: segments.first()?.base,
        next: segments.last()?.next_index,
        of: segments.iter().map(|one| one.name.rewritten).collect(),
        sealed_ms: segments.iter().map(|one| one.since_ms).max()?,
        firsts,
        compacted,
        gone: gone.finish(),
    })
}

fn best(
    sealed: &[SegmentInfo],
    (lives, found): (&BTreeMap<SegmentName, Live>, &Found),
    limits: &Limits,
) -> Option<Run> {
    let mut best: Option<Run> = None;
    for from in 0..sealed.len() {
        let mut run = Run {
            from,
            to: from,
            live: 0,
            bytes: 0,
            superseded: 0,
            batches: 0,
        };
        let (mut positions, mut rewritten, mut said) = (0, 0, 0);
        for one in sealed[from..].iter().take(REWRITE_SEGMENTS_MAX) {
            let Some(live) = lives.get(&one.name).filter(|_| one.rolled && !one.damaged) else {
                break;
            };
            positions += one.positions;
            rewritten += usize::from(one.name.rewritten.is_some());
            run.to += 1;
            let superseded = found.get(&one.name);
            let gone = superseded.map_or(0, |one| one.bytes.min(live.bytes));
            let more = superseded.map_or(0, |one| one.more_bytes);
            said += superseded.map_or(0, |one| one.gone.bytes().len() + RUN_BYTES_MAX);
            run.live += live.bytes - gone + more;
            run.bytes += live.of_bytes;
            run.superseded += gone;
            let batches = one.rows * live.bytes / live.of_bytes.max(1);
            run.batches += batches + superseded.map_or(0, |one| one.runs);
            let is_too_long = said > GONE_BYTES_MAX || positions > u64::from(u32::MAX);
            if !run.fits(limits) || is_too_long {
                break;
            }
            let is_dead = run.dead() > 0 && run.dead() * 100 >= run.bytes * limits.dead_percent;
            let is_dead = is_dead || run.is_worth_compacting(limits);
            let many = run.to - run.from;
            let is_small =
                rewritten == many && many >= SMALL_MIN && run.live <= limits.segment_bytes_max / 2;
            // The more comes back at once the better; of equals the older comes first.
            if (is_dead || is_small) && best.is_none_or(|best| run.dead() > best.dead()) {
                best = Some(run);
            }
        }
    }
    best
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const SEGMENT: u64 = 1000;
    const LIMITS: Limits = Limits {
        segment_bytes_max: SEGMENT,
        dead_percent: 50,
        superseded_percent: SUPERSEDED_PERCENT,
    };

    /// Segments of so many bytes, of which so many live; the mark says that it was rewritten before.
    pub fn segments(of: &[(u64, u64, bool)]) -> (Vec<SegmentInfo>, BTreeMap<SegmentName, Live>) {
        let mut lives = BTreeMap::new();
        let info = |(number, (bytes, live, rewritten)): (u64, &(u64, u64, bool))| {
            let base = Index(number * 10);
            let name = SegmentName {
                base,
                rewritten: rewritten.then_some(Index(5000 + number)),
            };
            lives.insert(
                name,
                Live {
                    bytes: *live,
                    of_bytes: *bytes,
                    firsts: vec![(LogId(1), Offset(number))],
                },
            );
            SegmentInfo {
                base,
                name,
                next_index: Index(base.0 + 10),
                bytes: *bytes,
                positions: 10,
                rows: 10,
                next_position: Some(crate::log::Position(base.0 + 10)),
                opened: crate::env::Instant::now(),
                found: false,
                since_ms: number,
                rolled: true,
                damaged: false,
            }
        };
        let infos = (0..).zip(of).map(info).collect();
        (infos, lives)
    }

    fn ranges(of: &[(u64, u64, bool)]) -> Option<(u64, u64)> {
        let (infos, lives) = segments(of);
        let plan = plan(&infos, (&lives, &Found::new()), &LIMITS)?;
        Some((plan.base.0, plan.next.0))
    }

    #[test]
    fn what_gives_back_most_comes_first() {
        assert_eq!(ranges(&[]), None);
        assert_eq!(ranges(&[(1000, 1000, false), (1000, 600, false)]), None);
        let half = [(1000, 1000, false), (1000, 500, false), (1000, 900, false)];
        assert_eq!(ranges(&half), Some((10, 20)));
        let three = [(1000, 400, false), (1000, 10, false), (1000, 400, false)];
        assert_eq!(ranges(&three), Some((0, 30)), "they fit into one");
        let alike = [(1000, 300, false), (1000, 1000, false), (1000, 300, false)];
        assert_eq!(ranges(&alike), Some((0, 10)), "the older of equals");
    }

    /// So many bytes of the second of three segments are superseded, and the rest takes so many more.
    fn planned(bytes: u64, more_bytes: u64, superseded_percent: u64) -> Option<Rewrite> {
        let (infos, lives) = segments(&[(1000, 1000, false); 3]);
        let mut gone = GoneWriter::default();
        gone.push(crate::log::Position(12));
        let superseded = InSegment {
            gone: gone.finish(),
            records: 1,
            runs: 1,
            bytes,
            more_bytes,
            logs: [LogId(1)].into(),
        };
        let found = Found::from([(infos[1].name, superseded)]);
        let limits = Limits {
            superseded_percent,
            ..LIMITS
        };
        plan(&infos, (&lives, &found), &limits)
    }

    #[test]
    fn a_fifth_that_is_superseded_is_enough_and_a_record_is_if_somebody_asked() {
        let wanted = planned(200, 0, SUPERSEDED_PERCENT).expect("it is worth it");
        assert_eq!((wanted.base, wanted.next), (Index(10), Index(20)));
        assert_eq!(wanted.compacted, [LogId(1)].into());
        assert!(!wanted.gone.is_empty());
        assert_eq!(planned(199, 0, SUPERSEDED_PERCENT), None);
        assert!(planned(1, 0, 0).is_some());
    }

    #[test]
    fn what_would_take_more_is_rewritten_only_if_somebody_asked_and_if_it_fits() {
        assert!(planned(300, 299, SUPERSEDED_PERCENT).is_some());
        assert_eq!(planned(300, 300, SUPERSEDED_PERCENT), None);
        assert!(planned(300, 9_000, 0).is_some());
        assert!(planned(300, LIVE_BYTES_MAX - 700, 0).is_some());
        assert_eq!(planned(300, LIVE_BYTES_MAX - 699, 0), None);
    }

    #[test]
    fn no_more_batches_are_merged_than_a_node_has_memory_for() {
        let planned = |rows| {
            let (mut infos, lives) = segments(&[(1000, 300, false); 3]);
            infos.iter_mut().for_each(|one| one.rows = rows);
            let plan = plan(&infos, (&lives, &Found::new()), &LIMITS);
            plan.map(|plan| (plan.base.0, plan.next.0))
        };
        let of_each = BATCHES_MAX * 10 / 3;
        assert_eq!(planned(of_each / 3), Some((0, 30)));
        assert_eq!(planned(of_each / 3 + 10), Some((0, 20)));
        assert_eq!(
            planned(of_each * 9),
            Some((0, 10)),
            "one alone cannot be cut"
        );
    }

    #[test]
    fn small_ones_merge_and_nothing_else_does() {
        let small = [(50, 50, true); SMALL_MIN];
        assert_eq!(ranges(&small), Some((0, 10 * SMALL_MIN as u64)));
        assert_eq!(ranges(&small[1..]), None);
        assert_eq!(ranges(&[(50, 50, false); SMALL_MIN]), None, "as appended");
        assert_eq!(
            ranges(&[(90, 90, true); SMALL_MIN]),
            None,
            "over half a segment"
        );
    }

    #[test]
    fn what_is_damaged_or_ended_by_itself_stays() {
        let (mut infos, lives) = segments(&[(1000, 100, false); 3]);
        infos[0].damaged = true;
        infos[1].rolled = false;
        let plan = plan(&infos, (&lives, &Found::new()), &LIMITS).unwrap();
        assert_eq!((plan.base.0, plan.next.0, plan.sealed_ms), (20, 30, 2));
        assert_eq!(plan.firsts[&LogId(1)], Offset(2));
    }
}
