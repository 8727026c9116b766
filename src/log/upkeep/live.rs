//! How many bytes of a sealed segment live: those of the batches of which a record may still be read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::log::format::seal::Seal;
use crate::log::index_maps::Looked;
use crate::log::segment::Segment;
use crate::log::segment::store::Store;
use crate::log::{Error, Index, Log, LogId, LogState, Offset, Rewrite};

/// Logs that are looked at before appends have a turn.
const LOGS_AT_ONCE: usize = 1024;

/// What lives of a sealed segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// Bytes of batches of which a record lives.
    pub bytes: u64,
    /// Of all batches.
    pub of_bytes: u64,
    /// Logs of which a rewriting gives up records, with where they begin; a deleted one begins behind all offsets.
    pub firsts: Vec<(LogId, Offset)>,
}

/// What a rewriting comes to, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RewriteSize {
    /// What lives of the batches, about.
    pub lives: u64,
    /// What all batches take.
    pub holds: u64,
}

/// What a segment holds of a log.
#[derive(Debug, Clone, Copy)]
struct OfLog {
    log: LogId,
    /// The bytes of its batches, and of those of which a record lives.
    of_bytes: u64,
    bytes: u64,
    /// Where the log begins, if records of it are gone here.
    first: Option<Offset>,
    /// Whether it begins in the midst of the segment: then its batches are still to be looked at.
    is_cut: bool,
    /// Whether compaction may have removed records of it, or is to.
    has_gaps: bool,
}

impl RewriteSize {
    /// What is written, about, for what lives: each batch has a row, and perhaps one for a gap behind it, and what tells its
    /// place.
    pub fn takes(&self) -> u64 {
        self.lives + self.lives / 2
    }
}

impl Log {
    /// What a rewriting would write, and remove; `None` if this log cannot do it. Records that compaction removes are taken
    /// to be of the same size as the others of their segment.
    ///
    /// # Errors
    ///
    /// As those of reading files.
    pub fn rewrite_size(&self, plan: &Rewrite) -> Result<Option<RewriteSize>, Error> {
        let (mut at, mut size, mut gone) = (plan.base, RewriteSize::default(), plan.gone.runs());
        while at < plan.next {
            let seal = {
                let state = self.0.state.read();
                let number = state.segment_number(at);
                let seal = number.and_then(|number| state.segments[number].seal());
                seal.filter(|seal| seal.base == at).cloned()
            };
            let (Some(seal), Some(live)) = (seal, self.live(at)?) else {
                return Ok(None);
            };
            let mut within = seal.first_position.0..seal.next_position.0;
            let (all, mut stay) = (within.end.saturating_sub(within.start), 0);
            while let Some(run) = gone.next_living(&mut within)? {
                stay += run.end - run.start;
            }
            let share = |bytes: u64| u128::from(bytes) * u128::from(stay) / u128::from(all.max(1));
            size.lives += share(live.bytes) as u64;
            size.holds += live.of_bytes;
            at = seal.next_index();
        }
        Ok(Some(size))
    }

    /// What lives of the sealed segment that begins at a raft index; `None` if there is none, or it waits for repair.
    /// Reads the heads of batches where a log begins inside of it.
    pub fn live(&self, base: Index) -> Result<Option<Live>, Error> {
        let Some((seal, store)) = self.0.state.read().sealed_whole(base) else {
            return Ok(None);
        };
        // All segments are looked at, one after the other.
        let _visit = self.visit(base);
        let logs: Vec<_> = seal.logs.iter().filter(|log| *log != LogId::GONE).collect();
        let mut live = Live::default();
        for logs in logs.chunks(LOGS_AT_ONCE) {
            let Some(some) = self.held_of(&seal, &store, logs)? else {
                return Ok(None);
            };
            live.bytes += some.iter().map(|of| of.bytes).sum::<u64>();
            live.of_bytes += some.iter().map(|of| of.of_bytes).sum::<u64>();
            // A batch of which a record lives stays whole, where compaction does not cut it.
            let gives = |of: &&OfLog| of.bytes < of.of_bytes || of.has_gaps;
            let gives = some.iter().filter(gives);
            let firsts = gives.filter_map(|of| Some((of.log, of.first?)));
            live.firsts.extend(firsts);
        }
        Ok(Some(live))
    }

    /// The bytes that batches of these logs take in sealed segments, those of which a record lives. Segments that wait
    /// for repair are not counted.
    ///
    /// # Errors
    ///
    /// As those of reading files.
    pub fn stored_bytes(&self, logs: &BTreeSet<LogId>) -> Result<BTreeMap<LogId, u64>, Error> {
        let bases = self.segments().into_iter().map(|segment| segment.base);
        let mut bytes: BTreeMap<_, _> = logs.iter().map(|log| (*log, 0)).collect();
        for base in bases {
            let Some((seal, store)) = self.0.state.read().sealed_whole(base) else {
                continue;
            };
            let here = logs.iter().filter(|log| seal.logs.contains(**log));
            let here: Vec<_> = here.copied().collect();
            for here in here.chunks(LOGS_AT_ONCE) {
                let held = self.held_of(&seal, &store, here)?.unwrap_or_default();
                for of in held {
                    *bytes.entry(of.log).or_default() += of.bytes;
                }
            }
        }
        Ok(bytes)
    }

    /// What a segment holds of some logs; `None` if it went, or waits for repair.
    fn held_of(
        &self,
        seal: &Seal,
        store: &Store,
        logs: &[LogId],
    ) -> Result<Option<Vec<OfLog>>, Error> {
        let Some(mut held) = self.with_directories(|state| state.listed_in(seal, logs))? else {
            return Ok(None);
        };
        for of in held.iter_mut().filter(|of| of.is_cut) {
            let places = self.with_directories(|state| state.places_from(seal, of))?;
            let Some(places) = places else {
                return Ok(None);
            };
            let mut lengths = store.lengths(seal.end)?;
            for place in places {
                of.bytes += u64::from(lengths.of(place)?);
            }
        }
        Ok(Some(held))
    }
}

impl LogState {
    fn sealed_whole(&self, base: Index) -> Option<(Arc<Seal>, Arc<Store>)> {
        let segment = &self.segments[self.segment_number(base)?];
        let seal = segment.seal().filter(|seal| seal.base == base)?;
        (segment.damage.is_none()).then(|| (seal.clone(), segment.store.clone()))
    }

    /// The segment of a seal, if it is there and whole, with its directory.
    fn listed_of(&self, seal: &Seal) -> Looked<Option<&Segment>> {
        let number = self.segment_number(seal.base);
        let segment = number.map(|number| &self.segments[number]);
        let segment = segment.filter(|segment| segment.name() == seal.name());
        let segment = segment.filter(|segment| segment.damage.is_none());
        match segment.and_then(|segment| segment.index.undirected()) {
            Some(lazy) => Looked::Needs(lazy),
            None => Looked::Found(segment),
        }
    }

    /// What a directory says of some logs; `None` if the segment went.
    fn listed_in(&self, seal: &Seal, logs: &[LogId]) -> Result<Looked<Option<Vec<OfLog>>>, Error> {
        let segment = match self.listed_of(seal) {
            Looked::Found(Some(segment)) => segment,
            Looked::Found(None) => return Ok(Looked::Found(None)),
            Looked::Needs(lazy) => return Ok(Looked::Needs(lazy)),
        };
        let mut held = Vec::with_capacity(logs.len());
        for log in logs {
            let listed = segment.index.directory();
            let listed = listed
                .map(|directory| directory.listing(*log))
                .transpose()?;
            let Some(listed) = listed.flatten() else {
                continue;
            };
            let ends = self.ends(*log);
            let first = ends.map_or(Offset(u64::MAX), |ends| ends.first);
            let (of_bytes, is_whole) = (u64::from(listed.bytes), first <= listed.first);
            held.push(OfLog {
                log: *log,
                of_bytes,
                bytes: if is_whole { of_bytes } else { 0 },
                first: (!is_whole).then_some(first),
                is_cut: !is_whole && first < listed.next,
                has_gaps: !is_whole && self.may_have_gaps(*log),
            });
        }
        Ok(Looked::Found(Some(held)))
    }

    /// The places of a log's batches from the one on that holds its first record.
    fn places_from(&self, seal: &Seal, of: &OfLog) -> Result<Looked<Option<Vec<u32>>>, Error> {
        let segment = match self.listed_of(seal) {
            Looked::Found(Some(segment)) => segment,
            Looked::Found(None) => return Ok(Looked::Found(None)),
            Looked::Needs(lazy) => return Ok(Looked::Needs(lazy)),
        };
        let rows = segment.index.directory();
        let rows = rows
            .map(|directory| directory.rows_of(of.log))
            .transpose()?;
        let Some(rows) = rows.flatten() else {
            return Ok(Looked::Found(Some(Vec::new())));
        };
        let Some((found, _)) = segment.index.find_in(&rows, of.first.unwrap_or_default())? else {
            return Ok(Looked::Found(Some(Vec::new())));
        };
        let mut places = vec![found.row.place];
        for at in found.at + 1..rows.len() {
            let number = rows.number(at)?;
            let number = number.ok_or(Error::Malformed("a log has fewer rows"))?;
            places.push(segment.index.row_of(&rows, number)?.place);
        }
        Ok(Looked::Found(Some(places)))
    }
}
