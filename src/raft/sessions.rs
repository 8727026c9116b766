//! Producers' sessions: a retried batch is appended once and gets the offsets of the first try.
//!
//! A session is an id that the client drew and a count of its records. It is replicated state:
//! every replica keeps the same sessions and forgets the same ones (I2). Ongaro, "Consensus:
//! Bridging Theory and Practice", 2014, section 6.3, with a window in place of one last response.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::log::record::Producer;
use crate::log::{self, Index, Offset};
use crate::proto::raft_v1 as pb;

use super::command::{OffsetRange, Ranges, Refusal};
use super::types::WireError;

/// Sessions remembered. The one used longest ago gives way to a new one.
const SESSIONS_MAX: usize = 4096;
/// Stretches of records remembered of a session; records that follow each other share one. A
/// client with at most this many records in flight can always retry them.
const APPENDED_MAX: usize = 1024;

/// All sessions.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    by_id: HashMap<u128, Session>,
    /// The sessions by their last use: each entry's index uses at most one session a batch, so
    /// the key carries the id as well.
    by_use: BTreeMap<(Index, u128), ()>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Session {
    next_sequence: u64,
    last_used: Index,
    appended: VecDeque<Appended>,
}

/// Records whose sequence numbers and offsets both follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Appended {
    sequence: u64,
    offset: Offset,
    count: u64,
}

/// What to do with a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Records at its start that an earlier try appended, and where they stand.
    pub known: Ranges,
    /// How many they are: the rest is new.
    pub skip: u32,
}

impl Sessions {
    /// Judges a batch of `count` records.
    pub fn judge(&self, producer: Producer, count: u32) -> Result<Verdict, Refusal> {
        let session = match self.by_id.get(&producer.session) {
            Some(session) => session,
            None if producer.sequence == 0 => return Ok(Verdict::new_batch()),
            None => return Err(Refusal::SessionExpired),
        };
        let expected = session.next_sequence;
        let known = match expected.checked_sub(producer.sequence) {
            None => return Err(Refusal::SequenceGap { expected }),
            Some(known) => known.min(count.into()),
        };
        let skip = u32::try_from(known).expect("it is at most the count");
        let known = session.ranges(producer.sequence, known)?;
        Ok(Verdict { known, skip })
    }

    /// Takes note that records from `sequence` on were appended at `offset`.
    pub fn appended(&mut self, index: Index, producer: Producer, offset: Offset, count: u32) {
        let id = producer.session;
        if !self.by_id.contains_key(&id) && self.by_id.len() >= SESSIONS_MAX {
            self.forget_oldest();
        }
        let session = self.by_id.entry(id).or_default();
        self.by_use.remove(&(session.last_used, id));
        session.last_used = index;
        self.by_use.insert((index, id), ());
        session.push(offset, count.into());
    }

    fn forget_oldest(&mut self) {
        if let Some(((_, id), ())) = self.by_use.pop_first() {
            self.by_id.remove(&id);
        }
    }

    /// For a checkpoint: the same bytes on every replica.
    pub fn to_pb(&self) -> Vec<pb::Session> {
        let session = |(_, id): &(Index, u128)| {
            let session = &self.by_id[id];
            let appended = session.appended.iter().map(|range| pb::AppendedRange {
                first_sequence: range.sequence,
                first_offset: range.offset.0,
                count: range.count,
            });
            pb::Session {
                id: id.to_be_bytes().to_vec().into(),
                next_sequence: session.next_sequence,
                last_used: session.last_used.0,
                appended: appended.collect(),
            }
        };
        self.by_use.keys().map(session).collect()
    }

    /// From a checkpoint.
    pub fn from_pb(sessions: &[pb::Session]) -> Result<Self, WireError> {
        const BROKEN: WireError = WireError::Unknown("session");
        let mut all = Self::default();
        if sessions.len() > SESSIONS_MAX {
            return Err(BROKEN);
        }
        for session in sessions {
            let id: [u8; 16] = (&*session.id)
                .try_into()
                .map_err(|_| WireError::Unknown("session id"))?;
            let id = u128::from_be_bytes(id);
            let last_used = Index(session.last_used);
            let appended = session.appended.iter().map(|range| Appended {
                sequence: range.first_sequence,
                offset: Offset(range.first_offset),
                count: range.count,
            });
            let restored = Session {
                next_sequence: session.next_sequence,
                last_used,
                appended: appended.collect(),
            };
            if !restored.is_sound() || all.by_id.insert(id, restored).is_some() {
                return Err(BROKEN);
            }
            all.by_use.insert((last_used, id), ());
        }
        Ok(all)
    }
}

impl Verdict {
    /// Nothing of the batch is known.
    pub fn new_batch() -> Self {
        Self {
            known: Vec::new(),
            skip: 0,
        }
    }
}

impl Session {
    fn push(&mut self, offset: Offset, count: u64) {
        let sequence = self.next_sequence;
        self.next_sequence += count;
        match self.appended.back_mut() {
            Some(last) if last.offset.0 + last.count == offset.0 => last.count += count,
            _ => {
                if self.appended.len() == APPENDED_MAX {
                    self.appended.pop_front();
                }
                self.appended.push_back(Appended {
                    sequence,
                    offset,
                    count,
                });
            }
        }
    }

    /// What `push` leaves: stretches that follow each other in sequence, up to the next number.
    fn is_sound(&self) -> bool {
        let ends = self.appended.iter().map(|range| {
            let end = range.sequence.checked_add(range.count);
            let offsets = range.offset.0.checked_add(range.count);
            end.filter(|_| range.count > 0 && offsets.is_some())
        });
        let nexts = self.appended.iter().skip(1).map(|range| range.sequence);
        let nexts = nexts.chain([self.next_sequence]).map(Some);
        !self.appended.is_empty()
            && self.appended.len() <= APPENDED_MAX
            && self.next_sequence <= log::NUMBER_MAX
            && ends.eq(nexts)
    }

    /// Where `count` records from `sequence` on stand.
    fn ranges(&self, mut sequence: u64, mut count: u64) -> Result<Ranges, Refusal> {
        let mut ranges = Ranges::new();
        if count == 0 {
            return Ok(ranges);
        }
        let after = self
            .appended
            .partition_point(|range| range.sequence <= sequence);
        let first = after.checked_sub(1).ok_or(Refusal::SessionExpired)?;
        for range in self.appended.range(first..) {
            let passed = sequence - range.sequence;
            let here = count.min(range.count - passed);
            ranges.push(OffsetRange {
                first: Offset(range.offset.0 + passed),
                count: u32::try_from(here).expect("it is at most a batch's count"),
            });
            sequence += here;
            count -= here;
            if count == 0 {
                break;
            }
        }
        Ok(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn producer(session: u128, sequence: u64) -> Producer {
        Producer { session, sequence }
    }

    fn range(first: u64, count: u32) -> OffsetRange {
        OffsetRange {
            first: Offset(first),
            count,
        }
    }

    #[test]
    fn a_retry_gets_the_first_offsets() {
        let mut all = Sessions::default();
        let new = all.judge(producer(1, 0), 3).unwrap();
        assert_eq!(new, Verdict::new_batch());
        all.appended(Index(5), producer(1, 0), Offset(10), 3);
        all.appended(Index(6), producer(1, 3), Offset(20), 2);

        let whole = all.judge(producer(1, 0), 3).unwrap();
        assert_eq!((whole.known, whole.skip), (vec![range(10, 3)], 3));
        let across = all.judge(producer(1, 2), 2).unwrap();
        assert_eq!(across.known, [range(12, 1), range(20, 1)]);
        let partly = all.judge(producer(1, 4), 5).unwrap();
        assert_eq!((partly.known, partly.skip), (vec![range(21, 1)], 1));
        let next = all.judge(producer(1, 5), 1).unwrap();
        assert_eq!(next, Verdict::new_batch());
    }

    #[test]
    fn a_gap_and_an_unknown_session_are_refused() {
        let mut all = Sessions::default();
        assert_eq!(all.judge(producer(1, 1), 1), Err(Refusal::SessionExpired));
        all.appended(Index(0), producer(1, 0), Offset(0), 1);
        let gap = Refusal::SequenceGap { expected: 1 };
        assert_eq!(all.judge(producer(1, 2), 1), Err(gap));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut all = Sessions::default();
        for number in 0..2 * APPENDED_MAX as u64 {
            all.appended(Index(number), producer(1, number), Offset(number * 2), 1);
        }
        let session = &all.by_id[&1];
        assert_eq!(session.appended.len(), APPENDED_MAX);
        assert_eq!(all.judge(producer(1, 0), 1), Err(Refusal::SessionExpired));
        let oldest = APPENDED_MAX as u64;
        let known = all.judge(producer(1, oldest), 1).unwrap().known;
        assert_eq!(known, [range(oldest * 2, 1)]);

        for id in 2..=SESSIONS_MAX as u128 + 1 {
            all.appended(Index(9999 + id as u64), producer(id, 0), Offset(0), 1);
        }
        assert_eq!(all.by_id.len(), SESSIONS_MAX);
        assert!(!all.by_id.contains_key(&1), "used longest ago");
    }

    #[test]
    fn a_checkpoint_brings_them_back() {
        let mut all = Sessions::default();
        all.appended(Index(3), producer(7, 0), Offset(0), 2);
        all.appended(Index(4), producer(u128::MAX, 0), Offset(2), 1);
        all.appended(Index(5), producer(7, 2), Offset(3), 1);
        let copy = Sessions::from_pb(&all.to_pb()).unwrap();
        assert_eq!((copy.by_id, copy.by_use), (all.by_id, all.by_use));
    }
}
