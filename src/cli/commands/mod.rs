//! The commands, a file or a folder each: a node, and what its clients and its operators do.

pub mod about;
pub mod certs;
pub mod cluster;
pub mod config;
mod consent;
pub mod consume;
pub mod cursor;
pub mod doctor;
pub mod fence;
pub mod health;
pub mod log;
pub mod policy;
pub mod produce;
mod rewriting;
pub mod serve;
pub mod session;
