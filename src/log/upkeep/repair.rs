//! Mending damaged segments.
//!
//! Damage to a directory is mended from the rows, damage to rows from the store; damage to a store takes a copy from
//! another replica.

use std::path::Path;
use std::sync::Arc;

use crate::log::format::directory::Directory;
use crate::log::format::file_header::{self, FILE_HEADER_BYTES, Magic};
use crate::log::format::files::{Paths, SegmentName};
use crate::log::format::row::ROW_BYTES;
use crate::log::format::seal::Seal;
use crate::log::open::recovery::{self, LogDirectory};
use crate::log::open::rewritten::Told;
use crate::log::open::{derive, listing};
use crate::log::segment::index::RowIndex;
use crate::log::segment::index_file::IndexFile;
use crate::log::segment::store::Store;
use crate::log::segment::{Damage, Segment};
use crate::log::{Error, Index, Log};

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

    /// Whether an entry that this log had cannot be read: it was given up, or its segment waits for repair.
    pub fn lacks(&self, index: Index) -> bool {
        index < self.first_entry() || self.is_damaged(index)
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

    /// Writes a seal with this directory in place of the one that is there.
    pub(super) fn write_seal(&self, seal: &Seal, listed: &Directory) -> Result<(), Error> {
        let (disk, dir) = (&*self.0.disk, &self.0.dir);
        let path = Paths::new(dir, seal.name()).seal;
        seal.with(listed).write(disk, &path, &listed.bytes)?;
        disk.sync_dir(dir).map_err(Error::io("sync", dir))
    }

    /// Makes anew what can be made of a sealed segment's own files: the directory of its rows if these are whole, else
    /// the rows of its store, too. False if that takes another replica, since not every batch in it was appended.
    pub fn derive_index(&self, seal: &Seal) -> Result<bool, Error> {
        let _upkeep = self.0.upkeep.lock();
        if !self.has_sealed(seal) {
            return Ok(true);
        }
        let (disk, paths) = (&*self.0.disk, Paths::new(&self.0.dir, seal.name()));
        let store = match Store::open(disk, &paths.store, seal.base) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
            opened => opened?,
        };
        let Some(store) = store else {
            return Ok(false);
        };
        let whole = Segment::sealed(
            store,
            RowIndex::absent(&paths.index, seal.base)?,
            Arc::new(seal.clone()),
            None,
        );
        let listed = match self.list_rows(seal, &whole.store)? {
            Some(listed) => listed,
            None => match self.derive_rows(seal, &whole)? {
                Some(listed) => listed,
                None => return Ok(false),
            },
        };
        self.write_seal(seal, &listed)?;
        self.reopen(seal)?;
        Ok(true)
    }

    /// The directory of the rows in their file, if these are whole.
    fn list_rows(&self, seal: &Seal, store: &Store) -> Result<Option<Directory>, Error> {
        let (disk, path) = (&*self.0.disk, Paths::new(&self.0.dir, seal.name()).index);
        let listed = disk
            .open(&path)
            .map_err(Error::io("open", &path))
            .and_then(|file| {
                let begins = file_header::read(&*file, &path, Magic::Index, seal.base)?;
                let rows = begins.map(|()| IndexFile::new(&path, file));
                let listed = rows.map(|rows| listing::list(&rows, store, seal));
                Ok(listed.transpose()?.flatten())
            });
        match listed {
            Err(error) if error.is_short_of_files() => Err(error),
            listed => Ok(listed.unwrap_or(None)),
        }
    }

    /// Derives the rows of a segment anew from its store, and their directory.
    fn derive_rows(&self, seal: &Seal, whole: &Segment) -> Result<Option<Directory>, Error> {
        let (disk, paths) = (&*self.0.disk, Paths::new(&self.0.dir, seal.name()));
        if seal.rewritten.is_some() {
            return self.derive_rewritten(seal, whole);
        }
        let mut next = seal.first_position;
        let mut grown = derive::Grown::new();
        let rows = derive::rows_from(whole, seal.next_index(), &mut next, &mut grown);
        let mut rows = rows.map_err(|error| self.note_store_damage(seal.base, error))?;
        let ended = self.ends_in(seal.base, &grown)?;
        derive::count_back(rows.iter_mut(), &grown, |log| ended.get(&log).copied());
        let listed = listing::list_of(rows.iter().copied(), &whole.store, seal)?;
        let Some(listed) = listed.filter(|_| next == seal.next_position) else {
            return Ok(None);
        };
        self.quarantine(&[&paths.index])?;
        let room = FILE_HEADER_BYTES + rows.len() * ROW_BYTES;
        let mut index = RowIndex::create(disk, &paths.index, seal.base, room)?;
        for row in rows {
            index.push(row)?;
        }
        index.seal()?;
        index.file().sync()?;
        Ok(Some(listed))
    }

    /// The same of a rewritten segment, whose store tells all of its rows.
    fn derive_rewritten(&self, seal: &Seal, whole: &Segment) -> Result<Option<Directory>, Error> {
        let told = Told::read(&whole.store, Some(seal.end));
        let told = told.map_err(|error| self.note_store_damage(seal.base, error))?;
        let Some(listed) = listing::list_of(told.rows(), &whole.store, seal)? else {
            return Ok(None);
        };
        let path = Paths::new(&self.0.dir, seal.name()).index;
        self.quarantine(&[&path])?;
        told.write_rows(&*self.0.disk, &path, seal.base)?;
        Ok(Some(listed))
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
            .filter(|scrub| scrub.base() == seal.base)
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
    pub(super) fn has_sealed(&self, seal: &Seal) -> bool {
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
        let (source, target) = (Paths::new(from, seal.name()), Paths::new(dir, seal.name()));
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
    pub(super) fn forget_files(&self, name: SegmentName) {
        let paths = Paths::new(&self.0.dir, name);
        for path in paths.all() {
            self.0.handles.forget(path);
        }
    }

    /// Opens a sealed segment's files again, in place of those that were damaged.
    pub(super) fn reopen(&self, seal: &Seal) -> Result<(), Error> {
        let directory = LogDirectory {
            disk: &*self.0.disk,
            dir: &self.0.dir,
            config: &self.0.config,
            handles: &self.0.handles,
        };
        // The files under these names are others now.
        self.forget_files(seal.name());
        let paths = Paths::new(&self.0.dir, seal.name());
        let read = Seal::read(directory.disk, &paths.seal, seal.name())?;
        let seal = read.unwrap_or_else(|| seal.clone());
        let mut opened = recovery::open_sealed(&directory, &paths, seal)?;
        let mut state = self.0.state.write();
        let name = opened.name();
        match state.segment_of(name.base) {
            Some(segment) if segment.name() == name => {
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
