//! What a running node takes up: certificates, authorities, lists of revoked certificates, the policy.

use std::time::Duration;

use tokio::sync::watch;

use crate::config::Config;
use crate::live::Live;
use crate::net::Security;
use crate::net::identity::Identity;
use crate::net::mux::{Changing, MuxLimits, Recheck};
use crate::net::tls::Tls;
use crate::server::{Limits, Policy};

use super::AgentError;

/// What is taken up, as it is told. A record tells of it afterwards, since files are in no entry.
const CERTIFICATES: &str = "certificates";
const POLICY: &str = "policy";

/// A handle to what can change while the node runs; clones share it.
#[derive(Clone)]
pub struct Reloads {
    pub(super) name: String,
    pub(super) security: Security,
    pub(super) policy: Policy,
    pub(super) rechecks: watch::Sender<Recheck>,
    pub(super) limits: Limits,
    pub(super) port: Changing,
    pub(super) descriptors_max: usize,
    pub(super) paces: Paces,
}

/// Numbers that the node's parts look at again and again.
#[derive(Debug, Clone)]
pub(super) struct Paces {
    pub scrub_bytes_per_second: Live<u64>,
    pub rewrite_dead_percent: Live<u64>,
    pub metrics_logs_max: Live<usize>,
    pub disk_reserve_bytes: Live<u64>,
    pub slow_call: Live<Duration>,
}

impl Paces {
    pub fn new(config: &Config) -> Self {
        Self {
            scrub_bytes_per_second: Live::new(config.scrub_bytes_per_second),
            rewrite_dead_percent: Live::new(config.rewrite_dead_percent),
            metrics_logs_max: Live::new(config.metrics_logs_max),
            disk_reserve_bytes: Live::new(config.disk_reserve_bytes),
            slow_call: config.timing.slow_call.clone(),
        }
    }
}

/// The settings that can change while the node runs, by their keys in a file.
pub const LIVE_SETTINGS: [&str; 9] = [
    "scrub_bytes_per_second",
    "rewrite_dead_percent",
    "disk_reserve_bytes",
    "slow_call_ms",
    "metrics_logs_max",
    "connections_max",
    "connection_age_max_seconds",
    "logs_max",
    "create_logs_on_produce",
];

impl Reloads {
    /// Proves the node with these from now on, and asks peers and clients for what these trust. Connections whose
    /// peers are no longer trusted end at once.
    ///
    /// # Errors
    ///
    /// An [`AgentError`] if the certificate is not this node's; then nothing changes.
    pub fn take_up_certificates(&self, tls: &Tls) -> Result<(), AgentError> {
        check_certificate(&self.name, &tls.identity())?;
        if let Security::Mutual(ours) = &self.security {
            ours.take_up(tls);
            self.recheck();
        }
        self.policy.audit().reloaded(CERTIFICATES, None);
        Ok(())
    }

    /// Judges calls by this policy from now on. Connections of subjects whose rights differ end at once: their
    /// clients come back with the rights that they have now.
    pub fn take_up_policy(&self, policy: &Policy) {
        self.policy.take_up(policy);
        self.recheck();
        self.policy.audit().reloaded(POLICY, None);
    }

    /// Has all connections judged again.
    fn recheck(&self) {
        self.rechecks.send_modify(|_| ());
    }

    /// Has it told that certificates stay as they were, and why.
    pub fn refused_certificates(&self, why: &str) {
        self.policy.audit().reloaded(CERTIFICATES, Some(why));
    }

    /// Has it told that the policy stays as it was, and why.
    pub fn refused_policy(&self, why: &str) {
        self.policy.audit().reloaded(POLICY, Some(why));
    }

    /// Goes by these settings from now on, as far as they can change: those of [`LIVE_SETTINGS`]. What is open or made
    /// already stays, also beyond a limit that is lower now.
    pub fn take_up_settings(&self, config: &Config) {
        let Config {
            scrub_bytes_per_second,
            rewrite_dead_percent,
            metrics_logs_max,
            connections_max,
            connection_age_max,
            limits,
            disk_reserve_bytes,
            timing,
            ..
        } = config;
        let paces = &self.paces;
        paces.scrub_bytes_per_second.set(*scrub_bytes_per_second);
        paces.rewrite_dead_percent.set(*rewrite_dead_percent);
        paces.metrics_logs_max.set(*metrics_logs_max);
        paces.disk_reserve_bytes.set(*disk_reserve_bytes);
        paces.slow_call.set(timing.slow_call.get());
        let within = MuxLimits::within(*connections_max, self.descriptors_max);
        self.port.set_clients_max(within.clients_max);
        self.port.set_age_max(*connection_age_max);
        self.limits.logs_max.set(limits.logs_max.get());
        let creates = limits.create_logs_on_produce.get();
        self.limits.create_logs_on_produce.set(creates);
    }

    /// When the node's certificate ends, in seconds since 1970; `None` without one.
    pub fn certificate_ends_s(&self) -> Option<u64> {
        match &self.security {
            Security::Mutual(tls) => tls.ends_s(),
            Security::Insecure => None,
        }
    }
}

/// Whether a node of this name can prove itself with a certificate.
///
/// # Errors
///
/// [`AgentError::NotANode`], [`AgentError::OtherNode`] or [`AgentError::OneSided`]: what the certificate lacks.
pub fn check_certificate(name: &str, identity: &Identity) -> Result<(), AgentError> {
    let name = name.to_owned();
    match &identity.node_name {
        None => Err(AgentError::NotANode { name }),
        Some(found) if *found != name => Err(AgentError::OtherNode {
            found: found.clone(),
            name,
        }),
        Some(_) if !identity.serves_and_calls => Err(AgentError::OneSided { name }),
        Some(_) => Ok(()),
    }
}
