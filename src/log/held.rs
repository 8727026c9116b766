//! A file of a segment as those who use it hold it: open, or yet to be made by the writer.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::Error;
use super::disk::File;

/// A path, and the open file once there is one.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
    file: OnceLock<Arc<dyn File>>,
}

impl Held {
    /// An open file.
    pub fn open(path: &Path, file: Arc<dyn File>) -> Self {
        let held = Self::unmade(path);
        held.made(file);
        held
    }

    /// A file that the writer makes before it writes there.
    pub fn unmade(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: OnceLock::new(),
        }
    }

    /// The file was made. It is made once.
    pub fn made(&self, file: Arc<dyn File>) {
        // A second file would hide what was written to the first.
        assert!(self.file.set(file).is_ok(), "a file is made once");
    }

    /// Whether there is a file.
    pub fn is_made(&self) -> bool {
        self.file.get().is_some()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file. Nothing is read of one before it is made: what it will hold is in memory.
    pub fn file(&self) -> Result<&dyn File, Error> {
        let missing = || Error::io("use", &self.path)(io::ErrorKind::NotFound.into());
        self.file.get().map(|file| &**file).ok_or_else(missing)
    }
}
