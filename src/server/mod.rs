//! The gRPC edge: what clients may call, and the one map from errors to status codes.
//!
//! It owns the trait that it needs of a log, [`CommitLog`], so that its verbs run over a bare log
//! in tests as they run over a replicated one. Peers' calls are not served here.

mod answers;
mod api_context;
mod appending;
mod auth;
mod commit_log;
mod deadline;
mod drain;
mod intake;
mod limits;
mod log_v1;
mod native;
mod pages;
mod router;
mod status;

#[cfg(test)]
mod tests;

pub use api_context::ApiContext;
pub use auth::{Policy, PolicyError};
pub use commit_log::CommitLog;
pub use drain::Drain;
pub use limits::Limits;
pub use router::{HealthReporter, ServeError, router, serve, serve_peers};

use api_context::accounts;
