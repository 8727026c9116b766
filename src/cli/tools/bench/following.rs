//! Many readers at once, each of a hundred logs in one stream by their names; beside as many readers of one log.

use std::sync::Arc;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Bench;
use super::batches;
use super::load::consuming::Consuming;
use super::load::{Target, rate};
use crate::proto::v1::selection::Of;
use crate::proto::v1::start::At;
use crate::proto::v1::{ConsumeStreamStart, LogNames, Selection, Start};
use crate::tasks;

/// Readers at once.
const READERS: usize = 100;
/// The logs that each of them follows.
const LOGS_OF_A_READER: usize = 100;

/// What the row does.
pub(super) fn followed() -> String {
    format!(
        "{READERS} native consume streams, each of {LOGS_OF_A_READER} logs by name, beside as many of one log"
    )
}

/// The logs that a reader follows: with few logs several readers follow each, with many some are left out.
fn share(logs: usize, reader: usize) -> impl Iterator<Item = usize> {
    let (of_each, first) = (LOGS_OF_A_READER.min(logs), reader * logs / READERS);
    (first..first + of_each).map(move |log| log % logs)
}

impl Bench {
    /// Each reader follows its logs from a position on, and reads so many records of each; records a second.
    pub(super) async fn follow_many(
        &self,
        logs: &Arc<[String]>,
        position: u64,
        of_each: u64,
    ) -> anyhow::Result<f64> {
        let reader = |number: usize, target: Target| {
            let names: Vec<_> = share(logs.len(), number)
                .map(|log| logs[log].clone())
                .collect();
            let count = of_each * names.len() as u64;
            tasks::spawn("reader", async move {
                let read = follow(&target, names, position, count).await;
                read.map(|()| count)
            })
        };
        self.at_once(reader).await
    }

    /// As many readers of one log, each of as many records in a row; records a second.
    pub(super) async fn follow_one(
        &self,
        log: &str,
        (from, all): (u64, u64),
        count: u64,
    ) -> anyhow::Result<f64> {
        let count = count.min(all);
        let reader = |number: usize, target: Target| {
            let parts = (all / count).max(1);
            let (log, from) = (log.to_owned(), from + number as u64 % parts * count);
            tasks::spawn("reader", async move {
                let read = batches::consume(target.channel(), &log, from, count).await;
                read.map(|_| count)
            })
        };
        self.at_once(reader).await
    }

    async fn at_once(
        &self,
        reader: impl Fn(usize, Target) -> JoinHandle<anyhow::Result<u64>>,
    ) -> anyhow::Result<f64> {
        let leader = self.leader().await?.addr;
        let started = Instant::now();
        let readers = (0..READERS).map(|number| Ok(reader(number, self.target(leader.clone())?)));
        let readers = readers.collect::<anyhow::Result<Vec<_>>>()?;
        let mut records = 0;
        for read in try_join_all(readers).await.context("a reader failed")? {
            records += read?;
        }
        Ok(rate(records, started.elapsed()))
    }

    /// The records that a reader of the row reads of so many logs.
    pub(super) fn followed_records(logs: usize, of_each: u64) -> u64 {
        LOGS_OF_A_READER.min(logs) as u64 * of_each
    }
}

/// Reads so many records of some logs from a position on by one consume stream, and walks every batch.
async fn follow(
    target: &Target,
    names: Vec<String>,
    position: u64,
    count: u64,
) -> anyhow::Result<()> {
    let selection = Some(Selection {
        of: Some(Of::Logs(LogNames { names })),
    });
    let start = Some(Start {
        at: Some(At::Position(position)),
    });
    let start = ConsumeStreamStart {
        start,
        selection,
        ..ConsumeStreamStart::default()
    };
    let mut stream = Consuming::open(target.channel(), start).await?;
    let (mut read_so_far, mut next) = (0, position);
    while read_so_far < count {
        for stored in stream.next().await? {
            let at = stored.position;
            ensure!(at >= next, "position {at} came where {next} was due");
            let records = stream.take(&stored)?.records;
            next = at + records;
            read_so_far += records;
        }
        stream.give().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_the_logs() {
        let of = |logs: usize, reader| share(logs, reader).collect::<Vec<_>>();
        assert_eq!(of(3, 50), [1, 2, 0], "all, if there are few");
        let mut read = vec![0; 1000];
        for reader in 0..READERS {
            let mine = of(1000, reader);
            assert_eq!(mine.len(), LOGS_OF_A_READER);
            mine.into_iter().for_each(|log| read[log] += 1);
        }
        assert!(read.iter().all(|readers| *readers == 10));
        let all: Vec<_> = (0..READERS).flat_map(|reader| of(10_000, reader)).collect();
        assert!(all.into_iter().eq(0..10_000));
    }
}
