//! The seam to the disk: every byte that a node keeps goes through [`Disk`] and [`File`].
//!
//! [`OsDisk`] is the real one: its files are their owner's alone, and no link is followed to one, since
//! whoever could place a link could have another file written over. Its twin in memory, [`memory`], forgets what was not synced.
#![allow(clippy::disallowed_methods, reason = "the home of files")]

mod absent;
pub mod crc32c;
pub mod memory;
mod read_only;

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::fs::OFlags;

pub use absent::absent;
pub use read_only::ReadOnlyDisk;

use crate::access::{Rights, Us};

#[allow(clippy::cast_possible_wrap, reason = "flags, not a number")]
const NO_LINK: i32 = OFlags::NOFOLLOW.bits() as i32;

/// Files by path, and the directories' durability.
///
/// A created, renamed or removed name is durable once `sync_dir` of its directory returned.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Makes a directory and its parents, mode 0700.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// How others than this process's user may change what is in a directory; `None` if they cannot.
    fn exposed(&self, _dir: &Path) -> io::Result<Option<Exposed>> {
        Ok(None)
    }
    /// The names in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Makes a new, empty file; an error if there is one.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Opens a file, or makes an empty one.
    fn open_or_create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        match self.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create(path),
            done => done,
        }
    }
    /// A file's length in bytes, without opening it where that is possible.
    fn len_of(&self, path: &Path) -> io::Result<u64> {
        self.open(path)?.len()
    }
    /// Removes a file's name.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Gives a file another name, in place of the file that had it; both directories must be
    /// synced, the new one first.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// The bytes that can still be written to the filesystem that holds `dir`.
    fn available(&self, dir: &Path) -> io::Result<u64>;
    /// Makes the directory's names durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the directory for this process, until the guard is dropped. `WouldBlock` if another
    /// process holds it.
    fn lock(&self, dir: &Path) -> io::Result<DirLock>;
}

/// One open file. Reads and writes name their position; a short read is an error.
pub trait File: fmt::Debug + Send + Sync + 'static {
    /// Fills `buf` from `position` on; `UnexpectedEof` if the file ends before.
    fn read_exact_at(&self, buf: &mut [u8], position: u64) -> io::Result<()>;
    /// So many bytes from `position` on; `UnexpectedEof` if the file ends before.
    fn read_at(&self, position: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.read_exact_at(&mut bytes, position)?;
        Ok(bytes)
    }
    /// Writes all of `buf` at `position`.
    fn write_all_at(&self, buf: &[u8], position: u64) -> io::Result<()>;
    /// Writes all of these parts, one behind the other, from `position` on.
    fn write_parts_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
        let mut at = position;
        for part in parts {
            self.write_all_at(part, at)?;
            at += part.len() as u64;
        }
        Ok(())
    }
    /// Makes written bytes, and the length needed to read them, durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Lets go of what memory holds of the file, as far as it is synced: reads go to the disk again.
    ///
    /// After a failed sync memory and disk differ, and a power cut leaves what is on the disk.
    fn forget_cached(&self) -> io::Result<()> {
        Ok(())
    }
    /// Makes durable what an earlier process left, and has later reads come from the disk. Call it before the
    /// file's content is believed.
    fn settle(&self) -> io::Result<()> {
        self.sync_data()?;
        self.forget_cached()
    }
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file holds no byte.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves blocks up to `len`, so that later writes below it cannot meet a full disk.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// The file to map into memory; `None` if it has none, and an anonymous map must do.
    fn mappable(&self) -> Option<&fs::File>;
}

/// Whether the process, or the system, has no descriptor left.
pub fn is_short_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let short = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error
        .raw_os_error()
        .is_some_and(|code| short.contains(&code))
}

/// A directory that others may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exposed {
    pub mode: u32,
    /// It belongs to another user, who may give himself any right.
    pub is_anothers: bool,
}

impl Exposed {
    /// The command that takes it from them.
    pub fn mend(&self, dir: &Path) -> String {
        match self.is_anothers {
            true => format!("chown -R \"$(id -un)\" {}", dir.display()),
            false => format!("chmod go-w {}", dir.display()),
        }
    }
}

/// Holds a directory until dropped.
#[derive(Debug)]
pub struct DirLock(#[allow(dead_code, reason = "held, not read")] Option<fs::File>);

impl DirLock {
    /// A lock that excludes nobody: for disks that no other process can see.
    pub fn unshared() -> Self {
        Self(None)
    }
}

/// How files are opened: for their owner alone, and not through a link.
fn options() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.read(true).mode(0o600).custom_flags(NO_LINK);
    options
}

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsDisk;

#[derive(Debug)]
struct OsFile(fs::File);

impl Disk for OsDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
    }

    fn exposed(&self, dir: &Path) -> io::Result<Option<Exposed>> {
        let (us, rights) = (Us::now(), Rights::from(&fs::metadata(dir)?));
        let exposed = Exposed {
            mode: rights.mode,
            is_anothers: us.is_anothers(rights),
        };
        Ok(us.shares_writing(rights).then_some(exposed))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name().into_string().map_err(|name| {
                let what = format!("{} is not a name of ours", PathBuf::from(name).display());
                io::Error::new(io::ErrorKind::InvalidData, what)
            })?;
            names.push(name);
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(OsFile(options().write(true).open(path)?)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = options().write(true).create_new(true).open(path)?;
        Ok(Arc::new(OsFile(file)))
    }

    fn len_of(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn available(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        let mut options = options();
        let options = options.create(true).truncate(false).write(true);
        let file = options.open(dir.join("LOCK"))?;
        match file.try_lock() {
            Ok(()) => Ok(DirLock(Some(file))),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

impl File for OsFile {
    fn read_exact_at(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, position)
    }

    /// Reads into memory that nobody has filled with zeros before.
    fn read_at(&self, position: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = position + bytes.len() as u64;
            match rustix::io::pread(&self.0, spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(rustix::io::Errno::INTR) | Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    fn write_all_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        self.0.write_all_at(buf, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn forget_cached(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(
            &self.0,
            0,
            None,
            rustix::fs::Advice::DontNeed,
        )?)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        let grown = fallocate(&self.0, FallocateFlags::empty(), 0, len);
        match grown.map_err(io::Error::from) {
            // A filesystem without fallocate: write the zeros, as posix_fallocate does.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.fill(len),
            done => done,
        }
    }

    fn mappable(&self) -> Option<&fs::File> {
        Some(&self.0)
    }
}

impl OsFile {
    fn fill(&self, len: u64) -> io::Result<()> {
        let zeros = vec![0; 1 << 20];
        let mut at = self.len()?;
        while at < len {
            let part = usize::try_from(len - at).map_or(zeros.len(), |left| left.min(zeros.len()));
            self.0.write_all_at(&zeros[..part], at)?;
            at += part as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn files_are_their_owners_alone_whatever_the_directory_allows() {
        let dir = tempfile::tempdir().unwrap();
        chmod(dir.path(), 0o777);
        let path = dir.path().join("a");
        OsDisk.create(&path).unwrap();
        let _lock = OsDisk.lock(dir.path()).unwrap();
        for name in ["a", "LOCK"] {
            let mode = fs::metadata(dir.path().join(name)).unwrap().mode();
            assert_eq!(mode & 0o7777, 0o600, "{name}");
        }
    }

    #[test]
    fn no_file_is_reached_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (theirs, link) = (dir.path().join("theirs"), dir.path().join("link"));
        fs::write(&theirs, "theirs").unwrap();
        symlink(&theirs, &link).unwrap();
        symlink(&theirs, dir.path().join("LOCK")).unwrap();
        assert!(OsDisk.open(&link).is_err());
        assert!(OsDisk.create(&link).is_err());
        assert!(OsDisk.open_or_create(&link).is_err());
        assert!(ReadOnlyDisk.open(&link).is_err());
        assert!(OsDisk.lock(dir.path()).is_err());
        assert!(ReadOnlyDisk.lock(dir.path()).is_err());
        assert!(OsDisk.open(&theirs).is_ok(), "by its own name");
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs");
    }

    #[test]
    fn a_directory_that_others_may_change_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o700, 0o755, 0o775] {
            chmod(dir.path(), mode);
            assert_eq!(OsDisk.exposed(dir.path()).unwrap(), None, "{mode:o}");
        }
        for mode in [0o777, 0o1777, 0o702] {
            chmod(dir.path(), mode);
            let exposed = OsDisk.exposed(dir.path()).unwrap();
            let exposed = exposed.expect("others may write");
            assert_eq!((exposed.mode, exposed.is_anothers), (mode, false));
            let mend = exposed.mend(dir.path());
            assert!(mend.starts_with("chmod go-w "), "{mend}");
        }
    }
}
