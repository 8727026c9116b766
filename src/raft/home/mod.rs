//! The data directory: the node's identity, its vote, and what else it must remember besides the log.

pub mod blocking;
pub mod commit_file;
pub mod directory;
pub mod drained_file;
pub mod stable_store;
