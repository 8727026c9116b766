//! Open files of sealed segments: they are opened when they are read, and only so many stay open.
//!
//! A log has more segments than a process may have files open. A file that is read seldom is opened anew each
//! time; one that is read often stays open, and who read it before finds it without a look at the list. A reader holds a
//! [`Lease`], one at a time. If as many are held as files may be open, the next reader waits until one is given back.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::disk::{self, Disk, File};
use crate::log::Error;
use crate::log::config::FILES_MIN;

/// Maps that stay: of the indexes of sealed segments, and of the seals with their directories. A map needs no open
/// file, but a process may have 65,530 maps only, unless the system is told otherwise.
const MAPS_MAX: usize = if cfg!(test) { 8 } else { 8192 };
/// A map of a rewritten segment is large if it has more bytes than this, and the large ones take so many together: what
/// was read of a map counts as memory of the process. What compaction leaves has rows for what is gone, so that its index
/// may be larger than any of a segment as it was appended. Those do not count: readers of small records need them.
const LARGE_BYTES: usize = if cfg!(test) { 256 } else { 4 << 20 };
pub const LARGE_BYTES_MAX: usize = if cfg!(test) { 1 << 10 } else { 8 << 20 };

/// The files of a log's sealed segments.
pub struct Handles {
    disk: Arc<dyn Disk>,
    files_max: usize,
    /// By their paths, as strings: the parts of a path take longer to hash than a short read does.
    open: Mutex<HashMap<OsString, Arc<OpenFile>>>,
    /// Those who wait until a file is given back.
    waiting: AtomicUsize,
    given_back: Condvar,
    maps: AtomicUsize,
    /// The bytes of large ones.
    large: AtomicUsize,
    /// Whether one was made since somebody looked whether there are too many.
    are_more: AtomicBool,
    turn: AtomicU64,
}

/// An open file: whoever holds it but the list has a lease.
pub struct OpenFile {
    file: Arc<dyn File>,
    /// When it was asked for last.
    turn: AtomicU64,
}

/// An open file that stays open for as long as this is held.
pub struct Lease(Held);

enum Held {
    Kept(Arc<dyn File>),
    /// The file is taken out when it is given back.
    Leased(Option<Arc<OpenFile>>, Arc<Handles>),
}

impl Handles {
    pub fn new(disk: Arc<dyn Disk>, files_max: usize) -> Arc<Self> {
        Arc::new(Self {
            disk,
            files_max: files_max.max(FILES_MIN),
            open: Mutex::default(),
            waiting: AtomicUsize::new(0),
            given_back: Condvar::new(),
            maps: AtomicUsize::new(0),
            large: AtomicUsize::new(0),
            are_more: AtomicBool::new(false),
            turn: AtomicU64::new(0),
        })
    }

    /// The file that was opened before, if it is open still. Nobody is waited for.
    pub fn again(self: &Arc<Self>, file: &Weak<OpenFile>) -> Option<Lease> {
        Some(self.lease(file.upgrade()?))
    }

    /// The file, opened if it is not.
    pub fn open(self: &Arc<Self>, path: &Path) -> Result<Lease, Error> {
        let name = path.as_os_str();
        let mut open = self.open.lock();
        loop {
            if let Some(file) = open.get(name) {
                return Ok(self.lease(file.clone()));
            }
            if open.len() < self.files_max || close_idle(&mut open, 1) > 0 {
                break;
            }
            self.wait(&mut open);
        }
        let file = match self.disk.open(path) {
            // Others have taken the remaining descriptors: close files that are open for later use only.
            Err(error)
                if disk::is_short_of_files(&error) && close_idle(&mut open, usize::MAX) > 0 =>
            {
                self.disk.open(path)
            }
            opened => opened,
        };
        let file = Arc::new(OpenFile {
            file: file.map_err(Error::io("open", path))?,
            turn: AtomicU64::new(0),
        });
        open.insert(name.to_owned(), file.clone());
        Ok(self.lease(file))
    }

    /// How many wait for a file.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    fn lease(self: &Arc<Self>, file: Arc<OpenFile>) -> Lease {
        file.turn.store(self.next_turn(), Ordering::Relaxed);
        Lease(Held::Leased(Some(file), self.clone()))
    }

    /// Waits until a file may have been given back.
    fn wait(&self, open: &mut MutexGuard<'_, HashMap<OsString, Arc<OpenFile>>>) {
        // Who gives a file back looks for those who wait, after that. So whoever waits says so before it looks for files
        // that were given back: one of both sees the other.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if close_idle(open, 1) == 0 {
            self.given_back.wait(open);
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Forgets the open file of a path, which names another file or none from now on.
    pub fn forget(&self, path: &Path) {
        self.open.lock().remove(path.as_os_str());
        self.given_back.notify_all();
    }

    /// Forgets the files of all paths.
    pub fn forget_all(&self) {
        self.open.lock().clear();
        self.given_back.notify_all();
    }

    /// A map was made, of so many bytes that count as large.
    pub fn map_made(&self, large: usize) {
        self.maps.fetch_add(1, Ordering::Relaxed);
        self.large.fetch_add(large, Ordering::Relaxed);
        self.are_more.store(true, Ordering::Release);
    }

    /// Whether maps were made since this was asked last.
    pub fn are_more(&self) -> bool {
        self.are_more.load(Ordering::Relaxed) && self.are_more.swap(false, Ordering::Acquire)
    }

    /// A map is gone, of so many bytes that count as large.
    pub fn map_gone(&self, large: usize) {
        self.maps.fetch_sub(1, Ordering::Relaxed);
        self.large.fetch_sub(large, Ordering::Relaxed);
    }

    /// How many maps are too many; 0 as a rule.
    pub fn maps_over(&self) -> usize {
        let maps = self.maps.load(Ordering::Relaxed);
        if maps > MAPS_MAX {
            // Some more, so that this does not come with every read.
            maps - MAPS_MAX + MAPS_MAX / 4
        } else {
            0
        }
    }

    /// How many bytes of large maps are too many; 0 as a rule.
    pub fn large_over(&self) -> usize {
        let large = self.large.load(Ordering::Relaxed);
        large.saturating_sub(LARGE_BYTES_MAX)
    }

    /// The number that the next one to use something gets.
    pub fn turn(&self) -> u64 {
        self.turn.load(Ordering::Relaxed)
    }

    /// A number that grows, to tell what was used last.
    pub fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

/// What counts as large of a map of so many bytes of a segment: all or nothing.
pub fn large(bytes: usize, is_rewritten: bool) -> usize {
    if is_rewritten && bytes > LARGE_BYTES {
        bytes
    } else {
        0
    }
}

/// Closes up to so many files that nobody holds, the one that was asked for longest ago first; gives how many.
fn close_idle(open: &mut HashMap<OsString, Arc<OpenFile>>, count: usize) -> usize {
    let idle = open.iter().filter(|(_, file)| Arc::strong_count(file) == 1);
    let turn = |file: &OpenFile| file.turn.load(Ordering::Relaxed);
    let mut idle: Vec<_> = idle
        .map(|(name, file)| (turn(file), name.clone()))
        .collect();
    idle.sort_unstable();
    let mut closed = 0;
    for (_, name) in idle {
        if closed == count {
            break;
        }
        // Somebody may have taken it up meanwhile.
        match open.remove(&name).map(Arc::try_unwrap) {
            Some(Err(held)) => drop(open.insert(name, held)),
            Some(Ok(_)) => closed += 1,
            None => {}
        }
    }
    closed
}

impl Lease {
    /// A file that is open anyway.
    pub fn kept(file: Arc<dyn File>) -> Self {
        Self(Held::Kept(file))
    }

    /// The way back to its file, for as long as that is open.
    pub fn remembered(&self) -> Weak<OpenFile> {
        match &self.0 {
            Held::Leased(Some(file), _) => Arc::downgrade(file),
            Held::Kept(_) | Held::Leased(None, _) => Weak::new(),
        }
    }
}

impl Deref for Lease {
    type Target = dyn File;

    fn deref(&self) -> &Self::Target {
        match &self.0 {
            Held::Kept(file) => &**file,
            Held::Leased(file, _) => &*file.as_ref().expect("it is not given back").file,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Held::Leased(file, handles) = &mut self.0 {
            drop(file.take());
            fence(Ordering::SeqCst);
            if handles.waiting.load(Ordering::SeqCst) > 0 {
                // Whoever said that it waits does so by the time that this lock is had.
                drop(handles.open.lock());
                handles.given_back.notify_one();
            }
        }
    }
}

impl fmt::Debug for Handles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handles({} at most)", self.files_max)
    }
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}
