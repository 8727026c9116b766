//! A frame: one raft entry as it stands in a store file, with its checksum.
//!
//! The bytes are drawn in `docs/format.md`. A frame also says how far behind it the write began
//! that carried it: whatever lies before that point was synced before the frame was written, which
//! is how recovery tells a torn write from a damaged file.

use bytes::Bytes;

use super::{Index, Term};

/// The bytes before a payload.
pub const HEADER_BYTES: usize = 32;
/// Frames begin at multiples of this.
pub const ALIGN: usize = 8;
/// No frame's payload is longer, whatever its header claims.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;

const _: () = assert!(HEADER_BYTES.is_multiple_of(ALIGN));

/// What a payload holds. 0 is not a kind, so that zeros never check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The raft layer's own: blank, membership, registration. Takes no offset.
    Control = 1,
    /// Batches of records.
    Records = 2,
}

impl Kind {
    /// The kind of a number from disk or network.
    pub fn new(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Control),
            2 => Some(Self::Records),
            _ => None,
        }
    }
}

/// One entry of the raft log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The term of the leader that proposed it.
    pub term: Term,
    /// Its place in the raft log, from 0, dense.
    pub index: Index,
    /// What the payload holds.
    pub kind: Kind,
    /// The bytes; shared, never copied.
    pub payload: Bytes,
}

/// A frame's header, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The payload's length in bytes.
    pub length: usize,
    /// The checksum of all else in the frame.
    pub crc: u32,
    /// See [`Entry::term`].
    pub term: Term,
    /// See [`Entry::index`].
    pub index: Index,
    /// Bytes from the start of the write that carried the frame to the frame.
    pub distance: u32,
    /// See [`Entry::kind`].
    pub kind: Kind,
}

/// The bytes that a frame with a payload of this length takes, padding included.
pub fn frame_bytes(payload: usize) -> usize {
    (HEADER_BYTES + payload).next_multiple_of(ALIGN)
}

/// Appends an entry's frame to `out`.
pub fn encode(entry: &Entry, distance: u32, out: &mut Vec<u8>) {
    let start = out.len();
    let length = u32::try_from(entry.payload.len()).expect("payloads are limited on append");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&entry.term.0.to_le_bytes());
    out.extend_from_slice(&entry.index.0.to_le_bytes());
    out.extend_from_slice(&distance.to_le_bytes());
    out.extend_from_slice(&[entry.kind as u8, 0, 0, 0]);
    let crc = checksum(&out[start..start + HEADER_BYTES], &entry.payload);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&entry.payload);
    out.resize(start + frame_bytes(entry.payload.len()), 0);
}

/// Decodes a header; `None` if no frame begins with these bytes. The payload is not checked yet.
pub fn decode_header(bytes: &[u8]) -> Option<Header> {
    let bytes: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
    let u32_at =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | (u64::from(u32_at(at + 4)) << 32);
    let header = Header {
        length: usize::try_from(u32_at(0)).ok()?,
        crc: u32_at(4),
        term: Term(u64_at(8)),
        index: Index(u64_at(16)),
        distance: u32_at(24),
        kind: Kind::new(bytes[28])?,
    };
    let plain = bytes[29..] == [0; 3] && header.length <= PAYLOAD_BYTES_MAX;
    plain.then_some(header)
}

/// Whether the frame that begins with `frame` is whole: the bytes of one header and its payload.
pub fn checks(header: &Header, frame: &[u8]) -> bool {
    let Some((head, rest)) = frame.split_at_checked(HEADER_BYTES) else {
        return false;
    };
    let payload = rest.get(..header.length);
    payload.is_some_and(|payload| checksum(head, payload) == header.crc)
}

/// CRC-32C (Castagnoli; RFC 3720, section 12.1) of a frame, its own field left out.
fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&header[..4]);
    let crc = crc32c::crc32c_append(crc, &header[8..HEADER_BYTES]);
    crc32c::crc32c_append(crc, payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(payload: &'static [u8]) -> Entry {
        Entry {
            term: Term(3),
            index: Index(9),
            kind: Kind::Records,
            payload: Bytes::from_static(payload),
        }
    }

    #[test]
    fn a_frame_comes_back_as_it_went() {
        for payload in [&b""[..], b"x", b"12345678"] {
            let mut bytes = Vec::new();
            encode(&entry(payload), 40, &mut bytes);
            assert_eq!(bytes.len(), frame_bytes(payload.len()));
            let header = decode_header(&bytes).unwrap();
            assert!(checks(&header, &bytes));
            assert_eq!(header.length, payload.len());
            assert_eq!((header.term, header.index), (Term(3), Index(9)));
            assert_eq!((header.distance, header.kind), (40, Kind::Records));
        }
    }

    #[test]
    fn no_flipped_bit_checks() {
        let mut bytes = Vec::new();
        encode(&entry(b"payload"), 0, &mut bytes);
        let padded_from = HEADER_BYTES + b"payload".len();
        for bit in 0..padded_from * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let whole = decode_header(&bad).is_some_and(|header| checks(&header, &bad));
            assert!(!whole, "bit {bit}");
        }
    }

    #[test]
    fn zeros_and_short_bytes_are_no_frame() {
        assert_eq!(decode_header(&[0; 64]), None);
        assert_eq!(decode_header(&[1; 31]), None);
    }
}
