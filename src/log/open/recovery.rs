//! Opening a log: which bytes are a torn tail, which are damage, which rows still hold.
//!
//! A sealed segment is taken at its seal's word; its bytes are checked when they are read. The open
//! ones behind are read whole. A torn tail is cut: bytes that do not check, in the last file that
//! holds frames, with nothing behind them that was written later than they were synced. Damage to a
//! sealed segment waits for repair; all else that does not check is an error that names the file
//! and the position. Files that are not a log's are left alone.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::cut;
use super::derive;
use super::rewritten;
use super::room;
use crate::disk::{self, Disk};
use crate::log::format::files::{Paths, SegmentName, remove_all, remove_files};
use crate::log::format::frame::{self, Header};
use crate::log::format::record;
use crate::log::format::room::Room;
use crate::log::format::seal::Seal;
use crate::log::segment::handles::Handles;
use crate::log::segment::index::RowIndex;
use crate::log::segment::index_file;
use crate::log::segment::store::{Found, Store};
use crate::log::segment::{Damage, Segment};
use crate::log::{AllEnds, Config, Error, Floor, Index, NUMBER_MAX, Position, Term};

/// What the FSM had made durable of its place in the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last raft index it covers.
    pub applied: Index,
    /// The position that the next record gets.
    pub next_position: Position,
    /// The entry behind the last one of those that ended a segment; 0 before any.
    pub rolled: Index,
    /// Where each log begins and ends.
    pub logs: Arc<AllEnds>,
}

/// A log as it was found.
#[derive(Debug)]
pub struct Recovered {
    /// Where it begins.
    pub floor: Floor,
    pub segments: VecDeque<Segment>,
    /// The last entry's term.
    pub last_term: Term,
    /// The entry behind the last one that ended a segment.
    pub rolled: Index,
    /// The latest time of the entries that were read, in milliseconds since 1970.
    pub last_timestamp_ms: u64,
    pub next_position: Position,
    /// Whether the rows up to the checkpoint hold. If not, all rows are gone, and every entry must
    /// be applied again.
    pub rows_hold: bool,
    /// Bytes of a torn tail that were cut.
    pub torn_bytes: u64,
    /// Bytes of stores that were read.
    pub read_bytes: u64,
}

impl Recovered {
    fn new(floor: Floor) -> Self {
        Self {
            floor,
            segments: VecDeque::new(),
            last_term: Term(0),
            rolled: Index(0),
            last_timestamp_ms: 0,
            next_position: floor.position,
            rows_hold: false,
            torn_bytes: 0,
            read_bytes: 0,
        }
    }

    /// The raft index that the next entry gets.
    pub fn next_index(&self) -> Index {
        let last = self.segments.back();
        last.map_or(self.floor.index, Segment::next_index)
    }

    fn saw(&mut self, segment: &mut Segment, needs: Room, payload: &[u8]) {
        if needs.rows > 0 {
            let timestamp_ms = record::timestamp_ms(payload);
            segment.saw(timestamp_ms);
            self.last_timestamp_ms = self.last_timestamp_ms.max(timestamp_ms);
        }
    }
}

/// The directory that is opened, and with what.
pub struct LogDirectory<'a> {
    pub disk: &'a dyn Disk,
    pub dir: &'a Path,
    pub config: &'a Config,
    /// How sealed segments' files are opened.
    pub handles: &'a Arc<Handles>,
}

/// Opens the segments in a directory.
pub fn recover(
    directory: &LogDirectory<'_>,
    floor: Floor,
    checkpoint: Option<&Checkpoint>,
) -> Result<Recovered, Error> {
    check_numbers(directory, floor, checkpoint)?;
    cut::redo(directory.disk, directory.dir, directory.config)?;
    // The names of the files that are found, as their bytes below.
    let dir = directory.dir;
    directory
        .disk
        .sync_dir(dir)
        .map_err(Error::io("sync", dir))?;
    let mut found = open_segments(directory, floor, checkpoint)?;
    check_tail(directory, &found, checkpoint)?;
    let whole = checkpoint.is_some() || floor.position == Position(0);
    if whole && derive::hold(&mut found, checkpoint)? {
        return Ok(found);
    }
    if floor.index > Index(0) || found.segments.iter().any(Segment::is_rewritten) {
        return Err(Error::Corrupt {
            path: directory.dir.to_owned(),
            position: 0,
            what: "the index does not match its checkpoint and cannot be derived again, since the \
                   log was trimmed or rewritten",
        });
    }
    // Every entry will be applied again, so the place of every entry is needed.
    drop(found);
    let mut found = open_segments(directory, floor, None)?;
    // Sealed segments were taken at their word before.
    check_tail(directory, &found, checkpoint)?;
    derive::hold(&mut found, None)?;
    Ok(found)
}

/// A floor or a checkpoint that no log can have is an error before any file is touched.
fn check_numbers(
    directory: &LogDirectory<'_>,
    floor: Floor,
    checkpoint: Option<&Checkpoint>,
) -> Result<(), Error> {
    let covered = checkpoint.map_or(0, |known| known.applied.0);
    let next = checkpoint.map_or(0, |known| known.next_position.0);
    let numbers = [covered, next, floor.index.0, floor.position.0];
    let largest = numbers.into_iter().fold(0, u64::max);
    let logs = checkpoint.map(|known| &*known.logs);
    let mut ends = logs.into_iter().flat_map(|logs| logs.values());
    let possible = ends.all(|ends| ends.first <= ends.next && ends.next.0 <= NUMBER_MAX);
    if largest <= NUMBER_MAX && possible {
        return Ok(());
    }
    Err(Error::Corrupt {
        path: directory.dir.to_owned(),
        position: 0,
        what: "the floor or the checkpoint is one that no log can have",
    })
}

/// What a checkpoint covers was durable before it.
fn check_tail(
    directory: &LogDirectory<'_>,
    found: &Recovered,
    checkpoint: Option<&Checkpoint>,
) -> Result<(), Error> {
    let next = found.next_index();
    match checkpoint.filter(|checkpoint| checkpoint.applied >= next) {
        None => Ok(()),
        Some(checkpoint) => Err(Error::LostTail {
            path: directory.dir.to_owned(),
            last: next.0.checked_sub(1).map(Index),
            synced: checkpoint.applied,
        }),
    }
}

fn open_segments(
    directory: &LogDirectory<'_>,
    floor: Floor,
    checkpoint: Option<&Checkpoint>,
) -> Result<Recovered, Error> {
    let covered = checkpoint.map_or(Index(0), |known| Index(known.applied.0 + 1));
    let mut found = Recovered::new(floor);
    let names = rewritten::live_names(directory, floor.index)?;
    room::take(directory, names.last());
    let bases: Vec<_> = names.iter().map(|name| name.base).collect();
    found.rolled = checkpoint.map_or(Index(0), |known| known.rolled);
    for (number, name) in names.iter().enumerate() {
        let rest = &bases[number + 1..];
        if !open_segment(directory, *name, rest, covered, &mut found)? {
            break;
        }
    }
    if let Some(checkpoint) = checkpoint {
        found.ended_by_checkpoint(checkpoint);
    }
    Ok(found)
}

/// Opens one segment; false if it and all after it held no frame and are gone.
fn open_segment(
    directory: &LogDirectory<'_>,
    name: SegmentName,
    rest: &[Index],
    covered: Index,
    found: &mut Recovered,
) -> Result<bool, Error> {
    let (base, paths) = (name.base, Paths::new(directory.dir, name));
    let missing = Error::Corrupt {
        path: paths.store.clone(),
        position: 0,
        what: "entries are missing between the file before and this one",
    };
    if let Some(seal) = Seal::read(directory.disk, &paths.seal, name)? {
        if seal.next_index() <= covered {
            if base != found.next_index() {
                return Err(missing);
            }
            found.last_term = seal.last_term();
            found
                .segments
                .push_back(open_sealed(directory, &paths, seal)?);
            return Ok(true);
        }
        if name.rewritten.is_some() {
            return Err(Error::Corrupt {
                path: paths.seal,
                position: 0,
                what: "the checkpoint that covers a rewritten segment is not here any more",
            });
        }
        // The checkpoint that covered the seal is gone, so the segment may change again.
        remove_files(
            directory.disk,
            directory.dir,
            std::iter::once(paths.seal.clone()),
        )?;
    }
    if directory
        .disk
        .open(&paths.store)
        .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    {
        return Err(missing);
    }
    let opened = Store::open(directory.disk, &paths.store, base)?;
    let Some(store) = opened.filter(|_| base == found.next_index()) else {
        // The file was made and never written to: its first write comes after a sync of the one before.
        let (disk, dir) = (directory.disk, directory.dir);
        if no_frames(disk, dir, base)? && all_empty(disk, dir, rest)? {
            remove_all(disk, dir, std::iter::once(&base).chain(rest))?;
            return Ok(false);
        }
        return Err(missing);
    };
    open_unsealed(directory, store, &paths.index, (rest, covered), found)
}

/// A sealed segment, with what is plainly wrong with its files. They are not opened: a log may have
/// more of them than a process may have files open.
pub fn open_sealed(
    directory: &LogDirectory<'_>,
    paths: &Paths,
    seal: Seal,
) -> Result<Segment, Error> {
    let holds = |path: &Path, bytes: u64| match directory.disk.len_of(path) {
        Ok(len) => Ok(len >= bytes),
        Err(error) if disk::is_short_of_files(&error) => Err(Error::io("measure", path)(error)),
        Err(_) => Ok(false),
    };
    let rows = index_file::place(seal.rows as usize) as u64;
    let damage = if !holds(&paths.store, seal.end.into())? {
        Some(Damage::Store)
    } else if !holds(&paths.index, rows)? {
        Some(Damage::Index)
    } else {
        None
    };
    let seal = Arc::new(seal);
    let store = Store::on_demand(&paths.store, seal.base, directory.handles);
    let index = RowIndex::sealed(paths, &seal, directory.handles);
    Ok(Segment::sealed(store, index, seal, damage))
}

/// Reads a segment that has no seal; false if it ends in a torn tail, so that it is the last.
fn open_unsealed(
    directory: &LogDirectory<'_>,
    store: Store,
    index_path: &Path,
    (rest, covered): (&[Index], Index),
    found: &mut Recovered,
) -> Result<bool, Error> {
    let (disk, config) = (directory.disk, directory.config);
    // Rows are derived: a file that does not even begin like one is made anew. One that cannot be read may hold
    // them, and where a batch was refused they cannot be derived: it stays as it is, for the next start.
    let index = match RowIndex::open(disk, index_path, store.base()) {
        Err(error @ (Error::Version { .. } | Error::Io { .. })) => return Err(error),
        Ok(Some(index)) => index,
        Ok(None) | Err(_) => {
            let (base, room) = (store.base(), config.index_bytes_max);
            RowIndex::create(disk, index_path, base, room)?
        }
    };
    // Raft takes what is found for durable (I1): a process that was killed may not have synced it.
    store.settle()?;
    let mut segment = Segment::open(store, index, true);
    let torn = scan(&mut segment, covered, found)?;
    let base = segment.base();
    if segment.next_index() == base && all_empty(disk, directory.dir, rest)? {
        // The file never held a whole frame. The next append makes it anew.
        let gone = std::iter::once(&base).chain(rest);
        remove_all(disk, directory.dir, gone)?;
        found.torn_bytes += torn;
        return Ok(false);
    }
    segment.reserve(Room::default())?;
    found.read_bytes += u64::from(segment.end());
    if torn > 0 {
        if !all_empty(disk, directory.dir, rest)? {
            let position = segment.end().into();
            let what = "a frame does not check, and files follow";
            return Err(segment.store.corrupt(position, what));
        }
        remove_all(disk, directory.dir, rest.iter())?;
        let room = segment.room(config);
        segment.store.cut(segment.end(), Some(room))?;
        segment.store.sync()?;
        found.torn_bytes += torn;
    }
    found.segments.push_back(segment);
    Ok(torn == 0)
}

/// Tells the segment its entries; gives the bytes of a torn tail behind them.
fn scan(segment: &mut Segment, covered: Index, found: &mut Recovered) -> Result<u64, Error> {
    let store = segment.store.clone();
    let mut scan = store.scan()?;
    loop {
        let position = scan.position();
        match scan.next()? {
            Found::Frame(header) => {
                let payload = scan.payload(&header)?;
                let needs = Room::of(header.kind, payload);
                found.saw(segment, needs, payload);
                let rolls = frame::rolls(header.kind, payload);
                add(segment, &store, position, &header, needs, found)?;
                rolls.inspect(|since| found.rolls(segment, *since, covered));
            }
            Found::End => return Ok(0),
            Found::Bad => {
                let next = segment.next_index();
                if scan.synced_after(position, next)?.is_some() {
                    let what = "a frame does not check, and synced ones follow";
                    return Err(store.corrupt(position, what));
                }
                return scan.remaining();
            }
        }
    }
}

fn add(
    segment: &mut Segment,
    store: &Store,
    position: u64,
    header: &Header,
    needs: Room,
    found: &mut Recovered,
) -> Result<(), Error> {
    if header.index != segment.next_index() {
        return Err(store.corrupt(position, "a frame has another raft index than its place"));
    }
    if header.term < found.last_term {
        return Err(store.corrupt(position, "a frame has a lower term than the one before"));
    }
    found.last_term = header.term;
    segment.add(header.term, header.length, needs, header.crc);
    Ok(())
}

fn no_frames(disk: &dyn Disk, dir: &Path, base: Index) -> Result<bool, Error> {
    match Store::open(disk, &Paths::new(dir, base).store, base)? {
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
