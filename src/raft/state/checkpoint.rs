//! The state as it is made durable and sent: a checkpoint, and the rows of its tables.

use prost::Message;

use crate::log::{self, Index, Position};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::types::{self, StoredMembership};
use crate::raft::entry::wire_error::WireError;

use super::admissions::Admissions;
use super::cursors::Cursors;
use super::fences::Fences;
use super::fsm::Fsm;
use super::logs::Logs;
use super::logs::rewrites::Rewrites;
use super::registrations::Registrations;
use super::sessions::Sessions;
use super::table::Change;

impl Fsm {
    /// The state without the rows of its tables. `next` is the position that the next record gets.
    pub fn to_checkpoint(&self, next: Position) -> pb::Checkpoint {
        pb::Checkpoint {
            applied: self.applied.as_ref().map(types::log_id_to_pb),
            next_position: next.0,
            membership_log_id: self.membership.log_id().as_ref().map(types::log_id_to_pb),
            membership: Some(types::membership_to_pb(self.membership.membership())),
            registrations: self.registrations.to_pb(),
            next_log: self.logs.next_id(),
            forgotten_deletion: self.logs.history.forgotten(),
            deleted_epoch: self.fences.deleted_epoch(),
            timestamp_ms: self.timestamp_ms,
            admissions: self.admissions.to_pb(),
            rolled: self.rolled.0,
        }
    }

    /// The rows of its tables.
    pub fn to_rows(&self) -> impl Iterator<Item = pb::StateRow> + '_ {
        let sessions = self.sessions.by_id.to_pb();
        let cursors = self.cursors.0.to_pb();
        let fences = self.fences.names.to_pb();
        let logs = self.logs.by_id.to_pb();
        let gone = self.logs.history.gone.to_pb();
        let rewrites = self.rewrites.0.to_pb();
        sessions
            .chain(cursors)
            .chain(fences)
            .chain(logs)
            .chain(gone)
            .chain(rewrites)
    }

    /// The rows of all tables as they are stored.
    pub fn stored_rows(&self) -> impl Iterator<Item = Change> + '_ {
        let sessions = self.sessions.by_id.stored();
        let cursors = self.cursors.0.stored();
        let fences = self.fences.names.stored();
        let logs = self.logs.by_id.stored();
        let gone = self.logs.history.gone.stored();
        let rewrites = self.rewrites.0.stored();
        sessions
            .chain(cursors)
            .chain(fences)
            .chain(logs)
            .chain(gone)
            .chain(rewrites)
    }

    /// What changed since the last durable checkpoint. The caller writes it to the stable store, and then calls
    /// [`Self::saved`].
    pub fn take_changes(&mut self, next: Position) -> Changes {
        let mut rows = Vec::new();
        if self.is_stored {
            self.sessions.by_id.take_changes(&mut rows);
            self.cursors.0.take_changes(&mut rows);
            self.fences.names.take_changes(&mut rows);
            self.logs.by_id.take_changes(&mut rows);
            self.logs.history.gone.take_changes(&mut rows);
            self.rewrites.0.take_changes(&mut rows);
        } else {
            self.sessions.by_id.take_all(&mut rows);
            self.cursors.0.take_all(&mut rows);
            self.fences.names.take_all(&mut rows);
            self.logs.by_id.take_all(&mut rows);
            self.logs.history.gone.take_all(&mut rows);
            self.rewrites.0.take_all(&mut rows);
        }
        Changes {
            checkpoint: self.to_checkpoint(next),
            is_all: !self.is_stored,
            rows,
        }
    }

    /// Says whether the changes that were taken are durable. If not, [`Self::take_changes`] gives them again.
    pub fn saved(&mut self, is_durable: bool) {
        if is_durable {
            self.is_stored = true;
            self.sessions.by_id.saved();
            self.cursors.0.saved();
            self.fences.names.saved();
            self.logs.by_id.saved();
            self.logs.history.gone.saved();
            self.rewrites.0.saved();
        } else {
            self.sessions.by_id.not_saved();
            self.cursors.0.not_saved();
            self.fences.names.not_saved();
            self.logs.by_id.not_saved();
            self.logs.history.gone.not_saved();
            self.rewrites.0.not_saved();
        }
    }

    /// The state of a checkpoint and its rows.
    ///
    /// # Errors
    ///
    /// [`WireError`] if a part is missing or unknown, a row comes twice, or a table has more rows than it may have.
    pub fn restore(
        checkpoint: pb::Checkpoint,
        rows: impl IntoIterator<Item = pb::StateRow>,
    ) -> Result<Self, WireError> {
        use pb::state_row::Row;
        let membership = membership_of(&checkpoint)?;
        let mut fsm = Self {
            applied: checkpoint.applied.as_ref().map(types::log_id_from_pb),
            membership,
            registrations: Registrations::from_pb(checkpoint.registrations),
            sessions: Sessions::default(),
            logs: Logs::to_be_restored(checkpoint.next_log, checkpoint.forgotten_deletion),
            rewrites: Rewrites::default(),
            cursors: Cursors::default(),
            fences: Fences::default(),
            timestamp_ms: checkpoint.timestamp_ms,
            admissions: Admissions::from_pb(checkpoint.admissions.unwrap_or_default())?,
            rolled: Index(checkpoint.rolled),
            is_stored: true,
        };
        fsm.fences.restore_deleted_epoch(checkpoint.deleted_epoch)?;
        for row in rows {
            match row.row.ok_or(WireError::Missing("row"))? {
                Row::Session(session) => fsm.sessions.restore(&session)?,
                Row::Cursor(cursor) => fsm.cursors.restore(cursor)?,
                Row::Fence(fence) => fsm.fences.restore(fence)?,
                Row::Log(log) => fsm.logs.restore(log)?,
                Row::Gone(gone) => fsm.logs.history.restore_gone(gone)?,
                Row::Rewriting(row) => fsm.rewrites.restore(row)?,
            }
        }
        if !fsm.logs.is_whole() {
            return Err(WireError::Missing("default log"));
        }
        Ok(fsm)
    }

    /// What the log needs to know of a checkpoint of this state. `next` is the position that the next record gets.
    /// `None` before the first applied entry.
    pub fn covered(&self, next: Position) -> Option<log::Checkpoint> {
        let applied = self.applied.as_ref()?;
        Some(log::Checkpoint {
            applied: Index(applied.index),
            next_position: next,
            rolled: self.rolled,
            logs: self.logs.ends(),
        })
    }

    /// Notes that the stable store holds nothing of this state yet: the next checkpoint writes every row.
    pub fn not_stored(mut self) -> Self {
        self.is_stored = false;
        self
    }
}

/// What changed in the state.
#[derive(Debug)]
pub struct Changes {
    /// The state without its tables.
    pub checkpoint: pb::Checkpoint,
    /// The rows that changed.
    pub rows: Vec<Change>,
    /// Whether these are all rows of the state. If so, every other row in the stable store is deleted.
    pub is_all: bool,
}

impl Changes {
    /// About how many bytes are to be written.
    pub fn bytes(&self) -> usize {
        let rows = self.rows.iter();
        let bytes = rows.map(|(key, row)| key.len() + row.as_ref().map_or(0, Vec::len));
        self.checkpoint.encoded_len() + bytes.sum::<usize>()
    }
}

/// The membership of a checkpoint.
pub fn membership_of(checkpoint: &pb::Checkpoint) -> Result<StoredMembership, WireError> {
    let id = checkpoint.membership_log_id.as_ref();
    let membership = checkpoint.membership.clone().unwrap_or_default();
    Ok(StoredMembership::new(
        id.map(types::log_id_from_pb),
        types::membership_from_pb(membership)?,
    ))
}
