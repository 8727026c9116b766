//! The edge: what clients may call over gRPC, and the one map from errors to status codes; what scrapers and probes may
//! ask over plain HTTP.
//!
//! It owns the trait that it needs of a log, [`CommitLog`], so that its verbs run over a bare log
//! in tests as they run over a replicated one. Peers' calls are not served here.

mod answers;
mod api_context;
mod appending;
mod audit;
mod auth;
mod commit_log;
mod counts;
mod deadline;
mod drain;
mod intake;
mod limits;
mod log_v1;
mod native;
mod pages;
mod router;
mod status;
mod surface;

#[cfg(test)]
mod tests;

pub use api_context::ApiContext;
pub use audit::Audit;
pub use auth::{Action, Lines, On, Policy, PolicyError};
pub use commit_log::CommitLog;
pub use counts::Counts;
pub use drain::Drain;
pub use limits::Limits;
pub use router::{HealthReporter, ServeError, router, serve, serve_peers};
pub use surface::{Facts, Surface, serve_http, serve_probes};

use api_context::accounts;
