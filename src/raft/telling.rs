//! What the replicated log tells of itself, for a page of numbers: most of it is read as it is now.

use std::cmp::Reverse;

use crate::log::{LogId, Position};
use crate::metrics::Page;
use crate::metrics::families::*;
use crate::raft::state::applied::AppliedState;
use crate::raft::state::fsm::Fsm;

use super::{KnownLog, MemberView, ReplicatedLog};

/// Cursors that are told of: those that are furthest behind.
const CURSORS_TOLD: usize = 20;
/// A member that lags by more entries is not ready. It is what a leader appends in some seconds.
const READY_LAG_MAX: u64 = 10_000;
/// Logs that are looked at in one go.
const LOOKED_MAX: usize = 4096;
/// Stands for all logs, as the log of a cursor of selections.
const OF_SELECTIONS: &str = "*";

/// What a page holds of one log.
struct LogLine {
    name: String,
    records: u64,
    bytes: u64,
}

/// What a page holds of one cursor.
struct CursorLine {
    log: String,
    name: String,
    lag: u64,
}

impl ReplicatedLog {
    /// Whether this member can serve: it is one, knows a leader, and keeps up; or why not.
    pub fn readiness(&self) -> Result<(), String> {
        let (view, me) = (self.view(), self.identity().node_id);
        if let Some(reason) = &view.stopped {
            return Err(format!("the node has stopped: {reason}"));
        }
        let Some(member) = view.member(me) else {
            return Err("the node is no member of its cluster yet".to_owned());
        };
        if !member.voter {
            return Err("the node is a learner: it has not caught up yet".to_owned());
        }
        if view.leader == Some(me) && !view.writable {
            return Err("no majority has confirmed lately that this node leads".to_owned());
        }
        if view.leader.is_none() {
            return Err("no leader is known".to_owned());
        }
        let [_, committed, applied] = self.indexes();
        let lag = committed.unwrap_or(0).saturating_sub(applied.unwrap_or(0));
        if lag > READY_LAG_MAX {
            let what = "entries are committed and not applied here";
            return Err(format!("{lag} {what}, {READY_LAG_MAX} at most"));
        }
        Ok(())
    }

    /// Tells all that a page holds of consensus and of what is kept, of so many logs by name.
    pub fn tell(&self, page: &mut Page<'_>, logs_max: usize) {
        self.tell_consensus(page);
        self.tell_peers(page);
        self.tell_writes(page);
        self.tell_kept(page, logs_max);
        self.tell_disk(page);
    }

    fn tell_consensus(&self, page: &mut Page<'_>) {
        let (view, identity) = (self.view(), self.identity());
        let counts = &self.0.node.counts;
        let id = identity.node_id.to_string();
        page.family(&NODE_INFO, |series| {
            let (name, cluster) = (identity.name.as_str(), identity.cluster_id.as_str());
            series.value(
                &[("node", name), ("id", id.as_str()), ("cluster", cluster)],
                1_u64,
            );
        });
        page.one(&READY, self.readiness().is_ok());
        page.one(&IS_LEADER, view.writable);
        page.one(&HAS_LEADER, view.is_led(identity.node_id));
        page.one(&TERM, view.term);
        let is_voter = |member: &&MemberView| member.voter;
        let voters = view.members.iter().filter(is_voter).count();
        page.family(&MEMBERS, |series| {
            series.value(&[("role", "voter")], voters);
            series.value(&[("role", "learner")], view.members.len() - voters);
        });
        page.one(&ELECTIONS, counts.elections.get());
        page.one(&LEADER_CHANGES, counts.leader_changes.get());
        let [last, committed, applied] = self.indexes();
        let told = [
            (&LAST_INDEX, last),
            (&COMMITTED_INDEX, committed),
            (&APPLIED_INDEX, applied),
        ];
        for (family, index) in told {
            page.one(family, index.unwrap_or(0));
        }
        page.one(&CLOCK_JUMPS, self.clock_report().jumps);
        if let Some(staleness) = self.freshness().staleness {
            page.one(&STALENESS, staleness.as_secs_f64());
        }
    }

    fn tell_peers(&self, page: &mut Page<'_>) {
        let (view, me) = (self.view(), self.identity().node_id);
        let others = || view.members.iter().filter(move |peer| peer.id != me);
        let counted = self.0.node.counts.peers();
        let of = |peer: &MemberView| counted.get(&peer.id).copied().unwrap_or_default();
        page.family(&HEARTBEATS_MISSED, |series| {
            for peer in others() {
                series.value(&[("peer", peer.member.name.as_str())], of(peer).missed);
            }
        });
        page.family(&ROUND_TRIP, |series| {
            for peer in others().filter(|_| view.leader == Some(me)) {
                let took = of(peer).round_trip.map(|took| took.as_secs_f64());
                took.into_iter()
                    .for_each(|took| series.value(&[("peer", peer.member.name.as_str())], took));
            }
        });
        let (matched, last) = (self.matched(), self.indexes()[0].unwrap_or(0));
        page.family(&PEER_LAG, |series| {
            for peer in others() {
                let held = matched.get(&peer.id).map(|held| held.unwrap_or(0));
                let lag = held.map(|held| last.saturating_sub(held));
                lag.into_iter()
                    .for_each(|lag| series.value(&[("peer", peer.member.name.as_str())], lag));
            }
        });
        let clocks = self.clock_report().offsets_ms;
        page.family(&CLOCK_OFFSET, |series| {
            for peer in others() {
                let offset = clocks.get(&peer.id).map(|ms| *ms as f64 / 1e3);
                offset.into_iter().for_each(|offset| {
                    series.value(&[("peer", peer.member.name.as_str())], offset)
                });
            }
        });
    }

    fn tell_writes(&self, page: &mut Page<'_>) {
        let (counts, on_disk) = (&self.0.node.counts, self.log().counts());
        let (waiting, pending_bytes) = self.0.proposer.pending();
        page.one(&PROPOSALS_WAITING, waiting);
        page.one(&PROPOSALS_PENDING, pending_bytes);
        page.one(&PROPOSALS_COMMITTED, counts.committed.get());
        page.by_label(&PROPOSALS_REFUSED, &counts.refused);
        page.family(&WRITE_STAGE, |series| {
            for (stage, times) in [
                ("queue", &counts.queue),
                ("append", &on_disk.append),
                ("fsync", &on_disk.sync),
                ("quorum", &counts.quorum),
                ("apply", &counts.apply),
                ("answer", &counts.answer),
            ] {
                series.times(&[("stage", stage)], times);
            }
        });
        page.one(&RECORDS_IN, counts.records.get());
        page.one(&BYTES_IN, counts.bytes.get());
        page.one(&UNSYNCED, self.log().unsynced_bytes());
    }

    fn tell_kept(&self, page: &mut Page<'_>, logs_max: usize) {
        let (state, end) = (&self.0.node.state, self.log().positions().1);
        let counts = state.read(|fsm| {
            [
                (&LOGS, fsm.logs.of_users()),
                (&SESSIONS, fsm.sessions.by_id.rows().len()),
                (&FENCES, fsm.fences.names.rows().len()),
                (&CURSORS, fsm.cursors.0.rows().len()),
            ]
        });
        for (family, count) in counts {
            page.one(family, count);
        }
        page.one(&RECORDS_APPLIED, end.0);
        let largest = largest(state, logs_max);
        page.family(&LOG_RECORDS, |series| {
            for log in &largest {
                series.value(&[("log", log.name.as_str())], log.records);
            }
        });
        page.family(&LOG_BYTES, |series| {
            for log in &largest {
                series.value(&[("log", log.name.as_str())], log.bytes);
            }
        });
        let behind = state.read(|fsm| furthest_behind(fsm, end));
        page.family(&CURSOR_LAG, |series| {
            for cursor in &behind {
                let labels = [
                    ("log", cursor.log.as_str()),
                    ("cursor", cursor.name.as_str()),
                ];
                series.value(&labels, cursor.lag);
            }
        });
    }

    fn tell_disk(&self, page: &mut Page<'_>) {
        let (segments, space) = (self.log().segments(), &self.0.node.space);
        let counts = &self.0.node.counts;
        page.one(&SEGMENTS, segments.len());
        let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
        page.one(&SEGMENT_BYTES, bytes);
        page.one(&SEGMENT_LIVE_BYTES, self.live_bytes());
        let progress = self.progress();
        page.one(&REWRITES_DUE, progress.due);
        page.one(&SUPERSEDED, progress.superseded_bytes);
        let damaged = segments.iter().filter(|segment| segment.damaged).count();
        page.one(&SEGMENTS_DAMAGED, damaged);
        page.one(&SCRUBBED, counts.scrubbed_bytes.get());
        page.by_label(&REPAIRS, &counts.repairs);
        page.by_label(&SNAPSHOTS, &counts.snapshots);
        let stable = self.0.upkeep.stable();
        page.one(&CHECKPOINTS, stable.checkpoints());
        page.one(&STATE_WRITTEN, stable.written_bytes());
        let (free, reserve) = space.room();
        page.one(&DISK_FREE, free);
        page.one(&DISK_RESERVE, reserve);
    }
}

/// The logs that keep the most records. The state is looked at in parts, since apply waits meanwhile.
fn largest(state: &AppliedState, count: usize) -> Vec<LogLine> {
    let records = |log: &KnownLog| log.ends.next.0.saturating_sub(log.ends.first.0);
    let (mut sizes, mut from) = (Vec::new(), LogId(0));
    loop {
        let part: Vec<_> = state.read(|fsm| {
            let part = fsm.logs.from(from).take(LOOKED_MAX);
            part.map(|(id, log)| (Reverse(records(log)), id)).collect()
        });
        let last = part.last().filter(|_| part.len() == LOOKED_MAX);
        let next = last.map(|(_, id)| LogId(id.0 + 1));
        sizes.extend(part);
        keep_least(&mut sizes, count);
        match next {
            Some(next) => from = next,
            None => break,
        }
    }
    // Names are copied of those alone that are told.
    state.read(|fsm| {
        let line = |(_, id): &(_, LogId)| {
            let log = fsm.logs.get(*id)?;
            Some(LogLine {
                name: log.name.clone(),
                records: records(log),
                bytes: log.bytes,
            })
        };
        sizes.iter().filter_map(line).collect()
    })
}

/// The cursors that are furthest behind; those of selections, which belong to no log, are behind all records.
fn furthest_behind(fsm: &Fsm, end: Position) -> Vec<CursorLine> {
    let mut lags: Vec<_> = fsm
        .cursors
        .0
        .rows()
        .iter()
        .filter_map(|((log, name), kept)| {
            let (of, end) = match *log {
                LogId::SEVERAL => (OF_SELECTIONS, end.0),
                log => {
                    let known = fsm.logs.get(log)?;
                    (known.name.as_str(), known.ends.next.0)
                }
            };
            let lag = end.saturating_sub(kept.offset().0);
            Some((Reverse(lag), of, name.as_str()))
        })
        .collect();
    keep_least(&mut lags, CURSORS_TOLD);
    let line = |(lag, log, name): &(Reverse<u64>, &str, &str)| CursorLine {
        log: (*log).to_owned(),
        name: (*name).to_owned(),
        lag: lag.0,
    };
    lags.iter().map(line).collect()
}

/// Keeps the least so many, in their order.
fn keep_least<T: Ord>(all: &mut Vec<T>, count: usize) {
    if count == 0 {
        return all.clear();
    }
    if count < all.len() {
        all.select_nth_unstable(count - 1);
        all.truncate(count);
    }
    all.sort_unstable();
}
