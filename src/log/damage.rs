//! Marking a sealed segment whose bytes do not check: it is read no more, and waits for repair.

use std::sync::Arc;

use super::segment::Damage;
use super::segment::store::Store;
use super::{Error, Log, Offset};

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

    /// Marks the segment of an index that does not check, found by an offset that it should lead to.
    pub(super) fn note_bad_rows(&self, offset: Offset, error: Error) -> Error {
        let tells = matches!(
            error,
            Error::Corrupt { .. } | Error::Malformed(_) | Error::Io { .. }
        );
        if !tells || error.is_short_of_files() {
            return error;
        }
        let mut state = self.0.state.write();
        let number = state.holder_of(offset);
        let segment = number.and_then(|number| state.segments.get_mut(number));
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
