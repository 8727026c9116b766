//! What stands in a log's files, byte for byte, and what the files are called.
//!
//! `docs/format.md` draws it. Nothing here keeps a file open, or knows of a segment in memory.

pub mod directory;
pub mod file_header;
pub mod files;
pub mod frame;
pub mod gather;
pub mod log_set;
pub mod moved;
pub mod record;
pub mod room;
pub mod row;
pub mod seal;
pub mod seal_file;
