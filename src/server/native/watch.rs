//! Watching the catalogue of logs: those that there are, then each change, from any node and any place on.
//!
//! A place is the index of an entry, and while the logs that there were at that index are told, the name of the last
//! one told. A log that changes meanwhile is left out there, and comes as a change behind it: so each state of a log is
//! told once. One task a stream. It keeps one answer ready, and looks at a bounded number of names at a time.

use std::sync::Arc;

use prost::Message;
use tokio::sync::watch::Receiver;
use tonic::{Request, Status};

use crate::log::Index;
use crate::name;
use crate::net::budget::Accounts;
use crate::proto::v1::{
    self, CataloguePosition, LogChangeKind, WatchLogsRequest, WatchLogsResponse,
};
use crate::raft::{LogChange, ReplicatedLog};
use crate::server::answers::telling::{self, Answers, Tell};
use crate::server::answers::{Outbox, reading};
use crate::server::auth::{Actions, Rights};
use crate::server::{ApiContext, Drain, accounts, status};

use super::logs::{LOOKED_MAX, log_to};
use super::{be_current, consume};

/// Changes of one answer.
const CHANGES_MAX: usize = 256;

/// Tells what becomes of the logs until the client leaves.
pub fn stream(
    api: Arc<ApiContext<ReplicatedLog>>,
    request: Request<WatchLogsRequest>,
) -> Result<(Answers<WatchLogsResponse>, Outbox), Status> {
    let log = api.shared_for(&request, Actions::ANY)?;
    let rights = api.rights(&request);
    let accounts = accounts(&request);
    let request = request.into_inner();
    let mut drain = api.drain.clone();
    let serve = |tell: Arc<Tell<WatchLogsResponse>>| async move {
        let begun = tokio::select! {
            biased;
            () = drain.began() => return Err(status::draining()),
            begun = begins(&log, request.from) => begun?,
        };
        let watch = Watch {
            changed: log.watch_catalogue(),
            every: telling::period(request.heartbeat_ms),
            prefix: request.prefix,
            at: begun,
            log,
            rights,
            accounts,
            drain,
        };
        watch.run(&tell).await
    };
    Ok(telling::answers(&api.unread, "watch of the logs", serve))
}

/// Where a watch begins. What was acknowledged before it is told, so that a place ahead of it is none.
async fn begins(
    log: &ReplicatedLog,
    from: Option<CataloguePosition>,
) -> Result<CataloguePosition, Status> {
    be_current(log).await?;
    let index = log.applied_index().0;
    let Some(from) = from else {
        let listed = Some(String::new());
        return Ok(CataloguePosition { index, listed });
    };
    if from.index > index {
        let what = format!(
            "the catalogue's last entry is {index}, and {} is behind it: give a position that an answer told",
            from.index
        );
        return Err(status::invalid(what));
    }
    Ok(from)
}

struct Watch {
    log: ReplicatedLog,
    rights: Rights,
    accounts: Option<Accounts>,
    prefix: String,
    at: CataloguePosition,
    changed: Receiver<u64>,
    every: std::time::Duration,
    drain: Drain,
}

impl Watch {
    async fn run(mut self, tell: &Tell<WatchLogsResponse>) -> Result<(), Status> {
        let mut heartbeats = telling::heartbeats(self.every);
        // The first answer comes at once, with or without changes.
        let mut is_due = true;
        loop {
            // Before the look: what changes behind it wakes.
            self.changed.borrow_and_update();
            let (changes, more) = self.look()?;
            if is_due || !changes.is_empty() {
                is_due = false;
                let answer = self.answer(changes);
                let room = reading::room(self.accounts.as_ref(), answer.encoded_len());
                let held = tokio::select! {
                    biased;
                    () = self.drain.began() => return Err(status::draining()),
                    () = tell.left() => return Ok(()),
                    held = room => held?,
                };
                tokio::select! {
                    biased;
                    () = self.drain.began() => return Err(status::draining()),
                    told = tell.tell(Ok(answer), held) => if !told {
                        return Ok(());
                    }
                }
            }
            if more {
                // A piece at a time, so that apply waits for no long look.
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                biased;
                () = self.drain.began() => return Err(status::draining()),
                () = tell.left() => return Ok(()),
                _ = heartbeats.tick() => {
                    is_due = true;
                    self.keep_fresh();
                }
                changed = self.changed.changed() => changed.map_err(|_| status::draining())?,
            }
        }
    }

    /// What comes next, and whether there may be more behind it.
    fn look(&mut self) -> Result<(Vec<v1::LogChange>, bool), Status> {
        let (prefix, rights) = (&*self.prefix, &self.rights);
        let is_shown = |name: &str| name::is_meant(name, prefix) && rights.may(Actions::ANY, name);
        let after = Index(self.at.index);
        if let Some(listed) = &self.at.listed {
            let limits = (CHANGES_MAX, LOOKED_MAX);
            let (found, looked) = self.log.logs(prefix, listed, limits, is_shown);
            // One that changed since then comes as a change.
            let there = found.into_iter().filter(|(_, log)| log.changed <= after);
            let there = there.map(|(id, log)| v1::LogChange {
                kind: LogChangeKind::Existing.into(),
                index: log.changed.0,
                log: Some(log_to(id, log)),
            });
            let changes = there.collect();
            self.at.listed = looked;
            return Ok((changes, true));
        }
        let found = self.log.log_changes(after, CHANGES_MAX, is_shown);
        let found = found.ok_or_else(status::resume_too_old)?;
        self.at.index = found.passed.0;
        let changes = found.changes.into_iter();
        let changes = changes.map(|(index, change)| told(after, index, change));
        Ok((changes.collect(), found.more))
    }

    fn answer(&self, changes: Vec<v1::LogChange>) -> WatchLogsResponse {
        WatchLogsResponse {
            changes,
            next: Some(self.at.clone()),
            freshness: Some(consume::freshness_of_all(&self.log)),
        }
    }

    /// Has the leader confirm now and then how far this node is.
    fn keep_fresh(&self) {
        let staleness = self.log.freshness().staleness;
        if staleness.is_none_or(|staleness| staleness > self.every / 2) {
            self.log.nudge_freshness();
        }
    }
}

/// A change behind `after`, as it is told.
fn told(after: Index, Index(index): Index, change: LogChange) -> v1::LogChange {
    let (kind, log) = match change {
        LogChange::Is(id, log) => {
            let kind = match log.made > after {
                true => LogChangeKind::Created,
                false => LogChangeKind::Updated,
            };
            (kind, log_to(id, *log))
        }
        LogChange::Gone(gone) => {
            let log = v1::Log {
                name: gone.name,
                id: gone.id.0,
                ..v1::Log::default()
            };
            (LogChangeKind::Deleted, log)
        }
    };
    v1::LogChange {
        kind: kind.into(),
        log: Some(log),
        index,
    }
}
