//! The state as this node has applied it, for all who look at it.

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::log::Offset;

use super::fsm::Fsm;

/// How far a node has applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// The last raft index; `None` before the first.
    pub index: Option<u64>,
    /// The offset that the next record gets.
    pub next_offset: Offset,
}

/// The FSM, and how far it is. The engine's state machine changes it, all others read.
#[derive(Debug)]
pub struct AppliedState {
    fsm: Mutex<Fsm>,
    applied: watch::Sender<Applied>,
    /// The last change of the catalogue of logs, by its index.
    catalogue: watch::Sender<u64>,
    /// The raft index after the last one that the durable checkpoint covers; 0 without one.
    covered: Mutex<u64>,
}

impl AppliedState {
    /// As a checkpoint has it, over a log whose next record gets this offset.
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

    /// Changes the state: the engine's state machine does.
    pub fn change<T>(&self, change: impl FnOnce(&mut Fsm) -> T) -> T {
        change(&mut self.fsm.lock())
    }

    /// Lets those who wait know how far the state is.
    pub fn publish(&self, next_offset: Offset) {
        let (index, changed) = self.read(|fsm| {
            let index = fsm.applied.map(|id| id.index);
            (index, fsm.logs.history.last().0)
        });
        self.applied.send_replace(Applied { index, next_offset });
        // Those who watch the catalogue do not wake for records.
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

    /// The raft index after the last one that the durable checkpoint covers. Held while a checkpoint
    /// is written or a snapshot adopted, so that none ever goes back: what is sealed, and what was
    /// given up, lies below it.
    pub fn covered(&self) -> MutexGuard<'_, u64> {
        self.covered.lock()
    }
}
