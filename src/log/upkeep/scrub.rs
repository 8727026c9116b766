//! Finding damage in sealed segments.
//!
//! A scrub reads what nobody asks for, so that rot is found while other replicas are
//! whole (Bairavasundaram et al., "An analysis of latent sector errors in disk drives", SIGMETRICS
//! 2007).

use std::path::Path;
use std::sync::Arc;

use crate::disk::Disk;
use crate::log::format::files::Paths;
use crate::log::format::frame;
use crate::log::format::seal::{self, Seal};
use crate::log::open::listing;
use crate::log::segment::index::RowIndex;
use crate::log::segment::index_file::in_steps;
use crate::log::segment::store::{Span, Store};
use crate::log::segment::{Damage, Segment};
use crate::log::{Error, Index, Log, LogState};

/// Bytes of a store that one step of a scrub reads, about.
const STEP_BYTES: u32 = 1 << 20;

/// A scrub of one sealed segment, a step at a time.
#[derive(Debug)]
pub struct Scrub {
    log: Log,
    store: Arc<Store>,
    seal: Arc<Seal>,
    /// The entry of its store that comes next.
    at: Index,
    digest: u32,
}

impl Scrub {
    /// The segment's first raft index.
    pub fn base(&self) -> Index {
        self.seal.base
    }

    /// The raft index after the segment.
    pub fn next_index(&self) -> Index {
        self.seal.next_index()
    }

    /// Reads on; gives the bytes read, 0 once the segment is found whole. Damage is noted in the
    /// log, and is the error.
    pub fn step(&mut self) -> Result<usize, Error> {
        if self.at >= self.seal.entries_end() {
            return self.finish();
        }
        let span = Span::marked(&self.seal, self.at, STEP_BYTES);
        let entries = self.store.entries(span);
        let entries = entries.map_err(|error| self.log.note_damage(&self.store, error))?;
        for entry in &entries {
            let crc = frame::entry_crc(entry);
            self.digest = seal::add_entry(self.digest, crc);
        }
        self.at = Index(self.at.0 + entries.len() as u64);
        Ok(span.length)
    }

    /// The whole against its seal, then the rows.
    fn finish(&self) -> Result<usize, Error> {
        if self.digest != self.seal.entries_digest {
            let what = "the frames are not those that were sealed";
            let error = self.store.corrupt(0, what);
            return Err(self.log.note_damage(&self.store, error));
        }
        let begins = self.store.check_header();
        begins.map_err(|error| self.log.note_damage(&self.store, error))?;
        self.log.check_names(&self.store, &self.seal)?;
        self.log.check_rows(&self.store, &self.seal)?;
        self.log.check_seal(&self.store, &self.seal).map(|()| 0)
    }
}

impl Log {
    /// A scrub of the first sealed segment from `from` on; `None` behind the last.
    pub fn scrub(&self, from: Index) -> Option<Scrub> {
        let state = self.0.state.read();
        let whole = |segment: &&Segment| segment.base() >= from && segment.damage.is_none();
        let mut segments = state.segments.iter().filter(whole);
        let found = segments.find_map(|segment| Some((segment, segment.seal()?.clone())))?;
        let (segment, seal) = found;
        Some(Scrub {
            log: self.clone(),
            store: segment.store.clone(),
            at: seal.base,
            seal,
            digest: 0,
        })
    }

    /// A file that is open can be read although its name is gone; a restart would not find it. So look for the
    /// names, too.
    fn check_names(&self, store: &Arc<Store>, seal: &Seal) -> Result<(), Error> {
        let (disk, paths) = (&*self.0.disk, Paths::new(&self.0.dir, seal.name()));
        let gone = |path: &Path| {
            let len = disk.len_of(path);
            len.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        };
        match (gone(&paths.store), gone(&paths.index)) {
            (true, _) => self.mark(store, Damage::Store),
            (false, true) => self.mark(store, Damage::Index),
            (false, false) => Ok(()),
        }
    }

    /// The rows against the seal, a part at a time: appends do not wait while the file is read.
    fn check_rows(&self, store: &Arc<Store>, seal: &Seal) -> Result<(), Error> {
        let mut digest = 0;
        let _visit = self.visit(seal.base);
        for rows in in_steps(seal.rows as usize) {
            let from = rows.start;
            let file = self.0.state.read().index_of(store).map(RowIndex::file);
            let Some(read) = file.map(|file| file.read(rows)) else {
                return Ok(());
            };
            let added = self.with_rows(
                |state| state.index_of(store)?.unloaded(),
                |state| {
                    let index = state.index_of(store);
                    index
                        .map(|index| index.add_digest(digest, from, &read?))
                        .transpose()
                },
            );
            match added {
                Ok(Some(added)) => digest = added,
                Ok(None) => return Ok(()),
                Err(error) if error.is_short_of_files() => return Err(error),
                Err(_) => return self.mark(store, Damage::Index),
            }
        }
        if digest == seal.rows_digest {
            return Ok(());
        }
        self.mark(store, Damage::Index)
    }

    /// Notes what a scrub found, unless the segment was trimmed or mended meanwhile.
    fn mark(&self, store: &Arc<Store>, damage: Damage) -> Result<(), Error> {
        let mut state = self.0.state.write();
        let Some(segment) = state.segment_with(store) else {
            return Ok(());
        };
        tracing::error!(base = %store.base(), ?damage, "a sealed segment is damaged");
        Err(segment.mark(damage))
    }

    /// A restart reads the seal from disk, and readers its directory: a damaged one is written anew, from memory and from
    /// rows that were found whole.
    fn check_seal(&self, store: &Arc<Store>, seal: &Seal) -> Result<(), Error> {
        let _upkeep = self.0.upkeep.lock();
        let (disk, path) = (&*self.0.disk, Paths::new(&self.0.dir, seal.name()).seal);
        let rows = self.0.state.read().index_of(store).map(RowIndex::file);
        let Some(rows) = rows.filter(|_| self.has_sealed(seal)) else {
            return Ok(());
        };
        let listed = listing::list(&rows, store, seal);
        let listed = listed.map_err(|error| self.note_damage(store, error))?;
        let Some(listed) = listed else {
            return self.mark(store, Damage::Index);
        };
        if holds(disk, &path, &seal.with(&listed).encode(), &listed.bytes)? {
            return Ok(());
        }
        tracing::warn!(path = %path.display(), "the seal of a segment was damaged: written anew");
        self.write_seal(seal, &listed)?;
        self.reopen(seal)
    }
}

impl LogState {
    /// The index beside a store; `None` if the segment was trimmed or mended meanwhile.
    fn index_of(&self, store: &Arc<Store>) -> Option<&RowIndex> {
        let mut segments = self.segments.iter();
        let segment = segments.find(|segment| Arc::ptr_eq(&segment.store, store))?;
        Some(&segment.index)
    }
}

/// Whether a file holds these parts, and nothing else.
fn holds(disk: &dyn Disk, path: &Path, sum: &[u8], directory: &[u8]) -> Result<bool, Error> {
    let len = sum.len() + directory.len();
    let read = disk.open(path).and_then(|file| match file.len()? {
        found if found == len as u64 => file.read_at(0, len),
        _ => Ok(Vec::new()),
    });
    match read.map_err(Error::io("read", path)) {
        Err(error) if error.is_short_of_files() => Err(error),
        Err(_) => Ok(false),
        Ok(read) => Ok(read.strip_prefix(sum) == Some(directory)),
    }
}
