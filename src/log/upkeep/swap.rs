//! A rewritten segment takes the place of those that it stands for.

use std::sync::Arc;

use super::rewrite::{Rewrite, Rewritten};
use crate::log::format::files::{self, Paths};
use crate::log::format::seal::Seal;
use crate::log::open::recovery::{self, LogDirectory};
use crate::log::segment::store::Store;
use crate::log::{Error, Index, Log, LogState, Term};

impl Log {
    /// Has a rewritten segment take the place of those that it was made of, for good; false, and it is gone, if one of
    /// them is not what it was or is pinned. Whoever reads the old ones looks again.
    ///
    /// The caller has made a checkpoint durable that covers the entry which says what lives: a start must not take what
    /// is gone for living.
    pub fn swap(&self, rewritten: &Rewritten) -> Result<bool, Error> {
        let _upkeep = self.0.upkeep.lock();
        let (disk, dir) = (&*self.0.disk, &self.0.dir);
        let (seal, name) = (&rewritten.seal, rewritten.seal.name());
        let place = self.0.state.read().place_of(rewritten);
        let Some(first) = place else {
            self.forget_rewritten(name)?;
            return Ok(false);
        };
        let paths = Paths::new(dir, name);
        disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
        seal.write(disk, &paths.seal, &rewritten.directory.bytes)?;
        // From here on it counts.
        disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
        let directory = LogDirectory {
            disk,
            dir,
            config: &self.0.config,
            handles: &self.0.handles,
        };
        let segment = recovery::open_sealed(&directory, &paths, seal.clone())?;
        let gone: Vec<_> = {
            let mut state = self.0.state.write();
            let of = state.segments.range(first..first + rewritten.of.len());
            let gone = of.map(|segment| segment.name()).collect();
            state.swap(first, segment);
            gone
        };
        gone.iter().for_each(|name| self.forget_files(*name));
        files::remove_all(disk, dir, gone.iter())?;
        // A read that began before may have opened one anew, which would keep its room on the disk.
        gone.iter().for_each(|name| self.forget_files(*name));
        Ok(true)
    }

    /// Whether what was to be rewritten is, or was rewritten again, or is here no more.
    pub fn is_rewritten(&self, plan: &Rewrite) -> bool {
        let state = self.0.state.read();
        if plan.next <= state.first_index() {
            return true;
        }
        let number = state.segment_number(plan.base);
        let name = number.map(|number| state.segments[number].name());
        name.is_some_and(|name| name.rewritten.is_some_and(|at| at >= plan.at))
    }

    /// The last entry that rewritten segments stand for, by its term and raft index; `None` without one. Entries up to it
    /// are not here any more.
    pub fn rewritten_to(&self) -> Option<(Term, Index)> {
        let state = self.0.state.read();
        let last = state.rewritten_to.0.checked_sub(1).map(Index)?;
        // It was trimmed away.
        (last >= state.first_index()).then_some(())?;
        Some((state.term_of(last)?, last))
    }

    /// What stands in the place of these segments now, in a manifest of what a snapshot covers.
    pub fn as_rewritten(&self, seals: &[Seal]) -> Vec<Seal> {
        let state = self.0.state.read();
        let mut held = Vec::with_capacity(seals.len());
        let mut passed = Index(0);
        for seal in seals {
            if seal.base < passed {
                continue;
            }
            let number = state.segment_number(seal.base);
            let now = number.and_then(|number| state.segments[number].seal());
            let now = now.filter(|now| now.base == seal.base && now.rewritten.is_some());
            let now = now.map_or(seal, |now| now);
            passed = now.next_index();
            held.push(now.clone());
        }
        held
    }
}

impl LogState {
    /// The number of the first segment that a rewritten one was made of, if all of them stand there still.
    fn place_of(&self, rewritten: &Rewritten) -> Option<usize> {
        let first = self.segment_number(rewritten.seal.base)?;
        let next = rewritten.seal.next_index();
        let is_pinned = self.pins.iter().any(|pinned| *pinned < next);
        let mut held = self.segments.range(first..);
        let is_same = |of: &Arc<Store>| {
            let segment = held.next();
            segment.is_some_and(|segment| Arc::ptr_eq(&segment.store, of))
        };
        (!is_pinned && rewritten.of.iter().all(is_same)).then_some(first)
    }
}
