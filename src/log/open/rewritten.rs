//! Rewritten segments as they stand on the disk: what their stores tell, and which of them count at a start.
//!
//! A rewritten segment stands for segments that were appended, or rewritten before. Its seal is written last, and has it
//! count: from then on those that it stands for are removed. A start finishes that, or forgets what has no seal yet.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;

use super::recovery::LogDirectory;
use crate::disk::Disk;
use crate::log::format::directory::Directory;
use crate::log::format::file_header::FILE_HEADER_BYTES;
use crate::log::format::files::{self, Paths, SegmentName};
use crate::log::format::frame::{HEADER_BYTES, Kind};
use crate::log::format::moved::{Cover, Of, Place, PlacesReader};
use crate::log::format::record;
use crate::log::format::row::{ROW_BYTES, Row};
use crate::log::format::seal::{Seal, Sum};
use crate::log::segment::index::RowIndex;
use crate::log::segment::index_file;
use crate::log::segment::store::{Found, Store};
use crate::log::{Error, Index, LogId, Offset, Position};

const BAD_FRAME: &str = "a frame does not check";

/// What the store of a rewritten segment tells.
#[derive(Debug)]
pub struct Told {
    /// The rows of its batches, in the order of positions, with the positions behind them. There may be one for each
    /// record.
    batches: Vec<(Row, Position)>,
    base: Index,
    /// The first frame behind which the filling is not zero: nothing reads that.
    pub ill_filled: Option<(u64, Index)>,
    sum: Sum,
    cover: Cover,
    end: u32,
}

/// A batch whose place is not told yet.
struct Batch {
    index: Index,
    place: u32,
    crc: u32,
    log: LogId,
    count: u32,
}

impl Batch {
    /// One in the frame that begins at a position.
    fn of(index: Index, position: u32, batch: &record::Batch<'_>) -> Self {
        Self {
            index,
            place: super::derive::place_of(position + HEADER_BYTES as u32, batch),
            crc: batch.check(0),
            log: batch.log,
            count: batch.count,
        }
    }

    /// Its row, and the position behind its records.
    fn row(self, place: Place) -> (Row, Position) {
        let records = u64::from(self.count - place.known);
        let row = Row {
            position: place.position,
            index: self.index,
            place: self.place,
            check: self.crc ^ place.known,
            log: self.log,
            offset: place.offset,
        };
        (row, Position(place.position.0.saturating_add(records)))
    }
}

impl Told {
    /// Reads a store up to its end, every byte of it.
    pub fn read(store: &Store, end: Option<u32>) -> Result<Self, Error> {
        let mut scan = match end {
            Some(end) => store.scan_to(end),
            None => store.scan()?,
        };
        let (mut sum, mut places) = (Sum::default(), PlacesReader::default());
        let (mut batches, mut rows) = (VecDeque::<Batch>::new(), Vec::new());
        let mut ill_filled = None;
        loop {
            let at = scan.position();
            let header = match scan.next()? {
                Found::Frame(header) => header,
                Found::End if end.is_none_or(|end| at == u64::from(end)) => break,
                Found::End | Found::Bad => return Err(store.corrupt(at, BAD_FRAME)),
            };
            let index = Index(store.base().0 + sum.entries as u64);
            if header.index != index {
                let what = "a frame has another number than its place";
                return Err(store.corrupt(at, what));
            }
            let position = u32::try_from(at).map_err(|_| store.corrupt(at, BAD_FRAME))?;
            sum.add_entry(position, header.crc);
            if !scan.is_padded(&header)? {
                ill_filled.get_or_insert((at, index));
            }
            let payload = scan.payload(&header)?;
            match header.kind {
                Kind::Records => {
                    for batch in record::loose(payload)? {
                        batches.push_back(Batch::of(index, position, &batch));
                    }
                }
                Kind::Moved => {
                    let mut untold = std::iter::from_fn(|| {
                        let batch = batches.pop_front()?;
                        let (log, count) = (batch.log, batch.count);
                        Some((Of { log, count }, batch))
                    });
                    places.read(payload, &mut untold, |batch, place| {
                        rows.push(batch.row(place));
                        Ok(())
                    })?;
                }
                Kind::Control | Kind::Roll | Kind::Audited => {
                    return Err(store.corrupt(at, "a frame is of no rewritten segment"));
                }
            }
        }
        let ends = scan.position();
        let cut_off = || store.corrupt(ends, "it ends before it has told what it covers");
        let cover = places.cover().filter(|_| batches.is_empty());
        let cover = cover.ok_or_else(cut_off)?;
        rows.sort_unstable_by_key(|(row, _)| row.position);
        if !are_beside(&rows, &cover) {
            return Err(store.corrupt(ends, "its batches do not stand beside each other"));
        }
        let mut told = Self {
            batches: rows,
            base: store.base(),
            ill_filled,
            sum: Sum::default(),
            cover,
            end: u32::try_from(ends).map_err(|_| cut_off())?,
        };
        told.rows().for_each(|row| sum.add_row(&row));
        told.sum = sum;
        Ok(told)
    }

    /// Its rows, in the order of positions, with one in each place where records are gone.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        let (base, end) = (self.base, self.cover.next_position);
        let gone = move |from: Position| Row {
            position: from,
            index: base,
            // No row names a place before the first frame.
            place: FILE_HEADER_BYTES as u32,
            check: 0,
            log: LogId::GONE,
            offset: Offset(from.0),
        };
        let mut next = self.cover.first_position;
        let batches = self.batches.iter().map(|(row, end)| (Some(*row), *end));
        // Behind the last one a place may be left, too.
        let all = batches.chain([(None, end)]);
        all.flat_map(move |(row, behind)| {
            let at = row.map_or(end, |row| row.position);
            let before = (next < at).then(|| gone(next));
            next = behind;
            before.into_iter().chain(row)
        })
    }

    /// The seal of a segment that is called so, but for the directory of its rows.
    pub fn seal(&self, name: SegmentName) -> Seal {
        let count = |count: usize| u32::try_from(count).expect("a store is smaller than 4 GiB");
        Seal {
            base: name.base,
            rewritten: name.rewritten,
            rolled: true,
            entries: count(self.sum.entries),
            end: self.end,
            rows: count(self.sum.rows),
            entries_digest: self.sum.entries_digest,
            rows_digest: self.sum.rows_digest,
            first_position: self.cover.first_position,
            next_position: self.cover.next_position,
            sealed_ms: self.cover.sealed_ms,
            term_ends: self.cover.term_ends.clone(),
            marks: self.sum.marks.clone(),
            logs: crate::log::LogSet::default(),
            listed: 0,
        }
    }

    /// Writes the rows into an index of their own, and makes them durable.
    pub fn write_rows(&self, disk: &dyn Disk, path: &Path, base: Index) -> Result<(), Error> {
        let room = FILE_HEADER_BYTES + self.sum.rows * ROW_BYTES;
        let mut index = RowIndex::create(disk, path, base, room)?;
        self.rows().try_for_each(|row| index.push(row))?;
        index.seal()?;
        index.file().sync()
    }
}

/// Whether no two rows, in the order of positions, share one, and none is outside of what the segment covers.
fn are_beside(rows: &[(Row, Position)], cover: &Cover) -> bool {
    let mut next = cover.first_position;
    let follow = rows.iter().all(|(row, end)| {
        let follows = row.position >= next;
        next = *end;
        follows
    });
    follow && next <= cover.next_position
}

/// The segments from the floor on. What lies below it was given up: a removal that a crash cut short
/// is finished here, and so is what it cut short of rewriting.
pub fn live_names(directory: &LogDirectory<'_>, floor: Index) -> Result<Vec<SegmentName>, Error> {
    let names = directory.disk.list(directory.dir);
    let names = names.map_err(Error::io("list", directory.dir))?;
    let below = names
        .iter()
        .filter_map(|name| Some(files::name_of(name)?.0));
    let below: BTreeSet<_> = below.filter(|name| name.base < floor).collect();
    files::remove_all(directory.disk, directory.dir, below.iter())?;
    settle(directory, floor)
}

/// Finishes, or forgets, what a crash cut short of rewriting. Gives the segments that count, in order.
fn settle(directory: &LogDirectory<'_>, floor: Index) -> Result<Vec<SegmentName>, Error> {
    let (disk, dir) = (directory.disk, directory.dir);
    let mut names = files::names(disk, dir)?;
    // The latest first: it stands for what was rewritten before it, too.
    let mut rewritten = names.clone();
    rewritten.retain(|name| name.rewritten.is_some() && name.base >= floor);
    rewritten.sort_by_key(|name| std::cmp::Reverse(name.rewritten));
    for name in rewritten {
        if !names.contains(&name) {
            continue;
        }
        let gone: Vec<_> = match counts(directory, name, &names)? {
            Some(next) => {
                let within = |other: &&SegmentName| name.base <= other.base && other.base < next;
                let others = names.iter().filter(|other| **other != name);
                others.filter(within).copied().collect()
            }
            None => vec![name],
        };
        files::remove_all(disk, dir, gone.iter())?;
        names.retain(|name| !gone.contains(name));
    }
    Ok(names)
}

/// The raft index behind what a rewritten segment stands for, if it counts.
fn counts(
    directory: &LogDirectory<'_>,
    name: SegmentName,
    names: &[SegmentName],
) -> Result<Option<Index>, Error> {
    let (disk, paths) = (directory.disk, Paths::new(directory.dir, name));
    let seal = Seal::read(disk, &paths.seal, name)?;
    let others = names.iter().filter(|other| **other != name);
    if let Some(seal) = seal {
        let is_whole = is_whole(disk, directory.dir, &seal);
        // Bytes of it can be damaged only once it was whole. Those that it stands for are removed after that.
        let is_alone = !others.clone().any(|other| other.base == name.base);
        return Ok((is_whole || is_alone).then(|| seal.next_index()));
    }
    // Without a seal it was not finished. If nothing else begins there, it had one, which is damaged.
    if others.clone().any(|other| other.base == name.base) {
        return Ok(None);
    }
    let Some(store) = Store::open(disk, &paths.store, name.base)? else {
        return Ok(None);
    };
    let (seal, listed) = sealed_anew(directory, name, &store)?;
    seal.write(disk, &paths.seal, &listed.bytes)?;
    disk.sync_dir(directory.dir)
        .map_err(Error::io("sync", directory.dir))?;
    Ok(Some(seal.next_index()))
}

/// Whether the files of a rewritten segment are as long as its seal says.
pub fn is_whole(disk: &dyn Disk, dir: &Path, seal: &Seal) -> bool {
    let paths = Paths::new(dir, seal.name());
    let holds = |path: &Path, bytes: u64| disk.len_of(path).is_ok_and(|len| len >= bytes);
    let rows = index_file::place(seal.rows as usize) as u64;
    holds(&paths.store, seal.end.into()) && holds(&paths.index, rows)
}

/// Makes the rows and the seal of a rewritten segment from its store.
fn sealed_anew(
    directory: &LogDirectory<'_>,
    name: SegmentName,
    store: &Store,
) -> Result<(Seal, Directory), Error> {
    let told = Told::read(store, None)?;
    let paths = Paths::new(directory.dir, name);
    told.write_rows(directory.disk, &paths.index, name.base)?;
    let seal = told.seal(name);
    let listed = super::listing::list_of(told.rows(), store, &seal)?;
    let listed = listed.ok_or(Error::Malformed("rows are not those that were summed up"))?;
    Ok((seal.with(&listed), listed))
}
