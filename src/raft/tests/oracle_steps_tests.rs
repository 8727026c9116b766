//! The steps of the oracle's test: what is committed at random, and what happens in between.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::batch::{Builder, Compression, Record, compress};
use crate::disk::memory::MemoryDisk;
use crate::log::fuzzing::copy::copy_rewritten;
use crate::log::record::{self, Conditions, Producer};
use crate::log::{Index, Log, LogId, Offset, Rewrite, Seal, SegmentCopy};
use crate::raft::entry::command::Command;
use crate::raft::entry::outcome::Outcome;
use crate::raft::entry::types::EntryPayload;
use crate::raft::fuzzing::part_of;
use crate::raft::peer::fetch;

use super::oracle_tests::World;

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Commit(Plan),
    Checkpoint,
    Restart,
    Drop,
    Move,
    /// Rewrites so many segments, from one of them on.
    Rewrite(u8, u8),
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
    /// Ends the segment.
    Roll,
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
        2 => Just(Plan::Roll),
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
        2 => (any::<u8>(), any::<u8>()).prop_map(|(from, count)| Step::Rewrite(from, count)),
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

impl World {
    pub(super) fn roll(&mut self) {
        if let Some(since) = self.log.to_roll() {
            let outcome = self.apply_payload(EntryPayload::Normal(Command::Roll(since)));
            assert_eq!(outcome, Outcome::Done);
        }
    }

    /// Decides on a run of segments as a leader does, and rewrites it. To the plain one that is nothing: all that could be
    /// read can be.
    pub(super) fn rewrite(&mut self, from: usize, count: usize) {
        self.checkpoint();
        let Some((_, covered)) = self.durable() else {
            return;
        };
        self.log.seal_covered(covered.applied).unwrap();
        let Some(plan) = self.run_of(from, count) else {
            return;
        };
        let at = self.log.next_index();
        let outcome = self.apply_payload(EntryPayload::Normal(Command::Rewrite(plan)));
        assert_eq!(outcome, Outcome::Done);
        let plan = {
            let mut decided = self.fsm.rewrites.all();
            let plan = decided.find(|plan| plan.at == at).cloned();
            plan.expect("nothing that lives goes with it")
        };
        // One of two is durable.
        self.checkpoint();
        self.checkpoint();
        let mut rewriting = self
            .log
            .begin_rewrite(&plan)
            .unwrap()
            .expect("they are here");
        while rewriting.step().unwrap().is_some() {}
        let rewritten = rewriting.finish().unwrap();
        assert!(self.log.swap(&rewritten).unwrap(), "nothing is pinned");
    }

    fn run_of(&self, from: usize, count: usize) -> Option<Rewrite> {
        let segments = self.log.segments().into_iter();
        let sealed: Vec<_> = segments.filter(|one| one.next_position.is_some()).collect();
        let run = sealed[from % sealed.len().max(1)..].iter();
        let run: Vec<_> = run
            .take(1 + count % 4)
            .take_while(|one| one.rolled)
            .collect();
        let mut firsts: BTreeMap<LogId, Offset> = BTreeMap::new();
        for one in &run {
            for (log, first) in self.log.live(one.base).unwrap()?.firsts {
                firsts.insert(log, first);
            }
        }
        Some(Rewrite {
            at: Index(0),
            base: run.first()?.base,
            next: run.last()?.next_index,
            of: run.iter().map(|one| one.name.rewritten).collect(),
            sealed_ms: 7,
            firsts,
            ..Rewrite::default()
        })
    }
}

/// Copies a segment of a log to another disk, as a snapshot brings it there.
pub(super) fn copy_segment(from: &Log, disk: &MemoryDisk, staging: &Path, seal: &Seal) {
    let disk = Arc::new(disk.clone());
    if seal.rewritten.is_none() {
        let copy = SegmentCopy::new(disk, staging, seal).unwrap();
        let part = part_of(from, seal).expect("its entries are here");
        fetch::add(copy, part).unwrap().finish().unwrap();
        return;
    }
    copy_rewritten(from, disk, staging, seal);
}
