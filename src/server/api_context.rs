//! What all verbs share: the log once it has its seat, the policy, the limits, what answers hold.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use tokio::runtime::Handle;
use tonic::{Request, Status};

use crate::net::budget::Accounts;
use crate::net::mux::PeerInfo;
use crate::raft::ReplicatedLog;

use super::answers::Unread;
use super::answers::bulk::Bulk;
use super::answers::reading::Reading;
use super::{Drain, Limits, Policy, deadline, status};

/// What all verbs share. The log takes its seat once the node belongs to a cluster.
#[derive(Debug)]
pub struct ApiContext<L> {
    pub seat: Arc<OnceLock<L>>,
    pub policy: Policy,
    pub limits: Limits,
    pub reading: Reading,
    pub unread: Unread,
    pub drain: Drain,
}

impl<L> ApiContext<L> {
    /// Long work is done on the blocking threads of `bulk`. Needs a tokio runtime.
    pub fn new(
        seat: Arc<OnceLock<L>>,
        policy: Policy,
        limits: Limits,
        drain: Drain,
        bulk: Handle,
    ) -> Self {
        Self {
            seat,
            policy,
            limits,
            reading: Reading::new(Bulk::new(bulk)),
            unread: Unread::watched(),
            drain,
        }
    }

    pub fn log(&self) -> Result<&L, Status> {
        self.seat.get().ok_or_else(status::starting)
    }
}

impl ApiContext<ReplicatedLog> {
    /// The log of this name, for as long as the caller waits.
    pub fn log_for<T>(
        &self,
        request: &Request<T>,
        name: &str,
    ) -> impl Future<Output = Result<ReplicatedLog, Status>> + Send + use<T> {
        let log = self.log().map(|log| log.until(deadline::of(request)));
        let name = name.to_owned();
        async move { named(&log?, &name).await }
    }
}

/// The log of this name; the default one without a name. A node that lags must not say that there is none: it
/// asks the leader first.
pub async fn named(log: &ReplicatedLog, name: &str) -> Result<ReplicatedLog, Status> {
    if let Some(known) = log.named(name) {
        return Ok(known);
    }
    let current = log.read_barrier().await;
    current.map_err(|error| status::read(&error))?;
    log.named(name).ok_or_else(|| status::no_such_log(name))
}

/// What the connection that a call came by may make the node hold.
pub fn accounts<T>(request: &Request<T>) -> Option<Accounts> {
    let peer = request.extensions().get::<PeerInfo>();
    peer.map(|peer| peer.accounts.clone())
}
