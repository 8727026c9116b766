//! Compression of a batch as a whole: the LZ4 frame format, and Zstandard (RFC 8878).
//!
//! A frame's claims are not believed: the window and the length that it asks for are checked against limits
//! before memory is taken.

use std::io::{Read, Write};

use bytes::Bytes;

use super::BatchError;

/// The largest window of a Zstandard frame, in bytes. Level 19 of the reference implementation needs as much.
const ZSTD_WINDOW_BYTES_MAX: u64 = 8 << 20;
const ZSTD_MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();

/// How a batch's records are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    #[default]
    None = 0,
    /// One frame of the LZ4 frame format: cheap.
    Lz4 = 1,
    /// One Zstandard frame: small.
    Zstd = 2,
}

impl Compression {
    /// The compression with this number, which the API and the files share.
    ///
    /// # Errors
    ///
    /// [`BatchError::UnknownCompression`] if no compression has this number.
    pub fn new(number: i32) -> Result<Self, BatchError> {
        [Self::None, Self::Lz4, Self::Zstd]
            .into_iter()
            .find(|known| *known as i32 == number)
            .ok_or(BatchError::UnknownCompression(number))
    }
}

fn failed(error: impl std::fmt::Display) -> BatchError {
    BatchError::Compressed(error.to_string())
}

/// Compresses the bytes of a batch.
///
/// # Errors
///
/// [`BatchError::Compressed`] if the compressor fails.
pub fn compress(bytes: &Bytes, compression: Compression) -> Result<Bytes, BatchError> {
    Ok(match compression {
        Compression::None => bytes.clone(),
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(bytes).map_err(failed)?;
            encoder.finish().map_err(failed)?.into()
        }
        Compression::Zstd => {
            let level = ruzstd::encoding::CompressionLevel::Fastest;
            ruzstd::encoding::compress_to_vec(&bytes[..], level).into()
        }
    })
}

/// Compresses the bytes of a batch, unless compression makes them no smaller. The answer says which compression
/// the bytes have.
pub fn compress_if_smaller(plain: Bytes, wanted: Compression) -> (Bytes, Compression) {
    match compress(&plain, wanted) {
        Ok(packed) if packed.len() < plain.len() => (packed, wanted),
        _ => (plain, Compression::None),
    }
}

/// Decompresses the bytes of a batch.
///
/// # Errors
///
/// [`BatchError::Compressed`] if the bytes are no frame of this compression, and [`BatchError::OverLimit`] if they
/// are more than `bytes_max` without it.
pub fn decompress(
    bytes: &Bytes,
    compression: Compression,
    bytes_max: usize,
) -> Result<Bytes, BatchError> {
    if compression == Compression::None {
        return Ok(bytes.clone());
    }
    let mut out = Vec::new();
    let mut decoder = Decoder::new(bytes, compression)?;
    let mut limited = decoder.by_ref().take(bytes_max as u64 + 1);
    limited.read_to_end(&mut out).map_err(failed)?;
    check_end(decoder.left(), out.len(), bytes_max)?;
    Ok(out.into())
}

/// A decoder of either format, over the bytes of one frame.
pub(super) enum Decoder<'a> {
    /// The LZ4 decoder takes a frame whose end is missing for a whole one.
    Lz4(lz4_flex::frame::FrameDecoder<&'a [u8]>),
    Zstd(Box<ruzstd::decoding::StreamingDecoder<&'a [u8], ruzstd::decoding::FrameDecoder>>),
    Plain(&'a [u8]),
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8], compression: Compression) -> Result<Self, BatchError> {
        Ok(match compression {
            Compression::None => Self::Plain(bytes),
            Compression::Lz4 => Self::Lz4(lz4_flex::frame::FrameDecoder::new(bytes)),
            Compression::Zstd => {
                check_zstd_header(bytes)?;
                let decoder = ruzstd::decoding::StreamingDecoder::new(bytes);
                Self::Zstd(Box::new(decoder.map_err(failed)?))
            }
        })
    }

    /// What follows that it has read.
    pub(super) fn left(&self) -> &'a [u8] {
        match self {
            Self::Lz4(decoder) => decoder.get_ref(),
            Self::Zstd(decoder) => decoder.get_ref(),
            Self::Plain(left) => left,
        }
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Lz4(decoder) => decoder.read(out),
            Self::Zstd(decoder) => decoder.read(out),
            Self::Plain(left) => left.read(out),
        }
    }
}

/// Checks that a frame held at most `limit` bytes and that nothing follows it.
pub(super) fn check_end(left: &[u8], found: usize, limit: usize) -> Result<(), BatchError> {
    if found > limit {
        let what = "a batch without its compression";
        return Err(BatchError::OverLimit {
            what,
            size: found,
            limit,
        });
    }
    if left.is_empty() {
        return Ok(());
    }
    Err(BatchError::Compressed("bytes follow the frame".to_owned()))
}

/// Reads the window that a frame asks for (RFC 8878, section 3.1.1.1).
fn check_zstd_header(bytes: &[u8]) -> Result<(), BatchError> {
    const SINGLE_SEGMENT: u8 = 1 << 5;
    const DICTIONARY: u8 = 3;
    let short = || failed("it is no Zstandard frame");
    let rest = bytes.strip_prefix(&ZSTD_MAGIC).ok_or_else(short)?;
    let (descriptor, rest) = rest.split_first().ok_or_else(short)?;
    if descriptor & DICTIONARY != 0 {
        return Err(failed("it needs a dictionary"));
    }
    let window = if descriptor & SINGLE_SEGMENT == 0 {
        let byte = rest.first().ok_or_else(short)?;
        let base = 1u64 << (10 + (byte >> 3));
        base + base / 8 * u64::from(byte & 7)
    } else {
        // The window is the content's size.
        let (length, add) = [(1, 0), (2, 256), (4, 0), (8, 0)][usize::from(descriptor >> 6)];
        let size = rest.get(..length).ok_or_else(short)?;
        let mut number = [0; 8];
        number[..length].copy_from_slice(size);
        u64::from_le_bytes(number).saturating_add(add)
    };
    if window > ZSTD_WINDOW_BYTES_MAX {
        let what = "a Zstandard window in bytes";
        let size = usize::try_from(window).unwrap_or(usize::MAX);
        let limit = ZSTD_WINDOW_BYTES_MAX as usize;
        return Err(BatchError::OverLimit { what, size, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Compression; 2] = [Compression::Lz4, Compression::Zstd];

    fn text() -> Bytes {
        let lines = (0..5000).map(|number| format!("line {number} of a text\n"));
        lines.collect::<String>().into()
    }

    #[test]
    fn what_was_compressed_comes_back() {
        for bytes in [Bytes::new(), "x".into(), text(), vec![0; 1 << 20].into()] {
            for compression in BOTH {
                let small = compress(&bytes, compression).unwrap();
                assert!(
                    small.len() < bytes.len() || bytes.len() < 2,
                    "{compression:?}"
                );
                assert_eq!(decompress(&small, compression, bytes.len()).unwrap(), bytes);
            }
        }
    }

    #[test]
    fn a_bomb_is_an_error_before_it_takes_memory() {
        let bytes: Bytes = vec![0; 1 << 20].into();
        for compression in BOTH {
            let bomb = compress(&bytes, compression).unwrap();
            let error = decompress(&bomb, compression, 1000).unwrap_err();
            assert!(matches!(error, BatchError::OverLimit { .. }), "{error}");
        }
        // A frame that asks for a window of 2 GiB.
        let mut huge = ZSTD_MAGIC.to_vec();
        huge.extend([0, 21 << 3, 1, 0, 0]);
        let error = decompress(&huge.into(), Compression::Zstd, 1000).unwrap_err();
        assert!(matches!(error, BatchError::OverLimit { .. }), "{error}");
    }

    #[test]
    fn no_cut_and_no_flip_is_more_than_an_error() {
        let bytes = text().slice(..2000);
        for compression in BOTH {
            let small = compress(&bytes, compression).unwrap();
            for end in 0..small.len() {
                // LZ4's decoder does without the mark at the end: nothing is lost with it.
                if let Ok(part) = decompress(&small.slice(..end), compression, 1 << 16) {
                    assert!(compression == Compression::Lz4 && bytes.starts_with(&part));
                }
            }
            for bit in 0..small.len() * 8 {
                let mut bad = small.to_vec();
                bad[bit / 8] ^= 1 << (bit % 8);
                let _ = decompress(&bad.into(), compression, 1 << 16);
            }
            let mut more = small.to_vec();
            more.push(0);
            assert!(
                decompress(&more.into(), compression, 1 << 16).is_err(),
                "{compression:?}"
            );
        }
    }
}
