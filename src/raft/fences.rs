//! Fences: who may append in a name's stead. A claim raises the name's epoch by one, and appends
//! under an older epoch are refused from then on, wherever in the cluster they come from.
//!
//! Kleppmann, "Designing Data-Intensive Applications", 2017, chapter 8, "Fencing tokens".

use std::collections::BTreeMap;

use crate::log::{self, Offset};
use crate::proto::raft_v1 as pb;

use super::command::StateRefusal;
use super::types::WireError;

/// Names kept.
pub const FENCES_MAX: usize = 4096;
/// Claims of a name that are remembered, so that one which comes late again deposes nobody.
const CLAIMS_MAX: usize = 8;

/// All names that were ever claimed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fences(BTreeMap<String, Epoch>);

/// The present holder of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    /// From 1, one more with each claim.
    pub epoch: u64,
    /// Who claimed it, in its own words.
    pub holder: String,
    /// What the last claims gave, oldest first, by the tokens that their claimers drew.
    claims: Vec<Given>,
}

/// What a claim gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Given {
    token: u128,
    epoch: u64,
    /// Where the log ended then.
    next_offset: Offset,
}

/// A claim, and on what it depends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimEpoch {
    /// The name.
    pub name: String,
    /// Who claims it.
    pub holder: String,
    /// The same one in a retry.
    pub token: u128,
    /// Only if this is the present epoch; 0 if nobody claimed the name yet.
    pub expected: Option<u64>,
}

impl Fences {
    /// Who holds a name.
    pub fn get(&self, name: &str) -> Option<&Epoch> {
        self.0.get(name)
    }

    /// The epoch under which appends in this name are taken; 0 if nobody claimed it.
    pub fn epoch(&self, name: &str) -> u64 {
        self.0.get(name).map_or(0, |held| held.epoch)
    }

    /// Gives a name to a new holder, in a log that ends at `next`: its epoch, and where the log
    /// ended when it was claimed.
    pub fn claim(
        &mut self,
        claim: &ClaimEpoch,
        next: Offset,
    ) -> Result<(u64, Offset), StateRefusal> {
        let held = self.0.get(&claim.name);
        let known = |given: &&Given| given.token == claim.token;
        if let Some(given) = held.and_then(|held| held.claims.iter().find(known)) {
            return Ok((given.epoch, given.next_offset));
        }
        let current = held.map_or(0, |held| held.epoch);
        if claim.expected.is_some_and(|expected| expected != current) {
            return Err(StateRefusal::EpochDiffers { current });
        }
        if held.is_none() && self.0.len() >= FENCES_MAX {
            return Err(StateRefusal::TooManyFences);
        }
        let held = self.0.entry(claim.name.clone()).or_insert_with(|| Epoch {
            epoch: 0,
            holder: String::new(),
            claims: Vec::new(),
        });
        held.epoch = current + 1;
        held.holder = claim.holder.clone();
        if held.claims.len() == CLAIMS_MAX {
            held.claims.remove(0);
        }
        held.claims.push(Given {
            token: claim.token,
            epoch: current + 1,
            next_offset: next,
        });
        Ok((current + 1, next))
    }

    /// For a checkpoint: the same bytes on every replica.
    pub fn to_pb(&self) -> Vec<pb::Fence> {
        let fence = |(name, held): (&String, &Epoch)| pb::Fence {
            name: name.clone(),
            epoch: held.epoch,
            holder: held.holder.clone(),
            claims: held.claims.iter().map(given_to_pb).collect(),
        };
        self.0.iter().map(fence).collect()
    }

    /// From a checkpoint.
    pub fn from_pb(fences: Vec<pb::Fence>) -> Result<Self, WireError> {
        if fences.len() > FENCES_MAX {
            return Err(WireError::Unknown("number of fences"));
        }
        let mut all = BTreeMap::new();
        for fence in fences {
            let claims: Result<_, _> = fence.claims.iter().map(given_from_pb).collect();
            let held = Epoch {
                epoch: fence.epoch,
                holder: fence.holder,
                claims: claims?,
            };
            if held.epoch > log::NUMBER_MAX || held.claims.len() > CLAIMS_MAX {
                return Err(WireError::Unknown("fence"));
            }
            all.insert(fence.name, held);
        }
        Ok(Self(all))
    }
}

fn given_to_pb(given: &Given) -> pb::GivenClaim {
    pb::GivenClaim {
        token: given.token.to_be_bytes().to_vec().into(),
        epoch: given.epoch,
        next_offset: given.next_offset.0,
    }
}

fn given_from_pb(given: &pb::GivenClaim) -> Result<Given, WireError> {
    let token = (&*given.token).try_into();
    let token = token.map_err(|_| WireError::Unknown("token of a claim"))?;
    Ok(Given {
        token: u128::from_be_bytes(token),
        epoch: given.epoch,
        next_offset: Offset(given.next_offset),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(token: u128, expected: Option<u64>) -> ClaimEpoch {
        ClaimEpoch {
            name: "job".to_owned(),
            holder: token.to_string(),
            token,
            expected,
        }
    }

    #[test]
    fn each_claim_raises_the_epoch_and_its_retry_does_not() {
        let mut all = Fences::default();
        assert_eq!(all.epoch("job"), 0);
        let first = Ok((1, Offset(5)));
        assert_eq!(all.claim(&claim(1, Some(0)), Offset(5)), first);
        assert_eq!(all.claim(&claim(1, Some(0)), Offset(6)), first, "a retry");
        let differs = StateRefusal::EpochDiffers { current: 1 };
        assert_eq!(all.claim(&claim(2, Some(0)), Offset(7)), Err(differs));
        assert_eq!(all.claim(&claim(2, None), Offset(7)), Ok((2, Offset(7))));
        let late = all.claim(&claim(1, None), Offset(9));
        assert_eq!(late, first, "it deposes nobody");
        assert_eq!(all.get("job").unwrap().holder, "2");
        assert_eq!(Fences::from_pb(all.to_pb()).unwrap(), all);
        for token in 3..50 {
            all.claim(&claim(token, None), Offset(9)).unwrap();
        }
        assert_eq!(all.get("job").unwrap().claims.len(), CLAIMS_MAX);
    }

    #[test]
    fn they_are_bounded() {
        let mut all = Fences::default();
        for number in 0..FENCES_MAX {
            let name = number.to_string();
            let claim = ClaimEpoch {
                name,
                ..claim(1, None)
            };
            all.claim(&claim, Offset(0)).unwrap();
        }
        let refused = Err(StateRefusal::TooManyFences);
        assert_eq!(all.claim(&claim(1, None), Offset(0)), refused);
    }
}
