//! Work that waits for the disk, off the runtime's threads.

use std::time::Duration;

use tokio::runtime::Handle;

use crate::{log, tasks};

/// Between two tries to open a file while no descriptor is left.
pub const DESCRIPTOR_LOOK: Duration = Duration::from_millis(100);

/// Runs it; an error as from a log that was stopped if the node goes down meanwhile.
pub async fn on_disk<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<log::Error> + Send + 'static,
{
    let done = tasks::spawn_blocking("work on the disk", work).await;
    done.unwrap_or_else(|_| Err(log::Error::Stopped.into()))
}

/// Does it again for as long as no descriptor is left: nothing is wrong with the files then, and a
/// node that gave up would stop. Runs inside of [`on_disk`].
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
