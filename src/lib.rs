//! ferrolog: a distributed commit log.
//!
//! Clients append records; every record gets a dense offset from 0; every replica holds the same
//! records in the same order. An acknowledged record is synced to disk on a majority, always.
//!
//! In reading order, bottom up; imports point down only:
//!
//! - [`batch`]: records as they travel and as they are kept.
//! - [`disk`]: where every byte goes that is kept, and its twin in memory.
//! - [`log`]: segments of frames and a mapped index: one copy of each record.
//! - [`net`]: one port, two protocols, mutual TLS.
//! - [`certs`]: makes the certificates that streams are proven by.
//! - [`raft`]: the replicated log over both.
//! - [`reason`]: why a call ended without what it was to bring.
//! - [`server`]: what clients may call.
//! - [`agent`] and [`config`]: a node and its settings.
//! - [`client`]: the other end.
//! - [`cli`]: the command line.
//! - [`tasks`] and [`stderr`]: nothing ends unseen, and no line of a log stops anything.
//! - [`env`], [`name`] and [`access`]: what all of them stand on.

pub mod access;
#[cfg(feature = "server")]
pub mod agent;
pub mod batch;
#[cfg(feature = "server")]
pub mod certs;
#[cfg(feature = "cli")]
pub mod cli;
pub mod client;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod disk;
pub mod env;
#[cfg(feature = "server")]
pub mod log;
pub mod name;
pub mod net;
pub mod proto;
#[cfg(feature = "server")]
pub mod raft;
pub mod reason;
#[cfg(feature = "server")]
pub mod server;
pub mod stderr;
pub mod tasks;

/// The README's Rust, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
