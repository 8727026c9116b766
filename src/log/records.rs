//! Reading records by their offset: first where they stand is looked up, then they are read.
//!
//! Between the two, a reader can take room for the records: the look tells how many bytes they are, and holds none.
//! The lock is held for the look, in memory and in mapped rows, never while a store is read. Every byte is
//! checked before it is handed out. A sealed segment that does not check is marked, and waits for repair.

use super::format::frame::{Entry, Kind};
use super::format::record::{self, Record, Stored};
use super::format::row::Row;
use super::index_maps::Looked;
use super::read::Source;
use super::state::LogPart;
use super::{Ends, Error, Index, Log, LogId, Offset, Position};

/// Where records stand.
pub struct Found {
    pub(super) log: LogId,
    /// The offset that was asked for.
    pub(super) at: Offset,
    /// The first raft index of their segment.
    pub(super) base: Index,
    pub(super) source: Source,
    pub(super) parts: Vec<Part>,
}

/// Records as they are kept, side by side: the first may hold records before the offset that was asked for.
#[derive(Debug, Default)]
pub struct Read {
    pub stored: Vec<Stored>,
    /// The bytes that they keep in memory: those of whole frames.
    pub kept_bytes: usize,
}

impl Read {
    /// The bytes of the records, and of what holds them.
    pub fn bytes(&self) -> usize {
        let parts = self.stored.iter();
        let bytes = parts.map(|part| part.bytes.len() + size_of::<Stored>());
        bytes.sum()
    }
}

/// A run of records: its row, and the position behind it.
pub(super) struct Part {
    pub(super) row: Row,
    pub(super) next: Position,
}

impl Found {
    /// Whether reading them waits for no disk.
    pub fn in_memory(&self) -> bool {
        matches!(self.source, Source::Memory(_))
    }

    /// The bytes that reading them brings into memory.
    pub fn bytes(&self) -> usize {
        match &self.source {
            Source::Memory(_) => 0,
            Source::Disk(_, span) => span.length,
        }
    }
}

impl Log {
    /// Where the records of a log from `offset` on stand, if that can be told without a look at the disk: `None`
    /// if an index must be mapped first.
    pub fn find_now(
        &self,
        log: LogId,
        offset: Offset,
        bytes_max: usize,
    ) -> Result<Option<Found>, Error> {
        let looked = self.0.state.read().find(log, offset, bytes_max);
        match looked {
            Ok(Looked::Needs(_)) => Ok(None),
            Ok(Looked::Found(found)) => self.found(log, offset, Ok(found)).map(Some),
            Err(error) => self.found(log, offset, Err(error)).map(Some),
        }
    }

    /// Where the records of a log from `offset` on stand, about `bytes_max` bytes of them: at least one record.
    /// The one after the last is an error, as any other that is not there.
    pub fn find(&self, log: LogId, offset: Offset, bytes_max: usize) -> Result<Found, Error> {
        let found = self.with_directories(|state| state.find(log, offset, bytes_max));
        self.found(log, offset, found)
    }

    fn found(
        &self,
        log: LogId,
        at: Offset,
        found: Result<Option<Found>, Error>,
    ) -> Result<Found, Error> {
        let found = found.map_err(|error| {
            let base = self.0.state.read().logs.get(&log).map(LogPart::looked);
            let error = match base {
                Some(base) => self.note_bad_rows(base, error),
                None => error,
            };
            self.unless_trimmed(log, at, error)
        })?;
        found.ok_or_else(|| {
            let Ends { first, next } = self.ends(log).unwrap_or_default();
            let asked = at;
            Error::OutOfRange { asked, first, next }
        })
    }

    /// Reads what was found, and what follows it as far as it is not more than `bytes_max` together.
    pub fn read_found(&self, found: Found, bytes_max: usize) -> Result<Read, Error> {
        let from_memory = found.in_memory();
        let mut read = Read::default();
        let mut budget = self.read_one(found, bytes_max.max(1), &mut read)?;
        while budget > 0 {
            let Some((log, next)) = read.stored.last().map(|last| (last.log, last.next())) else {
                break;
            };
            // Records before a damage are whole: hand them out.
            let Ok(found) = self.find(log, next, budget) else {
                break;
            };
            let is_as_fast = found.in_memory() || !from_memory;
            if !is_as_fast || found.bytes() > budget {
                break;
            }
            let Ok(left) = self.read_one(found, budget, &mut read) else {
                break;
            };
            budget = left;
        }
        Ok(read)
    }

    /// Reads what was found; gives what is left of the budget.
    fn read_one(&self, found: Found, mut budget: usize, read: &mut Read) -> Result<usize, Error> {
        let (log, at, base) = (found.log, found.at, found.base);
        let frames = match found.source {
            Source::Memory(entries) => entries,
            Source::Disk(store, span) => store
                .entries(span)
                .map_err(|error| self.unless_trimmed(log, at, self.note_damage(&store, error)))?,
        };
        let mut frames_left = &frames[..];
        let stored = found.parts.iter();
        let stored = stored.map(|part| stored_in(&mut frames_left, part));
        let stored: Result<Vec<_>, _> = stored.collect();
        let stored = stored
            .and_then(|stored| side_by_side(stored, at))
            .map_err(|error| self.note_bad_rows(base, error))?;
        for part in stored {
            // Many small records take more memory than their bytes.
            budget = budget.saturating_sub(part.bytes.len() + size_of::<Stored>());
            read.stored.push(part);
            if budget == 0 {
                break;
            }
        }
        let kept = frames.iter().map(|frame| frame.payload.len());
        read.kept_bytes += kept.sum::<usize>();
        Ok(budget)
    }

    /// Records of a log from `offset` on, of about `bytes_max` bytes: at least one.
    pub fn read(&self, log: LogId, offset: Offset, bytes_max: usize) -> Result<Vec<Record>, Error> {
        let found = self.find(log, offset, bytes_max)?;
        let base = found.base;
        let read = self.read_found(found, bytes_max)?;
        let (mut records, mut budget) = (Vec::new(), bytes_max.max(1));
        for part in read.stored {
            let left = part.read_into(offset.max(part.first), budget, &mut records);
            budget = match left {
                Ok(left) => left,
                Err(_) if !records.is_empty() => break,
                Err(error) => return Err(self.note_bad_rows(base, error)),
            };
            if budget == 0 {
                break;
            }
        }
        Ok(records)
    }

    /// The latest time of the entries that were appended or found, in milliseconds since 1970; those
    /// of sealed segments may not be counted.
    pub fn last_timestamp_ms(&self) -> u64 {
        self.0.state.read().last_timestamp_ms
    }

    /// The first offset of a log whose record was taken at or after a time, in milliseconds since 1970: the
    /// next one if there is none. Times never go back along the log.
    pub fn offset_at(&self, log: LogId, timestamp_ms: u64) -> Result<Offset, Error> {
        let ends = self.ends(log).ok_or(Error::NoLog(log))?;
        let (mut low, mut high) = (ends.first, ends.next);
        while low < high {
            let middle = Offset(low.0 + (high.0 - low.0) / 2);
            let found = self.find(log, middle, 1);
            let read = match found.and_then(|found| self.read_found(found, 1)) {
                // The log was trimmed meanwhile.
                Err(Error::Trimmed { first, .. }) => {
                    low = low.max(first);
                    continue;
                }
                read => read?,
            };
            let Some(stored) = read.stored.first() else {
                break;
            };
            if stored.timestamp_ms < timestamp_ms {
                low = stored.next();
            } else {
                high = stored.first.max(low);
            }
        }
        Ok(low)
    }

    /// A file that a trim took away in the midst of a read is no failure of the log.
    fn unless_trimmed(&self, log: LogId, asked: Offset, error: Error) -> Error {
        match self.ends(log) {
            Some(Ends { first, next }) if asked < first => Error::Trimmed { asked, first, next },
            Some(_) => error,
            None => Error::NoLog(log),
        }
    }
}

/// The records of a run, out of the frames. Runs come in order: the frames before this one's are passed.
fn stored_in(frames: &mut &[Entry], part: &Part) -> Result<Stored, Error> {
    const MISMATCH: Error = Error::Malformed("a row names no records");
    let is_before = |frame: &&Entry| frame.index < part.row.index;
    let passed = frames.iter().take_while(is_before).count();
    *frames = &frames[passed..];
    let entry = frames.first().filter(|frame| frame.index == part.row.index);
    let entry = entry.ok_or(MISMATCH)?;
    // A row without a record would make a reader loop for ever.
    let count = part.next.0.checked_sub(part.row.position.0);
    let count = count.filter(|count| *count > 0).ok_or(MISMATCH)?;
    if entry.kind != Kind::Records {
        return Err(MISMATCH);
    }
    record::stored(&entry.payload, &part.row, count)
}

/// Gives back what rows led to, if it holds the record at `at` and goes on from there without a gap.
fn side_by_side(stored: Vec<Stored>, at: Offset) -> Result<Vec<Stored>, Error> {
    let mut next = at;
    for (number, part) in stored.iter().enumerate() {
        let begins = part.first == next || (number == 0 && part.first < next);
        if !begins || part.next() <= next {
            return Err(Error::Malformed("rows that follow each other leave a gap"));
        }
        next = part.next();
    }
    Ok(stored)
}
