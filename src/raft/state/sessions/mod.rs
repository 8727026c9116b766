//! Producers' sessions: a retried batch is appended once and gets the offsets of the first try.
//!
//! A session is opened by a command, whose raft index is its id. No id is given twice, so a session that is not
//! known was forgotten, and no batch under it is ever taken for new. A session counts its records. It belongs
//! to its opener: a batch under it shows the opener's proof (`owner`), or is refused. Sessions are replicated
//! state: every replica keeps the same ones and forgets the same ones (I2), by commands alone: a close, an
//! expiry, or an opening that needs the room of an idle one. Ongaro, "Consensus: Bridging Theory and Practice",
//! 2014, section 6.3, with a window in place of one last response.

pub mod digests;
mod remembered;

use std::collections::HashMap;

use crate::log::record::Producer;
use crate::log::{self, Index, LogId, Run};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::command::{CloseSession, OpenSession};
use crate::raft::entry::outcome::{Full, Ranges, Refusal, StateRefusal};
use crate::raft::entry::owner;
use crate::raft::entry::wire_error::{WireError, number_of};

use super::table::{self, Table};
use digests::Digests;
use remembered::{Remembered, Retold};

/// The most sessions in the cluster.
pub const SESSIONS_MAX: usize = 4096;
/// The most sessions, the most cursors and the most names that one subject may hold: nobody uses up all there are.
pub const OF_SUBJECT_MAX: usize = 1024;

/// All sessions.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    pub by_id: Table<Session>,
    /// The sessions' ids by their openers' proofs: an opening that comes again finds the session it opened.
    by_owner: HashMap<u128, u128>,
}

/// What is kept of a session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Session {
    subject: String,
    owner: u128,
    /// How many records were appended under it: the number of the next one.
    next_sequence: u64,
    /// The leader's time in the entry that used it last, in milliseconds since 1970.
    last_used_ms: u64,
    remembered: Remembered,
}

/// A session, for administrators to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    pub id: u64,
    pub subject: String,
    /// How many records were appended under it.
    pub records: u64,
    /// The leader's time in the entry that used it last, in milliseconds since 1970.
    pub last_used_ms: u64,
}

/// What to do with a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Records at its start that an earlier try appended, and where they stand.
    pub known: Ranges,
    /// How many they are: the rest is new.
    pub skip: u32,
}

/// Checks that there is room for one more thing of `subject`. `held` are the subjects of all that are held, of which
/// there may be `total_max`. Without TLS everybody has the empty subject, so that one has no limit of its own.
pub fn check_share<'a>(
    subject: &str,
    held: impl Iterator<Item = &'a String>,
    total_max: usize,
) -> Result<(), Full> {
    let (mut all, mut theirs) = (0, 0);
    for holder in held {
        all += 1;
        theirs += usize::from(!subject.is_empty() && holder == subject);
    }
    let full = |limit, of_subject| Err(Full { limit, of_subject });
    match () {
        () if theirs >= OF_SUBJECT_MAX => full(OF_SUBJECT_MAX as u64, true),
        () if all >= total_max => full(total_max as u64, false),
        () => Ok(()),
    }
}

impl Sessions {
    /// Opens a session with `index` as its id. A retry gets the session that was opened before. If there is no room,
    /// sessions that were last used before `idle_before_ms` are forgotten: the subject's own, if it has too many.
    pub fn open(&mut self, index: Index, open: &OpenSession) -> Result<u64, StateRefusal> {
        if let Some(id) = self.by_owner.get(&open.owner) {
            return Ok(number(*id));
        }
        if let Err(full) = self.check_share(&open.subject) {
            let subject = full.of_subject.then_some(&*open.subject);
            self.forget_idle(open.idle_before_ms, subject);
            let room = self.check_share(&open.subject);
            room.map_err(StateRefusal::TooManySessions)?;
        }
        let session = Session {
            subject: open.subject.clone(),
            owner: open.owner,
            last_used_ms: open.now_ms,
            ..Session::default()
        };
        self.insert(index.0.into(), session);
        Ok(index.0)
    }

    fn check_share(&self, subject: &str) -> Result<(), Full> {
        let held = self.by_id.rows().values().map(|session| &session.subject);
        check_share(subject, held, SESSIONS_MAX)
    }

    fn insert(&mut self, id: u128, session: Session) -> Option<Session> {
        if session.owner != owner::NOBODY {
            self.by_owner.insert(session.owner, id);
        }
        self.by_id.insert(id, session)
    }

    /// Forgets a session, if it is known. Only its opener and administrators may do that.
    pub fn close(&mut self, close: &CloseSession) -> Result<(), StateRefusal> {
        let id = close.session.into();
        let known = self.by_id.get(&id);
        let theirs =
            known.is_some_and(|known| close.owner.is_none_or(|owner| owner == known.owner));
        if known.is_some() && !theirs {
            return Err(StateRefusal::NotOwner);
        }
        self.forget(id);
        Ok(())
    }

    /// Forgets the sessions that were last used before a time; gives how many.
    pub fn expire(&mut self, idle_before_ms: u64) -> usize {
        self.forget_idle(idle_before_ms, None)
    }

    fn forget_idle(&mut self, idle_before_ms: u64, subject: Option<&str>) -> usize {
        let idle = |session: &Session| {
            let theirs = subject.is_none_or(|subject| session.subject == subject);
            theirs && session.last_used_ms < idle_before_ms
        };
        let gone = self
            .by_id
            .rows()
            .iter()
            .filter(|(_, session)| idle(session));
        let gone: Vec<u128> = gone.map(|(id, _)| *id).collect();
        for id in &gone {
            self.forget(*id);
        }
        gone.len()
    }

    /// Whether a session was last used before a time.
    pub fn any_idle(&self, idle_before_ms: u64) -> bool {
        let mut all = self.by_id.rows().values();
        all.any(|session| session.last_used_ms < idle_before_ms)
    }

    fn forget(&mut self, id: u128) {
        if let Some(session) = self.by_id.remove(&id) {
            self.by_owner.remove(&session.owner);
        }
    }

    /// Up to `count` sessions behind `after`, by id.
    pub fn list(&self, after: u64, count: usize) -> Vec<SessionInfo> {
        let behind = self.by_id.rows().range(u128::from(after) + 1..);
        let info = |(id, session): (&u128, &Session)| SessionInfo {
            id: number(*id),
            subject: session.subject.clone(),
            records: session.next_sequence,
            last_used_ms: session.last_used_ms,
        };
        behind.take(count).map(info).collect()
    }

    /// Judges a bundle of `count` records with these digests, whose first batch is for `log`. Packed batches are known
    /// as a whole or not at all.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] if the session is unknown or another's, if records before these are missing, or if other records
    /// were appended under their numbers.
    pub fn judge(
        &self,
        log: LogId,
        producer: Producer,
        count: u64,
        digests: &Digests,
    ) -> Result<Verdict, Refusal> {
        let session = self.by_id.get(&producer.session);
        let session = session.ok_or(Refusal::SessionExpired)?;
        if session.owner != producer.owner {
            return Err(Refusal::NotOwner);
        }
        let expected = session.next_sequence;
        let Some(behind) = expected.checked_sub(producer.sequence) else {
            return Err(Refusal::SequenceGap { expected });
        };
        if behind == 0 {
            return Ok(Verdict::new_batch());
        }
        let Ok(count) = u32::try_from(count) else {
            return Err(Refusal::SequenceReused { expected });
        };
        let skip = u32::try_from(behind.min(count.into())).expect("it is at most the count");
        match session.remembered.look(log, behind, count, digests) {
            Retold::Known(known) => Ok(Verdict { known, skip }),
            Retold::Forgotten => Err(Refusal::SessionExpired),
            Retold::CutOtherwise => Err(Refusal::SequenceOverlap { expected }),
            Retold::Another => Err(Refusal::SequenceReused { expected }),
        }
    }

    /// Notes that the runs of a bundle, with these digests, were appended under a session. `now_ms` is the leader's
    /// time in the entry.
    pub fn appended(&mut self, now_ms: u64, session: u128, runs: &[Run], digests: Digests) {
        if let Some(session) = self.by_id.get_mut(&session) {
            session.last_used_ms = session.last_used_ms.max(now_ms);
            let records = runs.iter().map(|run| u64::from(run.count));
            session.next_sequence += records.sum::<u64>();
            session.remembered.push(runs, digests);
        }
    }

    /// Takes over a row of a checkpoint.
    pub fn restore(&mut self, session: &pb::Session) -> Result<(), WireError> {
        const BROKEN: WireError = WireError::Unknown("session");
        let id = number_of(&session.id, "session id")?;
        if id > log::NUMBER_MAX.into() || session.next_sequence > log::NUMBER_MAX {
            return Err(BROKEN);
        }
        let remembered = Remembered::from_pb(&session.stretches, session.next_sequence);
        let restored = Session {
            subject: session.subject.clone(),
            owner: owner::from_pb(&session.owner)?,
            next_sequence: session.next_sequence,
            last_used_ms: session.last_used_ms,
            remembered: remembered.ok_or(BROKEN)?,
        };
        if restored.owner != owner::NOBODY && self.by_owner.insert(restored.owner, id).is_some() {
            return Err(BROKEN);
        }
        let is_new = self.by_id.restore(id, restored).is_none();
        let fits = is_new && self.by_id.rows().len() <= SESSIONS_MAX;
        fits.then_some(()).ok_or(BROKEN)
    }
}

impl table::Kept for Session {
    type Key = u128;

    fn stored_key(id: &u128) -> Vec<u8> {
        [&b"session/"[..], &id.to_be_bytes()].concat()
    }

    fn to_pb(&self, id: &u128) -> pb::StateRow {
        let session = pb::Session {
            id: id.to_be_bytes().to_vec().into(),
            next_sequence: self.next_sequence,
            last_used_ms: self.last_used_ms,
            subject: self.subject.clone(),
            owner: owner::to_pb(self.owner),
            stretches: self.remembered.to_pb(),
        };
        pb::StateRow {
            row: Some(pb::state_row::Row::Session(session)),
        }
    }
}

fn number(id: u128) -> u64 {
    u64::try_from(id).expect("ids are raft indexes")
}

impl Verdict {
    /// No record of the batch is known.
    pub fn new_batch() -> Self {
        Self {
            known: Vec::new(),
            skip: 0,
        }
    }
}

#[cfg(test)]
mod tests;
