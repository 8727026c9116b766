//! A frame: one raft entry as it stands in a store file, with its checksum.
//!
//! The bytes are drawn in `docs/format.md`. A frame also says how far behind it the write began
//! that carried it: whatever lies before that point was synced before the frame was written, which
//! is how recovery tells a torn write from a damaged file.

use bytes::Bytes;

use super::record;
use crate::disk::crc32c;
use crate::log::{Index, Term};

/// The bytes before a payload.
pub const HEADER_BYTES: usize = 32;
/// Frames begin at multiples of this.
pub const ALIGN: usize = 8;
/// No frame's payload is longer, whatever its header claims.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;

const _: () = assert!(record::DECOMPRESSED_BYTES_MAX == PAYLOAD_BYTES_MAX);
const _: () = assert!(HEADER_BYTES == 32 && HEADER_BYTES.is_multiple_of(ALIGN));
/// Where the header's own check stands in it.
const CHECK_AT: usize = 29;
const _: () = assert!(CHECK_AT + 3 == HEADER_BYTES);

/// The frame that ends a segment. Each store keeps room for one behind its other frames, so that it fits whatever
/// stands before it.
pub const ROLL_FRAME_BYTES: u32 = (HEADER_BYTES + ROLL_BYTES) as u32;
/// Its payload: a raft index.
const ROLL_BYTES: usize = 8;
const _: () = assert!((ROLL_FRAME_BYTES as usize).is_multiple_of(ALIGN));

/// What a payload holds. 0 is not a kind, so that zeros never check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The raft layer's own: blank, membership, registration. Takes no offset.
    Control = 1,
    /// Batches of records.
    Records = 2,
    /// The end of a segment. Takes no offset.
    Roll = 3,
    /// A command in a batch of its own, which takes no offset, and behind it the batch that tells of it.
    Audited = 4,
    /// What the rows of a rewritten segment say of its batches. It is in no raft log: see [`super::moved`].
    Moved = 5,
}

impl Kind {
    /// The kind of a number from disk or network.
    pub fn new(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Control),
            2 => Some(Self::Records),
            3 => Some(Self::Roll),
            4 => Some(Self::Audited),
            5 => Some(Self::Moved),
            _ => None,
        }
    }

    /// Whether the payload is batches, each with its own checksum.
    pub fn has_batches(self) -> bool {
        match self {
            Self::Records | Self::Audited => true,
            Self::Control | Self::Roll | Self::Moved => false,
        }
    }

    /// How many of the payload's first batches never have a row.
    pub fn rowless(self) -> usize {
        match self {
            Self::Audited => 1,
            Self::Records | Self::Control | Self::Roll | Self::Moved => 0,
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

impl Entry {
    /// The entry that ends the segment which counts from `since` on.
    pub fn roll(term: Term, index: Index, since: Index) -> Self {
        Self {
            term,
            index,
            kind: Kind::Roll,
            payload: Bytes::copy_from_slice(&since.0.to_le_bytes()),
        }
    }

    /// What it names, if it is the end of a segment.
    pub fn rolls(&self) -> Option<Index> {
        rolls(self.kind, &self.payload)
    }

    /// Whether its payload is what its kind promises: whole batches with their checksums, and nothing else, or the
    /// end of a segment.
    pub fn is_whole(&self) -> bool {
        payload_checks(self.kind, &self.payload)
    }
}

/// What an entry names that ends a segment.
pub fn rolls(kind: Kind, payload: &[u8]) -> Option<Index> {
    let since = payload.try_into().map(u64::from_le_bytes).ok()?;
    (kind == Kind::Roll).then_some(Index(since))
}

/// A frame's header, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The payload's length in bytes.
    pub length: usize,
    /// The checksum of what the frame vouches for itself: see [`entry_crc`].
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

/// The checksum of what every replica holds of an entry: CRC-32C (Castagnoli; RFC 3720, section
/// 12.1) of length, term, index, kind, and of the payload all but what its batches vouch for themselves. Where
/// the frame stands has no part in it.
pub fn entry_crc(entry: &Entry) -> u32 {
    let mut head = [0; REPLICATED_BYTES];
    head[..4].copy_from_slice(&(entry.payload.len() as u32).to_le_bytes());
    head[4..12].copy_from_slice(&entry.term.0.to_le_bytes());
    head[12..20].copy_from_slice(&entry.index.0.to_le_bytes());
    head[20] = entry.kind as u8;
    payload_crc(crc32c::crc32c(&head), entry.kind, &entry.payload)
}

fn payload_crc(crc: u32, kind: Kind, payload: &[u8]) -> u32 {
    match kind {
        Kind::Control | Kind::Roll | Kind::Moved => crc32c::crc32c_append(crc, payload),
        Kind::Records | Kind::Audited => record::framed_crc(crc, payload),
    }
}

fn payload_checks(kind: Kind, payload: &[u8]) -> bool {
    match kind {
        Kind::Control | Kind::Moved => true,
        Kind::Records | Kind::Audited => record::are_whole(payload),
        Kind::Roll => payload.len() == ROLL_BYTES,
    }
}

/// Length, term, index and kind.
const REPLICATED_BYTES: usize = 21;
const _: () = assert!(REPLICATED_BYTES == 4 + 8 + 8 + 1);

/// Appends an entry's frame to `out`; `crc` is its [`entry_crc`].
pub fn encode(entry: &Entry, crc: u32, distance: u32, out: &mut Vec<u8>) {
    encode_header(entry, crc, distance, out);
    out.extend_from_slice(&entry.payload);
    out.resize(out.len() + padding(entry.payload.len()), 0);
}

/// The zeros behind a payload of this length.
pub fn padding(payload: usize) -> usize {
    frame_bytes(payload) - HEADER_BYTES - payload
}

/// Appends what stands before the payload.
pub fn encode_header(entry: &Entry, crc: u32, distance: u32, out: &mut Vec<u8>) {
    let start = out.len();
    let length = u32::try_from(entry.payload.len()).expect("payloads are limited on append");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&entry.term.0.to_le_bytes());
    out.extend_from_slice(&entry.index.0.to_le_bytes());
    out.extend_from_slice(&distance.to_le_bytes());
    out.push(entry.kind as u8);
    let check = header_check(&out[start..]);
    out.extend_from_slice(&check);
}

/// The low 24 bits of the CRC-32C of a header's first 29 bytes: a length is not believed, nor a
/// distance, before this holds.
fn header_check(header: &[u8]) -> [u8; 3] {
    let [a, b, c, _] = crc32c::crc32c(&header[..CHECK_AT]).to_le_bytes();
    [a, b, c]
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
    let sound = bytes[CHECK_AT..] == header_check(bytes) && header.length <= PAYLOAD_BYTES_MAX;
    sound.then_some(header)
}

/// Whether the payload of the frame that begins with `frame` is whole: what the frame vouches for, and each batch.
/// The header was decoded, so its own check held.
pub fn checks(header: &Header, frame: &[u8]) -> bool {
    let Some((head, rest)) = frame.split_at_checked(HEADER_BYTES) else {
        return false;
    };
    let Some(payload) = rest.get(..header.length) else {
        return false;
    };
    let crc = crc32c::crc32c(&head[..4]);
    let crc = crc32c::crc32c_append(crc, &head[8..24]);
    let crc = crc32c::crc32c_append(crc, &[header.kind as u8]);
    payload_crc(crc, header.kind, payload) == header.crc && payload_checks(header.kind, payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::format::record::{BatchBuilder, join};

    fn entries() -> impl Iterator<Item = Entry> {
        let batch = |length: usize| {
            let mut batch = BatchBuilder::new(None);
            batch.push(&vec![7; length], 0, 0);
            batch.finish()
        };
        let batches = [batch(1), batch(90), batch(0)];
        let control = [&b""[..], b"x", b"12345678"].map(Bytes::from);
        let control = control.map(|payload| (Kind::Control, payload));
        let records = [
            join(batches.iter(), Some(5)),
            join(batches[..1].iter(), None),
        ];
        let records = records.map(|payload| (Kind::Records, payload));
        let audited = (Kind::Audited, join(batches[..2].iter(), Some(5)));
        let roll = (Kind::Roll, Bytes::from_static(&[7; ROLL_BYTES]));
        let all = control.into_iter().chain(records).chain([audited, roll]);
        all.map(|(kind, payload)| Entry {
            term: Term(3),
            index: Index(9),
            kind,
            payload,
        })
    }

    #[test]
    fn a_frame_comes_back_as_it_went() {
        for entry in entries() {
            let mut bytes = Vec::new();
            encode(&entry, entry_crc(&entry), 40, &mut bytes);
            assert_eq!(bytes.len(), frame_bytes(entry.payload.len()));
            let header = decode_header(&bytes).unwrap();
            assert!(checks(&header, &bytes));
            assert_eq!(header.length, entry.payload.len());
            assert_eq!((header.term, header.index), (Term(3), Index(9)));
            assert_eq!((header.distance, header.kind), (40, entry.kind));
        }
    }

    /// In the header, in what the frame vouches for, in each batch's header, checksum and body.
    #[test]
    fn no_flipped_bit_checks() {
        for entry in entries() {
            let mut bytes = Vec::new();
            encode(&entry, entry_crc(&entry), 0, &mut bytes);
            let padded_from = HEADER_BYTES + entry.payload.len();
            for bit in 0..padded_from * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let whole = decode_header(&bad).is_some_and(|header| checks(&header, &bad));
                assert!(!whole, "bit {bit}");
            }
        }
    }

    #[test]
    fn the_end_of_a_segment_names_where_that_began() {
        let end = Entry::roll(Term(3), Index(9), Index(u64::MAX - 1));
        assert_eq!(end.rolls(), Some(Index(u64::MAX - 1)));
        assert_eq!(frame_bytes(end.payload.len()), ROLL_FRAME_BYTES as usize);
        for kind in [Kind::Control, Kind::Records] {
            assert_eq!(
                Entry {
                    kind,
                    ..end.clone()
                }
                .rolls(),
                None
            );
        }
        // The bytes may come from a peer, and be anything.
        for length in (0..20).filter(|length| *length != ROLL_BYTES) {
            let payload = Bytes::from(vec![1; length]);
            let bad = Entry {
                payload,
                ..end.clone()
            };
            assert!(!bad.is_whole() && bad.rolls().is_none(), "{length}");
        }
    }

    #[test]
    fn zeros_and_short_bytes_are_no_frame() {
        assert_eq!(decode_header(&[0; 64]), None);
        assert_eq!(decode_header(&[1; 31]), None);
    }
}
