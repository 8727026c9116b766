//! The checksum of a batch, and what is left for the frame around it to vouch for.
//!
//! A batch's checksum covers its length and all behind it, the header's marks last: the leader's time, the
//! attributes, the compression. These are what is set once the rest stands. CRC-32C is linear: of two strings that
//! differ in their last bytes alone, the checksums differ by what the checksums of those bytes do. So a mark is
//! changed without a second pass, and damage that came before the change is still found after it.

use super::{
    ATTRIBUTES_AT, BATCH_HEADER_BYTES, COUNT_BYTES, CRC_AT, FRAMED_BYTES, MARKS, TIME_BYTES,
    TIME_MS_MAX, WITH_NEXT, length_of, number_of_batches, whole_batches,
};
use crate::disk::crc32c;

/// The checksum that a whole batch should have.
fn checksum(batch: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&batch[..CRC_AT]);
    let crc = crc32c::crc32c_append(crc, &batch[BATCH_HEADER_BYTES..]);
    crc32c::crc32c_append(crc, &batch[MARKS])
}

/// The checksum that a batch says it has.
pub fn crc_of(batch: &[u8]) -> u32 {
    let crc = batch.get(CRC_AT..).and_then(|bytes| bytes.first_chunk());
    crc.map_or(0, |crc| u32::from_le_bytes(*crc))
}

/// When the leader took a batch, in milliseconds since 1970.
pub fn time_of(batch: &[u8]) -> u64 {
    let mut time = [0; 8];
    time[..TIME_BYTES].copy_from_slice(&batch[MARKS.start..][..TIME_BYTES]);
    u64::from_le_bytes(time)
}

/// Gives a batch, whose other bytes stand, its checksum.
pub fn sum_up(batch: &mut [u8]) {
    let crc = checksum(batch);
    batch[CRC_AT..FRAMED_BYTES].copy_from_slice(&crc.to_le_bytes());
}

/// Changes the marks of a batch. The checksum follows; one that did not hold still does not.
fn remark(batch: &mut [u8], change: impl FnOnce(&mut [u8])) {
    let before = crc32c::crc32c(&batch[MARKS]);
    change(batch);
    let crc = crc_of(batch) ^ before ^ crc32c::crc32c(&batch[MARKS]);
    batch[CRC_AT..FRAMED_BYTES].copy_from_slice(&crc.to_le_bytes());
}

/// Says when the leader took a batch.
pub fn stamp(batch: &mut [u8], time_ms: u64) {
    let time = time_ms.min(TIME_MS_MAX).to_le_bytes();
    remark(batch, |batch| {
        batch[MARKS.start..][..TIME_BYTES].copy_from_slice(&time[..TIME_BYTES]);
    });
}

/// Says that a batch goes with the one behind it.
pub fn join_next(batch: &mut [u8]) {
    remark(batch, |batch| batch[ATTRIBUTES_AT] |= WITH_NEXT);
}

/// The length of the batch that these bytes begin with, if it is all there and its checksum holds.
pub fn is_whole(bytes: &[u8]) -> Option<usize> {
    let length = length_of(bytes)?;
    let batch = bytes.get(..length)?;
    (checksum(batch) == crc_of(batch)).then_some(length)
}

/// Whether a payload holds the batches that it should, nothing else, and the checksum of each holds.
pub fn are_whole(payload: &[u8]) -> bool {
    let Ok(count) = number_of_batches(payload) else {
        return false;
    };
    let mut at = COUNT_BYTES;
    for _ in 0..count {
        match payload.get(at..).and_then(is_whole) {
            Some(length) => at += length,
            None => return false,
        }
    }
    at == payload.len()
}

/// Makes the checksums of a payload's batches right again.
#[cfg(any(test, fuzzing))]
pub fn mend(payload: &mut [u8]) {
    let batches: Vec<_> = whole_batches(payload).collect();
    batches
        .into_iter()
        .for_each(|batch| sum_up(&mut payload[batch]));
}

/// Goes on with a frame's checksum over what it vouches for itself of a payload of records: how many batches there are,
/// and of each the length and the checksum. What is no batch is not passed over.
pub fn framed_crc(mut crc: u32, payload: &[u8]) -> u32 {
    if number_of_batches(payload).is_err() {
        return crc32c::crc32c_append(crc, payload);
    }
    crc = crc32c::crc32c_append(crc, &payload[..COUNT_BYTES]);
    let mut at = COUNT_BYTES;
    for batch in whole_batches(payload) {
        crc = crc32c::crc32c_append(crc, &payload[batch.start..][..FRAMED_BYTES]);
        at = batch.end;
    }
    crc32c::crc32c_append(crc, &payload[at..])
}

#[cfg(test)]
mod tests {
    use super::super::{BatchBuilder, join};
    use super::*;
    use crate::log::LogId;

    #[test]
    fn a_mark_that_changes_takes_the_checksum_along() {
        let mut builder = BatchBuilder::of(LogId(300), None);
        builder.push(&[9; 1000], 0, 0);
        let mut batch = builder.finish().to_vec();
        let length = batch.len();
        assert_eq!(is_whole(&batch), Some(length));
        for time_ms in [1, 0, 1_700_000_000_000, u64::MAX] {
            stamp(&mut batch, time_ms);
            assert_eq!(time_of(&batch), time_ms.min(TIME_MS_MAX));
            assert_eq!(is_whole(&batch), Some(length));
        }
        join_next(&mut batch);
        assert_eq!(is_whole(&batch), Some(length));
        let mut again = batch.clone();
        sum_up(&mut again);
        assert_eq!(again, batch, "as if it were summed up anew");
        batch[500] ^= 4;
        stamp(&mut batch, 7);
        assert_eq!(is_whole(&batch), None, "what was damaged before stays so");
    }

    /// Each bit is under the batch's checksum or the frame's, and a cut is found by either.
    #[test]
    fn batch_and_frame_leave_no_bit_unwatched() {
        let batch = |log, length| {
            let mut builder = BatchBuilder::of(LogId(log), None);
            builder.push(&vec![log as u8; length], 0, 0);
            builder.finish()
        };
        let batches = [batch(0, 40), batch(7, 1), batch(900, 200)];
        let payload = join(batches.iter(), Some(77));
        let framed = framed_crc(5, &payload);
        let holds = |bytes: &[u8]| are_whole(bytes) && framed_crc(5, bytes) == framed;
        assert!(holds(&payload));
        for bit in 0..payload.len() * 8 {
            let mut bad = payload.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!holds(&bad), "bit {bit}");
        }
        for end in 0..payload.len() {
            assert!(!holds(&payload[..end]), "cut at {end}");
        }
        assert!(!are_whole(&[&payload[..], b"what is no batch"].concat()));
        assert!(!are_whole(b"") && are_whole(&[0; 4]));
    }
}
