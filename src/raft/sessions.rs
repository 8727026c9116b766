//! Producers' sessions: a retried batch is appended once and gets the offsets of the first try.
//!
//! A session is opened by a command, whose raft index is its id: no id is given twice, so a session
//! that is not known was forgotten, and nothing of it is ever taken for new. It counts its records.
//! Sessions are replicated state: every replica keeps the same ones and forgets the same ones (I2),
//! by commands alone: a close, an expiry, or an opening that needs the room of an idle one. Ongaro,
//! "Consensus: Bridging Theory and Practice", 2014, section 6.3, with a window in place of one last
//! response.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::log::record::Producer;
use crate::log::{self, Index, Offset};
use crate::proto::raft_v1 as pb;

use super::command::{OffsetRange, Ranges, Refusal, StateRefusal};
use super::types::WireError;

/// Sessions remembered.
pub const SESSIONS_MAX: usize = 4096;
/// Stretches of records remembered of a session; records that follow each other share one. A
/// client with at most this many batches in flight can always retry them.
const APPENDED_MAX: usize = 1024;

/// All sessions.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    by_id: BTreeMap<u128, Session>,
    /// What they were opened with.
    by_token: HashMap<u128, u128>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Session {
    next_sequence: u64,
    /// The leader's time in the entry that used it last, in milliseconds since 1970.
    last_used_ms: u64,
    token: u128,
    appended: VecDeque<Appended>,
}

/// Records whose sequence numbers and offsets both follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Appended {
    sequence: u64,
    offset: Offset,
    count: u64,
}

/// A session to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenSession {
    /// Drawn by the client: the same one in a retry.
    pub token: u128,
    /// The leader's time, in milliseconds since 1970.
    pub now_ms: u64,
    /// Sessions that were last used before this may give way.
    pub idle_before_ms: u64,
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
    /// Opens a session; a retry gets the one that was opened before. If there is no room, sessions
    /// that were last used before `idle_before_ms` give way.
    pub fn open(&mut self, index: Index, open: &OpenSession) -> Result<u64, StateRefusal> {
        if let Some(id) = self.by_token.get(&open.token) {
            return Ok(u64::try_from(*id).expect("ids are raft indexes"));
        }
        if self.by_id.len() >= SESSIONS_MAX {
            self.expire(open.idle_before_ms);
        }
        if self.by_id.len() >= SESSIONS_MAX {
            return Err(StateRefusal::TooManySessions);
        }
        let session = Session {
            token: open.token,
            last_used_ms: open.now_ms,
            ..Session::default()
        };
        self.by_id.insert(index.0.into(), session);
        self.by_token.insert(open.token, index.0.into());
        Ok(index.0)
    }

    /// Forgets a session, if it is known.
    pub fn close(&mut self, session: u64) {
        self.forget(session.into());
    }

    /// Forgets the sessions that were last used before a time; gives how many.
    pub fn expire(&mut self, idle_before_ms: u64) -> usize {
        let idle = |session: &Session| session.last_used_ms < idle_before_ms;
        let gone = self.by_id.iter().filter(|(_, session)| idle(session));
        let gone: Vec<u128> = gone.map(|(id, _)| *id).collect();
        for id in &gone {
            self.forget(*id);
        }
        gone.len()
    }

    /// Whether a session was last used before a time.
    pub fn any_idle(&self, idle_before_ms: u64) -> bool {
        let mut all = self.by_id.values();
        all.any(|session| session.last_used_ms < idle_before_ms)
    }

    fn forget(&mut self, id: u128) {
        if let Some(session) = self.by_id.remove(&id) {
            self.by_token.remove(&session.token);
        }
    }

    /// Judges a batch of `count` records; an atomic one is known as a whole or not at all.
    pub fn judge(&self, producer: Producer, count: u32, atomic: bool) -> Result<Verdict, Refusal> {
        let session = self.by_id.get(&producer.session);
        let session = session.ok_or(Refusal::SessionExpired)?;
        let expected = session.next_sequence;
        let known = match expected.checked_sub(producer.sequence) {
            None => return Err(Refusal::SequenceGap { expected }),
            Some(known) => known.min(count.into()),
        };
        let skip = u32::try_from(known).expect("it is at most the count");
        if atomic && skip > 0 && skip < count {
            return Err(Refusal::SequenceOverlap { expected });
        }
        let known = session.ranges(producer.sequence, known)?;
        if atomic && known.len() > 1 {
            return Err(Refusal::SequenceOverlap { expected });
        }
        Ok(Verdict { known, skip })
    }

    /// Takes note that records of a session were appended at `offset`, by an entry of this time.
    pub fn appended(&mut self, now_ms: u64, session: u128, offset: Offset, count: u32) {
        if let Some(session) = self.by_id.get_mut(&session) {
            session.last_used_ms = session.last_used_ms.max(now_ms);
            session.push(offset, count.into());
        }
    }

    /// For a checkpoint: the same bytes on every replica.
    pub fn to_pb(&self) -> Vec<pb::Session> {
        let session = |(id, session): (&u128, &Session)| {
            let appended = session.appended.iter().map(|range| pb::AppendedRange {
                first_sequence: range.sequence,
                first_offset: range.offset.0,
                count: range.count,
            });
            pb::Session {
                id: id.to_be_bytes().to_vec().into(),
                next_sequence: session.next_sequence,
                appended: appended.collect(),
                token: session.token.to_be_bytes().to_vec().into(),
                last_used_ms: session.last_used_ms,
            }
        };
        self.by_id.iter().map(session).collect()
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
            let token: [u8; 16] = (&*session.token)
                .try_into()
                .map_err(|_| WireError::Unknown("session token"))?;
            let token = u128::from_be_bytes(token);
            if id > log::NUMBER_MAX.into() {
                return Err(BROKEN);
            }
            let appended = session.appended.iter().map(|range| Appended {
                sequence: range.first_sequence,
                offset: Offset(range.first_offset),
                count: range.count,
            });
            let restored = Session {
                next_sequence: session.next_sequence,
                last_used_ms: session.last_used_ms,
                token,
                appended: appended.collect(),
            };
            if !restored.is_sound()
                || all.by_id.insert(id, restored).is_some()
                || all.by_token.insert(token, id).is_some()
            {
                return Err(BROKEN);
            }
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
        let empty = self.appended.is_empty();
        self.appended.len() <= APPENDED_MAX
            && self.next_sequence <= log::NUMBER_MAX
            && (if empty {
                self.next_sequence == 0
            } else {
                ends.eq(nexts)
            })
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

    fn open(token: u128, now_ms: u64) -> OpenSession {
        OpenSession {
            token,
            now_ms,
            idle_before_ms: 0,
        }
    }

    fn range(first: u64, count: u32) -> OffsetRange {
        OffsetRange {
            first: Offset(first),
            count,
        }
    }

    fn one_session() -> Sessions {
        let mut all = Sessions::default();
        assert_eq!(all.open(Index(1), &open(77, 10)), Ok(1));
        assert_eq!(all.open(Index(2), &open(77, 20)), Ok(1), "a retry");
        all
    }

    #[test]
    fn a_retry_gets_the_first_offsets() {
        let mut all = one_session();
        let new = all.judge(producer(1, 0), 3, false).unwrap();
        assert_eq!(new, Verdict::new_batch());
        all.appended(50, 1, Offset(10), 3);
        all.appended(60, 1, Offset(20), 2);

        let whole = all.judge(producer(1, 0), 3, true).unwrap();
        assert_eq!((whole.known, whole.skip), (vec![range(10, 3)], 3));
        let across = all.judge(producer(1, 2), 2, false).unwrap();
        assert_eq!(across.known, [range(12, 1), range(20, 1)]);
        let partly = all.judge(producer(1, 4), 5, false).unwrap();
        assert_eq!((partly.known, partly.skip), (vec![range(21, 1)], 1));
        let next = all.judge(producer(1, 5), 1, true).unwrap();
        assert_eq!(next, Verdict::new_batch());

        let overlap = Err(Refusal::SequenceOverlap { expected: 5 });
        assert_eq!(all.judge(producer(1, 4), 5, true), overlap);
        assert_eq!(all.judge(producer(1, 2), 2, true), overlap);
    }

    #[test]
    fn a_gap_and_an_unknown_session_are_refused() {
        let mut all = one_session();
        let expired = Err(Refusal::SessionExpired);
        assert_eq!(
            all.judge(producer(9, 0), 1, true),
            expired,
            "even its first"
        );
        let gap = Refusal::SequenceGap { expected: 0 };
        assert_eq!(all.judge(producer(1, 2), 1, true), Err(gap));
        all.close(1);
        assert_eq!(all.judge(producer(1, 0), 1, true), expired);
        assert_eq!(all.open(Index(3), &open(77, 30)), Ok(3), "a new one");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut all = one_session();
        for number in 0..2 * APPENDED_MAX as u64 {
            all.appended(number, 1, Offset(number * 2), 1);
        }
        let session = &all.by_id[&1];
        assert_eq!(session.appended.len(), APPENDED_MAX);
        let expired = Err(Refusal::SessionExpired);
        assert_eq!(all.judge(producer(1, 0), 1, true), expired);
        let oldest = APPENDED_MAX as u64;
        let known = all.judge(producer(1, oldest), 1, true).unwrap().known;
        assert_eq!(known, [range(oldest * 2, 1)]);

        for number in 1..SESSIONS_MAX as u64 {
            let token = 1000 + u128::from(number);
            let opened = all.open(Index(9999 + number), &open(token, 99_999));
            assert_eq!(opened, Ok(9999 + number));
        }
        let full = Err(StateRefusal::TooManySessions);
        let one_more = open(0, 99_999);
        assert_eq!(all.open(Index(20_000), &one_more), full, "none is idle");
        assert!(all.any_idle(99_999) && !all.any_idle(2 * APPENDED_MAX as u64 - 1));
        let one_more = OpenSession {
            idle_before_ms: 99_999,
            ..one_more
        };
        assert_eq!(all.open(Index(20_000), &one_more), Ok(20_000));
        assert!(!all.by_id.contains_key(&1), "it was idle");
        assert_eq!(all.expire(u64::MAX), SESSIONS_MAX);
        assert!(all.by_id.is_empty() && all.by_token.is_empty());
    }

    #[test]
    fn a_checkpoint_brings_them_back() {
        let mut all = one_session();
        all.open(Index(2), &open(78, 20)).unwrap();
        all.appended(30, 1, Offset(0), 2);
        all.appended(50, 1, Offset(3), 1);
        let copy = Sessions::from_pb(&all.to_pb()).unwrap();
        assert_eq!((copy.by_id, copy.by_token), (all.by_id, all.by_token));
    }
}
