//! What an input says: numbers, bytes, and entries by the book.

use bytes::Bytes;

use crate::batch::{self, Compression};
use crate::log::format::record::{self, BatchBuilder, Conditions, Producer};
use crate::log::{Entry, Index, Kind, LogId, Offset, Term};

/// Bytes that are taken from the front, and zeros once they are spent.
#[derive(Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// Up to `len` bytes.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let taken = self.take(N);
        bytes[..taken.len()].copy_from_slice(taken);
        bytes
    }

    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number below `bound`, 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.u16()) % bound.max(1)
    }

    /// Bytes with their length before them.
    pub fn part(&mut self) -> &'a [u8] {
        let len = self.u16().into();
        self.take(len)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The control entry that raft writes most: it says nothing.
const BLANK: &[u8] = &[0x0a, 0];
/// What begins an entry that may end a segment.
const ROLLS: u8 = 248;

/// An entry that the input describes.
pub fn entry_of(input: &mut Input<'_>, term: u64, index: Index) -> Entry {
    let what = input.u8();
    let (kind, payload) = if what == ROLLS {
        // It ends a segment if it guesses from where on that one counts.
        return Entry::roll(Term(term), index, Index(input.u8().into()));
    } else if what & 7 == 0 {
        let payload = match what >> 3 {
            0 => BLANK,
            length => input.take(length.into()),
        };
        (Kind::Control, Bytes::copy_from_slice(payload))
    } else {
        let batches: Vec<_> = (0..1 + (what >> 6)).map(|_| batch_of(input)).collect();
        (Kind::Records, record::join(batches.iter(), None))
    };
    Entry {
        term: Term(term),
        index,
        kind,
        payload,
    }
}

/// A batch of a few records, of one of a few sessions.
pub fn batch_of(input: &mut Input<'_>) -> Bytes {
    let what = input.u8();
    let producer = (what & 1 != 0).then(|| Producer {
        session: u128::from(what >> 1 & 3),
        sequence: u64::from(input.u8() & 31),
        owner: 0,
    });
    // A few are for another log.
    let log = LogId(u32::from(what & 24 == 24));
    if what >> 5 == 7 {
        return packed_of(log, producer, what);
    }
    let mut batch = BatchBuilder::of(log, producer);
    for number in 0..=u64::from(what >> 3 & 3) {
        let length = usize::from(what >> 5) * 24 + number as usize;
        batch.push(&vec![what; length], number % 2, u32::from(what >> 7));
    }
    batch.finish()
}

/// Packed records, under conditions that hold now and then.
fn packed_of(log: LogId, producer: Option<Producer>, what: u8) -> Bytes {
    let mut builder = batch::Builder::default();
    for _ in 0..=what >> 3 & 3 {
        builder.push(&batch::Record {
            value: Bytes::copy_from_slice(&[what; 9]),
            ..batch::Record::default()
        });
    }
    let (records, count) = builder.take();
    let all = [Compression::None, Compression::Lz4, Compression::Zstd];
    let compression = all[usize::from(what >> 1) % 3];
    let records = batch::compress(&records, compression).expect("it is small");
    let conditions = Conditions {
        expected_next_offset: (what & 6 == 6).then_some(Offset(0)),
        fence: None,
    };
    record::packed(log, producer, &conditions, compression, count, &records)
}
