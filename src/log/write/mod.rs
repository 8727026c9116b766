//! The one writer of a log: its queue, its thread, and the files that it makes.

pub mod io;
mod io_task;
pub mod making;
pub mod writer;
