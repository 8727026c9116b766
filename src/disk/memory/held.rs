//! What a memory disk holds: names and bytes, as a process sees them and as they are synced.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

#[derive(Default, Clone)]
pub struct Names {
    pub live: BTreeMap<PathBuf, Arc<Content>>,
    pub synced: BTreeMap<PathBuf, Arc<Content>>,
    /// Renames that no sync of either directory has made durable, oldest first.
    pub renames: Vec<Rename>,
}

impl Names {
    /// What a power cut leaves; see [`super::MemoryDisk::crash_by`].
    pub fn survive(&self, choose: &mut impl FnMut() -> u64) -> Self {
        let mut survivors = BTreeMap::new();
        let mut durable = self.synced.clone();
        // Journals commit in order: a rename survives only if those before it did.
        for rename in &self.renames {
            if choose().is_multiple_of(2) {
                break;
            }
            rename.apply(&mut durable);
        }
        let renamed = |path: &PathBuf| {
            let mut renames = self.renames.iter();
            renames.any(|rename| rename.from == *path || rename.to == *path)
        };
        let either = durable.keys().chain(self.live.keys());
        for path in either.collect::<BTreeSet<_>>() {
            let live = self.live.get(path).filter(|_| !renamed(path));
            let synced = durable.get(path);
            let kept = match (synced, live) {
                (Some(synced), Some(live)) if Arc::ptr_eq(synced, live) => Some(synced),
                (synced, None) if renamed(path) => synced,
                (synced, _) if choose().is_multiple_of(2) => synced,
                (_, live) => live,
            };
            if let Some(content) = kept {
                let bytes = content.0.lock().survive(choose);
                survivors.insert(path.clone(), Arc::new(Content(Mutex::new(bytes))));
            }
        }
        Self {
            live: survivors.clone(),
            synced: survivors,
            renames: Vec::new(),
        }
    }

    /// A copy in memory of its own.
    pub fn copy(&self) -> Self {
        let mut made = BTreeMap::new();
        let mut copy = |content: &Arc<Content>| {
            let copy = made.entry(Arc::as_ptr(content));
            let new = || Arc::new(Content(Mutex::new(content.0.lock().clone())));
            copy.or_insert_with(new).clone()
        };
        let mut all = |names: &BTreeMap<PathBuf, Arc<Content>>| {
            let pairs = names.iter();
            let pairs = pairs.map(|(path, content)| (path.clone(), copy(content)));
            pairs.collect()
        };
        let (live, synced) = (all(&self.live), all(&self.synced));
        let renames = self.renames.iter().map(|rename| Rename {
            from: rename.from.clone(),
            to: rename.to.clone(),
            content: copy(&rename.content),
        });
        Self {
            live,
            synced,
            renames: renames.collect(),
        }
    }
}

/// A rename, which a journal makes durable whole or not at all.
#[derive(Clone)]
pub struct Rename {
    pub from: PathBuf,
    pub to: PathBuf,
    pub content: Arc<Content>,
}

impl Rename {
    pub fn apply(&self, names: &mut BTreeMap<PathBuf, Arc<Content>>) {
        let held = |content: &Arc<Content>| Arc::ptr_eq(content, &self.content);
        if names.get(&self.from).is_some_and(held) {
            names.remove(&self.from);
        }
        names.insert(self.to.clone(), self.content.clone());
    }

    pub fn touches(&self, dir: &Path) -> bool {
        self.from.parent() == Some(dir) || self.to.parent() == Some(dir)
    }
}

#[derive(Default)]
pub struct Content(pub Mutex<Bytes>);

#[derive(Default, Clone)]
pub struct Bytes {
    pub live: Vec<u8>,
    pub synced: Vec<u8>,
    /// What changed since the last sync: ranges of `live`.
    pub dirty: Vec<(usize, usize)>,
    /// The path that the file was given last, for users that hold it open under another one.
    pub renamed: Option<PathBuf>,
    /// Where a sector begins that one read is to see as it was before anything was written.
    pub stale: Option<usize>,
}

/// What a disk reads and writes whole.
pub const SECTOR_BYTES: usize = 512;

impl Bytes {
    /// What a power cut leaves of the file.
    fn survive(&self, choose: &mut impl FnMut() -> u64) -> Self {
        let mut left = self.synced.clone();
        if choose() % 2 == 1 {
            left.resize(self.live.len(), 0);
        }
        for (from, to) in &self.dirty {
            let whole = to.min(&self.live.len()).saturating_sub(*from);
            let part = match choose() % 4 {
                0 => 0,
                1 => whole,
                // Disks write sectors, in any order; a prefix of one write is enough to tear it.
                more => {
                    (more as usize * SECTOR_BYTES + choose() as usize % SECTOR_BYTES).min(whole)
                }
            };
            let end = (from + part).min(left.len());
            if *from < end {
                left[*from..end].copy_from_slice(&self.live[*from..end]);
            }
        }
        Self {
            live: left.clone(),
            synced: left,
            dirty: Vec::new(),
            renamed: None,
            stale: None,
        }
    }
}
