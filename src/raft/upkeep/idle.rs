//! Whether a node is idle. Then it rewrites what would not be worth it beside a load: the disk has nothing else to do.

use std::time::Duration;

use tokio::time::Instant;

use crate::log::{Index, SegmentInfo};

/// A node is idle once the log has grown by less than this in this time.
const IDLE_BYTES: u64 = 1 << 20;
const IDLE_AFTER: Duration = Duration::from_secs(5);

/// How much the log grows.
#[derive(Debug, Default)]
pub struct Idle {
    /// Since when it is looked at, and how it was then: where the open segment began, and how many bytes it had.
    since: Option<(Instant, Index, u64)>,
    is_idle: bool,
}

impl Idle {
    /// Looks at the open segment; gives whether the node is idle.
    pub fn see(&mut self, open: Option<&SegmentInfo>, now: Instant) -> bool {
        let (base, bytes) = open.map_or((Index(0), 0), |open| (open.base, open.bytes));
        let is_quiet = self.since.is_some_and(|(_, begun, before)| {
            base == begun && bytes.saturating_sub(before) < IDLE_BYTES
        });
        let is_long = |since: Instant| now.saturating_duration_since(since) >= IDLE_AFTER;
        match self.since {
            Some((since, ..)) if is_quiet && !is_long(since) => {}
            _ => {
                self.is_idle = is_quiet;
                self.since = Some((now, base, bytes));
            }
        }
        self.is_idle
    }
}

/// The part of something, in percent, that is enough for work on an idle node: half of what it is beside a load. 0 stays
/// 0.
pub fn percent(beside_load: u64) -> u64 {
    beside_load.div_ceil(2)
}

#[cfg(test)]
mod tests {
    use super::super::planning::tests::segments;
    use super::*;

    #[test]
    fn a_node_is_idle_while_its_log_hardly_grows() {
        let (infos, _) = segments(&[(0, 0, false), (0, 0, false)]);
        let mut idle = Idle::default();
        let began = Instant::now();
        let mut see = |segment: usize, bytes, seconds| {
            let open = SegmentInfo {
                bytes,
                ..infos[segment]
            };
            idle.see(Some(&open), began + Duration::from_secs(seconds))
        };
        assert!(!see(0, 0, 0), "it is not known yet");
        assert!(!see(0, IDLE_BYTES - 1, 4));
        assert!(see(0, IDLE_BYTES - 1, 5));
        assert!(see(0, 2 * IDLE_BYTES - 2, 9), "a little");
        assert!(!see(0, 2 * IDLE_BYTES - 1, 9), "a load");
        assert!(!see(0, 2 * IDLE_BYTES - 1, 13));
        assert!(see(0, 2 * IDLE_BYTES - 1, 14));
        assert!(!see(1, 0, 15), "another segment");
        assert!(see(1, 0, 20));
    }

    #[test]
    fn an_idle_node_rewrites_what_is_half_as_dead_or_nothing_as_before() {
        assert_eq!([0, 1, 50, 99].map(percent), [0, 1, 25, 50]);
    }
}
