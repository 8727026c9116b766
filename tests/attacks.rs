//! Attacks on whole nodes, by strangers and by clients with a certificate: who does nothing wrong is served on.
//!
//! Those of [`half_sent`] stand beside a canary, a client that has nothing to do with them and whose calls must
//! go on, and no node may take more than [`arena::RESIDENT_MAX`]. They last for seconds; `make attack` sets
//! `FERROLOG_ATTACK=full` and runs them for their whole length.

mod harness;

#[path = "attacks/arena.rs"]
mod arena;
#[path = "attacks/half_sent.rs"]
mod half_sent;
#[path = "attacks/sockets.rs"]
mod sockets;
#[path = "attacks/storm.rs"]
mod storm;
#[path = "attacks/together.rs"]
mod together;
#[path = "attacks/unread.rs"]
mod unread;
#[path = "attacks/whole.rs"]
mod whole;
