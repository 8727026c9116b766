//! The rows of a segment whose store is damaged, for a copy of its entries from another node.

use crate::log::format::files::Paths;
use crate::log::format::row::Row;
use crate::log::format::seal::Seal;
use crate::log::segment::index_file::{IndexFile, Rows};
use crate::log::{Error, Index, Log, Placed};

/// The rows of a segment, in order, as its index file holds them. Who uses them checks the whole against the seal.
#[derive(Debug)]
pub struct KeptRows {
    rows: Rows,
    /// One that was read too far.
    ahead: Option<Row>,
}

impl Log {
    /// The rows of a sealed segment as they are on the disk; `None` of a rewritten one, whose store tells its rows, and
    /// if their file is gone: a repair that failed halfway may have put it aside.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the index file is there and cannot be opened.
    pub fn kept_rows(&self, seal: &Seal) -> Result<Option<KeptRows>, Error> {
        if seal.rewritten.is_some() {
            return Ok(None);
        }
        let path = Paths::new(&self.0.dir, seal.name()).index;
        let file = match self.0.disk.open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(Error::io("open", &path))?,
        };
        Ok(Some(KeptRows {
            rows: IndexFile::new(&path, file).rows_of(seal),
            ahead: None,
        }))
    }
}

impl KeptRows {
    /// The next rows, of the entries up to one.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if a row does not check; as those of reading files.
    pub fn up_to(&mut self, last: Index) -> Result<Vec<Placed>, Error> {
        let mut rows = Vec::new();
        while let Some(row) = self.row()? {
            if row.index > last {
                self.ahead = Some(row);
                break;
            }
            rows.push(Placed {
                position: row.position,
                index: row.index,
                check: row.check,
                log: row.log,
                offset: row.offset,
            });
        }
        Ok(rows)
    }

    fn row(&mut self) -> Result<Option<Row>, Error> {
        match self.ahead.take() {
            Some(row) => Ok(Some(row)),
            None => self.rows.next().transpose(),
        }
    }
}
