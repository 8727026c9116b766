//! What a running node takes up: certificates, authorities, lists of revoked certificates, the policy.

use tokio::sync::watch;

use crate::net::Security;
use crate::net::identity::Identity;
use crate::net::mux::Recheck;
use crate::net::tls::Tls;
use crate::server::Policy;

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
}

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
            self.rechecks.send_replace(Recheck::default());
        }
        self.policy.audit().reloaded(CERTIFICATES, None);
        Ok(())
    }

    /// Judges calls by this policy from now on. Connections of subjects whose rights differ end at once: their
    /// clients come back with the rights that they have now.
    pub fn take_up_policy(&self, policy: &Policy) {
        let differs = self.policy.take_up(policy);
        self.rechecks.send_replace(Recheck::new(differs));
        self.policy.audit().reloaded(POLICY, None);
    }

    /// Has it told that certificates stay as they were, and why.
    pub fn refused_certificates(&self, why: &str) {
        self.policy.audit().reloaded(CERTIFICATES, Some(why));
    }

    /// Has it told that the policy stays as it was, and why.
    pub fn refused_policy(&self, why: &str) {
        self.policy.audit().reloaded(POLICY, Some(why));
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
///
/// # Errors
///
/// [`AgentError::NotANode`], [`AgentError::OtherNode`] or [`AgentError::OneSided`]: what the certificate lacks.
