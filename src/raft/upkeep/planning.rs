//! Which sealed segments are worth rewriting: those that give back most.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::log::{
    GONE_BYTES_MAX, GoneWriter, InSegment, Index, Live, LogId, Offset, Rewrite, RewriteSize,
    STORE_BYTES_MAX, SegmentInfo, SegmentName,
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
    /// What is to be rewritten already and is not yet: the raft indexes of these entries.
    pub due: Vec<Range<Index>>,
}

/// What lives, by segment.
pub type Lives = BTreeMap<SegmentName, RewriteSize>;

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
pub fn choose(
    sealed: &[SegmentInfo],
    known: (&Lives, &Found),
    limits: &Limits,
) -> Option<Vec<SegmentInfo>> {
    let run = best(sealed, known, limits)?;
    Some(sealed[run.from..run.to].to_vec())
}

/// What is to be rewritten of a run, of whose segments it is known what lives. A plan names a limited number of logs. A
/// run with more of them gives way to the one of its segments that gives back the largest part of what it holds. If that
/// has too many alone, the others of its logs give up their records the next time.
pub fn plan(run: &[SegmentInfo], lives: &[Live], found: &Found) -> Option<Rewrite> {
    let superseded = run.iter().filter_map(|one| found.get(&one.name));
    let mut compacted = logs_of(superseded.clone());
    let mut firsts: BTreeMap<LogId, Offset> = BTreeMap::new();
    for (log, first) in lives.iter().flat_map(|live| &live.firsts) {
        // One look is later than another: what is given up stays so.
        let known = firsts.entry(*log).or_insert(*first);
        *known = (*known).max(*first);
    }
    let is_too_many = firsts.len().max(compacted.len()) > REWRITE_LOGS_MAX;
    if is_too_many && run.len() > 1 {
        let (at, _) = run
            .iter()
            .zip(lives)
            .enumerate()
            .max_by(|(_, one), (_, other)| {
                let [(dead, of), (dead_there, of_there)] = [one, other].map(|(info, live)| {
                    let gone = found.get(&info.name).map_or(0, |one| one.bytes);
                    let dead = live
                        .of_bytes
                        .saturating_sub(live.bytes)
                        .saturating_add(gone);
                    (u128::from(dead), u128::from(live.of_bytes.max(1)))
                });
                (dead * of_there).cmp(&(dead_there * of))
            })?;
        return plan(&run[at..=at], &lives[at..=at], found);
    }
    while firsts.len() > REWRITE_LOGS_MAX {
        firsts.pop_last();
    }
    while compacted.len() > REWRITE_LOGS_MAX {
        compacted.pop_last();
    }
    let mut gone = GoneWriter::default();
    for one in superseded {
        gone.extend(&one.gone).ok()?;
    }
    Some(Rewrite {
        base: run.first()?.base,
        next: run.last()?.next_index,
        of: run.iter().map(|one| one.name.rewritten).collect(),
        sealed_ms: run.iter().map(|one| one.since_ms).max()?,
        firsts,
        compacted,
        gone: gone.finish(),
        ..Rewrite::default()
    })
}

fn best(sealed: &[SegmentInfo], (lives, found): (&Lives, &Found), limits: &Limits) -> Option<Run> {
    let mut best: Option<Run> = None;
    // The first ones of which nothing lives go by themselves, and would take the front of a run away.
    let is_dead = |one: &&SegmentInfo| lives.get(&one.name).is_some_and(|live| live.lives == 0);
    let goes = sealed.iter().take_while(is_dead).count();
    let overlaps =
        |one: &SegmentInfo, due: &Range<Index>| due.start < one.next_index && one.base < due.end;
    let is_due = |one: &SegmentInfo| limits.due.iter().any(|due| overlaps(one, due));
    for from in goes..sealed.len() {
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
            let may_be = one.rolled && !one.damaged && !is_due(one);
            let Some(live) = lives.get(&one.name).filter(|_| may_be) else {
                break;
            };
            positions += one.positions;
            rewritten += usize::from(one.name.rewritten.is_some());
            run.to += 1;
            let superseded = found.get(&one.name);
            let gone = superseded.map_or(0, |one| one.bytes.min(live.lives));
            let more = superseded.map_or(0, |one| one.more_bytes);
            said += superseded.map_or(0, |one| one.gone.bytes().len() + RUN_BYTES_MAX);
            run.live += live.lives - gone + more;
            run.bytes += live.holds;
            run.superseded += gone;
            let batches = one.rows * live.lives / live.holds.max(1);
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
        due: Vec::new(),
    };

    /// Segments of so many bytes, of which so many live; the mark says that it was rewritten before.
    pub fn segments(of: &[(u64, u64, bool)]) -> (Vec<SegmentInfo>, Lives) {
        let mut lives = Lives::new();
        let info = |(number, (bytes, live, rewritten)): (u64, &(u64, u64, bool))| {
            let base = Index(number * 10);
            let name = SegmentName {
                base,
                rewritten: rewritten.then_some(Index(5000 + number)),
            };
            let (of, holds) = (*live, *bytes);
            lives.insert(name, RewriteSize { lives: of, holds });
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

    /// The plan for what is chosen; of each segment the same logs begin where its number says.
    fn planned_of(
        sealed: &[SegmentInfo],
        (lives, found): (&Lives, &Found),
        limits: &Limits,
        logs: u32,
    ) -> Option<Rewrite> {
        let run = choose(sealed, (lives, found), limits)?;
        let live = |one: &SegmentInfo| Live {
            bytes: lives[&one.name].lives,
            of_bytes: lives[&one.name].holds,
            firsts: (0..logs)
                .map(|log| (LogId(log), Offset(one.base.0 / 10)))
                .collect(),
        };
        plan(&run, &run.iter().map(live).collect::<Vec<_>>(), found)
    }

    fn ranges(of: &[(u64, u64, bool)]) -> Option<(u64, u64)> {
        let (infos, lives) = segments(of);
        let plan = planned_of(&infos, (&lives, &Found::new()), &LIMITS, 1)?;
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
        planned_of(&infos, (&lives, &found), &limits, 2)
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
            let plan = planned_of(&infos, (&lives, &Found::new()), &LIMITS, 1);
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
    fn what_goes_by_itself_or_is_due_already_is_in_no_other_run() {
        let dead = [
            (1000, 0, false),
            (1000, 0, false),
            (1000, 400, false),
            (1000, 0, false),
        ];
        assert_eq!(ranges(&dead), Some((20, 40)), "the last one does not");
        assert_eq!(ranges(&dead[..2]), None);
        let (infos, lives) = segments(&[(1000, 300, false); 4]);
        let limits = Limits {
            due: vec![Index(14)..Index(16)],
            ..LIMITS
        };
        let plan = planned_of(&infos, (&lives, &Found::new()), &limits, 1).unwrap();
        assert_eq!((plan.base.0, plan.next.0), (20, 40));
    }

    #[test]
    fn a_plan_names_as_many_logs_as_it_can() {
        let most = REWRITE_LOGS_MAX as u32;
        let (infos, lives) =
            segments(&[(1000, 300, false), (1000, 200, false), (1000, 300, false)]);
        let planned = |logs| {
            let plan = planned_of(&infos, (&lives, &Found::new()), &LIMITS, logs).unwrap();
            (plan.base.0, plan.next.0, plan.firsts.len() as u32)
        };
        assert_eq!(planned(most), (0, 30, most));
        assert_eq!(
            planned(most + 1),
            (10, 20, most),
            "the one that gives back most"
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
        let plan = planned_of(&infos, (&lives, &Found::new()), &LIMITS, 1).unwrap();
        assert_eq!((plan.base.0, plan.next.0, plan.sealed_ms), (20, 30, 2));
        assert_eq!(plan.firsts[&LogId(0)], Offset(2));
    }
}
