//! The calls of callers that come at a pace, and how long they took.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Code;
use tonic::transport::Channel;

use super::super::load::SILENCE_MAX;
use super::super::load::batches::Load;
use super::super::load::figures::percentile;
use super::account::Account;
use super::{CALL_RECORDS, CALLERS, Shape};
use crate::proto::v1::ProduceRequest;
use crate::proto::v1::log_service_client::LogServiceClient;

/// Between two tries of a call that no leader took.
const AGAIN: Duration = Duration::from_millis(20);
/// Calls that were due in so long stand for a stretch.
pub const STRETCH: Duration = Duration::from_secs(5);

/// How long the calls took that count.
pub struct Loaded {
    /// From each call's stretch, and how many microseconds it took, in order.
    calls: Vec<(u32, u32)>,
    /// The p99 of each stretch with a call, by the stretch's number, in order.
    pub stretches: Vec<(u32, u32)>,
}

impl Loaded {
    /// From each call's stretch, and how many microseconds it took.
    pub fn new(mut calls: Vec<(u32, u32)>) -> Self {
        calls.sort_unstable();
        let micros = |calls: &[(u32, u32)]| calls.iter().map(|call| call.1).collect::<Vec<_>>();
        let stretches = calls.chunk_by(|a, b| a.0 == b.0);
        let p99s = stretches.filter_map(|stretch| {
            let p99 = percentile(&micros(stretch), 99)?;
            Some((stretch.first()?.0, p99))
        });
        let stretches: Vec<_> = p99s.collect();
        Self { calls, stretches }
    }

    pub fn count(&self) -> usize {
        self.calls.len()
    }

    /// How many microseconds the calls took that are in stretches which count, in order.
    pub fn sorted(&self, counts: impl Fn(u32) -> bool) -> Vec<u32> {
        let calls = self.calls.iter().filter(|call| counts(call.0));
        let mut micros: Vec<_> = calls.map(|call| call.1).collect();
        micros.sort_unstable();
        micros
    }

    /// The median of the p99 of stretches.
    pub fn usual_p99(&self) -> Option<u32> {
        let mut p99s: Vec<_> = self.stretches.iter().map(|stretch| stretch.1).collect();
        p99s.sort_unstable();
        percentile(&p99s, 50)
    }
}

/// How fast calls are to come: without a number, one after the other.
#[derive(Default)]
pub struct Pace {
    pub per_second: Option<f64>,
    pub account: Mutex<Account>,
}

pub struct Caller {
    pub client: LogServiceClient<Channel>,
    pub number: usize,
    pub logs: Arc<[String]>,
    pub shape: Shape,
    pub pace: Arc<Pace>,
}

impl Caller {
    /// Calls until the batch is taken: in half an hour leaders may change, and that costs the call its time. What came of
    /// a call is not always known then: it may append twice what the account has once.
    async fn produce(&mut self, request: ProduceRequest) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            match self.client.produce(request.clone()).await {
                Ok(_) => return Ok(()),
                Err(status)
                    if matches!(status.code(), Code::Unavailable | Code::Unknown)
                        && began.elapsed() < SILENCE_MAX =>
                {
                    sleep(AGAIN).await;
                }
                Err(status) => return Err(status).context("a produce call"),
            }
        }
    }

    /// Calls until the time is over; gives each call's stretch, and how many microseconds it took from when it was due.
    pub async fn call(
        mut self,
        (began, counted_from): (Instant, Instant),
        length: Duration,
    ) -> anyhow::Result<Vec<(u32, u32)>> {
        let mut calls = Vec::new();
        let mut load = Load::new(
            &self.logs,
            CALL_RECORDS,
            self.shape.record_bytes,
            self.number * 7919,
        );
        let apart = |per_second: f64| Duration::from_secs_f64(CALLERS as f64 / per_second.max(0.1));
        let apart = self.pace.per_second.map(apart);
        let share = self.number as f64 / CALLERS as f64;
        let mut due = began + apart.unwrap_or_default().mul_f64(share);
        loop {
            match apart {
                Some(_) => sleep_until(due).await,
                None => due = Instant::now(),
            }
            if due >= began + length {
                return Ok(calls);
            }
            let log = load.place();
            let request = load.next().produce.unwrap_or_default();
            self.produce(request).await?;
            let now = Instant::now();
            if due >= counted_from {
                let micros = u32::try_from((now - due).as_micros()).unwrap_or(u32::MAX);
                let stretch = (due - began).as_secs() / STRETCH.as_secs();
                calls.push((u32::try_from(stretch).unwrap_or(u32::MAX), micros));
            }
            if let Some(apart) = apart {
                let second = (now - began).as_secs();
                let bytes = self.shape.call_bytes();
                self.pace.account.lock().append(log, second, bytes);
                due += apart;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_of_standing_still_is_in_the_p99_and_not_in_the_usual_one() {
        let calls = (0..3).flat_map(|stretch| (0..100).map(move |call| (stretch, 100 + call)));
        let stalled = (3..4).flat_map(|stretch| (0..100).map(move |_| (stretch, 1_000_000)));
        let loaded = Loaded::new(calls.chain(stalled).collect());
        assert_eq!(percentile(&loaded.sorted(|_| true), 99), Some(1_000_000));
        let before = loaded.sorted(|stretch| stretch < 3);
        assert_eq!(percentile(&before, 99), Some(198));
        assert_eq!(loaded.usual_p99(), Some(198));
        assert_eq!(loaded.stretches[2..], [(2, 198), (3, 1_000_000)]);
    }
}
