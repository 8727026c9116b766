//! Runs work that waits for the disk on threads that may block.

use std::time::Duration;

use tokio::runtime::Handle;

use crate::{log, tasks};

/// Between two tries to open a file while no descriptor is left.
pub const DESCRIPTOR_LOOK: Duration = Duration::from_millis(100);

/// Runs the work on such a thread. If the node stops meanwhile, the error is that of a stopped log.
pub async fn on_disk<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<log::Error> + Send + 'static,
{
    let done = tasks::spawn_blocking("work on the disk", work).await;
    done.unwrap_or_else(|_| Err(log::Error::Stopped.into()))
}

/// Repeats the work for as long as it fails for want of a file descriptor. Nothing is wrong with the files then, and
/// a node that gave up would stop. It blocks, so it is called inside of [`on_disk`].
pub fn with_descriptors<T>(
    mut work: impl FnMut() -> Result<T, log::Error>,
) -> Result<T, log::Error> {
    loop {
        match work() {
            Err(error) if error.is_short_of_files() => {
                tracing::warn!(%error, "the node waits for a descriptor");
                Handle::current().block_on(tokio::time::sleep(DESCRIPTOR_LOOK));
            }
            done => return done,
        }
    }
}
