//! Sealing segments that will not change, and summing up a log for a snapshot.

use std::sync::Arc;

use crate::disk::Disk;
use crate::log::format::files::Paths;
use crate::log::format::seal::{Seal, Sum};
use crate::log::open::listing;
use crate::log::segment::Segment;
use crate::log::segment::store::Store;
use crate::log::{Error, Index, Log, LogState};

/// Entries and rows that are walked under one lock: about 0.05 ms. In tests few, so that small segments take steps, too.
const SUMMED_AT_ONCE: usize = if cfg!(test) { 3 } else { 4096 };

impl Log {
    /// Whether [`Log::seal_covered`] would find something to do after a checkpoint up to `applied`.
    pub fn can_seal(&self, applied: Index) -> bool {
        self.0.state.read().next_to_seal(applied).is_some()
    }

    /// Seals the segments that take no entry more and whose entries are all covered by a durable checkpoint
    /// up to `applied`; gives how many.
    pub fn seal_covered(&self, applied: Index) -> Result<usize, Error> {
        let _upkeep = self.0.upkeep.lock();
        let mut sealed = 0;
        while self.seal_next(applied)? {
            sealed += 1;
        }
        Ok(sealed)
    }

    fn seal_next(&self, applied: Index) -> Result<bool, Error> {
        let disk: &dyn Disk = &*self.0.disk;
        let (base, end) = {
            let mut state = self.0.state.write();
            let Some(number) = state.next_to_seal(applied) else {
                return Ok(false);
            };
            if self.durable() < state.segments[number].next_index() {
                return Ok(false);
            }
            // A cut may remove the segments that follow before the seal is written.
            state.segments[number].closing = true;
            let segment = &state.segments[number];
            (segment.base(), segment.next_index())
        };
        let (seal, store) = self.sum_up(base, end)?;
        store.cut(seal.end, None)?;
        store.sync()?;
        let index = {
            let mut state = self.0.state.write();
            let segment = state.segment_of(base).expect("upkeep is held");
            segment.index.seal()?;
            segment.index.file()
        };
        index.sync()?;
        // Made of the rows in the file, and not of those in memory: nobody waits for it.
        let listed = listing::list(&index, &store, &seal)?;
        let directory = listed.ok_or_else(|| Error::Corrupt {
            path: index.path().to_owned(),
            position: 0,
            what: "the rows on disk are not those in memory",
        })?;
        let seal = seal.with(&directory);
        let path = Paths::new(&self.0.dir, base).seal;
        seal.write(disk, &path, &directory.bytes)?;
        let dir = &self.0.dir;
        disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
        let mut state = self.0.state.write();
        let segment = state.segment_of(base).expect("upkeep is held");
        segment.become_sealed(seal, &path, &self.0.handles);
        Ok(true)
    }

    /// Sums up a segment that is about to be sealed. Others get the lock in between: it may have hundreds of thousands
    /// of rows. None of them changes meanwhile, since a checkpoint covers them.
    fn sum_up(&self, base: Index, end: Index) -> Result<(Seal, Arc<Store>), Error> {
        const HELD: &str = "upkeep is held";
        let mut sum = Sum::default();
        loop {
            let state = self.0.state.read();
            let number = state.segment_number(base).expect(HELD);
            let segment = &state.segments[number];
            if segment.sum_some(&mut sum, end, SUMMED_AT_ONCE)? {
                return Ok((state.summed_up(number, sum)?, segment.store.clone()));
            }
        }
    }

    /// What a snapshot of the entries before `to` consists of: a seal for each segment, the last
    /// one cut where the snapshot ends. All of them must be applied.
    pub fn manifest(&self, to: Index) -> Result<Vec<Seal>, Error> {
        let state = self.0.state.read();
        assert!(
            to <= state.next_publish,
            "a snapshot covers what is applied"
        );
        let mut seals = Vec::new();
        for (number, segment) in state.segments.iter().enumerate() {
            if segment.base() >= to {
                break;
            }
            match segment.seal() {
                Some(seal) if seal.next_index() <= to => seals.push(seal.in_manifest()),
                Some(_) => return Err(Error::Malformed("a snapshot ends inside a sealed segment")),
                None => {
                    let mut sum = Sum::default();
                    segment.sum_some(&mut sum, to.min(segment.next_index()), usize::MAX)?;
                    seals.push(state.summed_up(number, sum)?);
                }
            }
        }
        Ok(seals)
    }
}

impl LogState {
    /// The seal of what was walked of a segment.
    fn summed_up(&self, number: usize, sum: Sum) -> Result<Seal, Error> {
        let segment = &self.segments[number];
        let next_position = if sum.rows < segment.index.rows() {
            segment.index.row(sum.rows)?.position
        } else {
            self.end_of_rows(number)
        };
        Ok(segment.sum_up(sum, next_position, self.time_before(number)))
    }

    /// A time that no record in a segment is later than: the log's own, which the leaders agreed
    /// on, and not what this node's clock says.
    fn time_before(&self, number: usize) -> u64 {
        // After a start the last time may stand in a sealed segment.
        let earlier = self.segments.range(..number).next_back();
        let earlier = earlier.map_or(0, |segment| segment.since_ms);
        self.last_timestamp_ms.max(earlier)
    }

    /// The number of the first segment without a seal, if a checkpoint up to `applied` covers it
    /// and another one follows, or the log ended it.
    fn next_to_seal(&self, applied: Index) -> Option<usize> {
        let open = |segment: &Segment| segment.seal().is_none();
        let number = self.segments.iter().position(open)?;
        let segment = &self.segments[number];
        let ended = number + 1 < self.segments.len() || segment.roll.is_some();
        let covered = segment.next_index().0 <= applied.0 + 1;
        (ended && covered).then_some(number)
    }
}
