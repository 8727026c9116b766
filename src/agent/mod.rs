//! A node: its parts, built bottom up and stopped top down.
//!
//! The disk, the network, the wall clock, randomness and the threads come in as [`Seams`], so that
//! the same node runs on real ones and in simulation.
#![warn(clippy::missing_errors_doc)]

mod addresses;
mod background;
mod error;
mod membership;
mod reloads;
mod runtimes;
mod servers;
mod told;

pub use crate::server::{Action, Lines, On, Policy};
pub use addresses::{check_addresses, host};
pub use error::AgentError;
use reloads::Paces;
pub use reloads::{LIVE_SETTINGS, Reloads, check_certificate};
pub use runtimes::{Runtimes, Threads};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::Config;
use crate::disk::{Disk, OsDisk};
use crate::env::{Clock, Random};
use crate::live::Live;
use crate::net::mux::{Mux, MuxLimits, Recheck, Streams};
use crate::net::stream_layer::StreamLayer;
use crate::net::tcp::TcpNetwork;
use crate::net::{Listener, Network, Security};
use crate::raft::{self, ReplicatedLog, Seat, Setup, Timing};
use crate::server::Drain;
use crate::spans::Tracer;
use crate::tasks;

use background::{tell_health, upkeep};
use servers::{Ends, Port, Servers};

/// How long after the signal to stop the last client's call is cut.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// How much of that time leadership may take to be handed on, and streams may take to end.
const CALLS_MAX: Duration = Duration::from_secs(3);

/// The channel by which a part of a node says that the node cannot go on.
type Fail = watch::Sender<Option<Arc<AgentError>>>;

/// The outside world of a node, real or simulated.
#[derive(Clone)]
pub struct Seams {
    /// Where the node keeps its data.
    pub disk: Arc<dyn Disk>,
    /// How the node reaches others.
    pub network: Arc<dyn Network>,
    /// Where the node's ids come from.
    pub random: Random,
    /// Where the node's tasks run.
    pub runtimes: Runtimes,
    /// What the node takes for the time of day.
    pub clock: Clock,
}

impl Seams {
    /// The operating system's disk, network, generator and clock.
    pub fn real(runtimes: Runtimes) -> Self {
        Self {
            disk: Arc::new(OsDisk),
            network: Arc::new(TcpNetwork),
            random: Random::system(),
            runtimes,
            clock: Clock::system(),
        }
    }
}

impl fmt::Debug for Seams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seams")
            .field("disk", &self.disk)
            .finish_non_exhaustive()
    }
}

/// A running node.
pub struct Agent {
    addr: String,
    log: ReplicatedLog,
    drain: watch::Sender<bool>,
    stop: watch::Sender<bool>,
    failed: watch::Receiver<Option<Arc<AgentError>>>,
    servers: Servers,
    helpers: Vec<JoinHandle<()>>,
    mux: Mux,
}

/// The bound port and what is served on it before the node belongs to a cluster.
pub struct Bound {
    config: Config,
    seams: Seams,
    layer: StreamLayer,
    policy: Policy,
    addr: String,
    mux: Mux,
    streams: Streams,
    /// The second address, for scrapers and probes.
    probes: Option<Box<dyn Listener>>,
    paces: Paces,
}

impl Bound {
    /// Binds the node's one port. Nothing is served on it before [`Self::start`].
    ///
    /// # Errors
    ///
    /// An [`AgentError`] if the certificate is not this node's, if the address cannot be listened on or is one that
    /// nobody can dial, or if it is not loopback and `security` is plaintext.
    pub async fn bind(
        config: Config,
        security: Security,
        policy: Policy,
        seams: Seams,
    ) -> Result<Self, AgentError> {
        if let Security::Mutual(tls) = &security {
            check_certificate(&config.name, &tls.identity())?;
        }
        let network = seams.network.clone();
        let listener =
            network
                .listen(&config.listen)
                .await
                .map_err(|source| AgentError::Listen {
                    addr: config.listen.clone(),
                    source,
                })?;
        let local = listener.local_addr();
        let insecure = matches!(security, Security::Insecure);
        let addr = check_addresses(insecure, &local, config.advertise.as_deref())?;
        // A name may come to be known only once the node runs, as in Kubernetes.
        if let Err(error) = network.resolve(&addr).await {
            tracing::warn!(%addr, %error, "the address to advertise cannot be resolved here: \
                others cannot call this node while they cannot resolve it either");
        }
        let probes = told::listen(&config, &*network).await?;
        let layer = StreamLayer::new(network, security.clone());
        let watched = policy.clone();
        let (mux, streams) = Mux::start_for(
            listener,
            security,
            MuxLimits {
                age_max: config.connection_age_max,
                ..MuxLimits::within(config.connections_max, config.descriptors_max)
            },
            Recheck::new(move |identity| watched.watch(identity)),
            seams.runtimes.consensus.clone(),
        );
        Ok(Self {
            paces: Paces::new(&config),
            config,
            seams,
            layer,
            policy,
            addr,
            mux,
            streams,
            probes,
        })
    }

    /// What can be taken up while the node runs.
    pub fn reloads(&self) -> Reloads {
        Reloads {
            name: self.config.name.clone(),
            security: self.layer.security().clone(),
            policy: self.policy.clone(),
            rechecks: self.mux.reloads(),
            limits: self.config.limits.clone(),
            port: self.mux.changing(),
            descriptors_max: self.config.descriptors_max,
            paces: self.paces.clone(),
        }
    }

    /// The address that the port is bound to.
    pub fn local_addr(&self) -> &str {
        self.mux.addr()
    }

    /// The second address, if there is one.
    pub fn metrics_addr(&self) -> Option<String> {
        self.probes.as_ref().map(|listener| listener.local_addr())
    }

    /// Makes the node a member of its cluster and serves. It waits for the others for as long as they take.
    ///
    /// # Errors
    ///
    /// An [`AgentError`] if the data directory does not open, belongs to another node or cluster, or if the cluster
    /// does not let this node in.
    pub async fn start(self) -> Result<Agent, AgentError> {
        let seat = Seat::default();
        let (drain, draining) = Drain::new();
        let (stop, stopping) = watch::channel(false);
        let (fail, failed) = watch::channel(None);
        let audit = self.policy.audit().clone();
        let tracer = told::tracer(&self.config, &self.seams);
        let port = Port {
            mux: &self.mux,
            security: self.layer.security(),
            policy: self.policy,
            streams: self.streams,
            probes: self.probes,
            metrics_logs_max: self.paces.metrics_logs_max.clone(),
            tracer: tracer.clone(),
        };
        let ends = Ends {
            draining,
            told: drain.subscribe(),
            stopping,
            fail: fail.clone(),
        };
        let runtimes = self.seams.runtimes.clone();
        let servers = servers::start(port, &seat, &self.config, &runtimes, ends).await;
        let begun = begin(
            self.config.clone(),
            self.seams,
            self.layer.clone(),
            self.addr.clone(),
            (tracer, self.paces.disk_reserve_bytes.clone()),
        );
        let (log, joined) = runtimes::run_on(&runtimes.consensus, begun).await?;
        // The seat was empty: this is the only place that fills it.
        let _ = seat.set(log.clone());
        let settle = membership::settle(
            log.clone(),
            self.layer,
            self.config.join.clone(),
            joined,
            fail,
        );
        let health_told = tell_health(log.clone(), servers.health.clone());
        let mut helpers = upkeep(&log, &self.paces, &runtimes);
        helpers.push(tasks::spawn_on(&runtimes.consensus, "membership", settle));
        helpers.push(tasks::spawn_on(&runtimes.clients, "health", health_told));
        let told = log.clone();
        let audited = async move { audit.tell(told).await };
        helpers.push(tasks::spawn_on(&runtimes.clients, "audit", audited));
        Ok(Agent {
            addr: self.addr,
            log,
            drain,
            stop,
            failed,
            servers,
            helpers,
            mux: self.mux,
        })
    }
}

impl Agent {
    /// The address that others reach the node at.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// The node's log.
    pub fn log(&self) -> &ReplicatedLog {
        &self.log
    }

    /// Waits until the node cannot go on, and says why. The process must end: a disk that failed
    /// once, or an engine that stopped, is not trusted again.
    pub async fn failed(&mut self) -> Arc<AgentError> {
        let mut views = self.log.watch_view();
        tokio::select! {
            stopped = views.wait_for(|view| view.stopped.is_some()) => {
                let reason = stopped.ok().and_then(|view| view.stopped.clone());
                let reason = reason.unwrap_or_else(|| "it is gone".to_owned());
                let engine = || raft::Error::Engine(reason);
                Arc::new(self.log.disk_failure().unwrap_or_else(engine).into())
            }
            failed = self.failed.wait_for(Option::is_some) => match failed {
                Ok(failed) => failed.clone().expect("it was waited for"),
                Err(_) => std::future::pending().await,
            },
            broken = tasks::broken() => Arc::new(broken.into()),
        }
    }

    /// Stops within ten seconds: hands leadership on, ends streams, finishes calls, makes the state durable. Calls
    /// that take longer are cut.
    pub async fn shutdown(self) {
        let deadline = Instant::now() + DRAIN_MAX;
        for helper in &self.helpers {
            helper.abort();
        }
        self.servers.health.set(false).await;
        // While leadership moves, calls under way still find this node, and are passed on.
        let _ = tokio::time::timeout(CALLS_MAX, self.log.hand_on()).await;
        self.drain.send_replace(true);
        let calls = tokio::time::timeout_at(deadline - CALLS_MAX, self.servers.clients);
        if calls.await.is_err() {
            tracing::warn!("clients' calls were cut: they took too long to end");
        }
        self.mux.stop();
        let _ = tokio::time::timeout_at(deadline, self.log.shutdown()).await;
        self.stop.send_replace(true);
        self.servers.peers.abort();
        self.servers.told.iter().for_each(JoinHandle::abort);
    }

    /// Stops at once, as a crash would: nothing is handed on and nothing made durable.
    pub async fn kill(self) {
        let Servers {
            clients,
            peers,
            told,
            ..
        } = &self.servers;
        let servers = told.iter().chain([clients, peers]);
        for task in self.helpers.iter().chain(servers) {
            task.abort();
        }
        self.mux.shutdown().await;
        self.log.kill().await;
    }
}

/// Makes the node a member, and starts its log. Also returns whether the node has just joined.
async fn begin(
    config: Config,
    seams: Seams,
    layer: StreamLayer,
    addr: String,
    (tracer, disk_reserve_bytes): (Tracer, Live<u64>),
) -> Result<(ReplicatedLog, bool), AgentError> {
    let (directory, joined) = membership::become_member(&config, &seams, &layer, &addr).await?;
    let timing = Timing {
        clock: seams.clock.clone(),
        tracer,
        ..config.timing
    };
    let log = ReplicatedLog::start(Setup {
        directory,
        layer,
        addr,
        timing,
        log: config.log,
        disk_reserve_bytes,
        callers_on: seams.runtimes.clients,
    });
    Ok((log.await?, joined))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::testing::{authority, node_that_only_calls};
    use crate::net::tls::Tls;

    #[test]
    fn a_certificate_for_one_side_starts_no_node() {
        let authority = authority();
        let check = |pem: &crate::certs::CertPem| {
            let ca = authority.ca_pem().as_bytes();
            let tls = Tls::from_pem(ca, pem.cert.as_bytes(), pem.key.as_bytes()).unwrap();
            check_certificate("n1", &tls.identity())
        };
        let refused = check(&node_that_only_calls(&authority, "n1"));
        assert!(matches!(refused, Err(AgentError::OneSided { .. })));
        check(&authority.node("n1", &[]).unwrap()).unwrap();
    }
}
