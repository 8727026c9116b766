//! Copies of rewritten segments: the store as another node has it, which is the same on all. Its rows follow from it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::Disk;
use crate::log::format::file_header::FILE_HEADER_BYTES;
use crate::log::format::files::{self, Paths, SegmentName};
use crate::log::format::seal::Seal;
use crate::log::open::listing;
use crate::log::open::rewritten::Told;
use crate::log::segment::Damage;
use crate::log::segment::store::{Span, Store};
use crate::log::{Error, Index, Log};

/// Builds a copy of one rewritten segment in a directory of its own.
#[derive(Debug)]
pub struct RewrittenCopy {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    wanted: Seal,
    store: Store,
    written: u64,
}

impl RewrittenCopy {
    /// Begins a copy of the segment that `wanted` sums up, in place of any half of one.
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`] if no rewritten segment can be so.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, wanted: &Seal) -> Result<Self, Error> {
        if wanted.rewritten.is_none() || !wanted.is_possible() {
            return Err(mismatch(wanted, "no segment can be so"));
        }
        let paths = Paths::new(dir, wanted.name());
        let [store, index, seal] = paths.all().map(PathBuf::clone);
        files::remove_files(&*disk, dir, [seal, store, index].into_iter())?;
        let store = Store::create(&*disk, &paths.store, wanted.base, wanted.end)?;
        Ok(Self {
            disk,
            dir: dir.to_owned(),
            wanted: wanted.clone(),
            store,
            written: FILE_HEADER_BYTES as u64,
        })
    }

    /// Adds the next bytes of the store, behind its header.
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`] if they are more than the store has.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let end = self.written + bytes.len() as u64;
        if end > self.wanted.end.into() {
            return Err(mismatch(&self.wanted, "it is too long"));
        }
        self.store.write(&[bytes], self.written)?;
        self.written = end;
        Ok(())
    }

    /// Checks the copy against the seal and makes it durable; the seal comes last.
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`] if it is another one.
    pub fn finish(self) -> Result<(), Error> {
        let (disk, dir, wanted) = (&*self.disk, &self.dir, &self.wanted);
        if self.written != u64::from(wanted.end) {
            return Err(mismatch(wanted, "it is too short"));
        }
        self.store.sync()?;
        let told = Told::read(&self.store, Some(wanted.end));
        let told = told.map_err(|error| match error {
            error @ Error::Io { .. } => error,
            _ => mismatch(wanted, "it does not check"),
        })?;
        let seal = told.seal(wanted.name());
        if !seal.agrees_with(wanted) || seal.term_ends != wanted.term_ends {
            return Err(mismatch(wanted, "its digest differs"));
        }
        let paths = Paths::new(dir, wanted.name());
        told.write_rows(disk, &paths.index, wanted.base)?;
        let listed = listing::list_of(told.rows(), &self.store, &seal)?;
        let listed = listed.ok_or_else(|| mismatch(wanted, "its rows differ"))?;
        disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
        seal.with(&listed).write(disk, &paths.seal, &listed.bytes)?;
        disk.sync_dir(dir).map_err(Error::io("sync", dir))
    }
}

fn mismatch(wanted: &Seal, what: &'static str) -> Error {
    let base = wanted.base;
    Error::Mismatch { base, what }
}

impl Log {
    /// The seal of the rewritten segment that holds an entry; `None` if none does, or it waits for repair.
    pub fn rewritten_at(&self, at: Index) -> Option<Seal> {
        let state = self.0.state.read();
        let segment = &state.segments[state.segment_number(at)?];
        let seal = segment.seal().filter(|_| segment.damage.is_none())?;
        (seal.rewritten.is_some() && at < seal.next_index()).then(|| (**seal).clone())
    }

    /// Frames of the store of a rewritten segment from number `at` on, about `bytes_max` bytes of them and at least one,
    /// and the number behind them: none at its end. They check: whoever copies them cannot tell this node of damage.
    ///
    /// # Errors
    ///
    /// [`Error::NoEntry`] if it is not here, [`Error::Damaged`] if it waits for repair.
    pub fn store_part(
        &self,
        name: SegmentName,
        at: Index,
        bytes_max: u32,
    ) -> Result<(Bytes, Index), Error> {
        let (store, seal) = {
            let state = self.0.state.read();
            let number = state.segment_number(name.base);
            let segment = number.map(|number| &state.segments[number]);
            let segment = segment.filter(|segment| segment.name() == name);
            let Some((segment, seal)) =
                segment.and_then(|segment| Some((segment, segment.seal()?)))
            else {
                return Err(state.no_entry(name.base));
            };
            if segment.damage == Some(Damage::Store) {
                return Err(segment.damaged());
            }
            (segment.store.clone(), seal.clone())
        };
        if at >= seal.entries_end() {
            return Ok((Bytes::new(), at));
        }
        let span = Span::marked(&seal, at, bytes_max);
        let read = store.frames(span);
        let (bytes, frames) = read.map_err(|error| self.note_damage(&store, error))?;
        Ok((bytes, Index(span.first.0 + frames.len() as u64)))
    }
}
