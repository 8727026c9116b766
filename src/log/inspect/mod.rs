//! Looking at a log's files without opening the log, and without changing one.

pub mod dump;
pub mod verify;
