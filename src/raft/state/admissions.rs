//! Who may join: names that an operator allowed and tokens that he made. Each lets one node in.
//!
//! A certificate proves who a node is, not that it belongs to this cluster. Apply decides who may join, so that one
//! token never lets in two nodes, whichever leaders they asked.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::proto::raft_v1 as pb;
use crate::raft::entry::admission::{Admission, Digest, Entrance, digest_from_pb};
use crate::raft::entry::outcome::{Outcome, StateRefusal};
use crate::raft::entry::wire_error::WireError;

/// The most names that are allowed and have not joined yet.
pub const ALLOWED_MAX: usize = 64;
/// The most tokens that are neither used nor expired.
pub const TOKENS_MAX: usize = 64;

/// Who may join.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admissions {
    /// Whether the names that the first node was started with were allowed. That happens once in the cluster's life.
    founded: bool,
    allowed: BTreeSet<String>,
    /// When each token expires, in milliseconds since 1970.
    tokens: BTreeMap<Digest, u64>,
}

impl Admissions {
    /// Carries out a change. `log_ms` is the latest time in the log, in milliseconds since 1970.
    pub fn change(&mut self, change: &Admission, log_ms: u64) -> Result<Outcome, StateRefusal> {
        match change {
            Admission::Allow { founding, .. } if *founding && self.founded => {}
            Admission::Allow { names, founding } => {
                // Noted even if the names are too many: otherwise each leader would propose them again for ever.
                self.founded |= founding;
                let fresh = names.iter().filter(|name| !self.allowed.contains(*name));
                if self.allowed.len() + fresh.count() > ALLOWED_MAX {
                    return Err(StateRefusal::TooManyAdmissions);
                }
                self.allowed.extend(names.iter().cloned());
            }
            Admission::Withdraw(name) => return Ok(Outcome::Deleted(self.withdraw(name))),
            Admission::Token {
                digest, life_ms, ..
            } => {
                self.tokens.retain(|_, expires_ms| *expires_ms > log_ms);
                if self.tokens.len() >= TOKENS_MAX {
                    return Err(StateRefusal::TooManyAdmissions);
                }
                self.tokens.insert(*digest, log_ms.saturating_add(*life_ms));
            }
        }
        Ok(Outcome::Done)
    }

    /// Takes back that a name may join; false if it was not allowed.
    pub fn withdraw(&mut self, name: &str) -> bool {
        self.allowed.remove(name)
    }

    /// Whether a new node may join. `log_ms` is the latest time in the log, in milliseconds since 1970.
    pub fn admits(&self, name: &str, entrance: Entrance, log_ms: u64) -> bool {
        let by_name = self.allowed.contains(name);
        match entrance {
            Entrance::Open => true,
            Entrance::Name => by_name,
            Entrance::Token { digest, now_ms } => {
                let expires_ms = self.tokens.get(&digest);
                let by_token = expires_ms.is_some_and(|expires| *expires > log_ms.max(now_ms));
                by_name || by_token
            }
        }
    }

    /// Uses up what let a node in: neither its name nor its token lets in another node.
    pub fn use_up(&mut self, name: &str, entrance: Entrance) {
        self.allowed.remove(name);
        if let Entrance::Token { digest, .. } = entrance {
            self.tokens.remove(&digest);
        }
    }

    /// Whether the names that the first node was started with were allowed already.
    pub fn is_founded(&self) -> bool {
        self.founded
    }

    /// The names that may join.
    pub fn allowed(&self) -> impl Iterator<Item = &String> {
        self.allowed.iter()
    }

    /// For a checkpoint; `None` if nothing was ever allowed.
    pub fn to_pb(&self) -> Option<pb::Admissions> {
        if *self == Self::default() {
            return None;
        }
        let token = |(digest, expires_ms): (&Digest, &u64)| pb::JoinToken {
            digest: Bytes::copy_from_slice(digest),
            expires_ms: *expires_ms,
        };
        Some(pb::Admissions {
            founded: self.founded,
            allowed: self.allowed.iter().cloned().collect(),
            tokens: self.tokens.iter().map(token).collect(),
        })
    }

    pub fn from_pb(admissions: pb::Admissions) -> Result<Self, WireError> {
        let token = |token: pb::JoinToken| Ok((digest_from_pb(&token.digest)?, token.expires_ms));
        let tokens = admissions.tokens.into_iter().map(token);
        Ok(Self {
            founded: admissions.founded,
            allowed: admissions.allowed.into_iter().collect(),
            tokens: tokens.collect::<Result<_, WireError>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(names: &[&str], founding: bool) -> Admission {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        Admission::Allow { names, founding }
    }

    fn token(byte: u8, life_ms: u64) -> Admission {
        Admission::Token {
            digest: [byte; 32],
            now_ms: 0,
            life_ms,
        }
    }

    fn by_token(byte: u8, now_ms: u64) -> Entrance {
        let digest = [byte; 32];
        Entrance::Token { digest, now_ms }
    }

    /// A node comes, and is let in or not.
    fn comes(admissions: &mut Admissions, name: &str, entrance: Entrance, log_ms: u64) -> bool {
        let admitted = admissions.admits(name, entrance, log_ms);
        if admitted {
            admissions.use_up(name, entrance);
        }
        admitted
    }

    #[test]
    fn a_name_lets_one_node_in() {
        let mut admissions = Admissions::default();
        let change =
            |admissions: &mut Admissions, change: &Admission| admissions.change(change, 0).unwrap();
        assert!(!comes(&mut admissions, "n2", Entrance::Name, 0));
        assert!(comes(&mut admissions, "n2", Entrance::Open, 0));
        change(&mut admissions, &allow(&["n2", "n3"], true));
        assert!(comes(&mut admissions, "n2", Entrance::Name, 0));
        assert!(!comes(&mut admissions, "n2", Entrance::Name, 0), "once");
        // A restart of the first node lets nobody in again.
        change(&mut admissions, &allow(&["n2", "n3"], true));
        let again = comes(&mut admissions, "n2", Entrance::Name, 0);
        assert!(!again, "founded once");
        let withdraw = Admission::Withdraw("n3".to_owned());
        let deleted = change(&mut admissions, &withdraw);
        assert_eq!(deleted, Outcome::Deleted(true));
        let deleted = change(&mut admissions, &withdraw);
        assert_eq!(deleted, Outcome::Deleted(false));
        assert!(!comes(&mut admissions, "n3", Entrance::Name, 0));
        change(&mut admissions, &allow(&["n2"], false));
        let again = comes(&mut admissions, "n2", Entrance::Name, 0);
        assert!(again, "allowed again");
    }

    #[test]
    fn a_token_lets_one_node_in_by_the_time_of_the_log() {
        let mut admissions = Admissions::default();
        for byte in 0..4 {
            admissions.change(&token(byte, 500), 1_000).unwrap();
        }
        let mut comes = |name: &str, byte: u8, now_ms: u64, log_ms: u64| {
            comes(&mut admissions, name, by_token(byte, now_ms), log_ms)
        };
        assert!(!comes("n2", 9, 1_000, 0), "never made");
        assert!(comes("n2", 0, 1_499, 0));
        assert!(!comes("n3", 0, 1_499, 0), "once");
        assert!(!comes("n3", 1, 1_500, 0), "expired");
        // A leader whose clock is behind the log brings nothing back.
        assert!(!comes("n3", 2, 1_100, 1_500));
        admissions.change(&allow(&["n3"], false), 0).unwrap();
        assert!(admissions.admits("n3", by_token(9, 1_000), 0), "by name");
    }

    /// What was said of a name, and what the node showed, is over once it is in.
    #[test]
    fn a_node_uses_up_all_that_would_have_let_it_in() {
        let mut admissions = Admissions::default();
        admissions.change(&allow(&["n2"], false), 0).unwrap();
        admissions.change(&token(1, 500), 0).unwrap();
        assert!(comes(&mut admissions, "n2", by_token(1, 0), 0));
        assert!(!admissions.admits("n2", Entrance::Name, 0));
        assert!(!admissions.admits("n3", by_token(1, 0), 0));
    }

    #[test]
    fn there_is_a_bound_and_what_has_expired_makes_room() {
        let mut admissions = Admissions::default();
        assert_eq!(admissions.to_pb(), None);
        for number in 0..ALLOWED_MAX {
            let name = format!("n{number}");
            admissions.change(&allow(&[&name], false), 0).unwrap();
        }
        admissions.change(&allow(&["n0"], false), 0).unwrap();
        admissions.change(&allow(&["more"], false), 0).unwrap_err();
        for number in 0..TOKENS_MAX {
            let byte = u8::try_from(number).unwrap();
            admissions.change(&token(byte, 500), 0).unwrap();
        }
        admissions.change(&token(200, 500), 499).unwrap_err();
        let back = Admissions::from_pb(admissions.to_pb().unwrap()).unwrap();
        assert_eq!(back, admissions);
        admissions.change(&token(200, 500), 500).unwrap();
    }
}
