//! Checking a log's files without changing one: what a start would find, and what it would not read.
//!
//! A start takes sealed segments at their seals' word and reads the others; this reads all, every
//! byte against every other. The rules are recovery's: what it puts right by itself, such as a torn
//! tail, is told and is no damage.

use std::path::Path;

use crate::disk::Disk;
use crate::log::open::recovery::Checkpoint;
use crate::log::{Error, Index, Position, Term};

mod finding;
mod frames;
mod layout;
mod rewritten;
mod rows;
mod segment;

#[cfg(test)]
mod tests;

pub use finding::{Finding, Report, SegmentReport, SegmentState, What};
pub use layout::Bounds;
pub(super) use layout::{Files, look};
pub(super) use rows::read as read_rows;

/// Reads every file of the log in `dir`. Without bounds, which the stable store tells, every
/// segment counts from the first one on, and so does every seal. `on_bytes` is told what was read.
pub fn verify(
    disk: &dyn Disk,
    dir: &Path,
    bounds: Option<&Bounds>,
    on_bytes: &dyn Fn(u64),
) -> Result<Report, Error> {
    let layout = look(disk, dir, bounds)?;
    let mut walk = Walk::new(disk, bounds, on_bytes);
    walk.report.findings = layout.findings;
    if bounds.is_none() {
        walk.next_index = layout.files.first().map_or(Index(0), |first| first.base);
    }
    for (number, files) in layout.files.iter().enumerate() {
        if !walk.segment(files, &layout.files[number + 1..]) {
            break;
        }
    }
    if bounds.is_none_or(|bounds| bounds.adopting.is_none()) {
        for (base, path) in &layout.orphans {
            walk.orphan(*base, path);
        }
    }
    if let Some(bounds) = bounds {
        walk.against(dir, bounds);
    }
    Ok(walk.report)
}

/// What is carried from one segment to the next.
struct Walk<'a> {
    disk: &'a dyn Disk,
    on_bytes: &'a dyn Fn(u64),
    /// Below this raft index a checkpoint covers all: seals are believed and rows must hold.
    keep: Index,
    checkpoint: Option<Checkpoint>,
    /// Its rows must lead to its next position.
    next_index: Index,
    last_term: Term,
    /// The position after the rows so far, while they follow each other.
    position: Option<Position>,
    /// The position after these rows, if every batch of an open segment got a row.
    derived: Position,
    /// The first index file with fewer rows than batches.
    lacking: Option<(std::path::PathBuf, u64)>,
    report: Report,
}

impl<'a> Walk<'a> {
    fn new(disk: &'a dyn Disk, bounds: Option<&Bounds>, on_bytes: &'a dyn Fn(u64)) -> Self {
        let checkpoint = bounds.and_then(|bounds| bounds.checkpoint.clone());
        let keep = match bounds {
            None => Index(u64::MAX),
            Some(_) => Index(
                checkpoint
                    .as_ref()
                    .map_or(0, |covered| covered.applied.0.saturating_add(1)),
            ),
        };
        let floor = bounds.map(|bounds| bounds.floor).unwrap_or_default();
        Self {
            disk,
            on_bytes,
            keep,
            checkpoint,
            next_index: floor.index,
            last_term: Term(0),
            position: bounds.map(|_| floor.position),
            derived: floor.position,
            lacking: None,
            report: Report::default(),
        }
    }

    fn find(&mut self, path: &Path, position: u64, sealed: bool, what: What) {
        self.report.findings.push(Finding {
            path: path.to_owned(),
            position,
            sealed,
            what,
        });
    }

    /// An index whose store is not there. One that was left by an old segment is made anew once it
    /// is needed; one with rows behind the log's end had a store (I5).
    fn orphan(&mut self, base: Index, path: &Path) {
        let rows = rows::read(self.disk, path, base).ok().flatten();
        let has_rows = rows.is_some_and(|rows| !rows.rows.is_empty());
        if has_rows && base >= self.next_index {
            self.find(path, 0, false, What::RowsWithoutStore);
        }
    }

    /// The whole against the stable store.
    fn against(&mut self, dir: &Path, bounds: &Bounds) {
        let Some(covered) = &bounds.checkpoint else {
            if bounds.floor.position > Position(0) {
                let what = "the log was trimmed, and no checkpoint covers what is left";
                self.find(dir, 0, false, What::Stable(what.to_owned()));
            }
            return;
        };
        let (next, synced) = (self.next_index, covered.applied);
        if synced >= next {
            let last = self.report.segments.last();
            let last = last.map_or(dir.to_owned(), |last| {
                crate::log::format::files::Paths::new(dir, last.name).store
            });
            self.find(&last, 0, false, What::LostTail { next, synced });
        }
        let contradictions = [
            (
                covered.logs.values().any(|ends| ends.first > ends.next),
                "in the checkpoint a log begins behind its end",
            ),
            (
                bounds.floor.index > Index(synced.0.saturating_add(1)),
                "the log begins behind what its checkpoint covers (I4)",
            ),
            (
                bounds.committed.is_some_and(|committed| committed < synced),
                "the checkpoint covers more than is committed (I4)",
            ),
        ];
        for (_, what) in contradictions.into_iter().filter(|(holds, _)| *holds) {
            self.find(dir, 0, false, What::Stable(what.to_owned()));
        }
        if self.position != Some(covered.next_position) && synced < next {
            self.stale(dir, bounds, covered.next_position);
        }
    }

    /// The rows do not lead to the checkpoint: as recovery does, derive, replay or give up.
    fn stale(&mut self, dir: &Path, bounds: &Bounds, next: Position) {
        let what = if self.derived == next {
            What::RowsStale
        } else if bounds.floor.position == Position(0) {
            What::RowsReplayed { next }
        } else {
            What::RowsLost
        };
        let (path, at) = self.lacking.take().unwrap_or((dir.to_owned(), 0));
        self.find(&path, at, false, what);
    }
}
