//! Appending: with an ack for each record, exactly once, or batch by batch and on a condition.

pub mod ack;
pub mod appender;
pub mod backlog;
mod ids;
mod outgoing;
mod pipeline;
pub mod producer;
mod window;
