//! Fences: who may append under a name. A claim raises the name's epoch by one. From then on appends under an older
//! epoch are refused, whichever node they come through.
//!
//! Kleppmann, "Designing Data-Intensive Applications", 2017, chapter 8, "Fencing tokens".

use crate::log::{self, Offset, record};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::command::ClaimEpoch;
use crate::raft::entry::outcome::{Refusal, StateRefusal};
use crate::raft::entry::owner;
use crate::raft::entry::wire_error::{WireError, number_of};

use super::sessions::check_share;
use super::table::{self, Table};

/// The most names that are claimed at a time.
pub const FENCES_MAX: usize = 4096;
/// How many claims of a name are remembered, so that an old claim that comes again deposes nobody.
const CLAIMS_MAX: usize = 8;

/// All names that were claimed, and not deleted since.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fences {
    pub names: Table<Epoch>,
    /// The highest epoch of all deleted names. A name that is claimed anew gets a higher one, so that batches under its
    /// old epochs stay fenced off.
    deleted_epoch: u64,
}

/// The present holder of a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Epoch {
    /// Each claim raises it by one. The first claim gives 1, or one more than the highest epoch of a deleted name.
    pub epoch: u64,
    /// Who claimed it, in its own words.
    pub holder: String,
    /// Who claimed it, by its certificate: empty without TLS, `None` if the entry did not say.
    pub subject: Option<String>,
    /// What the last claims gave, oldest first, by the tokens that their claimers drew.
    claims: Vec<GivenClaim>,
}

/// What a claim gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct GivenClaim {
    token: u128,
    epoch: u64,
    /// Where the log ended then.
    next_offset: Offset,
}

impl Fences {
    /// Who holds a name.
    pub fn get(&self, name: &str) -> Option<&Epoch> {
        self.names.get(name)
    }

    /// Up to `count` names after `after`, in their order.
    pub fn list(&self, after: &str, count: usize) -> Vec<(String, Epoch)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let behind = self.names.rows();
        let behind = behind.range::<str, _>((Excluded(after), Unbounded));
        let some = behind.take(count);
        some.map(|(name, held)| (name.clone(), held.clone()))
            .collect()
    }

    /// Whether a batch may be appended under a name: it needs the present epoch, and must come from who claimed that.
    pub fn judge(&self, fence: &record::Fence<'_>) -> Result<(), Refusal> {
        let held = self.names.get(fence.name);
        let epoch = held.map_or(0, |held| held.epoch);
        if epoch != fence.epoch {
            return Err(Refusal::Fenced { epoch });
        }
        match held {
            Some(held) if held.claimant() != fence.claimant => Err(Refusal::NotHolder),
            _ => Ok(()),
        }
    }

    /// Gives a name to a new holder. `next` is where the claim's log ends, and `None` if there is no such log. Answers
    /// with the new epoch and with `next`; a claim that comes again gets its first answer.
    ///
    /// # Errors
    ///
    /// A [`StateRefusal`] if the log does not exist, the epoch is not the expected one, or there are too many names.
    pub fn claim(
        &mut self,
        claim: &ClaimEpoch,
        next: impl Into<Option<Offset>>,
    ) -> Result<(u64, Offset), StateRefusal> {
        let held = self.names.get(&claim.name);
        let known = |given: &&GivenClaim| given.token == claim.token;
        if let Some(given) = held.and_then(|held| held.claims.iter().find(known)) {
            return Ok((given.epoch, given.next_offset));
        }
        let next = next.into().ok_or(StateRefusal::NoSuchLog)?;
        let current = held.map_or(0, |held| held.epoch);
        if claim.expected.is_some_and(|expected| expected != current) {
            return Err(StateRefusal::EpochDiffers { current });
        }
        let epoch = current.max(held.map_or(self.deleted_epoch, |_| 0)) + 1;
        if held.is_none() {
            let subjects = self.names.rows().values();
            let subjects = subjects.filter_map(|held| held.subject.as_ref());
            let subject = claim.subject.as_deref().unwrap_or_default();
            let room = check_share(subject, subjects, FENCES_MAX);
            room.map_err(StateRefusal::TooManyFences)?;
        }
        let held = self.names.get_or_insert(&claim.name);
        held.epoch = epoch;
        held.holder = claim.holder.clone();
        held.subject = claim.subject.clone();
        if held.claims.len() == CLAIMS_MAX {
            held.claims.remove(0);
        }
        held.claims.push(GivenClaim {
            token: claim.token,
            epoch,
            next_offset: next,
        });
        Ok((epoch, next))
    }

    /// Forgets a name; false if there was none. Its epochs are not given again.
    pub fn delete(&mut self, name: &str) -> bool {
        let Some(gone) = self.names.remove(name) else {
            return false;
        };
        self.deleted_epoch = self.deleted_epoch.max(gone.epoch);
        true
    }

    /// The highest epoch of a name that was deleted.
    pub fn deleted_epoch(&self) -> u64 {
        self.deleted_epoch
    }

    /// Takes over the highest epoch of a name that was deleted.
    pub fn restore_deleted_epoch(&mut self, epoch: u64) -> Result<(), WireError> {
        self.deleted_epoch = epoch;
        let is_possible = epoch <= log::NUMBER_MAX;
        is_possible.then_some(()).ok_or(BROKEN)
    }

    /// Takes over a row of a checkpoint.
    pub fn restore(&mut self, fence: pb::Fence) -> Result<(), WireError> {
        let claims: Result<Vec<_>, _> = fence.claims.iter().map(given_from_pb).collect();
        let held = Epoch {
            epoch: fence.epoch,
            holder: fence.holder,
            subject: fence.subject,
            claims: claims?,
        };
        let is_possible = held.epoch <= log::NUMBER_MAX && held.claims.len() <= CLAIMS_MAX;
        let is_new = self.names.restore(fence.name, held).is_none();
        let fits = is_new && self.names.rows().len() <= FENCES_MAX;
        (is_possible && fits).then_some(()).ok_or(BROKEN)
    }
}

const BROKEN: WireError = WireError::Unknown("fence");

impl table::Kept for Epoch {
    type Key = String;

    fn stored_key(name: &String) -> Vec<u8> {
        [b"fence/", name.as_bytes()].concat()
    }

    fn to_pb(&self, name: &String) -> pb::StateRow {
        let fence = pb::Fence {
            name: name.clone(),
            epoch: self.epoch,
            holder: self.holder.clone(),
            subject: self.subject.clone(),
            claims: self.claims.iter().map(given_to_pb).collect(),
        };
        pb::StateRow {
            row: Some(pb::state_row::Row::Fence(fence)),
        }
    }
}

impl Epoch {
    /// The proof that a batch under this name has to show: it tells that the batch comes from the holder.
    fn claimant(&self) -> u128 {
        let subject = self.subject.as_deref();
        subject.map_or(owner::NOBODY, owner::of_holder)
    }
}

fn given_to_pb(given: &GivenClaim) -> pb::GivenClaim {
    pb::GivenClaim {
        token: given.token.to_be_bytes().to_vec().into(),
        epoch: given.epoch,
        next_offset: given.next_offset.0,
    }
}

fn given_from_pb(given: &pb::GivenClaim) -> Result<GivenClaim, WireError> {
    Ok(GivenClaim {
        token: number_of(&given.token, "token of a claim")?,
        epoch: given.epoch,
        next_offset: Offset(given.next_offset),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::LogId;
    use crate::raft::entry::outcome::Full;
    use crate::raft::state::sessions::OF_SUBJECT_MAX;

    fn claim(token: u128, expected: Option<u64>) -> ClaimEpoch {
        ClaimEpoch {
            log: LogId::DEFAULT,
            name: "job".to_owned(),
            holder: token.to_string(),
            subject: Some(format!("s{token}")),
            token,
            expected,
        }
    }

    /// Fences that are made from the rows of these.
    fn restored(all: &Fences) -> Fences {
        let mut again = Fences::default();
        again.restore_deleted_epoch(all.deleted_epoch()).unwrap();
        for row in all.names.to_pb() {
            let Some(pb::state_row::Row::Fence(fence)) = row.row else {
                panic!("{row:?} is no fence")
            };
            again.restore(fence).unwrap();
        }
        again
    }

    #[test]
    fn each_claim_raises_the_epoch_and_its_retry_does_not() {
        let mut all = Fences::default();
        assert_eq!(all.get("job"), None);
        let first = Ok((1, Offset(5)));
        assert_eq!(all.claim(&claim(1, Some(0)), Offset(5)), first);
        assert_eq!(all.claim(&claim(1, Some(0)), Offset(6)), first, "a retry");
        let differs = StateRefusal::EpochDiffers { current: 1 };
        assert_eq!(all.claim(&claim(2, Some(0)), Offset(7)), Err(differs));
        assert_eq!(all.claim(&claim(2, None), Offset(7)), Ok((2, Offset(7))));
        let late = all.claim(&claim(1, None), Offset(9));
        assert_eq!(late, first, "it deposes nobody");
        assert_eq!(all.get("job").unwrap().holder, "2");
        assert_eq!(restored(&all), all);
        for token in 3..50 {
            all.claim(&claim(token, None), Offset(9)).unwrap();
        }
        assert_eq!(all.get("job").unwrap().claims.len(), CLAIMS_MAX);
    }

    #[test]
    fn they_are_bounded() {
        let mut all = Fences::default();
        let claim_of = |number: usize, subject: String| ClaimEpoch {
            log: LogId::DEFAULT,
            name: number.to_string(),
            subject: Some(subject),
            ..claim(1, None)
        };
        let refused = |limit: usize, of_subject| {
            let limit = limit as u64;
            Err(StateRefusal::TooManyFences(Full { limit, of_subject }))
        };
        for number in 0..OF_SUBJECT_MAX {
            let claim = claim_of(number, "ann".to_owned());
            all.claim(&claim, Offset(0)).unwrap();
        }
        let more = claim_of(OF_SUBJECT_MAX, "ann".to_owned());
        let share = refused(OF_SUBJECT_MAX, true);
        assert_eq!(all.claim(&more, Offset(0)), share);
        for number in OF_SUBJECT_MAX..FENCES_MAX {
            let claim = claim_of(number, String::new());
            all.claim(&claim, Offset(0)).unwrap();
        }
        let more = claim_of(FENCES_MAX, "bob".to_owned());
        let total = refused(FENCES_MAX, false);
        assert_eq!(all.claim(&more, Offset(0)), total);
        assert!(all.delete("0"));
        assert!(all.claim(&more, Offset(0)).is_ok());
    }

    fn fence(epoch: u64, subject: &str) -> record::Fence<'static> {
        record::Fence {
            name: "job",
            epoch,
            claimant: owner::of_holder(subject),
        }
    }

    #[test]
    fn only_who_claimed_an_epoch_appends_under_it() {
        let mut all = Fences::default();
        all.claim(&claim(1, None), Offset(0)).unwrap();
        assert_eq!(all.judge(&fence(1, "s1")), Ok(()));
        assert_eq!(all.judge(&fence(1, "s2")), Err(Refusal::NotHolder));
        all.claim(&claim(2, None), Offset(0)).unwrap();
        assert_eq!(all.judge(&fence(2, "s2")), Ok(()));
        let fenced = Err(Refusal::Fenced { epoch: 2 });
        assert_eq!(all.judge(&fence(1, "s1")), fenced);
        assert_eq!(all.judge(&fence(2, "s1")), Err(Refusal::NotHolder));
    }

    #[test]
    fn the_epochs_of_a_deleted_name_are_not_given_again() {
        let mut all = Fences::default();
        for token in 1..4 {
            all.claim(&claim(token, None), Offset(0)).unwrap();
        }
        assert!(all.delete("job") && !all.delete("job"));
        let fenced = Err(Refusal::Fenced { epoch: 0 });
        assert_eq!(all.judge(&fence(3, "s3")), fenced);
        let mut all = restored(&all);
        assert_eq!(all.claim(&claim(9, Some(0)), Offset(5)), Ok((4, Offset(5))));
    }
}
