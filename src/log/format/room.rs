//! What an entry may take of its segment besides bytes: rows, and positions.
//!
//! An entry declares both, so they are known before it is applied. Batches that are then refused, or
//! known already, take less.

use super::frame::Kind;
use super::record;

/// The positions that one segment may hold: its rows count from its first one, in 32 bits.
pub const POSITIONS_MAX: u64 = u32::MAX as u64;

/// Rows and positions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// How many rows: one for each batch.
    pub rows: u64,
    /// How many positions: one for each record.
    pub positions: u64,
}

impl Room {
    /// What an entry needs at most.
    pub fn of(kind: Kind, payload: &[u8]) -> Self {
        match kind {
            Kind::Control | Kind::Roll | Kind::Moved => Self::default(),
            Kind::Records | Kind::Audited => {
                let (batches, records) = record::declared(payload);
                Self {
                    rows: batches.into(),
                    positions: records,
                }
            }
        }
    }

    /// The sum of both.
    pub fn and(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            positions: self.positions.saturating_add(other.positions),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Compression;
    use crate::log::LogId;
    use crate::log::format::record::{BatchBuilder, Conditions, join, packed};

    #[test]
    fn an_entry_says_what_it_needs() {
        let mut plain = BatchBuilder::new(None);
        plain.push(b"one", 0, 0);
        plain.push(b"two", 0, 0);
        let conditions = Conditions::default();
        let small = packed(
            LogId::DEFAULT,
            None,
            &conditions,
            Compression::Zstd,
            u32::MAX,
            b"small",
        );
        let payload = join([plain.finish(), small].iter(), Some(7));
        let needs = |kind, payload| {
            let room = Room::of(kind, payload);
            (room.rows, room.positions)
        };
        let both = 2 + u64::from(u32::MAX);
        assert_eq!(needs(Kind::Records, &payload), (2, both));
        assert_eq!(needs(Kind::Control, &payload), (0, 0));
        // What does not read will not be published either.
        assert_eq!(needs(Kind::Records, &payload[..2]), (0, 0));
        assert_eq!(needs(Kind::Records, &payload[..40]), (2, 2));
    }
}
