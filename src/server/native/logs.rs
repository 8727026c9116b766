//! Making, changing and deleting logs, and looking at them.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use tonic::Status;

use crate::name;
use crate::proto::v1::{
    self, CreateLogRequest, DeleteLogRequest, ListLogsRequest, ListLogsResponse, UpdateLogRequest,
};
use crate::raft::{
    Compaction, CreateLog, DeleteLog, Demands, KnownLog, LogConfig, ReplicatedLog, Retention,
    UpdateLog,
};

use super::super::Limits;
use super::super::api_context::{ApiContext, check_new_name};
use super::super::auth::{Action, Actions, Rights};
use super::super::pages::{page, page_of};
use super::super::status;
use super::be_current;
use super::cluster::check_wait;
use super::shared::cursor;
use crate::log::LogId;

/// The labels of a log, and the bytes of their keys and values. With as many logs as there may be, the state
/// stays below what a snapshot may hold.
pub const LABELS_MAX: usize = 8;
pub const LABELS_BYTES_MAX: usize = 192;
/// The names that are looked at before others have a turn.
pub const LOOKED_MAX: usize = 1000;
const TOKEN_BYTES_MAX: usize = 16;

/// What is kept of retention, from a request.
pub fn retention_of(wanted: v1::Retention) -> Result<Retention, Status> {
    let retention = Retention {
        max_bytes: Some(wanted.max_bytes).filter(|bytes| *bytes > 0),
        max_age_ms: Some(wanted.max_age_ms).filter(|age| *age > 0),
        wait_for_cursors: wanted.wait_for_cursors,
        wait_bytes_max: wanted.wait_bytes_max,
    };
    check_wait(&retention)?;
    Ok(retention)
}

/// Retention, for an answer.
pub fn retention_to(retention: Retention) -> v1::Retention {
    v1::Retention {
        max_bytes: retention.max_bytes.unwrap_or(0),
        max_age_ms: retention.max_age_ms.unwrap_or(0),
        wait_for_cursors: retention.wait_for_cursors,
        wait_bytes_max: retention.wait_bytes_max,
    }
}

fn config_of(limits: &Limits, config: Option<v1::LogConfig>) -> Result<LogConfig, Status> {
    let config = config.unwrap_or_default();
    let fits = |(key, value): (&String, &String)| {
        name::check(key).is_ok() && !value.chars().any(name::misleads)
    };
    let bytes = config
        .labels
        .iter()
        .map(|(key, value)| key.len() + value.len());
    let bytes: usize = bytes.sum();
    let few = config.labels.len() <= LABELS_MAX && bytes <= LABELS_BYTES_MAX;
    if !few || !config.labels.iter().all(fits) {
        return Err(status::invalid(format!(
            "a log has up to {LABELS_MAX} labels of {LABELS_BYTES_MAX} bytes in all, with keys and without \
             control characters"
        )));
    }
    let retention = retention_of(config.retention.unwrap_or_default())?;
    let most = limits.record_bytes_max;
    if config.record_bytes_max as usize > most {
        return Err(status::invalid(format!(
            "a log's record_bytes_max is 0 for none, or up to that of the nodes, {most} bytes, not {}",
            config.record_bytes_max
        )));
    }
    check_compaction(config.compaction.is_some(), &retention)?;
    Ok(LogConfig {
        retention,
        labels: config.labels.into_iter().collect(),
        demands: Demands {
            record_bytes_max: NonZeroU32::new(config.record_bytes_max),
            timestamps_required: config.timestamps_required,
            keys_required: config.compaction.is_some(),
        },
        compaction: config.compaction.map(|set| Compaction {
            min_age_ms: set.min_age_ms,
            tombstone_ms: set.tombstone_ms,
        }),
    })
}

pub fn log_to(id: LogId, log: KnownLog) -> v1::Log {
    let kept_bytes = log.marks.kept_bytes(log.ends, log.end());
    v1::Log {
        name: log.name,
        id: id.0,
        config: Some(v1::LogConfig {
            retention: Some(retention_to(log.config.retention)),
            labels: log.config.labels.into_iter().collect(),
            record_bytes_max: log
                .config
                .demands
                .record_bytes_max
                .map_or(0, NonZeroU32::get),
            timestamps_required: log.config.demands.timestamps_required,
            compaction: log.config.compaction.map(|set| v1::Compaction {
                min_age_ms: set.min_age_ms,
                tombstone_ms: set.tombstone_ms,
            }),
        }),
        epoch: log.epoch,
        first_offset: log.ends.first.0,
        next_offset: log.ends.next.0,
        appended_bytes: log.bytes,
        last_append_ms: log.last_append_ms,
        created_ms: log.created_ms,
        kept_bytes,
        slowest_cursor: None,
        stored_bytes: 0,
    }
}

/// The same with what their batches take in full segments here.
pub async fn with_stored(
    api: &ApiContext<ReplicatedLog>,
    log: &ReplicatedLog,
    mut told: Vec<v1::Log>,
) -> Result<Vec<v1::Log>, Status> {
    let (held, ids) = (log.log().clone(), told.iter().map(|log| LogId(log.id)));
    let ids: BTreeSet<_> = ids.collect();
    let count = move || held.stored_bytes(&ids);
    let stored = api.reading.on_disk("count of what is stored", count).await;
    let stored = stored.map_err(|error| status::log(&error))?;
    for log in &mut told {
        log.stored_bytes = stored.get(&LogId(log.id)).copied().unwrap_or(0);
    }
    Ok(told)
}

/// The same with the cursor that is furthest behind, for a caller that may see it.
pub fn with_cursor(log: &ReplicatedLog, rights: &Rights, mut told: v1::Log) -> v1::Log {
    if rights.may(Action::Consume, &told.name) {
        let all = log.of(LogId(told.id)).cursors("", usize::MAX);
        let slowest = all.into_iter().min_by_key(|(_, cursor)| cursor.offset);
        told.slowest_cursor = slowest.map(|(name, found)| cursor(name, found));
    }
    told
}

/// Makes a log; one that was made by the same call, or is as it would be, is answered.
pub async fn create(
    log: &ReplicatedLog,
    subject: &str,
    limits: &Limits,
    request: CreateLogRequest,
) -> Result<v1::Log, Status> {
    check_new_name(&request.name)?;
    if request.token.len() > TOKEN_BYTES_MAX {
        let what = format!("a token is up to {TOKEN_BYTES_MAX} bytes");
        return Err(status::invalid(what));
    }
    let create = CreateLog {
        name: request.name,
        config: config_of(limits, request.config)?,
        token: request.token,
        subject: subject.to_owned(),
        now_ms: 0,
        logs_max: limits.logs_max.get(),
    };
    let made = log.create_log(create).await;
    let made = made.map_err(|error| status::execute(&error))?;
    describe(&log.of(made.log)).await
}

/// What is known of a log.
pub async fn describe(log: &ReplicatedLog) -> Result<v1::Log, Status> {
    be_current(log).await?;
    let known = log.known().ok_or_else(status::log_deleted)?;
    Ok(log_to(log.id(), known))
}

/// A page of the logs that the caller has any right on.
pub async fn list(
    api: &ApiContext<ReplicatedLog>,
    log: &ReplicatedLog,
    rights: &Rights,
    request: &ListLogsRequest,
) -> Result<ListLogsResponse, Status> {
    be_current(log).await?;
    let size = page(request.page_size);
    let shown =
        |name: &str| name::is_meant(name, &request.prefix) && rights.may(Actions::ANY, name);
    let mut found = Vec::new();
    let mut after = request.page_token.clone();
    // A piece at a time, so that apply waits for no long look.
    while found.len() <= size {
        let left = size + 1 - found.len();
        let (more, looked) = log.logs(&request.prefix, &after, (left, LOOKED_MAX), shown);
        found.extend(more);
        let Some(looked) = looked else {
            break;
        };
        after = looked;
        tokio::task::yield_now().await;
    }
    let (found, next_page_token) = page_of(found, size, |(_, log)| log.name.clone());
    let logs = found
        .into_iter()
        .map(|(id, known)| with_cursor(log, rights, log_to(id, known)));
    Ok(ListLogsResponse {
        logs: with_stored(api, log, logs.collect()).await?,
        next_page_token,
    })
}

/// Replaces a log's configuration.
pub async fn update(
    log: &ReplicatedLog,
    limits: &Limits,
    request: UpdateLogRequest,
) -> Result<v1::Log, Status> {
    let update = UpdateLog {
        log: log.id(),
        config: config_of(limits, request.config)?,
        expected_epoch: request.expected_epoch,
    };
    let updated = log.update_log(update).await;
    updated.map_err(|error| status::execute(&error))?;
    describe(log).await
}

/// What a log holds that is compacted is bounded by its keys.
pub fn check_compaction(is_compacted: bool, retention: &Retention) -> Result<(), Status> {
    match is_compacted && retention.max_bytes.is_some() {
        true => Err(status::invalid(
            "a log that is compacted by key is not limited by bytes: what it holds is bounded by its keys; leave out \
             `max_bytes` or `compaction`",
        )),
        false => Ok(()),
    }
}

/// Has the log compacted as soon as may be.
pub async fn compact(log: &ReplicatedLog, name: &str) -> Result<(), Status> {
    let is_compacted = log
        .known()
        .is_some_and(|known| known.config.compaction.is_some());
    if !is_compacted {
        return Err(status::invalid(format!(
            "the log {name:?} is not compacted; `ferrolog log set {name} --compact key` has it compacted by key"
        )));
    }
    let asked = log.compact_log(log.id()).await;
    asked.map_err(|error| status::execute(&error))
}

/// Deletes a log; false if there is none of this name and id.
pub async fn delete(log: &ReplicatedLog, request: DeleteLogRequest) -> Result<bool, Status> {
    if request.id == LogId::DEFAULT.0 {
        return Err(status::invalid(
            "the default log cannot be deleted: trim it",
        ));
    }
    if request.id == LogId::AUDIT.0 {
        return Err(status::of_system(&request.name));
    }
    let delete = DeleteLog {
        name: request.name,
        log: LogId(request.id),
    };
    let deleted = log.delete_log(delete).await;
    deleted.map_err(|error| status::execute(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_and_the_api_tell_the_limits_of_labels_that_there_are() {
        let told = format!("at most {LABELS_MAX}, of {LABELS_BYTES_MAX} bytes in all");
        for source in [
            include_str!("../../client/info.rs"),
            include_str!("../../../proto/ferrolog/v1/log.proto"),
        ] {
            assert!(source.to_lowercase().contains(&told), "no {told:?}");
        }
    }

    #[test]
    fn a_configuration_is_within_the_limits() {
        let limits = Limits::default();
        let most = u32::try_from(limits.record_bytes_max).unwrap();
        let label = |number: usize, bytes: usize| (number.to_string(), "x".repeat(bytes - 1));
        let labels = |count: usize, bytes| v1::LogConfig {
            labels: (0..count).map(|number| label(number, bytes)).collect(),
            ..v1::LogConfig::default()
        };
        let record = |record_bytes_max| v1::LogConfig {
            record_bytes_max,
            ..v1::LogConfig::default()
        };
        let good = [
            labels(LABELS_MAX, LABELS_BYTES_MAX / LABELS_MAX),
            record(1),
            record(most),
        ];
        for config in good {
            let kept = config_of(&limits, Some(config.clone())).unwrap();
            let mut known = KnownLog::default();
            known.config = kept;
            let told = log_to(LogId(1), known).config.unwrap();
            assert_eq!(told.labels, config.labels);
            assert_eq!(told.record_bytes_max, config.record_bytes_max);
        }
        let bad = [
            labels(LABELS_MAX + 1, 2),
            labels(1, LABELS_BYTES_MAX + 1),
            record(most + 1),
        ];
        for config in bad {
            let refused = config_of(&limits, Some(config)).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        }
    }
}
