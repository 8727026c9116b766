//! Stores whose names are gone for good, and whose bytes go a piece at a time.
//!
//! A filesystem that frees a large file at once holds its journal meanwhile, and with it the syncs of appends: the more so
//! where several nodes share a disk, or the disk is told what is free. So a store is opened before its name is removed, and
//! cut shorter and shorter until it is empty. A crash changes nothing: a file without a name is nobody's at the next start.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Log;
use super::config::REMAINS_MAX;
use super::segment::store::Store;
use crate::disk::File;

/// Bytes that go at a time.
const PIECE_BYTES: u64 = if cfg!(test) { 64 } else { 4 << 20 };

/// What is left of stores.
#[derive(Debug, Default)]
pub struct Remains(Mutex<VecDeque<Remain>>);

/// A store that is about to lose its name, or has lost it.
#[derive(Debug)]
pub struct Remain {
    /// Whoever holds it, too, may read it still.
    store: Arc<Store>,
    file: Arc<dyn File>,
}

impl Log {
    /// Opens stores before their names go. One that cannot be opened goes at once, with its name.
    pub(super) fn remains_of(&self, stores: impl Iterator<Item = Arc<Store>>) -> Vec<Remain> {
        let opened = stores.take(self.remains_max()).filter_map(|store| {
            let file = self.0.disk.open(store.path()).ok()?;
            Some(Remain { store, file })
        });
        opened.collect()
    }

    /// Keeps what has no name any more until [`Self::free_some`] has freed it.
    pub(super) fn keep_remains(&self, of: Vec<Remain>) {
        let mut held = self.0.remains.0.lock();
        held.extend(of);
        let over = held.len().saturating_sub(self.remains_max());
        let gone: Vec<_> = held.drain(..over).collect();
        drop(held);
        drop(gone);
    }

    fn remains_max(&self) -> usize {
        REMAINS_MAX.min(self.0.config.files_max / 4)
    }

    /// Frees a piece of a removed segment that nobody reads any more; gives how many bytes, `None` if there is nothing to
    /// free. It takes as long as the disk does.
    pub fn free_some(&self) -> Option<u64> {
        let mut held = self.0.remains.0.lock();
        // Nobody takes up a store that the log holds no more, so one that is held here alone stays so.
        let is_free = |one: &Remain| Arc::strong_count(&one.store) == 1;
        let place = held.iter().position(is_free)?;
        let left = held[place].shorten();
        if left.is_none_or(|(_, left)| left == 0) {
            held.remove(place);
        }
        Some(left.map_or(0, |(freed, _)| freed))
    }
}

impl Remain {
    /// How many bytes went, and how many are left; `None` if that cannot be told, and it had better go as a whole.
    fn shorten(&self) -> Option<(u64, u64)> {
        let len = self.file.len().ok()?;
        let left = len.saturating_sub(PIECE_BYTES);
        self.file.set_len(left).ok()?;
        Some((len - left, left))
    }
}
