//! Attacks on whole nodes, by strangers and by clients with a certificate: who does nothing wrong is served on.
//!
//! Those of [`half_sent`] stand beside a canary, a client that has nothing to do with them and whose calls must
//! go on, and no node may take more than [`arena::RESIDENT_MAX`]. They last for seconds; `make attack` sets
//! `FERROLOG_ATTACK=full` and runs them for their whole length.

#[path = "../harness/mod.rs"]
mod harness;

mod arena;
mod half_sent;
mod sockets;
mod storm;
mod together;
mod unread;
mod whole;
