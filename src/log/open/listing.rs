//! The directory of a segment's rows, made from its files: when it is sealed, when a scrub looks at it, when it is mended.

use crate::log::format::directory::{Builder, Directory};
use crate::log::format::row::Row;
use crate::log::format::seal::{self, Seal};
use crate::log::segment::index_file::IndexFile;
use crate::log::segment::store::Store;
use crate::log::{Error, LogId};

/// The directory of the rows that a seal sums up, as they stand in their file; `None` if they are not these.
pub fn list(rows: &IndexFile, store: &Store, seal: &Seal) -> Result<Option<Directory>, Error> {
    let mut listing = Listing::new(store, seal)?;
    for row in rows.rows_of(seal) {
        match row {
            Ok(row) => listing.push(&row)?,
            Err(Error::Malformed(_)) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(listing.finish())
}

/// The directory of these rows, which a seal sums up; `None` if it does not.
pub fn list_of(
    mut rows: impl Iterator<Item = Row>,
    store: &Store,
    seal: &Seal,
) -> Result<Option<Directory>, Error> {
    let mut listing = Listing::new(store, seal)?;
    rows.try_for_each(|row| listing.push(&row))?;
    Ok(listing.finish())
}

struct Listing<'a> {
    seal: &'a Seal,
    lengths: crate::log::segment::batches::Lengths<'a>,
    builder: Builder,
    digest: u32,
}

impl<'a> Listing<'a> {
    fn new(store: &'a Store, seal: &'a Seal) -> Result<Self, Error> {
        Ok(Self {
            seal,
            lengths: store.lengths(seal.end)?,
            builder: Builder::default(),
            digest: 0,
        })
    }

    fn push(&mut self, row: &Row) -> Result<(), Error> {
        self.digest = seal::add_row(self.digest, row);
        let bytes = match row.log {
            LogId::GONE => 0,
            _ => self.lengths.of(row.place)?,
        };
        self.builder.push(row, bytes);
        Ok(())
    }

    fn finish(self) -> Option<Directory> {
        let Seal {
            base,
            rows_digest,
            next_position,
            ..
        } = *self.seal;
        let is_it = self.digest == rows_digest;
        is_it.then(|| self.builder.finish(base, rows_digest, next_position))
    }
}
