//! Trying again: which failure ends a call, which moves it to the next server, and when to give up.
//!
//! Every call that survives a lost server uses it. The caller decides which calls are safe to repeat.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

use super::ClientError;
use super::servers::{Calls, Rotation, Servers};
use super::told::{describe, is_distrust, is_retryable, leader_hint, room_comes_in};
use crate::reason::Reason;
use crate::retry::{self, Pauses};

/// The tries of one caller, up to a time without progress.
pub(super) struct Attempts {
    servers: Arc<Servers>,
    rotation: Rotation,
    pauses: Pauses,
    timeout: Duration,
    since: Instant,
    /// Failures in a row that were refused handshakes.
    distrusted: usize,
    answered: bool,
    /// What a server said last. A connection that failed since says less.
    told: Option<String>,
}

impl Attempts {
    pub(super) fn new(
        servers: &Arc<Servers>,
        only: Option<&str>,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            servers: Arc::clone(servers),
            rotation: servers.rotation(only)?,
            pauses: Pauses::default(),
            timeout,
            since: Instant::now(),
            distrusted: 0,
            answered: false,
            told: None,
        })
    }

    /// Begins with this server, if one is named.
    pub(super) fn beginning_at(mut self, server: Option<String>) -> Self {
        self.rotation.prefer(server);
        self
    }

    /// How many servers there are to try.
    pub(super) fn len(&self) -> usize {
        self.rotation.len()
    }

    /// The server whose turn it is.
    pub(super) fn server(&self) -> &str {
        self.rotation.current()
    }

    /// Notes progress: the time after which the caller gives up starts anew.
    pub(super) fn progressed(&mut self) {
        self.waiting_since(Instant::now());
        self.answered = true;
        self.told = None;
        self.distrusted = 0;
        self.pauses.reset();
    }

    /// Counts the time to give up from `since`, for a caller that was idle meanwhile.
    pub(super) fn waiting_since(&mut self, since: Instant) {
        self.since = since;
    }

    /// Takes note of a failure: waits a little and moves to the next server, or says why it is over.
    pub(super) async fn failed(&mut self, status: &Status) -> Result<(), ClientError> {
        let server = self.rotation.current();
        self.servers.forget_if_dead(server, status);
        if is_distrust(status) {
            // One node with a bad certificate must not stop a client that the others would serve.
            self.distrusted += 1;
            if self.distrusted >= self.rotation.len() {
                return Err(ClientError::of_status(server, status));
            }
        } else if is_retryable(status) {
            self.distrusted = 0;
        } else {
            return Err(ClientError::of_status(server, status));
        }
        if Reason::of(status).is_some() {
            self.answered = true;
            self.told = Some(describe(status));
        }
        if self.since.elapsed() >= self.timeout {
            return Err(self.give_up(status));
        }
        tracing::debug!(server, cause = describe(status), "trying another server");
        self.rotation.advance(leader_hint(status));
        match room_comes_in(status) {
            // All whom the node refused wait as long.
            Some(delay) => tokio::time::sleep(retry::spread(delay).min(self.timeout)).await,
            None => self.pauses.wait().await,
        }
        Ok(())
    }

    fn give_up(&self, status: &Status) -> ClientError {
        let servers = if self.rotation.is_pinned() {
            self.rotation.current().to_owned()
        } else {
            self.servers.names()
        };
        let seconds = self.since.elapsed().as_secs();
        let cause = self.told.clone().unwrap_or_else(|| describe(status));
        match self.answered {
            true => ClientError::Stalled {
                servers,
                seconds,
                cause,
            },
            false => ClientError::Unreachable {
                servers,
                seconds,
                cause,
            },
        }
    }
}

/// Limits one wait on a server, so that the client leaves a frozen server.
pub(super) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    tokio::select! {
        // The channel has the same limit from [`Limit`]. This one says what it means.
        biased;
        () = tokio::time::sleep(limit) => {
            Err(Status::deadline_exceeded(format!("no answer within {limit:?}")))
        }
        answer = call => answer,
    }
}

/// A channel for single calls, which tell the server how long the client waits: a server that finds no leader
/// says so in time, instead of leaving the client in doubt.
pub(super) type Limited = InterceptedService<Calls, Limit>;

/// Puts the limit on each call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit(Duration);

impl Interceptor for Limit {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.set_timeout(self.0);
        Ok(request)
    }
}

/// The channel to a server, for calls whose answers are waited for so long.
pub(super) fn limited(channel: Calls, limit: Duration) -> Limited {
    InterceptedService::new(channel, Limit(limit))
}
