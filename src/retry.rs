//! Trying again: after which pauses, and until when. It is one policy, of clients and of nodes.
//!
//! What may be tried again is said by the reason of the failure, [`crate::reason`]. A call has one time for all its
//! tries, on whatever node it waits: a client says with each call how long it waits for the answer, a node keeps
//! a part of that for the way back, and tells the leader how much is used up. So a try inside another one takes
//! of its time, and does not multiply it.

use std::time::Duration;

use crate::env::{self, Instant};

/// How long a node keeps a call waiting for a leader, unless its caller waits for less.
pub const CALL_WAIT: Duration = Duration::from_secs(5);
/// The part of a caller's time that is kept for the way of the answer.
pub const WAY_BACK: Duration = Duration::from_millis(200);
/// The first pause at most, and the longest one.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Pauses between the tries of one caller: they grow from 20 to 250 ms, and start anew after progress.
#[derive(Debug)]
pub struct Pauses {
    next: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: PAUSE_FIRST }
    }
}

impl Pauses {
    /// Starts anew.
    pub fn reset(&mut self) {
        self.next = PAUSE_FIRST;
    }

    /// The next pause: half of it is drawn, so that callers that failed together do not come back together.
    pub fn take(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(PAUSE_MAX);
        spread(whole / 2)
    }

    /// Waits for it.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.take()).await;
    }
}

/// Since when a call counts as waiting whose caller waits until then: it has used up what it does not have.
pub fn waiting_since(deadline: Option<Instant>) -> Instant {
    let now = Instant::now();
    let since = deadline.and_then(|deadline| deadline.checked_sub(CALL_WAIT));
    since.map_or(now, |since| since.min(now))
}

/// This time and a part of as much again, which is drawn.
pub fn spread(least: Duration) -> Duration {
    // Of 2^32 equal parts.
    let part = env::random_u64() >> 32;
    let more = (least.as_nanos() * u128::from(part)) >> 32;
    least + Duration::from_nanos(u64::try_from(more).unwrap_or(u64::MAX))
}

/// Tries until there is an outcome, or no time left. Only what has surely done nothing is tried again.
pub async fn until<T, E, F: Future<Output = Result<T, E>>>(
    deadline: Instant,
    has_done_nothing: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> F,
) -> Result<T, E> {
    let mut pauses = Pauses::default();
    loop {
        match attempt().await {
            Err(error) if has_done_nothing(&error) && Instant::now() < deadline => {
                pauses.wait().await;
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_start_anew() {
        let mut pauses = Pauses::default();
        for most in [20, 40, 80, 160, 250, 250] {
            let pause = pauses.take();
            let most = Duration::from_millis(most);
            assert!(pause >= most / 2 && pause <= most, "{pause:?} of {most:?}");
        }
        pauses.reset();
        assert!(pauses.take() <= PAUSE_FIRST);
    }

    /// A thousand clients that a node refused at once.
    #[test]
    fn those_who_failed_together_do_not_come_back_together() {
        let second = Duration::from_secs(1);
        let mut tenths = [0; 10];
        for _ in 0..1000 {
            let more = spread(second) - second;
            tenths[more.as_millis() as usize / 100] += 1;
        }
        assert!(tenths.iter().all(|&count| count > 30), "{tenths:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_try_begins_once_the_time_is_over() {
        let began = Instant::now();
        let mut tries = 0;
        let outcome = until(
            began + CALL_WAIT,
            |_| true,
            || {
                tries += 1;
                std::future::ready(Err::<(), _>(()))
            },
        );
        outcome.await.unwrap_err();
        assert!(began.elapsed() < CALL_WAIT + PAUSE_MAX);
        assert!((20..60).contains(&tries), "{tries}");
        let sure = until(
            began + CALL_WAIT * 2,
            |_| false,
            || std::future::ready(Err::<(), _>(())),
        );
        let before = Instant::now();
        sure.await.unwrap_err();
        assert_eq!(
            Instant::now(),
            before,
            "what may be done is not tried again"
        );
    }
}
