//! Reading: without gaps, as fresh as is asked for.

pub mod consumer;
pub mod cursors;
mod due;
mod grants;
pub mod reading;
pub mod unpacked;
