//! Numbers in base 128, least significant group first, of 64 bits at most: protobuf's varints, and the lengths of
//! plain records in a frame.

use bytes::{BufMut, BytesMut};

/// The most bytes of a number.
pub const BYTES_MAX: usize = 10;
/// How far the last of these is shifted: it has one bit.
const LAST_SHIFT: u32 = 7 * (BYTES_MAX as u32 - 1);

/// A number is over 64 bits.
#[derive(Debug)]
pub struct TooLarge;

/// Reads a number, byte after byte.
pub fn read<E: From<TooLarge>>(mut next: impl FnMut() -> Result<u8, E>) -> Result<u64, E> {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = next()?;
        if shift == LAST_SHIFT && byte > 1 {
            return Err(TooLarge.into());
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
        shift += 7;
    }
}

/// Writes a number.
pub fn put(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// How many bytes a number takes.
pub fn bytes_of(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    enum Bad {
        Short,
        TooLarge,
    }

    impl From<TooLarge> for Bad {
        fn from(_: TooLarge) -> Self {
            Self::TooLarge
        }
    }

    fn read_all(bytes: &[u8]) -> Result<u64, Bad> {
        let mut rest = bytes.iter();
        read(|| rest.next().copied().ok_or(Bad::Short))
    }

    #[test]
    fn numbers_come_back_as_protobuf_writes_them() {
        for bits in 0..64 {
            for value in [1 << bits, (1 << bits) - 1, u64::MAX >> bits] {
                let (mut ours, mut theirs) = (BytesMut::new(), BytesMut::new());
                put(&mut ours, value);
                prost::encoding::encode_varint(value, &mut theirs);
                assert_eq!(ours, theirs);
                assert_eq!(ours.len(), bytes_of(value));
                assert_eq!(read_all(&ours), Ok(value));
                assert_eq!(read_all(&ours[..ours.len() - 1]), Err(Bad::Short));
            }
        }
    }

    /// Bits beyond the 64th were once dropped where protobuf's own libraries refuse the message.
    #[test]
    fn no_bit_is_lost() {
        for last in 0..=0xff {
            let bytes = [[0xff; 9].as_slice(), &[last]].concat();
            let theirs = prost::encoding::decode_varint(&mut &bytes[..]).ok();
            assert_eq!(read_all(&bytes).ok(), theirs, "{last:#x}");
        }
        assert_eq!(read_all(&[0xff; 11]), Err(Bad::TooLarge));
    }
}
