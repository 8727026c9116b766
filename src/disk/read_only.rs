//! The operating system's files, to be looked at: whatever would change one is refused.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{DirLock, Disk, File, OsDisk, OsFile, options};

/// The operating system's files, to be looked at and left as they are: whatever would change one is
/// refused.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadOnlyDisk;

/// What a read-only disk says to a write.
fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Disk for ReadOnlyDisk {
    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        refused()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        OsDisk.list(dir)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = options().open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(Arc::new(ReadOnlyFile(OsFile(file))))
    }

    fn create(&self, _path: &Path) -> io::Result<Arc<dyn File>> {
        refused()
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        refused()
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        refused()
    }

    fn available(&self, _dir: &Path) -> io::Result<u64> {
        Ok(0)
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    /// The lock keeps nodes out, and lets other readers in. It makes no file: where there is none, no node ever
    /// ran.
    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        let file = match options().open(dir.join("LOCK")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(DirLock::unshared());
            }
            done => done?,
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(DirLock(Some(file))),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

#[derive(Debug)]
struct ReadOnlyFile(OsFile);

impl File for ReadOnlyFile {
    fn read_exact_at(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, position)
    }

    fn write_all_at(&self, _buf: &[u8], _position: u64) -> io::Result<()> {
        refused()
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        refused()
    }

    fn allocate(&self, _len: u64) -> io::Result<()> {
        refused()
    }

    fn mappable(&self) -> Option<&fs::File> {
        None
    }
}
