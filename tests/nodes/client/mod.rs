//! The client against whole nodes, behind doors that refuse calls, lose answers and keep them back. The tests say
//! which calls are tried again, in which order and at which node, and that every record is in the log once.

mod appender;
mod consumer;
mod demands;
mod front;
mod logs;
mod many;
mod named;
mod producer;
mod producer_logs;
mod retention;
mod selections;
