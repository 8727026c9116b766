//! The files of a log's directory: which segments they belong to, and removing them for good.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::log::{Error, Index};

/// The paths of a segment's files.
#[derive(Debug)]
pub struct Paths {
    pub store: PathBuf,
    pub index: PathBuf,
    pub seal: PathBuf,
}

impl Paths {
    pub fn new(dir: &Path, base: Index) -> Self {
        let name = |suffix| dir.join(format!("{:020}.{suffix}", base.0));
        Self {
            store: name("store"),
            index: name("index"),
            seal: name("seal"),
        }
    }

    /// The seal last, so that a segment which arrives file by file is whole once that is there.
    pub fn all(&self) -> [&PathBuf; 3] {
        [&self.store, &self.index, &self.seal]
    }
}

/// The first raft indexes of the segments in a directory, in order.
pub fn bases(disk: &dyn Disk, dir: &Path) -> Result<Vec<Index>, Error> {
    let names = disk.list(dir).map_err(Error::io("list", dir))?;
    let all = names.iter().filter_map(|name| base_of(name));
    let held = all.filter(|(_, suffix)| *suffix != "index");
    let bases: BTreeSet<_> = held.map(|(base, _)| base).collect();
    Ok(bases.into_iter().collect())
}

/// The base in a file's name, and what follows it; `None` if the name is not one of a log's.
pub fn base_of(name: &str) -> Option<(Index, &str)> {
    let (digits, suffix) = name.split_once('.')?;
    let ours = digits.len() == 20 && matches!(suffix, "store" | "index" | "seal");
    let base = digits.parse().ok().filter(|_| ours)?;
    Some((Index(base), suffix))
}

/// Removes segments, last first, so that a crash in between leaves no hole.
pub fn remove_all<'a>(
    disk: &dyn Disk,
    dir: &Path,
    bases: impl DoubleEndedIterator<Item = &'a Index>,
) -> Result<(), Error> {
    let files = bases.rev().flat_map(|base| {
        let Paths { store, index, seal } = Paths::new(dir, *base);
        [seal, store, index]
    });
    remove_files(disk, dir, files)
}

/// Removes the files that are there, for good.
pub fn remove_files(
    disk: &dyn Disk,
    dir: &Path,
    files: impl Iterator<Item = PathBuf>,
) -> Result<(), Error> {
    let mut removed = false;
    for path in files {
        match disk.remove(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => {
                done.map_err(Error::io("remove", path))?;
                removed = true;
            }
        }
    }
    if removed {
        disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
    }
    Ok(())
}
