//! What a node tells of itself over plain HTTP: which parts tell something, and where they are asked.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::live::Live;
use crate::metrics::families::*;
use crate::metrics::{Page, Registry, process};
use crate::net::budget::Budget;
use crate::net::mux::{Incoming, Mux};
use crate::net::{Listener, Network, Security};
use crate::raft::Seat;
use crate::server::{Audit, Counts, Surface, serve_http, serve_probes};
use crate::spans::Tracer;
use crate::{stderr, tasks};

use super::addresses::is_loopback;
use super::{AgentError, Runtimes, Seams};

/// The parts that tell something.
pub struct Parts<'a> {
    pub seat: Seat,
    pub mux: &'a Mux,
    pub security: &'a Security,
    pub budget: &'a Budget,
    pub counts: &'a Arc<Counts>,
    pub audit: &'a Audit,
    pub runtimes: &'a Runtimes,
    /// Logs that are told of by name.
    pub logs_max: Live<usize>,
}

/// All that they tell.
pub fn registry(parts: &Parts<'_>) -> Registry {
    let mut registry = Registry::default();
    registry.add(|page| {
        let version = ("version", env!("CARGO_PKG_VERSION"));
        page.family(&BUILD_INFO, |series| series.value(&[version], 1_u64));
        page.one(&LINES_LOST, stderr::lost());
    });
    let (seat, logs_max) = (parts.seat.clone(), parts.logs_max.clone());
    registry.add(move |page| match seat.get() {
        Some(log) => log.tell(page, logs_max.get()),
        // It is no member of a cluster yet.
        None => page.one(&READY, false),
    });
    let (port, budget, counts) = (
        parts.mux.counts(),
        parts.budget.clone(),
        parts.counts.clone(),
    );
    registry.add(move |page| {
        port.tell(page);
        budget.tell(page);
        counts.tell(page);
    });
    let audit = parts.audit.clone();
    registry.add(move |page| audit.tell_counts(page));
    if let Security::Mutual(tls) = parts.security {
        let tls = tls.clone();
        // Another one may be taken up while the node runs.
        registry.add(move |page| {
            let ends_s = tls.ends_s();
            ends_s
                .into_iter()
                .for_each(|ends_s| page.one(&CERTIFICATE_END, ends_s));
        });
    }
    let runtimes = parts.runtimes.clone();
    registry.add(move |page| tell_runtimes(&runtimes, page));
    registry.add(process::tell);
    registry
}

fn tell_runtimes(runtimes: &Runtimes, page: &mut Page<'_>) {
    let all = [
        ("consensus", &runtimes.consensus),
        ("clients", &runtimes.clients),
        ("bulk", &runtimes.bulk),
        ("upkeep", &runtimes.upkeep),
    ];
    let mut told = |family, value: fn(&Handle) -> u64| {
        page.family(family, |series| {
            for (name, runtime) in all {
                series.value(&[("runtime", name)], value(runtime));
            }
        });
    };
    told(&RUNTIME_WORKERS, |one| one.metrics().num_workers() as u64);
    told(&RUNTIME_TASKS, |one| one.metrics().num_alive_tasks() as u64);
    told(&RUNTIME_QUEUE, |one| {
        one.metrics().global_queue_depth() as u64
    });
    page.family(&RUNTIME_BUSY, |series| {
        for (name, runtime) in all {
            let metrics = runtime.metrics();
            let workers = 0..metrics.num_workers();
            let busy = workers.map(|worker| metrics.worker_total_busy_duration(worker));
            let busy_s: f64 = busy.map(|time| time.as_secs_f64()).sum();
            series.value(&[("runtime", name)], busy_s);
        }
    });
}

/// Makes the spans of traced calls, if a collector is to be told of them.
pub fn tracer(config: &Config, seams: &Seams) -> Tracer {
    let (endpoint, clients) = (config.otlp_endpoint.as_deref(), &seams.runtimes.clients);
    Tracer::start(endpoint, &config.name, &seams.clock, clients)
}

/// Opens the second address, if there is to be one.
pub async fn listen(
    config: &Config,
    network: &dyn Network,
) -> Result<Option<Box<dyn Listener>>, AgentError> {
    let Some(addr) = config.metrics_listen.clone() else {
        return Ok(None);
    };
    let listener = network.listen(&addr).await;
    let listener = listener.map_err(|source| AgentError::Listen { addr, source })?;
    let addr = listener.local_addr();
    if is_loopback(&addr) {
        tracing::info!(%addr, "metrics are told there");
    } else {
        tracing::warn!(%addr, "metrics are told there to anybody who reaches it, without a certificate");
    }
    Ok(Some(listener))
}

/// Serves it on the node's own port, and on the address for those without a certificate if there is one.
pub fn serving(
    surface: &Arc<Surface>,
    own: Incoming,
    probes: Option<Box<dyn Listener>>,
    mut stopping: watch::Receiver<bool>,
    runtime: &Handle,
) -> Vec<JoinHandle<()>> {
    let served = serve_http(surface.clone(), own);
    let mut all = vec![tasks::spawn_on(runtime, "plain HTTP", served)];
    if let Some(listener) = probes {
        let surface = surface.clone();
        let served = async move {
            tokio::select! {
                () = serve_probes(surface, listener) => {}
                // An error says that the node never started.
                _ = stopping.wait_for(|stop| *stop) => {}
            }
        };
        all.push(tasks::spawn_on(runtime, "probes", served));
    }
    all
}
