//! How long ago the log's time was what it was then, by this node's monotonic clock.
//!
//! The times in a log may be wrong. How much time passed since an entry was applied is known all the same, by a
//! node that was there. So idleness is judged by the time that passed. The log's times alone decide only about
//! what was idle before this node began.

use std::collections::VecDeque;
use std::time::Duration;

use crate::env::Instant;

/// Between two marks.
const MARK_EVERY: Duration = Duration::from_secs(60);
/// A time of the log that has stood for this long is given to no further entry.
const SETTLED: Duration = Duration::from_secs(1);

/// Marks of the log's time, for as long as anything is asked of them.
#[derive(Debug)]
pub struct ElapsedTimes {
    marks: VecDeque<TimeMark>,
    kept: Duration,
    /// The log's time when this began.
    first_ms: Option<u64>,
    /// The log's time at the last look, and since when it is that.
    last: (u64, Instant),
}

/// When this mark was made, all entries with earlier times had been applied.
#[derive(Debug, Clone, Copy)]
struct TimeMark {
    below_ms: u64,
    at: Instant,
}

impl ElapsedTimes {
    /// Nothing will be asked that is further back than `kept`.
    pub fn new(kept: Duration) -> Self {
        Self {
            marks: VecDeque::new(),
            kept,
            first_ms: None,
            last: (0, Instant::now()),
        }
    }

    /// Takes note of the log's time now.
    pub fn look(&mut self, log_ms: u64) {
        let now = Instant::now();
        if self.first_ms.is_none() || log_ms != self.last.0 {
            self.last = (log_ms, now);
        }
        self.first_ms.get_or_insert(log_ms);
        let due = self
            .marks
            .back()
            .is_none_or(|mark| now - mark.at >= MARK_EVERY);
        if due {
            // An entry with the same time may be on its way.
            let settled = now - self.last.1 >= SETTLED;
            let below_ms = if settled { log_ms + 1 } else { log_ms };
            self.marks.push_back(TimeMark { below_ms, at: now });
        }
        // The last one that is old enough stays.
        while self
            .marks
            .get(1)
            .is_some_and(|next| now - next.at >= self.kept)
        {
            self.marks.pop_front();
        }
    }

    /// Entries with times before this one are at least so old. `surely_past_ms` is what the clocks
    /// say, if anything: it counts for entries from before this node began.
    pub fn before_ms(&self, age: Duration, surely_past_ms: Option<u64>) -> u64 {
        let mut old = self.marks.iter().rev();
        let observed = old.find(|mark| mark.at.elapsed() >= age);
        let observed = observed.map_or(0, |mark| mark.below_ms);
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let told = surely_past_ms.map_or(0, |now| now.saturating_sub(age_ms));
        observed.max(told.min(self.first_ms.unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    /// Not before what the log says.
    const WRONG_MS: u64 = 1 << 50;

    async fn pass(passed: &mut ElapsedTimes, span: Duration, log_ms: u64) {
        let until = Instant::now() + span;
        while Instant::now() < until {
            tokio::time::advance(Duration::from_secs(10)).await;
            passed.look(log_ms);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn age_is_what_passed_and_not_what_times_say() {
        let mut passed = ElapsedTimes::new(24 * HOUR);
        passed.look(WRONG_MS);
        assert_eq!(passed.before_ms(HOUR, None), 0);
        pass(&mut passed, HOUR / 2, WRONG_MS).await;
        pass(&mut passed, HOUR / 2, WRONG_MS + 5).await;
        // An hour has passed since the first mark, when that time had not settled.
        assert_eq!(passed.before_ms(HOUR, Some(WRONG_MS * 2)), WRONG_MS);
        pass(&mut passed, HOUR / 4, WRONG_MS + 5).await;
        assert_eq!(passed.before_ms(HOUR, None), WRONG_MS + 1);
        pass(&mut passed, HOUR, WRONG_MS + 5).await;
        assert_eq!(passed.before_ms(HOUR, None), WRONG_MS + 6, "it idles");
        pass(&mut passed, 48 * HOUR, WRONG_MS + 5).await;
        assert!(passed.marks.len() <= 24 * 60 + 2, "{}", passed.marks.len());
        assert_eq!(passed.before_ms(24 * HOUR, None), WRONG_MS + 6);
    }

    #[tokio::test(start_paused = true)]
    async fn what_idles_since_before_is_judged_by_the_clocks() {
        let mut passed = ElapsedTimes::new(24 * HOUR);
        let hour_ms = 3_600_000;
        passed.look(5 * hour_ms);
        pass(&mut passed, Duration::from_secs(60), 6 * hour_ms).await;
        let before = |now| passed.before_ms(HOUR, Some(now));
        assert_eq!(before(5 * hour_ms), 4 * hour_ms);
        // Used since: the clocks have no say.
        assert_eq!(before(50 * hour_ms), 5 * hour_ms);
    }
}
