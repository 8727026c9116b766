//! Work that waits for the disk, off the runtime's threads.

use crate::{log, tasks};

/// Runs it; an error as from a log that was stopped if the node goes down meanwhile.
pub async fn on_disk<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<log::Error> + Send + 'static,
{
    let done = tasks::spawn_blocking("work on the disk", work).await;
    done.unwrap_or_else(|_| Err(log::Error::Stopped.into()))
}
