//! The engine's error for a peer that cannot be reached, or whose answer is not sound.

use openraft::errors::{RPCError, Unreachable};

use crate::raft::entry::types::TypeConfig;

pub type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

pub fn unreachable(error: &(impl std::error::Error + 'static)) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(error))
}
