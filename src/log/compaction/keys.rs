//! The last record of each key, as far as a walk over them is. There are many keys, so no more is held of each than where
//! its record stands.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::digest::Digest;
use crate::log::LogId;

/// Keys that are held at a time, with those that are removed counted twice: 13 MB of them, or 22 with as many as can be of
/// these.
const KEYS_MAX: usize = if cfg!(test) { 5 } else { 458_752 };

/// Where a record stands: a segment's number, and how far its position is behind the first there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Spot {
    pub segment: u32,
    pub behind: u32,
}

/// A record that removes its key.
#[derive(Debug, Clone, Copy)]
pub struct Tombstone {
    pub log: LogId,
    /// When it was taken, in milliseconds since 1970.
    pub time_ms: u64,
    /// Whether no other record of the key is stored before it.
    pub is_first: bool,
}

/// Into how many shares so many keys go: an eighth more than there are fit, since shares are unlike and keys come.
pub fn shares_of(keys: u64) -> u64 {
    (keys + keys / 8).div_ceil(KEYS_MAX as u64).max(1)
}

/// The keys of a share.
#[derive(Debug)]
pub struct Keys {
    /// Where the last record of each stands.
    last: HashMap<Digest, Spot>,
    /// Those of them that are tombstones.
    tombstones: HashMap<Spot, Tombstone>,
    /// Whether there is one that is not held.
    are_too_many: bool,
}

impl Default for Keys {
    /// With room for all that are held: a table that grows takes half as much again meanwhile.
    fn default() -> Self {
        Self {
            last: HashMap::with_capacity(KEYS_MAX),
            tombstones: HashMap::new(),
            are_too_many: false,
        }
    }
}

impl Keys {
    /// Takes the next record of a key; with a time it is a tombstone. Gives where the one before it stands, if there is one.
    pub fn take(
        &mut self,
        digest: Digest,
        spot: Spot,
        (log, time_ms): (LogId, Option<u64>),
    ) -> Option<Spot> {
        // The table has no room for more, and would grow.
        if self.held() >= KEYS_MAX && !self.last.contains_key(&digest) {
            self.are_too_many = true;
            return None;
        }
        let before = match self.last.entry(digest) {
            Entry::Vacant(vacant) => {
                vacant.insert(spot);
                None
            }
            Entry::Occupied(mut known) => Some(known.insert(spot)),
        };
        if let Some(before) = before {
            self.tombstones.remove(&before);
        }
        if let Some(time_ms) = time_ms {
            let tombstone = Tombstone {
                log,
                time_ms,
                is_first: before.is_none(),
            };
            self.tombstones.insert(spot, tombstone);
        }
        before
    }

    /// How many are held, those that are removed counted twice.
    pub fn held(&self) -> usize {
        self.last.len() + self.tombstones.len()
    }

    pub fn are_too_many(&self) -> bool {
        self.are_too_many
    }

    /// The tombstones that are the last records of their keys.
    pub fn into_tombstones(self) -> impl Iterator<Item = (Spot, Tombstone)> {
        self.tombstones.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_shared_out_with_room_to_spare() {
        let max = KEYS_MAX as u64;
        let shares = [0, 1, max - 1, 8 * max].map(shares_of);
        assert_eq!(shares, [1, 1, 1, 9]);
    }
}
