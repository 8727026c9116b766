//! Finds, on the leader, which records of compacted logs later ones of their keys stand for.
//!
//! A look at all keys reads all records of compacted logs. So it begins only once sealed segments have grown by a share
//! since the last one, when somebody asks for it, or when tombstones are old enough to go. What it finds, `rewriting`
//! puts into its plans.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::log::{
    Bounds, InSegment, Index, Left, LogId, Search, SegmentInfo, SegmentName, Superseded,
};
use crate::raft::entry::catalog::Compaction;
use crate::raft::error::Error;
use crate::raft::home::blocking::on_disk;
use crate::raft::peer::fetch;
use crate::raft::write::rolls;

use super::Upkeep;
use super::rewriting::pace;

/// Between two looks at whether there is something to look for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two tries after a failure, and two questions whether all nodes have done what was decided.
const AGAIN: Duration = Duration::from_secs(10);
/// A look begins once sealed segments hold this part more than what was left by the last one; and the open segment is ended
/// for it once that holds as much, and this part of a full one.
const GROWTH_SHARE: u64 = 4;
const OPEN_SHARE: u64 = 8;

/// What the last look found.
#[derive(Debug, Default)]
pub struct Searched {
    /// What of each segment is superseded.
    pub found: BTreeMap<SegmentName, InSegment>,
    /// Counts the looks.
    pub number: u64,
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
    /// How the logs were compacted then.
    how: BTreeMap<LogId, Compaction>,
    /// How far a look is that is under way, in percent: no run is decided on until it ends, since that would take segments
    /// away from it.
    pub looked_percent: Option<u32>,
    /// The latest entry that had asked for one.
    asked: Index,
    /// Whether all that was found is to go, however little: somebody asked for it.
    pub is_asked: bool,
    tombstones: Left,
    /// The segments that were looked at, if all nodes had the same.
    agreed: Option<Vec<u8>>,
    /// When the nodes were asked last.
    compared: Option<Instant>,
}

impl Searched {
    /// Takes over what a look found.
    fn take(&mut self, search: &mut Search, wanted: &Wanted, agreed: Option<Vec<u8>>) {
        self.found = search.found();
        self.number += 1;
        self.before = search.before();
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
            || (self.is_asked && self.agreed.is_none())
            || search.is_cut();
        self.how = wanted.logs.clone();
        self.agreed = agreed;
        self.asked = wanted.asked;
        self.tombstones = search.left().clone();
    }

    /// Forgets what was found, if a log is not compacted any more, or in another way: that may not go now.
    fn forget_changed(&mut self, wanted: &Wanted) {
        let is_same = |(log, how): (&LogId, &Compaction)| wanted.logs.get(log) == Some(how);
        if !self.how.iter().all(is_same) {
            let number = self.number + 1;
            *self = Self {
                number,
                ..Self::default()
            };
        }
    }

    /// Takes note that no segment before this index holds a record of a compacted log.
    fn found_none(&mut self, wanted: &Wanted, before: Index) {
        (self.before, self.asked) = (before, wanted.asked);
        (self.left_bytes, self.appended_bytes) = (0, wanted.sealed_bytes);
    }

    /// Whether there is enough that is new in sealed segments, or somebody asks.
    fn is_due(&self, wanted: &Wanted, before: Index) -> bool {
        let appended = wanted.sealed_bytes.saturating_sub(self.appended_bytes);
        let has_grown = appended > 0 && appended >= self.left_bytes / GROWTH_SHARE;
        wanted.asked > self.asked || (before > self.before && has_grown)
    }

    /// Takes note of what stands in the open segment.
    fn see_open(&mut self, wanted: &mut Wanted, open: Option<&SegmentInfo>) {
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
    fn holds_enough(&self, wanted: &Wanted, segment_bytes_max: u64) -> bool {
        let open = wanted.appended_bytes.saturating_sub(wanted.sealed_bytes);
        let enough = (self.left_bytes / GROWTH_SHARE).max(segment_bytes_max / OPEN_SHARE);
        open >= enough
    }
}

/// The logs that are compacted, with how, and the latest entry that asked for it.
struct Wanted {
    logs: BTreeMap<LogId, Compaction>,
    asked: Index,
    /// The bytes that were ever appended to them, and of these the ones before the open segment, about.
    appended_bytes: u64,
    sealed_bytes: u64,
}

impl Upkeep {
    /// Looks for superseded records while this node leads. Never returns.
    pub async fn compact(&self) {
        loop {
            sleep(LOOK_EVERY).await;
            if let Err(error) = self.compact_once().await {
                tracing::warn!(%error, "superseded records were not looked for; it is tried again");
                sleep(AGAIN).await;
            }
        }
    }

    fn compacted(&self) -> Wanted {
        self.node.state.read(|fsm| {
            let mut wanted = Wanted {
                logs: BTreeMap::new(),
                asked: Index(0),
                appended_bytes: 0,
                sealed_bytes: 0,
            };
            for (log, how, known) in fsm.logs.compacted() {
                wanted.logs.insert(log, how);
                wanted.asked = wanted.asked.max(known.compaction_asked);
                wanted.appended_bytes += known.bytes;
            }
            wanted.sealed_bytes = wanted.appended_bytes;
            wanted
        })
    }

    async fn compact_once(&self) -> Result<(), Error> {
        let mut wanted = self.compacted();
        if wanted.logs.is_empty() || !self.node.view().writable {
            *self.searched.lock() = Searched::default();
            return Ok(());
        }
        if wanted.asked > self.searched.lock().asked && !self.is_sealed_to(wanted.asked).await {
            return Ok(());
        }
        let segments = self.node.log.segments();
        let is_sealed = |one: &&SegmentInfo| one.next_position.is_some();
        let sealed: Vec<_> = segments.iter().take_while(is_sealed).collect();
        let is_enough = {
            let mut searched = self.searched.lock();
            searched.see_open(&mut wanted, segments.get(sealed.len()));
            searched.holds_enough(&wanted, self.node.log.segment_bytes_max())
        };
        // One that is ended waits for its seal.
        let is_open = segments.len() == sealed.len() + 1;
        let since = self.node.log.to_roll().filter(|_| is_enough && is_open);
        if let Some(since) = since
            && rolls::end_segment(&self.node, since).await
        {
            return Ok(());
        }
        let (Some(first), Some(last)) = (sealed.first(), sealed.last()) else {
            return Ok(());
        };
        // A run that is yet to be rewritten would take segments away from the look.
        if self.due().is_some() {
            return Ok(());
        }
        self.searched.lock().forget_changed(&wanted);
        let is_due = self.searched.lock().is_due(&wanted, last.next_index);
        if !is_due && !self.may_have_old_tombstones(&wanted) {
            return Ok(());
        }
        // From here on this node decides on no run: the members are asked about the segments that are looked at.
        self.searched.lock().looked_percent = Some(0);
        let looked = self
            .look_for_superseded(&wanted, (first.base, last.next_index), is_due)
            .await;
        self.searched.lock().looked_percent = None;
        looked
    }

    async fn look_for_superseded(
        &self,
        wanted: &Wanted,
        range: (Index, Index),
        is_due: bool,
    ) -> Result<(), Error> {
        let agreed = self.agreed(range).await;
        if !is_due && !self.are_tombstones_due(wanted, agreed.as_deref()) {
            return Ok(());
        }
        let superseded = Superseded {
            logs: self.bounds(wanted, agreed.is_some()),
            before: range.1,
        };
        let Some(search) = self.node.log.search(&superseded) else {
            self.searched.lock().found_none(wanted, range.1);
            return Ok(());
        };
        let now = self.node.log.digest_of_names(range.0, range.1);
        if agreed
            .as_deref()
            .is_some_and(|agreed| now.as_ref().map(|now| &now[..]) != Some(agreed))
        {
            return Ok(());
        }
        let began = Instant::now();
        let Some(mut search) = self.looked(search).await? else {
            return Ok(());
        };
        let (records, ms) = (search.records(), began.elapsed().as_millis());
        tracing::info!(
            records,
            ms,
            logs = wanted.logs.len(),
            "looked for superseded records"
        );
        self.searched.lock().take(&mut search, wanted, agreed);
        Ok(())
    }

    /// Takes a look to its end; `None` if this node leads no more.
    async fn looked(&self, mut search: Search) -> Result<Option<Search>, Error> {
        loop {
            let (back, read) = on_disk(move || {
                let read = search.step()?;
                Ok::<_, Error>((search, read))
            })
            .await?;
            search = back;
            self.searched.lock().looked_percent = Some(search.percent());
            match read {
                Some(bytes) => sleep(pace(bytes as u64)).await,
                None => return Ok(Some(search)),
            }
            if !self.node.view().writable {
                return Ok(None);
            }
        }
    }

    /// Whether the segments with all entries up to this one are sealed; if one is open, it is ended.
    async fn is_sealed_to(&self, index: Index) -> bool {
        let segments = self.node.log.segments();
        let open = segments.iter().find(|one| one.next_position.is_none());
        if open.is_none_or(|open| open.base > index) {
            return true;
        }
        if let Some(since) = self.node.log.to_roll() {
            rolls::end_segment(&self.node, since).await;
        }
        false
    }

    fn bounds(&self, wanted: &Wanted, do_tombstones_go: bool) -> BTreeMap<LogId, Bounds> {
        let old_before_ms = self.old_before_ms();
        let of = |(log, how): (&LogId, &Compaction)| {
            let before_ms = match how.min_age_ms {
                0 => u64::MAX,
                age_ms => old_before_ms(age_ms),
            };
            let tombstones_before_ms = match do_tombstones_go {
                true => old_before_ms(how.tombstone_ms),
                false => 0,
            };
            let bounds = Bounds {
                before_ms,
                tombstones_before_ms,
            };
            (*log, bounds)
        };
        wanted.logs.iter().map(of).collect()
    }

    /// Whether tombstones stayed that may go by now, as far as this node can tell by itself.
    fn may_have_old_tombstones(&self, wanted: &Wanted) -> bool {
        let searched = self.searched.lock();
        if searched.compared.is_some_and(|last| last.elapsed() < AGAIN) {
            return false;
        }
        searched.tombstones.is_held_back || self.is_one_old(&searched.tombstones, wanted)
    }

    fn is_one_old(&self, left: &Left, wanted: &Wanted) -> bool {
        let old_before_ms = self.old_before_ms();
        left.tombstones.iter().any(|(log, time_ms)| {
            let how = wanted.logs.get(log);
            how.is_some_and(|how| *time_ms < old_before_ms(how.tombstone_ms))
        })
    }

    /// The same, once it is known whether all nodes have the same segments.
    fn are_tombstones_due(&self, wanted: &Wanted, agreed: Option<&[u8]>) -> bool {
        let searched = self.searched.lock();
        let Some(agreed) = agreed else {
            return false;
        };
        let has_changed = searched.agreed.as_deref() != Some(agreed);
        self.is_one_old(&searched.tombstones, wanted)
            || (searched.tombstones.is_held_back && has_changed)
    }

    /// The segments with these entries, if every member has the same. A tombstone may go only then: on a node that has not
    /// given up an older record of its key, that one would come back to life.
    async fn agreed(&self, range: (Index, Index)) -> Option<Vec<u8>> {
        self.searched.lock().compared = Some(Instant::now());
        let digest = self.node.log.digest_of_names(range.0, range.1)?;
        for mut peer in self.peers() {
            match fetch::holds_same(&mut peer, range, &digest).await {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    tracing::debug!(%error, "tombstones stay: a node does not say what it holds");
                    return None;
                }
            }
        }
        Some(digest.to_vec())
    }
}

/// The logs of which records go with these segments.
pub fn logs_of<'a>(found: impl Iterator<Item = &'a InSegment>) -> BTreeSet<LogId> {
    found.flat_map(|one| one.logs.iter().copied()).collect()
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
            let enough = searched.holds_enough(&wanted, SEGMENT);
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
            searched.is_due(&wanted, Index(before))
        };
        assert!(!is_due(100_999, 20));
        assert!(is_due(101_000, 20));
        assert!(!is_due(101_000, 10), "nothing more was sealed");
    }
}
