//! The commands that bring a cluster of their own to this machine: to try, to prove, to measure.

pub mod bench;
pub mod dev;
pub mod local_cluster;
pub mod trial;
