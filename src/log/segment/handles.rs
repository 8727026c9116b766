//! Open files of sealed segments: they are opened when they are read, and only so many stay open.
//!
//! A log has more segments than a process may have files open. A file that is read seldom is opened anew each
//! time; one that is read often stays open. A reader holds a [`Lease`], one at a time. If as many are held as
//! files may be open, the next reader waits until one is given back.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::disk::{self, Disk, File};
use crate::log::Error;
use crate::log::config::FILES_MIN;

/// Maps that stay: of the indexes of sealed segments, and of the seals with their directories. A map needs no open
/// file, but a process may have 65,530 maps only, unless the system is told otherwise.
const MAPS_MAX: usize = if cfg!(test) { 8 } else { 8192 };

/// The files of a log's sealed segments.
pub struct Handles {
    disk: Arc<dyn Disk>,
    files_max: usize,
    open: Mutex<Open>,
    given_back: Condvar,
    maps: AtomicUsize,
    turn: AtomicU64,
}

#[derive(Default)]
struct Open {
    /// By their paths, as strings: the parts of a path take longer to hash than a short read does.
    files: HashMap<OsString, Entry>,
    turn: u64,
}

struct Entry {
    file: Arc<dyn File>,
    leases: usize,
    /// When it was asked for last.
    turn: u64,
}

/// An open file that stays open for as long as this is held.
pub struct Lease {
    file: Arc<dyn File>,
    from: Option<(Arc<Handles>, OsString)>,
}

impl Handles {
    pub fn new(disk: Arc<dyn Disk>, files_max: usize) -> Arc<Self> {
        Arc::new(Self {
            disk,
            files_max: files_max.max(FILES_MIN),
            open: Mutex::default(),
            given_back: Condvar::new(),
            maps: AtomicUsize::new(0),
            turn: AtomicU64::new(0),
        })
    }

    /// The file, opened if it is not.
    pub fn open(self: &Arc<Self>, path: &Path) -> Result<Lease, Error> {
        let name = path.as_os_str();
        let mut open = self.open.lock();
        open.turn += 1;
        let turn = open.turn;
        loop {
            if let Some(entry) = open.files.get_mut(name) {
                entry.leases += 1;
                entry.turn = turn;
                let from = Some((self.clone(), name.to_owned()));
                let file = entry.file.clone();
                return Ok(Lease { file, from });
            }
            if open.files.len() < self.files_max || open.close_idle(1) > 0 {
                break;
            }
            self.given_back.wait(&mut open);
        }
        let file = match self.disk.open(path) {
            // Others have taken the remaining descriptors: close files that are open for later use only.
            Err(error) if disk::is_short_of_files(&error) && open.close_idle(usize::MAX) > 0 => {
                self.disk.open(path)
            }
            opened => opened,
        };
        let file = file.map_err(Error::io("open", path))?;
        let entry = Entry {
            file: file.clone(),
            leases: 1,
            turn,
        };
        open.files.insert(name.to_owned(), entry);
        let from = Some((self.clone(), name.to_owned()));
        Ok(Lease { file, from })
    }

    /// Forgets the open file of a path, which names another file or none from now on.
    pub fn forget(&self, path: &Path) {
        self.open.lock().files.remove(path.as_os_str());
        self.given_back.notify_all();
    }

    /// Forgets the files of all paths.
    pub fn forget_all(&self) {
        self.open.lock().files.clear();
        self.given_back.notify_all();
    }

    /// A map was made.
    pub fn map_made(&self) {
        self.maps.fetch_add(1, Ordering::Relaxed);
    }

    /// A map is gone.
    pub fn map_gone(&self) {
        self.maps.fetch_sub(1, Ordering::Relaxed);
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

    /// A number that grows, to tell what was used last.
    pub fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

impl Open {
    /// Closes up to so many files that nobody holds, the one that was asked for longest ago first;
    /// gives how many.
    fn close_idle(&mut self, count: usize) -> usize {
        let idle = self.files.iter().filter(|(_, entry)| entry.leases == 0);
        let mut idle: Vec<_> = idle
            .map(|(path, entry)| (entry.turn, path.clone()))
            .collect();
        idle.sort_unstable();
        idle.truncate(count);
        for (_, path) in &idle {
            self.files.remove(path);
        }
        idle.len()
    }
}

impl Lease {
    /// A file that is open anyway.
    pub fn kept(file: Arc<dyn File>) -> Self {
        Self { file, from: None }
    }
}

impl Deref for Lease {
    type Target = dyn File;

    fn deref(&self) -> &Self::Target {
        &*self.file
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((handles, path)) = self.from.take() {
            let mut open = handles.open.lock();
            if let Some(entry) = open.files.get_mut(&path)
                && Arc::ptr_eq(&entry.file, &self.file)
            {
                entry.leases -= 1;
            }
            drop(open);
            handles.given_back.notify_one();
        }
    }
}

impl fmt::Debug for Handles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handles({} at most)", self.files_max)
    }
}
