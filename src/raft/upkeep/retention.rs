//! Trims each log to what its retention keeps, and ends segments that have grown old, so that what was trimmed goes.

use std::time::Duration;

use tokio::time::Instant;

use crate::log::{LogId, SegmentInfo};
use crate::raft::entry::catalog::Trim;
use crate::raft::error::Error;
use crate::raft::home::blocking::on_disk;
use crate::raft::state::fsm::Fsm;
use crate::raft::state::logs::KnownLog;
use crate::raft::write::commands::Call;
use crate::raft::write::rolls;
use crate::retry::CALL_WAIT;

use super::Upkeep;

/// Logs that are looked at before apply has a turn.
const LOOKED_AT_ONCE: usize = 1024;
/// Logs that are looked at in one go; the next one takes those behind them.
const LOOKED_MAX: usize = 4 * LOOKED_AT_ONCE;
/// Trims that go in one command. What is left over is found again.
const TRIMS_MAX: usize = 512;
/// Logs that a line of the log names; the others are counted.
const LOGS_TOLD: usize = 4;
/// No segment is ended for its age before it is as old as this, however young a log wants its records.
const SEGMENT_AGE_MIN: Duration = Duration::from_secs(60);

/// How far the look at the logs' retentions is.
#[derive(Debug, Default)]
pub struct Walk {
    /// The log that is looked at next.
    next: LogId,
    /// The shortest age that a log is kept to which has records in the open segment: so far, and of all logs when they
    /// were last looked at.
    age_so_far_ms: Option<u64>,
    age_ms: Option<u64>,
}

impl Upkeep {
    /// Looks at some of the logs, as the next ones the next time. The leader trims what their retentions do not keep,
    /// several logs in one command, and ends the open segment, on every node, once it is too old for a log in it.
    pub(super) async fn keep_retentions(&self) {
        let segments = self.node.log.segments();
        let open = segments.last().filter(|last| last.next_position.is_none());
        let mut trims = self.look(open);
        let age_ms = self.walk.lock().age_ms;
        if !self.node.view().writable {
            return;
        }
        if let Some((open, age_ms)) = open.zip(age_ms)
            && is_old(open, age_ms, self.node.clocks.now_ms())
            && let Some(since) = self.node.log.to_roll()
        {
            rolls::end_segment(&self.node, since).await;
        }
        trims.extend(self.audit_held_back().await);
        if trims.is_empty() {
            return;
        }
        let (count, first) = (trims.len(), self.named(&trims));
        let call = Call::until(Instant::now() + CALL_WAIT);
        match self.commands.trim_logs(trims, call).await {
            Ok(()) => tracing::info!(logs = count, to = first, "trimmed by retention"),
            Err(error) => tracing::warn!(%error, "retention was not kept; it is tried again"),
        }
    }

    /// Some of the logs, each with the offset that it begins at from now on.
    fn named(&self, trims: &[Trim]) -> String {
        let told = trims.iter().take(LOGS_TOLD);
        let named: Vec<_> = self.node.state.read(|fsm| {
            let named = told.filter_map(|trim| Some((&fsm.logs.get(trim.log)?.name, trim.first)));
            named
                .map(|(name, first)| format!("{name} from {first}"))
                .collect()
        });
        named.join(", ")
    }

    /// What the log of changes gives up, unless an operator has set how much of it is kept: a record of months ago would
    /// keep all segments behind it, whatever the other logs let go.
    async fn audit_held_back(&self) -> Option<Trim> {
        let is_set = |fsm: &Fsm| fsm.logs.get(LogId::AUDIT).is_none_or(|log| log.epoch > 1);
        if self.node.state.read(is_set) {
            return None;
        }
        let of = self.node.log.clone();
        let found = on_disk(move || Ok::<_, Error>(of.held_back(LogId::AUDIT)?)).await;
        match found {
            Ok(first) => {
                let log = LogId::AUDIT;
                first.map(|first| Trim { log, first })
            }
            Err(error) => {
                tracing::debug!(%error, "what the log of changes keeps is not known");
                None
            }
        }
    }

    /// What is surely older than a span of so many milliseconds is from before this, in milliseconds since 1970.
    pub(super) fn old_before_ms(&self) -> impl Fn(u64) -> u64 {
        let surely_past_ms = self.node.clocks.surely_past_ms(&self.node.view());
        move |age_ms| {
            let age = Duration::from_millis(age_ms);
            self.node.passed.lock().before_ms(age, surely_past_ms)
        }
    }

    fn look(&self, open: Option<&SegmentInfo>) -> Vec<Trim> {
        let old_before_ms = self.old_before_ms();
        let open_since_ms = open.map_or(u64::MAX, |open| open.since_ms.max(1));
        let mut trims = Vec::new();
        for _ in 0..LOOKED_MAX / LOOKED_AT_ONCE {
            let mut walk = self.walk.lock();
            let is_last = self
                .node
                .state
                .read(|fsm| walk.step(fsm, &mut trims, open_since_ms, &old_before_ms));
            if is_last || trims.len() == TRIMS_MAX {
                break;
            }
        }
        trims
    }
}

impl Walk {
    /// Looks at a few logs; true once all were looked at.
    fn step(
        &mut self,
        fsm: &Fsm,
        trims: &mut Vec<Trim>,
        open_since_ms: u64,
        old_before_ms: impl Fn(u64) -> u64,
    ) -> bool {
        let mut logs = fsm.logs.from(self.next);
        for (log, known) in logs.by_ref().take(LOOKED_AT_ONCE) {
            self.next = LogId(log.0 + 1);
            let age_ms = known.config.retention.max_age_ms;
            if known.last_append_ms >= open_since_ms {
                let ages = self.age_so_far_ms.into_iter().chain(age_ms);
                self.age_so_far_ms = ages.min();
            }
            trims.extend(trim_of(fsm, log, known, &old_before_ms));
            if trims.len() == TRIMS_MAX {
                return false;
            }
        }
        if logs.next().is_some() {
            return false;
        }
        self.next = LogId::DEFAULT;
        self.age_ms = self.age_so_far_ms.take();
        true
    }
}

/// What a log's retention does not keep.
fn trim_of(
    fsm: &Fsm,
    log: LogId,
    known: &KnownLog,
    old_before_ms: impl Fn(u64) -> u64,
) -> Option<Trim> {
    let retention = &known.config.retention;
    let is_limited = retention.max_bytes.is_some() || retention.max_age_ms.is_some();
    if !is_limited || known.ends.first == known.ends.next {
        return None;
    }
    let old_before_ms = retention.max_age_ms.map_or(0, old_before_ms);
    let waited_for = fsm.slowest_cursor(log, &retention.wait_for_cursors);
    let stands = (known.ends, known.end());
    let first = known
        .marks
        .first_kept(retention, stands, waited_for, old_before_ms)?;
    Some(Trim { log, first })
}

/// Whether a segment is open for longer than an age. Its end removes no record, so this node's own clock is good
/// enough for one that was found at the start.
fn is_old(open: &SegmentInfo, age_ms: u64, now_ms: u64) -> bool {
    let age = Duration::from_millis(age_ms).max(SEGMENT_AGE_MIN);
    let told = open.found && open.since_ms.saturating_add(age_ms) <= now_ms;
    open.since_ms > 0 && (open.opened.elapsed() >= age || told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Index, Offset};
    use crate::raft::entry::catalog::{CreateLog, LogConfig};
    use crate::raft::entry::command::{CommitCursor, Retention};

    /// So many logs beside the default one, each with 100 records of 10 KB, one a second from second 1 on.
    fn logs_with(count: u32, retention: &Retention) -> Fsm {
        let mut fsm = Fsm::default();
        for number in 1..=count {
            let create = CreateLog {
                name: number.to_string(),
                config: LogConfig {
                    retention: retention.clone(),
                    ..LogConfig::default()
                },
                token: bytes::Bytes::new(),
                subject: String::new(),
                now_ms: 0,
                logs_max: u32::MAX,
            };
            fsm.logs.create(Index(number.into()), &create).unwrap();
            for second in 1..=100 {
                let log = LogId(number);
                fsm.logs.appended(log, 1, 10_000, second * 1000);
            }
        }
        fsm
    }

    fn bytes(max_bytes: u64) -> Retention {
        Retention {
            max_bytes: Some(max_bytes),
            ..Retention::default()
        }
    }

    fn step(walk: &mut Walk, fsm: &Fsm) -> (Vec<Trim>, bool) {
        let mut trims = Vec::new();
        let is_last = walk.step(fsm, &mut trims, 100_000, |age_ms| 101_000 - age_ms);
        (trims, is_last)
    }

    #[test]
    fn all_logs_have_their_turn_some_in_a_command() {
        let mut fsm = logs_with(2000, &bytes(500_000));
        let mut walk = Walk::default();
        let mut ends = Vec::new();
        for _ in 0..4 {
            let (trims, is_last) = step(&mut walk, &fsm);
            assert!(trims.len() <= TRIMS_MAX);
            ends.push((trims.len(), is_last));
            for trim in trims {
                assert!((50..=60).contains(&trim.first.0), "{trim:?}");
                fsm.logs.trim(&trim).unwrap();
            }
        }
        assert_eq!(
            ends,
            [(512, false), (512, false), (512, false), (464, true)]
        );
        let none = [step(&mut walk, &fsm), step(&mut walk, &fsm)];
        assert!(none.iter().all(|(trims, _)| trims.is_empty()));
        assert_eq!([none[0].1, none[1].1], [false, true]);
        // One that is deleted meanwhile is not missed, and the look goes on behind it.
        assert_eq!(walk.next, LogId::DEFAULT);
    }

    #[test]
    fn a_log_is_kept_to_its_own_age_and_waits_for_its_own_cursors() {
        let age = Retention {
            max_age_ms: Some(40_000),
            wait_for_cursors: vec!["reader".to_owned()],
            wait_bytes_max: 900_000,
            ..Retention::default()
        };
        let mut fsm = logs_with(2, &age);
        let commit = |log, offset| CommitCursor {
            log: LogId(log),
            name: "reader".to_owned(),
            subject: String::new(),
            offset: Offset(offset),
            expected: None,
            create_only: false,
            now_ms: 0,
        };
        fsm.cursors.commit(&commit(2, 30), Offset(100)).unwrap();
        let mut walk = Walk::default();
        let (trims, is_last) = step(&mut walk, &fsm);
        let firsts: Vec<_> = trims
            .iter()
            .map(|trim| (trim.log.0, trim.first.0))
            .collect();
        let [(1, first), (2, waits)] = firsts[..] else {
            panic!("{firsts:?}");
        };
        // The older half of the marks lies twice as far apart.
        assert!((48..=60).contains(&first), "{first}");
        // At first it had more than the cap, then it waits.
        assert!((10..=30).contains(&waits), "{waits}");
        assert!(is_last);
        assert_eq!(
            walk.age_ms,
            Some(40_000),
            "it has records in the open segment"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_segment_ends_once_it_is_older_than_a_log_wants_but_lives_for_a_minute() {
        let mut open = SegmentInfo {
            base: Index(0),
            name: Index(0).into(),
            positions: 0,
            rows: 0,
            next_index: Index(9),
            bytes: 100,
            next_position: None,
            opened: Instant::now(),
            found: false,
            since_ms: 1,
            rolled: false,
            damaged: false,
        };
        assert!(!is_old(&open, 1, u64::MAX), "of a wrong clock");
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(!is_old(&open, 1, 0));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(is_old(&open, 1, 0) && !is_old(&open, 90_000, 0));
        open.found = true;
        assert!(is_old(&open, 90_000, 90_001), "older than this process");
        open.since_ms = 0;
        assert!(!is_old(&open, 1, u64::MAX), "it is empty");
    }
}
