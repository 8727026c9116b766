//! How the program ends: the exit codes, and a command line that cannot be meant.

pub const EXIT_FAILURE: u8 = 1;
pub const EXIT_USAGE: u8 = 2;
pub const EXIT_TIMEOUT: u8 = 3;
pub const EXIT_SHORT: u8 = 4;
pub const EXIT_DOUBT: u8 = 5;

/// A command line that parses and yet cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);
