//! What is replicated: the commands, what they come to, and the forms that entries take on disk and on the
//! wire. The engine's types are filled in here. All other rooms stand on this one.

pub mod admission;
pub mod audit_line;
pub mod audited;
pub mod catalog;
pub mod codec;
pub mod command;
pub mod outcome;
pub mod owner;
pub mod runtime;
pub mod types;
pub mod wire_error;
