//! The servers of a node: for clients, for peers, for scrapers and probes. They serve from before the node belongs to a
//! cluster, and say so.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::live::Live;
use crate::net::budget::Budget;
use crate::net::mux::{Mux, Streams};
use crate::net::{Listener, Security};
use crate::raft::Seat;
use crate::server::{self, Counts, Drain, Facts, HealthReporter, Policy, Surface};
use crate::spans::Tracer;
use crate::tasks;

use super::background::serving;
use super::told::{self, Parts};
use super::{Fail, Runtimes};

/// What comes in, and who may.
pub struct Port<'a> {
    pub mux: &'a Mux,
    pub security: &'a Security,
    pub policy: Policy,
    pub streams: Streams,
    /// The second address, for scrapers and probes.
    pub probes: Option<Box<dyn Listener>>,
    /// How many logs metrics tell of by name.
    pub metrics_logs_max: Live<usize>,
    /// Makes the spans of calls that somebody traces.
    pub tracer: Tracer,
}

/// When the servers end, and who hears if they do so before.
pub struct Ends {
    pub draining: Drain,
    /// The node has begun to stop.
    pub told: watch::Receiver<bool>,
    /// The node has stopped.
    pub stopping: watch::Receiver<bool>,
    pub fail: Fail,
}

/// The servers at work.
pub struct Servers {
    pub clients: JoinHandle<()>,
    pub peers: JoinHandle<()>,
    /// What is told over plain HTTP, until the end.
    pub told: Vec<JoinHandle<()>>,
    pub health: HealthReporter,
}

/// Starts them.
pub async fn start(
    port: Port<'_>,
    seat: &Seat,
    config: &Config,
    runtimes: &Runtimes,
    ends: Ends,
) -> Servers {
    let Streams { grpc, raft, http } = port.streams;
    let (limits, policy) = (config.limits.clone(), port.policy);
    let audit = policy.audit().clone();
    let counts = Counts::default().telling(config.timing.slow_call.clone());
    let counts = Arc::new(counts.tracing(port.tracer));
    let budget = Budget::new(limits.bytes);
    let facts = Facts::new(port.security, &budget);
    let (routes, health) = server::router(
        seat.clone(),
        policy.clone(),
        limits.clone(),
        ends.draining.clone(),
        runtimes.bulk.clone(),
        (counts.clone(), facts),
    )
    .await;
    let registry = told::registry(&Parts {
        seat: seat.clone(),
        mux: port.mux,
        security: port.security,
        budget: &budget,
        counts: &counts,
        audit: &audit,
        runtimes,
        logs_max: port.metrics_logs_max,
    });
    let draining = ends.draining.clone();
    let surface = Surface::new(registry, seat.clone(), policy.clone(), draining);
    let stopping = ends.stopping.clone();
    let told = told::serving(&surface, http, port.probes, stopping, &runtimes.clients);
    let mut signal = ends.draining;
    let served = async move {
        let stop = async move { signal.began().await };
        let counted = (&limits, budget, counts);
        server::serve(routes, policy, counted, grpc, stop).await
    };
    let clients = serving("clients", served, ends.told, ends.fail.clone());
    let (mut stopping, stopped) = (ends.stopping.clone(), ends.stopping);
    let served = server::serve_peers(seat.clone(), audit, raft, async move {
        let _ = stopping.wait_for(|stop| *stop).await;
    });
    let peers = serving("peers", served, stopped, ends.fail);
    Servers {
        clients: tasks::spawn_on(&runtimes.clients, "server for clients", clients),
        peers: tasks::spawn_on(&runtimes.consensus, "server for peers", peers),
        told,
        health,
    }
}
