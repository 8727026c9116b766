//! The map of a sealed segment's index: made when rows are looked for, undone when there are too
//! many.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::directory::{Directory, directory_of_sealed};
use super::handles::Handles;
use super::index::{Mapped, map_file};
use super::index_file::{IndexFile, place};
use crate::log::Error;
use crate::log::format::file_header::{self, Magic};
use crate::log::format::row::Bases;

/// Rows that are mapped when they are needed.
#[derive(Debug)]
pub struct LazyMap {
    file: IndexFile,
    bases: Bases,
    rows: usize,
    map: OnceLock<Mapped>,
    directory: OnceLock<Directory>,
    /// The checksum of the rows' bytes, all of which were found whole once: as long as it holds, they are.
    known: Arc<OnceLock<u32>>,
    handles: Arc<Handles>,
    used: AtomicU64,
}

impl LazyMap {
    pub fn new(file: IndexFile, bases: Bases, rows: usize, handles: &Arc<Handles>) -> Self {
        Self {
            file,
            bases,
            rows,
            map: OnceLock::new(),
            directory: OnceLock::new(),
            known: Arc::default(),
            handles: handles.clone(),
            used: AtomicU64::new(0),
        }
    }

    /// What the file holds, in bytes.
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

    /// The file's bytes.
    pub fn bytes(&self) -> Result<&[u8], Error> {
        match self.map.get() {
            Some(map) => Ok(map),
            None => self.load(),
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
        if self.map.set(map_file(&*file, path)?).is_ok() {
            self.handles.map_made();
        }
        Ok(self.map.get().map_or(&[], |map| &map[..]))
    }

    /// The rows of each log, if they were loaded.
    pub fn directory(&self) -> Option<&Directory> {
        self.directory.get()
    }

    /// Maps the rows and reads which log each belongs to. Counts as a use.
    pub fn load_directory(&self) -> Result<(), Error> {
        let bytes = self.load()?;
        if self.directory.get().is_none() {
            let rows = bytes.get(place(0)..self.len()).unwrap_or_default();
            let crc = crc32c::crc32c(rows);
            let known = self.known.get() == Some(&crc);
            let (bases, path) = (&self.bases, self.file.path());
            let read = directory_of_sealed(bytes, bases, self.rows, path, known)?;
            let _ = self.known.set(crc);
            let bytes = read.bytes();
            // Another may have been as fast.
            if self.directory.set(read).is_ok() {
                self.handles.directory_made(bytes);
            }
        }
        Ok(())
    }

    /// A map of the same rows that is not made yet.
    pub fn anew(&self) -> Self {
        let mut anew = Self::new(self.file.clone(), self.bases, self.rows, &self.handles);
        anew.known = self.known.clone();
        anew
    }
}

impl Drop for LazyMap {
    fn drop(&mut self) {
        if self.is_loaded() {
            self.handles.map_gone();
        }
        if let Some(directory) = self.directory.get() {
            self.handles.directory_gone(directory.bytes());
        }
    }
}
