//! What only several logs have: calls that append to some at once, and reads of all in one order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join;
use tokio::time::{Instant, timeout};

use super::Bench;
use super::load::batches::{BATCH_RECORDS, Load, READ_RECORD_BYTES};
use super::load::figures::Run;
use super::load::{SILENCE_MAX, Target, rate};
use super::many::Logs;
use crate::cli::output::grouped;
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

/// Batches that are appended while somebody follows.
const BATCHES_ALONG: u64 = 20_000;

/// What the row of a follower does.
pub(super) fn followed() -> String {
    format!(
        "one client follows by a prefix while {} batches of {BATCH_RECORDS} x {READ_RECORD_BYTES} bytes are \
         appended, beside one log",
        grouped(BATCHES_ALONG)
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

/// What a reader asks for that begins there.
fn begin(from: Start) -> ConsumeOptions {
    ConsumeOptions {
        from,
        ..ConsumeOptions::default()
    }
}

/// What a reader of all logs asks for.
fn by_prefix(logs: &Logs, from: Start) -> ConsumeOptions {
    ConsumeOptions {
        selection: Some(Selection::Prefix(logs.prefix.clone())),
        ..begin(from)
    }
}

/// A reader that waits for more at the end.
fn following(options: ConsumeOptions) -> ConsumeOptions {
    ConsumeOptions {
        follow: true,
        ..options
    }
}

impl Bench {
    /// The position behind all records.
    pub(super) async fn position_behind(&self, logs: &Logs) -> anyhow::Result<u64> {
        let mut consumer = self.client.consume(by_prefix(logs, Start::Latest))?;
        Ok(consumer.position().await?)
    }

    /// Reads so many records of all logs in their one order; records a second.
    pub(super) async fn read_prefix(
        &self,
        logs: &Logs,
        (from, count): (u64, u64),
    ) -> anyhow::Result<f64> {
        let options = by_prefix(logs, Start::Position(from));
        records_a_second(self.client.consume(options)?, count).await
    }

    /// Reads records of one log, from an offset on, by the same client; records a second.
    pub(super) async fn read_one(
        &self,
        log: &str,
        (from, count): (u64, u64),
    ) -> anyhow::Result<f64> {
        let options = begin(Start::Offset(from));
        records_a_second(self.client.log(log).consume(options)?, count).await
    }

    /// Appends to all logs while somebody follows them by their prefix; records a second until he has them all.
    pub(super) async fn read_all_along(&self, logs: &Logs) -> anyhow::Result<f64> {
        let from = Start::Position(self.position_behind(logs).await?);
        let follower = self.client.consume(following(by_prefix(logs, from)))?;
        self.read_along(&logs.all, follower).await
    }

    /// The same with one log.
    pub(super) async fn read_one_along(&self, one: &Arc<[String]>) -> anyhow::Result<f64> {
        let behind = self.client.admin().get_log(&one[0]).await?.next_offset;
        let options = begin(Start::Offset(behind));
        let follower = self.client.log(&one[0]).consume(following(options))?;
        self.read_along(one, follower).await
    }

    /// Appends to logs while somebody who stands at their end follows; records a second until he has them all.
    async fn read_along(&self, logs: &Arc<[String]>, follower: Consumer) -> anyhow::Result<f64> {
        let leader = self.leader().await?;
        let load = Load::new(logs, BATCH_RECORDS, READ_RECORD_BYTES, 0);
        let records = BATCHES_ALONG * u64::from(BATCH_RECORDS);
        let appended = leader.batches_count(load, BATCHES_ALONG);
        let (read, ()) = try_join(records_a_second(follower, records), appended).await?;
        Ok(read)
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
