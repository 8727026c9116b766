//! A row of an index: where a run of records stands, as 32 bytes with a checksum of their own.

use crate::disk::crc32c;
use crate::log::{Index, LogId, Offset, Position};

/// The bytes of a row: its numbers and their checksum.
pub const ROW_BYTES: usize = 32;
const OFFSET_AT: usize = 20;
const ROW_CRC_AT: usize = 28;
const _: () = assert!(OFFSET_AT == 5 * 4 && ROW_CRC_AT == OFFSET_AT + 8);
const _: () = assert!(ROW_CRC_AT + 4 == ROW_BYTES && ROW_BYTES == 32);

/// Where a run of records stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The position of the first record.
    pub position: Position,
    /// The raft index of the entry.
    pub index: Index,
    /// Where the batch begins in the store file.
    pub place: u32,
    /// The batch's checksum, xor how many of its first records were known before: see
    /// [`Batch::covered_by`](super::record::Batch::covered_by).
    pub check: u32,
    /// The log that the records belong to.
    pub log: LogId,
    /// The offset of the first record in that log.
    pub offset: Offset,
}

/// What the rows of an index count from.
#[derive(Debug, Clone, Copy)]
pub struct Bases {
    index: Index,
    position: Position,
    /// The checksum of both, which each row's goes on from.
    crc: u32,
}

impl Bases {
    pub fn new(index: Index, position: Position) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&index.0.to_le_bytes());
        bytes[8..].copy_from_slice(&position.0.to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        Self {
            index,
            position,
            crc,
        }
    }

    /// The first raft index of the segment.
    pub fn index(&self) -> Index {
        self.index
    }

    /// The position of the first row.
    pub fn position(&self) -> Position {
        self.position
    }

    /// A row's bytes; `None` if it is too far from what it counts from.
    pub fn encode(&self, row: &Row) -> Option<[u8; ROW_BYTES]> {
        let delta = |value: u64, from: u64| u32::try_from(value.checked_sub(from)?).ok();
        let position = delta(row.position.0, self.position.0)?;
        let index = delta(row.index.0, self.index.0)?;
        let mut bytes = [0; ROW_BYTES];
        let numbers = [position, index, row.place, row.check, row.log.0];
        for (part, number) in numbers.iter().enumerate() {
            bytes[part * 4..][..4].copy_from_slice(&number.to_le_bytes());
        }
        bytes[OFFSET_AT..ROW_CRC_AT].copy_from_slice(&row.offset.0.to_le_bytes());
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
        if part(7) != self.row_crc(bytes) || part(2) == 0 {
            return None;
        }
        let offset = u64::from(part(5)) | u64::from(part(6)) << 32;
        Some(Row {
            position: Position(self.position.0.checked_add(part(0).into())?),
            index: Index(self.index.0.checked_add(part(1).into())?),
            place: part(2),
            check: part(3),
            log: LogId(part(4)),
            offset: Offset(offset),
        })
    }
}
