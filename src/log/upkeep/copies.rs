//! Copies of whole segments: built from entries and rows that came from another replica, checked
//! against a seal, and put in place at once.
//!
//! What travels is what is replicated, not files: the copy's frames stand where the seal's did,
//! since a frame's length follows from its entry.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::Disk;
use crate::log::format::directory::Builder;
use crate::log::format::file_header::{self, FILE_HEADER_BYTES, Magic};
use crate::log::format::files::{self, Paths, SegmentName};
use crate::log::format::frame::{self, Entry, HEADER_BYTES, Kind};
use crate::log::format::gather::Gathered;
use crate::log::format::record;
use crate::log::format::row::{ROW_BYTES, Row};
use crate::log::format::seal::{self, MARK_EVERY, Mark, Seal};
use crate::log::open::recovery::{self, Checkpoint, LogDirectory};
use crate::log::segment::Segment;
use crate::log::segment::index::RowIndex;
use crate::log::segment::store::Store;
use crate::log::{Error, Floor, Index, Log, LogId, LogState, Offset, Position};

/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// A row as it travels. The receiver fills in where its batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The position of the first record.
    pub position: Position,
    /// The raft index of the entry.
    pub index: Index,
    /// What it says of its batch, which is found by that in the entry.
    pub check: u32,
    /// The log that the records belong to.
    pub log: LogId,
    /// The offset of the first record in it.
    pub offset: Offset,
}

/// Builds a copy of one segment in a directory of its own.
#[derive(Debug)]
pub struct SegmentCopy {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    wanted: Seal,
    store: Store,
    index: RowIndex,
    buffer: Gathered,
    written: u64,
    /// The position of the last row that came.
    last_row: Option<Position>,
    directory: Builder,
    made: Seal,
}

impl SegmentCopy {
    /// Begins a copy of the segment that `wanted` sums up, in place of any half of one.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, wanted: &Seal) -> Result<Self, Error> {
        if !wanted.is_possible() {
            let (base, what) = (wanted.base, "no segment can be so");
            return Err(Error::Mismatch { base, what });
        }
        let paths = Paths::new(dir, wanted.base);
        let [store, index, seal] = paths.all().map(PathBuf::clone);
        files::remove_files(&*disk, dir, [seal, store, index].into_iter())?;
        let room = FILE_HEADER_BYTES + wanted.rows as usize * ROW_BYTES;
        let index = RowIndex::create(&*disk, &paths.index, wanted.base, room)?;
        let store = Store::create(&*disk, &paths.store, wanted.base, wanted.end)?;
        let made = Seal {
            next_position: wanted.next_position,
            sealed_ms: wanted.sealed_ms,
            ..Seal::empty(wanted.base, wanted.first_position)
        };
        Ok(Self {
            disk,
            dir: dir.to_owned(),
            wanted: wanted.clone(),
            store,
            index,
            buffer: Gathered::default(),
            written: FILE_HEADER_BYTES as u64,
            last_row: None,
            directory: Builder::default(),
            made,
        })
    }

    /// The raft index of the entry that comes next.
    pub fn next_index(&self) -> Index {
        self.made.next_index()
    }

    /// Adds the next entry and its rows.
    pub fn add(&mut self, entry: &Entry, rows: &[Placed]) -> Result<(), Error> {
        if entry.index != self.next_index() {
            return Err(self.mismatch("entries are missing"));
        }
        let position = self.made.end;
        let end = u64::from(position) + frame::frame_bytes(entry.payload.len()) as u64;
        if end > self.wanted.end.into() {
            return Err(self.mismatch("it is too long"));
        }
        let far = |last: &Mark| position - last.position >= MARK_EVERY;
        if self.made.marks.last().is_none_or(far) {
            let entry = self.made.entries;
            self.made.marks.push(Mark { entry, position });
        }
        if !entry.is_whole() {
            return Err(self.mismatch("a batch is not what its checksum says"));
        }
        let crc = frame::entry_crc(entry);
        // A finished copy is synced as a whole, so its frames need not tell where a write began.
        self.buffer.push(entry, crc, 0);
        self.made.entries_digest = seal::add_entry(self.made.entries_digest, crc);
        seal::extend_terms(&mut self.made.term_ends, self.made.entries, entry.term);
        self.made.entries += 1;
        // Not every Roll ends a segment: the sender's seal says whether this one did.
        self.made.rolled = self.wanted.rolled && entry.kind == Kind::Roll;
        self.made.end = u32::try_from(end).expect("it is at most the wanted end");
        self.add_rows(entry, rows, position + HEADER_BYTES as u32)?;
        if self.buffer.len() >= WRITE_BYTES {
            self.write_out()?;
        }
        Ok(())
    }

    /// Rows come in the order of their batches; some batches have none.
    fn add_rows(&mut self, entry: &Entry, rows: &[Placed], payload_at: u32) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        if !entry.kind.has_batches() {
            return Err(self.mismatch("its rows differ"));
        }
        let batches = record::batches(&entry.payload);
        let batches = batches.map_err(|_| self.mismatch("its batches cannot be read"))?;
        let mut batches = batches.iter();
        for row in rows {
            let is_it = |batch: &&record::Batch<'_>| {
                batch.log == row.log && batch.covered_by(row.check).is_some()
            };
            let batch = batches.find(is_it);
            let batch = batch.ok_or_else(|| self.mismatch("its rows differ"))?;
            let at = u32::try_from(batch.at).expect("payloads are limited on append");
            let row = self.add_row(row, entry.index, payload_at + at)?;
            let length = record::length_of(&entry.payload[batch.at..]);
            let length = length.and_then(|length| u32::try_from(length).ok());
            self.directory.push(&row, length.unwrap_or(0));
        }
        Ok(())
    }

    fn add_row(&mut self, placed: &Placed, index: Index, place: u32) -> Result<Row, Error> {
        let position = placed.position;
        let behind = self
            .last_row
            .map_or(self.wanted.first_position, |last| Position(last.0 + 1));
        let wanted = behind..self.wanted.next_position;
        let in_order = wanted.contains(&position) && self.made.rows < self.wanted.rows;
        if placed.index != index || !in_order {
            return Err(self.mismatch("its rows differ"));
        }
        let row = Row {
            position,
            index,
            place,
            check: placed.check,
            log: placed.log,
            offset: placed.offset,
        };
        self.index.push(row)?;
        self.last_row = Some(position);
        self.made.rows_digest = seal::add_row(self.made.rows_digest, &row);
        self.made.rows += 1;
        Ok(row)
    }

    fn write_out(&mut self) -> Result<(), Error> {
        self.store.write(&self.buffer.parts(), self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear(WRITE_BYTES);
        Ok(())
    }

    fn mismatch(&self, what: &'static str) -> Error {
        let base = self.wanted.base;
        Error::Mismatch { base, what }
    }

    /// Checks the copy against the seal and makes it durable; the seal comes last.
    pub fn finish(mut self) -> Result<(), Error> {
        self.write_out()?;
        if !self.made.agrees_with(&self.wanted) {
            return Err(self.mismatch("its digest differs"));
        }
        if self.made.rolled != self.wanted.rolled {
            return Err(self.mismatch("it does not end where the log says so"));
        }
        let dir = &self.dir;
        self.store.sync()?;
        self.index.write_back()?;
        self.index.file().sync()?;
        self.disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
        let Seal {
            base,
            rows_digest,
            next_position,
            ..
        } = self.made;
        let directory = self.directory.finish(base, rows_digest, next_position);
        let path = Paths::new(dir, base).seal;
        let seal = self.made.with(&directory);
        seal.write(&*self.disk, &path, &directory.bytes)?;
        self.disk.sync_dir(dir).map_err(Error::io("sync", dir))
    }
}

/// Whether a finished copy of what a seal sums up stands in a directory.
pub fn is_copied(disk: &dyn Disk, dir: &Path, wanted: &Seal) -> Result<bool, Error> {
    let paths = Paths::new(dir, wanted.name());
    let seal = Seal::read(disk, &paths.seal, wanted.name())?;
    let Some(seal) = seal.filter(|seal| seal.agrees_with(wanted)) else {
        return Ok(false);
    };
    let whole = |path: &Path, magic, bytes: u64| {
        let file = match disk.open(path).map_err(Error::io("open", path)) {
            Ok(file) => file,
            // That says nothing of the copy.
            Err(error) if error.is_short_of_files() => return Err(error),
            Err(_) => return Ok(false),
        };
        let begins = file_header::read(&*file, path, magic, wanted.base);
        Ok(matches!(begins, Ok(Some(()))) && file.len().is_ok_and(|len| len >= bytes))
    };
    let rows = FILE_HEADER_BYTES + seal.rows as usize * ROW_BYTES;
    Ok(whole(&paths.store, Magic::Store, seal.end.into())?
        && whole(&paths.index, Magic::Index, rows as u64)?)
}

/// Removes what was staged of a segment.
pub fn remove_copy(disk: &dyn Disk, dir: &Path, name: SegmentName) -> Result<(), Error> {
    files::remove_all(disk, dir, std::iter::once(&name))
}

/// Moves the copies of these segments from one directory to another and removes every other segment
/// there. Done again after a crash it comes to the same.
pub fn adopt_files(
    disk: &dyn Disk,
    from: &Path,
    to: &Path,
    names: &[SegmentName],
) -> Result<(), Error> {
    let staged = files::names(disk, from)?;
    let old = files::names(disk, to)?;
    let gone: Vec<_> = old.into_iter().filter(|old| !names.contains(old)).collect();
    files::remove_all(disk, to, gone.iter())?;
    for name in names.iter().filter(|name| staged.contains(name)) {
        let (source, target) = (Paths::new(from, *name), Paths::new(to, *name));
        for (source, target) in source.all().into_iter().zip(target.all()) {
            match disk.rename(source, target) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                done => done.map_err(Error::io("move", source))?,
            }
        }
    }
    disk.sync_dir(to).map_err(Error::io("sync", to))?;
    disk.sync_dir(from).map_err(Error::io("sync", from))
}

impl Log {
    /// Whether this log holds what a seal sums up, sealed and, as far as is known, whole.
    pub fn holds(&self, wanted: &Seal) -> bool {
        let state = self.0.state.read();
        let number = state.segment_number(wanted.base);
        let segment = number.map(|number| &state.segments[number]);
        let whole = segment.filter(|segment| segment.damage.is_none());
        let seal = whole.and_then(|segment| segment.seal());
        seal.is_some_and(|seal| seal.agrees_with(wanted))
    }

    /// Takes over the copies of these segments from `from` in place of every other segment, as the log of
    /// a snapshot that a checkpoint covers. Nothing may be appended meanwhile, and what is not written yet must be
    /// withdrawn ([`Log::withdraw_appends`]).
    pub fn adopt(
        &self,
        from: &Path,
        names: &[SegmentName],
        floor: Floor,
        checkpoint: &Checkpoint,
    ) -> Result<(), Error> {
        let _upkeep = self.0.upkeep.lock();
        let mut state = self.0.state.write();
        self.0.handles.forget_all();
        adopt_files(&*self.0.disk, from, &self.0.dir, names)?;
        // A read that began before may have opened one of the old files meanwhile.
        self.0.handles.forget_all();
        let directory = LogDirectory {
            disk: &*self.0.disk,
            dir: &self.0.dir,
            config: &self.0.config,
            handles: &self.0.handles,
        };
        let found = recovery::recover(&directory, floor, Some(checkpoint))?;
        let (pins, forgotten) = (std::mem::take(&mut state.pins), state.forgotten + 1);
        let compacted = std::mem::take(&mut state.compacted);
        // What was known of segments that stay is not true any more: the checkpoint knows of trims that this node did not.
        let given_up = state.given_up + 1;
        *state = LogState::new(found, Some(checkpoint));
        state.given_up = given_up;
        (state.pins, state.forgotten, state.compacted) = (pins, forgotten, compacted);
        self.0.queue.set_durable(state.next_index());
        Ok(())
    }

    /// The rows of the entries from `from` on, before `to`. They must be applied.
    pub fn rows(&self, from: Index, to: Index) -> Result<Vec<Placed>, Error> {
        let (mut placed, mut at) = (Vec::new(), from);
        while at < to {
            let found = self.with_rows(
                |state| {
                    let segment = state.segment_on(at);
                    let whole = segment.filter(|segment| segment.damage.is_none());
                    whole.and_then(|segment| segment.index.unloaded())
                },
                |state| {
                    let segment = state.segment_on(at).filter(|segment| segment.base() < to);
                    let rows =
                        |segment: &Segment| Ok((rows_in(segment, at, to)?, segment.next_index()));
                    segment.map(rows).transpose()
                },
            );
            let Some((rows, next)) = found? else { break };
            placed.extend(rows);
            at = next;
        }
        Ok(placed)
    }
}

impl LogState {
    /// The first segment with entries from `index` on.
    fn segment_on(&self, index: Index) -> Option<&Segment> {
        let number = self.segment_number(index).unwrap_or(0);
        let segment = self.segments.get(number);
        segment.filter(|segment| segment.next_index() > index)
    }
}

/// The rows of a segment's entries from `from` on, before `to`.
fn rows_in(segment: &Segment, from: Index, to: Index) -> Result<Vec<Placed>, Error> {
    if segment.damage.is_some() {
        return Err(segment.damaged());
    }
    let index = &segment.index;
    let begin = index.partition(|row| row.index < from)?;
    let end = index.partition(|row| row.index < to)?;
    let placed = |number| {
        let row = index.row(number)?;
        Ok(Placed {
            position: row.position,
            index: row.index,
            check: row.check,
            log: row.log,
            offset: row.offset,
        })
    };
    (begin..end).map(placed).collect()
}
