//! The maps of a sealed segment's index and of its directory: made when rows are looked for, undone when there are too
//! many.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::directory::Sealed;
use super::handles::{Handles, large};
use super::index::{Mapped, map_file};
use super::index_file::{IndexFile, place};
use super::segment_file::SegmentFile;
use crate::log::Error;
use crate::log::format::directory::{Listed, Shape};
use crate::log::format::file_header::{self, Magic};
use crate::log::format::row::Bases;
use crate::log::format::seal::Seal;

/// Rows that are mapped when they are needed, and the directory that leads to those of a log.
#[derive(Debug)]
pub struct LazyMap {
    file: IndexFile,
    bases: Bases,
    rows: usize,
    map: OnceLock<Mapped>,
    directory: DirectoryFile,
    handles: Arc<Handles>,
    used: AtomicU64,
}

/// A seal's file, at whose end the directory is.
#[derive(Debug)]
struct DirectoryFile {
    file: Arc<SegmentFile>,
    seal: Arc<Seal>,
    shape: Shape,
    map: OnceLock<Mapped>,
}

impl LazyMap {
    pub fn new(
        file: IndexFile,
        seal_file: Arc<SegmentFile>,
        seal: &Arc<Seal>,
        handles: &Arc<Handles>,
    ) -> Self {
        Self {
            file,
            bases: Bases::new(seal.base, seal.first_position),
            rows: seal.rows as usize,
            map: OnceLock::new(),
            directory: DirectoryFile {
                file: seal_file,
                shape: seal.directory(),
                seal: seal.clone(),
                map: OnceLock::new(),
            },
            handles: handles.clone(),
            used: AtomicU64::new(0),
        }
    }

    /// What the file of rows holds, in bytes.
    pub fn len(&self) -> usize {
        place(self.rows)
    }

    /// Whether looking for rows waits for no disk.
    pub fn is_loaded(&self) -> bool {
        self.map.get().is_some()
    }

    /// When it was used last, as [`Handles::next_turn`] counts.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The bytes of the file of rows.
    pub fn bytes(&self) -> Result<&[u8], Error> {
        match self.map.get() {
            Some(map) => {
                self.use_now();
                Ok(map)
            }
            None => self.load(),
        }
    }

    fn use_now(&self) {
        let turn = self.handles.turn();
        // Most of those who read at the same time change nothing that others read.
        if self.used.load(Ordering::Relaxed) < turn {
            self.used.store(turn, Ordering::Relaxed);
        }
    }

    /// The rows, mapped now if they were not. Counts as a use.
    pub fn load(&self) -> Result<&[u8], Error> {
        self.used.store(self.handles.next_turn(), Ordering::Relaxed);
        if let Some(map) = self.map.get() {
            return Ok(map);
        }
        let path = self.file.path();
        let file = self.file.file()?;
        let len = file.len().map_err(Error::io("measure", path))?;
        let begins = file_header::read(&*file, path, Magic::Index, self.bases.index())?;
        if begins.is_none() || len < self.len() as u64 {
            return Err(Error::Corrupt {
                path: path.to_owned(),
                position: len,
                what: "it is shorter than its seal says",
            });
        }
        let mapped = map_file(&*file, path)?;
        let large = self.large_of(&mapped);
        if self.map.set(mapped).is_ok() {
            self.handles.map_made(large);
        }
        Ok(self.map.get().map_or(&[], |map| &map[..]))
    }

    /// Which rows are whose, if that was loaded.
    pub fn directory(&self) -> Option<Sealed<'_>> {
        let DirectoryFile {
            file,
            seal,
            shape,
            map,
        } = &self.directory;
        let map = map.get()?;
        let begins = map.len().saturating_sub(shape.bytes());
        Some(Sealed {
            listed: Listed::new(&map[begins..], *shape),
            logs: &seal.logs,
            path: file.path(),
            begins,
        })
    }

    /// Maps the rows and their directory. Counts as a use.
    pub fn load_directory(&self) -> Result<(), Error> {
        self.load()?;
        let DirectoryFile {
            file, seal, map, ..
        } = &self.directory;
        if map.get().is_some() {
            return Ok(());
        }
        let (path, open) = (file.path(), file.file()?);
        // A seal of another segment, or of none, would be found by its pieces, too, but not by its name.
        if file_header::read(&*open, path, Magic::Seal, seal.base)?.is_none() {
            return Err(Error::Corrupt {
                path: path.to_owned(),
                position: 0,
                what: "it is no seal",
            });
        }
        let mapped = map_file(&*open, path)?;
        let large = self.large_of(&mapped);
        // Another may have been as fast.
        if map.set(mapped).is_ok() {
            self.handles.map_made(large);
        }
        Ok(())
    }

    fn maps(&self) -> impl Iterator<Item = &Mapped> {
        let maps = [&self.map, &self.directory.map].into_iter();
        maps.filter_map(OnceLock::get)
    }

    /// The bytes of those of its maps that are large.
    pub fn large(&self) -> usize {
        self.maps().map(|map| self.large_of(map)).sum()
    }

    fn large_of(&self, map: &Mapped) -> usize {
        large(map.len(), self.directory.seal.rewritten.is_some())
    }

    /// Maps of the same files that are not made yet.
    pub fn anew(&self) -> Self {
        let DirectoryFile { file, seal, .. } = &self.directory;
        Self::new(self.file.clone(), file.clone(), seal, &self.handles)
    }
}

impl Drop for LazyMap {
    fn drop(&mut self) {
        for map in self.maps() {
            self.handles.map_gone(self.large_of(map));
        }
    }
}
