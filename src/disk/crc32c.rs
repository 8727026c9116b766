//! The checksum of what is kept: CRC-32C (Castagnoli; RFC 3720, section 12.1).
//!
//! A read checks every byte that it hands out, so this is a good part of its time: it is done by the widest
//! instructions that the processor has.

use crc_fast::CrcAlgorithm::Crc32Iscsi;
use crc_fast::Digest;

/// The checksum of these bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// Goes on with a checksum: of what came before, and these bytes behind it.
#[allow(clippy::cast_possible_truncation, reason = "the checksum has 32 bits")]
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    // What a checksum tells is the complement of where its division stands.
    let mut digest = Digest::new_with_init_state(Crc32Iscsi, u64::from(!crc));
    digest.update(bytes);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, as the polynomial is defined.
    fn by_bits(crc: u32, bytes: &[u8]) -> u32 {
        const POLYNOMIAL: u32 = 0x82f6_3b78;
        let divide = |crc: u32, byte: &u8| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(crc & 1))
            })
        };
        !bytes.iter().fold(!crc, divide)
    }

    #[test]
    fn it_is_the_checksum_of_rfc_3720() {
        let up: Vec<u8> = (0..32).collect();
        let down: Vec<u8> = (0..32).rev().collect();
        // The examples of its appendix B.4.
        let examples: [(&[u8], u32); 5] = [
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&up, 0x46dd_794e),
            (&down, 0x113f_db5c),
            (b"123456789", 0xe306_9283),
        ];
        for (bytes, crc) in examples {
            assert_eq!((crc32c(bytes), by_bits(0, bytes)), (crc, crc));
        }
        assert_eq!(crc32c(&[]), 0);
    }

    /// Each length takes another way through the instructions, and so does each place that it begins at.
    #[test]
    fn it_is_the_same_by_every_way() {
        let bytes: Vec<u8> = (0..9_000_u32).map(|at| (at * at / 7) as u8).collect();
        let lengths = (0..600).chain([1_023, 1_024, 1_025, 2_047, 4_096, 5_000, 8_191, 8_192]);
        for length in lengths {
            let begin = length % 67;
            let part = &bytes[begin..begin + length];
            let crc = by_bits(0, part);
            assert_eq!(crc32c(part), crc, "{length} bytes from {begin} on");
            for cut in [0, 1, length / 3, length] {
                let (first, rest) = part.split_at(cut.min(length));
                let goes_on = crc32c_append(crc32c(first), rest);
                assert_eq!(goes_on, crc, "{length} bytes, cut at {cut}");
            }
        }
    }
}
