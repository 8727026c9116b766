//! A row of an index: where a run of records stands, as 20 bytes with a checksum of their own.

use super::{Index, Offset};

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

/// A row's bytes in an index with these bases; `None` if the row is too far from them.
pub fn encode(row: &Row, base: Index, base_offset: Offset) -> Option<[u8; ROW_BYTES]> {
    let delta = |value: u64, from: u64| u32::try_from(value.checked_sub(from)?).ok();
    let offset = delta(row.offset.0, base_offset.0)?;
    let index = delta(row.index.0, base.0)?;
    let mut bytes = [0; ROW_BYTES];
    for (part, number) in [offset, index, row.position, row.skip].iter().enumerate() {
        bytes[part * 4..][..4].copy_from_slice(&number.to_le_bytes());
    }
    let crc = row_crc(&bytes, base, base_offset);
    bytes[ROW_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    Some(bytes)
}

/// CRC-32C of a row's numbers and of what they count from.
fn row_crc(bytes: &[u8; ROW_BYTES], base: Index, base_offset: Offset) -> u32 {
    let mut bases = [0; 16];
    bases[..8].copy_from_slice(&base.0.to_le_bytes());
    bases[8..].copy_from_slice(&base_offset.0.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&bases), &bytes[..ROW_CRC_AT])
}

/// The row that these bytes are in an index with these bases; `None` if they do not check.
pub fn decode(bytes: &[u8; ROW_BYTES], base: Index, base_offset: Offset) -> Option<Row> {
    let part = |part: usize| {
        let number = bytes[part * 4..].first_chunk();
        number.map_or(0, |number| u32::from_le_bytes(*number))
    };
    if part(4) != row_crc(bytes, base, base_offset) || part(2) == 0 {
        return None;
    }
    Some(Row {
        offset: Offset(base_offset.0.checked_add(part(0).into())?),
        index: Index(base.0.checked_add(part(1).into())?),
        position: part(2),
        skip: part(3),
    })
}
