//! The database of the stable store, opened anew after a failure.
//!
//! After a failed write or sync redb does nothing more: what it holds in memory may differ from the file. A node that
//! went on with that would save no checkpoint until it is started again, and keep every segment. So the file is opened
//! anew, as a start does it: what is there is made durable first and is then read from the disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use redb::{Database, StorageBackend};

use crate::disk::{Disk, File};
use crate::metrics::Counter;
use crate::raft::error::{Cause, StableError};
use crate::tasks;

use super::FILE;

const CACHE_BYTES: usize = 1 << 20;
/// What the file is called until it is a whole database.
const NEW: &str = "stable.redb.new";

/// The database, as long as nothing has failed.
#[derive(Debug)]
pub struct Opened {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    database: Mutex<Option<Database>>,
    /// Bytes that it wrote.
    written: Arc<Counter>,
}

impl Opened {
    /// Opens the database in `dir`, or makes an empty one.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, StableError> {
        let opened = Self {
            disk,
            dir: dir.to_owned(),
            database: Mutex::default(),
            written: Arc::default(),
        };
        *opened.database.lock() = Some(opened.database()?);
        Ok(opened)
    }

    /// Does something with the database, one caller at a time. If that fails, the next one opens it anew.
    pub fn with<T>(
        &self,
        failed: impl FnOnce(Cause) -> StableError,
        act: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StableError> {
        let mut held = self.database.lock();
        let database = match held.take() {
            Some(database) => database,
            None => {
                let database = self.database()?;
                tracing::info!("opened the stable store anew after a failure");
                database
            }
        };
        let done = act(&database);
        if !matches!(done, Err(redb::Error::Io(_) | redb::Error::PreviousIo)) {
            *held = Some(database);
        }
        done.map_err(|error| failed(Box::new(error)))
    }

    pub fn written_bytes(&self) -> u64 {
        self.written.get()
    }

    /// Makes an empty database, if there is none. It gets its name once it is whole: of half of one a start could not tell
    /// whether it ever held a vote.
    fn make(&self, path: &Path) -> Result<(), StableError> {
        let failed = |error: io::Error| not_opened(path, error);
        match self.disk.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found.map(drop).map_err(failed),
        }
        let new = self.dir.join(NEW);
        match self.disk.remove(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let file = self.disk.open_or_create(&new).map_err(failed)?;
        let made = Database::builder().create_with_backend(self.backend(file.clone()));
        drop(made.map_err(|error| not_opened(path, redb::Error::from(error)))?);
        file.sync_data().map_err(failed)?;
        self.disk.rename(&new, path).map_err(failed)?;
        self.disk.sync_dir(&self.dir).map_err(failed)
    }

    fn backend(&self, file: Arc<dyn File>) -> Backend {
        Backend {
            file,
            written: self.written.clone(),
        }
    }

    fn database(&self) -> Result<Database, StableError> {
        let path = self.dir.join(FILE);
        self.make(&path)?;
        let failed = |error: io::Error| not_opened(&path, error);
        let file = self.disk.open(&path).map_err(failed)?;
        file.settle().map_err(failed)?;
        self.disk.sync_dir(&self.dir).map_err(failed)?;
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let backend = self.backend(file);
        // redb panics on some damaged pages, so a panic here counts as damage.
        let open = || -> Result<Database, redb::DatabaseError> {
            let mut database = builder.create_with_backend(backend)?;
            // The database is small, so every page is read and checked.
            match database.check_integrity()? {
                true => Ok(database),
                false => Err(redb::StorageError::Corrupted(String::new()).into()),
            }
        };
        let damaged = || StableError::Damaged {
            path: path.clone(),
            what: "damaged",
        };
        match tasks::catch(open).map_err(|_| damaged())? {
            Ok(database) => Ok(database),
            Err(
                redb::DatabaseError::Storage(redb::StorageError::Corrupted(_))
                | redb::DatabaseError::RepairAborted
                | redb::DatabaseError::UpgradeRequired(_),
            ) => Err(damaged()),
            Err(error) => Err(not_opened(&path, redb::Error::from(error))),
        }
    }
}

/// The error of a store that cannot be opened.
pub fn not_opened(path: &Path, error: impl Into<Cause>) -> StableError {
    StableError::Open {
        path: path.to_owned(),
        source: error.into(),
    }
}

/// A file of the disk seam behind redb's own interface.
#[derive(Debug)]
struct Backend {
    file: Arc<dyn File>,
    written: Arc<Counter>,
}

/// As the system's error, of the kind that the system gave: it tells whether the same may work later.
pub fn system_error(error: StableError) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    let mut found = None;
    while let Some(at) = cause {
        found = match at.downcast_ref::<redb::Error>() {
            // The database does not tell its cause otherwise.
            Some(redb::Error::Io(error)) => Some(error),
            _ => at.downcast_ref::<io::Error>(),
        };
        cause = at.source().filter(|_| found.is_none());
    }
    match found.map(|error| (error.raw_os_error(), error.kind())) {
        Some((Some(code), _)) => io::Error::from_raw_os_error(code),
        Some((None, kind)) => io::Error::new(kind, error),
        None => io::Error::other(error),
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.written.add(data.len() as u64);
        self.file.write_all_at(data, offset)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::StableStore;
    use super::*;
    use crate::disk::memory::{Event, MemoryDisk};
    use crate::proto::raft_v1 as pb;

    const DIR: &str = "/node";

    fn opened(disk: &MemoryDisk) -> StableStore {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        StableStore::open(&disk, Path::new(DIR)).unwrap()
    }

    fn floor(position: u64) -> pb::Floor {
        pb::Floor {
            next_position: position,
            ..pb::Floor::default()
        }
    }

    /// Does something while the operation of this number on the disk fails, and those behind it; gives whether one did.
    fn with_failing(disk: &MemoryDisk, number: usize, act: impl FnOnce()) -> bool {
        let passed = Arc::<AtomicUsize>::default();
        let counted = passed.clone();
        disk.watch(move |event, path| {
            let is_it = path.ends_with(FILE) && matches!(event, Event::Write | Event::Sync);
            match is_it && counted.fetch_add(1, Ordering::Relaxed) >= number {
                true => Err(io::Error::other("it fails")),
                false => Ok(()),
            }
        });
        act();
        disk.watch(|_, _| Ok(()));
        passed.load(Ordering::Relaxed) > number
    }

    #[test]
    fn what_failed_to_be_saved_is_saved_once_the_disk_is_well() {
        let mut failures = 0;
        for number in 0.. {
            let disk = MemoryDisk::default();
            disk.create_dir(Path::new(DIR)).unwrap();
            let store = opened(&disk);
            store.save_floor(&floor(1)).unwrap();
            let has_failed = with_failing(&disk, number, || {
                let saved = store.save_floor(&floor(2));
                failures += usize::from(saved.is_err());
                // The file cannot be opened anew either.
                if saved.is_err() {
                    store.save_floor(&floor(3)).unwrap_err();
                }
            });
            let found = store.floor().unwrap().map(|floor| floor.next_position);
            assert!(matches!(found, Some(1 | 2)), "{found:?}");
            store.save_floor(&floor(4)).unwrap();
            let found = opened(&disk.crash()).floor().unwrap();
            assert_eq!(found, Some(floor(4)));
            if !has_failed {
                break;
            }
        }
        assert!(failures > 2, "{failures}");
    }

    /// The writer of the log tries such a vote again, and ends the node after any other failure.
    #[test]
    fn a_vote_that_finds_no_room_says_so() {
        let disk = MemoryDisk::default();
        disk.create_dir(Path::new(DIR)).unwrap();
        let store = opened(&disk);
        let vote = |term| crate::raft::entry::types::Vote::new_committed(term, 1);
        store.save_vote(&vote(3)).unwrap();
        disk.watch(
            |event, path| match path.ends_with(FILE) && event == Event::Write {
                true => Err(io::ErrorKind::StorageFull.into()),
                false => Ok(()),
            },
        );
        // The second try opens the database anew.
        for _ in 0..2 {
            let error = system_error(store.save_vote(&vote(4)).unwrap_err());
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
        }
        disk.watch(|_, _| Ok(()));
        store.save_vote(&vote(4)).unwrap();
        assert_eq!(store.vote().unwrap(), Some(vote(4)));
    }

    #[test]
    fn a_crash_while_it_is_made_leaves_none_or_a_whole_one() {
        for number in 0.. {
            let disk = MemoryDisk::default();
            disk.create_dir(Path::new(DIR)).unwrap();
            let passed = Arc::<AtomicUsize>::default();
            let counted = passed.clone();
            disk.watch(
                move |_, _| match counted.fetch_add(1, Ordering::Relaxed) >= number {
                    true => Err(io::Error::other("the process is gone")),
                    false => Ok(()),
                },
            );
            let shared: Arc<dyn Disk> = Arc::new(disk.clone());
            let first = StableStore::open(&shared, Path::new(DIR));
            let is_whole = first.is_ok();
            drop(first);
            for left in [disk.kill(), disk.crash()] {
                opened(&left).save_floor(&floor(1)).unwrap();
                assert_eq!(opened(&left).floor().unwrap(), Some(floor(1)));
            }
            if is_whole {
                break;
            }
        }
    }

    #[test]
    fn an_adoption_that_ended_though_it_failed_ends_again() {
        for number in 0.. {
            let disk = MemoryDisk::default();
            disk.create_dir(Path::new(DIR)).unwrap();
            let store = opened(&disk);
            let adoption = pb::Adoption {
                floor: Some(floor(7)),
                ..pb::Adoption::default()
            };
            let row = (b"row".to_vec(), Some(Vec::new()));
            store.begin_adoption(&adoption, [row]).unwrap();
            let has_failed = with_failing(&disk, number, || drop(store.end_adoption(&adoption)));
            store.end_adoption(&adoption).unwrap();
            let store = opened(&disk.crash());
            assert_eq!(store.adoption().unwrap(), None);
            assert_eq!(store.floor().unwrap(), Some(floor(7)));
            assert_eq!(store.rows().unwrap().len(), 1);
            if !has_failed {
                break;
            }
        }
    }
}
