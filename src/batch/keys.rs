//! The keys of a batch's records, without the rest of them.

use super::*;

/// The key of each record of a batch without compression, in order, and whether the record is a tombstone, and
/// how many bytes it takes.
///
/// # Errors
///
/// [`BatchError::Malformed`] if the bytes are no records.
pub fn keys(
    bytes: &[u8],
    mut take: impl FnMut(Option<&[u8]>, bool, usize),
) -> Result<(), BatchError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let before = rest.len();
        let mut record = next_record(&mut rest)?;
        let (mut key, mut is_tombstone) = (None, true);
        while !record.is_empty() {
            match next_field(&mut record)? {
                (VALUE, Field::Bytes(_)) => is_tombstone = false,
                (KEY, Field::Bytes(bytes)) => key = Some(bytes),
                _ => {}
            }
        }
        take(key, is_tombstone, before - rest.len());
    }
    Ok(())
}
