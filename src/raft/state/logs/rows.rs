//! A log as a row of checkpoints and snapshots.

use crate::log::{Ends, Index, LogId, Offset};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::catalog::LogConfig;
use crate::raft::entry::wire_error::WireError;
use crate::raft::state::marks::Marks;
use crate::raft::state::table;

use super::KnownLog;

impl KnownLog {
    /// Takes over a row of a checkpoint.
    pub(super) fn from_pb(log: pb::Log) -> Result<Self, WireError> {
        Ok(Self {
            config: LogConfig::from_pb(log.config.unwrap_or_default()),
            epoch: log.epoch,
            ends: Ends {
                first: Offset(log.first_offset),
                next: Offset(log.next_offset),
            },
            bytes: log.bytes,
            last_append_ms: log.last_append_ms,
            created_ms: log.created_ms,
            subject: log.subject,
            token: log.token,
            marks: Marks::from_pb(&log.marks.unwrap_or_default())
                .ok_or(WireError::Unknown("mark"))?,
            made: Index(log.made),
            changed: Index(log.changed),
            compaction_asked: Index(log.compaction_asked),
            has_gaps: log.has_gaps,
            name: log.name,
        })
    }
}

impl table::Kept for KnownLog {
    type Key = LogId;

    fn stored_key(id: &LogId) -> Vec<u8> {
        [&b"log/"[..], &id.0.to_be_bytes()].concat()
    }

    fn to_pb(&self, id: &LogId) -> pb::StateRow {
        let log = pb::Log {
            id: id.0,
            name: self.name.clone(),
            config: Some(self.config.to_pb()),
            epoch: self.epoch,
            first_offset: self.ends.first.0,
            next_offset: self.ends.next.0,
            bytes: self.bytes,
            last_append_ms: self.last_append_ms,
            created_ms: self.created_ms,
            subject: self.subject.clone(),
            token: self.token.clone(),
            made: self.made.0,
            changed: self.changed.0,
            compaction_asked: self.compaction_asked.0,
            has_gaps: self.has_gaps,
            marks: Some(self.marks.to_pb()).filter(|marks| !marks.offsets.is_empty()),
        };
        pb::StateRow {
            row: Some(pb::state_row::Row::Log(log)),
        }
    }
}
