//! The log: raft entries in segmented store files, and the records of many logs in them.
//!
//! One copy of each record serves two masters. Raft appends, reads and cuts entries by index; the
//! finite-state machine publishes the records of committed entries, each under the next position of all
//! and the next offset of its log, and readers read those. Appends go to disk through one writer (`write/`); rows of the index are written
//! by [`Log::publish`] alone. The log knows nothing of raft's rules, of networks or of futures.
//!
//! Its rooms, each of which stands on those before it: `format` (what is in the files), `segment`
//! (one store and its index), `write` (the writer), `open` (what a start finds); then the handle and
//! what it does itself: append, read, truncate; and on the handle `upkeep` (seal, trim, mend, copy).
//! `inspect` looks at the files without opening the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

mod append;
mod compaction;
mod config;
mod damage;
mod error;
mod format;
mod index_maps;
mod inspect;
mod numbers;
mod open;
mod read;
mod records;
mod remains;
mod segment;
mod state;
mod truncate;
mod upkeep;
mod write;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

#[cfg(test)]
mod tests;

pub use compaction::{
    Bounds, GONE_BYTES_MAX, Gone, GoneWriter, InSegment, Left, Search, Superseded,
};
pub use config::{Config, IoDelay, STORE_BYTES_MAX};
pub use error::Error;
pub use format::file_header::VERSION as FORMAT_VERSION;
pub use format::files::SegmentName;
pub use format::frame::{Entry, Kind};
pub use format::log_set::LogSet;
pub use format::record::{self, Record};
pub use format::seal::{Seal, TermEnd};
pub use inspect::{dump, verify};
pub use numbers::{AllEnds, Ends, Floor, Index, LogId, NUMBER_MAX, Offset, Position, Term};
pub use open::recovery::Checkpoint;
pub use records::{Course, Found, Read, Stretch, Wanted};
pub use segment::Damage;
pub use upkeep::copies::{Placed, SegmentCopy, adopt_files, is_copied, remove_copy};
pub use upkeep::kept_rows::KeptRows;
pub use upkeep::live::{Live, RewriteSize};
pub use upkeep::repair::Damaged;
pub use upkeep::rewrite::{Rewrite, Rewriting, Rewritten};
pub use upkeep::rewritten_copy::RewrittenCopy;
pub use upkeep::scrub::Scrub;
pub use upkeep::trim::{Pin, SegmentInfo};
pub use write::io::{Done, Job, Withdrawn};
pub use write::writer::Counts;

use crate::disk::Disk;
use format::files;
use format::row::Row;
use open::recovery::{self, LogDirectory};
use remains::Remains;
use segment::Segment;
use segment::handles::Handles;
use segment::index_file::IndexFile;
use state::LogState;
use write::io::{Queue, Request};
use write::making::{self, Maker};

/// Records of one batch that were accepted: a part of an entry's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The log that they are appended to.
    pub log: LogId,
    /// The offset that the first gets there.
    pub first: Offset,
    /// Where the batch begins in the payload.
    pub at: u32,
    /// What its row says of the batch, to be known again: [`record::Batch::check`].
    pub check: u32,
    /// How many records.
    pub count: u32,
}

impl Run {
    /// A batch without its first `known` records, from this offset on.
    pub fn of(batch: &record::Batch<'_>, known: u32, first: Offset) -> Self {
        Self {
            log: batch.log,
            first,
            at: u32::try_from(batch.at).expect("payloads are limited on append"),
            check: batch.check(known),
            count: batch.count - known,
        }
    }
}

/// How a log was found on opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Whether the rows up to the checkpoint hold. If not, apply every entry again.
    pub rows_hold: bool,
    /// Bytes of a torn tail that were cut.
    pub torn_bytes: u64,
    /// Bytes of stores that were read: those of segments without a seal.
    pub read_bytes: u64,
    /// Segments found.
    pub segments: usize,
    /// How many of them are sealed.
    pub sealed: usize,
}

/// Removes the log in `dir`, if there is one, and leaves other files alone.
pub fn remove(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    making::remove_left(disk, dir)?;
    let names = files::names(disk, dir)?;
    files::remove_all(disk, dir, names.iter())
}

/// A handle to the log; clones share it.
#[derive(Debug, Clone)]
pub struct Log(Arc<LogParts>);

#[derive(Debug)]
struct LogParts {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    config: Config,
    queue: Queue,
    handles: Arc<Handles>,
    state: RwLock<LogState>,
    /// Held by what changes files other than by appending: sealing, trimming, repair, adoption.
    upkeep: Mutex<()>,
    remains: Remains,
}

impl Log {
    /// Opens the log in `dir`, or makes an empty one there. The directory must exist.
    ///
    /// Entries below `floor` are gone, or go now; a log without entries begins there.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: Config,
        floor: Floor,
        checkpoint: Option<Checkpoint>,
    ) -> Result<(Self, Opened), Error> {
        let handles = Handles::new(disk.clone(), config.files_max);
        let directory = LogDirectory {
            disk: &*disk,
            dir,
            config: &config,
            handles: &handles,
        };
        making::remove_left(&*disk, dir)?;
        let found = recovery::recover(&directory, floor, checkpoint.as_ref())?;
        let is_sealed = |segment: &&Segment| segment.seal().is_some();
        let opened = Opened {
            rows_hold: found.rows_hold,
            torn_bytes: found.torn_bytes,
            read_bytes: found.read_bytes,
            segments: found.segments.len(),
            sealed: found.segments.iter().filter(is_sealed).count(),
        };
        let state = LogState::new(found, checkpoint.as_ref());
        let maker = Maker::new(disk.clone(), dir, &config);
        let queue = Queue::start(maker, state.next_index(), &config)?;
        let shared = LogParts {
            dir: dir.to_owned(),
            disk,
            config,
            queue,
            handles,
            state: RwLock::new(state),
            upkeep: Mutex::new(()),
            remains: Remains::default(),
        };
        Ok((Self(Arc::new(shared)), opened))
    }

    /// Runs `job` once every earlier append is durable, and before any later one is written.
    pub fn run_after_appends(&self, job: Job, done: Done) {
        self.0.queue.push(Request::Run(job, done));
    }

    /// Withdraws the appends that are not written yet: none of them is from when `told` is called on, which gets their
    /// callbacks, in order. A snapshot is about to take the place of what they would be written to.
    pub fn withdraw_appends(&self, told: Withdrawn) {
        self.0.queue.push(Request::Withdraw(told));
    }

    /// Gives the records of a committed entry their positions and lets readers see them: `runs` are
    /// the accepted parts of its payload, in order. Gives the first position.
    ///
    /// Entries are published in the order of their indexes; a control entry has no runs.
    pub fn publish(&self, index: Index, runs: &[Run]) -> Result<Position, Error> {
        let mut state = self.0.state.write();
        let first = state.next_position;
        let mut next = first;
        if !runs.is_empty() {
            assert!(
                index >= state.next_publish,
                "I4: entry {index} was applied already"
            );
            let segment = state
                .segment_of(index)
                .expect("a committed entry is in the log");
            let payload_at = segment.payload_at(index).expect("it is in this segment");
            for run in runs {
                segment.publish(Row {
                    position: next,
                    index,
                    place: payload_at + run.at,
                    check: run.check,
                    log: run.log,
                    offset: run.first,
                })?;
                next = Position(next.0 + u64::from(run.count));
            }
        }
        for run in runs {
            let part = state.logs.entry(run.log).or_default();
            part.ends.next = Offset(run.first.0 + u64::from(run.count));
        }
        state.next_position = next;
        state.next_publish = Index(index.0 + 1);
        Ok(first)
    }

    /// Where a log begins and ends; `None` if it is not there.
    pub fn ends(&self, log: LogId) -> Option<Ends> {
        self.0.state.read().ends(log)
    }

    /// The first readable offset of a log, and the one that its next record gets; both 0 if it is not there.
    pub fn offsets(&self, log: LogId) -> (Offset, Offset) {
        let Ends { first, next } = self.ends(log).unwrap_or_default();
        (first, next)
    }

    /// Begins a log, with no record yet. One that is there stays as it is.
    pub fn begin(&self, log: LogId) {
        self.0.state.write().logs.entry(log).or_default();
    }

    /// Compaction may leave gaps in a log from now on, at its begin, too: there a read goes on behind them.
    pub fn may_have_gaps(&self, log: LogId) {
        self.0.state.write().compacted.insert(log);
    }

    /// Gives up all records of a log, and the log.
    pub fn forget(&self, log: LogId) {
        let mut state = self.0.state.write();
        state.logs.remove(&log);
        state.compacted.remove(&log);
        state.forgotten += 1;
        state.given_up += 1;
    }

    /// How often logs went: those who read several look for theirs when this changes.
    pub fn forgotten(&self) -> u64 {
        self.0.state.read().forgotten
    }

    /// The position of the first record held, and the one that the next record gets.
    pub fn positions(&self) -> (Position, Position) {
        let state = self.0.state.read();
        (state.first_position, state.next_position)
    }

    /// Where the log would end if all entries that it holds were published: what is not committed
    /// yet, or is not known to be, counts. At most: a batch may be refused, or known already.
    pub fn held_end(&self) -> Position {
        let state = self.0.state.read();
        let from = state.next_publish;
        // A sealed one is published whole.
        let open = state.segments.iter().rev();
        let open = open.take_while(|segment| segment.next_index() > from);
        let beyond = open.map(|segment| segment.positions_from(from));
        Position(state.next_position.0.saturating_add(beyond.sum()))
    }

    /// The last entry's term and index.
    pub fn last(&self) -> Option<(Term, Index)> {
        let state = self.0.state.read();
        let last = state.segments.back()?.next_index().0.checked_sub(1)?;
        (last >= state.first_entry().0).then_some((state.last_term, Index(last)))
    }

    /// The raft index that the next entry gets.
    pub fn next_index(&self) -> Index {
        self.0.state.read().next_index()
    }

    /// The first raft index held, or the one that the first entry will get.
    pub fn first_entry(&self) -> Index {
        self.0.state.read().first_entry()
    }

    /// The raft index at which the first segment begins. A rewritten one holds no entries, so [`Self::first_entry`] is behind
    /// it.
    pub fn first_base(&self) -> Index {
        self.0.state.read().first_base()
    }

    /// The size of a segment's store, in bytes, for those who decide what one holds.
    pub fn segment_bytes_max(&self) -> u64 {
        self.0.config.segment_bytes_max.into()
    }

    /// The first raft index that is not durable yet.
    pub fn durable(&self) -> Index {
        self.0.queue.durable()
    }

    /// What its writer counts.
    pub fn counts(&self) -> &Arc<Counts> {
        self.0.queue.counts()
    }

    /// Tries again what waits for room: to be called now and then.
    pub fn look_for_room(&self) {
        self.0.queue.look_for_room();
    }

    /// Makes the rows durable that are written by now, those of durable entries at least.
    pub fn sync_index(&self) -> Result<(), Error> {
        let mut files = Vec::new();
        let state = self.0.state.read();
        let open = |segment: &&Segment| segment.seal().is_none();
        for segment in state.segments.iter().filter(open) {
            segment.index.write_back()?;
            files.push(segment.index.file());
        }
        drop(state);
        files.iter().try_for_each(IndexFile::sync)
    }

    /// Finishes queued writes and stops the writer. The log can be read on.
    pub fn close(&self) {
        self.0.queue.close();
    }
}

impl Drop for LogParts {
    fn drop(&mut self) {
        self.queue.close();
    }
}
