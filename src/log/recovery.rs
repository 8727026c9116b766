//! Opening a log: which bytes are a torn tail, which are damage, which rows still hold.
//!
//! A torn tail is cut: bytes that do not check, in the last file that holds frames, with nothing
//! behind them that was written later than they were synced. All else that does not check is an
//! error that names the file and the position. Files that are not a log's are left alone.

use std::collections::VecDeque;
use std::path::Path;

use super::disk::Disk;
use super::frame::Header;
use super::index::OffsetIndex;
use super::segment::{self, Segment};
use super::store::{Found, Store};
use super::{Config, Error, Index, Offset, Term, record, store};

/// What the FSM had made durable of its place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last raft index it covers.
    pub applied: Index,
    /// The offset that the next record gets.
    pub next_offset: Offset,
}

/// A log as it was found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The first entry that must be there, if any is.
    pub floor: Index,
    pub segments: VecDeque<Segment>,
    /// The last entry's term.
    pub last_term: Term,
    pub next_offset: Offset,
    /// Whether the rows up to the checkpoint hold. If not, all rows are gone, and every entry must
    /// be applied again.
    pub rows_hold: bool,
    /// Bytes of a torn tail that were cut.
    pub torn_bytes: u64,
}

/// Opens the segments in `dir`.
pub fn recover(
    disk: &dyn Disk,
    dir: &Path,
    config: &Config,
    floor: Index,
    checkpoint: Option<Checkpoint>,
) -> Result<Recovered, Error> {
    let mut found = Recovered {
        floor,
        ..Recovered::default()
    };
    let bases = bases(disk, dir)?;
    for (number, base) in bases.iter().enumerate() {
        let rest = &bases[number + 1..];
        if !open_segment(disk, dir, config, *base, rest, &mut found)? {
            break;
        }
    }
    let last = found.segments.back().map(Segment::next_index);
    let next = last.unwrap_or(floor);
    if next < floor {
        // A reset that a crash cut short: what is left lies below the floor.
        let bases: Vec<_> = found
            .segments
            .drain(..)
            .map(|segment| segment.base())
            .collect();
        remove_all(disk, dir, bases.iter())?;
        return Ok(found);
    }
    match checkpoint {
        Some(checkpoint) if checkpoint.applied >= next => Err(Error::LostTail {
            path: dir.to_owned(),
            last: next.0.checked_sub(1).map(Index),
            synced: checkpoint.applied,
        }),
        checkpoint => {
            check_rows(&mut found, checkpoint)?;
            Ok(found)
        }
    }
}

/// The bases of the store files, in order.
pub fn bases(disk: &dyn Disk, dir: &Path) -> Result<Vec<Index>, Error> {
    let names = disk.list(dir).map_err(Error::io("list", dir))?;
    let base = |name: &String| {
        let digits = name
            .strip_suffix(".store")
            .filter(|digits| digits.len() == 20)?;
        digits.parse().ok().map(Index)
    };
    Ok(names.iter().filter_map(base).collect())
}

/// Opens one segment; false if it and all after it held no frame and are gone.
fn open_segment(
    disk: &dyn Disk,
    dir: &Path,
    config: &Config,
    base: Index,
    rest: &[Index],
    found: &mut Recovered,
) -> Result<bool, Error> {
    let (store_path, index_path) = segment::paths(dir, base);
    let expected = match found.segments.back() {
        Some(before) => before.next_index(),
        None => base.min(found.floor),
    };
    let opened = Store::open(disk, &store_path, base)?;
    let Some(opened) = opened.filter(|_| base == expected) else {
        // Made, but never written to: its first write comes after a sync of the one before.
        if no_frames(disk, dir, base)? && all_empty(disk, dir, rest)? {
            remove_all(disk, dir, std::iter::once(&base).chain(rest))?;
            return Ok(false);
        }
        return Err(Error::Corrupt {
            path: store_path,
            position: 0,
            what: "entries are missing between the file before and this one",
        });
    };
    let index = match OffsetIndex::open(disk, &index_path, base)? {
        Some(index) => index,
        None => OffsetIndex::create(disk, &index_path, base, config.index_bytes_max)?,
    };
    let mut segment = Segment::new(opened, index);
    let torn = scan(&mut segment, found)?;
    if torn > 0 {
        if !all_empty(disk, dir, rest)? {
            let position = segment.end().into();
            return Err(segment
                .store
                .corrupt(position, "a frame does not check, and files follow"));
        }
        remove_all(disk, dir, rest.iter())?;
        segment
            .store
            .cut(segment.end(), Some(config.segment_bytes_max))?;
        segment.store.sync(disk)?;
        found.torn_bytes += torn;
    }
    found.segments.push_back(segment);
    Ok(torn == 0)
}

/// Tells the segment its entries; gives the bytes of a torn tail behind them.
fn scan(segment: &mut Segment, found: &mut Recovered) -> Result<u64, Error> {
    let store = segment.store.clone();
    let mut scan = store.scan()?;
    loop {
        let position = scan.position();
        match scan.next()? {
            Found::Frame(header) => {
                let rows = segment::rows_of(header.kind, scan.payload(&header)?);
                add(segment, &store, position, &header, rows, found)?;
            }
            Found::End => return Ok(0),
            Found::Bad => {
                let next = segment.next_index();
                if scan.synced_after(position, next)?.is_some() {
                    return Err(
                        store.corrupt(position, "a frame does not check, and synced ones follow")
                    );
                }
                return Ok(scan.remaining());
            }
        }
    }
}

fn add(
    segment: &mut Segment,
    store: &Store,
    position: u64,
    header: &Header,
    rows: u64,
    found: &mut Recovered,
) -> Result<(), Error> {
    if header.index != segment.next_index() {
        return Err(store.corrupt(position, "a frame has another raft index than its place"));
    }
    if header.term < found.last_term {
        return Err(store.corrupt(position, "a frame has a lower term than the one before"));
    }
    found.last_term = header.term;
    segment.add(header.kind, header.length, rows);
    Ok(())
}

fn no_frames(disk: &dyn Disk, dir: &Path, base: Index) -> Result<bool, Error> {
    let (path, _) = segment::paths(dir, base);
    match Store::open(disk, &path, base)? {
        None => Ok(true),
        Some(store) => Ok(store.scan()?.next()? == Found::End),
    }
}

fn all_empty(disk: &dyn Disk, dir: &Path, bases: &[Index]) -> Result<bool, Error> {
    for base in bases {
        if !no_frames(disk, dir, *base)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes segments, last first, so that a crash in between leaves no hole.
pub fn remove_all<'a>(
    disk: &dyn Disk,
    dir: &Path,
    bases: impl DoubleEndedIterator<Item = &'a Index>,
) -> Result<(), Error> {
    let mut removed = false;
    for base in bases.rev() {
        let (store, index) = segment::paths(dir, *base);
        for path in [store, index] {
            match disk.remove(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                done => done.map_err(Error::io("remove", path))?,
            }
        }
        removed = true;
    }
    if removed {
        disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
    }
    Ok(())
}

/// Drops the rows past the checkpoint, and all of them if those up to it do not hold.
fn check_rows(found: &mut Recovered, checkpoint: Option<Checkpoint>) -> Result<(), Error> {
    let keep = checkpoint.map_or(Index(0), |checkpoint| Index(checkpoint.applied.0 + 1));
    for segment in &mut found.segments {
        segment.index.drop_from(keep);
    }
    let wanted = checkpoint.map_or(Offset(0), |checkpoint| checkpoint.next_offset);
    found.rows_hold = checkpoint.is_some() && covered(found)? == Some(wanted);
    if found.rows_hold {
        found.next_offset = wanted;
    } else {
        for segment in &mut found.segments {
            segment.index.drop_from(Index(0));
        }
    }
    Ok(())
}

/// The offset after the last row, if the rows of each segment follow those of the one before.
fn covered(found: &Recovered) -> Result<Option<Offset>, Error> {
    let mut next = Offset(0);
    for segment in &found.segments {
        let rows = segment.index.rows();
        if rows == 0 {
            continue;
        }
        if segment.index.row(0).offset != next {
            return Ok(None);
        }
        match end_of(segment, rows - 1)? {
            Some(end) => next = end,
            None => return Ok(None),
        }
    }
    Ok(Some(next))
}

/// The offset after a segment's row, if the row agrees with the frame that it names.
fn end_of(segment: &Segment, number: usize) -> Result<Option<Offset>, Error> {
    let row = segment.index.row(number);
    if segment.position(row.index) != Some(row.position) {
        return Ok(None);
    }
    let Some((at, length)) = segment.span(row.index, Index(row.index.0 + 1), 0) else {
        return Ok(None);
    };
    let Some((entry, _)) = store::parse(&segment.store.read(at, length)?) else {
        return Err(segment
            .store
            .corrupt(at.into(), "a frame changed while it was read"));
    };
    for batch in record::batches(&entry.payload)? {
        let mut at = batch.records_at;
        for passed in 0..batch.count {
            if at == row.skip as usize {
                return Ok(Some(Offset(row.offset.0 + u64::from(batch.count - passed))));
            }
            at = record::skip(&entry.payload, at, 1)?;
        }
    }
    Ok(None)
}
