//! One segment: its frames, its rows and its seal, each against the others.

use std::io;

use super::Walk;
use super::finding::{SegmentReport, SegmentState, What};
use super::frames::{Frames, Reading, all_empty, has_no_frames};
use super::layout::{Files, from_error};
use super::rows::{self, RowCursor, Rows};
use crate::log::format::directory::Directory;
use crate::log::format::log_set::LogSet;
use crate::log::format::row::Row;
use crate::log::format::seal::{self, Seal};
use crate::log::segment::store::Store;
use crate::log::{Error, Index, Position};

impl Walk<'_> {
    /// Checks a segment; false if it and what follows hold no frame, or it ends in a torn tail.
    pub(super) fn segment(&mut self, files: &Files, rest: &[Files]) -> bool {
        if files.name.rewritten.is_some() {
            self.rewritten(files);
            return true;
        }
        let seal = self.read_seal(files);
        let sealed = seal.is_some();
        let found = self.report.findings.len();
        let opened = Store::open(self.disk, &files.paths.store, files.base);
        let empty = || !sealed && has_no_frames(self.disk, files);
        let wrong_place = files.base != self.next_index;
        if (wrong_place || matches!(opened, Ok(None))) && empty() && all_empty(self.disk, rest) {
            for files in std::iter::once(files).chain(rest) {
                self.find(&files.paths.store, 0, false, What::NeverWritten);
            }
            return false;
        }
        if wrong_place {
            let (expected, base) = (self.next_index, files.base);
            let what = What::Gap {
                expected,
                found: base,
            };
            self.find(&files.paths.store, 0, sealed, what);
            (self.next_index, self.position) = (base, None);
        }
        let store = match opened {
            Ok(Some(store)) => Some(store),
            Ok(None) => {
                let what = "the file does not begin with a header, and files follow";
                self.find(&files.paths.store, 0, sealed, What::Header(what));
                None
            }
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.find(&files.paths.store, 0, sealed, What::StoreMissing);
                None
            }
            Err(error) => {
                self.find(&files.paths.store, 0, sealed, from_error(error));
                None
            }
        };
        let rows = self.read_rows(files, seal.as_ref());
        let held = self.rows_to_check(&rows, seal.as_ref());
        let mut reading = Reading::new(files, sealed, rest, held);
        match store {
            Some(store) => self.frames(&store, files.end, seal.as_ref(), &mut reading),
            None => reading.frames.bad = true,
        }
        let Reading {
            frames, mut cursor, ..
        } = reading;
        let listing = std::mem::take(&mut cursor.listing);
        self.rows(files, seal.as_ref(), &rows, cursor, &frames);
        if let Some(seal) = &seal {
            self.against_seal(files, seal, &frames, held);
            // It follows from the rows: of wrong ones there is no right one.
            if self.report.findings.len() == found {
                let next = seal.next_position;
                let made = listing.finish(seal.base, seal.rows_digest, next);
                self.directory(files, seal, &made);
            }
        }
        let torn = frames.torn;
        self.carry_on(files, seal.as_ref(), &frames, held, found);
        !torn
    }

    /// The seal, if there is one and a checkpoint covers it.
    fn read_seal(&mut self, files: &Files) -> Option<Seal> {
        let path = &files.paths.seal;
        match Seal::read(self.disk, path, files.base) {
            Ok(Some(seal)) if seal.next_index() <= self.keep => return Some(seal),
            Ok(Some(_)) => self.find(path, 0, false, What::SealUncovered),
            Ok(None) if self.disk.len_of(path).is_ok() => self.find(path, 0, true, What::Seal),
            Ok(None) => {}
            Err(error) => self.find(path, 0, true, from_error(error)),
        }
        None
    }

    fn read_rows(&mut self, files: &Files, seal: Option<&Seal>) -> Rows {
        let path = &files.paths.index;
        let read = rows::read(self.disk, path, files.base);
        let what = match (read, seal) {
            (Ok(Some(rows)), Some(seal)) if rows.rows.is_empty() && seal.rows > 0 => {
                if !rows.ends_badly {
                    self.find(path, rows::position(0), true, What::Row { number: 0 });
                }
                return rows;
            }
            (Ok(Some(rows)), _) => return rows,
            // Rows of an open segment are derived if they are not there.
            (Ok(None), None) | (Err(Error::Corrupt { .. }), None) => None,
            (Ok(None), Some(_)) => Some(What::IndexMissing),
            (Err(error), _) => Some(from_error(error)),
        };
        if let Some(what) = what {
            self.find(path, 0, seal.is_some(), what);
        }
        Rows::default()
    }

    /// The rows that must hold. What stands behind the checkpoint is written again.
    fn rows_to_check<'a>(&self, rows: &'a Rows, seal: Option<&Seal>) -> &'a [Row] {
        let count = match seal {
            Some(seal) => rows.rows.len().min(seal.rows as usize),
            None => rows
                .rows
                .iter()
                .take_while(|row| row.index < self.keep)
                .count(),
        };
        &rows.rows[..count]
    }

    /// What the rows of the segment come to.
    fn rows(
        &mut self,
        files: &Files,
        seal: Option<&Seal>,
        rows: &Rows,
        mut cursor: RowCursor<'_>,
        frames: &Frames,
    ) {
        let path = &files.paths.index;
        let sealed = seal.is_some();
        let (first, held) = (rows.rows.first().map(|row| row.position), rows.rows.len());
        let whole = !frames.bad;
        let left = cursor.left();
        cursor.pass(Index(u64::MAX), !whole || !sealed);
        for (number, what) in std::mem::take(&mut cursor.wrong) {
            self.find(path, rows::position(number), sealed, what);
        }
        if let Some(seal) = seal {
            let wanted = seal.rows as usize;
            if held < wanted && (held > 0 || rows.ends_badly) {
                self.find(path, rows::position(held), true, What::Row { number: held });
            } else if held > wanted {
                let what = What::SealDiffers("it counts fewer rows");
                self.find(path, rows::position(wanted), true, what);
            }
            if held >= wanted && cursor.next.is_some_and(|next| next != seal.next_position) {
                let what = What::SealDiffers("its next position is not the one after its rows");
                self.find(&files.paths.seal, 72, true, what);
            }
            self.follow(files, Some(seal.first_position), seal.next_position, true);
            self.derived = seal.next_position;
            return;
        }
        if left > 0 && whole {
            let position = rows::position(held - left);
            self.find(path, position, false, What::RowsAhead { rows: left });
        }
        self.derived = Position(self.derived.0 + cursor.records);
        let covered = held > 0 && cursor.covered > 0;
        if covered && let (Some(first), Some(next)) = (first, cursor.next) {
            self.follow(files, Some(first), next, false);
        }
        if cursor.covered < cursor.records && self.lacking.is_none() {
            self.lacking = Some((path.clone(), rows::position(held)));
        }
        let reached = self
            .checkpoint
            .as_ref()
            .map(|covered| covered.next_position)
            == self.position;
        let due = match self.checkpoint {
            Some(_) => !reached,
            // Without a stable store rows behind these tell that these do not end here.
            None => self.keep == Index(u64::MAX) && rows.goes_on,
        };
        if rows.ends_badly && due {
            self.find(
                path,
                rows::position(held),
                false,
                What::Row { number: held },
            );
        }
    }

    /// Holds the positions of a segment's rows against those before.
    pub(super) fn follow(
        &mut self,
        files: &Files,
        first: Option<Position>,
        next: Position,
        sealed: bool,
    ) {
        if let (Some(before), Some(first)) = (self.position, first)
            && before != first
        {
            if sealed {
                let what =
                    What::SealDiffers("its first position does not follow the segment before");
                self.find(&files.paths.seal, 64, true, what);
            } else {
                // The rows are derived again, and the whole is judged at the end.
                self.lacking
                    .get_or_insert((files.paths.index.clone(), rows::position(0)));
                self.position = Some(before);
                return;
            }
        }
        self.position = Some(next);
    }

    /// The seal against what the files hold.
    fn against_seal(&mut self, files: &Files, seal: &Seal, frames: &Frames, held: &[Row]) {
        if frames.bad {
            return;
        }
        let summed = &frames.summed;
        let differs = [
            (summed.entries != seal.entries, "it counts other entries"),
            (summed.end != seal.end, "the frames end elsewhere"),
            (
                summed.entries_digest != seal.entries_digest,
                "the digest of the entries is another",
            ),
            (summed.term_ends != seal.term_ends, "the terms are others"),
            (summed.marks != seal.marks, "the marks are others"),
            (
                seal.rolled && !summed.rolled,
                "it says that the log ended the segment, which its last entry does not",
            ),
        ];
        for (_, what) in differs.into_iter().filter(|(differs, _)| *differs) {
            self.find(&files.paths.seal, 0, true, What::SealDiffers(what));
        }
        let logs: LogSet = held.iter().map(|row| row.log).collect();
        let digest = held.iter().fold(0, seal::add_row);
        if held.len() == seal.rows as usize && digest != seal.rows_digest {
            let what = "the digest of the rows is another";
            self.find(&files.paths.seal, 0, true, What::SealDiffers(what));
        }
        if held.len() == seal.rows as usize && logs != seal.logs {
            let what = "it names other logs than its rows";
            self.find(&files.paths.seal, 0, true, What::SealDiffers(what));
        }
    }

    /// The directory in the seal's file against the one that the rows make.
    pub(super) fn directory(&mut self, files: &Files, seal: &Seal, made: &Directory) {
        let (path, begins) = (&files.paths.seal, seal.directory_at() as u64);
        let open = self.disk.open(path);
        let read = open.and_then(|file| file.read_at(begins, seal.directory().bytes()));
        match read {
            Ok(read) if read == made.bytes => {}
            Ok(read) => {
                let same = read
                    .iter()
                    .zip(&made.bytes)
                    .take_while(|(one, other)| one == other);
                let at = begins + same.count() as u64;
                self.find(path, at, true, What::Directory);
            }
            Err(error) => self.find(path, begins, true, What::Unreadable(error.to_string())),
        }
    }

    /// Reports the segment and moves behind it.
    fn carry_on(
        &mut self,
        files: &Files,
        seal: Option<&Seal>,
        frames: &Frames,
        held: &[Row],
        found: usize,
    ) {
        let damaged = self.report.findings[found..]
            .iter()
            .any(|found| found.what.is_damage());
        let positions = match seal {
            Some(seal) => Some((seal.first_position, seal.next_position)),
            None => held
                .first()
                .and_then(|first| Some((first.position, self.position?))),
        };
        self.report.segments.push(SegmentReport {
            base: files.base,
            name: files.name,
            entries: frames.summed.entries.into(),
            positions,
            bytes: frames.summed.end.into(),
            sealed: seal.is_some(),
            state: match (damaged, frames.torn) {
                (true, _) => SegmentState::Damaged,
                (false, true) => SegmentState::Torn,
                (false, false) => SegmentState::Sound,
            },
        });
        self.next_index = seal.map_or(frames.summed.next_index(), Seal::next_index);
        if let Some(seal) = seal {
            self.last_term = seal.last_term();
        }
    }
}
