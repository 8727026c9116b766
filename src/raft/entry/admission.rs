//! Changes of who may join, and how a node that asks for an id is let in.

use std::fmt;

use bytes::Bytes;

use crate::proto::raft_v1 as pb;
use crate::raft::entry::wire_error::WireError;

/// The SHA-256 of a token: the log holds nothing that lets a node in.
pub type Digest = [u8; 32];

/// How a node that asks for an id is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// Without certificates no node can prove its name, so every node may join.
    Open,
    /// The node may join if its name was allowed.
    Name,
    /// The node may join if its token is good or its name was allowed.
    Token {
        /// The digest of the token.
        digest: Digest,
        /// The leader's time, in milliseconds since 1970.
        now_ms: u64,
    },
}

/// A change of who may join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// These names may join. The first node was started with them if `founding` is set; else an operator named them.
    Allow { names: Vec<String>, founding: bool },
    /// This name may no longer join.
    Withdraw(String),
    /// The holder of a token may join.
    Token {
        digest: Digest,
        /// The leader's time, in milliseconds since 1970.
        now_ms: u64,
        /// How long the token is good, in milliseconds.
        life_ms: u64,
    },
}

impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow { names, .. } => write!(f, "let in {}", names.join(", ")),
            Self::Withdraw(name) => write!(f, "do not let in {name}"),
            Self::Token { .. } => write!(f, "let in the holder of a token"),
        }
    }
}

impl Admission {
    pub fn to_pb(&self) -> pb::Admission {
        use pb::admission::Change;
        let change = match self {
            Self::Allow { names, founding } => Change::Allow(pb::AllowNames {
                names: names.clone(),
                founding: *founding,
            }),
            Self::Withdraw(name) => Change::Withdraw(name.clone()),
            Self::Token {
                digest,
                now_ms,
                life_ms,
            } => Change::Token(pb::MakeJoinToken {
                digest: Bytes::copy_from_slice(digest),
                now_ms: *now_ms,
                life_ms: *life_ms,
            }),
        };
        pb::Admission {
            change: Some(change),
        }
    }

    pub fn from_pb(admission: pb::Admission) -> Result<Self, WireError> {
        use pb::admission::Change;
        Ok(
            match admission.change.ok_or(WireError::Unknown("admission"))? {
                Change::Allow(allow) => Self::Allow {
                    names: allow.names,
                    founding: allow.founding,
                },
                Change::Withdraw(name) => Self::Withdraw(name),
                Change::Token(token) => Self::Token {
                    digest: digest_from_pb(&token.digest)?,
                    now_ms: token.now_ms,
                    life_ms: token.life_ms,
                },
            },
        )
    }
}

impl Entrance {
    pub fn to_pb(self) -> Option<pb::register_node::Entrance> {
        use pb::register_node::Entrance;
        match self {
            Self::Open => None,
            Self::Name => Some(Entrance::ByName(pb::Blank {})),
            Self::Token { digest, now_ms } => Some(Entrance::ByToken(pb::ByToken {
                digest: Bytes::copy_from_slice(&digest),
                now_ms,
            })),
        }
    }

    pub fn from_pb(entrance: Option<pb::register_node::Entrance>) -> Result<Self, WireError> {
        use pb::register_node::Entrance;
        Ok(match entrance {
            None => Self::Open,
            Some(Entrance::ByName(_)) => Self::Name,
            Some(Entrance::ByToken(token)) => Self::Token {
                digest: digest_from_pb(&token.digest)?,
                now_ms: token.now_ms,
            },
        })
    }
}

pub fn digest_from_pb(bytes: &[u8]) -> Result<Digest, WireError> {
    let bytes = bytes.try_into();
    bytes.map_err(|_| WireError::Unknown("digest"))
}
