//! The leader's time of each entry, and finding records by it.

use super::{Error, Log, Offset};

impl Log {
    /// The latest time of the entries that were appended or found, in milliseconds since 1970; those
    /// of sealed segments may not be counted.
    pub fn last_timestamp_ms(&self) -> u64 {
        self.0.state.read().last_timestamp_ms
    }

    /// The first offset whose record was taken at or after a time, in milliseconds since 1970: the
    /// next one if there is none. Times never go back along the log.
    pub fn offset_at(&self, timestamp_ms: u64) -> Result<Offset, Error> {
        let (first, next) = self.offsets();
        let (mut low, mut high) = (first, next);
        while low < high {
            let middle = Offset(low.0 + (high.0 - low.0) / 2);
            let found = self.find(middle, 1);
            let read = match found.and_then(|found| self.read_found(found, 1)) {
                // The log was trimmed meanwhile.
                Err(Error::Trimmed { first, .. }) => {
                    low = low.max(first);
                    continue;
                }
                read => read?,
            };
            let Some(stored) = read.stored.first() else {
                break;
            };
            if stored.timestamp_ms < timestamp_ms {
                low = stored.next();
            } else {
                high = stored.first.max(low);
            }
        }
        Ok(low)
    }
}
