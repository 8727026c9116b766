//! Clusters of real processes: what they promise while nodes die, move, join and leave.

mod basics;
mod consistency;
mod exactly_once;
mod faults;
mod identity;
mod membership;
mod reload;
mod retention;
