//! The replicated state: what the committed entries add up to. It is the same on every replica (I2).
//!
//! Nothing here reads a clock, draws a random number, or uses the network.

pub mod admissions;
pub mod applied;
pub mod checkpoint;
pub mod cursors;
pub mod fences;
pub mod fsm;
pub mod history;
pub mod logs;
pub mod marks;
pub mod registrations;
pub mod sessions;
pub mod table;
