//! Opening a log: what is found on the disk, and what is made of it.

pub mod cut;
pub mod derive;
mod ended;
pub mod listing;
pub mod recovery;
pub mod rewritten;
mod room;
