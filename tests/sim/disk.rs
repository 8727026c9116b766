//! A node's disk: the one in memory, which loses power, fails, fills and answers late as the plan has it.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use ferrolog::disk::memory::{Event, MemoryDisk};
use ferrolog::env::Random;

use super::network::{Life, SimNetwork};
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
pub struct SimDisk(Arc<Shared>);

struct Shared {
    node: String,
    disk: MemoryDisk,
    network: SimNetwork,
    life: Life,
    random: Random,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Operations until the crash, and its kind.
    crash_in: Option<(u64, Crash)>,
    /// Of 10,000 writes and syncs, those that fail.
    fail_of_10000: u64,
    is_full: bool,
    left: Option<MemoryDisk>,
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
        let shared = Arc::new(Shared {
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no panic before")
    }

    /// The process ends in the middle of a later operation.
    pub fn crash_in(&self, operations: u64, crash: Crash) {
        self.lock().crash_in = Some((operations, crash));
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
        let mut state = self.lock();
        state.crash_in = None;
        state.fail_of_10000 = 0;
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

    /// The files of segments that are sealed.
    pub fn sealed(&self, dir: &Path) -> Vec<PathBuf> {
        use ferrolog::disk::Disk;
        let names = self.0.disk.list(dir).unwrap_or_default();
        let sealed = names.iter().filter_map(|name| name.strip_suffix(".seal"));
        sealed
            .map(|base| dir.join(format!("{base}.store")))
            .collect()
    }
}

impl Shared {
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
        note_kind(event, path);
        if let Some((left, crash)) = &mut state.crash_in {
            if *left == 0 {
                let crash = *crash;
                events::sometimes("a node crashed in the middle of a disk operation");
                self.end(&mut state, crash);
                return Err(ErrorKind::Other.into());
            }
            *left -= 1;
        }
        let makes = matches!(event, Event::Create | Event::Allocate);
        if state.is_full && makes && path.extension().is_none_or(|end| end != "redb") {
            return Err(ErrorKind::StorageFull.into());
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

    fn end(&self, state: &mut State, crash: Crash) {
        events::note(format_args!("end of {} {crash:?}", self.node));
        state.left = Some(match crash {
            Crash::Process => self.disk.kill(),
            Crash::Power => self.disk.crash_by(|| self.random.next_u64()),
            Crash::PowerAtWorst => self.disk.crash(),
        });
        self.network.end(&self.life);
    }
}

/// What an operation on these files tells of the node.
fn note_kind(event: Event, path: &Path) {
    let text = path.to_string_lossy();
    if event == Event::Create && text.ends_with(".seal") {
        events::sometimes("a segment was sealed");
    }
    if event == Event::Rename && text.contains("/staging/") {
        events::sometimes("a snapshot was installed");
    }
}
