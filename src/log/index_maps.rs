//! Mapping the indexes of sealed segments when rows are looked for, and how many stay mapped.

use std::sync::Arc;

use super::damage::of_directory;
use super::segment::lazy_map::LazyMap;
use super::{Error, Index, Log, LogState};

/// What a look at the state comes to.
pub enum Looked<T> {
    Found(T),
    /// The directory of a sealed segment must be loaded first.
    Needs(Arc<LazyMap>),
}

/// A sealed segment that a walk over all of them is in. What the walk had to map of it is undone when it leaves:
/// what was read of a map counts as memory of the process, and nobody may ask for it again.
#[derive(Debug)]
pub struct Visit {
    log: Log,
    base: Index,
    /// The segment's maps, if they were not made before.
    maps: Option<Arc<LazyMap>>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        let Some(maps) = self.maps.take().filter(|maps| maps.is_loaded()) else {
            return;
        };
        let mut state = self.log.0.state.write();
        let number = state.segment_number(self.base);
        let index = number.and_then(|number| state.segments.get_mut(number));
        if let Some(index) = index.map(|segment| &mut segment.index)
            && let Some(held) = index.lazy()
            && Arc::ptr_eq(held, &maps)
            // Two hold the maps if no reader does: the segment, and this visit.
            && Arc::strong_count(held) == 2
        {
            index.set_lazy(Arc::new(maps.anew()));
        }
        drop(state);
        // The memory is given back here, while nobody waits for it.
        drop(maps);
    }
}

impl Log {
    /// Enters the segment that begins at a raft index, in a walk over many.
    pub(super) fn visit(&self, base: Index) -> Visit {
        let state = self.0.state.read();
        let number = state.segment_number(base);
        let maps = number.and_then(|number| state.segments[number].index.lazy());
        Visit {
            log: self.clone(),
            base,
            maps: maps.filter(|maps| !maps.is_loaded()).cloned(),
        }
    }

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
        let handles = &self.0.handles;
        // What is held now stays until another one is made.
        if !handles.are_more() {
            return;
        }
        let (over, large_over) = (handles.maps_over(), handles.large_over());
        if over == 0 && large_over == 0 {
            return;
        }
        let go = self.0.state.read().unused(over, large_over);
        let mut gone = Vec::with_capacity(go.len());
        let mut state = self.0.state.write();
        for number in go {
            let index = state.segments.get_mut(number).map(|one| &mut one.index);
            if let Some(index) = index
                && let Some(lazy) = index.lazy().cloned()
            {
                index.set_lazy(Arc::new(lazy.anew()));
                gone.push(lazy);
            }
        }
        // What large maps took is given back when nobody waits for it.
        drop(state);
        drop(gone);
    }
}

impl LogState {
    /// The numbers of segments whose maps were used longest ago: so many, or as many as have so many bytes of large ones.
    /// Whoever holds one needs it.
    fn unused(&self, over: usize, mut large_over: usize) -> Vec<usize> {
        let segments = self.segments.iter().enumerate();
        let loaded = segments.filter_map(|(number, segment)| {
            let lazy = segment.index.lazy().filter(|lazy| lazy.is_loaded())?;
            let is_held = Arc::strong_count(lazy) > 1;
            (!is_held).then(|| (lazy.used(), number, lazy.large()))
        });
        let mut loaded: Vec<_> = loaded.collect();
        loaded.sort_unstable();
        // The last one may be too large alone, and is likely to be read again.
        loaded.pop();
        let goes = |(nth, (_, number, large)): (usize, (u64, usize, usize))| {
            let goes = nth < over || (large > 0 && large_over > 0);
            large_over = large_over.saturating_sub(if goes { large } else { 0 });
            goes.then_some(number)
        };
        loaded.into_iter().enumerate().filter_map(goes).collect()
    }
}
