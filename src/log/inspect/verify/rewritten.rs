//! A rewritten segment: its store tells all that its rows and its seal should say.

use super::Walk;
use super::finding::{SegmentReport, SegmentState, What};
use super::layout::{Files, from_error};
use super::rows;
use crate::log::format::seal::Seal;
use crate::log::open::listing;
use crate::log::open::rewritten::Told;
use crate::log::segment::store::Store;
use crate::log::{Error, LogSet};

impl Walk<'_> {
    /// Checks a rewritten segment.
    pub(super) fn rewritten(&mut self, files: &Files) {
        let found = self.report.findings.len();
        let seal = self.rewritten_seal(files);
        if files.base != self.next_index {
            let (expected, found) = (self.next_index, files.base);
            self.find(&files.paths.store, 0, true, What::Gap { expected, found });
            self.position = None;
        }
        let told = self.told(files, seal.as_ref());
        // Without its seal it is what its store tells.
        let made = told.as_ref().map(|(_, told)| told.seal(files.name));
        if let (Some((store, told)), Some(seal), Some(made)) = (&told, &seal, &made) {
            if let Some((at, index)) = told.ill_filled {
                self.find(&files.paths.store, at, true, What::Filling { index });
            }
            self.rewritten_rows(files, told);
            self.rewritten_against(files, (seal, made), store, told);
        }
        if let Some(seal) = seal.or(made) {
            self.follow(files, Some(seal.first_position), seal.next_position, true);
            self.derived = seal.next_position;
            (self.next_index, self.last_term) = (seal.next_index(), seal.last_term());
            let found = self.report.findings[found..].iter();
            let damaged = found.clone().any(|found| found.what.is_damage());
            self.report.segments.push(SegmentReport {
                base: files.base,
                name: files.name,
                entries: seal.entries.into(),
                positions: Some((seal.first_position, seal.next_position)),
                bytes: seal.end.into(),
                sealed: true,
                state: match damaged {
                    true => SegmentState::Damaged,
                    false => SegmentState::Sound,
                },
            });
        }
    }

    fn rewritten_seal(&mut self, files: &Files) -> Option<Seal> {
        let path = &files.paths.seal;
        match Seal::read(self.disk, path, files.name) {
            Ok(Some(seal)) => {
                if seal.next_index() > self.keep {
                    self.find(path, 0, true, What::SealDiffers("no checkpoint covers it"));
                }
                Some(seal)
            }
            Ok(None) => {
                self.find(path, 0, true, What::Seal);
                None
            }
            Err(error) => {
                self.find(path, 0, true, from_error(error));
                None
            }
        }
    }

    /// What its store tells, if all of it checks.
    fn told(&mut self, files: &Files, seal: Option<&Seal>) -> Option<(Store, Told)> {
        let path = &files.paths.store;
        let read = Store::open(self.disk, path, files.base).and_then(|store| {
            let Some(store) = store else {
                return Ok(None);
            };
            let told = Told::read(&store, seal.map(|seal| seal.end))?;
            Ok(Some((store, told)))
        });
        let (at, what) = match read {
            Ok(Some((store, told))) => {
                (self.on_bytes)(store.len().unwrap_or(0));
                return Some((store, told));
            }
            Ok(None) => (0, What::Header("the file does not begin with a header")),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                (0, What::StoreMissing)
            }
            Err(error) => {
                let at = match &error {
                    Error::Corrupt { position, .. } => *position,
                    _ => 0,
                };
                (at, from_error(error))
            }
        };
        self.find(path, at, true, what);
        None
    }

    fn rewritten_rows(&mut self, files: &Files, told: &Told) {
        let path = &files.paths.index;
        let held = match rows::read(self.disk, path, files.base) {
            Ok(Some(held)) => held.rows,
            Ok(None) => return self.find(path, 0, true, What::IndexMissing),
            Err(error) => return self.find(path, 0, true, from_error(error)),
        };
        let same = held.iter().zip(told.rows());
        let number = same.take_while(|(held, told)| *held == told).count();
        if number == held.len() && number == told.rows().count() {
            return;
        }
        let what = match held.len() <= number {
            true => What::Row { number },
            false => What::RowDisagrees {
                number,
                what: "the store tells another place",
            },
        };
        self.find(path, rows::position(number), true, what);
    }

    fn rewritten_against(
        &mut self,
        files: &Files,
        (seal, made): (&Seal, &Seal),
        store: &Store,
        told: &Told,
    ) {
        let differs = [
            (!seal.agrees_with(made), "its digests are others"),
            (seal.end != made.end, "the frames end elsewhere"),
            (seal.term_ends != made.term_ends, "the terms are others"),
            (seal.marks != made.marks, "the marks are others"),
            (seal.sealed_ms != made.sealed_ms, "its time is another"),
            (
                seal.logs != told.rows().map(|row| row.log).collect::<LogSet>(),
                "it names other logs than its rows",
            ),
        ];
        let path = &files.paths.seal;
        for (_, what) in differs.into_iter().filter(|(differs, _)| *differs) {
            self.find(path, 0, true, What::SealDiffers(what));
        }
        if let Ok(Some(listed)) = listing::list_of(told.rows(), store, seal) {
            self.directory(files, seal, &listed);
        }
    }
}
