//! Which files a start would read, worked out without moving or removing one.
//!
//! A start first finishes what a crash cut short: a snapshot's segments that are not in place, an
//! announced cut, a removal below the floor. Here these are only taken into account, and told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::finding::{Finding, What};
use crate::disk::Disk;
use crate::log::format::files::{self, Paths, SegmentName};
use crate::log::format::seal::Seal;
use crate::log::open::{cut, rewritten};
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
    /// A snapshot whose segments are being put in place: where they wait, and what they are called.
    pub adopting: Option<(PathBuf, Vec<SegmentName>)>,
}

/// The files of one segment.
#[derive(Debug)]
pub struct Files {
    pub base: Index,
    pub name: SegmentName,
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
    let here = files::names(disk, dir)?;
    let rewritten = Rewritings::of(disk, dir, &here)?;
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
    for (file, (name, suffix)) in names
        .iter()
        .filter_map(|name| Some((name, files::name_of(name)?)))
    {
        let (path, base) = (dir.join(file), name.base);
        if adopting.is_some_and(|(_, names)| !names.contains(&name)) {
            note(path, What::Replaced);
        } else if base < floor {
            note(path, What::BelowFloor { floor });
        } else if suffix == "index" && !here.contains(&name) {
            match name.rewritten {
                Some(_) => note(path, What::RewritingUnfinished),
                None => orphans.push((base, path)),
            }
        } else if let Some(what) = rewritten.gone.get(&name).filter(|_| adopting.is_none()) {
            note(path, what.clone());
        }
    }
    let counts = |name: &SegmentName| name.base >= floor && !rewritten.gone.contains_key(name);
    let live = match adopting {
        Some((_, names)) => names.clone(),
        None => here.into_iter().filter(counts).collect(),
    };
    let staged = adopting.map(|(staged, _)| staged.as_path());
    let to_files = |name: SegmentName| Files {
        base: name.base,
        name,
        paths: paths(disk, dir, staged, name),
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
fn paths(disk: &dyn Disk, dir: &Path, staged: Option<&Path>, name: SegmentName) -> Paths {
    let mut paths = Paths::new(dir, name);
    if let Some(staged) = staged.map(|staged| Paths::new(staged, name)) {
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

/// Segments that a start would remove, by what a crash cut short of rewriting, and why.
#[derive(Debug, Default)]
struct Rewritings {
    gone: BTreeMap<SegmentName, What>,
}

impl Rewritings {
    /// As [`rewritten::settle`] has it.
    fn of(disk: &dyn Disk, dir: &Path, here: &[SegmentName]) -> Result<Self, Error> {
        let mut all: Vec<_> = here
            .iter()
            .filter(|name| name.rewritten.is_some())
            .collect();
        all.sort_by_key(|name| std::cmp::Reverse(name.rewritten));
        let mut found = Self::default();
        for name in all {
            if found.gone.contains_key(name) {
                continue;
            }
            let others = here.iter().filter(|other| *other != name);
            let others = others.filter(|other| !found.gone.contains_key(other));
            let is_alone = !others.clone().any(|other| other.base == name.base);
            let seal = Seal::read(disk, &Paths::new(dir, *name).seal, *name)?;
            let seal = seal.filter(|seal| is_alone || rewritten::is_whole(disk, dir, seal));
            let next = seal.map(|seal| seal.next_index());
            let replaced = |other: &&SegmentName| {
                next.is_some_and(|next| name.base <= other.base && other.base < next)
            };
            let replaced: Vec<_> = others.filter(replaced).copied().collect();
            if next.is_none() && !is_alone {
                found.gone.insert(*name, What::RewritingUnfinished);
            }
            let gone = replaced.into_iter().map(|name| (name, What::Rewritten));
            found.gone.extend(gone);
        }
        Ok(found)
    }
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
