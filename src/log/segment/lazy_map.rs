//! The map of a sealed segment's index: made when rows are looked for, undone when there are too
//! many.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::handles::Handles;
use super::index::{Mapped, map_file};
use super::index_file::IndexFile;
use crate::log::format::file_header::{self, Magic};
use crate::log::{Error, Index};

/// Rows that are mapped when they are needed.
#[derive(Debug)]
pub struct LazyMap {
    file: IndexFile,
    base: Index,
    /// What the file holds at least.
    bytes: usize,
    map: OnceLock<Mapped>,
    handles: Arc<Handles>,
    used: AtomicU64,
}

impl LazyMap {
    pub fn new(file: IndexFile, base: Index, bytes: usize, handles: &Arc<Handles>) -> Self {
        Self {
            file,
            base,
            bytes,
            map: OnceLock::new(),
            handles: handles.clone(),
            used: AtomicU64::new(0),
        }
    }

    /// What the file holds, in bytes.
    pub fn len(&self) -> usize {
        self.bytes
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
        let begins = file_header::read(&*file, path, Magic::Index, self.base)?;
        if begins.is_none() || len < self.bytes as u64 {
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

    /// A map of the same rows that is not made yet.
    pub fn anew(&self) -> Self {
        Self::new(self.file.clone(), self.base, self.bytes, &self.handles)
    }
}

impl Drop for LazyMap {
    fn drop(&mut self) {
        if self.is_loaded() {
            self.handles.map_gone();
        }
    }
}
