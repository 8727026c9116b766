//! Counts the batches of a call for several logs before they are decoded.
//!
//! Two bytes of a message can be an empty batch, which takes sixty times that once it is decoded. So batches are counted
//! as the bytes of the message pass, by the tags and lengths of Protocol Buffers alone. What does not decode ends the
//! decoder where it ends the count: whatever stands behind there, nobody takes room for it.

use super::super::limits::MANY_BATCHES_MAX;

/// The flag and the length before each message.
pub const PREFIX_BYTES: usize = 5;
/// A number has at most so many bits in groups of seven.
const VARINT_BITS_MAX: u32 = 70;

/// A message has more batches than a call may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

/// A number of which some bytes are known.
#[derive(Debug, Clone, Copy, Default)]
struct Varint {
    value: u64,
    bits: u32,
}

/// What comes next in a message.
#[derive(Debug, Clone, Copy)]
enum At {
    Tag(Varint),
    /// A number, and then another tag.
    Number(Varint),
    /// The length of a field.
    Length(u64, Varint),
    /// So many bytes of a field.
    Bytes(u64),
    /// What no decoder reads.
    Rest,
}

/// The messages of a call, as far as they have passed.
#[derive(Debug)]
pub struct Batches {
    /// The field with the batches, and before it the field that it is in.
    path: &'static [u64],
    /// Of a prefix, how many bytes have passed, and what they say.
    prefix: (usize, usize),
    /// Bytes of the message that are still to come.
    left: usize,
    /// The same of the field that the batches are in, inside of it.
    inner: Option<u64>,
    at: At,
    /// Groups that are open.
    groups: u32,
    count: usize,
}

impl Varint {
    /// Takes a byte: then it is known, or not yet; `None` if it is too long.
    fn take(self, byte: u8) -> Option<Result<u64, Self>> {
        let value = self.value | u64::from(byte & 0x7f) << self.bits;
        let bits = self.bits + 7;
        match byte < 0x80 {
            true => Some(Ok(value)),
            false => (bits < VARINT_BITS_MAX).then_some(Err(Self { value, bits })),
        }
    }
}

impl Batches {
    /// Of messages that have their batches there; without a field, none are counted.
    pub fn new(path: &'static [u64]) -> Self {
        Self {
            path,
            prefix: (0, 0),
            left: 0,
            inner: None,
            at: At::Tag(Varint::default()),
            groups: 0,
            count: 0,
        }
    }

    /// Takes the next bytes of the call: messages, each behind its prefix.
    pub fn pass(&mut self, mut bytes: &[u8]) -> Result<(), TooMany> {
        if self.path.is_empty() {
            return Ok(());
        }
        while let Some((byte, behind)) = bytes.split_first() {
            if self.left == 0 {
                let (known, length) = self.prefix;
                // The first one is the flag.
                let length = if known == 0 {
                    0
                } else {
                    (length << 8) | usize::from(*byte)
                };
                self.prefix = (known + 1, length);
                if self.prefix.0 == PREFIX_BYTES {
                    *self = Self {
                        left: length,
                        ..Self::new(self.path)
                    };
                }
                bytes = behind;
                continue;
            }
            let (here, rest) = bytes.split_at(self.left.min(bytes.len()));
            self.walk(here)?;
            self.left -= here.len();
            bytes = rest;
        }
        Ok(())
    }

    /// Walks over bytes of one message.
    fn walk(&mut self, mut bytes: &[u8]) -> Result<(), TooMany> {
        while let Some(byte) = bytes.first().copied() {
            let inner = self.inner;
            let step = match self.at {
                At::Rest => bytes.len(),
                At::Bytes(more) => {
                    let step = usize::try_from(more).unwrap_or(usize::MAX).min(bytes.len());
                    self.at = bytes_of(more - step as u64);
                    step
                }
                At::Tag(known) => {
                    self.at = match known.take(byte) {
                        Some(Ok(tag)) => self.behind_tag(tag),
                        Some(Err(known)) => At::Tag(known),
                        None => At::Rest,
                    };
                    1
                }
                At::Number(known) => {
                    self.at = match known.take(byte) {
                        Some(Ok(_)) => At::Tag(Varint::default()),
                        Some(Err(known)) => At::Number(known),
                        None => At::Rest,
                    };
                    1
                }
                At::Length(field, known) => {
                    self.at = match known.take(byte) {
                        Some(Ok(length)) => self.behind_length(field, length)?,
                        Some(Err(known)) => At::Length(field, known),
                        None => At::Rest,
                    };
                    1
                }
            };
            if let Some(inner) = inner {
                self.leave(inner, step as u64);
            }
            bytes = &bytes[step..];
        }
        Ok(())
    }

    fn behind_tag(&mut self, tag: u64) -> At {
        let none = Varint::default();
        match (tag >> 3, tag & 7) {
            (0, _) => At::Rest,
            (_, 0) => At::Number(none),
            (_, 1) => At::Bytes(8),
            (field, 2) => At::Length(field, none),
            (_, 5) => At::Bytes(4),
            (_, 3) => {
                self.groups += 1;
                At::Tag(none)
            }
            (_, 4) if self.groups > 0 => {
                self.groups -= 1;
                At::Tag(none)
            }
            _ => At::Rest,
        }
    }

    fn behind_length(&mut self, field: u64, length: u64) -> Result<At, TooMany> {
        let level = usize::from(self.inner.is_some());
        // Nothing in a group is known to the decoder.
        if self.groups > 0 || self.path.get(level) != Some(&field) {
            return Ok(bytes_of(length));
        }
        if level + 1 < self.path.len() {
            self.inner = Some(length).filter(|length| *length > 0);
            return Ok(At::Tag(Varint::default()));
        }
        self.count += 1;
        match self.count > MANY_BATCHES_MAX {
            true => Err(TooMany),
            false => Ok(bytes_of(length)),
        }
    }

    /// Takes note that so many bytes passed of a field of which so many were to come.
    fn leave(&mut self, inner: u64, step: u64) {
        match inner.checked_sub(step) {
            Some(0) | None => {
                self.inner = None;
                let is_whole = inner == step && self.groups == 0;
                if !is_whole || !matches!(self.at, At::Tag(Varint { bits: 0, .. })) {
                    self.at = At::Rest;
                }
            }
            left => self.inner = left,
        }
    }
}

fn bytes_of(length: u64) -> At {
    match length {
        0 => At::Tag(Varint::default()),
        more => At::Bytes(more),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::proto::v1::{
        Batch, ManyBatch, ProduceManyRequest, ProduceRequest, ProduceStreamRequest, SessionSequence,
    };

    const MANY: &[u64] = &[1];
    const OF_STREAM: &[u64] = &[2, 1];

    fn many(batches: usize) -> ProduceManyRequest {
        let batch = |number: usize| ManyBatch {
            log: "x".repeat(number % 300),
            batch: (!number.is_multiple_of(3)).then(|| Batch {
                records: vec![0x0a; number * 7].into(),
                count: 1,
                ..Batch::default()
            }),
            ..ManyBatch::default()
        };
        ProduceManyRequest {
            batches: (0..batches).map(batch).collect(),
            session: Some(SessionSequence::default()),
        }
    }

    fn framed(message: &impl Message) -> Vec<u8> {
        let bytes = message.encode_to_vec();
        let mut framed = vec![0];
        framed.extend((bytes.len() as u32).to_be_bytes());
        framed.extend(bytes);
        framed
    }

    /// Whether all of it passes, in pieces of so many bytes.
    fn passes(path: &'static [u64], bytes: &[u8], piece: usize) -> bool {
        let mut counted = Batches::new(path);
        bytes.chunks(piece).all(|bytes| counted.pass(bytes).is_ok())
    }

    #[test]
    fn a_call_has_so_many_batches_and_no_more() {
        let of_stream = |batches| ProduceStreamRequest {
            produce: Some(ProduceRequest {
                log: "orders".to_owned(),
                ..ProduceRequest::default()
            }),
            many: Some(many(batches)),
        };
        for piece in [1, 3, 64, usize::MAX] {
            // Each message is counted by itself.
            let some = framed(&many(MANY_BATCHES_MAX)).repeat(2);
            assert!(passes(MANY, &some, piece));
            assert!(!passes(MANY, &framed(&many(MANY_BATCHES_MAX + 1)), piece));
            let some = framed(&of_stream(MANY_BATCHES_MAX)).repeat(2);
            assert!(passes(OF_STREAM, &some, piece));
            let more = framed(&of_stream(MANY_BATCHES_MAX + 1));
            assert!(!passes(OF_STREAM, &more, piece));
            assert!(passes(&[], &more, piece), "no call with batches");
            // A field that comes twice is one with the batches of both.
            let half = many(MANY_BATCHES_MAX / 2 + 1).encode_to_vec();
            let length = u8::try_from(half.len() % 128).unwrap() | 0x80;
            let twice = [&[0x12, length, (half.len() / 128) as u8][..], &half]
                .concat()
                .repeat(2);
            assert_eq!(
                ProduceStreamRequest::decode(&twice[..])
                    .unwrap()
                    .many
                    .unwrap()
                    .batches
                    .len(),
                MANY_BATCHES_MAX + 2
            );
            let mut framed = vec![0];
            framed.extend((twice.len() as u32).to_be_bytes());
            framed.extend(twice);
            assert!(!passes(OF_STREAM, &framed, piece));
        }
    }

    proptest! {
        /// What passes has no more batches than may be, however far the decoder comes.
        #[test]
        fn no_message_that_passes_has_too_many(
            parts in prop::collection::vec(
                prop_oneof![
                    4 => Just(vec![0x0a, 0]),
                    2 => Just(vec![0x12, 4, 0x0a, 0, 0x0a, 0]),
                    1 => Just(vec![0x1b, 0x0a, 0, 0x1c]),
                    1 => prop::collection::vec(any::<u8>(), 0..4),
                ],
                0..400,
            ),
            piece in 1..9_usize,
        ) {
            let bytes = parts.concat();
            let mut framed = vec![0];
            framed.extend((bytes.len() as u32).to_be_bytes());
            framed.extend(&bytes);
            let mut one = ProduceManyRequest::default();
            let _ = one.merge(&bytes[..]);
            let mut stream = ProduceStreamRequest::default();
            let _ = stream.merge(&bytes[..]);
            let of_stream = stream.many.map_or(0, |many| many.batches.len());
            for (path, batches) in [(MANY, one.batches.len()), (OF_STREAM, of_stream)] {
                let may_be = passes(path, &framed, piece);
                prop_assert!(!may_be || batches <= MANY_BATCHES_MAX, "{batches}");
            }
        }
    }
}
