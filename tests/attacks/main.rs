//! Attacks on whole nodes, by strangers and by clients with a certificate. A client that does nothing wrong is
//! served all the while.
//!
//! Beside each attack of [`half_sent`] runs a canary: a client that has no part in it and whose calls must go on.
//! No node may take more than [`arena::RESIDENT_MAX`]. The attacks last for seconds; `make attack` sets
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
