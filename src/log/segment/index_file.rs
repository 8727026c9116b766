//! The file of an index, which is read and synced without holding the index.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::handles::{Handles, Lease};
use super::segment_file::SegmentFile;
use crate::disk::File;
use crate::log::Error;
use crate::log::format::file_header::FILE_HEADER_BYTES;
use crate::log::format::row::{Bases, ROW_BYTES, Row};
use crate::log::format::seal::Seal;

/// Rows that are read at a time where many are: 128 KiB of them.
const STEP_ROWS: usize = 4096;

/// Clones are the same open file.
#[derive(Debug, Clone)]
pub struct IndexFile {
    file: Arc<SegmentFile>,
    /// The last sync failed.
    unsure: Arc<AtomicBool>,
}

/// The rows of a file in order, some read at a time: each as it checks, and nothing behind one that does not.
#[derive(Debug)]
pub struct Rows {
    file: IndexFile,
    bases: Bases,
    steps: Steps,
    read: std::vec::IntoIter<Row>,
}

/// The numbers of rows that are read at a time.
#[derive(Debug)]
pub struct Steps(Range<usize>);

/// So many rows, as they are read.
pub fn in_steps(rows: usize) -> Steps {
    Steps(0..rows)
}

impl Iterator for Steps {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Self::Item> {
        let from = self.0.start;
        self.0.start = (from + STEP_ROWS).min(self.0.end);
        (from < self.0.start).then_some(from..self.0.start)
    }
}

impl Iterator for Rows {
    type Item = Result<Row, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(row) = self.read.next() {
            return Some(Ok(row));
        }
        match self.file.rows(&self.bases, self.steps.next()?) {
            Ok(rows) => {
                self.read = rows.into_iter();
                self.next()
            }
            Err(error) => {
                self.steps = in_steps(0);
                Some(Err(error))
            }
        }
    }
}

/// Where a row begins in the file.
pub fn place(number: usize) -> usize {
    FILE_HEADER_BYTES + number * ROW_BYTES
}

/// The row with this number in an index file's bytes, if it checks.
pub fn row_in(bytes: &[u8], bases: &Bases, number: usize) -> Option<Row> {
    bases.decode(bytes.get(place(number)..)?.first_chunk()?)
}

impl IndexFile {
    pub fn new(path: &Path, file: Arc<dyn File>) -> Self {
        Self::of(SegmentFile::open(path, file))
    }

    /// A file that the log's writer makes.
    pub fn unmade(path: &Path) -> Self {
        Self::of(SegmentFile::unmade(path))
    }

    /// A file that is opened when it is used.
    pub fn on_demand(path: &Path, handles: &Arc<Handles>) -> Self {
        Self::of(SegmentFile::on_demand(path, handles))
    }

    /// From now on it is opened when it is used.
    pub fn let_go(&self, handles: &Arc<Handles>) {
        self.file.let_go(handles);
    }

    fn of(file: SegmentFile) -> Self {
        Self {
            file: Arc::new(file),
            unsure: Arc::default(),
        }
    }

    /// The file was made.
    pub fn made(&self, file: Arc<dyn File>) {
        self.file.made(file);
    }

    /// Whether there is a file.
    pub fn is_made(&self) -> bool {
        self.file.is_made()
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The file itself.
    pub fn file(&self) -> Result<Lease, Error> {
        self.file.file()
    }

    /// Hands over what the file begins with. A file that is mapped has it already, unless a sync of
    /// it failed; one that is not made holds the rows of no durable entry.
    pub fn write_back(&self, bytes: &[u8], is_mapped: bool) -> Result<(), Error> {
        if !self.is_made() || (is_mapped && !self.unsure.load(Ordering::Acquire)) {
            return Ok(());
        }
        self.file()?
            .write_all_at(bytes, 0)
            .map_err(Error::io("write", self.path()))?;
        self.unsure.store(false, Ordering::Release);
        Ok(())
    }

    /// Makes the rows durable that were handed over.
    ///
    /// After a failure the system takes the pages for written, which they are not, and the next
    /// sync would succeed (Rebello et al., ATC 2020): so all are handed over again before it.
    pub fn sync(&self) -> Result<(), Error> {
        if !self.is_made() {
            return Ok(());
        }
        let synced = self.file()?.sync_data();
        if synced.is_err() {
            self.unsure.store(true, Ordering::Release);
        }
        synced.map_err(Error::io("sync", self.path()))
    }

    /// Reads rows from the file, not through a map, so that a sector that cannot be read is an
    /// error.
    pub fn read(&self, rows: Range<usize>) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; rows.len() * ROW_BYTES];
        self.file()?
            .read_exact_at(&mut bytes, place(rows.start) as u64)
            .map_err(Error::io("read", self.path()))?;
        Ok(bytes)
    }

    /// The same rows, checked.
    fn rows(&self, bases: &Bases, rows: Range<usize>) -> Result<Vec<Row>, Error> {
        let bytes = self.read(rows)?;
        let rows = bytes.chunks_exact(ROW_BYTES);
        let rows = rows.map(|row| bases.decode(row.first_chunk()?));
        let rows: Option<_> = rows.collect();
        rows.ok_or(Error::Malformed("a row does not check"))
    }

    /// All rows that a seal sums up.
    pub fn rows_of(&self, seal: &Seal) -> Rows {
        Rows {
            file: self.clone(),
            bases: Bases::new(seal.base, seal.first_position),
            steps: in_steps(seal.rows as usize),
            read: Vec::new().into_iter(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;

    use parking_lot::Mutex;

    use super::*;
    use crate::disk::{Disk, OsDisk};

    /// A mappable file whose syncs can fail, and that notes its writes.
    #[derive(Debug)]
    struct Failing {
        file: Arc<dyn File>,
        fails: AtomicBool,
        written: Mutex<Vec<Vec<u8>>>,
    }

    impl File for Failing {
        fn read_exact_at(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
            self.file.read_exact_at(buf, position)
        }

        fn write_all_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
            self.written.lock().push(buf.to_vec());
            self.file.write_all_at(buf, position)
        }

        fn sync_data(&self) -> io::Result<()> {
            if self.fails.load(Ordering::Relaxed) {
                return Err(io::Error::other("a bad sector"));
            }
            self.file.sync_data()
        }

        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.file.set_len(len)
        }

        fn allocate(&self, len: u64) -> io::Result<()> {
            self.file.allocate(len)
        }

        fn mappable(&self) -> Option<&fs::File> {
            self.file.mappable()
        }
    }

    #[test]
    fn a_sync_that_failed_is_not_believed_the_second_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.index");
        let failing = Arc::new(Failing {
            file: OsDisk.create(&path).unwrap(),
            fails: AtomicBool::new(false),
            written: Mutex::default(),
        });
        let rows = IndexFile::new(&path, failing.clone());
        rows.write_back(b"rows", true).unwrap();
        rows.sync().unwrap();
        assert!(failing.written.lock().is_empty(), "the map wrote them");

        failing.fails.store(true, Ordering::Relaxed);
        rows.write_back(b"rows", true).unwrap();
        rows.clone().sync().unwrap_err();
        failing.fails.store(false, Ordering::Relaxed);
        rows.write_back(b"rows and more", true).unwrap();
        rows.sync().unwrap();
        rows.write_back(b"rows and more", true).unwrap();
        assert_eq!(*failing.written.lock(), [b"rows and more"]);
    }
}
