//! What is remembered of one session: where its last records stand, and their digests.
//!
//! A client may have 64 batches, or 512 records of `log.v1`, under way without an answer, and may send all of
//! them again. A session remembers these and some more. Of older records it cannot tell whether they were appended.

use std::collections::VecDeque;

use crate::log::{LogId, Offset, Run};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::outcome::{OffsetRange, Ranges};

use super::digests::Digests;

/// The weight of a stretch without its records' digests. A unit of weight is a few bytes of memory.
const STRETCH_WEIGHT: usize = 8;
/// The weight of the digest of one plain record.
const RECORD_WEIGHT: usize = 1;
/// The weight of each further batch of a bundle.
const MORE_WEIGHT: usize = 2;
/// What a session remembers: 80 batches, or 632 plain records in a row.
const WEIGHT_MAX: usize = 80 * STRETCH_WEIGHT;

/// The last records of a session, without a gap, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remembered {
    stretches: VecDeque<Stretch>,
    weight: usize,
}

/// A bundle of packed batches, or plain records whose offsets follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stretch {
    log: LogId,
    offset: Offset,
    count: u32,
    digests: Digests,
    /// Where the further batches of a bundle stand.
    more: Vec<Place>,
}

/// Where the records of a batch stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    log: LogId,
    range: OffsetRange,
}

impl From<&Run> for Place {
    fn from(run: &Run) -> Self {
        let (first, count) = (run.first, run.count);
        Self {
            log: run.log,
            range: OffsetRange { first, count },
        }
    }
}

/// What is known of a batch whose first records are not new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retold {
    /// The records are those that were appended, and stand here.
    Known(Ranges),
    /// The records are older than those that are remembered.
    Forgotten,
    /// The records were appended in other batches.
    CutOtherwise,
    /// Other records were appended under their numbers.
    Another,
}

impl Stretch {
    fn weight(&self) -> usize {
        STRETCH_WEIGHT + self.digests.records() * RECORD_WEIGHT + self.more.len() * MORE_WEIGHT
    }

    /// How many records are in it.
    fn records(&self) -> u64 {
        let more = self.more.iter().map(|place| u64::from(place.range.count));
        u64::from(self.count) + more.sum::<u64>()
    }

    fn range(&self, passed: u32, count: u32) -> OffsetRange {
        OffsetRange {
            first: Offset(self.offset.0 + u64::from(passed)),
            count,
        }
    }
}

impl Remembered {
    /// Looks up a batch of `count` records for `log`, which begins `behind` records before the session's next one.
    pub fn look(&self, log: LogId, behind: u64, count: u32, digests: &Digests) -> Retold {
        // Goes from the newest stretch back to the one in which the batch begins.
        let mut begins = 0;
        let found = self.stretches.iter().rposition(|stretch| {
            begins += stretch.records();
            begins >= behind
        });
        let Some(place) = found else {
            return Retold::Forgotten;
        };
        let passed = begins - behind;
        let stretches = self.stretches.range(place..);
        if self.stretches[place].log != log {
            return Retold::Another;
        }
        match digests {
            Digests::Whole(digest) => whole(&self.stretches[place], passed, count, *digest),
            Digests::Each(digests) => match u32::try_from(passed) {
                Ok(passed) => each(log, stretches, passed, digests),
                Err(_) => Retold::CutOtherwise,
            },
        }
    }

    /// Remembers the session's next records: the runs of a bundle. Forgets the oldest records to make room.
    pub fn push(&mut self, runs: &[Run], digests: Digests) {
        let Some((
            &Run {
                log, first, count, ..
            },
            more,
        )) = runs.split_first()
        else {
            return;
        };
        let before = self.stretches.back().map_or(0, Stretch::weight);
        match (self.stretches.back_mut(), digests) {
            (
                Some(Stretch {
                    log: of,
                    offset,
                    count: so_far,
                    digests: Digests::Each(known),
                    ..
                }),
                Digests::Each(digests),
            ) if *of == log && offset.0 + u64::from(*so_far) == first.0 => {
                *so_far += count;
                known.extend(digests);
                self.weight -= before;
            }
            (_, digests) => self.stretches.push_back(Stretch {
                log,
                offset: first,
                count,
                digests,
                more: more.iter().map(Place::from).collect(),
            }),
        }
        self.weight += self.stretches.back().map_or(0, Stretch::weight);
        while self.weight > WEIGHT_MAX {
            self.forget_some();
        }
    }

    /// Forgets the oldest batch, or as many of the oldest plain records as are too many.
    fn forget_some(&mut self) {
        let excess = (self.weight - WEIGHT_MAX).div_ceil(RECORD_WEIGHT);
        let oldest = self.stretches.front_mut().expect("nothing weighs nothing");
        let weight = oldest.weight();
        match &mut oldest.digests {
            Digests::Each(digests) if digests.len() > excess => {
                digests.drain(..excess);
                let gone = u32::try_from(excess).expect("fewer than there are");
                oldest.count -= gone;
                oldest.offset.0 += u64::from(gone);
                self.weight -= excess * RECORD_WEIGHT;
            }
            _ => {
                self.stretches.pop_front();
                self.weight -= weight;
            }
        }
    }

    pub fn to_pb(&self) -> Vec<pb::Stretch> {
        let place = |place: &Place| pb::Place {
            log: place.log.0,
            first_offset: place.range.first.0,
            count: place.range.count,
        };
        let stretch = |stretch: &Stretch| {
            let (batch, records) = match &stretch.digests {
                Digests::Whole(digest) => (*digest, Vec::new()),
                Digests::Each(digests) => (0, digests.iter().copied().collect()),
            };
            pb::Stretch {
                first_offset: stretch.offset.0,
                count: stretch.count,
                batch_high: (batch >> 64) as u64,
                batch_low: batch as u64,
                records,
                log: stretch.log.0,
                more: stretch.more.iter().map(place).collect(),
            }
        };
        self.stretches.iter().map(stretch).collect()
    }

    /// From a checkpoint of a session under which `records` records came. `None` if the stretches do not fit that.
    pub fn from_pb(stretches: &[pb::Stretch], records: u64) -> Option<Self> {
        let mut all = Self::default();
        let mut count = 0;
        for stretch in stretches {
            stretch.first_offset.checked_add(stretch.count.into())?;
            let more = stretch.more.iter().map(place_from_pb);
            let more: Vec<_> = more.collect::<Option<_>>()?;
            let digests = if stretch.records.is_empty() {
                let high = u128::from(stretch.batch_high) << 64;
                Digests::Whole(high | u128::from(stretch.batch_low))
            } else {
                Digests::Each(stretch.records.iter().copied().collect())
            };
            let whole = matches!(digests, Digests::Whole(_));
            let is_alone = whole || more.is_empty();
            if stretch.count == 0
                || !is_alone
                || !(whole || digests.records() == stretch.count as usize)
            {
                return None;
            }
            let restored = Stretch {
                log: LogId(stretch.log),
                offset: Offset(stretch.first_offset),
                count: stretch.count,
                digests,
                more,
            };
            count = restored.records().checked_add(count)?;
            all.weight += restored.weight();
            all.stretches.push_back(restored);
        }
        (count <= records && all.weight <= WEIGHT_MAX).then_some(all)
    }
}

/// Where a batch of a bundle stands, from a checkpoint; `None` if no batch can stand there.
fn place_from_pb(place: &pb::Place) -> Option<Place> {
    place.first_offset.checked_add(place.count.into())?;
    let range = OffsetRange {
        first: Offset(place.first_offset),
        count: place.count,
    };
    let log = LogId(place.log);
    (place.count > 0).then_some(Place { log, range })
}

/// Compares packed batches that came again with a stretch. They are sent again as they were, so they must be all of it.
fn whole(stretch: &Stretch, passed: u64, count: u32, digest: u128) -> Retold {
    match stretch.digests {
        Digests::Whole(known) if passed == 0 && stretch.records() == u64::from(count) => {
            if known == digest {
                let more = stretch.more.iter().map(|place| place.range);
                Retold::Known(
                    [stretch.range(0, stretch.count)]
                        .into_iter()
                        .chain(more)
                        .collect(),
                )
            } else {
                Retold::Another
            }
        }
        _ => Retold::CutOtherwise,
    }
}

/// Compares plain records that came again with the stretches, however they are cut into batches now. Records behind the
/// last stretch are new.
fn each<'a>(
    log: LogId,
    stretches: impl Iterator<Item = &'a Stretch>,
    mut passed: u32,
    digests: &VecDeque<u32>,
) -> Retold {
    let mut ranges = Ranges::new();
    let mut left = digests.iter();
    for stretch in stretches {
        let Digests::Each(known) = &stretch.digests else {
            return Retold::CutOtherwise;
        };
        let here = (stretch.count - passed).min(u32::try_from(left.len()).unwrap_or(u32::MAX));
        let known = known.range(passed as usize..(passed + here) as usize);
        if stretch.log != log || !known.eq(left.by_ref().take(here as usize)) {
            return Retold::Another;
        }
        ranges.push(stretch.range(passed, here));
        passed = 0;
        if left.len() == 0 {
            break;
        }
    }
    Retold::Known(ranges)
}
