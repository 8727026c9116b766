//! The files of a log's directory: which segments they belong to, and removing them for good.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::log::{Error, Index};

/// What a segment's files are called after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// Its first raft index.
    pub base: Index,
    /// The raft index of the entry that had it rewritten; `None` if it is as it was appended. A segment that is rewritten
    /// again gets other names, so that whoever reads the old files never meets the new ones.
    pub rewritten: Option<Index>,
}

impl From<Index> for SegmentName {
    fn from(base: Index) -> Self {
        let rewritten = None;
        Self { base, rewritten }
    }
}

/// The paths of a segment's files.
#[derive(Debug)]
pub struct Paths {
    pub store: PathBuf,
    pub index: PathBuf,
    pub seal: PathBuf,
}

impl Paths {
    pub fn new(dir: &Path, name: impl Into<SegmentName>) -> Self {
        let SegmentName { base, rewritten } = name.into();
        let name = |suffix| match rewritten {
            None => dir.join(format!("{:020}.{suffix}", base.0)),
            Some(at) => dir.join(format!("{:020}-{:020}.{suffix}", base.0, at.0)),
        };
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

/// The segments in a directory as they were appended, by their first raft indexes, in order.
pub fn bases(disk: &dyn Disk, dir: &Path) -> Result<Vec<Index>, Error> {
    let mut names = names(disk, dir)?;
    names.retain(|name| name.rewritten.is_none());
    Ok(names.into_iter().map(|name| name.base).collect())
}

/// The segments in a directory, in order; those that begin together in the order in which they were made.
pub fn names(disk: &dyn Disk, dir: &Path) -> Result<Vec<SegmentName>, Error> {
    let names = disk.list(dir).map_err(Error::io("list", dir))?;
    let all = names.iter().filter_map(|name| name_of(name));
    let held = all.filter(|(_, suffix)| *suffix != "index");
    let names: BTreeSet<_> = held.map(|(name, _)| name).collect();
    Ok(names.into_iter().collect())
}

/// Which segment a file's name names, and what follows; `None` if the name is not one of a log's.
pub fn name_of(name: &str) -> Option<(SegmentName, &str)> {
    let (name, suffix) = name.split_once('.')?;
    let number = |digits: &str| {
        let number = digits.parse().ok().filter(|_| digits.len() == 20);
        number.map(Index)
    };
    let (base, rewritten) = match name.split_once('-') {
        Some((base, at)) => (number(base)?, Some(number(at)?)),
        None => (number(name)?, None),
    };
    let ours = matches!(suffix, "store" | "index" | "seal");
    ours.then_some((SegmentName { base, rewritten }, suffix))
}

/// Removes segments, last first, so that a crash in between leaves no hole.
pub fn remove_all<'a, N: Into<SegmentName> + Copy + 'a>(
    disk: &dyn Disk,
    dir: &Path,
    names: impl DoubleEndedIterator<Item = &'a N>,
) -> Result<(), Error> {
    let files = names.rev().flat_map(|name| {
        let Paths { store, index, seal } = Paths::new(dir, *name);
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
