//! Fences: who may append in a name's stead. A claim raises the name's epoch by one, and appends
//! under an older epoch are refused from then on, wherever in the cluster they come from.
//!
//! Kleppmann, "Designing Data-Intensive Applications", 2017, chapter 8, "Fencing tokens".

use std::collections::BTreeMap;

use crate::proto::raft_v1 as pb;

use super::command::StateRefusal;
use super::types::WireError;

/// Names kept.
pub const FENCES_MAX: usize = 4096;

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
    /// Drawn by the claimer, so that its retry is known.
    pub token: u128,
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

    /// Gives a name to a new holder.
    pub fn claim(&mut self, claim: &ClaimEpoch) -> Result<u64, StateRefusal> {
        let held = self.0.get(&claim.name);
        if let Some(held) = held.filter(|held| held.token == claim.token) {
            return Ok(held.epoch);
        }
        let current = held.map_or(0, |held| held.epoch);
        if claim.expected.is_some_and(|expected| expected != current) {
            return Err(StateRefusal::EpochDiffers { current });
        }
        if held.is_none() && self.0.len() >= FENCES_MAX {
            return Err(StateRefusal::TooManyFences);
        }
        let epoch = Epoch {
            epoch: current + 1,
            holder: claim.holder.clone(),
            token: claim.token,
        };
        self.0.insert(claim.name.clone(), epoch);
        Ok(current + 1)
    }

    /// For a checkpoint: the same bytes on every replica.
    pub fn to_pb(&self) -> Vec<pb::Fence> {
        let fence = |(name, held): (&String, &Epoch)| pb::Fence {
            name: name.clone(),
            epoch: held.epoch,
            holder: held.holder.clone(),
            token: held.token.to_be_bytes().to_vec().into(),
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
            let token = (&*fence.token).try_into();
            let token = token.map_err(|_| WireError::Unknown("token of a fence"))?;
            let held = Epoch {
                epoch: fence.epoch,
                holder: fence.holder,
                token: u128::from_be_bytes(token),
            };
            all.insert(fence.name, held);
        }
        Ok(Self(all))
    }
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
        assert_eq!(all.claim(&claim(1, Some(0))), Ok(1));
        assert_eq!(all.claim(&claim(1, Some(0))), Ok(1), "a retry");
        let differs = StateRefusal::EpochDiffers { current: 1 };
        assert_eq!(all.claim(&claim(2, Some(0))), Err(differs));
        assert_eq!(all.claim(&claim(2, None)), Ok(2));
        assert_eq!(all.get("job").unwrap().holder, "2");
        assert_eq!(Fences::from_pb(all.to_pb()).unwrap(), all);
    }

    #[test]
    fn they_are_bounded() {
        let mut all = Fences::default();
        for number in 0..FENCES_MAX {
            let name = number.to_string();
            all.claim(&ClaimEpoch {
                name,
                ..claim(1, None)
            })
            .unwrap();
        }
        let refused = Err(StateRefusal::TooManyFences);
        assert_eq!(all.claim(&claim(1, None)), refused);
    }
}
