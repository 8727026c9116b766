//! The replicated commands of clients and operators: on sessions, fences, cursors, trims and retention. Any node
//! takes a command.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::env::Random;
use crate::log::{LogId, Offset};
use crate::raft::entry::catalog::{CreateLog, DeleteLog, SetRetention, Trim, UpdateLog};
use crate::raft::entry::command::{ClaimEpoch, CloseSession, Command, CommitCursor, OpenSession};
use crate::raft::entry::outcome::{Made, Outcome};
use crate::raft::entry::owner;
use crate::raft::error::{ExecuteError, MembershipError};
use crate::raft::node::Node;
use crate::raft::state::cursors::Cursor;
use crate::raft::state::fences::Epoch;
use crate::raft::state::fsm::Fsm;
use crate::raft::state::sessions::SessionInfo;
use crate::retry::CALL_WAIT;

use super::stamps::Stamps;

/// A session is forgotten after it was unused for so long.
pub const SESSION_IDLE_MS_MAX: u64 = 24 * 3600 * 1000;
const SESSION_IDLE_MAX: Duration = Duration::from_millis(SESSION_IDLE_MS_MAX);

/// The answer to a claim of a fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The name's new epoch.
    pub epoch: u64,
    /// No record of an older epoch is at or behind this offset.
    pub next_offset: Offset,
}

/// Carries out commands. Each call waits for a leader until a time that its caller gives.
pub struct Commands {
    pub(super) node: Arc<Node>,
    pub(super) stamps: Stamps,
    /// The names that may join the cluster that this node began.
    pub(super) founding: Vec<String>,
    pub(super) random: Random,
}

impl Commands {
    pub fn new(node: Arc<Node>, stamps: Stamps, founding: Vec<String>, random: Random) -> Self {
        Self {
            node,
            stamps,
            founding,
            random,
        }
    }

    /// Opens a producer's session. The same subject with the same secret gets the same session again.
    pub async fn open_session(
        &self,
        subject: &str,
        secret: u128,
        until: Instant,
    ) -> Result<u64, ExecuteError> {
        let open = OpenSession {
            subject: subject.to_owned(),
            owner: owner::of_session(subject, secret),
            now_ms: 0,
            idle_before_ms: 0,
        };
        match self.execute(Command::OpenSession(open), until).await? {
            Outcome::Session(session) => Ok(session),
            _ => Err(ExecuteError::other_answer()),
        }
    }

    /// Forgets a session. If an owner is given, the session must be the owner's.
    pub async fn close_session(
        &self,
        session: u64,
        owner: Option<u128>,
        until: Instant,
    ) -> Result<(), ExecuteError> {
        let close = CloseSession { session, owner };
        let closed = self.execute(Command::CloseSession(close), until);
        closed.await.map(drop)
    }

    /// Up to `count` sessions with an id above `after`, as far as this node has applied.
    pub fn sessions(&self, after: u64, count: usize) -> Vec<SessionInfo> {
        self.node.state.read(|fsm| fsm.sessions.list(after, count))
    }

    /// Gives the fence of this name to a new holder.
    pub async fn claim_epoch(
        &self,
        claim: ClaimEpoch,
        until: Instant,
    ) -> Result<Claim, ExecuteError> {
        match self.execute(Command::ClaimEpoch(claim), until).await? {
            Outcome::Claimed(epoch, next_offset) => Ok(Claim { epoch, next_offset }),
            _ => Err(ExecuteError::other_answer()),
        }
    }

    /// Who holds the fence of this name, as far as this node has applied.
    pub fn epoch(&self, name: &str) -> Option<Epoch> {
        self.node.state.read(|fsm| fsm.fences.get(name).cloned())
    }

    /// Up to `count` fences with a name above `after`, as far as this node has applied.
    pub fn fences(&self, after: &str, count: usize) -> Vec<(String, Epoch)> {
        self.node.state.read(|fsm| fsm.fences.list(after, count))
    }

    /// Forgets a fence; false if there was none of this name.
    pub async fn delete_fence(&self, name: &str, until: Instant) -> Result<bool, ExecuteError> {
        let delete = Command::DeleteFence(name.to_owned());
        self.delete(delete, until).await
    }

    /// Sets a cursor.
    pub async fn commit_cursor(
        &self,
        commit: CommitCursor,
        until: Instant,
    ) -> Result<(), ExecuteError> {
        let committed = self.execute(Command::CommitCursor(commit), until);
        committed.await.map(drop)
    }

    /// Forgets a cursor of a log; false if there was none.
    pub async fn delete_cursor(
        &self,
        log: LogId,
        name: &str,
        until: Instant,
    ) -> Result<bool, ExecuteError> {
        let delete = Command::DeleteCursor(log, name.to_owned());
        self.delete(delete, until).await
    }

    async fn delete(&self, command: Command, until: Instant) -> Result<bool, ExecuteError> {
        match self.execute(command, until).await? {
            Outcome::Deleted(deleted) => Ok(deleted),
            _ => Err(ExecuteError::other_answer()),
        }
    }

    /// A cursor of a log, as far as this node has applied.
    pub fn cursor(&self, log: LogId, name: &str) -> Option<Cursor> {
        self.node
            .state
            .read(|fsm| fsm.cursors.get(log, name).copied())
    }

    /// Up to `count` cursors of a log with a name above `after`, as far as this node has applied.
    pub fn cursors(&self, log: LogId, after: &str, count: usize) -> Vec<(String, Cursor)> {
        let state = &self.node.state;
        state.read(|fsm| fsm.cursors.list(log, after, count))
    }

    /// Forgets sessions that were unused for [`SESSION_IDLE_MS_MAX`], if this node leads.
    pub(crate) async fn expire_sessions(&self) {
        let before = self.idle_before_ms(SESSION_IDLE_MAX);
        let any_idle = |fsm: &Fsm| fsm.sessions.any_idle(before);
        if !self.node.view().writable || !self.node.state.read(any_idle) {
            return;
        }
        let until = Instant::now() + CALL_WAIT;
        match self.execute(Command::ExpireSessions(before), until).await {
            Ok(_) => tracing::info!("forgot sessions that were idle for a day"),
            Err(error) => tracing::debug!(%error, "idle sessions stay for now"),
        }
    }

    /// Makes a log, or finds the one that there is.
    pub async fn create_log(
        &self,
        create: CreateLog,
        until: Instant,
    ) -> Result<Made, ExecuteError> {
        self.make(Command::CreateLog(create), until).await
    }

    /// Replaces a log's configuration.
    pub async fn update_log(
        &self,
        update: UpdateLog,
        until: Instant,
    ) -> Result<Made, ExecuteError> {
        self.make(Command::UpdateLog(update), until).await
    }

    async fn make(&self, command: Command, until: Instant) -> Result<Made, ExecuteError> {
        match self.execute(command, until).await? {
            Outcome::Log(made) => Ok(made),
            _ => Err(ExecuteError::other_answer()),
        }
    }

    /// Deletes a log; false if there was none.
    pub async fn delete_log(
        &self,
        delete: DeleteLog,
        until: Instant,
    ) -> Result<bool, ExecuteError> {
        self.delete(Command::DeleteLog(delete), until).await
    }

    /// Removes a log's first records on every replica. Returns the first offset that can be read from then
    /// on. Any member takes the call.
    pub async fn trim(&self, trim: Trim, until: Instant) -> Result<Offset, ExecuteError> {
        match self.execute(Command::Trim(trim), until).await? {
            Outcome::Trimmed(first) => Ok(first),
            _ => Err(ExecuteError::other_answer()),
        }
    }

    /// The same for several logs at once, from here; those that are gone are passed over.
    pub(crate) async fn trim_logs(
        &self,
        trims: Vec<Trim>,
        until: Instant,
    ) -> Result<(), ExecuteError> {
        let trimmed = self.execute(Command::TrimLogs(trims), until);
        trimmed.await.map(drop)
    }

    /// Sets how much of a log is kept. Any member takes the call.
    pub async fn set_retention(
        &self,
        set: SetRetention,
        until: Instant,
    ) -> Result<(), ExecuteError> {
        let command = Command::SetRetention(set);
        self.execute(command, until).await.map(drop)
    }

    /// Replicates a command of the membership from here, within [`CALL_WAIT`]. Whoever calls this has checked it.
    pub(crate) async fn write_here(&self, command: Command) -> Result<Outcome, MembershipError> {
        let written = self.write(command, Instant::now() + CALL_WAIT).await;
        Ok(written?)
    }
}
