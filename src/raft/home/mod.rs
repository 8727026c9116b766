//! The data directory: who the node is, and what it must remember besides the log.

pub mod blocking;
pub mod commit_file;
pub mod directory;
pub mod stable_store;
pub mod vote_file;
