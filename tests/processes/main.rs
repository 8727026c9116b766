//! Tests of the program: real processes on real disks and sockets, in one binary, since each would link the whole product.

mod api;
mod cluster;
mod command;
mod disks;
#[path = "../harness/mod.rs"]
mod harness;
mod instruments;
mod many;
mod newcomer;
