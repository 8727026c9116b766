//! Trims by retention: removes segments that are too old, and the oldest ones where there are too many bytes.

use std::time::Duration;

use tokio::time::Instant;

use crate::log::{self, LogId, Offset, SegmentInfo};
use crate::raft::entry::catalog::Trim;
use crate::raft::entry::command::Retention;
use crate::raft::home::blocking::on_disk;
use crate::retry::CALL_WAIT;

use super::Upkeep;

impl Upkeep {
    /// Ends the open segment once it is too old. The leader also trims what the retention does not keep.
    pub(super) async fn keep_retention(&self) {
        let retention = self
            .node
            .state
            .read(|fsm| fsm.logs.default_log().config.retention.clone());
        let segments = self.node.log.segments();
        let last = segments.last().filter(|last| last.next_position.is_none());
        // The end of a segment removes no record, so this node's own clock is good enough here.
        let now = Some(self.node.clocks.now_ms());
        let old = |last: &SegmentInfo| {
            let age = retention.max_age_ms.filter(|_| last.since_ms > 0);
            age.is_some_and(|age| is_old(last, last, age, now))
        };
        if last.is_some_and(old) {
            let log = self.node.log.clone();
            let rolled = on_disk(move || log.roll()).await;
            if let Err(error) = rolled {
                tracing::warn!(%error, "the old segment stays open");
            }
        }
        let (first, _) = self.node.log.offsets(LogId::DEFAULT);
        let waited_for = self
            .node
            .state
            .read(|fsm| fsm.slowest_cursor(LogId::DEFAULT, &retention.wait_for_cursors));
        let now = self.node.clocks.surely_past_ms(&self.node.view());
        let log = self.node.log.clone();
        let wanted = on_disk(move || {
            let end_of = |segment: &SegmentInfo| log.end_in(segment.base, LogId::DEFAULT);
            first_kept(&segments, &retention, waited_for, now, end_of)
        });
        let wanted = wanted.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "retention cannot be kept; it is tried again");
            None
        });
        if let Some(wanted) = wanted.filter(|wanted| *wanted > first)
            && self.node.view().writable
        {
            match self
                .commands
                .trim(of_default(wanted), Instant::now() + CALL_WAIT)
                .await
            {
                Ok(first) => tracing::info!(%first, "trimmed by retention"),
                Err(error) => tracing::warn!(%error, "retention was not kept; it is tried again"),
            }
        }
    }
}

fn of_default(first: Offset) -> Trim {
    let log = LogId::DEFAULT;
    Trim { log, first }
}

/// Whether all records of a segment are older than an age. That is so if this process has seen so much time pass
/// since the next segment began. For a segment that the process found at its start, the log's times count too,
/// against a time that is certainly past.
fn is_old(segment: &SegmentInfo, next: &SegmentInfo, age_ms: u64, now_ms: Option<u64>) -> bool {
    let told = |now| segment.since_ms.saturating_add(age_ms) <= now;
    next.opened.elapsed() >= Duration::from_millis(age_ms)
        || (segment.found && now_ms.is_some_and(told))
}

/// The first offset that a retention keeps; `None` if it keeps all sealed segments. Records from `waited_for` on are
/// kept for as long as the segments take no more than `wait_bytes_max`.
fn first_kept(
    segments: &[SegmentInfo],
    retention: &Retention,
    waited_for: Option<Offset>,
    now_ms: Option<u64>,
    end_of: impl Fn(&SegmentInfo) -> Result<Offset, log::Error>,
) -> Result<Option<Offset>, log::Error> {
    let mut total: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut first = None;
    for (number, segment) in segments.iter().enumerate() {
        if segment.next_position.is_none() {
            break;
        }
        let over = retention.max_bytes.is_some_and(|max| total > max);
        let age = retention.max_age_ms;
        let behind = segments.get(number + 1);
        let old = age.zip(behind);
        let old = old.is_some_and(|(age, behind)| is_old(segment, behind, age, now_ms));
        if !over && !old {
            break;
        }
        let next = end_of(segment)?;
        let waits = waited_for.is_some_and(|cursor| next > cursor);
        if waits && total <= retention.wait_bytes_max {
            break;
        }
        total -= segment.bytes;
        first = Some(next);
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::log::{Index, Position};

    fn segment(base: u64, bytes: u64, since_ms: u64, sealed: bool) -> SegmentInfo {
        SegmentInfo {
            base: Index(base),
            next_index: Index(base + 10),
            bytes,
            next_position: sealed.then_some(Position(base + 10)),
            opened: Instant::now(),
            found: true,
            since_ms,
            damaged: false,
        }
    }

    /// All records are of one log.
    fn end_of(segment: &SegmentInfo) -> Result<Offset, log::Error> {
        Ok(Offset(segment.base.0 + 10))
    }

    fn kept(first: Result<Option<Offset>, log::Error>) -> Option<u64> {
        first.unwrap().map(|first| first.0)
    }

    #[tokio::test(start_paused = true)]
    async fn retention_gives_up_whole_sealed_segments_from_the_front() {
        let all = [
            segment(0, 100, 1000, true),
            segment(10, 100, 2000, true),
            segment(20, 100, 3000, false),
        ];
        let keep = |max_bytes, max_age_ms, now| {
            let retention = Retention {
                max_bytes,
                max_age_ms,
                ..Retention::default()
            };
            kept(first_kept(&all, &retention, None, Some(now), end_of))
        };
        assert_eq!(keep(None, None, 9999), None);
        assert_eq!(keep(Some(300), None, 0), None);
        assert_eq!(keep(Some(299), None, 0), Some(10));
        assert_eq!(keep(Some(1), None, 0), Some(20), "never the open one");
        assert_eq!(keep(None, Some(500), 1499), None);
        assert_eq!(keep(None, Some(500), 1500), Some(10));
        assert_eq!(keep(Some(200), Some(500), 9999), Some(20));

        let wait = |cursor, wait_bytes_max| {
            let retention = Retention {
                max_bytes: Some(1),
                wait_bytes_max,
                ..Retention::default()
            };
            kept(first_kept(
                &all,
                &retention,
                Some(Offset(cursor)),
                None,
                end_of,
            ))
        };
        assert_eq!(wait(9, 300), None, "its record is in the first segment");
        assert_eq!(wait(10, 300), Some(10));
        assert_eq!(wait(20, 300), Some(20));
        assert_eq!(wait(0, 299), Some(10), "over the cap");
        assert_eq!(wait(0, 100), Some(20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_segment_is_as_old_as_the_time_that_passed_since_it_ended() {
        let step = Duration::from_millis(1000);
        let mut all = Vec::new();
        for base in [0, 10, 20] {
            all.push(SegmentInfo {
                found: false,
                // A wrong clock gave this time.
                since_ms: if base == 0 { 1 } else { u64::MAX },
                ..segment(base, 100, 0, base < 20)
            });
            tokio::time::advance(step).await;
        }
        let retention = Retention {
            max_age_ms: Some(2500),
            ..Retention::default()
        };
        let keep = |now| kept(first_kept(&all, &retention, None, now, end_of));
        // The last record of the first one may be two seconds old.
        assert_eq!((keep(None), keep(Some(u64::MAX))), (None, None));
        tokio::time::advance(step / 2).await;
        assert_eq!((keep(None), keep(Some(0))), (Some(10), Some(10)));
        tokio::time::advance(step).await;
        assert_eq!((keep(None), keep(Some(0))), (Some(20), Some(20)));
    }
}
