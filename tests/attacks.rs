//! Attacks on whole nodes, by strangers and by clients with a certificate: who does nothing wrong is served on.

mod harness;

#[path = "attacks/sockets.rs"]
mod sockets;
