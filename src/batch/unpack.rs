//! Reading a compressed batch without ever holding the whole of it.
//!
//! The records come out of the decoder one by one: the decoder's window, one record, and what is
//! asked for are in memory, whatever the batch grows to.

use std::io::{self, BufReader, Read};

use bytes::{Bytes, BytesMut};

use super::compression::{Decoder, check_end};
use super::{
    BatchError, Compression, Limits, RECORD_TAG, SHORT, UNKNOWN_FIELD, check, check_record, over,
    slice, varint,
};

/// Bytes that are taken from a decoder at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// A part of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The number of its first record in the batch.
    pub first: u32,
    /// At most so many records.
    pub count: u32,
    /// And at most so many bytes of them, but at least one record.
    pub bytes_max: usize,
}

/// Checks every record of a compressed batch against the limits. Gives how many they are, and their bytes
/// without compression.
///
/// # Errors
///
/// As [`check`]; and [`BatchError::Compressed`] if the bytes are no frame of this compression, or
/// [`BatchError::OverLimit`] if they are more than `bytes_max` without it.
pub fn check_packed(
    bytes: &Bytes,
    compression: Compression,
    bytes_max: usize,
    limits: &Limits,
) -> Result<(u32, usize), BatchError> {
    if compression == Compression::None {
        return Ok((check(bytes, limits)?, bytes.len()));
    }
    let mut records = Records::new(bytes, compression, bytes_max)?;
    let mut record = Vec::new();
    let (mut count, mut plain_bytes) = (0, 0);
    while let Some(length) = records.next_length()? {
        count += 1;
        plain_bytes += length;
        let (what, most) = ("a batch's number of records", limits.records as usize);
        over(what, count, most)?;
        record.clear();
        records.read(length, &mut record)?;
        let number = u32::try_from(count).unwrap_or(u32::MAX);
        check_record(&record, number, limits)?;
    }
    records.check_end()?;
    let plain_bytes = usize::try_from(plain_bytes).unwrap_or(usize::MAX);
    Ok((u32::try_from(count).unwrap_or(u32::MAX), plain_bytes))
}

/// A part of a batch, as it is without compression, and how many records it holds. It shares the batch's memory if
/// that is not compressed.
///
/// # Errors
///
/// [`BatchError::Malformed`] if the bytes are no records or end before the part does,
/// [`BatchError::Compressed`] if they are no frame of this compression, and [`BatchError::OverLimit`] if they are
/// more than `bytes_max` without it.
pub fn unpack(
    bytes: &Bytes,
    compression: Compression,
    bytes_max: usize,
    part: Part,
) -> Result<(Bytes, u32), BatchError> {
    if compression == Compression::None {
        return slice(bytes, part);
    }
    let mut records = Records::new(bytes, compression, bytes_max)?;
    for _ in 0..part.first {
        let length = records.next_length()?.ok_or(SHORT)?;
        records.skip(length)?;
    }
    let (mut out, mut taken) = (Vec::new(), 0);
    let mut begin = BytesMut::with_capacity(1 + varint::BYTES_MAX);
    while taken < part.count {
        let length = records.next_length()?.ok_or(SHORT)?;
        begin.clear();
        begin.extend_from_slice(&[RECORD_TAG]);
        varint::put(&mut begin, length);
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        let more = size.saturating_add(begin.len());
        if taken > 0 && out.len().saturating_add(more) > part.bytes_max {
            break;
        }
        out.extend_from_slice(&begin);
        records.read(length, &mut out)?;
        taken += 1;
    }
    Ok((out.into(), taken))
}

/// The records that a decoder gives.
struct Records<'a> {
    decoder: BufReader<io::Take<Decoder<'a>>>,
    bytes_max: usize,
}

impl<'a> Records<'a> {
    fn new(
        bytes: &'a Bytes,
        compression: Compression,
        bytes_max: usize,
    ) -> Result<Self, BatchError> {
        let decoder = Decoder::new(bytes, compression)?;
        // The decoder may give one byte more than the limit, which tells a batch that is too large from one
        // that just fits.
        let decoder = decoder.take(bytes_max as u64 + 1);
        Ok(Self {
            decoder: BufReader::with_capacity(BUFFER_BYTES, decoder),
            bytes_max,
        })
    }

    /// The length of the next record; `None` at the end of the batch.
    fn next_length(&mut self) -> Result<Option<u64>, BatchError> {
        match self.byte()? {
            None => return Ok(None),
            Some(RECORD_TAG) => {}
            Some(_) => return Err(UNKNOWN_FIELD),
        }
        varint::read(|| self.byte()?.ok_or(SHORT)).map(Some)
    }

    fn byte(&mut self) -> Result<Option<u8>, BatchError> {
        let mut byte = [0];
        match self.decoder.read(&mut byte) {
            Ok(0) => {
                self.check_size()?;
                Ok(None)
            }
            Ok(_) => Ok(Some(byte[0])),
            Err(error) => Err(BatchError::Compressed(error.to_string())),
        }
    }

    /// The bytes of a record, onto `out`.
    fn read(&mut self, length: u64, out: &mut Vec<u8>) -> Result<(), BatchError> {
        let read = self.decoder.by_ref().take(length).read_to_end(out);
        self.judge(read.map(|read| read as u64), length)
    }

    fn skip(&mut self, length: u64) -> Result<(), BatchError> {
        let skipped = io::copy(&mut self.decoder.by_ref().take(length), &mut io::sink());
        self.judge(skipped, length)
    }

    fn judge(&self, read: io::Result<u64>, length: u64) -> Result<(), BatchError> {
        let read = read.map_err(|error| BatchError::Compressed(error.to_string()))?;
        if read == length {
            return Ok(());
        }
        self.check_size()?;
        Err(SHORT)
    }

    /// Refuses a batch that is longer than the limit: the decoder has reached it.
    fn check_size(&self) -> Result<(), BatchError> {
        if self.decoder.get_ref().limit() > 0 {
            return Ok(());
        }
        let (what, limit) = ("a batch without its compression", self.bytes_max);
        let size = limit.saturating_add(1);
        Err(BatchError::OverLimit { what, size, limit })
    }

    /// Nothing may follow the frame.
    fn check_end(&self) -> Result<(), BatchError> {
        let left = self.decoder.get_ref().get_ref().left();
        check_end(left, 0, self.bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Builder, Record, compress};
    use super::*;

    const ALL: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];
    const LIMITS: Limits = Limits {
        records: 3000,
        record_bytes: 1 << 20,
        key_bytes: 100,
        headers: 3,
        header_bytes: 50,
        timestamps_required: false,
        keys_required: false,
    };

    /// Records of all lengths up to 2,000 bytes, and one of 200,000.
    fn some() -> (Bytes, Vec<usize>) {
        let mut builder = Builder::default();
        let mut ends = vec![0];
        for number in 0..2000 {
            let bytes = if number == 1000 { 200_000 } else { number };
            let value = vec![u8::try_from(number % 251).unwrap(); bytes];
            builder.push(&Record::from(value));
            ends.push(builder.bytes());
        }
        (builder.take().0, ends)
    }

    #[test]
    fn a_part_is_the_same_with_and_without_compression() {
        let (plain, ends) = some();
        for compression in ALL {
            let packed = compress(&plain, compression).unwrap();
            for (first, count, bytes_max) in [
                (0, 2000, usize::MAX),
                (0, 1, 0),
                (7, 9, usize::MAX),
                (1000, 3, 5),
                (900, 1000, 100_000),
                (999, 3, 1 << 20),
                (1999, 1, 1),
                (5, 0, 100),
            ] {
                let part = Part {
                    first,
                    count,
                    bytes_max,
                };
                let (bytes, taken) = unpack(&packed, compression, plain.len(), part).unwrap();
                let begin = ends[first as usize];
                let fits = |taken: &u32| ends[(first + taken) as usize] - begin <= bytes_max;
                let expected = (1..=count).take_while(fits).last();
                let expected = expected.unwrap_or(count.min(1));
                assert_eq!(taken, expected, "{compression:?} {part:?}");
                let end = ends[(first + taken) as usize];
                assert!(bytes == plain[begin..end], "{compression:?} {part:?}");
            }
            let beyond = Part {
                first: 1999,
                count: 2,
                bytes_max: usize::MAX,
            };
            unpack(&packed, compression, plain.len(), beyond).unwrap_err();
        }
    }

    #[test]
    fn what_is_taken_packed_is_what_is_taken_plain() {
        let (plain, _) = some();
        for compression in ALL {
            let packed = compress(&plain, compression).unwrap();
            let check = |bytes: &Bytes, most, limits: &Limits| {
                let checked = check_packed(bytes, compression, most, limits);
                checked.map(|(count, _)| count)
            };
            assert_eq!(check(&packed, plain.len(), &LIMITS), Ok(2000));
            for limits in [
                Limits {
                    records: 1999,
                    ..LIMITS
                },
                Limits {
                    record_bytes: 199_999,
                    ..LIMITS
                },
                Limits {
                    timestamps_required: true,
                    ..LIMITS
                },
            ] {
                let refused = check(&packed, plain.len(), &limits).unwrap_err();
                assert_eq!(refused, super::super::check(&plain, &limits).unwrap_err());
            }
            if compression != Compression::None {
                let over = check(&packed, plain.len() - 1, &LIMITS).unwrap_err();
                assert!(matches!(over, BatchError::OverLimit { .. }), "{over}");
                let more = [&packed[..], b"x"].concat().into();
                check(&more, plain.len(), &LIMITS).unwrap_err();
            }
            for cut in [1, plain.len() / 2, plain.len() - 1] {
                let short = compress(&plain.slice(..cut), compression).unwrap();
                check(&short, plain.len(), &LIMITS).unwrap_err();
            }
        }
    }
}
