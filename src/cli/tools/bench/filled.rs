//! Logs that are filled before they are read, of one and of all as many records.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;

use super::load::batches::{self, Load};
use super::load::rate;
use super::many::{CHANGES_IN_FLIGHT, Logs, READ_BATCH_RECORDS};
use super::{Bench, RECORDS_FOR_READS, RowName};
use crate::cli::output::{counted, grouped, say};

/// What is there to be read.
pub(super) struct Filled {
    /// Before the records of all logs.
    position: u64,
    /// The offset at which a log's records begin, and how many they are: of each log, and of the one.
    all: Vec<(u64, u64)>,
    one: (u64, u64),
}

impl Bench {
    /// Fills all logs, and then one with as many records as all have together, at its end.
    pub(super) async fn fill_both(
        &self,
        logs: &Logs,
        one: &Arc<[String]>,
    ) -> anyhow::Result<Filled> {
        Ok(Filled {
            position: self.position_behind(logs).await?,
            all: self.fill_logs(&logs.all).await?,
            one: self.fill_logs(one).await?[0],
        })
    }

    /// Reads what was filled, of one log and of all; records a second.
    pub(super) async fn read_both(
        &self,
        row: RowName,
        (logs, one): (&Logs, &Arc<[String]>),
        filled: &Filled,
    ) -> anyhow::Result<(f64, f64)> {
        let of_each = filled.all[0].1;
        Ok(match row {
            RowName::Prefix => {
                let all = (filled.position, of_each * filled.all.len() as u64);
                let of_one = self.read_one(&one[0], filled.one).await?;
                (of_one, self.read_prefix(logs, all).await?)
            }
            RowName::ConsumeBatch => {
                let of_reader = Self::followed_records(logs.all.len(), of_each);
                let of_one = self.follow_one(&one[0], filled.one, of_reader).await?;
                let position = filled.position;
                let of_many = self.follow_many(&logs.all, position, of_each).await?;
                (of_one, of_many)
            }
            _ => (
                self.read_logs(one, &[filled.one]).await?,
                self.read_logs(&logs.all, &filled.all).await?,
            ),
        })
    }

    /// Appends a million records in small batches, one log after the other and from the first again. Tells for
    /// each log where they begin.
    async fn fill_logs(&self, logs: &Arc<[String]>) -> anyhow::Result<Vec<(u64, u64)>> {
        let admin = self.client.admin();
        let ends = logs.iter().map(|name| admin.get_log(name));
        let ends: Vec<_> = stream::iter(ends)
            .buffered(CHANGES_IN_FLIGHT)
            .try_collect()
            .await?;
        let of_each = RECORDS_FOR_READS / u64::from(READ_BATCH_RECORDS) / logs.len() as u64;
        let of_each = of_each.max(1);
        let count = of_each * logs.len() as u64;
        let records = count * u64::from(READ_BATCH_RECORDS);
        say(&format!(
            "appending {} records to {}",
            grouped(records),
            counted(logs.len() as u64, "log", "logs")
        ));
        let load = Load::new(logs, READ_BATCH_RECORDS, batches::READ_RECORD_BYTES, 0);
        self.leader().await?.batches_count(load, count).await?;
        let records = of_each * u64::from(READ_BATCH_RECORDS);
        Ok(ends.iter().map(|log| (log.next_offset, records)).collect())
    }

    /// Reads so many records of each log, one log after the other; records a second.
    pub(super) async fn read_logs(
        &self,
        logs: &[String],
        spans: &[(u64, u64)],
    ) -> anyhow::Result<f64> {
        let channel = self.leader().await?.channel();
        let started = Instant::now();
        for (log, (from, count)) in logs.iter().zip(spans) {
            batches::consume(channel.clone(), log, *from, *count).await?;
        }
        let records = spans.iter().map(|(_, count)| count).sum();
        Ok(rate(records, started.elapsed()))
    }
}
