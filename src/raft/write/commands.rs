//! The replicated commands of clients and operators: on sessions, fences, cursors, trims and retention. Any node
//! takes a command.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::env::Random;
use crate::log::{LogId, Offset};
use crate::raft::entry::audit_line;
use crate::raft::entry::audited::{Audited, Note, Origin};
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

/// How long a command may wait for a leader, and who asked for it.
#[derive(Debug, Clone)]
pub struct Call {
    pub until: Instant,
    /// Told in the log of changes; `None` for what the node does by itself.
    pub origin: Option<Arc<Origin>>,
}

impl Call {
    /// Nobody asked for it.
    pub fn until(until: Instant) -> Self {
        let origin = None;
        Self { until, origin }
    }
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
        call: Call,
    ) -> Result<u64, ExecuteError> {
        let open = OpenSession {
            subject: subject.to_owned(),
            owner: owner::of_session(subject, secret),
            now_ms: 0,
            idle_before_ms: 0,
        };
        match self.execute(Command::OpenSession(open), call).await? {
            Outcome::Session(session) => Ok(session),
            _ => Err(ExecuteError::other_answer()),
        }
    }

    /// Forgets a session. If an owner is given, the session must be the owner's.
    pub async fn close_session(
        &self,
        session: u64,
        owner: Option<u128>,
        call: Call,
    ) -> Result<(), ExecuteError> {
        let close = CloseSession { session, owner };
        let closed = self.execute(Command::CloseSession(close), call);
        closed.await.map(drop)
    }

    /// Up to `count` sessions with an id above `after`, as far as this node has applied.
    pub fn sessions(&self, after: u64, count: usize) -> Vec<SessionInfo> {
        self.node.state.read(|fsm| fsm.sessions.list(after, count))
    }

    /// Gives the fence of this name to a new holder.
    pub async fn claim_epoch(&self, claim: ClaimEpoch, call: Call) -> Result<Claim, ExecuteError> {
        match self.execute(Command::ClaimEpoch(claim), call).await? {
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
    pub async fn delete_fence(&self, name: &str, call: Call) -> Result<bool, ExecuteError> {
        let delete = Command::DeleteFence(name.to_owned());
        self.delete(delete, call).await
    }

    /// Sets a cursor.
    pub async fn commit_cursor(
        &self,
        commit: CommitCursor,
        call: Call,
    ) -> Result<(), ExecuteError> {
        let committed = self.execute(Command::CommitCursor(commit), call);
        committed.await.map(drop)
    }

    /// Forgets a cursor of a log; false if there was none.
    pub async fn delete_cursor(
        &self,
        log: LogId,
        name: &str,
        call: Call,
    ) -> Result<bool, ExecuteError> {
        let delete = Command::DeleteCursor(log, name.to_owned());
        self.delete(delete, call).await
    }

    async fn delete(&self, command: Command, call: Call) -> Result<bool, ExecuteError> {
        match self.execute(command, call).await? {
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
        let call = Call::until(Instant::now() + CALL_WAIT);
        match self.execute(Command::ExpireSessions(before), call).await {
            Ok(_) => tracing::info!("forgot sessions that were idle for a day"),
            Err(error) => tracing::debug!(%error, "idle sessions stay for now"),
        }
    }

    /// Makes a log, or finds the one that there is.
    pub async fn create_log(&self, create: CreateLog, call: Call) -> Result<Made, ExecuteError> {
        self.make(Command::CreateLog(create), call).await
    }

    /// Replaces a log's configuration.
    pub async fn update_log(&self, update: UpdateLog, call: Call) -> Result<Made, ExecuteError> {
        self.make(Command::UpdateLog(update), call).await
    }

    async fn make(&self, command: Command, call: Call) -> Result<Made, ExecuteError> {
        match self.execute(command, call).await? {
            Outcome::Log(made) => Ok(made),
            _ => Err(ExecuteError::other_answer()),
        }
    }

    /// Deletes a log; false if there was none.
    pub async fn delete_log(&self, delete: DeleteLog, call: Call) -> Result<bool, ExecuteError> {
        self.delete(Command::DeleteLog(delete), call).await
    }

    /// Has a log compacted as soon as may be. Any member takes the call.
    pub async fn compact_log(&self, log: LogId, call: Call) -> Result<(), ExecuteError> {
        let asked = self.execute(Command::CompactLog(log), call);
        asked.await.map(drop)
    }

    /// Removes a log's first records on every replica. Returns the first offset that can be read from then
    /// on. Any member takes the call.
    pub async fn trim(&self, trim: Trim, call: Call) -> Result<Offset, ExecuteError> {
        match self.execute(Command::Trim(trim), call).await? {
            Outcome::Trimmed(first) => Ok(first),
            _ => Err(ExecuteError::other_answer()),
        }
    }

    /// The same for several logs at once, from here; those that are gone are passed over.
    pub(crate) async fn trim_logs(&self, trims: Vec<Trim>, call: Call) -> Result<(), ExecuteError> {
        let trimmed = self.execute(Command::TrimLogs(trims), call);
        trimmed.await.map(drop)
    }

    /// Sets how much of a log is kept. Any member takes the call.
    pub async fn set_retention(&self, set: SetRetention, call: Call) -> Result<(), ExecuteError> {
        let command = Command::SetRetention(set);
        self.execute(command, call).await.map(drop)
    }

    /// Tells these in the log of changes.
    pub async fn tell(&self, notes: Vec<Note>, call: Call) -> Result<(), ExecuteError> {
        let told = self.execute(Command::Notes(notes), call);
        told.await.map(drop)
    }

    /// A command with what is told of it, if somebody asked for it and it is one that is told.
    pub(super) fn with_record(&self, command: Command, origin: Option<&Origin>) -> Command {
        if let Command::Notes(notes) = command {
            let now_ms = self.stamps.next();
            let lines = notes.iter().map(|note| audit_line::of_note(note, now_ms));
            let lines: Vec<_> = lines.collect();
            return Command::Audited(Audited::new(Command::Notes(Vec::new()), &lines, now_ms));
        }
        let Some(origin) = origin.filter(|_| command.is_told()) else {
            return command;
        };
        let now_ms = self.stamps.next();
        let name_of = |id| {
            let name = |fsm: &Fsm| fsm.logs.get(id).map(|log| log.name.clone());
            self.node.state.read(name)
        };
        let line = audit_line::of_command(&command, origin, now_ms, name_of);
        tracing::info!(record = %line, "a change was asked for");
        Command::Audited(Audited::new(command, &[line], now_ms))
    }

    /// The same as [`Self::write_here`] for what somebody asked for.
    pub(crate) async fn write_told(
        &self,
        command: Command,
        origin: &Origin,
    ) -> Result<Outcome, MembershipError> {
        self.write_here(self.with_record(command, Some(origin)))
            .await
    }

    /// Replicates a command of the membership from here, within [`CALL_WAIT`]. Whoever calls this has checked it.
    pub(crate) async fn write_here(&self, command: Command) -> Result<Outcome, MembershipError> {
        let written = self.write(command, Instant::now() + CALL_WAIT).await;
        Ok(written?)
    }
}
