//! What clients of both APIs are told, and what they may do.

mod answers;
mod foreign_client;
mod limits;
mod owners;
mod plain_logs;
mod rights;
mod slow_consumer;
