//! Decides who may join: by the names that operators allow, and by the tokens that they hand out.

use std::time::Duration;

use tokio::time::Instant;

use crate::net::Security;
use crate::raft::entry::admission::{Admission, Entrance};
use crate::raft::entry::command::Command;
use crate::raft::entry::outcome::Outcome;
use crate::raft::entry::owner;
use crate::raft::error::{ExecuteError, WriteFailure};
use crate::retry::CALL_WAIT;

use super::commands::{Call, Commands};

/// The longest life of a token that lets a node join.
pub const TOKEN_LIFE_MAX: Duration = Duration::from_hours(24);

impl Commands {
    /// How a node that shows this token may join. An empty token is none.
    pub(crate) fn entrance(&self, token: &str) -> Entrance {
        match self.node.transport.security() {
            Security::Insecure => Entrance::Open,
            Security::Mutual(_) if token.is_empty() => Entrance::Name,
            Security::Mutual(_) => Entrance::Token {
                digest: owner::of_token(token),
                now_ms: self.stamps.next(),
            },
        }
    }

    /// Allows the names that the first node's settings list, once in the cluster's life. The leader does this
    /// before it decides who may join, and before it changes the list.
    pub(crate) async fn found(&self) -> Result<(), WriteFailure> {
        if self.founding.is_empty() || self.node.state.read(|fsm| fsm.admissions.is_founded()) {
            return Ok(());
        }
        let command = Command::Admission(Admission::Allow {
            names: self.founding.clone(),
            founding: true,
        });
        self.write(command, Instant::now() + CALL_WAIT)
            .await
            .map(drop)
    }

    /// Does the same as soon as this node leads, so that the status shows the names.
    pub(crate) async fn found_in_time(&self) {
        if self.node.view().writable
            && let Err(error) = self.found().await
        {
            tracing::debug!(?error, "who may join is not known yet");
        }
    }

    /// Lets a node of this name join, once.
    pub async fn allow(&self, name: &str, call: Call) -> Result<(), ExecuteError> {
        let names = vec![name.to_owned()];
        let founding = false;
        let change = Admission::Allow { names, founding };
        let allowed = self.execute(Command::Admission(change), call);
        allowed.await.map(drop)
    }

    /// Forbids a name to join; false if it was not allowed, or has joined.
    pub async fn withdraw(&self, name: &str, call: Call) -> Result<bool, ExecuteError> {
        let change = Admission::Withdraw(name.to_owned());
        match self.execute(Command::Admission(change), call).await? {
            Outcome::Deleted(withdrawn) => Ok(withdrawn),
            _ => Err(ExecuteError::other_answer()),
        }
    }

    /// Makes a token that lets one node join, within `life`.
    pub async fn make_token(&self, life: Duration, call: Call) -> Result<String, ExecuteError> {
        let token = format!("{:032x}", self.random.next_u128());
        let life = life.min(TOKEN_LIFE_MAX).as_millis();
        let change = Admission::Token {
            digest: owner::of_token(&token),
            // The leader fills the time in.
            now_ms: 0,
            life_ms: u64::try_from(life).unwrap_or(u64::MAX),
        };
        self.execute(Command::Admission(change), call).await?;
        Ok(token)
    }

    /// The names that may join, as far as this node has applied.
    pub fn allowed(&self) -> Vec<String> {
        self.node
            .state
            .read(|fsm| fsm.admissions.allowed().cloned().collect())
    }
}
