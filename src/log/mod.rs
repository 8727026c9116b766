//! The log: raft entries in segmented store files, and the offsets of the records in them.
//!
//! One copy of each record serves two masters. Raft appends, reads and cuts entries by index; the
//! finite-state machine publishes the records of committed entries under dense offsets, and
//! readers read those. Appends go to disk through one writer (`io`); rows of the index are written
//! by [`Log::publish`] alone. The log knows nothing of raft's rules, of networks or of futures.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

mod cut;
pub mod disk;
pub mod dump;
mod error;
mod file_header;
mod files;
mod frame;
mod gather;
mod index;
mod io;
pub mod memory_disk;
mod read;
pub mod record;
mod recovery;
mod repair;
mod room;
mod row;
mod rows;
mod rows_file;
mod seal;
mod sealing;
mod segment;
mod state;
mod store;
mod times;
mod transfer;
mod trim;
pub mod verify;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod fixture_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

pub use error::Error;
pub use frame::{Entry, Kind};
pub use io::{Done, Job};
pub use record::Record;
pub use recovery::Checkpoint;
pub use repair::{Damaged, Scrub};
pub use seal::Seal;
pub use segment::Damage;
pub use transfer::{Builder, Placed, adopt_files, is_copied, remove_copy};
pub use trim::{Pin, SegmentInfo};

use disk::Disk;
use files::Paths;
use io::{Queue, Request, Write};
use recovery::Place;
use room::Room;
use row::Row;
use rows_file::RowsFile;
use segment::Segment;
use state::State;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

quantity!(
    /// A record's place in the log: dense, from 0.
    Offset
);
quantity!(
    /// A raft entry's place in the raft log: dense, from 0. Control entries have one, too.
    Index
);
quantity!(
    /// A raft term: which leader's reign.
    Term
);

/// No raft index and no offset comes near this: a larger one, from disk or from a peer, is damage.
pub const NUMBER_MAX: u64 = u64::MAX >> 1;
/// No store file is larger, in bytes.
pub const STORE_BYTES_MAX: u32 = 1 << 30;

/// The log's limits.
#[derive(Debug, Clone)]
pub struct Config {
    /// The size of a store file, in bytes: 1 KiB to [`STORE_BYTES_MAX`].
    pub segment_bytes_max: u32,
    /// The size of an index file while it grows, in bytes; 20 a batch.
    pub index_bytes_max: usize,
    /// Payloads of recent entries kept in memory, in bytes. What is not written yet stays besides.
    pub tail_cache_bytes_max: usize,
    /// Do the IO on the caller's thread: for simulation.
    pub inline_io: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            segment_bytes_max: 64 << 20,
            index_bytes_max: 8 << 20,
            tail_cache_bytes_max: 8 << 20,
            inline_io: false,
        }
    }
}

/// Records of one batch that were accepted: a part of an entry's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Where the first record begins in the payload.
    pub skip: u32,
    /// How many records.
    pub count: u32,
}

/// Where a log begins: what lies below was given up for good, after a snapshot covered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floor {
    /// The first raft index.
    pub index: Index,
    /// The offset of the first record at or after it.
    pub offset: Offset,
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
    let bases = files::bases(disk, dir)?;
    files::remove_all(disk, dir, bases.iter())
}

/// A handle to the log; clones share it.
#[derive(Debug, Clone)]
pub struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    config: Config,
    queue: Queue,
    state: RwLock<State>,
    /// Held by what changes files other than by appending: sealing, trimming, repair, adoption.
    upkeep: Mutex<()>,
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
        let place = Place {
            disk: &*disk,
            dir,
            config: &config,
        };
        let found = recovery::recover(&place, floor, checkpoint)?;
        let is_sealed = |segment: &&Segment| segment.seal().is_some();
        let opened = Opened {
            rows_hold: found.rows_hold,
            torn_bytes: found.torn_bytes,
            read_bytes: found.read_bytes,
            segments: found.segments.len(),
            sealed: found.segments.iter().filter(is_sealed).count(),
        };
        let state = State::new(found, checkpoint);
        let queue = Queue::start(disk.clone(), state.next_index(), config.inline_io)?;
        let shared = Shared {
            dir: dir.to_owned(),
            disk,
            config,
            queue,
            state: RwLock::new(state),
            upkeep: Mutex::new(()),
        };
        Ok((Self(Arc::new(shared)), opened))
    }

    /// Appends entries. They can be read when this returns; `done` comes when they are durable.
    ///
    /// Entries follow the last one without a gap (I5). An error means that nothing was appended,
    /// and `done` is not called.
    pub fn append(&self, entries: Vec<Entry>, done: Done) -> Result<(), Error> {
        let limit = frame::PAYLOAD_BYTES_MAX;
        if let Some(large) = entries.iter().find(|entry| entry.payload.len() > limit) {
            let bytes = large.payload.len();
            return Err(Error::TooLarge { bytes, limit });
        }
        let crcs: Vec<_> = entries.iter().map(frame::entry_crc).collect();
        let mut state = self.0.state.write();
        let (first, term) = (state.next_index(), state.last_term);
        let mut writes = Vec::with_capacity(entries.len());
        for (entry, crc) in entries.into_iter().zip(crcs) {
            assert_eq!(entry.index, state.next_index(), "I5: gap in the raft log");
            match self.place(&mut state, entry, crc) {
                Ok(write) => writes.push(write),
                Err(error) => {
                    self.displace(&mut state, first, term);
                    return Err(error);
                }
            }
        }
        state.evict(self.0.config.tail_cache_bytes_max, self.durable());
        // Under the lock, so that the writer sees appends in the order of their indexes.
        self.0.queue.push(Request::Append(writes, done));
        Ok(())
    }

    /// Gives an entry its place in the last segment, or in a new one.
    fn place(&self, state: &mut State, entry: Entry, crc: u32) -> Result<Write, Error> {
        let fits = |segment: &Segment| segment.fits(&entry, &self.0.config);
        if !state.segments.back().is_some_and(fits) {
            let base = state.next_index();
            let bytes = frame::frame_bytes(entry.payload.len());
            let config = &self.0.config;
            let made = Segment::create(&*self.0.disk, &self.0.dir, base, config, bytes)?;
            state.segments.push_back(made);
        }
        let segment = state.segments.back_mut().expect("one was made above");
        let needs = Room::of(entry.kind, &entry.payload);
        segment.reserve(needs)?;
        let position = segment.add(entry.term, entry.payload.len(), needs, crc);
        let store = segment.store.clone();
        state.last_term = entry.term;
        if entry.kind == Kind::Records {
            let timestamp_ms = record::timestamp_ms(&entry.payload);
            segment.saw(timestamp_ms);
            state.last_timestamp_ms = state.last_timestamp_ms.max(timestamp_ms);
        }
        state.tail_bytes += entry.payload.len();
        state.tail.push_back(entry.clone());
        Ok(Write {
            store,
            position,
            entry,
            crc,
        })
    }

    /// Takes back the entries from `first` on, none of which was handed to the writer.
    fn displace(&self, state: &mut State, first: Index, term: Term) {
        while let Some(made) = state
            .segments
            .pop_back_if(|segment| segment.base() >= first)
        {
            let paths = Paths::new(&self.0.dir, made.base());
            for path in paths.all() {
                // They hold nothing; what stays is found empty on the next start.
                let _ = self.0.disk.remove(path);
            }
        }
        if let Some(last) = state.segments.back_mut() {
            last.forget_from(first);
        }
        state.forget_tail(first);
        state.last_term = term;
    }

    /// Runs `job` once every earlier append is durable, and before any later one is written.
    pub fn run_after_appends(&self, job: Job, done: Done) {
        self.0.queue.push(Request::Run(job, done));
    }

    /// Gives the records of a committed entry their offsets and lets readers see them: `runs` are
    /// the accepted parts of its payload, in order. Gives the first offset.
    ///
    /// Entries are published in the order of their indexes; a control entry has no runs.
    pub fn publish(&self, index: Index, runs: &[Run]) -> Result<Offset, Error> {
        let mut state = self.0.state.write();
        let first = state.next_offset;
        let mut next = first;
        if !runs.is_empty() {
            assert!(
                index >= state.next_publish,
                "I4: entry {index} was applied already"
            );
            let segment = state
                .segment_of(index)
                .expect("a committed entry is in the log");
            let position = segment.position(index).expect("it is in this segment");
            for run in runs {
                segment.publish(Row {
                    offset: next,
                    index,
                    position,
                    skip: run.skip,
                })?;
                next = Offset(next.0 + u64::from(run.count));
            }
        }
        state.next_offset = next;
        state.next_publish = Index(index.0 + 1);
        Ok(first)
    }

    /// The first readable offset, and the one that the next record gets.
    pub fn offsets(&self) -> (Offset, Offset) {
        let state = self.0.state.read();
        (state.first_offset, state.next_offset)
    }

    /// Where the log would end if all entries that it holds were published: what is not committed
    /// yet, or is not known to be, counts. At most: a batch may be refused, or known already.
    pub fn held_end(&self) -> Offset {
        let state = self.0.state.read();
        let from = state.next_publish;
        // A sealed one is published whole.
        let open = state.segments.iter().rev();
        let open = open.take_while(|segment| segment.next_index() > from);
        let beyond = open.map(|segment| segment.offsets_from(from));
        Offset(state.next_offset.0.saturating_add(beyond.sum()))
    }

    /// The last entry's term and index.
    pub fn last(&self) -> Option<(Term, Index)> {
        let state = self.0.state.read();
        let last = state.segments.back()?.next_index().0.checked_sub(1)?;
        (last >= state.first_index().0).then_some((state.last_term, Index(last)))
    }

    /// The raft index that the next entry gets.
    pub fn next_index(&self) -> Index {
        self.0.state.read().next_index()
    }

    /// The first raft index held, or the one that the first entry will get.
    pub fn first_index(&self) -> Index {
        self.0.state.read().first_index()
    }

    /// The first raft index that is not durable yet.
    pub fn durable(&self) -> Index {
        self.0.queue.durable()
    }

    /// Makes the rows durable that are written by now.
    pub fn sync_index(&self) -> Result<(), Error> {
        let mut files = Vec::new();
        let state = self.0.state.read();
        let open = |segment: &&Segment| segment.seal().is_none();
        for segment in state.segments.iter().filter(open) {
            segment.index.write_back()?;
            files.push(segment.index.file());
        }
        drop(state);
        files.iter().try_for_each(RowsFile::sync)
    }

    /// Finishes queued writes and stops the writer. The log can be read on.
    pub fn close(&self) {
        self.0.queue.close();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue.close();
    }
}
