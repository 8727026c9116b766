//! How many bytes of a sealed segment live: those of the batches of which a record may still be read.

use std::sync::Arc;

use crate::log::format::seal::Seal;
use crate::log::index_maps::Looked;
use crate::log::segment::Segment;
use crate::log::segment::store::Store;
use crate::log::{Error, Index, Log, LogId, LogState, Offset};

/// Logs that are looked at before appends have a turn.
const LOGS_AT_ONCE: usize = 1024;

/// What lives of a sealed segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// Bytes of batches of which a record lives.
    pub bytes: u64,
    /// Of all batches.
    pub of_bytes: u64,
    /// Logs of which records are gone, with where they begin; a deleted one begins behind all offsets.
    pub firsts: Vec<(LogId, Offset)>,
}

/// A log of which a part of a segment's records lives.
struct Part {
    log: LogId,
    first: Offset,
}

impl Log {
    /// What lives of the sealed segment that begins at a raft index; `None` if there is none, or it waits for repair.
    /// Reads the heads of batches where a log begins inside of it.
    pub fn live(&self, base: Index) -> Result<Option<Live>, Error> {
        let Some((seal, store)) = self.0.state.read().sealed_whole(base) else {
            return Ok(None);
        };
        let logs: Vec<_> = seal.logs.iter().filter(|log| *log != LogId::GONE).collect();
        let (mut live, mut parts) = (Live::default(), Vec::new());
        for logs in logs.chunks(LOGS_AT_ONCE) {
            let seen = self.with_directories(|state| state.add_live(&seal, logs));
            let Some((some, begun)) = seen? else {
                return Ok(None);
            };
            live.bytes += some.bytes;
            live.of_bytes += some.of_bytes;
            live.firsts.extend(some.firsts);
            parts.extend(begun);
        }
        for part in parts {
            let places = self.with_directories(|state| state.places_from(&seal, &part));
            let Some(places) = places? else {
                return Ok(None);
            };
            let mut lengths = store.lengths(seal.end)?;
            for place in places {
                live.bytes += u64::from(lengths.of(place)?);
            }
        }
        Ok(Some(live))
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

    /// Adds up some logs of a segment; those of which a part lives come apart. `None` if the segment went.
    #[allow(clippy::type_complexity, reason = "two lists, and that there are none")]
    fn add_live(
        &self,
        seal: &Arc<Seal>,
        logs: &[LogId],
    ) -> Result<Looked<Option<(Live, Vec<Part>)>>, Error> {
        let segment = match self.listed_of(seal) {
            Looked::Found(Some(segment)) => segment,
            Looked::Found(None) => return Ok(Looked::Found(None)),
            Looked::Needs(lazy) => return Ok(Looked::Needs(lazy)),
        };
        let (mut live, mut parts) = (Live::default(), Vec::new());
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
            live.of_bytes += u64::from(listed.bytes);
            if first <= listed.first {
                live.bytes += u64::from(listed.bytes);
                continue;
            }
            live.firsts.push((*log, first));
            if first < listed.next {
                parts.push(Part { log: *log, first });
            }
        }
        Ok(Looked::Found(Some((live, parts))))
    }

    /// The places of a log's batches from the one on that holds its first record.
    fn places_from(
        &self,
        seal: &Arc<Seal>,
        part: &Part,
    ) -> Result<Looked<Option<Vec<u32>>>, Error> {
        let segment = match self.listed_of(seal) {
            Looked::Found(Some(segment)) => segment,
            Looked::Found(None) => return Ok(Looked::Found(None)),
            Looked::Needs(lazy) => return Ok(Looked::Needs(lazy)),
        };
        let rows = segment.index.directory();
        let rows = rows
            .map(|directory| directory.rows_of(part.log))
            .transpose()?;
        let Some(rows) = rows.flatten() else {
            return Ok(Looked::Found(Some(Vec::new())));
        };
        let Some((found, _)) = segment.index.find_in(&rows, part.first)? else {
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
