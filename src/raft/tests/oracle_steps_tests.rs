//! The steps of the oracle's test: what is committed at random, and what happens in between.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::batch::{Builder, Compression, Record, compress};
use crate::log::LogId;
use crate::log::record::{self, Conditions, Producer};

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Commit(Plan),
    Checkpoint,
    Restart,
    Drop,
    Move,
}

/// One of the logs that a name had, so many before the newest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Which {
    pub(crate) name: u8,
    pub(crate) back: u8,
}

#[derive(Debug, Clone)]
pub(crate) enum Plan {
    Blank,
    Append(Vec<BatchOf>),
    Register(u8, u8),
    Forget(u8),
    Create {
        name: u8,
        label: u8,
        token: Option<u8>,
        logs_max: u8,
    },
    /// The configuration, and how far off the epoch is that is expected.
    Update(Which, u8, Option<i8>),
    Delete(Which),
    Trim(Which, u16),
    TrimLogs(Vec<(Which, u16)>),
    SetRetention(Which, u64, u64),
    CloseSession(u8),
    Claim(u8, bool),
    Cursor(Which, u8, u64, Option<u64>),
    DeleteCursor(Which, u8),
}

/// How far off the end of the log is, and the epoch of a name.
pub(crate) type Under = (Option<i8>, Option<(u8, i8)>);

#[derive(Debug, Clone)]
pub(crate) struct BatchOf {
    pub(crate) log: Which,
    /// The session, and how far before (or behind) its next number the batch begins.
    pub(crate) producer: Option<(u8, i8)>,
    pub(crate) values: Vec<u8>,
    /// Packed, under conditions.
    pub(crate) packed: Option<Under>,
    /// More batches that go together with a packed one, and how far off the ends of their logs are.
    pub(crate) more: Vec<(Which, Vec<u8>, Option<i8>)>,
    /// What was sent before is sent as it was.
    pub(crate) again: bool,
    /// Sent by who did not open the session.
    pub(crate) is_stolen: bool,
}

/// Most of the time the log that has the name now, or had it last.
fn which() -> impl Strategy<Value = Which> + Clone {
    let back = prop_oneof![9 => Just(0u8), 1 => Just(1u8)];
    (0..3u8, back).prop_map(|(name, back)| Which { name, back })
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Most batches go on, some are retried whole or in part, a few leave a gap.
    let back = prop_oneof![5 => Just(0i8), 4 => -8..0i8, 1 => 1..3i8];
    let off = option::of(prop_oneof![4 => Just(0i8), 1 => -2..3i8]);
    let more = vec((which(), vec(any::<u8>(), 1..4), off), 0..3);
    let batch = (
        which(),
        option::weighted(0.8, (0..4u8, back)),
        vec(any::<u8>(), 1..5),
        option::of((
            option::of(prop_oneof![2 => Just(0i8), 1 => -2..3i8]),
            option::of((0..3u8, prop_oneof![2 => Just(0i8), 1 => -2..2i8])),
        )),
        proptest::bool::weighted(0.7),
        proptest::bool::weighted(0.05),
        more,
    );
    let batch = batch.prop_map(
        |(log, producer, values, packed, again, is_stolen, more)| BatchOf {
            log,
            producer,
            values,
            packed,
            more,
            again,
            is_stolen,
        },
    );
    let plan = prop_oneof![
        1 => Just(Plan::Blank),
        12 => vec(batch, 1..4).prop_map(Plan::Append),
        2 => (0..4u8, 0..3u8).prop_map(|(name, dir)| Plan::Register(name, dir)),
        1 => (0..4u8).prop_map(Plan::Forget),
        4 => (0..3u8, 0..2u8, option::of(0..2u8), 2..5u8).prop_map(
            |(name, label, token, logs_max)| Plan::Create {
                name,
                label,
                token,
                logs_max,
            }
        ),
        1 => (which(), 0..2u8, option::of(-1..2i8))
            .prop_map(|(log, label, off)| Plan::Update(log, label, off)),
        1 => which().prop_map(Plan::Delete),
        3 => (which(), any::<u16>()).prop_map(|(log, to)| Plan::Trim(log, to)),
        2 => vec((which(), any::<u16>()), 1..4).prop_map(Plan::TrimLogs),
        // Small ones, too: marks then lie close to each other.
        1 => (which(), prop_oneof![any::<u64>(), 0..500u64], 0..2u64)
            .prop_map(|(log, bytes, age)| Plan::SetRetention(log, bytes, age)),
        1 => (0..4u8).prop_map(Plan::CloseSession),
        2 => (0..3u8, any::<bool>()).prop_map(|(name, old)| Plan::Claim(name, old)),
        3 => (which(), 0..3u8, 0..9u64, option::of(0..9u64))
            .prop_map(|(log, name, to, from)| Plan::Cursor(log, name, to, from)),
        1 => (which(), 0..3u8).prop_map(|(log, name)| Plan::DeleteCursor(log, name)),
    ];
    let step = prop_oneof![
        16 => plan.prop_map(Step::Commit),
        2 => Just(Step::Checkpoint),
        2 => Just(Step::Restart),
        1 => Just(Step::Drop),
        1 => Just(Step::Move),
    ];
    vec(step, 1..80)
}

/// A packed batch; the values decide on its compression.
pub(crate) fn packed_of(
    log: LogId,
    producer: Option<Producer>,
    conditions: &Conditions<'_>,
    values: &[Vec<u8>],
) -> Bytes {
    let mut builder = Builder::default();
    for value in values {
        builder.push(&Record {
            value: value.clone().into(),
            ..Record::default()
        });
    }
    let (records, count) = builder.take();
    let all = [Compression::None, Compression::Lz4, Compression::Zstd];
    let compression = all[values[0].len() % 3];
    let records = compress(&records, compression).unwrap();
    record::packed(log, producer, conditions, compression, count, &records)
}
