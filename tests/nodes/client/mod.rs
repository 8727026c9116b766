//! The client against whole nodes, through doors that lose, refuse and keep back answers: what is tried again,
//! in which order, at whom, and that every record is in the log once.

mod appender;
mod consumer;
mod front;
mod named;
mod producer;
