//! Reading batches of a store by their places, and no frame around them.

use bytes::Bytes;

use super::handles::Lease;
use super::store::Store;
use crate::log::Error;
use crate::log::format::frame::PAYLOAD_BYTES_MAX;
use crate::log::format::record;

/// Bytes of a store that are read at once for what batches say of themselves.
const WINDOW_BYTES: usize = 4 << 10;

/// Tells how long batches are that stand in order.
pub struct Lengths<'a> {
    store: &'a Store,
    file: Lease,
    end: u32,
    window: Vec<u8>,
    window_at: u32,
}

impl Store {
    /// Fills parts of memory, each with the bytes from its position on, until one cannot be filled: how many were, and
    /// why no more.
    pub fn fill<'a>(
        &self,
        parts: impl Iterator<Item = (u32, &'a mut [u8])>,
    ) -> (usize, Option<Error>) {
        let file = match self.file() {
            Ok(file) => file,
            Err(error) => return (0, Some(error)),
        };
        let mut filled = 0;
        for (position, part) in parts {
            if let Err(error) = file.read_exact_at(part, position.into()) {
                return (filled, Some(Error::io("read", self.path())(error)));
            }
            filled += 1;
        }
        (filled, None)
    }

    /// Reads and checks the batch at a place; how long it is it says itself.
    pub fn batch(&self, place: u32) -> Result<Bytes, Error> {
        let no_batch = || self.corrupt(place.into(), "a batch does not check");
        let head = self
            .read(place, record::BATCH_BYTES_MIN)
            .map_err(|_| no_batch())?;
        let length = record::length_of(&head).filter(|length| *length <= PAYLOAD_BYTES_MAX);
        let bytes = self
            .read(place, length.ok_or_else(no_batch)?)
            .map_err(|_| no_batch())?;
        record::is_whole(&bytes).map(|_| bytes).ok_or_else(no_batch)
    }
}

impl Store {
    /// For the batches of a store that ends there.
    pub fn lengths(&self, end: u32) -> Result<Lengths<'_>, Error> {
        Ok(Lengths {
            store: self,
            file: self.file()?,
            end,
            window: Vec::new(),
            window_at: 0,
        })
    }
}

impl Lengths<'_> {
    /// How long the batch at a place is, by its own word, which is not checked; 0 if none can stand there.
    pub fn of(&mut self, place: u32) -> Result<u32, Error> {
        let left = self.end.saturating_sub(place);
        if (left as usize) < record::BATCH_BYTES_MIN {
            return Ok(0);
        }
        let at = place.checked_sub(self.window_at).map(|at| at as usize);
        let at = at.filter(|at| at + record::BATCH_BYTES_MIN <= self.window.len());
        if at.is_none() {
            self.window.resize(WINDOW_BYTES.min(left as usize), 0);
            self.window_at = place;
            self.file
                .read_exact_at(&mut self.window, place.into())
                .map_err(Error::io("read", self.store.path()))?;
        }
        let length = record::length_of(&self.window[at.unwrap_or(0)..]);
        let length = length.and_then(|length| u32::try_from(length).ok());
        Ok(length.filter(|length| *length <= left).unwrap_or(0))
    }
}
