//! Why a node can write no more.

use std::io;
use std::sync::{Arc, OnceLock};

use crate::log;

/// The first error that ended writing. Whoever reports why the node stopped takes it from here, since the engine
/// keeps the text alone.
pub type Failure = Arc<OnceLock<Arc<log::Error>>>;

/// Keeps the first error, and hands it on to the engine.
pub(super) fn note(failure: &Failure, error: log::Error) -> io::Error {
    let error = Arc::new(error);
    if !matches!(*error, log::Error::Stopped) {
        // Later errors follow from the first one, so the first one is kept.
        let _ = failure.set(error.clone());
    }
    io::Error::other(error)
}
