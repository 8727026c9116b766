//! Work that keeps a processor busy for long: decompression.
//!
//! It runs on threads of its own, a few pieces at once: never on those that serve calls, and so that
//! the memory it takes is bounded. A connection has one piece under way, so that nobody waits behind
//! all that another one has sent.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::net::budget::Accounts;
use crate::tasks;

/// Pieces at once: each may take a decoder's window and one batch's part.
const PIECES_MAX: usize = 4;

/// Where such work is done; clones share its turns.
#[derive(Debug, Clone)]
pub struct Bulk {
    runtime: Handle,
    turns: Arc<Semaphore>,
}

impl Bulk {
    /// On the blocking threads of this runtime.
    pub fn new(runtime: Handle) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let pieces = (cores / 2).clamp(1, PIECES_MAX);
        Self {
            runtime,
            turns: Arc::new(Semaphore::new(pieces)),
        }
    }

    /// Does the work once it is this connection's turn; `None` if the node stops meanwhile.
    pub async fn run<T: Send + 'static>(
        &self,
        accounts: Option<&Accounts>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let own = match accounts {
            Some(accounts) => Some(accounts.bulk.clone().acquire_owned().await.ok()?),
            None => None,
        };
        let turn = self.turns.clone().acquire_owned().await.ok()?;
        let done = tasks::spawn_blocking_on(&self.runtime, "decompression", move || {
            let done = work();
            // Not before: the caller may be gone, and the work goes on.
            drop((own, turn));
            done
        });
        done.await.ok()
    }
}
