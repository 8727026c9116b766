//! Making the files of segments: ahead of need on a thread beside the writer, else by the writer.
//!
//! Making one takes room and time: blocks are allocated for all that it will hold. So a spare pair
//! of files is made once the last segment is a quarter full. Until then three quarters of that one
//! are in hand, from then on a whole segment: what is under way fits there, whatever becomes of the
//! disk. The spare has names of its own, since nobody knows yet which entry it will begin with. A
//! crash leaves it behind, and the next start removes it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::tasks;

use crate::disk::{Disk, File};
use crate::log::format::file_header::{self, Magic};
use crate::log::format::files;
use crate::log::format::seal_file;
use crate::log::segment::index_file::IndexFile;
use crate::log::segment::store::Store;
use crate::log::{Config, Error, Index};

/// The names of the spare's files.
const SPARE: [&str; 2] = ["spare-store", "spare-index"];
/// The part of a segment that is full when the next one is made.
const AHEAD_SHARE: u32 = 4;

/// What the writer makes before it writes a segment's first entry.
#[derive(Debug)]
pub struct Plan {
    /// The index beside the store.
    pub rows: IndexFile,
    /// The index's length.
    pub index_bytes: u64,
    /// The store's length.
    pub store_bytes: u32,
}

/// Two open files, allocated and empty.
#[derive(Debug)]
struct Pair {
    store: Arc<dyn File>,
    index: Arc<dyn File>,
}

/// Makes segments' files in one directory. It belongs to the writer.
#[derive(Debug)]
pub struct Maker {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    config: Config,
    spare: Spare,
    /// Whether a whole segment is in hand, for those who ask from other threads.
    in_hand: Arc<AtomicBool>,
}

/// What the thread leaves.
type Made = Arc<Mutex<Option<Result<Pair, Error>>>>;

#[derive(Debug)]
enum Spare {
    None,
    /// There was no room for it: it is not tried again before the next segment.
    Failed,
    Under(JoinHandle<()>, Made),
    Ready(Pair),
}

impl Maker {
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, config: &Config) -> Self {
        Self {
            disk,
            dir: dir.to_owned(),
            config: config.clone(),
            spare: Spare::None,
            in_hand: Arc::default(),
        }
    }

    /// Whether a spare is ready.
    pub fn in_hand(&self) -> Arc<AtomicBool> {
        self.in_hand.clone()
    }

    /// The last segment is full up to `end`: makes the next one ahead of need.
    pub fn look_ahead(&mut self, end: u64) {
        let late = end >= u64::from(self.config.segment_bytes_max / AHEAD_SHARE);
        if !late || !matches!(self.spare, Spare::None) || !self.has_room_to_spare() {
            return;
        }
        let (disk, dir, config) = (self.disk.clone(), self.dir.clone(), self.config.clone());
        let in_hand = self.in_hand.clone();
        let make = move || {
            let made = make_spare(&*disk, &dir, &config);
            in_hand.store(made.is_ok(), Ordering::Release);
            made
        };
        if self.config.inline_io {
            self.spare = Spare::of(Some(make()));
            return;
        }
        // Allocating takes as long as it likes: nobody waits for this thread but the writer, once it
        // needs the files.
        let made = Made::default();
        let theirs = made.clone();
        let thread = tasks::spawn_thread("log-maker", move || *theirs.lock() = Some(make()));
        self.spare = thread.map_or(Spare::Failed, |thread| Spare::Under(thread, made));
    }

    /// The last of the room is not for what may not be needed.
    fn has_room_to_spare(&self) -> bool {
        let bytes = u64::from(self.config.segment_bytes_max) + self.config.index_bytes_max as u64;
        let available = self.disk.available(&self.dir);
        available.is_ok_and(|left| left >= bytes.saturating_add(self.config.spare_above_bytes))
    }

    /// Makes the files of a segment, durable with their names. Done again after an error it comes
    /// to the same.
    pub fn make(&mut self, store: &Store, plan: &Plan) -> Result<(), Error> {
        if store.is_made() {
            return Ok(());
        }
        let pair = match self.take_spare(plan) {
            Some(pair) => self.name_spare(pair, store, plan)?,
            None => self.make_now(store, plan)?,
        };
        self.spare = Spare::None;
        plan.rows.made(pair.index);
        store.made(pair.store);
        Ok(())
    }

    /// The spare, if it is large enough; waits for one that is under way.
    fn take_spare(&mut self, plan: &Plan) -> Option<Pair> {
        let fits = plan.store_bytes <= self.config.segment_bytes_max
            && plan.index_bytes <= self.config.index_bytes_max as u64;
        self.spare = match std::mem::replace(&mut self.spare, Spare::None) {
            Spare::Under(thread, made) => {
                // A panic there ended the process, or was reported.
                let _ = thread.join();
                Spare::of(made.lock().take())
            }
            spare => spare,
        };
        match std::mem::replace(&mut self.spare, Spare::None) {
            Spare::Ready(pair) if fits => {
                self.in_hand.store(false, Ordering::Release);
                Some(pair)
            }
            spare => {
                self.spare = spare;
                None
            }
        }
    }

    /// Gives the spare the names of a segment.
    fn name_spare(&mut self, pair: Pair, store: &Store, plan: &Plan) -> Result<Pair, Error> {
        let named = self.try_to_name(&pair, store, plan);
        match named {
            Ok(()) => Ok(pair),
            Err(error) => {
                self.spare = Spare::Ready(pair);
                Err(error)
            }
        }
    }

    fn try_to_name(&self, pair: &Pair, store: &Store, plan: &Plan) -> Result<(), Error> {
        let [store_from, index_from] = SPARE.map(|name| self.dir.join(name));
        begin(pair, store.base(), &self.dir)?;
        for (from, to) in [(index_from, plan.rows.path()), (store_from, store.path())] {
            match self.disk.rename(&from, to) {
                // Renamed by a try before this one, which failed later.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done.map_err(Error::io("move", from))?,
            }
        }
        let dir = &self.dir;
        self.disk.sync_dir(dir).map_err(Error::io("sync", dir))
    }

    fn make_now(&self, store: &Store, plan: &Plan) -> Result<Pair, Error> {
        let paths = [store.path(), plan.rows.path()];
        let bytes = [u64::from(plan.store_bytes), plan.index_bytes];
        let made = make_pair(&*self.disk, paths, bytes).and_then(|pair| {
            begin(&pair, store.base(), &self.dir)?;
            let dir = &self.dir;
            self.disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
            Ok(pair)
        });
        made.inspect_err(|_| {
            for path in paths {
                // What stays is found empty by the next try, or on the next start.
                let _ = self.disk.remove(path);
            }
        })
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        if let Spare::Under(thread, _) = std::mem::replace(&mut self.spare, Spare::None) {
            // Whoever opens the log next must not meet a thread that still makes files there.
            let _ = thread.join();
        }
    }
}

impl Spare {
    fn of(made: Option<Result<Pair, Error>>) -> Self {
        match made {
            Some(Ok(pair)) => Self::Ready(pair),
            Some(Err(error)) => {
                tracing::warn!(%error, "the next segment could not be made ahead of need");
                Self::Failed
            }
            None => Self::Failed,
        }
    }
}

fn make_spare(disk: &dyn Disk, dir: &Path, config: &Config) -> Result<Pair, Error> {
    let [store, index] = SPARE.map(|name| dir.join(name));
    let bytes = [
        u64::from(config.segment_bytes_max),
        config.index_bytes_max as u64,
    ];
    make_pair(disk, [&store, &index], bytes).inspect_err(|_| {
        for path in [&store, &index] {
            // What stays of it is found by the next try, or on the next start.
            let _ = disk.remove(path);
        }
    })
}

/// Makes two files, empty and allocated; leftovers of those names are cut.
fn make_pair(disk: &dyn Disk, paths: [&Path; 2], bytes: [u64; 2]) -> Result<Pair, Error> {
    let make = |path: &Path, bytes: u64| {
        let file = disk
            .open_or_create(path)
            .map_err(Error::io("create", path))?;
        file.set_len(0).map_err(Error::io("cut", path))?;
        file.allocate(bytes).map_err(Error::io("allocate", path))?;
        Ok::<_, Error>(file)
    };
    let store = make(paths[0], bytes[0])?;
    let index = make(paths[1], bytes[1])?;
    Ok(Pair { store, index })
}

/// Writes the headers.
fn begin(pair: &Pair, base: Index, dir: &Path) -> Result<(), Error> {
    for (file, magic) in [(&pair.store, Magic::Store), (&pair.index, Magic::Index)] {
        file.write_all_at(&file_header::encode(magic, base), 0)
            .map_err(Error::io("write a header in", dir))?;
    }
    Ok(())
}

/// Removes what an earlier process made and did not name: a spare, a seal.
pub fn remove_left(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    let names = SPARE.into_iter().chain([seal_file::UNNAMED]);
    files::remove_files(disk, dir, names.map(|name| dir.join(name)))
}
