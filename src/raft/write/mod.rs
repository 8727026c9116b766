//! The way of a write, from a caller on this node to the leader and into an entry of the log.

pub mod admit;
pub mod commands;
pub mod execute;
pub mod forward;
pub mod gate;
pub mod lines;
pub mod outcomes;
pub mod proposals;
pub mod proposer;
pub mod rolls;
pub mod stamps;
