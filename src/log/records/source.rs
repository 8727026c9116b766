//! Which bytes hold the batches that are wanted, and reading them.
//!
//! A batch carries its own length and checksum, so no more is read of a store than the batches themselves, and what
//! lies between two that are close together. A row tells where its batch begins; the one behind it begins where the
//! next row's does, or later frames do: it ends there at the latest.

use std::sync::Arc;

use bytes::Bytes;

use super::find::NO_ROW;
use super::{Part, Taker};
use crate::log::format::record::{self, Stored};
use crate::log::format::row::Row;
use crate::log::format::seal::MARK_EVERY;
use crate::log::read::READ_BYTES_MAX;
use crate::log::segment::Segment;
use crate::log::segment::store::Store;
use crate::log::{Error, LogState};

/// Bytes between two wanted batches that are read over: a read of its own takes as long.
const GAP_BYTES_MAX: u32 = 8 << 10;

/// Where batches are to be read from, one for each part.
pub(super) enum Source {
    /// For each what memory holds from its begin on, and the bytes of the entries that they are in.
    Memory(Vec<Bytes>, usize),
    Disk(Arc<Store>, Vec<Reach>),
}

/// Bytes of a store that are read at once, and how many of the batches are in them.
#[derive(Debug)]
pub(super) struct Reach {
    place: u32,
    end: u32,
    parts: usize,
}

/// What did not hold while batches were read.
pub(super) enum Failed {
    /// The store, or the way to it.
    Store(Arc<Store>, Error),
    /// The rows that led there.
    Rows(Error),
}

impl Source {
    /// Whether reading waits for no disk.
    pub(super) fn in_memory(&self) -> bool {
        matches!(self, Self::Memory(..))
    }

    /// The bytes that reading brings into memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Memory(..) => 0,
            Self::Disk(_, reaches) => reaches.iter().map(Reach::bytes).sum(),
        }
    }

    /// Reads the batches of these parts, checks those that come from the disk, and hands them over until the taker
    /// has enough. Gives the bytes that stay in memory with what was taken.
    pub(super) fn read(self, parts: &[Part], taker: &mut Taker<'_>) -> Result<usize, Failed> {
        match self {
            Self::Disk(store, reaches) => read(store, &reaches, parts, taker),
            Self::Memory(batches, bytes) => {
                for (batch, part) in batches.iter().zip(parts) {
                    taker.take(batch, part).map_err(Failed::Rows)?;
                    if taker.has_enough() {
                        break;
                    }
                }
                Ok(bytes)
            }
        }
    }
}

/// Reads the batches of a store, all into one piece of memory.
fn read(
    store: Arc<Store>,
    reaches: &[Reach],
    parts: &[Part],
    taker: &mut Taker<'_>,
) -> Result<usize, Failed> {
    let bytes = reaches.iter().map(Reach::bytes).sum();
    // What came before a read that failed is good.
    let (memory, filled, failed) = match reaches {
        [reach] => match store.read(reach.place, reach.bytes()) {
            Ok(memory) => (memory, 1, None),
            Err(error) => (Bytes::new(), 0, Some(error)),
        },
        _ => fill(&store, reaches, bytes),
    };
    let (mut parts, mut begins) = (parts.iter(), 0);
    for reach in &reaches[..filled] {
        for part in parts.by_ref().take(reach.parts) {
            let at = begins + (part.row.place - reach.place) as usize;
            let Some(length) = record::is_whole(&memory[at..begins + reach.bytes()]) else {
                let error = store.corrupt(part.row.place.into(), "a batch does not check");
                return Err(Failed::Store(store, error));
            };
            let batch = memory.slice(at..at + length);
            taker.take(&batch, part).map_err(Failed::Rows)?;
            if taker.has_enough() {
                return Ok(bytes);
            }
        }
        begins += reach.bytes();
    }
    match failed {
        Some(error) => Err(Failed::Store(store, error)),
        None => Ok(bytes),
    }
}

/// Reads several reaches, side by side; gives how many came, and why no more.
fn fill(store: &Store, reaches: &[Reach], bytes: usize) -> (Bytes, usize, Option<Error>) {
    let mut memory = vec![0; bytes];
    let mut rest = &mut memory[..];
    let wanted = reaches.iter().map(|reach| {
        let (part, behind) = std::mem::take(&mut rest).split_at_mut(reach.bytes());
        rest = behind;
        (reach.place, part)
    });
    let (filled, failed) = store.fill(wanted);
    (Bytes::from(memory), filled, failed)
}

impl Reach {
    fn bytes(&self) -> usize {
        (self.end - self.place) as usize
    }
}

impl LogState {
    /// Where the records of these runs of a segment stand, and which of them are read at once: about `budget`
    /// bytes.
    pub(super) fn record_source(
        &self,
        number: usize,
        wanted: impl Iterator<Item = Result<Part, Error>>,
        budget: usize,
    ) -> Result<(Source, Vec<Part>), Error> {
        let budget = budget.min(READ_BYTES_MAX);
        let (mut parts, mut taken) = (Vec::<Part>::new(), 0);
        // Rows of a rewritten segment name no entries.
        let is_rewritten = self.segments[number].is_rewritten();
        let (mut on_disk, mut is_cached) = (None, false);
        for part in wanted {
            let part = part?;
            if parts.is_empty() {
                is_cached = !is_rewritten && self.cached(part.row.index).is_some();
                on_disk = self.tail.front().filter(|_| !is_cached && !is_rewritten);
            }
            // An entry in memory may not be on this disk yet, though the other nodes committed it. A read of the
            // disk ends before it.
            if on_disk.is_some_and(|held| held.entry.index <= part.row.index) {
                break;
            }
            // Many small ones take more memory than their bytes.
            taken += part.bytes()? + size_of::<Stored>();
            parts.push(part);
            if taken >= budget {
                break;
            }
        }
        if parts.is_empty() {
            return Err(NO_ROW);
        }
        let source = match is_cached {
            true => self.cached_of(&parts)?,
            false => Source::Disk(self.segments[number].store.clone(), reaches_of(&parts)),
        };
        Ok((source, parts))
    }

    /// The batches in memory that rows name.
    fn cached_of(&self, parts: &[Part]) -> Result<Source, Error> {
        let (mut batches, mut bytes) = (Vec::with_capacity(parts.len()), 0);
        let mut last = None;
        for Part { row, .. } in parts {
            let number = self.cached(row.index).ok_or(NO_ROW)?;
            let held = &self.tail[number];
            let payload = &held.entry.payload;
            if last.replace(number) != Some(number) {
                bytes += payload.len();
            }
            let at = row.place.checked_sub(held.payload_at).ok_or(NO_ROW)? as usize;
            if at > payload.len() {
                return Err(NO_ROW);
            }
            batches.push(payload.slice(at..));
        }
        Ok(Source::Memory(batches, bytes))
    }
}

impl Part {
    /// The bytes of its batch, at most.
    fn bytes(&self) -> Result<usize, Error> {
        match self.end.checked_sub(self.row.place) {
            Some(bytes) if bytes > 0 => Ok(bytes as usize),
            _ => Err(Error::Malformed("the rows are not in order")),
        }
    }
}

/// The reads that bring in these parts, of which each ends behind its begin.
fn reaches_of(parts: &[Part]) -> Vec<Reach> {
    let mut reaches: Vec<Reach> = Vec::new();
    for Part { row, end, .. } in parts {
        match reaches.last_mut() {
            Some(last)
                if row.place >= last.place
                    && row.place <= last.end.saturating_add(GAP_BYTES_MAX) =>
            {
                last.end = last.end.max(*end);
                last.parts += 1;
            }
            _ => reaches.push(Reach {
                place: row.place,
                end: *end,
                parts: 1,
            }),
        }
    }
    reaches
}

/// A place that the batch of a segment's row does not reach beyond; `behind` is the next row of all, and `next_in_store`
/// finds the one whose batch stands next where the store holds its batches log by log.
pub(super) fn batch_end(
    segment: &Segment,
    row: &Row,
    behind: Option<&Row>,
    next_in_store: impl FnOnce() -> Option<Row>,
) -> u32 {
    // The batches of a rewritten segment stand in another order than its rows.
    let behind = behind.filter(|behind| behind.place > row.place || !segment.is_rewritten());
    let is_near = |behind: &&Row| {
        // Entries without rows may stand in between, and many of them. Where none does, a seal knows no nearer place,
        // and to look for one among its marks takes as long as to check a batch.
        let is_next = behind.index.0.saturating_sub(row.index.0) <= 1;
        let far_max = if is_next { MARK_EVERY } else { GAP_BYTES_MAX };
        let far = behind.place.checked_sub(row.place);
        far.is_some_and(|far| far <= far_max)
    };
    let end = match behind {
        Some(behind) if is_near(&behind) => behind.place,
        _ => segment
            .end_of(row.index)
            .min(behind.map_or(u32::MAX, |behind| behind.place)),
    };
    // A row that checks and still names a place behind the last frame must not take room for it.
    let end = end.min(segment.end());
    // A mark may be many batches away.
    let is_known = behind.is_some_and(|behind| behind.log == row.log);
    if !segment.is_rewritten() || is_known {
        return end;
    }
    let next = next_in_store().filter(|next| next.place > row.place);
    next.map_or(end, |next| end.min(next.place))
}
