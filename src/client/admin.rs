//! What an operator asks: the status of a node, and changes of the cluster.
//!
//! The status is asked of each server once: whoever asks what is wrong must not wait long. Changes are tried again until
//! the client's timeout; one that a later try might undo is not, once a try may have made it.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use super::attempts::{Attempts, Limited, limited, within};
use super::servers::Servers;
use super::told::{Again, is_distrust, leaves_doubt};
use super::{ClientError, FIRST_ANSWER_MAX};
use crate::proto::v1::cluster_service_client::ClusterServiceClient;
use crate::proto::v1::{
    AllowNodeRequest, CreateJoinTokenRequest, DisallowNodeRequest, DrainNodeRequest,
    GetStatusRequest, GetStatusResponse, RemoveNodeRequest, TransferLeadershipRequest, TrimRequest,
    UndrainNodeRequest,
};

/// A change waits for the cluster to agree, and a transfer for a follower to catch up.
pub(super) const CHANGE_MAX: Duration = Duration::from_secs(30);

pub(super) type Cluster = ClusterServiceClient<Limited>;

/// Asks and changes what an operator may: of the cluster, and of the log that its client is on. Clones share
/// their connections.
#[derive(Clone)]
pub struct Admin {
    pub(super) servers: Arc<Servers>,
    /// The log's name; empty for the default one.
    pub(super) log: String,
    /// Whether the calls about cursors mean those that belong to no log.
    pub(super) of_selections: bool,
    pub(super) timeout: Duration,
}

impl Admin {
    /// The name of the log that it is about; empty for the default one.
    pub fn log_name(&self) -> &str {
        &self.log
    }

    /// Whether its cursors hold positions, and belong to no log.
    pub fn is_of_selections(&self) -> bool {
        self.of_selections
    }

    pub(super) fn new(servers: Arc<Servers>, log: &str, timeout: Duration) -> Self {
        Self {
            servers,
            log: log.to_owned(),
            of_selections: false,
            timeout,
        }
    }

    /// The same cluster, with calls about the cursors that belong to no log.
    pub(crate) fn of_selections(self) -> Self {
        Self {
            log: String::new(),
            of_selections: true,
            ..self
        }
    }

    /// What `server` knows of the cluster. Without `server`, what the first server that answers knows.
    ///
    /// # Errors
    ///
    /// The last server's, if none of them answered; each is asked once.
    pub async fn status(&self, server: Option<&str>) -> Result<GetStatusResponse, ClientError> {
        let mut rotation = self.servers.rotation(server)?;
        let limit = FIRST_ANSWER_MAX.min(self.timeout);
        let mut last = ClientError::NoServers;
        for _ in 0..rotation.len() {
            let addr = rotation.current().to_owned();
            let mut cluster = ClusterServiceClient::new(self.servers.channel(&addr));
            match within(limit, cluster.get_status(GetStatusRequest {})).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => {
                    self.servers.forget_if_dead(&addr, &status);
                    last = status_error(&addr, &status, limit);
                }
            }
            rotation.advance(None);
        }
        Err(last)
    }

    /// Takes the node out of the cluster; false if there was none of that name.
    ///
    /// The node that is removed may be the only one that this client knows, and it stops in the middle of the
    /// call. So this call first asks for the addresses of the others, and asks them, too.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] or [`ClientError::Stalled`] once the client's timeout is over; a refusal as
    /// its own variant; [`ClientError::ChangeInDoubt`] if an earlier try may have made the change and no later
    /// one could tell.
    pub async fn remove(&self, name: &str) -> Result<bool, ClientError> {
        let Ok(before) = self.status(None).await else {
            return self.remove_by(name).await;
        };
        let all = self.knowing(&before, name);
        match all.remove_by(name).await {
            Err(error) if is_member(&before, name) => match all.is_gone(name, &before).await {
                true => Ok(true),
                false => Err(error),
            },
            outcome => outcome,
        }
    }

    /// Removes the node, given the addresses of all members. The node itself is asked last.
    fn knowing(&self, status: &GetStatusResponse, goes: &str) -> Self {
        let (going, others): (Vec<_>, Vec<_>) =
            status.nodes.iter().partition(|node| node.name == goes);
        let given = self.servers.addrs().iter();
        let given = given.filter(|addr| going.iter().all(|node| node.addr != **addr));
        let others = others.into_iter().map(|node| &node.addr);
        let mut addrs: Vec<String> = Vec::new();
        for addr in given.chain(others).chain(self.servers.addrs()) {
            if !addrs.contains(addr) {
                addrs.push(addr.clone());
            }
        }
        let servers = Arc::new(self.servers.with_addrs(addrs));
        Self::new(servers, &self.log, self.timeout)
    }

    /// Whether another member, which has applied at least as much as `before` shows, no longer lists the node.
    async fn is_gone(&self, name: &str, before: &GetStatusResponse) -> bool {
        for addr in self.servers.addrs() {
            let Ok(status) = self.status(Some(addr)).await else {
                continue;
            };
            if status.node_name != name && status.applied_index >= before.applied_index {
                return !is_member(&status, name);
            }
        }
        false
    }

    async fn remove_by(&self, name: &str) -> Result<bool, ClientError> {
        let request = RemoveNodeRequest {
            name: name.to_owned(),
        };
        let call = |mut cluster: Cluster| {
            let request = request.clone();
            async move { cluster.remove_node(Request::new(request)).await }
        };
        let (answer, in_doubt) = self.change_on(call).await?;
        // If it was not there, an earlier try may have removed it, whose answer was lost.
        Ok(answer.removed || in_doubt)
    }

    /// Lets a node of this name join, once.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] or [`ClientError::Stalled`] once the client's timeout is over; a refusal as
    /// its own variant; [`ClientError::ChangeInDoubt`] if an earlier try may have made the change and no later
    /// one could tell.
    pub async fn allow(&self, name: &str) -> Result<(), ClientError> {
        let request = AllowNodeRequest {
            name: name.to_owned(),
        };
        let call = |mut cluster: Cluster| {
            let request = request.clone();
            async move { cluster.allow_node(Request::new(request)).await }
        };
        self.change(call).await.map(drop)
    }

    /// Takes back that a node of this name may join. False if the name was not allowed, or has joined already.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] or [`ClientError::Stalled`] once the client's timeout is over; a refusal as
    /// its own variant; [`ClientError::ChangeInDoubt`] if an earlier try may have made the change and no later
    /// one could tell.
    pub async fn disallow(&self, name: &str) -> Result<bool, ClientError> {
        let request = DisallowNodeRequest {
            name: name.to_owned(),
        };
        let call = |mut cluster: Cluster| {
            let request = request.clone();
            async move { cluster.disallow_node(Request::new(request)).await }
        };
        let (answer, in_doubt) = self.change_on(call).await?;
        // If it was not allowed, an earlier try may have withdrawn it, whose answer was lost.
        Ok(answer.withdrawn || in_doubt)
    }

    /// Makes a token that lets one node join within `life_seconds`; 0: within an hour.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] or [`ClientError::Stalled`] once the client's timeout is over; a refusal as
    /// its own variant; [`ClientError::ChangeInDoubt`] if an earlier try may have made the change and no later
    /// one could tell.
    pub async fn join_token(&self, life_seconds: u32) -> Result<String, ClientError> {
        let request = CreateJoinTokenRequest { life_seconds };
        let call = |mut cluster: Cluster| async move {
            cluster.create_join_token(Request::new(request)).await
        };
        self.change(call).await.map(|answer| answer.token)
    }

    /// Hands leadership to `to`, or to the voter that is furthest on; answers with the new leader's name.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] or [`ClientError::Stalled`] once the client's timeout is over; a refusal as
    /// its own variant; [`ClientError::ChangeInDoubt`] if an earlier try may have made the change and no later
    /// one could tell.
    pub async fn transfer(&self, to: Option<&str>) -> Result<String, ClientError> {
        let request = TransferLeadershipRequest {
            to: to.unwrap_or_default().to_owned(),
        };
        let call = |mut cluster: Cluster| {
            let request = request.clone();
            async move { cluster.transfer_leadership(Request::new(request)).await }
        };
        self.change(call).await.map(|answer| answer.leader)
    }

    /// Has a node hand leadership on and stay out of it, over restarts, too. Answers with the leader's name by then:
    /// the node's own, if no other can lead; empty, if none is known.
    ///
    /// # Errors
    ///
    /// As [`Self::transfer`]'s.
    pub async fn drain(&self, name: &str) -> Result<String, ClientError> {
        let name = name.to_owned();
        let call = |mut cluster: Cluster| {
            let request = DrainNodeRequest { name: name.clone() };
            async move { cluster.drain_node(Request::new(request)).await }
        };
        self.change(call).await.map(|answer| answer.leader)
    }

    /// Lets a node lead again.
    ///
    /// # Errors
    ///
    /// As [`Self::transfer`]'s.
    pub async fn undrain(&self, name: &str) -> Result<(), ClientError> {
        let name = name.to_owned();
        let call = |mut cluster: Cluster| {
            let request = UndrainNodeRequest { name: name.clone() };
            async move { cluster.undrain_node(Request::new(request)).await }
        };
        self.change(call).await.map(drop)
    }

    /// Gives up the records before `first`; answers with the first offset that can be read now.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] or [`ClientError::Stalled`] once the client's timeout is over; a refusal as
    /// its own variant; [`ClientError::ChangeInDoubt`] if an earlier try may have made the change and no later
    /// one could tell.
    pub async fn trim(&self, first: u64) -> Result<u64, ClientError> {
        let request = TrimRequest {
            log: self.log.clone(),
            first_offset: first,
        };
        let call = |mut cluster: Cluster| {
            let request = request.clone();
            async move { cluster.trim(Request::new(request)).await }
        };
        self.change(call).await.map(|answer| answer.first_offset)
    }

    async fn change<T, F>(&self, call: impl Fn(Cluster) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.change_on(call).await.map(|(answer, _)| answer)
    }

    /// The answer, and whether an earlier try may have been carried out.
    async fn change_on<T, F>(&self, call: impl Fn(Cluster) -> F) -> Result<(T, bool), ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let call = |channel| call(Cluster::new(channel));
        self.changed(CHANGE_MAX, Again::Always, call).await
    }

    /// The answer to a question, which changes nothing; a server has `limit` for it.
    pub(super) async fn asked<T, F>(
        &self,
        limit: Duration,
        call: impl Fn(Limited) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut attempts = Attempts::new(&self.servers, None, self.timeout)?;
        let limit = limit.min(self.timeout);
        loop {
            let channel = limited(self.servers.channel(attempts.server()), limit);
            match within(limit, call(channel)).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => attempts.failed(&status).await?,
            }
        }
    }

    /// The answer to a change, and whether an earlier try may have made it; a server has `limit` for it.
    pub(super) async fn changed<T, F>(
        &self,
        limit: Duration,
        again: Again,
        call: impl Fn(Limited) -> F,
    ) -> Result<(T, bool), ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut attempts = Attempts::new(&self.servers, None, self.timeout)?;
        let limit = limit.min(self.timeout);
        let mut in_doubt = false;
        loop {
            let channel = limited(self.servers.channel(attempts.server()), limit);
            match within(limit, call(channel)).await {
                Ok(answer) => return Ok((answer.into_inner(), in_doubt)),
                Err(status) => {
                    in_doubt |= leaves_doubt(&status);
                    if in_doubt && again == Again::UnlessInDoubt {
                        return Err(ClientError::in_doubt(&status));
                    }
                    let failed = attempts.failed(&status).await;
                    failed.map_err(|error| error.after_doubt(in_doubt))?;
                }
            }
        }
    }
}

fn is_member(status: &GetStatusResponse, name: &str) -> bool {
    status.nodes.iter().any(|node| node.name == name)
}

fn status_error(server: &str, status: &Status, limit: Duration) -> ClientError {
    use tonic::Code::{Cancelled, DeadlineExceeded, Unavailable, Unknown};
    match status.code() {
        Unavailable | Unknown | Cancelled | DeadlineExceeded if !is_distrust(status) => {
            ClientError::Unreachable {
                servers: server.to_owned(),
                seconds: limit.as_secs(),
                cause: super::told::describe(status),
            }
        }
        _ => ClientError::of_status(server, status),
    }
}
