//! A peer that cannot be reached, or does not answer as one that is sound: to the engine it is the same.

use openraft::errors::{RPCError, Unreachable};

use crate::raft::entry::types::TypeConfig;

pub type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

pub fn unreachable(error: &(impl std::error::Error + 'static)) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(error))
}
