//! A rewritten segment takes the place of those that it stands for.

use std::path::Path;
use std::sync::Arc;

use super::rewrite::{Rewrite, Rewritten};
use crate::log::format::files::{self, Paths, SegmentName};
use crate::log::format::seal::Seal;
use crate::log::open::recovery::{self, LogDirectory};
use crate::log::segment::Segment;
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
        self.take_place((first, rewritten.of.len()), &paths, seal.clone())?;
        Ok(true)
    }

    /// Has another node's copy of a rewritten segment, in `from`, take the place of those that it stands for: one of them
    /// is damaged and no other node has it any more, or this node cannot rewrite them. False if segments end elsewhere
    /// here, or one is pinned.
    ///
    /// As with [`Self::swap`], a checkpoint is durable that covers the entry which says what lives.
    pub fn take_over(&self, seal: &Seal, from: &Path) -> Result<bool, Error> {
        let _upkeep = self.0.upkeep.lock();
        let (disk, dir, name) = (&*self.0.disk, &self.0.dir, seal.name());
        let Some((first, count)) = self.0.state.read().stood_for(seal) else {
            return Ok(false);
        };
        let (source, target) = (Paths::new(from, name), Paths::new(dir, name));
        // What the other node says of it does not tell which logs it holds: readers of these would pass it over. So the
        // copy's own seal is what counts, and is read before anything is moved.
        let seal = Seal::read(disk, &source.seal, name)?.ok_or_else(|| Error::Corrupt {
            path: source.seal.clone(),
            position: 0,
            what: "the seal of a copy cannot be read",
        })?;
        self.forget_rewritten(name)?;
        let moved = |source, target| {
            let done = disk.rename(source, target);
            done.map_err(Error::io("move", source))
        };
        moved(&source.store, &target.store)?;
        moved(&source.index, &target.index)?;
        disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
        moved(&source.seal, &target.seal)?;
        // From here on it counts.
        disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
        disk.sync_dir(from).map_err(Error::io("sync", from))?;
        self.take_place((first, count), &target, seal)?;
        Ok(true)
    }

    /// Removes what was written to take the place of others.
    ///
    /// # Errors
    ///
    /// As those of removing files.
    pub fn forget_rewriting(&self, rewritten: &Rewritten) -> Result<(), Error> {
        let _upkeep = self.0.upkeep.lock();
        self.forget_rewritten(rewritten.seal.name())
    }

    /// Removes what was written, unless the log holds a segment of this name: a snapshot may have brought it meanwhile. The
    /// seal goes first, and for good: with it alone a start would take the rest for whole. The caller holds upkeep's lock,
    /// as whoever adopts a snapshot does.
    pub(super) fn forget_rewritten(&self, name: SegmentName) -> Result<(), Error> {
        if self.has_segment(name) {
            return Ok(());
        }
        let (disk, dir) = (&*self.0.disk, &self.0.dir);
        let Paths { store, index, seal } = Paths::new(dir, name);
        files::remove_files(disk, dir, std::iter::once(seal))?;
        files::remove_files(disk, dir, [store, index].into_iter())
    }

    /// Opens a rewritten segment that counts in the place of so many from number `first` on, and removes these.
    fn take_place(
        &self,
        (first, count): (usize, usize),
        paths: &Paths,
        seal: Seal,
    ) -> Result<(), Error> {
        let (disk, dir) = (&*self.0.disk, &self.0.dir);
        let directory = LogDirectory {
            disk,
            dir,
            config: &self.0.config,
            handles: &self.0.handles,
        };
        let segment = recovery::open_sealed(&directory, paths, seal)?;
        let (gone, stores): (Vec<_>, Vec<_>) = {
            let mut state = self.0.state.write();
            let of = state.segments.range(first..first + count);
            let of = of.map(|segment| (segment.name(), segment.store.clone()));
            let gone = of.unzip();
            state.swap(first, segment);
            gone
        };
        self.remove_segments(&gone, stores)
    }

    /// Whether what was to be rewritten is, or was rewritten again, or begins before this log does: then it cannot be
    /// any more.
    pub fn is_rewritten(&self, plan: &Rewrite) -> bool {
        let state = self.0.state.read();
        if plan.base < state.first_base() {
            return true;
        }
        let number = state.segment_number(plan.base);
        let name = number.map(|number| state.segments[number].name());
        name.is_some_and(|name| name.rewritten.is_some_and(|at| at >= plan.at))
    }

    /// Whether what another node made of these segments may take their place, though they may not be what it was made of
    /// there: this node ended one of them by itself.
    pub fn may_take_over(&self, plan: &Rewrite) -> bool {
        let state = self.0.state.read();
        let standing = state.standing(plan.base, plan.next);
        standing.is_some_and(|(_, of)| of.iter().all(|held| held.rewritten < Some(plan.at)))
    }

    /// Whether [`Self::take_over`] would have another node's segment take the place of some, as it looks now.
    pub fn fits(&self, seal: &Seal) -> bool {
        self.0.state.read().stood_for(seal).is_some()
    }

    /// Whether somebody keeps segments before an index from being replaced.
    pub fn is_pinned_before(&self, index: Index) -> bool {
        self.0.state.read().is_pinned_before(index)
    }

    /// The last entry that rewritten segments stand for, by its term and raft index; `None` without one. Entries up to it
    /// are not here any more.
    pub fn rewritten_to(&self) -> Option<(Term, Index)> {
        let state = self.0.state.read();
        let last = state.rewritten_to.0.checked_sub(1).map(Index)?;
        // It was trimmed away.
        (last >= state.first_base()).then_some(())?;
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
            held.push(now.in_manifest());
        }
        held
    }
}

impl LogState {
    /// The number of the first segment that a rewritten one was made of, if all of them stand there still.
    fn place_of(&self, rewritten: &Rewritten) -> Option<usize> {
        let first = self.segment_number(rewritten.seal.base)?;
        let next = rewritten.seal.next_index();
        let is_pinned = self.is_pinned_before(next);
        let mut held = self.segments.range(first..);
        let is_same = |of: &Arc<Store>| {
            let segment = held.next();
            segment.is_some_and(|segment| Arc::ptr_eq(&segment.store, of))
        };
        (!is_pinned && rewritten.of.iter().all(is_same)).then_some(first)
    }

    /// Which segments a rewritten one of another node stands for: the number of the first, and how many. `None` if they
    /// end elsewhere here, were rewritten by a later entry, or are pinned.
    fn stood_for(&self, seal: &Seal) -> Option<(usize, usize)> {
        let (first, of) = self.standing(seal.base, seal.next_index())?;
        let is_same = of.first()?.first_position == seal.first_position
            && of.last()?.next_position == seal.next_position;
        let is_later = of.iter().all(|held| held.rewritten < seal.rewritten);
        let may_be = is_same && is_later && !self.is_pinned_before(seal.next_index());
        may_be.then_some((first, of.len()))
    }

    /// The sealed segments that hold just the entries from `base` to before `next`, and the number of the first.
    fn standing(&self, base: Index, next: Index) -> Option<(usize, Vec<&Arc<Seal>>)> {
        let first = self.segment_number(base)?;
        let held = self.segments.range(first..);
        let held = held.take_while(|segment| segment.base() < next);
        let of: Vec<_> = held.map(Segment::seal).collect::<Option<_>>()?;
        let is_all = (of.first()?.base, of.last()?.next_index()) == (base, next);
        is_all.then_some((first, of))
    }

    fn is_pinned_before(&self, index: Index) -> bool {
        self.pins.iter().any(|pinned| *pinned < index)
    }
}
