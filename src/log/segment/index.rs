//! The index of one segment: memory-mapped rows that say where a record stands.
//!
//! Rows are written by apply alone, so they exist only for committed records (I5), and they are
//! derived: the store is truth (I3). One row covers the records of one batch that were accepted.
//! This file holds the crate's only `unsafe`.

use std::path::Path;
use std::sync::Arc;

use memmap2::{MmapMut, MmapOptions};

use super::directory::{Directory, View, directory_of};
use super::handles::Handles;
use super::index_file::{IndexFile, place, row_in};
use super::lazy_map::LazyMap;
use super::segment_file::SegmentFile;
use crate::disk::{self, Disk, File};
use crate::log::format::file_header::{self, FILE_HEADER_BYTES, Magic};
use crate::log::format::files::Paths;
use crate::log::format::row::{Bases, ROW_BYTES, Row};
use crate::log::format::seal::{self, Seal};
use crate::log::{Error, Index, LogId, Position};

/// A file in memory.
pub type Mapped = MmapMut;

/// Where an index file keeps the position of its first row.
pub const BASE_POSITION_AT: usize = 24;
const _: () = assert!(BASE_POSITION_AT + 8 == FILE_HEADER_BYTES);

/// The mapped rows of one segment.
#[derive(Debug)]
pub struct RowIndex {
    file: IndexFile,
    map: Map,
    base: Index,
    bases: Bases,
    rows: usize,
    /// Of rows that are written here. That of a sealed index is in its seal.
    directory: Directory,
}

#[derive(Debug)]
enum Map {
    /// Rows are written here. The second tells whether the map is of the file, so that they are the
    /// file's at once.
    Own(MmapMut, bool),
    Lazy(Arc<LazyMap>),
}

impl RowIndex {
    /// Makes the file with room for `bytes_max` bytes. A full disk is an error here, and so never
    /// a SIGBUS later.
    pub fn create(
        disk: &dyn Disk,
        path: &Path,
        base: Index,
        bytes_max: usize,
    ) -> Result<Self, Error> {
        let file = disk
            .open_or_create(path)
            .map_err(Error::io("create", path))?;
        file.set_len(0).map_err(Error::io("cut", path))?;
        file.allocate(bytes_max as u64)
            .map_err(Error::io("allocate", path))?;
        file.write_all_at(&file_header::encode(Magic::Index, base), 0)
            .map_err(Error::io("write", path))?;
        Self::map(path, file, base)
    }

    /// Rows in memory, with room for `bytes_max` bytes, until the log's writer has made the file.
    pub fn unmade(path: &Path, base: Index, bytes_max: usize) -> Result<Self, Error> {
        let mut map =
            MmapMut::map_anon(bytes_max.max(FILE_HEADER_BYTES)).map_err(Error::io("map", path))?;
        map[..FILE_HEADER_BYTES].copy_from_slice(&file_header::encode(Magic::Index, base));
        Ok(Self {
            map: Map::Own(map, false),
            file: IndexFile::unmade(path),
            base,
            bases: Bases::new(base, Position(0)),
            rows: 0,
            directory: Directory::default(),
        })
    }

    /// Opens the file; `None` if it is missing or was never finished, which loses nothing.
    pub fn open(disk: &dyn Disk, path: &Path, base: Index) -> Result<Option<Self>, Error> {
        let file = match disk.open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            done => done.map_err(Error::io("open", path))?,
        };
        if file_header::read(&*file, path, Magic::Index, base)?.is_none() {
            return Ok(None);
        }
        let mut index = Self::map(path, file, base)?;
        let mapped = index.bytes()?;
        let base_position = mapped[BASE_POSITION_AT..].first_chunk();
        let base_position = base_position.map_or(0, |bytes| u64::from_le_bytes(*bytes));
        index.bases = Bases::new(base, Position(base_position));
        index.rows = index.count_rows()?;
        index.directory = index.read_directory()?;
        Ok(Some(index))
    }

    /// The index of a sealed segment, whose seal tells what is in it. Nothing is opened before a row
    /// is looked for, and each is checked when it is read.
    pub fn sealed(paths: &Paths, seal: &Arc<Seal>, handles: &Arc<Handles>) -> Self {
        let file = IndexFile::on_demand(&paths.index, handles);
        Self {
            map: lazy(&file, &paths.seal, seal, handles),
            file,
            base: seal.base,
            bases: Bases::new(seal.base, seal.first_position),
            rows: seal.rows as usize,
            directory: Directory::default(),
        }
    }

    /// Says that no row follows, that all rows are in the file, and their directory is in the seal's. From now on both
    /// are opened and mapped when they are read.
    pub fn let_go(&mut self, seal_path: &Path, seal: &Arc<Seal>, handles: &Arc<Handles>) {
        self.file.let_go(handles);
        self.map = lazy(&self.file, seal_path, seal, handles);
        self.directory = Directory::default();
    }

    /// The map of a sealed segment's index.
    pub fn lazy(&self) -> Option<&Arc<LazyMap>> {
        match &self.map {
            Map::Lazy(lazy) => Some(lazy),
            Map::Own(..) => None,
        }
    }

    /// Puts another map in the place of that one.
    pub fn set_lazy(&mut self, lazy: Arc<LazyMap>) {
        self.map = Map::Lazy(lazy);
    }

    /// An index in place of a file that is missing.
    pub fn absent(path: &Path, base: Index) -> Result<Self, Error> {
        Self::map(path, disk::absent(), base)
    }

    fn map(path: &Path, file: Arc<dyn File>, base: Index) -> Result<Self, Error> {
        Ok(Self {
            map: Map::Own(map_file(&*file, path)?, file.mappable().is_some()),
            file: IndexFile::new(path, file),
            base,
            bases: Bases::new(base, Position(0)),
            rows: 0,
            directory: Directory::default(),
        })
    }

    /// The rows that fit.
    pub fn capacity(&self) -> usize {
        self.len().saturating_sub(FILE_HEADER_BYTES) / ROW_BYTES
    }

    /// The file's length.
    pub fn file_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn len(&self) -> usize {
        match &self.map {
            Map::Own(map, _) => map.len(),
            Map::Lazy(lazy) => lazy.len(),
        }
    }

    /// What the file holds, as far as rows were handed over.
    fn bytes(&self) -> Result<&[u8], Error> {
        match &self.map {
            Map::Own(map, _) => Ok(map),
            Map::Lazy(lazy) => lazy.bytes(),
        }
    }

    fn own(&mut self) -> &mut MmapMut {
        match &mut self.map {
            Map::Own(map, _) => map,
            Map::Lazy(_) => unreachable!("a sealed index takes no row"),
        }
    }

    /// The rows written.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Writes the next row.
    ///
    /// A segment rolls before its index is full, unless one entry alone fills it or the file was
    /// found shorter than it was left.
    pub fn push(&mut self, row: Row) -> Result<(), Error> {
        self.move_to_file();
        if self.rows == self.capacity() {
            self.reserve((self.rows + self.rows / 2 + 64) as u64)?;
        }
        if self.rows == 0 {
            self.bases = Bases::new(self.base, row.position);
            self.own()[BASE_POSITION_AT..][..8].copy_from_slice(&row.position.0.to_le_bytes());
        }
        let bytes = self.encode(&row)?;
        let at = place(self.rows);
        self.own()[at..][..ROW_BYTES].copy_from_slice(&bytes);
        self.rows += 1;
        self.directory.push(&row);
        Ok(())
    }

    /// Puts the rows into the file's own map, once there is a file. If it cannot be mapped the rows
    /// stay in memory, and are written there as those of a file without a map.
    fn move_to_file(&mut self) {
        let Map::Own(map, false) = &mut self.map else {
            return;
        };
        let file = self.file.is_made().then(|| self.file.file().ok()).flatten();
        let Some(file) = file.filter(|file| file.mappable().is_some()) else {
            return;
        };
        let filled = place(self.rows);
        let mapped = map_file(&*file, self.file.path()).ok();
        if let Some(mut mapped) = mapped.filter(|mapped| mapped.len() >= map.len()) {
            mapped[..filled].copy_from_slice(&map[..filled]);
            self.map = Map::Own(mapped, true);
        }
    }

    fn encode(&self, row: &Row) -> Result<[u8; ROW_BYTES], Error> {
        let encoded = self.bases.encode(row);
        encoded.ok_or_else(|| Error::Corrupt {
            path: self.file.path().to_owned(),
            position: FILE_HEADER_BYTES as u64,
            what: "a segment spans more than 32 bits of positions",
        })
    }

    /// The row with this number, if it checks.
    pub fn row(&self, number: usize) -> Result<Row, Error> {
        let row = self.checked_row(self.bytes()?, number);
        row.ok_or_else(|| Error::Corrupt {
            path: self.file.path().to_owned(),
            position: place(number) as u64,
            what: "a row does not check",
        })
    }

    fn checked_row(&self, bytes: &[u8], number: usize) -> Option<Row> {
        row_in(bytes, &self.bases, number)
    }

    /// The rows of each log; `None` if they must be loaded first.
    pub fn directory(&self) -> Option<View<'_>> {
        match &self.map {
            Map::Own(..) => Some(View::Open(&self.directory)),
            Map::Lazy(lazy) => lazy.directory().map(View::Sealed),
        }
    }

    /// Whether a log has rows, of an index that is open.
    pub fn has(&self, log: LogId) -> bool {
        self.directory.has(log)
    }

    fn read_directory(&self) -> Result<Directory, Error> {
        directory_of(self.bytes()?, &self.bases, self.rows, self.file.path())
    }

    /// The position of the first row, if there is one.
    pub fn base_position(&self) -> Option<Position> {
        (self.rows > 0).then_some(self.bases.position())
    }

    /// Makes room for so many rows in all. A full disk is an error here.
    pub fn reserve(&mut self, rows: u64) -> Result<(), Error> {
        if rows <= self.capacity() as u64 {
            return Ok(());
        }
        let len = FILE_HEADER_BYTES as u64 + rows * ROW_BYTES as u64;
        if !self.file.is_made() {
            return self.grow_in_memory(len);
        }
        self.write_back()?;
        let (file, path) = (self.file.file()?, self.file.path());
        file.allocate(len).map_err(Error::io("allocate", path))?;
        self.map = Map::Own(map_file(&*file, path)?, file.mappable().is_some());
        Ok(())
    }

    fn grow_in_memory(&mut self, len: u64) -> Result<(), Error> {
        let len = usize::try_from(len).expect("an entry's rows fit the address space");
        let mut map = MmapMut::map_anon(len).map_err(Error::io("map", self.file.path()))?;
        let filled = place(self.rows);
        map[..filled].copy_from_slice(&self.own()[..filled]);
        self.map = Map::Own(map, false);
        Ok(())
    }

    /// Drops the rows of entries at or after `index`, zeroing them.
    pub fn drop_from(&mut self, index: Index) -> Result<(), Error> {
        let keep = self.partition(|row| row.index < index)?;
        let from = place(keep);
        self.own()[from..].fill(0);
        self.rows = keep;
        self.directory = self.read_directory()?;
        Ok(())
    }

    /// Gives the room after the last row back to the disk: no row follows.
    pub fn seal(&mut self) -> Result<(), Error> {
        self.write_back()?;
        // The map goes first, so that none of it ever lies beyond the file's end. If the file cannot be cut or mapped
        // again, the rows are still read from their copy.
        let filled = place(self.rows);
        self.grow_in_memory(filled as u64)?;
        let (file, path) = (self.file.file()?, self.file.path());
        file.set_len(filled as u64)
            .map_err(Error::io("cut", path))?;
        self.map = Map::Own(map_file(&*file, path)?, file.mappable().is_some());
        Ok(())
    }

    /// Hands the rows to the file; see [`IndexFile::write_back`].
    pub fn write_back(&self) -> Result<(), Error> {
        match &self.map {
            Map::Own(map, is_mapped) => {
                // There is no map where the file could not be mapped anew.
                let bytes = map.get(..place(self.rows)).ok_or(Error::Stopped)?;
                self.file.write_back(bytes, *is_mapped)
            }
            Map::Lazy(_) => Ok(()),
        }
    }

    /// Its file.
    pub fn file(&self) -> IndexFile {
        self.file.clone()
    }

    /// Rows end at the first that does not check: behind the last, all is zero.
    fn count_rows(&self) -> Result<usize, Error> {
        let bytes = self.bytes()?;
        let checks = |number: &usize| self.checked_row(bytes, *number).is_some();
        Ok((0..self.capacity()).take_while(checks).count())
    }

    /// Adds rows from number `from` on to a digest; `bytes` is what their file holds. An open index
    /// that was never written back has none there.
    pub fn add_digest(&self, digest: u32, from: usize, bytes: &[u8]) -> Result<u32, Error> {
        let mapped = self.bytes()?.get(place(from)..).unwrap_or_default();
        if !mapped.starts_with(bytes) {
            return Err(Error::Corrupt {
                path: self.file.path().to_owned(),
                position: place(from) as u64,
                what: "a row on disk is not the one in memory",
            });
        }
        let numbers = from..from + bytes.len() / ROW_BYTES;
        numbers
            .map(|number| self.row(number))
            .try_fold(digest, |digest, row| Ok(seal::add_row(digest, &row?)))
    }
}

/// The maps of an index that is sealed.
fn lazy(file: &IndexFile, seal_path: &Path, seal: &Arc<Seal>, handles: &Arc<Handles>) -> Map {
    let seal_file = Arc::new(SegmentFile::on_demand(seal_path, handles));
    let lazy = LazyMap::new(file.clone(), seal_file, seal, handles);
    Map::Lazy(Arc::new(lazy))
}

/// Maps a file whole, or copies it into an anonymous map if it cannot be mapped.
pub fn map_file(file: &dyn File, path: &Path) -> Result<MmapMut, Error> {
    let len = file.len().map_err(Error::io("measure", path))?;
    let len = usize::try_from(len).expect("index files are smaller than the address space");
    let Some(mappable) = file.mappable() else {
        let mut map = MmapMut::map_anon(len.max(1)).map_err(Error::io("map", path))?;
        file.read_exact_at(&mut map[..len], 0)
            .map_err(Error::io("read", path))?;
        return Ok(map);
    };
    if len == 0 {
        return MmapMut::map_anon(1).map_err(Error::io("map", path));
    }
    // SAFETY: the file belongs to this process alone, by the data directory's lock, and is mapped
    // once while it is written; while it grows, its old map lives until the new one takes its place.
    // A sealed one may have two maps for a moment, and is only read through them. It was allocated
    // to its length, so no page of the map lacks a block (no SIGBUS on a full disk), and it is only
    // ever cut in `seal` and `create`, while no map of it exists; a seal is never changed, but another file gets its
    // name. Reads and writes through the map
    // are bounds-checked slices of plain bytes.
    #[allow(unsafe_code, reason = "the one memory map; the argument stands above")]
    let map = unsafe { MmapOptions::new().len(len).map_mut(mappable) };
    map.map_err(Error::io("map", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::OsDisk;
    use crate::disk::memory::MemoryDisk;
    use crate::log::Offset;

    fn row(offset: u64, index: u64) -> Row {
        Row {
            position: Position(offset),
            index: Index(index),
            place: 32 + index as u32,
            check: 16,
            log: LogId(3),
            offset: Offset(offset),
        }
    }

    /// The row of its log that is the last at or before an offset.
    fn found(index: &RowIndex, offset: u64) -> Option<usize> {
        let rows = index.directory().unwrap().rows_of(LogId(3)).unwrap()?;
        let (found, next) = index.find_in(&rows, Offset(offset)).unwrap()?;
        assert!(next.is_none_or(|next| next.at == found.at + 1));
        assert_eq!(found.row, index.row(found.number).unwrap());
        Some(found.at)
    }

    fn rows_come_back(disk: &dyn Disk, path: &Path) {
        let mut index = RowIndex::create(disk, path, Index(5), 4096).unwrap();
        assert_eq!(found(&index, 0), None);
        for (offset, at) in [(100, 5), (103, 7), (104, 9)] {
            index.push(row(offset, at)).unwrap();
        }
        assert_eq!(found(&index, 99), None);
        assert_eq!(found(&index, 102), Some(0));
        assert_eq!(found(&index, 103), Some(1));
        assert_eq!(found(&index, u64::MAX), Some(2));
        index.seal().unwrap();
        drop(index);

        let mut index = RowIndex::open(disk, path, Index(5)).unwrap().unwrap();
        assert_eq!((index.rows(), index.capacity()), (3, 3));
        assert_eq!(index.row(1).unwrap(), row(103, 7));
        index.drop_from(Index(7)).unwrap();
        assert_eq!((index.rows(), index.row(0).unwrap()), (1, row(100, 5)));
    }

    #[test]
    fn rows_come_back_from_a_mapped_file() {
        let dir = tempfile::tempdir().unwrap();
        rows_come_back(&OsDisk, &dir.path().join("a.index"));
    }

    #[test]
    fn rows_come_back_from_an_anonymous_map() {
        rows_come_back(&MemoryDisk::default(), Path::new("/a.index"));
    }

    #[test]
    fn any_offset_is_found_however_unevenly_they_grow() {
        let mut index = RowIndex::create(
            &MemoryDisk::default(),
            Path::new("/a.index"),
            Index(0),
            1 << 16,
        )
        .unwrap();
        let mut begins = Vec::new();
        let mut next = 1000;
        for number in 0..300u64 {
            begins.push(next);
            index.push(row(next, number)).unwrap();
            next += if number % 50 == 7 {
                5000
            } else {
                1 + number % 3
            };
        }
        for offset in 990..next + 10 {
            let expected = begins
                .partition_point(|begin| *begin <= offset)
                .checked_sub(1);
            assert_eq!(found(&index, offset), expected, "{offset}");
        }
        assert_eq!(found(&index, u64::MAX), Some(299));
    }

    #[test]
    fn an_unfinished_or_foreign_file_is_told_apart() {
        let disk = MemoryDisk::default();
        let path = Path::new("/a.index");
        assert!(RowIndex::open(&disk, path, Index(0)).unwrap().is_none());
        let file = disk.create(path).unwrap();
        assert!(RowIndex::open(&disk, path, Index(0)).unwrap().is_none());
        file.write_all_at(&[9; 64], 0).unwrap();
        assert!(RowIndex::open(&disk, path, Index(0)).is_err());
    }
}
