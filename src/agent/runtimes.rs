//! Where a node's tasks run.
//!
//! Consensus has threads of its own: whatever clients ask for, heartbeats are sent and answered in
//! time. Long computations have threads of their own, too, few and of a lower priority. What goes
//! through all of the log, a piece at a time, has one such thread for its pieces: what one piece gives back of
//! memory, the next takes. A simulation has one runtime for everything, with one thread and one clock.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;

use crate::env;

/// The most threads of consensus. It seldom needs more than one.
const CONSENSUS_THREADS_MAX: usize = 4;
/// The most long computations at once. Each holds as much memory as it is allowed.
const BULK_THREADS_MAX: usize = 4;
/// How nice the threads of long computations and of upkeep are to the others of the machine.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// The runtimes of a node.
#[derive(Debug, Clone)]
pub struct Runtimes {
    /// Elections, replication, what peers call, and what these need.
    pub consensus: Handle,
    /// Clients' connections and calls.
    pub clients: Handle,
    /// Its blocking threads take work that keeps a processor busy for long, one piece each.
    pub bulk: Handle,
    /// Rewriting, compaction and scrubbing.
    pub upkeep: Handle,
}

impl Runtimes {
    /// The caller's runtime for everything.
    pub fn current() -> Self {
        let current = Handle::current();
        Self {
            consensus: current.clone(),
            clients: current.clone(),
            bulk: current.clone(),
            upkeep: current,
        }
    }
}

/// The threads of a node that is a process of its own. They end when this is dropped.
#[derive(Debug)]
pub struct Threads {
    consensus: Option<Runtime>,
    bulk: Option<Runtime>,
    upkeep: Option<Runtime>,
}

impl Threads {
    /// Starts them.
    ///
    /// # Errors
    ///
    /// What the system says if it gives no threads.
    pub fn start() -> io::Result<Self> {
        let cores = env::cores();
        let consensus = Builder::new_multi_thread()
            .worker_threads((cores / 4).clamp(1, CONSENSUS_THREADS_MAX))
            .thread_name("consensus")
            .enable_all()
            .build()?;
        let bulk = Builder::new_current_thread()
            .max_blocking_threads((cores / 2).clamp(1, BULK_THREADS_MAX))
            .thread_name("bulk")
            .on_thread_start(give_way)
            .build()?;
        let upkeep = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .thread_name("upkeep")
            .on_thread_start(give_way)
            .enable_all()
            .build()?;
        Ok(Self {
            consensus: Some(consensus),
            bulk: Some(bulk),
            upkeep: Some(upkeep),
        })
    }

    /// The runtimes, the caller's for clients.
    pub fn runtimes(&self) -> Runtimes {
        let handle = |runtime: &Option<Runtime>| runtime.as_ref().map(|one| one.handle().clone());
        let current = Handle::current();
        Runtimes {
            consensus: handle(&self.consensus).unwrap_or_else(|| current.clone()),
            bulk: handle(&self.bulk).unwrap_or_else(|| current.clone()),
            upkeep: handle(&self.upkeep).unwrap_or_else(|| current.clone()),
            clients: current,
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for runtime in [self.consensus.take(), self.bulk.take(), self.upkeep.take()] {
            // A runtime must not be waited for on another runtime's threads.
            runtime.into_iter().for_each(Runtime::shutdown_background);
        }
    }
}

/// Lets every other thread of the machine go first. Where threads have no priority of their own, it must
/// suffice that there are few.
fn give_way() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "long computations and upkeep run with the usual priority");
    }
}

/// Does the work on another runtime and waits for it. If this future is dropped, the work ends.
pub async fn run_on<T: Send + 'static>(
    runtime: &Handle,
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    let mut running = JoinSet::new();
    running.spawn_on(work, runtime);
    match running.join_next().await {
        Some(Ok(done)) => done,
        Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime stops, and this one with it.
        Some(Err(_)) | None => std::future::pending().await,
    }
}
