//! Reading batches of a store by their places, and no frame around them.

use bytes::Bytes;

use super::store::Store;
use crate::log::Error;
use crate::log::format::frame::PAYLOAD_BYTES_MAX;
use crate::log::format::record;

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
