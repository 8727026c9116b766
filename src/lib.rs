//! ferrolog
#![allow(missing_docs)]
pub mod env;
pub mod log;
pub mod net;
pub mod proto;
pub mod raft;
