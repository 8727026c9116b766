//! How the program ends: the exit codes, and a command line that parses and makes no sense.

/// The command failed.
pub const EXIT_FAILURE: u8 = 1;
/// The command line or a setting is wrong.
pub const EXIT_USAGE: u8 = 2;
/// No server answered in time.
pub const EXIT_TIMEOUT: u8 = 3;
/// A read ended where the node cannot tell whether more is committed.
pub const EXIT_SHORT: u8 = 4;
/// A change may have been made or not.
pub const EXIT_DOUBT: u8 = 5;

/// Fewer than a majority of the voters answer, or none of them leads.
pub const EXIT_NO_QUORUM: u8 = 6;

/// A command line that parses and makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);
