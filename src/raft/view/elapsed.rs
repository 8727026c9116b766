//! How long ago the log's time was what it was then, by this node's monotonic clock.
//!
//! The times in a log may be wrong. How much time passed since an entry was applied is known all the same, by a
//! node that was there. So age and idleness are judged by the time that passed. The log's times alone decide only
//! about what was there before this node began.

use std::collections::VecDeque;
use std::time::Duration;

use crate::env::Instant;

/// Between two marks.
const MARK_EVERY: Duration = Duration::from_secs(1);
/// Of an age, marks may be so much apart: what is older than that is known to be as late as that.
const APART: u32 = 16;
/// A time of the log that has stood for this long is given to no further entry.
const SETTLED: Duration = Duration::from_secs(1);

/// Marks of the log's time. There are a few hundred, however long the node is up: the older they are, the further
/// apart.
#[derive(Debug)]
pub struct ElapsedTimes {
    /// Oldest first.
    marks: VecDeque<TimeMark>,
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

impl Default for ElapsedTimes {
    fn default() -> Self {
        Self {
            marks: VecDeque::new(),
            first_ms: None,
            last: (0, Instant::now()),
        }
    }
}

impl ElapsedTimes {
    /// Takes note of the log's time now.
    pub fn look(&mut self, log_ms: u64) {
        let now = Instant::now();
        if self.first_ms.is_none() || log_ms != self.last.0 {
            self.last = (log_ms, now);
        }
        self.first_ms.get_or_insert(log_ms);
        let is_due = |mark: &TimeMark| now - mark.at >= MARK_EVERY;
        if self.marks.back().is_none_or(is_due) {
            // An entry with the same time may be on its way.
            let settled = now - self.last.1 >= SETTLED;
            let below_ms = if settled { log_ms + 1 } else { log_ms };
            self.thin(now);
            self.marks.push_back(TimeMark { below_ms, at: now });
        }
    }

    /// Forgets the marks whose neighbours are close to each other, for their age.
    fn thin(&mut self, now: Instant) {
        let Some(mut before) = self.marks.front().copied() else {
            return;
        };
        let mut number = 0;
        let last = self.marks.len() - 1;
        let after: Vec<_> = self.marks.iter().skip(1).copied().collect();
        self.marks.retain(|mark| {
            let after = after.get(number).copied();
            let is_end = number == 0 || number == last;
            number += 1;
            let stays =
                is_end || after.is_none_or(|after| after.at - before.at > (now - after.at) / APART);
            if stays {
                before = *mark;
            }
            stays
        });
    }

    /// Entries with times before this one are at least so old. `surely_past_ms` is what the clocks
    /// say, if anything: it counts for entries from before this node began.
    pub fn before_ms(&self, age: Duration, surely_past_ms: Option<u64>) -> u64 {
        let now = Instant::now();
        let old = self.marks.partition_point(|mark| now - mark.at >= age);
        let observed = old
            .checked_sub(1)
            .map_or(0, |last| self.marks[last].below_ms);
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
        let mut passed = ElapsedTimes::default();
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
        assert_eq!(passed.before_ms(24 * HOUR, None), WRONG_MS + 6);
    }

    #[tokio::test(start_paused = true)]
    async fn an_age_is_told_to_a_sixteenth_of_it_by_few_marks() {
        let mut passed = ElapsedTimes::default();
        let begun = Instant::now();
        let mut looked = 0;
        for (step_s, steps) in [(1, 5000), (60, 5000), (3600, 5000)] {
            for _ in 0..steps {
                tokio::time::advance(Duration::from_secs(step_s)).await;
                looked = begun.elapsed().as_millis() as u64;
                passed.look(looked);
            }
            assert!(passed.marks.len() < 400, "{} marks", passed.marks.len());
            let mut age = Duration::from_secs(step_s);
            while age < begun.elapsed() / 2 {
                let old = passed.before_ms(age, None);
                let is_so_old = Duration::from_millis(looked - old);
                // It stands for what came since the mark before it.
                let most = age + age / 8 + 3 * Duration::from_secs(step_s);
                assert!(
                    is_so_old >= age && is_so_old <= most,
                    "{age:?}: {is_so_old:?}"
                );
                age *= 3;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_idles_since_before_is_judged_by_the_clocks() {
        let mut passed = ElapsedTimes::default();
        let hour_ms = 3_600_000;
        passed.look(5 * hour_ms);
        pass(&mut passed, Duration::from_secs(60), 6 * hour_ms).await;
        let before = |now| passed.before_ms(HOUR, Some(now));
        assert_eq!(before(5 * hour_ms), 4 * hour_ms);
        // Used since: the clocks have no say.
        assert_eq!(before(50 * hour_ms), 5 * hour_ms);
    }
}
