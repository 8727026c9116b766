//! Finding damage in sealed segments, and mending it.
//!
//! A scrub reads what nobody asks for, so that rot is found while other replicas are
//! whole (Bairavasundaram et al., "An analysis of latent sector errors in disk drives", SIGMETRICS
//! 2007). Damage to an
//! index is mended from the store; damage to a store takes a copy from another replica.

use std::path::Path;
use std::sync::Arc;

use crate::log::format::files::Paths;
use crate::log::format::seal::{self, Seal};
use crate::log::open::derive;
use crate::log::open::recovery::{self, LogDirectory};
use crate::log::segment::index::RowIndex;
use crate::log::segment::store::{Span, Store};
use crate::log::segment::{Damage, Segment};
use crate::log::{Error, Index, Log, LogState};

/// Bytes of a store that one step of a scrub reads, about.
const STEP_BYTES: usize = 1 << 20;
/// Rows that are compared at a time.
const STEP_ROWS: usize = 4096;
/// Where the files of a damaged segment are kept, below the log's directory.
pub const QUARANTINE: &str = "quarantine";

/// A segment that waits for repair.
#[derive(Debug, Clone)]
pub struct Damaged {
    /// What it should hold.
    pub seal: Seal,
    /// What is wrong with it.
    pub damage: Damage,
}

/// A scrub of one sealed segment, a step at a time.
#[derive(Debug)]
pub struct Scrub {
    log: Log,
    store: Arc<Store>,
    seal: Arc<Seal>,
    at: Index,
    digest: u32,
}

impl Scrub {
    /// The raft index after the segment.
    pub fn next_index(&self) -> Index {
        self.seal.next_index()
    }

    /// Reads on; gives the bytes read, 0 once the segment is found whole. Damage is noted in the
    /// log, and is the error.
    pub fn step(&mut self) -> Result<usize, Error> {
        let end = self.seal.next_index();
        if self.at >= end {
            return self.finish();
        }
        let mark = self.seal.mark_before(self.at);
        let stop = mark.position.saturating_add(STEP_BYTES as u32);
        let span = Span {
            first: self.at,
            position: mark.position,
            length: (self.seal.mark_after(self.at, |at| at >= stop) - mark.position) as usize,
        };
        let entries = self.store.entries(span);
        let entries = entries.map_err(|error| self.log.note_damage(&self.store, error))?;
        for entry in &entries {
            let crc = crate::log::format::frame::entry_crc(entry);
            self.digest = seal::add_entry(self.digest, crc);
        }
        self.at = Index(self.at.0 + entries.len() as u64);
        Ok(span.length)
    }

    /// The whole against its seal, then the rows.
    fn finish(&self) -> Result<usize, Error> {
        if self.digest != self.seal.entries_digest {
            let what = "the frames are not those that were sealed";
            let error = self.store.corrupt(0, what);
            return Err(self.log.note_damage(&self.store, error));
        }
        let begins = self.store.check_header();
        begins.map_err(|error| self.log.note_damage(&self.store, error))?;
        self.log.check_names(&self.store)?;
        self.log.check_rows(&self.store, &self.seal)?;
        self.log.check_seal(&self.seal).map(|()| 0)
    }
}

impl Log {
    /// The segments that wait for repair.
    pub fn damaged(&self) -> Vec<Damaged> {
        let state = self.0.state.read();
        let damaged = |segment: &Segment| {
            let (seal, damage) = (segment.seal()?, segment.damage?);
            let seal = (**seal).clone();
            Some(Damaged { seal, damage })
        };
        state.segments.iter().filter_map(damaged).collect()
    }

    /// Whether an entry is in a segment that waits for repair.
    pub fn is_damaged(&self, index: Index) -> bool {
        let state = self.0.state.read();
        let mut segments = state.segments.iter();
        segments.any(|segment| {
            let holds = segment.base() <= index && index < segment.next_index();
            holds && segment.damage.is_some()
        })
    }

    /// A scrub of the first sealed segment from `from` on; `None` behind the last.
    pub fn scrub(&self, from: Index) -> Option<Scrub> {
        let state = self.0.state.read();
        let whole = |segment: &&Segment| segment.base() >= from && segment.damage.is_none();
        let mut segments = state.segments.iter().filter(whole);
        let found = segments.find_map(|segment| Some((segment, segment.seal()?.clone())))?;
        let (segment, seal) = found;
        Some(Scrub {
            log: self.clone(),
            store: segment.store.clone(),
            at: seal.base,
            seal,
            digest: 0,
        })
    }

    /// A file that is open can be read although its name is gone; a restart would not find it. So look for the
    /// names, too.
    fn check_names(&self, store: &Arc<Store>) -> Result<(), Error> {
        let (disk, paths) = (&*self.0.disk, Paths::new(&self.0.dir, store.base()));
        let gone = |path: &Path| {
            let len = disk.len_of(path);
            len.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        };
        match (gone(&paths.store), gone(&paths.index)) {
            (true, _) => self.mark(store, Damage::Store),
            (false, true) => self.mark(store, Damage::Index),
            (false, false) => Ok(()),
        }
    }

    /// The rows against the seal, a part at a time: appends do not wait while the file is read.
    fn check_rows(&self, store: &Arc<Store>, seal: &Seal) -> Result<(), Error> {
        let (mut digest, all) = (0, seal.rows as usize);
        for from in (0..all).step_by(STEP_ROWS) {
            let rows = from..(from + STEP_ROWS).min(all);
            let file = self.0.state.read().index_of(store).map(RowIndex::file);
            let Some(read) = file.map(|file| file.read(rows)) else {
                return Ok(());
            };
            let added = self.with_rows(
                |state| state.index_of(store)?.unloaded(),
                |state| {
                    let index = state.index_of(store);
                    index
                        .map(|index| index.add_digest(digest, from, &read?))
                        .transpose()
                },
            );
            match added {
                Ok(Some(added)) => digest = added,
                Ok(None) => return Ok(()),
                Err(error) if error.is_short_of_files() => return Err(error),
                Err(_) => return self.mark(store, Damage::Index),
            }
        }
        if digest == seal.rows_digest {
            return Ok(());
        }
        self.mark(store, Damage::Index)
    }

    /// Notes what a scrub found, unless the segment was trimmed or mended meanwhile.
    fn mark(&self, store: &Arc<Store>, damage: Damage) -> Result<(), Error> {
        let mut state = self.0.state.write();
        let Some(segment) = state.segment_with(store) else {
            return Ok(());
        };
        tracing::error!(base = %store.base(), ?damage, "a sealed segment is damaged");
        Err(segment.mark(damage))
    }

    /// A restart reads the seal from disk, so a damaged one is written anew from memory.
    fn check_seal(&self, seal: &Seal) -> Result<(), Error> {
        let _upkeep = self.0.upkeep.lock();
        let (disk, path) = (&*self.0.disk, Paths::new(&self.0.dir, seal.base).seal);
        let state = self.0.state.read();
        let held = state
            .segment_number(seal.base)
            .map(|number| &state.segments[number]);
        let held = held
            .and_then(Segment::seal)
            .is_some_and(|held| **held == *seal);
        drop(state);
        if !held || Seal::read(disk, &path, seal.base)?.as_ref() == Some(seal) {
            return Ok(());
        }
        tracing::warn!(path = %path.display(), "the seal of a segment was damaged: written anew");
        let written = seal.write(disk, &path);
        let dir = &self.0.dir;
        written.and_then(|()| disk.sync_dir(dir).map_err(Error::io("sync", dir)))
    }

    /// Derives the index of a sealed segment anew from its store; false if that takes another
    /// replica, since not every batch in it was appended.
    pub fn derive_index(&self, seal: &Seal) -> Result<bool, Error> {
        let _upkeep = self.0.upkeep.lock();
        if !self.has_sealed(seal) {
            return Ok(true);
        }
        let (disk, paths) = (&*self.0.disk, Paths::new(&self.0.dir, seal.base));
        let store = match Store::open(disk, &paths.store, seal.base)? {
            Some(store) => store,
            None => return Ok(false),
        };
        let whole = Segment::sealed(
            store,
            RowIndex::absent(&paths.index, seal.base)?,
            seal.clone(),
            None,
        );
        let mut next = seal.first_position;
        let mut grown = derive::Grown::new();
        let rows = derive::rows_from(&whole, seal.next_index(), &mut next, &mut grown);
        let mut rows = rows.map_err(|error| self.note_store_damage(seal.base, error))?;
        let ended = self.ends_in(seal.base, &grown)?;
        derive::count_back(rows.iter_mut(), &grown, |log| ended.get(&log).copied());
        let digest = rows.iter().fold(0, seal::add_row);
        if next != seal.next_position || digest != seal.rows_digest {
            return Ok(false);
        }
        self.quarantine(&[&paths.index])?;
        let room = crate::log::format::file_header::FILE_HEADER_BYTES
            + rows.len() * crate::log::format::row::ROW_BYTES;
        let mut index = RowIndex::create(disk, &paths.index, seal.base, room)?;
        for row in rows {
            index.push(row)?;
        }
        index.seal()?;
        index.file().sync()?;
        self.reopen(seal)?;
        Ok(true)
    }

    /// Where the segment that begins at `base` ends in each of these logs.
    fn ends_in(&self, base: Index, logs: &derive::Grown) -> Result<derive::Grown, Error> {
        let mut ended = derive::Grown::new();
        for log in logs.keys() {
            let end = self.with_directories(|state| {
                let number = state.segment_number(base).unwrap_or(0);
                state.end_in(number, *log)
            });
            ended.insert(*log, end?);
        }
        Ok(ended)
    }

    /// Reads a damaged segment once more, from files that are opened anew: what could not be read at one time may
    /// be whole at another. True if it is, or is not the log's any more.
    pub fn look_again(&self, seal: &Seal) -> Result<bool, Error> {
        {
            let _upkeep = self.0.upkeep.lock();
            if !self.has_sealed(seal) {
                return Ok(true);
            }
            // Readers get nothing wrong meanwhile, since every frame and row has its own checksum.
            self.reopen(seal)?;
        }
        let Some(mut scrub) = self
            .scrub(seal.base)
            .filter(|scrub| scrub.seal.base == seal.base)
        else {
            return Ok(false);
        };
        loop {
            match scrub.step() {
                Ok(0) => return Ok(true),
                Ok(_) => {}
                Err(error) if error.is_short_of_files() => return Err(error),
                // It is marked again.
                Err(_) => return Ok(false),
            }
        }
    }

    /// Whether the segment is still the one that a seal sums up.
    fn has_sealed(&self, seal: &Seal) -> bool {
        let state = self.0.state.read();
        let number = state.segment_number(seal.base);
        let held = number.and_then(|number| state.segments[number].seal());
        held.is_some_and(|held| held.agrees_with(seal))
    }

    fn note_store_damage(&self, base: Index, error: Error) -> Error {
        let state = self.0.state.read();
        let number = state.segment_number(base);
        let store = number.map(|number| state.segments[number].store.clone());
        drop(state);
        match store {
            Some(store) => self.note_damage(&store, error),
            None => error,
        }
    }

    /// Puts a finished copy from `from` in a damaged segment's place; the damaged files are kept.
    pub fn replace(&self, seal: &Seal, from: &Path) -> Result<(), Error> {
        let _upkeep = self.0.upkeep.lock();
        let (disk, dir) = (&*self.0.disk, &self.0.dir);
        let (source, target) = (Paths::new(from, seal.base), Paths::new(dir, seal.base));
        let state = self.0.state.read();
        let number = state.segment_number(seal.base);
        let held = number.map(|number| &state.segments[number]);
        let held = held.filter(|segment| segment.damage.is_some());
        let held = held.and_then(Segment::seal);
        let held = held.is_some_and(|held| held.agrees_with(seal));
        drop(state);
        if !held {
            // It was trimmed meanwhile, or gave way to a snapshot's.
            return Ok(());
        }
        // The old seal stays until the new one takes its place: a crash in between leaves a
        // segment that is known to be damaged.
        self.quarantine(&[&target.store, &target.index])?;
        for (source, target) in source.all().into_iter().zip(target.all()) {
            disk.rename(source, target)
                .map_err(Error::io("move", source))?;
        }
        disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
        disk.sync_dir(from).map_err(Error::io("sync", from))?;
        self.reopen(seal)
    }

    /// Moves files aside. An earlier copy of the same file gives way.
    fn quarantine(&self, files: &[&std::path::PathBuf]) -> Result<(), Error> {
        let (disk, dir) = (&*self.0.disk, &self.0.dir);
        let aside = dir.join(QUARANTINE);
        disk.create_dir(&aside).map_err(Error::io("make", &aside))?;
        for file in files {
            let name = file.file_name().unwrap_or_default();
            match disk.rename(file, &aside.join(name)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                done => done.map_err(Error::io("move", *file))?,
            }
        }
        disk.sync_dir(&aside).map_err(Error::io("sync", &aside))?;
        disk.sync_dir(dir).map_err(Error::io("sync", dir))
    }

    /// What is open of a segment's files is closed.
    pub(super) fn forget_files(&self, base: Index) {
        let paths = Paths::new(&self.0.dir, base);
        self.0.handles.forget(&paths.store);
        self.0.handles.forget(&paths.index);
    }

    /// Opens a sealed segment's files again, in place of those that were damaged.
    fn reopen(&self, seal: &Seal) -> Result<(), Error> {
        let directory = LogDirectory {
            disk: &*self.0.disk,
            dir: &self.0.dir,
            config: &self.0.config,
            handles: &self.0.handles,
        };
        // The files under these names are others now.
        self.forget_files(seal.base);
        let paths = Paths::new(&self.0.dir, seal.base);
        let read = Seal::read(directory.disk, &paths.seal, seal.base)?;
        let seal = read.unwrap_or_else(|| seal.clone());
        let mut opened = recovery::open_sealed(&directory, &paths, seal)?;
        let mut state = self.0.state.write();
        let base = opened.base();
        match state.segment_of(base) {
            Some(segment) if segment.base() == base => {
                // A mended segment keeps its age.
                (opened.opened, opened.found) = (segment.opened, segment.found);
                *segment = opened;
            }
            // It was trimmed meanwhile.
            _ => {}
        }
        Ok(())
    }
}

impl LogState {
    /// The index beside a store; `None` if the segment was trimmed or mended meanwhile.
    fn index_of(&self, store: &Arc<Store>) -> Option<&RowIndex> {
        let mut segments = self.segments.iter();
        let segment = segments.find(|segment| Arc::ptr_eq(&segment.store, store))?;
        Some(&segment.index)
    }
}
