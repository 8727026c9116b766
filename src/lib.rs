//! ferrolog: a distributed commit log.
//!
//! Clients append records; every record gets a dense offset from 0; every replica holds the same
//! records in the same order. An acknowledged record is synced to disk on a majority, always.
//!
//! A program that produces and consumes needs [`client`], and the feature of that name alone. One that
#![cfg_attr(
    feature = "server",
    doc = "runs a node in itself finds it in [`agent`], its settings in [`config`], certificates in [`certs`]."
)]
#![cfg_attr(
    not(feature = "server"),
    doc = "runs a node in itself needs the feature `server`."
)]
//!
//! The other modules are what a node is made of. They are public for this project's own tests and tools,
//! promise nothing to others, and are left out of these pages. In reading order, bottom up; imports point
//! down only:
//!
//! - `batch`: records as they travel and as they are kept.
//! - `disk`: where every byte goes that is kept, and its twin in memory.
//! - `log`: segments of frames and a mapped index: one copy of each record.
//! - `net`: one port, three protocols, mutual TLS.
//! - `certs`: makes the certificates that streams are proven by.
//! - `raft`: the replicated log over both.
//! - `reason` and `retry`: why a call ended without what it was to bring, and when it is tried again.
//! - `server`: what clients may call.
//! - `agent` and `config`: a node and its settings.
//! - `client`: the other end.
//! - `cli`: the command line.
//! - `tasks` and `stderr`: nothing ends unseen, and no line of a log stops anything.
//! - `metrics`: what a node counts of itself, and how that is told.
//! - `spans`: what a node tells of calls that somebody traces.
//! - `env`, `name` and `access`: what all of them stand on.

// What a user of the library may name says what it is; the other modules are for ourselves.
#![warn(missing_docs)]

#[doc(hidden)]
pub mod access;
#[cfg(feature = "server")]
pub mod agent;
#[doc(hidden)]
pub mod batch;
#[cfg(feature = "server")]
pub mod certs;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod client;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod disk;
#[doc(hidden)]
pub mod env;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod live;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod log;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod metrics;
#[doc(hidden)]
pub mod name;
#[doc(hidden)]
pub mod net;
#[doc(hidden)]
pub mod proto;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod raft;
#[doc(hidden)]
pub mod reason;
#[doc(hidden)]
pub mod retry;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod server;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod spans;
#[doc(hidden)]
pub mod stderr;
#[doc(hidden)]
pub mod tasks;

/// The README's Rust, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
