//! Finds, on the leader, which records of compacted logs later ones of their keys stand for.
//!
//! A look at all keys reads all records of compacted logs. So it begins only once sealed segments have grown by a share
//! since the last one, when somebody asks for it, or when tombstones are old enough to go; and not before `rewriting` has
//! put into its plans what the last one found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::live::Live as Setting;
use crate::log::{Bounds, InSegment, Index, Left, LogId, Search, SegmentInfo, Superseded};
use crate::raft::entry::catalog::Compaction;
use crate::raft::entry::command::Command;
use crate::raft::error::Error;
use crate::raft::home::blocking::on_disk;
use crate::raft::peer::fetch;
use crate::raft::write::rolls;

use super::Upkeep;
use super::rewriting::{BYTES_PER_SECOND, rest};
use super::searched::{GROWTH_PERCENT, Wanted};
use super::worth::idle_percent;

/// Between two looks at whether there is something to look for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two tries after a failure, and two questions whether all nodes have done what was decided.
const AGAIN: Duration = Duration::from_secs(10);

impl Upkeep {
    /// Looks for superseded records while this node leads, unless no segment is rewritten. Never returns.
    pub async fn compact(&self, dead_percent: Setting<u64>) {
        loop {
            sleep(LOOK_EVERY).await;
            if let Err(error) = self.compact_once(&dead_percent).await {
                tracing::warn!(%error, "superseded records were not looked for; it is tried again");
                sleep(AGAIN).await;
            }
        }
    }

    pub(super) fn compacted(&self) -> Wanted {
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

    async fn compact_once(&self, dead_percent: &Setting<u64>) -> Result<(), Error> {
        let are_rewritten = dead_percent.get() > 0;
        let mut wanted = self.compacted();
        {
            let mut searched = self.searched.lock();
            searched.is_off = !are_rewritten;
            if wanted.logs.is_empty() || !self.node.view().writable {
                searched.forget();
                return Ok(());
            }
        }
        if !are_rewritten {
            return Ok(());
        }
        if self.searched.lock().is_served(&wanted) {
            self.propose(Command::Compacted(wanted.asked)).await;
            return Ok(());
        }
        if wanted.asked > self.searched.lock().asked && !self.is_sealed_to(wanted.asked).await {
            return Ok(());
        }
        let segments = self.node.log.segments();
        let is_sealed = |one: &&SegmentInfo| one.next_position.is_some();
        let sealed: Vec<_> = segments.iter().take_while(is_sealed).collect();
        let growth_percent = match self.is_idle.load(Ordering::Relaxed) {
            true => idle_percent(GROWTH_PERCENT),
            false => GROWTH_PERCENT,
        };
        let is_enough = {
            let mut searched = self.searched.lock();
            searched.see_open(&mut wanted, segments.get(sealed.len()));
            searched.holds_enough(&wanted, growth_percent, self.node.log.segment_bytes_max())
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
            let begins = self.node.log.first_base();
            self.searched.lock().found_none(&wanted, begins);
            return Ok(());
        };
        // A run that is yet to be rewritten would take segments away from the look.
        if !self.due_now().is_empty() {
            return Ok(());
        }
        let is_due = {
            let mut searched = self.searched.lock();
            searched.forget_changed(&wanted);
            if !searched.is_used_up() {
                return Ok(());
            }
            searched.is_due(&wanted, last.next_index, growth_percent)
                || searched.is_more_to_say(&segments)
        };
        if !is_due && !self.may_have_old_tombstones(&wanted) {
            return Ok(());
        }
        // From here on this node decides on no run: the members are asked about the segments that are looked at.
        self.searched.lock().looked_percent = Some(0);
        let looked = self
            .look_for_superseded(&wanted, (first.base, last.next_index), is_due, dead_percent)
            .await;
        self.searched.lock().looked_percent = None;
        looked
    }

    async fn look_for_superseded(
        &self,
        wanted: &Wanted,
        range: (Index, Index),
        is_due: bool,
        dead_percent: &Setting<u64>,
    ) -> Result<(), Error> {
        let agreed = self.agreed(range).await;
        if !is_due && !self.are_tombstones_due(wanted, agreed.as_deref()) {
            return Ok(());
        }
        let superseded = Superseded {
            logs: self.bounds(wanted, agreed.is_some()),
            before: range.1,
            keys: self.searched.lock().keys,
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
        let Some(mut search) = self.looked(search, dead_percent).await? else {
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

    /// Takes a look to its end; `None` if this node leads no more, or is not to rewrite any more.
    async fn looked(
        &self,
        mut search: Search,
        dead_percent: &Setting<u64>,
    ) -> Result<Option<Search>, Error> {
        loop {
            let began = Instant::now();
            let (back, read) = on_disk(move || {
                let read = search.step()?;
                Ok::<_, Error>((search, read))
            })
            .await?;
            search = back;
            self.searched.lock().looked_percent = Some(search.percent());
            match read {
                Some(bytes) => sleep(rest(bytes as u64, began.elapsed(), BYTES_PER_SECOND)).await,
                None => return Ok(Some(search)),
            }
            if !self.node.view().writable || dead_percent.get() == 0 {
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
