//! The steps of the oracle's test: what is committed at random, and what happens in between.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Commit(Plan),
    Checkpoint,
    Restart,
    Drop,
}

#[derive(Debug, Clone)]
pub(crate) enum Plan {
    Blank,
    Append(Vec<BatchOf>),
    Register(u8, u8),
    Forget(u8),
    Trim(u16),
    SetRetention(u64, u64),
    CloseSession(u8),
    Claim(u8, bool),
    Cursor(u8, u64, Option<u64>),
}

/// How far off the end of the log is, and the epoch of a name.
type Under = (Option<i8>, Option<(u8, i8)>);

#[derive(Debug, Clone)]
pub(crate) struct BatchOf {
    /// The session, and how far before (or behind) its next number the batch begins.
    pub(crate) producer: Option<(u8, i8)>,
    pub(crate) values: Vec<u8>,
    /// Packed, under conditions.
    pub(crate) packed: Option<Under>,
    /// What was sent before is sent as it was.
    pub(crate) again: bool,
    /// Sent by who did not open the session.
    pub(crate) is_stolen: bool,
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Most batches go on, some are retried whole or in part, a few leave a gap.
    let back = prop_oneof![5 => Just(0i8), 4 => -8..0i8, 1 => 1..3i8];
    let batch = (
        option::weighted(0.8, (0..4u8, back)),
        vec(any::<u8>(), 1..5),
        option::of((
            option::of(prop_oneof![2 => Just(0i8), 1 => -2..3i8]),
            option::of((0..3u8, prop_oneof![2 => Just(0i8), 1 => -2..2i8])),
        )),
        proptest::bool::weighted(0.7),
        proptest::bool::weighted(0.05),
    );
    let batch = batch.prop_map(|(producer, values, packed, again, is_stolen)| BatchOf {
        producer,
        values,
        packed,
        again,
        is_stolen,
    });
    let plan = prop_oneof![
        1 => Just(Plan::Blank),
        12 => vec(batch, 1..4).prop_map(Plan::Append),
        2 => (0..4u8, 0..3u8).prop_map(|(name, dir)| Plan::Register(name, dir)),
        1 => (0..4u8).prop_map(Plan::Forget),
        2 => any::<u16>().prop_map(Plan::Trim),
        1 => (any::<u64>(), 0..2u64).prop_map(|(bytes, age)| Plan::SetRetention(bytes, age)),
        1 => (0..4u8).prop_map(Plan::CloseSession),
        2 => (0..3u8, any::<bool>()).prop_map(|(name, old)| Plan::Claim(name, old)),
        2 => (0..3u8, 0..9u64, option::of(0..9u64)).prop_map(|(name, to, from)| Plan::Cursor(name, to, from)),
    ];
    let step = prop_oneof![
        16 => plan.prop_map(Step::Commit),
        2 => Just(Step::Checkpoint),
        2 => Just(Step::Restart),
        1 => Just(Step::Drop),
    ];
    vec(step, 1..80)
}
