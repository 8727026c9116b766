//! Reading: without gaps, as fresh as is asked for.

pub mod consumer;
mod due;
mod grants;
pub mod reading;
pub mod unpacked;
