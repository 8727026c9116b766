//! Appending: entries get their places in memory, and the writer does the rest.
//!
//! Nothing here waits for the disk. An entry that fits into no segment begins one in memory, whose
//! files the writer makes before it writes there. What is not written is read from memory.
//!
//! Segments end where the log says so: behind an entry that the leader proposes for that ([`Kind::Roll`]), on every
//! node. Such an entry names from where on the segment counts that it ends: the entry behind the last one that ended a
//! segment, whatever this node ended by itself since. So whether it ends anything follows from the log alone: one that
//! was proposed twice ends one segment, and all nodes agree again where one of them ended a segment by itself, for it
//! was full, or a snapshot ended in it.

use std::collections::VecDeque;
use std::path::Path;

use tokio::time::Instant;

use super::format::file_header::FILE_HEADER_BYTES;
use super::format::files::Paths;
use super::format::frame::{self, Entry, HEADER_BYTES};
use super::format::record;
use super::format::room::Room;
use super::segment::Segment;
use super::segment::index::RowIndex;
use super::segment::store::Store;
use super::state::Held;
use super::write::io::{Append, Done, Request};
use super::write::making::Plan;
use super::write::writer::Write;
use super::{Config, Error, Index, Log, LogState, Term};

impl Log {
    /// Appends entries. They can be read when this returns; `done` comes when they are durable.
    ///
    /// Entries follow the last one without a gap (I5). An error means that nothing was appended,
    /// and `done` is not called. Batches come with their checksums: what does not check would be a torn tail, or
    /// damage, once it was written.
    pub fn append(&self, entries: Vec<Entry>, done: Done) -> Result<(), Error> {
        let limit = frame::PAYLOAD_BYTES_MAX;
        if let Some(large) = entries.iter().find(|entry| entry.payload.len() > limit) {
            let bytes = large.payload.len();
            return Err(Error::TooLarge { bytes, limit });
        }
        if !entries.iter().all(Entry::is_whole) {
            return Err(Error::Malformed("a batch is not what its checksum says"));
        }
        let crcs: Vec<_> = entries.iter().map(frame::entry_crc).collect();
        let mut state = self.0.state.write();
        let before = (state.next_index(), state.last_term, state.rolled);
        let mut writes = VecDeque::with_capacity(entries.len());
        for (entry, crc) in entries.into_iter().zip(crcs) {
            assert_eq!(entry.index, state.next_index(), "I5: gap in the raft log");
            match self.place(&mut state, entry, crc) {
                Ok(write) => writes.push_back(write),
                Err(error) => {
                    displace(&mut state, before);
                    return Err(error);
                }
            }
        }
        state.evict(self.0.config.tail_cache_bytes_max, self.durable());
        // Queue under the lock, so that the writer sees appends in the order of their indexes.
        let bytes = writes.iter().map(|write| write.entry.payload.len() as u64);
        let bytes = bytes.sum();
        state.appended_bytes += bytes;
        let append = Append {
            bytes,
            since: Instant::now(),
            writes,
            done,
        };
        self.0.queue.push(Request::Append(append));
        Ok(())
    }

    /// The bytes of all payloads that were appended since the log was opened. A snapshot that is installed sets them to 0.
    pub fn appended_bytes(&self) -> u64 {
        self.0.state.read().appended_bytes
    }

    /// Gives an entry its place in the last segment, or in a new one.
    fn place(&self, state: &mut LogState, entry: Entry, crc: u32) -> Result<Write, Error> {
        let config = &self.0.config;
        let rolls = entry.rolls().filter(|since| *since == state.rolled);
        let fits = |segment: &Segment| segment.fits(&entry, rolls.is_some(), config);
        if !state.segments.back().is_some_and(fits) {
            let begun = Segment::begin(&self.0.dir, state.next_index(), config)?;
            state.segments.push_back(begun);
        }
        let segment = state.segments.back_mut().expect("one was begun above");
        let needs = Room::of(entry.kind, &entry.payload);
        segment.reserve(needs)?;
        let is_first = segment.next_index() == segment.base();
        let position = segment.add(entry.term, entry.payload.len(), needs, crc);
        let begins = is_first.then(|| Plan {
            rows: segment.index.file(),
            index_bytes: segment.index.file_bytes(),
            store_bytes: segment.room(config),
        });
        segment.roll = rolls;
        let store = segment.store.clone();
        state.last_term = entry.term;
        if rolls.is_some() {
            state.rolled = Index(entry.index.0 + 1);
        }
        if entry.kind.has_batches() {
            let timestamp_ms = record::timestamp_ms(&entry.payload);
            segment.saw(timestamp_ms);
            state.last_timestamp_ms = state.last_timestamp_ms.max(timestamp_ms);
        }
        state.tail_bytes += entry.payload.len();
        state.tail.push_back(Held {
            entry: entry.clone(),
            payload_at: position + HEADER_BYTES as u32,
        });
        Ok(Write {
            store,
            position,
            entry,
            crc,
            begins,
        })
    }

    /// How many bytes of payloads are not known to be on disk. All of them are kept in memory.
    pub fn unsynced_bytes(&self) -> u64 {
        self.0.queue.unsynced_bytes()
    }

    /// What an entry must name to end the last segment, if that is full.
    pub fn full(&self) -> Option<Index> {
        let state = self.0.state.read();
        let last = state.segments.back()?;
        last.is_full(&self.0.config).then_some(state.rolled)
    }

    /// What an entry must name to end the last segment, if that is open and holds entries.
    pub fn to_roll(&self) -> Option<Index> {
        let state = self.0.state.read();
        let last = state.segments.back()?;
        let holds = last.next_index() > last.base();
        (holds && last.takes_more()).then_some(state.rolled)
    }

    /// Whether entries surely fit into the files that are there, whatever room the disk has: of each, whether it may end
    /// a segment, and the length of its payload.
    pub fn has_in_hand(&self, entries: impl Iterator<Item = (bool, usize)>) -> bool {
        // What comes behind the end of a segment needs the next one.
        let mut parts = vec![0];
        for (ends, len) in entries {
            let part = parts.last_mut().expect("there is one");
            *part += frame::frame_bytes(len) as u64;
            if ends {
                parts.push(0);
            }
        }
        let bytes_max = self.0.config.segment_bytes_max;
        let state = self.0.state.read();
        let last = state.segments.back();
        let made = last.filter(|last| last.store.is_made());
        let left = made.map_or(0, |last| last.left(bytes_max));
        // The spare pair of files is for the next segment, unless a segment that has begun waits for it
        // already.
        let waits = last.is_some() && made.is_none();
        let spare = !waits && self.0.queue.has_segment_in_hand();
        let kept = FILE_HEADER_BYTES as u32 + frame::ROLL_FRAME_BYTES;
        let in_next = |bytes| spare && bytes <= u64::from(bytes_max - kept);
        match parts[..] {
            [bytes] => bytes <= left || in_next(bytes),
            [bytes, behind] => bytes <= left && (behind == 0 || in_next(behind)),
            _ => false,
        }
    }
}

impl Segment {
    /// Begins a segment in memory: the writer makes its files.
    pub fn begin(dir: &Path, base: Index, config: &Config) -> Result<Self, Error> {
        let paths = Paths::new(dir, base);
        let rows = RowIndex::unmade(&paths.index, base, config.index_bytes_max)?;
        let store = Store::unmade(&paths.store, base);
        Ok(Self::open(store, rows, false))
    }
}

/// Takes back the entries from `first` on, none of which was handed to the writer.
fn displace(state: &mut LogState, (first, term, rolled): (Index, Term, Index)) {
    while state
        .segments
        .pop_back_if(|segment| segment.base() >= first)
        .is_some()
    {}
    if let Some(last) = state.segments.back_mut() {
        last.forget_from(first);
    }
    state.forget_tail(first);
    (state.last_term, state.rolled) = (term, rolled);
}
