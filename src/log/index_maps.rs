//! Mapping the indexes of sealed segments when rows are looked for, and how many stay mapped.

use std::sync::Arc;

use super::damage::of_directory;
use super::segment::lazy_map::LazyMap;
use super::{Error, Log, LogState};

/// What a look at the state comes to.
pub enum Looked<T> {
    Found(T),
    /// The directory of a sealed segment must be loaded first.
    Needs(Arc<LazyMap>),
}

impl Log {
    /// What `look` finds, once the directories that it asks for are loaded: appends do not wait while
    /// they are. One that cannot be loaded, or of which a part does not check, marks its segment, and `look` is asked
    /// again.
    pub(super) fn with_directories<T>(
        &self,
        mut look: impl FnMut(&LogState) -> Result<Looked<T>, Error>,
    ) -> Result<T, Error> {
        // Held until the end: what is used last is not given up first.
        let mut loaded = Vec::new();
        let mut failed: Option<(Arc<LazyMap>, Error)> = None;
        loop {
            let looked = look(&self.0.state.read());
            let lazy = match looked {
                Ok(Looked::Found(found)) => {
                    drop(loaded);
                    self.bound_maps();
                    return Ok(found);
                }
                Ok(Looked::Needs(lazy)) => match failed.take() {
                    // Who asks for it again does not see that its segment is marked, and would ask for ever.
                    Some((failed, error)) if Arc::ptr_eq(&failed, &lazy) => return Err(error),
                    _ => lazy,
                },
                Err(error) => {
                    let error = match of_directory(&error) {
                        Some(name) => self.note_bad_rows(name, error),
                        None => return Err(error),
                    };
                    match error {
                        Error::Damaged { .. } => continue,
                        error => return Err(error),
                    }
                }
            };
            if let Err(error) = lazy.load_directory() {
                let error = self.note_bad_index(&lazy, error);
                if !matches!(error, Error::Damaged { .. }) {
                    return Err(error);
                }
                failed = Some((lazy.clone(), error));
            }
            loaded.push(lazy);
        }
    }

    /// What `look` finds, once the rows are mapped that `wanted` tells of, if any: appends do not wait
    /// while they are.
    pub(super) fn with_rows<T>(
        &self,
        wanted: impl FnOnce(&LogState) -> Option<Arc<LazyMap>>,
        look: impl FnOnce(&LogState) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let state = self.0.state.read();
        let Some(lazy) = wanted(&state) else {
            return look(&state);
        };
        drop(state);
        let loaded = lazy.load().map(drop);
        let found = loaded.and_then(|()| look(&self.0.state.read()));
        drop(lazy);
        self.bound_maps();
        found
    }

    /// Undoes the maps that were used longest ago, if there are too many.
    fn bound_maps(&self) {
        let over = self.0.handles.maps_over();
        if over == 0 {
            return;
        }
        let mut state = self.0.state.write();
        let mut used: Vec<_> = state.loaded().collect();
        used.sort_unstable();
        for (_, number) in used.into_iter().take(over) {
            let index = &mut state.segments[number].index;
            let anew = index.lazy().map(|lazy| Arc::new(lazy.anew()));
            anew.into_iter().for_each(|anew| index.set_lazy(anew));
        }
    }
}

impl LogState {
    /// When each loaded map was used, and its segment's number.
    fn loaded(&self) -> impl Iterator<Item = (u64, usize)> + '_ {
        let segments = self.segments.iter().enumerate();
        segments.filter_map(|(number, segment)| {
            let lazy = segment.index.lazy().filter(|lazy| lazy.is_loaded())?;
            Some((lazy.used(), number))
        })
    }
}
