//! The state as far as this node has applied entries, shared by all who read it.

use std::collections::BTreeSet;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::log::{self, Offset};

use super::fsm::Fsm;

/// How far a node has applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// The index of the last applied entry; `None` before the first.
    pub index: Option<u64>,
    /// The offset that the next record of the default log gets.
    pub next_offset: Offset,
}

/// The FSM, and how far it is. The engine's state machine changes it; everybody else reads.
#[derive(Debug)]
pub struct AppliedState {
    fsm: Mutex<Fsm>,
    applied: watch::Sender<Applied>,
    /// The index of the last change of the catalogue of logs.
    catalogue: watch::Sender<u64>,
    /// The raft index after the last one that the durable checkpoint covers; 0 without one.
    covered: Mutex<u64>,
}

impl AppliedState {
    /// The state of a checkpoint. The next record of the default log gets the offset `next_offset`.
    pub fn new(fsm: Fsm, next_offset: Offset) -> Self {
        let applied = Applied {
            index: fsm.applied.map(|id| id.index),
            next_offset,
        };
        Self {
            catalogue: watch::Sender::new(fsm.logs.history.last().0),
            fsm: Mutex::new(fsm),
            applied: watch::Sender::new(applied),
            covered: Mutex::new(applied.index.map_or(0, |index| index + 1)),
        }
    }

    /// Looks at the state. Nothing is applied meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&Fsm) -> T) -> T {
        look(&self.fsm.lock())
    }

    /// Changes the state. Only the engine's state machine calls this.
    pub fn change<T>(&self, change: impl FnOnce(&mut Fsm) -> T) -> T {
        change(&mut self.fsm.lock())
    }

    /// Tells everybody who waits how far the state is. The next record of the default log gets `next_offset`.
    pub fn publish(&self, next_offset: Offset) {
        let (index, changed) = self.read(|fsm| {
            let index = fsm.applied.map(|id| id.index);
            (index, fsm.logs.history.last().0)
        });
        self.applied.send_replace(Applied { index, next_offset });
        // Records alone wake nobody who watches the catalogue.
        self.catalogue
            .send_if_modified(|known| std::mem::replace(known, changed) != changed);
    }

    /// Wakes when the catalogue of logs changed.
    pub fn watch_catalogue(&self) -> watch::Receiver<u64> {
        self.catalogue.subscribe()
    }

    /// How far the state is, and a wait for it to get further.
    pub fn watch(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// The raft index after the last one that the durable checkpoint covers. The caller holds this lock while it writes
    /// a checkpoint or adopts a snapshot, so that the index never goes back. Sealed and deleted segments lie below it.
    pub fn covered(&self) -> MutexGuard<'_, u64> {
        self.covered.lock()
    }
}

/// What others ask of it.
impl Fsm {
    /// The addresses of the members, as far as this node has applied entries.
    pub fn addrs(&self) -> BTreeSet<String> {
        let members = self.membership.membership().nodes();
        members.map(|(_, member)| member.addr.clone()).collect()
    }

    /// The lowest offset at which one of these cursors of a log stands. A name without a cursor is left out; `None` if
    /// all are.
    pub fn slowest_cursor(&self, log: log::LogId, names: &[String]) -> Option<Offset> {
        let stands = names.iter().filter_map(|name| self.cursors.get(log, name));
        stands.map(|cursor| cursor.offset).min()
    }
}
