//! Keeps in a file that an operator took the node out of leadership: it holds over a restart.
//!
//! That the file is there says all, so it is empty. It is the node's own, and no part of the replicated state: a node
//! must know it before it asks for a vote, also while it knows no leader and lags.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::Disk;

/// The file's name in the data directory.
pub const NAME: &str = "drained";

/// Where the file is, or would be; clones are of the same one.
#[derive(Debug, Clone)]
pub struct DrainedFile {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl DrainedFile {
    pub fn new(disk: Arc<dyn Disk>, dir: &Path) -> Self {
        Self {
            disk,
            dir: dir.to_owned(),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.join(NAME)
    }

    /// Whether the file is there.
    pub fn is_there(&self) -> io::Result<bool> {
        match self.disk.len_of(&self.path()) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes the file, or removes it. Durable on return.
    pub fn set(&self, is_there: bool) -> io::Result<()> {
        if is_there {
            self.disk.open_or_create(&self.path())?;
        } else {
            match self.disk.remove(&self.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.disk.sync_dir(&self.dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::memory::MemoryDisk;

    #[test]
    fn it_is_durable_both_ways() {
        let dir = Path::new("/node");
        let mut disk = MemoryDisk::default();
        disk.create_dir(dir).unwrap();
        for is_there in [false, true, true, false, false] {
            let file = DrainedFile::new(Arc::new(disk.clone()), dir);
            file.set(is_there).unwrap();
            disk = disk.crash();
            let file = DrainedFile::new(Arc::new(disk.clone()), dir);
            assert_eq!(file.is_there().unwrap(), is_there);
        }
    }
}
