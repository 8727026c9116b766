//! A server in memory that loses answers and connections where a test says so.

pub mod log;
pub mod server;
