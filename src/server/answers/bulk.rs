//! Work that keeps a processor busy for long: decompression.
//!
//! It runs on threads of its own, and never on those that serve calls. Few pieces run at once, so that the
//! memory for them is bounded. A connection has one piece under way, so that no connection waits behind all
//! pieces of another one.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::net::budget::Accounts;
use crate::{env, tasks};

/// How many pieces run at once. Each may take a decoder's window and a part of a batch in memory.
const PIECES_MAX: usize = 4;

/// Where such work is done; clones share its turns.
#[derive(Debug, Clone)]
pub struct Bulk {
    runtime: Handle,
    turns: Arc<Semaphore>,
}

impl Bulk {
    /// Does the work on the blocking threads of this runtime.
    pub fn new(runtime: Handle) -> Self {
        let pieces = (env::cores() / 2).clamp(1, PIECES_MAX);
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
            // Give the turn back only now: the work goes on even if the caller is gone.
            drop((own, turn));
            done
        });
        done.await.ok()
    }
}
