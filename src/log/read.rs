//! Reading entries by their raft index.
//!
//! The lock is held to find a place, in memory and in seals, never while a store is read. Every byte is checked
//! before it is handed out. A sealed segment that does not check is marked, and waits for repair.

use std::sync::Arc;

use super::format::frame::Entry;
use super::format::seal;
use super::segment::Damage;
use super::segment::store::{Span, Store};
use super::state::Held;
use super::{Error, Index, Log, LogState, Term};

/// Bytes that one read of a store asks for, unless a single frame is longer.
pub(super) const READ_BYTES_MAX: usize = 256 << 10;

/// Where entries are to be read from.
enum Source {
    Memory(Vec<Entry>),
    Disk(Arc<Store>, Span),
}

impl Log {
    /// The entries from `from` on, before `to`, of about `bytes_max` bytes: at least one, unless
    /// the range is empty.
    pub fn entries(&self, from: Index, to: Index, bytes_max: usize) -> Result<Vec<Entry>, Error> {
        if from >= to {
            return Ok(Vec::new());
        }
        loop {
            let source = {
                let state = self.0.state.read();
                state.entry_source(from, to, bytes_max)?
            };
            let (store, span) = match source {
                Source::Memory(entries) => return Ok(entries),
                Source::Disk(store, span) => (store, span),
            };
            let read = store.entries(span);
            if read.as_ref().is_err_and(|error| !error.is_short_of_files()) {
                // The place may be out of date by the time it is read, after a cut or a repair. That is no
                // damage.
                let state = self.0.state.read();
                let number = state.segment_number(from);
                let segment = number.map(|number| &state.segments[number]);
                if segment.is_some_and(|now| !Arc::ptr_eq(&now.store, &store)) {
                    continue;
                }
                let now = segment.and_then(|segment| segment.span(from, to, bytes_max));
                if now.is_none_or(|now| now.position != span.position) {
                    return Err(state.no_entry(from));
                }
            }
            let read = read.map_err(|error| self.note_damage(&store, error))?;
            let wanted = |entry: &Entry| entry.index >= from && entry.index < to;
            let wanted: Vec<_> = read.into_iter().filter(wanted).collect();
            if wanted.is_empty() {
                let what = "the entries are not where the seal says";
                let error = store.corrupt(span.position.into(), what);
                return Err(self.note_damage(&store, error));
            }
            return Ok(wanted);
        }
    }

    /// Whether an entry is held in memory, so that reading it waits for no disk.
    pub fn entry_in_memory(&self, index: Index) -> bool {
        self.0.state.read().cached(index).is_some()
    }

    /// The term of an entry. Known without a look at the disk.
    pub fn term(&self, index: Index) -> Result<Term, Error> {
        let state = self.0.state.read();
        state.term_of(index).ok_or_else(|| state.no_entry(index))
    }

    /// The last entry of each term, from `from` on, in order.
    pub fn term_ends(&self, from: Index) -> Vec<(Term, Index)> {
        let state = self.0.state.read();
        let mut ends: Vec<(Term, Index)> = Vec::new();
        for segment in &state.segments {
            for end in segment.term_ends() {
                let index = Index(segment.base().0 + u64::from(end.entry));
                match ends.last_mut() {
                    Some(last) if last.0 == end.term => last.1 = index,
                    _ => ends.push((end.term, index)),
                }
            }
        }
        ends.retain(|(_, index)| *index >= from);
        ends
    }
}

impl LogState {
    pub(super) fn term_of(&self, index: Index) -> Option<Term> {
        let segment = &self.segments[self.segment_number(index)?];
        seal::term_at(segment.term_ends(), index.0 - segment.base().0)
    }

    pub(super) fn no_entry(&self, asked: Index) -> Error {
        Error::NoEntry {
            asked,
            first: self.first_entry(),
            next: self.next_index(),
        }
    }

    fn entry_source(&self, from: Index, to: Index, bytes_max: usize) -> Result<Source, Error> {
        if let Some(first) = self.cached(from) {
            return Ok(Source::Memory(self.cached_entries(first, to, bytes_max)));
        }
        let number = self
            .segment_number(from)
            .ok_or_else(|| self.no_entry(from))?;
        let segment = &self.segments[number];
        if segment.is_rewritten() {
            return Err(self.no_entry(from));
        }
        if segment.damage == Some(Damage::Store) {
            return Err(segment.damaged());
        }
        // What is in memory may not be on disk yet.
        let on_disk = self
            .tail
            .front()
            .map_or(to, |held| to.min(held.entry.index));
        let bytes_max = bytes_max.min(READ_BYTES_MAX);
        let span = segment.span(from, on_disk, bytes_max);
        let span = span.ok_or_else(|| self.no_entry(from))?;
        Ok(Source::Disk(segment.store.clone(), span))
    }

    fn cached_entries(&self, first: usize, to: Index, bytes_max: usize) -> Vec<Entry> {
        let mut left = bytes_max;
        let mut entries = Vec::new();
        for Held { entry, .. } in self.tail.range(first..) {
            if entry.index >= to || (!entries.is_empty() && entry.payload.len() > left) {
                break;
            }
            left = left.saturating_sub(entry.payload.len());
            entries.push(entry.clone());
        }
        entries
    }
}
