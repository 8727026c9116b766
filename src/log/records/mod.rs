//! Reading records by their offset: first where they stand is looked up, then they are read.
//!
//! Between the two, a reader can take room for the records: the look tells how many bytes they are, and holds none.
//! The lock is held for the look, in memory and in mapped rows, never while a store is read. Every batch is
//! checked before it is handed out, and no other with it. A sealed segment that does not check is marked, and waits for repair.

mod course;
mod find;
mod rows;
mod source;
mod stretch;

pub use course::{Course, Wanted};
pub use stretch::Stretch;

use bytes::Bytes;

use super::damage::of_directory;
use super::format::files::SegmentName;
use super::format::record::{self, Record, Stored};
use super::format::row::Row;
use super::index_maps::Looked;
use super::{Ends, Error, Log, LogId, Offset, Position};
use source::{Failed, Source};

/// Where records stand.
pub struct Found {
    /// Their segment.
    segment: SegmentName,
    source: Source,
    parts: Vec<Part>,
    /// Whether compaction may have removed records between them.
    may_leave_gaps: bool,
    rest: Rest,
}

/// What comes behind what was found.
enum Rest {
    /// The next records of a log, of which those from this offset on were asked for.
    Log(LogId, Offset),
    /// These runs of the same segment.
    Parts(Vec<Part>),
}

/// Records as they are kept, in order: of each batch, those that were asked for are the ones from
/// [`Stored::from`] on.
#[derive(Debug, Default)]
pub struct Read {
    pub stored: Vec<Stored>,
    /// The bytes that they keep in memory: those that were read with them, or of whole entries in memory.
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

/// A run of records.
#[derive(Debug, Clone, Copy)]
struct Part {
    row: Row,
    /// A place in the store that its batch does not reach beyond.
    end: u32,
    /// The position behind the last record.
    next: Position,
    /// The offset of the first record that is wanted.
    from: Offset,
}

impl Found {
    /// Whether reading them waits for no disk.
    pub fn in_memory(&self) -> bool {
        self.source.in_memory()
    }

    /// The bytes that reading them brings into memory.
    pub fn bytes(&self) -> usize {
        self.source.bytes()
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
            // It is marked by those who may wait, and looked past.
            Err(error) if of_directory(&error).is_some() => Ok(None),
            Err(error) => self.found(log, offset, Err(error)).map(Some),
        }
    }

    /// Where the records of a log from `offset` on stand, about `bytes_max` bytes of them: at least one record, the one
    /// at `offset` or, where compaction removed that, the next one that lives. The one after the last is an error, as
    /// any other that is not there.
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
            let looked = self.0.state.read().looked(log);
            let error = match looked {
                Some(segment) => self.note_bad_rows(segment, error),
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
        let (mut budget, mut segment) = (bytes_max.max(1), found.segment);
        let mut rest = self.read_first(found, &mut budget, &mut read)?;
        while budget > 0 {
            // Records before a damage are whole: hand them out.
            let Ok(Some(found)) = self.find_rest(segment, rest, budget, &read) else {
                break;
            };
            let is_as_fast = found.in_memory() || !from_memory;
            if !is_as_fast || found.bytes() > budget {
                break;
            }
            segment = found.segment;
            let Ok(next) = self.read_one(found, &mut budget, &mut read) else {
                break;
            };
            rest = next;
        }
        Ok(read)
    }

    /// Where what follows stands; `None` if nothing does.
    fn find_rest(
        &self,
        segment: SegmentName,
        rest: Rest,
        budget: usize,
        read: &Read,
    ) -> Result<Option<Found>, Error> {
        match (rest, read.stored.last()) {
            (Rest::Log(log, _), Some(last)) => self.find(log, last.next(), budget).map(Some),
            (Rest::Log(..), None) => Ok(None),
            (Rest::Parts(parts), _) => self.find_parts(segment, &parts, budget),
        }
    }

    /// The same of what was found first. If a rewritten segment came in the place of the one that it was found in, it is
    /// looked for once more: nobody's read fails over that.
    fn read_first(&self, found: Found, budget: &mut usize, read: &mut Read) -> Result<Rest, Error> {
        let Rest::Log(log, at) = found.rest else {
            return self.read_one(found, budget, read);
        };
        let mut found = found;
        loop {
            let (segment, wanted) = (found.segment, *budget);
            let error = match self.read_one(found, budget, read) {
                Ok(rest) => return Ok(rest),
                Err(error) => error,
            };
            let is_trimmed = self.ends(log).is_none_or(|ends| at < ends.first);
            if is_trimmed || self.has_segment(segment) {
                return Err(error);
            }
            found = self.find(log, at, wanted)?;
        }
    }

    /// Reads what was found, as far as the budget goes, which it makes smaller; gives what comes behind it.
    fn read_one(&self, found: Found, budget: &mut usize, read: &mut Read) -> Result<Rest, Error> {
        let (segment, rest, bytes) = (found.segment, found.rest, found.source.bytes());
        let known = read.stored.len();
        read.stored.reserve(found.parts.len());
        let mut taker = Taker {
            next: found.parts.first().map_or(Offset(0), |first| first.from),
            is_first: true,
            is_one_log: matches!(rest, Rest::Log(..)),
            may_leave_gaps: found.may_leave_gaps,
            budget: *budget,
            out: &mut read.stored,
        };
        let kept = found.source.read(&found.parts, &mut taker);
        *budget = taker.budget;
        let failed = match kept {
            Ok(kept) => {
                read.kept_bytes += kept;
                return Ok(rest);
            }
            Err(failed) => failed,
        };
        // A trim may have taken the file away, or a segment with what lives of it have come in its place.
        let is_gone = matches!(rest, Rest::Parts(_)) && !self.has_segment(segment);
        let error = match failed {
            Failed::Store(..) if is_gone => return Ok(Rest::Parts(Vec::new())),
            Failed::Store(store, error) => self.note_damage(&store, error),
            Failed::Rows(error) => self.note_bad_rows(segment, error),
        };
        if read.stored.len() > known {
            // Records before a damage are whole: hand them out.
            read.kept_bytes += bytes;
            *budget = 0;
            return Ok(rest);
        }
        match rest {
            Rest::Log(log, at) => Err(self.unless_trimmed(log, at, error)),
            Rest::Parts(_) => Err(error),
        }
    }

    /// Records of a log from `offset` on, of about `bytes_max` bytes: at least one.
    pub fn read(&self, log: LogId, offset: Offset, bytes_max: usize) -> Result<Vec<Record>, Error> {
        let found = self.find(log, offset, bytes_max)?;
        let segment = found.segment;
        let read = self.read_found(found, bytes_max)?;
        let (mut records, mut budget) = (Vec::new(), bytes_max.max(1));
        for part in read.stored {
            let left = part.read_into(part.from, budget, &mut records);
            budget = match left {
                Ok(left) => left,
                Err(_) if !records.is_empty() => break,
                Err(error) => return Err(self.note_bad_rows(segment, error)),
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
                // Behind what compaction removed, the next one may be beyond it.
                high = stored.first.min(middle).max(low);
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

/// Takes the records of runs, in order, as far as its budget goes. Those of one log hold the record that was asked for
/// and go on from there without a gap, but for what compaction removed from a rewritten segment.
struct Taker<'a> {
    /// The offset that comes next, of one log.
    next: Offset,
    is_first: bool,
    is_one_log: bool,
    may_leave_gaps: bool,
    budget: usize,
    out: &'a mut Vec<Stored>,
}

impl Taker<'_> {
    fn has_enough(&self) -> bool {
        self.budget == 0
    }

    /// Takes the records of a run out of its batch, which these bytes begin with.
    fn take(&mut self, batch: &Bytes, part: &Part) -> Result<(), Error> {
        const MISMATCH: Error = Error::Malformed("a row names no records");
        // A row without a record would make a reader loop for ever.
        let count = part.next.0.checked_sub(part.row.position.0);
        let Some(count) = count.filter(|count| *count > 0) else {
            return Err(MISMATCH);
        };
        let stored = record::stored(batch, &part.row, count)?;
        let begins = stored.first == self.next
            || (self.is_first && stored.first < self.next)
            || (self.may_leave_gaps && stored.first > self.next);
        if self.is_one_log && (!begins || stored.next() <= self.next) {
            return Err(Error::Malformed("rows that follow each other leave a gap"));
        }
        (self.next, self.is_first) = (stored.next(), false);
        // Many small records take more memory than their bytes.
        let taken = stored.bytes.len() + size_of::<Stored>();
        self.budget = self.budget.saturating_sub(taken);
        let from = part.from;
        self.out.push(Stored { from, ..stored });
        Ok(())
    }
}
