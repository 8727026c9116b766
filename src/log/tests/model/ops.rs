//! What is done to a log and its model: operations, and the entries that they append.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::batch::{self, Compression};
use crate::log::format::record::{BatchBuilder, Conditions, batches, join, packed};
use crate::log::*;

/// Logs that batches go to, and the one of them of which records may go.
pub const LOGS: u8 = 3;
pub const COMPACTED: LogId = LogId(2);

#[derive(Debug, Clone)]
pub enum Op {
    Append(Vec<Content>),
    /// Cuts some of the entries that are not published.
    Truncate(u8),
    Publish(u8),
    Checkpoint,
    Seal,
    Trim(u8, u8),
    /// Gives up a log, which may come again.
    Forget(u8),
    Drop,
    /// Rewrites some of the sealed segments, without the records of a mask.
    Rewrite(u8, u8, u16),
    Reopen,
    Entries(u8, u8, u16),
    Read(u8, u8, u16),
    /// Reads the logs of a mask from a position on.
    ReadMany(u8, u8, u16),
}

#[derive(Debug, Clone)]
pub enum Content {
    Control(u8),
    Records(Vec<BatchOf>),
    /// Ends a segment, if it names the right one.
    Roll(bool),
}

/// The log of a batch, the lengths of its values, and how many of its first records are refused.
#[derive(Debug, Clone)]
pub struct BatchOf {
    pub log: u8,
    pub lengths: Vec<u8>,
    pub known: usize,
}

pub fn contents() -> impl Strategy<Value = Content> {
    let batch = (
        0..LOGS,
        vec(0..120u8, 1..5),
        prop_oneof![4 => Just(0usize), 1 => 0..5usize],
    );
    let batch = batch.prop_map(|(log, lengths, known)| BatchOf {
        log,
        lengths,
        known,
    });
    prop_oneof![
        2 => (0..60u8).prop_map(Content::Control),
        2 => prop_oneof![7 => Just(true), 1 => Just(false)].prop_map(Content::Roll),
        8 => vec(batch, 1..4).prop_map(Content::Records),
    ]
}

pub fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        8 => vec(contents(), 1..5).prop_map(Op::Append),
        2 => any::<u8>().prop_map(Op::Truncate),
        6 => any::<u8>().prop_map(Op::Publish),
        2 => Just(Op::Checkpoint),
        2 => Just(Op::Seal),
        2 => (0..LOGS, any::<u8>()).prop_map(|(log, to)| Op::Trim(log, to)),
        1 => (1..LOGS).prop_map(Op::Forget),
        2 => Just(Op::Drop),
        3 => (any::<u8>(), any::<u8>(), any::<u16>()).prop_map(|(from, count, gone)| Op::Rewrite(from, count, gone)),
        2 => Just(Op::Reopen),
        4 => (any::<u8>(), any::<u8>(), 0..1500u16).prop_map(|(a, b, c)| Op::Entries(a, b, c)),
        6 => (0..LOGS, any::<u8>(), 0..1500u16).prop_map(|(log, at, bytes)| Op::Read(log, at, bytes)),
        6 => (any::<u8>(), any::<u8>(), 0..1500u16).prop_map(|(logs, at, bytes)| Op::ReadMany(logs, at, bytes)),
    ];
    vec(op, 1..60)
}

/// An entry, and the runs of it that are accepted; where they go is known when they are published.
pub type Placed = (Entry, Vec<Run>);

pub fn entry(content: &Content, (term, index, rolled): (u64, u64, Index)) -> Placed {
    let (kind, payload, known) = match content {
        Content::Roll(is_right) => {
            let since = Index(rolled.0 + u64::from(!is_right));
            let roll = Entry::roll(Term(term), Index(index), since);
            return (roll, Vec::new());
        }
        Content::Control(length) => (Kind::Control, vec![9; (*length).into()].into(), Vec::new()),
        Content::Records(parts) => {
            let made: Vec<Bytes> = parts.iter().map(|part| batch(part, index)).collect();
            let known = parts.iter().map(|part| part.known).collect();
            (Kind::Records, join(made.iter(), None), known)
        }
    };
    let mut runs = Vec::new();
    if kind == Kind::Records {
        for (batch, known) in batches(&payload).unwrap().iter().zip(known) {
            let known = match batch.count.min(known as u32) {
                // A packed batch is refused as a whole.
                known if batch.log == COMPACTED && known < batch.count => 0,
                known => known,
            };
            if known < batch.count {
                runs.push(Run::of(batch, known, Offset(0)));
            }
        }
    }
    let entry = Entry {
        term: Term(term),
        index: Index(index),
        kind,
        payload,
    };
    (entry, runs)
}

pub fn batch(part: &BatchOf, index: u64) -> Bytes {
    if LogId(part.log.into()) == COMPACTED {
        return packed_batch(part, index);
    }
    let mut batch = BatchBuilder::of(LogId(part.log.into()), None);
    for (number, length) in part.lengths.iter().enumerate() {
        batch.push(&vec![index as u8; (*length).into()], index, number as u32);
    }
    batch.finish()
}

/// Only these are cut.
pub fn packed_batch(part: &BatchOf, index: u64) -> Bytes {
    let mut builder = batch::Builder::default();
    for length in &part.lengths {
        builder.push(&batch::Record::new(vec![index as u8; (*length).into()]));
    }
    let (records, count) = builder.take();
    let compression = [Compression::None, Compression::Lz4, Compression::Zstd][index as usize % 3];
    let records = batch::compress(&records, compression).unwrap();
    packed(
        COMPACTED,
        None,
        &Conditions::default(),
        compression,
        count,
        &records,
    )
}
