//! A node's disk: the one in memory, which loses power, fails, fills and answers late as the plan has it.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use ferrolog::disk::Disk;
use ferrolog::disk::memory::{Event, MemoryDisk};
use ferrolog::env::Random;

use super::network::{Life, SimNetwork};
use super::plan::When;
use super::{draw, events};

/// What a crash leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The process alone: the system keeps what it wrote.
    Process,
    /// Of what was not synced nothing, all, or a part.
    Power,
    /// Nothing that was not synced.
    PowerAtWorst,
}

/// One disk under one process.
#[derive(Clone)]
pub struct SimDisk(Arc<ProcessDisk>);

struct ProcessDisk {
    node: String,
    disk: MemoryDisk,
    network: SimNetwork,
    life: Life,
    random: Random,
    state: Mutex<DiskFaults>,
}

#[derive(Default)]
struct DiskFaults {
    crash_in: Option<Coming>,
    /// Of 10,000 writes and syncs, those that fail.
    fail_of_10000: u64,
    syncs_fail: bool,
    is_full: bool,
    /// A snapshot's files took the place of the log's.
    has_adopted: bool,
    left: Option<MemoryDisk>,
}

/// A crash that is to come.
struct Coming {
    crash: Crash,
    /// Operations until then.
    left: u64,
    /// They count from the next rename on.
    waits_for_rename: bool,
    /// The disks that it takes along.
    others: Vec<Weak<ProcessDisk>>,
}

impl SimDisk {
    /// Puts a process on a disk.
    pub fn new(
        node: &str,
        disk: MemoryDisk,
        network: &SimNetwork,
        life: &Life,
        random: &Random,
    ) -> Self {
        let shared = Arc::new(ProcessDisk {
            node: node.to_owned(),
            disk: disk.clone(),
            network: network.clone(),
            life: life.clone(),
            random: random.clone(),
            state: Mutex::default(),
        });
        let watcher = Arc::downgrade(&shared);
        disk.watch(move |event, path| match watcher.upgrade() {
            Some(shared) => shared.before(event, path),
            None => Err(ErrorKind::Other.into()),
        });
        Self(shared)
    }

    pub fn disk(&self) -> MemoryDisk {
        self.0.disk.clone()
    }

    fn lock(&self) -> MutexGuard<'_, DiskFaults> {
        self.0.state.lock().expect("no panic before")
    }

    /// The processes on these disks end in the middle of a later operation of one of them.
    pub fn crash_in(disks: &[Self], when: When, crash: Crash) {
        let (left, waits_for_rename) = match when {
            When::Now => (0, false),
            When::Operations(operations) => (operations, false),
            When::AfterRename(operations) => (operations, true),
        };
        for disk in disks {
            let others = disks.iter().filter(|other| !Arc::ptr_eq(&other.0, &disk.0));
            disk.lock().crash_in = Some(Coming {
                crash,
                left,
                waits_for_rename,
                others: others.map(|other| Arc::downgrade(&other.0)).collect(),
            });
        }
    }

    /// What goes wrong with the disk under a process before goes wrong under this one, too.
    pub fn go_on_as(&self, before: &Self) {
        let (mut before, mut state) = (before.lock(), self.lock());
        state.crash_in = before.crash_in.take();
        state.fail_of_10000 = before.fail_of_10000;
        state.syncs_fail = before.syncs_fail;
        let is_full = before.is_full;
        drop((before, state));
        self.fill(is_full);
    }

    /// Syncs fail from now on, or no more.
    pub fn fail_syncs(&self, do_fail: bool) {
        self.lock().syncs_fail = do_fail;
    }

    /// So many files may be opened beside those that are; `None`: as many as one likes.
    pub fn leave_files(&self, left: Option<usize>) {
        let (open, _) = self.0.disk.files_open();
        let most = left.map_or(usize::MAX, |left| open + left);
        self.0.disk.set_files_max(most);
    }

    pub fn fail(&self, of_10000: u64) {
        self.lock().fail_of_10000 = of_10000;
    }

    /// No room is left, or there is some again.
    pub fn fill(&self, is_full: bool) {
        self.lock().is_full = is_full;
        self.0
            .disk
            .set_available(if is_full { 0 } else { u64::MAX });
    }

    /// Nothing that was to go wrong goes wrong any more.
    pub fn calm(&self) {
        self.fill(false);
        self.leave_files(None);
        let mut state = self.lock();
        state.crash_in = None;
        state.fail_of_10000 = 0;
        state.syncs_fail = false;
    }

    /// Whether a crash came.
    pub fn is_over(&self) -> bool {
        self.lock().left.is_some()
    }

    /// Ends the process, unless it has ended, and gives what the disk holds now.
    pub fn crash(&self, crash: Crash) -> MemoryDisk {
        if !self.is_over() {
            self.0.end(&mut self.lock(), crash);
        }
        self.lock().left.clone().expect("it has ended")
    }

    /// Whether something of the log is written and not synced.
    pub fn has_unsynced(&self, dir: &Path) -> bool {
        let names = self.0.disk.list(dir).unwrap_or_default();
        let mut stores = names.iter().filter(|name| name.ends_with(".store"));
        stores.any(|name| !self.0.disk.is_synced(&dir.join(name)))
    }

    /// The files of segments that are sealed.
    pub fn sealed(&self, dir: &Path) -> Vec<PathBuf> {
        let names = self.0.disk.list(dir).unwrap_or_default();
        let sealed = names.iter().filter_map(|name| name.strip_suffix(".seal"));
        sealed
            .map(|base| dir.join(format!("{base}.store")))
            .collect()
    }
}

impl ProcessDisk {
    fn before(&self, event: Event, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock().expect("no panic before");
        if state.left.is_some() {
            return Err(ErrorKind::Other.into());
        }
        events::note(format_args!(
            "disk {} {event:?} {}",
            self.node,
            path.display()
        ));
        self.note_kind(&mut state, event, path);
        if let Some(mut coming) = state.crash_in.take() {
            // A seal that gets its name is none of a snapshot's files that are put in place.
            let places = event == Event::Rename && !path.ends_with("new-seal");
            coming.waits_for_rename &= !places;
            if coming.left == 0 && !coming.waits_for_rename {
                events::sometimes("a node crashed in the middle of a disk operation");
                self.end(&mut state, coming.crash);
                drop(state);
                for other in coming.others.iter().filter_map(Weak::upgrade) {
                    let mut state = other.state.lock().expect("no panic before");
                    if state.left.is_none() && state.crash_in.take().is_some() {
                        other.end(&mut state, coming.crash);
                    }
                }
                return Err(ErrorKind::Other.into());
            }
            coming.left -= u64::from(!coming.waits_for_rename);
            state.crash_in = Some(coming);
        }
        let makes = matches!(event, Event::Create | Event::Allocate);
        if state.is_full && makes && path.extension().is_none_or(|end| end != "redb") {
            return Err(ErrorKind::StorageFull.into());
        }
        if state.syncs_fail && matches!(event, Event::Sync | Event::SyncDir) {
            events::fault(
                "failed sync",
                format_args!("{} {}", self.node, path.display()),
            );
            return Err(rustix::io::Errno::IO.into());
        }
        let fails = matches!(
            event,
            Event::Write | Event::Sync | Event::SyncDir | Event::Read
        );
        if fails && state.fail_of_10000 > 0 && draw(&self.random, 1..=10_000) <= state.fail_of_10000
        {
            events::fault(
                "failed disk operation",
                format_args!("{} {event:?}", self.node),
            );
            return Err(rustix::io::Errno::IO.into());
        }
        Ok(())
    }

    /// What an operation on these files tells of the node.
    fn note_kind(&self, state: &mut DiskFaults, event: Event, path: &Path) {
        let text = path.to_string_lossy();
        match event {
            Event::Rename if text.ends_with("/new-seal") => {
                events::sometimes("a segment was sealed");
            }
            Event::Rename if text.contains("/staging/") => {
                state.has_adopted = true;
                events::sometimes("a snapshot was installed");
                if events::is_under_load() {
                    events::sometimes("a snapshot was installed under load");
                }
            }
            // A trim takes the first one.
            Event::Remove if text.ends_with(".store") && !state.has_adopted => {
                let Some((dir, name)) = path.parent().zip(path.file_name()) else {
                    return;
                };
                let names = self.disk.list(dir).unwrap_or_default();
                let stores = names.iter().filter(|name| name.ends_with(".store"));
                if stores
                    .map(String::as_str)
                    .any(|other| *other < *name.to_string_lossy())
                {
                    events::sometimes("a cut took whole segments");
                }
            }
            _ => {}
        }
    }

    fn end(&self, state: &mut DiskFaults, crash: Crash) {
        events::note(format_args!("end of {} {crash:?}", self.node));
        state.left = Some(match crash {
            Crash::Process => self.disk.kill(),
            Crash::Power => self.disk.crash_by(|| self.random.next_u64()),
            Crash::PowerAtWorst => self.disk.crash(),
        });
        self.network.end(&self.life);
    }
}
