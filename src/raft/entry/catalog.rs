//! The commands that make, change and delete logs.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use bytes::Bytes;

use crate::log::{self, Gone, Index, LogId, Offset, Rewrite};
use crate::proto::raft_v1 as pb;

use super::command::Retention;
use super::wire_error::WireError;

/// What is set for a log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogConfig {
    /// How much of it is kept.
    pub retention: Retention,
    /// What people and programs note down about it.
    pub labels: BTreeMap<String, String>,
    pub demands: Demands,
    /// Whether records give way to later ones of their keys.
    pub compaction: Option<Compaction>,
}

/// How a log is compacted by key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compaction {
    /// No younger record goes, in milliseconds.
    pub min_age_ms: u64,
    /// How long a tombstone stays, in milliseconds.
    pub tombstone_ms: u64,
}

/// What a log asks of its records. The node that a batch comes to checks this, by the configuration that it has
/// applied. Apply does not check it: there a batch is one piece of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demands {
    /// The largest record, in bytes; `None`: what the nodes take.
    pub record_bytes_max: Option<NonZeroU32>,
    /// Whether each record needs a time of the client's.
    pub timestamps_required: bool,
    /// Whether each record needs a key: the log is compacted by it.
    pub keys_required: bool,
}

impl LogConfig {
    pub fn to_pb(&self) -> pb::LogConfig {
        pb::LogConfig {
            retention: Some(self.retention.to_pb()),
            labels: self.labels.iter().map(label).collect(),
            record_bytes_max: self.demands.record_bytes_max.map_or(0, NonZeroU32::get),
            timestamps_required: self.demands.timestamps_required,
            compaction: self.compaction.map(|set| pb::Compaction {
                min_age_ms: set.min_age_ms,
                tombstone_ms: set.tombstone_ms,
            }),
        }
    }

    pub fn from_pb(config: pb::LogConfig) -> Self {
        Self {
            retention: Retention::from_pb(config.retention.unwrap_or_default()),
            labels: config
                .labels
                .into_iter()
                .map(|label| (label.key, label.value))
                .collect(),
            demands: Demands {
                record_bytes_max: NonZeroU32::new(config.record_bytes_max),
                timestamps_required: config.timestamps_required,
                keys_required: config.compaction.is_some(),
            },
            compaction: config.compaction.map(|set| Compaction {
                min_age_ms: set.min_age_ms,
                tombstone_ms: set.tombstone_ms,
            }),
        }
    }
}

fn label((key, value): (&String, &String)) -> pb::Label {
    pb::Label {
        key: key.clone(),
        value: value.clone(),
    }
}

/// A log to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateLog {
    /// 1 to 128 bytes.
    pub name: String,
    pub config: LogConfig,
    /// A retry of the call has the same token; may be empty.
    pub token: Bytes,
    /// Who makes it; empty without TLS.
    pub subject: String,
    /// The leader's time, in milliseconds since 1970.
    pub now_ms: u64,
    /// How many logs there may be.
    pub logs_max: u32,
}

/// A log's configuration to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateLog {
    pub log: LogId,
    pub config: LogConfig,
    /// Replaced only if the configuration has this epoch.
    pub expected_epoch: Option<u64>,
}

/// A log to be deleted, with its records and its cursors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteLog {
    pub name: String,
    /// Deleted only if it has this id: another log may have been made under the name.
    pub log: LogId,
}

/// The records of a log to be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trim {
    pub log: LogId,
    /// The first offset that stays.
    pub first: Offset,
}

/// A log's retention to be replaced, whatever else is in its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetRetention {
    pub log: LogId,
    pub retention: Retention,
}

impl SetRetention {
    pub fn to_pb(&self) -> pb::SetRetention {
        let retention = self.retention.to_pb();
        pb::SetRetention {
            max_bytes: retention.max_bytes,
            max_age_ms: retention.max_age_ms,
            wait_for_cursors: retention.wait_for_cursors,
            wait_bytes_max: retention.wait_bytes_max,
            log: self.log.0,
        }
    }

    pub fn from_pb(set: pb::SetRetention) -> Self {
        let retention = pb::Retention {
            max_bytes: set.max_bytes,
            max_age_ms: set.max_age_ms,
            wait_for_cursors: set.wait_for_cursors,
            wait_bytes_max: set.wait_bytes_max,
        };
        Self {
            log: LogId(set.log),
            retention: Retention::from_pb(retention),
        }
    }
}

impl Trim {
    pub fn to_pb(self) -> pb::Trim {
        pb::Trim {
            first_offset: self.first.0,
            log: self.log.0,
        }
    }

    pub fn from_pb(trim: pb::Trim) -> Self {
        Self {
            log: LogId(trim.log),
            first: Offset(trim.first_offset),
        }
    }
}

impl CreateLog {
    pub fn to_pb(&self) -> pb::CreateLog {
        pb::CreateLog {
            name: self.name.clone(),
            config: Some(self.config.to_pb()),
            token: self.token.clone(),
            subject: self.subject.clone(),
            now_ms: self.now_ms,
            logs_max: self.logs_max,
        }
    }

    pub fn from_pb(create: pb::CreateLog) -> Self {
        Self {
            name: create.name,
            config: LogConfig::from_pb(create.config.unwrap_or_default()),
            token: create.token,
            subject: create.subject,
            now_ms: create.now_ms,
            logs_max: create.logs_max,
        }
    }
}

impl UpdateLog {
    pub fn to_pb(&self) -> pb::UpdateLog {
        pb::UpdateLog {
            log: self.log.0,
            config: Some(self.config.to_pb()),
            expected_epoch: self.expected_epoch,
        }
    }

    pub fn from_pb(update: pb::UpdateLog) -> Self {
        Self {
            log: LogId(update.log),
            config: LogConfig::from_pb(update.config.unwrap_or_default()),
            expected_epoch: update.expected_epoch,
        }
    }
}

impl DeleteLog {
    pub fn to_pb(&self) -> pb::DeleteLog {
        pb::DeleteLog {
            name: self.name.clone(),
            log: self.log.0,
        }
    }

    pub fn from_pb(delete: pb::DeleteLog) -> Self {
        Self {
            name: delete.name,
            log: LogId(delete.log),
        }
    }
}

/// The most logs of which a rewriting says where they begin.
pub const REWRITE_LOGS_MAX: usize = 1 << 16;
/// The most segments that give way to one.
pub const REWRITE_SEGMENTS_MAX: usize = 64;

pub fn rewrite_to_pb(plan: &Rewrite) -> pb::Rewrite {
    pb::Rewrite {
        base: plan.base.0,
        next: plan.next.0,
        sealed_ms: plan.sealed_ms,
        logs: plan.firsts.keys().map(|log| log.0).collect(),
        firsts: plan.firsts.values().map(|first| first.0).collect(),
        compacted: plan.compacted.iter().map(|log| log.0).collect(),
        gone: plan.gone.bytes().clone(),
        of: plan.of.iter().map(|at| at.map_or(0, |at| at.0)).collect(),
        begins: plan.begins.0,
    }
}

/// What the entry `at` says is to be rewritten.
pub fn rewrite_from_pb(plan: pb::Rewrite, at: Index) -> Result<Rewrite, WireError> {
    let is_possible = plan.base < plan.next
        && plan.begins <= plan.base
        && plan.next <= log::NUMBER_MAX
        && plan.logs.len() == plan.firsts.len()
        && plan.logs.len() <= REWRITE_LOGS_MAX
        && plan.compacted.len() <= REWRITE_LOGS_MAX
        && (1..=REWRITE_SEGMENTS_MAX).contains(&plan.of.len());
    const BAD: WireError = WireError::Unknown("segments to rewrite");
    if !is_possible {
        return Err(BAD);
    }
    let logs = plan.logs.into_iter().map(LogId);
    let rewritten = |at| (at > 0).then_some(Index(at));
    Ok(Rewrite {
        at,
        base: Index(plan.base),
        next: Index(plan.next),
        begins: Index(plan.begins),
        sealed_ms: plan.sealed_ms,
        firsts: logs.zip(plan.firsts.into_iter().map(Offset)).collect(),
        compacted: plan.compacted.into_iter().map(LogId).collect(),
        gone: Gone::from_bytes(plan.gone).map_err(|_| BAD)?,
        of: plan.of.into_iter().map(rewritten).collect(),
    })
}
