//! A disk in memory that knows what was synced: the faulty twin of the real one.
//!
//! [`MemoryDisk::crash`] is a power cut: what was not synced is gone, names included. Whole nodes
//! run on it in tests, and a test can watch each write and sync as it comes.

mod held;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::{DirLock, Disk, File};
use held::{Bytes, Content, Names, Rename, SECTOR_BYTES};

/// What is about to happen. A watcher is told before it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A file is about to be made.
    Create,
    /// Room is about to be taken for a file.
    Allocate,
    /// Bytes are about to be written.
    Write,
    /// A file is about to be synced.
    Sync,
    /// A directory is about to be synced.
    SyncDir,
    /// A file is about to get another name.
    Rename,
    /// A file's name is about to be removed.
    Remove,
    /// Bytes are about to be read.
    Read,
}

type Watcher = Arc<dyn Fn(Event, &Path) -> io::Result<()> + Send + Sync>;

/// Files in memory; clones share them.
#[derive(Clone)]
pub struct MemoryDisk(Arc<DiskState>);

impl Default for MemoryDisk {
    fn default() -> Self {
        Self::of(Names::default())
    }
}

struct DiskState {
    names: Mutex<Names>,
    available: AtomicU64,
    watcher: Mutex<Option<Watcher>>,
    /// Files that are open, those that may be, and how many were ever opened.
    files: AtomicUsize,
    files_max: AtomicUsize,
    opened: AtomicUsize,
}

struct MemoryFile {
    path: PathBuf,
    content: Arc<Content>,
    disk: Arc<DiskState>,
}

impl MemoryDisk {
    /// Calls `watcher` before each write and sync; its error becomes the disk's.
    pub fn watch(&self, watcher: impl Fn(Event, &Path) -> io::Result<()> + Send + Sync + 'static) {
        *self.0.watcher.lock() = Some(Arc::new(watcher));
    }

    /// A disk that holds what a power cut leaves of this one at the worst: nothing unsynced.
    pub fn crash(&self) -> Self {
        self.crash_by(|| 0)
    }

    /// A disk that holds what a power cut may leave of this one: of each unsynced write nothing,
    /// all or a part, of each unsynced change of a name or a length either state. `choose` decides,
    /// by numbers that should be spread evenly; 0 always loses.
    pub fn crash_by(&self, mut choose: impl FnMut() -> u64) -> Self {
        Self::of(self.0.names.lock().survive(&mut choose))
    }

    /// A disk of its own in the same state: what a process leaves that is killed. What it had not
    /// synced is there, and can still be lost.
    pub fn kill(&self) -> Self {
        Self::of(self.0.names.lock().copy())
    }

    fn of(names: Names) -> Self {
        Self(Arc::new(DiskState {
            names: Mutex::new(names),
            available: AtomicU64::new(u64::MAX),
            watcher: Mutex::default(),
            files: AtomicUsize::new(0),
            files_max: AtomicUsize::new(usize::MAX),
            opened: AtomicUsize::new(0),
        }))
    }

    /// Sets the room that is left, in bytes; the disk itself takes any amount.
    pub fn set_available(&self, bytes: u64) {
        self.0.available.store(bytes, Ordering::Relaxed);
    }

    /// Sets how many files may be open at once: beyond it there is no descriptor left.
    pub fn set_files_max(&self, files: usize) {
        self.0.files_max.store(files, Ordering::Relaxed);
    }

    /// The files that are open, and how many were ever opened.
    pub fn files_open(&self) -> (usize, usize) {
        let number = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        (number(&self.0.files), number(&self.0.opened))
    }

    /// Changes a file behind its user's back, as bit rot does.
    pub fn corrupt(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let content = self.0.names.lock().live[path].clone();
        let mut bytes = content.0.lock();
        change(&mut bytes.live);
        bytes.synced = bytes.live.clone();
        bytes.dirty.clear();
    }

    /// Whether all that was written to the file is synced.
    pub fn is_synced(&self, path: &Path) -> bool {
        let content = self.0.names.lock().live.get(path).cloned();
        content.is_none_or(|content| content.0.lock().dirty.is_empty())
    }

    /// Has the next read of the sector with this byte, counted round, see zeros: as it was before it was written.
    pub fn read_stale(&self, path: &Path, byte: usize) {
        let content = self.0.names.lock().live[path].clone();
        let mut bytes = content.0.lock();
        let byte = byte % bytes.live.len().max(1);
        bytes.stale = Some(byte - byte % SECTOR_BYTES);
    }

    fn file(&self, path: &Path, content: Arc<Content>) -> Arc<dyn File> {
        self.0.files.fetch_add(1, Ordering::Relaxed);
        self.0.opened.fetch_add(1, Ordering::Relaxed);
        Arc::new(MemoryFile {
            path: path.to_owned(),
            content,
            disk: self.0.clone(),
        })
    }
}

impl DiskState {
    /// An error if no descriptor is left.
    fn descriptor(&self) -> io::Result<()> {
        if self.files.load(Ordering::Relaxed) < self.files_max.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(rustix::io::Errno::MFILE.into())
    }

    fn tell(&self, event: Event, path: &Path) -> io::Result<()> {
        let watcher = self.watcher.lock().clone();
        watcher.map_or(Ok(()), |watcher| watcher(event, path))
    }
}

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryDisk")
    }
}

impl Disk for MemoryDisk {
    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.descriptor()?;
        let names = self.0.names.lock();
        let here = names.live.keys().filter(|path| path.parent() == Some(dir));
        let text = here.filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
        Ok(text.collect())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let names = self.0.names.lock();
        let content = names.live.get(path).ok_or(io::ErrorKind::NotFound)?;
        self.0.descriptor()?;
        Ok(self.file(path, content.clone()))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.0.tell(Event::Create, path)?;
        let mut names = self.0.names.lock();
        if names.live.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.0.descriptor()?;
        let content = Arc::<Content>::default();
        names.live.insert(path.to_owned(), content.clone());
        Ok(self.file(path, content))
    }

    fn len_of(&self, path: &Path) -> io::Result<u64> {
        let names = self.0.names.lock();
        let content = names.live.get(path).ok_or(io::ErrorKind::NotFound)?;
        let len = content.0.lock().live.len();
        Ok(len as u64)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.tell(Event::Remove, path)?;
        let gone = self.0.names.lock().live.remove(path);
        gone.map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.tell(Event::Rename, from)?;
        let mut names = self.0.names.lock();
        let content = names.live.remove(from).ok_or(io::ErrorKind::NotFound)?;
        names.live.insert(to.to_owned(), content.clone());
        content.0.lock().renamed = Some(to.to_owned());
        let (from, to) = (from.to_owned(), to.to_owned());
        names.renames.push(Rename { from, to, content });
        Ok(())
    }

    fn available(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.0.available.load(Ordering::Relaxed))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.descriptor()?;
        self.0.tell(Event::SyncDir, dir)?;
        let mut names = self.0.names.lock();
        let Names {
            live,
            synced,
            renames,
        } = &mut *names;
        // A journal commits whole: the renames that touch the directory, and those before them.
        let last = renames.iter().rposition(|rename| rename.touches(dir));
        for rename in renames.drain(..last.map_or(0, |last| last + 1)) {
            rename.apply(synced);
        }
        synced.retain(|path, _| path.parent() != Some(dir) || live.contains_key(path));
        let here = live.iter().filter(|(path, _)| path.parent() == Some(dir));
        synced.extend(here.map(|(path, content)| (path.clone(), content.clone())));
        Ok(())
    }

    fn lock(&self, _dir: &Path) -> io::Result<DirLock> {
        Ok(DirLock::unshared())
    }
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryFile({})", self.path.display())
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        self.disk.files.fetch_sub(1, Ordering::Relaxed);
    }
}

impl MemoryFile {
    fn tell(&self, event: Event) -> io::Result<()> {
        let renamed = self.content.0.lock().renamed.clone();
        self.disk
            .tell(event, renamed.as_deref().unwrap_or(&self.path))
    }
}

/// Positions fit a memory disk's `Vec`, or the caller is wrong about the file.
fn place(position: u64) -> io::Result<usize> {
    usize::try_from(position).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl File for MemoryFile {
    fn read_exact_at(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        self.tell(Event::Read)?;
        let at = place(position)?;
        let mut bytes = self.content.0.lock();
        let range = bytes.live.get(at..).and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(range.ok_or(io::ErrorKind::UnexpectedEof)?);
        let end = at + buf.len();
        let touched = |stale: &mut usize| *stale < end && at < *stale + SECTOR_BYTES;
        if let Some(stale) = bytes.stale.take_if(touched) {
            let (from, to) = (stale.max(at), (stale + SECTOR_BYTES).min(end));
            buf[from - at..to - at].fill(0);
        }
        Ok(())
    }

    fn write_all_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        self.tell(Event::Write)?;
        let at = place(position)?;
        let mut bytes = self.content.0.lock();
        let end = at + buf.len();
        if bytes.live.len() < end {
            bytes.live.resize(end, 0);
        }
        bytes.live[at..end].copy_from_slice(buf);
        bytes.dirty.push((at, end));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let told = self.tell(Event::Sync);
        let mut bytes = self.content.0.lock();
        if told.is_err() {
            // As Linux does: it takes the pages for written, and keeps them.
            bytes.dirty.clear();
            return told;
        }
        let Bytes {
            live,
            synced,
            dirty,
            ..
        } = &mut *bytes;
        synced.resize(live.len(), 0);
        for (from, to) in dirty.drain(..) {
            let to = to.min(live.len());
            if from < to {
                synced[from..to].copy_from_slice(&live[from..to]);
            }
        }
        Ok(())
    }

    fn forget_cached(&self) -> io::Result<()> {
        let mut bytes = self.content.0.lock();
        if bytes.dirty.is_empty() {
            bytes.live = bytes.synced.clone();
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.0.lock().live.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = place(len)?;
        let mut bytes = self.content.0.lock();
        let before = bytes.live.len();
        bytes.live.resize(len, 0);
        // A cut that is grown again must read as zeros after the next sync.
        bytes.dirty.push((before.min(len), before.max(len)));
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.tell(Event::Allocate)?;
        if self.len()? < len {
            self.set_len(len)?;
        }
        Ok(())
    }

    fn mappable(&self) -> Option<&fs::File> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_synced_and_no_more() {
        let disk = MemoryDisk::default();
        let dir = Path::new("/d");
        let file = disk.create(&dir.join("a")).unwrap();
        file.write_all_at(b"kept", 0).unwrap();
        file.sync_data().unwrap();
        assert!(disk.crash().open(&dir.join("a")).is_err(), "no name yet");
        disk.sync_dir(dir).unwrap();
        file.write_all_at(b"lost", 4).unwrap();

        let file = disk.crash().open(&dir.join("a")).unwrap();
        let mut buf = [0; 4];
        file.read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"kept");
        assert_eq!(file.len().unwrap(), 4);
    }

    #[test]
    fn a_cut_that_grows_again_reads_as_zeros() {
        let disk = MemoryDisk::default();
        let path = Path::new("/d/a");
        let file = disk.create(path).unwrap();
        file.write_all_at(b"12345678", 0).unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        file.sync_data().unwrap();
        file.set_len(4).unwrap();
        file.allocate(8).unwrap();
        file.sync_data().unwrap();
        let mut buf = [0; 8];
        let file = disk.crash().open(path).unwrap();
        file.read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"1234\0\0\0\0");
    }

    #[test]
    fn one_read_of_a_stale_sector_shows_what_was_there_before_it_was_written() {
        let disk = MemoryDisk::default();
        let path = Path::new("/d/f");
        let file = disk.create(path).unwrap();
        file.write_all_at(&[7; 2048], 0).unwrap();
        disk.read_stale(path, 700);
        let read = |from: u64| {
            let mut bytes = [0; 1024];
            file.read_exact_at(&mut bytes, from).unwrap();
            bytes
        };
        assert_eq!(read(1024), [7; 1024], "another sector");
        let stale = read(256);
        assert_eq!(stale[..256], [7; 256]);
        assert_eq!(stale[256..768], [0; 512]);
        assert_eq!(stale[768..], [7; 256]);
        assert_eq!(read(256), [7; 1024], "the next read is right again");
    }
}
