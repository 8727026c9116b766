//! What only several logs have: calls that append to some at once, and reads of all in one order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::time::{Instant, timeout};

use super::Bench;
use super::load::batches::Load;
use super::load::figures::Run;
use super::load::{SILENCE_MAX, Target, rate};
use super::many::Logs;
use crate::client::{ConsumeOptions, Consumer, Selection, Start};

/// The logs of a call, and the records for each.
const LOGS_OF_A_CALL: usize = 10;
const RECORDS_OF_A_BATCH: u32 = 10;
const RECORD_BYTES: usize = 100;

/// What the row of calls does.
pub(super) fn produced() -> String {
    format!(
        "native produce, calls to {LOGS_OF_A_CALL} logs of {RECORDS_OF_A_BATCH} x {RECORD_BYTES} bytes, beside batches of 100"
    )
}

impl Target {
    /// Appends to several logs a call, on several streams for a time.
    pub(super) async fn together_for(
        &self,
        logs: &Arc<[String]>,
        length: Duration,
    ) -> anyhow::Result<Run> {
        let each = LOGS_OF_A_CALL.min(logs.len());
        let load = |turn| {
            let load = Load::new(logs, RECORDS_OF_A_BATCH, RECORD_BYTES, turn);
            load.together(each)
        };
        let per_second = self.produce_for(load, logs.len(), length).await?;
        Ok(Run {
            per_second,
            ..Run::default()
        })
    }
}

impl Bench {
    fn by_prefix(&self, logs: &Logs, from: Start) -> anyhow::Result<Consumer> {
        let options = ConsumeOptions {
            selection: Some(Selection::Prefix(logs.prefix.clone())),
            from,
            ..ConsumeOptions::default()
        };
        Ok(self.client.consume(options)?)
    }

    /// The position behind all records.
    pub(super) async fn position_behind(&self, logs: &Logs) -> anyhow::Result<u64> {
        let mut consumer = self.by_prefix(logs, Start::Latest)?;
        Ok(consumer.position().await?)
    }

    /// Reads so many records of all logs in their one order; records a second.
    pub(super) async fn read_prefix(
        &self,
        logs: &Logs,
        from: u64,
        count: u64,
    ) -> anyhow::Result<f64> {
        records_a_second(self.by_prefix(logs, Start::Position(from))?, count).await
    }

    /// Reads records of one log, from an offset on, by the same client; records a second.
    pub(super) async fn read_one(
        &self,
        log: &str,
        (from, count): (u64, u64),
    ) -> anyhow::Result<f64> {
        let options = ConsumeOptions {
            from: Start::Offset(from),
            ..ConsumeOptions::default()
        };
        records_a_second(self.client.log(log).consume(options)?, count).await
    }
}

async fn records_a_second(mut consumer: Consumer, count: u64) -> anyhow::Result<f64> {
    let started = Instant::now();
    for read in 0..count {
        let next = timeout(SILENCE_MAX, consumer.next()).await;
        let next = next.context("the consume stream is stuck")?;
        ensure!(next.is_some(), "it ended after {read} of {count} records");
        next.transpose().context("the consume stream broke")?;
    }
    Ok(rate(count, started.elapsed()))
}
