//! The log: raft entries in segmented store files, and the offsets of the records in them.
//!
//! One copy of each record serves two masters. Raft appends, reads and cuts entries by index; the
//! finite-state machine publishes the records of committed entries under dense offsets, and
//! readers read those. Appends go to disk through one writer (`io`); rows of the index are written
//! by [`Log::publish`] alone. The log knows nothing of raft's rules, of networks or of futures.

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

pub mod disk;
mod error;
mod file_header;
mod frame;
mod index;
mod io;
pub mod memory_disk;
mod read;
pub mod record;
mod recovery;
mod segment;
mod state;
mod store;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;

pub use error::Error;
pub use frame::{Entry, Kind};
pub use io::{Done, Job};
pub use record::Record;
pub use recovery::Checkpoint;

use disk::Disk;
use index::Row;
use io::{Queue, Request, Write};
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

/// The log's limits.
#[derive(Debug, Clone)]
pub struct Config {
    /// The size of a store file, in bytes: 1 KiB to 1 GiB.
    pub segment_bytes_max: u32,
    /// The size of an index file while it grows, in bytes; 16 a batch.
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

/// How a log was found on opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Whether the rows up to the checkpoint hold. If not, apply every entry again.
    pub rows_hold: bool,
    /// Bytes of a torn tail that were cut.
    pub torn_bytes: u64,
}

/// Removes the log in `dir`, if there is one, and leaves other files alone.
pub fn remove(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    let bases = recovery::bases(disk, dir)?;
    recovery::remove_all(disk, dir, bases.iter())
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
}

impl Log {
    /// Opens the log in `dir`, or makes an empty one there. The directory must exist.
    ///
    /// Entries below `floor` may be missing; a log without entries begins there.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: Config,
        floor: Index,
        checkpoint: Option<Checkpoint>,
    ) -> Result<(Self, Opened), Error> {
        let found = recovery::recover(&*disk, dir, &config, floor, checkpoint)?;
        let opened = Opened {
            rows_hold: found.rows_hold,
            torn_bytes: found.torn_bytes,
        };
        let covered = checkpoint.filter(|_| found.rows_hold);
        let mut state = State {
            floor,
            segments: found.segments,
            tail: VecDeque::new(),
            tail_bytes: 0,
            last_term: found.last_term,
            next_offset: found.next_offset,
            next_publish: covered.map_or(Index(0), |covered| Index(covered.applied.0 + 1)),
        };
        state.seal_applied()?;
        let queue = Queue::start(disk.clone(), state.next_index(), config.inline_io)?;
        let dir = dir.to_owned();
        let state = RwLock::new(state);
        let shared = Shared {
            disk,
            dir,
            config,
            queue,
            state,
        };
        Ok((Self(Arc::new(shared)), opened))
    }

    /// Appends entries. They can be read when this returns; `done` comes when they are durable.
    ///
    /// Entries follow the last one without a gap (I5). An error means that nothing was appended,
    /// and `done` is not called.
    pub fn append(&self, entries: Vec<Entry>, done: Done) -> Result<(), Error> {
        let limit = self.0.config.segment_bytes_max as usize / 2;
        if let Some(large) = entries.iter().find(|entry| entry.payload.len() > limit) {
            let bytes = large.payload.len();
            return Err(Error::TooLarge { bytes, limit });
        }
        let mut state = self.0.state.write();
        let mut writes = Vec::with_capacity(entries.len());
        for entry in entries {
            assert_eq!(entry.index, state.next_index(), "I5: gap in the raft log");
            writes.push(self.place(&mut state, entry)?);
        }
        state.evict(self.0.config.tail_cache_bytes_max, self.durable());
        // Under the lock, so that the writer sees appends in the order of their indexes.
        self.0.queue.push(Request::Append(writes, done));
        Ok(())
    }

    /// Gives an entry its place in the last segment, or in a new one.
    fn place(&self, state: &mut State, entry: Entry) -> Result<Write, Error> {
        let fits = |segment: &Segment| segment.fits(&entry, &self.0.config);
        if !state.segments.back().is_some_and(fits) {
            let base = state.next_index();
            let made = Segment::create(&*self.0.disk, &self.0.dir, base, &self.0.config)?;
            state.segments.push_back(made);
            state.seal_applied()?;
        }
        let segment = state.segments.back_mut().expect("one was made above");
        let rows = segment::rows_of(entry.kind, &entry.payload);
        let position = segment.add(entry.kind, entry.payload.len(), rows);
        let store = segment.store.clone();
        state.last_term = entry.term;
        state.tail_bytes += entry.payload.len();
        state.tail.push_back(entry.clone());
        Ok(Write {
            store,
            position,
            entry,
        })
    }

    /// Runs `job` once every earlier append is durable, and before any later one is written.
    pub fn run_after_appends(&self, job: Job, done: Done) {
        self.0.queue.push(Request::Run(job, done));
    }

    /// Cuts the entries after `keep`, all of them if it is `None`. `done` comes when that is
    /// durable. A published entry must stay (I5).
    pub fn truncate_after(&self, keep: Option<Index>, done: Done) -> Result<(), Error> {
        let from = keep.map_or(Index(0), |keep| Index(keep.0 + 1));
        let mut state = self.0.state.write();
        assert!(
            from >= state.next_publish,
            "I5: a committed entry is never cut"
        );
        if from >= state.next_index() {
            drop(state);
            self.0.queue.push(Request::Run(Box::new(|| Ok(())), done));
            return Ok(());
        }
        let mut gone = Vec::new();
        while let Some(segment) = state.segments.pop_back_if(|segment| segment.base() >= from) {
            gone.push(segment.base());
        }
        gone.reverse();
        let cut = state.segments.back_mut().map(|segment| {
            let end = segment.forget_from(from);
            (segment.store.clone(), end)
        });
        state.forget_tail(from);
        state.last_term = match keep {
            Some(keep) if !state.segments.is_empty() => self.term_of(&state, keep)?,
            _ => Term(0),
        };
        let (disk, dir) = (self.0.disk.clone(), self.0.dir.clone());
        let room = self.0.config.segment_bytes_max;
        let job = move || {
            recovery::remove_all(&*disk, &dir, gone.iter())?;
            if let Some((store, end)) = cut {
                store.cut(end, Some(room))?;
                store.sync(&*disk)?;
            }
            Ok(())
        };
        self.0.queue.push_cut(from, Box::new(job), done);
        Ok(())
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

    /// Drops every entry; the next one gets the index `next`. Only a log that holds no record may
    /// be reset: records are dropped by retention alone.
    pub fn reset(&self, next: Index, done: Done) {
        let mut state = self.0.state.write();
        assert_eq!(
            state.next_offset,
            Offset(0),
            "a log with records is never reset"
        );
        let gone: Vec<_> = state
            .segments
            .drain(..)
            .map(|segment| segment.base())
            .collect();
        state.tail.clear();
        state.tail_bytes = 0;
        state.floor = next;
        state.next_publish = state.next_publish.max(next);
        let (disk, dir) = (self.0.disk.clone(), self.0.dir.clone());
        let job = move || recovery::remove_all(&*disk, &dir, gone.iter());
        self.0.queue.push_cut(next, Box::new(job), done);
    }

    /// The first readable offset, and the one that the next record gets.
    pub fn offsets(&self) -> (Offset, Offset) {
        (Offset(0), self.0.state.read().next_offset)
    }

    /// The last entry's term and index.
    pub fn last(&self) -> Option<(Term, Index)> {
        let state = self.0.state.read();
        let last = state.segments.back()?.next_index().0.checked_sub(1)?;
        (last >= state.first_index().0).then_some((state.last_term, Index(last)))
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
        for segment in &self.0.state.read().segments {
            segment.index.write_back()?;
            files.push(segment.index.file());
        }
        for (file, path) in files {
            file.sync_data().map_err(Error::io("sync", path))?;
        }
        Ok(())
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
