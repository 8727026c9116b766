//! Which files a start would read, worked out without moving or removing one.
//!
//! A start first finishes what a crash cut short: a snapshot's segments that are not in place, an
//! announced cut, a removal below the floor. Here these are only taken into account, and told.

use std::path::{Path, PathBuf};

use super::finding::{Finding, What};
use crate::disk::Disk;
use crate::log::format::files;
use crate::log::format::files::Paths;
use crate::log::open::cut;
use crate::log::{Checkpoint, Error, Floor, Index};

/// What the stable store says of a log.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    /// Where it begins.
    pub floor: Floor,
    /// How far it was applied, durably.
    pub checkpoint: Option<Checkpoint>,
    /// The last raft index known to be committed.
    pub committed: Option<Index>,
    /// A snapshot whose segments are being put in place: where they wait, and their bases.
    pub adopting: Option<(PathBuf, Vec<Index>)>,
}

/// The files of one segment.
#[derive(Debug)]
pub struct Files {
    pub base: Index,
    pub paths: Paths,
    /// Where an announced cut will end the store.
    pub end: Option<u32>,
}

/// The segments that a start would find, oldest first, and what else stands there.
#[derive(Debug)]
pub struct Layout {
    pub files: Vec<Files>,
    pub findings: Vec<Finding>,
    /// Index files without a store or a seal, from the floor on.
    pub orphans: Vec<(Index, PathBuf)>,
}

/// Looks at a directory. Without bounds every segment in it counts.
pub fn look(disk: &dyn Disk, dir: &Path, bounds: Option<&Bounds>) -> Result<Layout, Error> {
    let floor = bounds.map_or(Index(0), |bounds| bounds.floor.index);
    let adopting = bounds.and_then(|bounds| bounds.adopting.as_ref());
    let names = disk.list(dir).map_err(Error::io("list", dir))?;
    let here = files::bases(disk, dir)?;
    let mut findings = Vec::new();
    let mut orphans = Vec::new();
    let mut note = |path, what| {
        findings.push(Finding {
            path,
            position: 0,
            sealed: false,
            what,
        });
    };
    for (name, (base, suffix)) in names
        .iter()
        .filter_map(|name| Some((name, files::base_of(name)?)))
    {
        let path = dir.join(name);
        if adopting.is_some_and(|(_, bases)| !bases.contains(&base)) {
            note(path, What::Replaced);
        } else if base < floor {
            note(path, What::BelowFloor { floor });
        } else if suffix == "index" && !here.contains(&base) {
            orphans.push((base, path));
        }
    }
    let live = match adopting {
        Some((_, bases)) => bases.clone(),
        None => here.into_iter().filter(|base| *base >= floor).collect(),
    };
    let staged = adopting.map(|(staged, _)| staged.as_path());
    let to_files = |base| Files {
        base,
        paths: paths(disk, dir, staged, base),
        end: None,
    };
    let mut files: Vec<_> = live.into_iter().map(to_files).collect();
    let path = cut::path(dir);
    match cut::announced(disk, &path) {
        Ok(Some((base, end))) => {
            note(path, What::CutAnnounced { base, end });
            files.retain(|files| files.base < base || (files.base == base && end > 0));
            if let Some(last) = files.last_mut().filter(|files| files.base == base) {
                last.end = Some(end);
            }
        }
        Ok(None) if names.iter().any(|name| dir.join(name) == path) => {
            note(path, What::CutUnfinished);
        }
        Ok(None) => {}
        Err(error) => note(path, from_error(error)),
    }
    Ok(Layout {
        files,
        findings,
        orphans,
    })
}

/// The files of a segment, of which those that still wait are taken from there.
fn paths(disk: &dyn Disk, dir: &Path, staged: Option<&Path>, base: Index) -> Paths {
    let mut paths = Paths::new(dir, base);
    if let Some(staged) = staged.map(|staged| Paths::new(staged, base)) {
        let waits = |path: &Path| disk.open(path).is_ok();
        for (path, staged) in [
            (&mut paths.store, staged.store),
            (&mut paths.index, staged.index),
            (&mut paths.seal, staged.seal),
        ] {
            if waits(&staged) {
                *path = staged;
            }
        }
    }
    paths
}

/// What an error that names its file comes to.
pub fn from_error(error: Error) -> What {
    match error {
        Error::Corrupt { what, .. } => What::Header(what),
        Error::Version { found, .. } => What::Version(found),
        Error::Io { source, .. } => What::Unreadable(source.to_string()),
        error => What::Unreadable(error.to_string()),
    }
}
