//! A row of an index: where a run of records stands, as 20 bytes with a checksum of their own.

use crate::log::{Index, Offset};

/// The bytes of a row: four numbers and their checksum.
pub const ROW_BYTES: usize = 20;
const ROW_CRC_AT: usize = 16;
const _: () = assert!(ROW_CRC_AT + 4 == ROW_BYTES && ROW_BYTES == 20);

/// Where a run of records stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The offset of the first record.
    pub offset: Offset,
    /// The raft index of the entry.
    pub index: Index,
    /// Where the entry's frame begins in the store file.
    pub position: u32,
    /// Where the first record begins in the frame's payload.
    pub skip: u32,
}

/// What the rows of an index count from.
#[derive(Debug, Clone, Copy)]
pub struct Bases {
    index: Index,
    offset: Offset,
    /// The checksum of both, which each row's goes on from.
    crc: u32,
}

impl Bases {
    pub fn new(index: Index, offset: Offset) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&index.0.to_le_bytes());
        bytes[8..].copy_from_slice(&offset.0.to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        Self { index, offset, crc }
    }

    /// The offset of the first row.
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// A row's bytes; `None` if it is too far from what it counts from.
    pub fn encode(&self, row: &Row) -> Option<[u8; ROW_BYTES]> {
        let delta = |value: u64, from: u64| u32::try_from(value.checked_sub(from)?).ok();
        let offset = delta(row.offset.0, self.offset.0)?;
        let index = delta(row.index.0, self.index.0)?;
        let mut bytes = [0; ROW_BYTES];
        for (part, number) in [offset, index, row.position, row.skip].iter().enumerate() {
            bytes[part * 4..][..4].copy_from_slice(&number.to_le_bytes());
        }
        let crc = self.row_crc(&bytes);
        bytes[ROW_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        Some(bytes)
    }

    /// CRC-32C of what a row counts from and of its numbers.
    fn row_crc(&self, bytes: &[u8; ROW_BYTES]) -> u32 {
        crc32c::crc32c_append(self.crc, &bytes[..ROW_CRC_AT])
    }

    /// The row that these bytes are; `None` if they do not check.
    pub fn decode(&self, bytes: &[u8; ROW_BYTES]) -> Option<Row> {
        let part = |part: usize| {
            let number = bytes[part * 4..].first_chunk();
            number.map_or(0, |number| u32::from_le_bytes(*number))
        };
        if part(4) != self.row_crc(bytes) || part(2) == 0 {
            return None;
        }
        Some(Row {
            offset: Offset(self.offset.0.checked_add(part(0).into())?),
            index: Index(self.index.0.checked_add(part(1).into())?),
            position: part(2),
            skip: part(3),
        })
    }
}
