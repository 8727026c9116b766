//! Marking a sealed segment whose bytes do not check: it is read no more, and waits for repair.

use std::sync::Arc;

use super::format::files::{self, SegmentName};
use super::segment::lazy_map::LazyMap;
use super::segment::store::Store;
use super::segment::{Damage, Segment};
use super::{Error, Log};

impl Log {
    /// Marks the segment of a store that does not check, if it is sealed, so that it is repaired.
    pub(super) fn note_damage(&self, store: &Arc<Store>, error: Error) -> Error {
        let tells = matches!(error, Error::Corrupt { .. } | Error::Io { .. });
        if !tells || error.is_short_of_files() {
            return error;
        }
        let mut state = self.0.state.write();
        match state.segment_with(store) {
            Some(segment) if segment.seal().is_some() => {
                let what = error.finding();
                tracing::error!(what, "a sealed segment is damaged, and waits for repair");
                segment.mark(Damage::Store)
            }
            _ => error,
        }
    }

    /// Marks the segment whose rows, mapped by `lazy`, do not check.
    pub(super) fn note_bad_index(&self, lazy: &Arc<LazyMap>, error: Error) -> Error {
        self.note_bad_rows_of(error, |segment| {
            let held = segment.index.lazy();
            held.is_some_and(|held| Arc::ptr_eq(held, lazy))
        })
    }

    /// Marks the segment that is called so, whose rows do not check.
    pub(super) fn note_bad_rows(&self, name: SegmentName, error: Error) -> Error {
        self.note_bad_rows_of(error, |segment| segment.name() == name)
    }

    fn note_bad_rows_of(&self, error: Error, is_it: impl Fn(&Segment) -> bool) -> Error {
        let tells = matches!(
            error,
            Error::Corrupt { .. } | Error::Malformed(_) | Error::Io { .. }
        );
        if !tells || error.is_short_of_files() {
            return error;
        }
        let mut state = self.0.state.write();
        let segment = state.segments.iter_mut().find(|segment| is_it(segment));
        match segment {
            Some(segment) if segment.seal().is_some() => {
                let what = error.finding();
                tracing::error!(what, "the index of a sealed segment is damaged");
                segment.mark(Damage::Index)
            }
            _ => error,
        }
    }
}

/// The segment whose directory does not check, if an error says that of one.
pub(super) fn of_directory(error: &Error) -> Option<SegmentName> {
    let Error::Corrupt { path, .. } = error else {
        return None;
    };
    let (name, suffix) = files::name_of(path.file_name()?.to_str()?)?;
    (suffix == "seal").then_some(name)
}
