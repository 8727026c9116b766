//! `ferrolog produce`: a record a line, pipelined, through leader changes.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use serde_json::json;
use tokio::time::Instant;

use super::connection::ConnectionArgs;
use super::output::{PROGRESS_STRIDE, grouped, millis, per_second, progress, span};
use super::records::{Delimiter, RecordSource};
use super::{Format, files, output};
use crate::client::{Ack, ClientError, Producer, ProducerStats};

const HELP: &str = "\
Each record is appended exactly once, also when a server is lost on the way.

Examples:
  ferrolog produce --servers n1:8400,n2:8400,n3:8400 words.txt
  journalctl -f | ferrolog produce          (with FERROLOG_SERVERS and the like set)
  ferrolog produce --whole photo.jpg        (one record)
  find . -print0 | ferrolog produce --delimiter '\\0'";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct ProduceArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// What to append; - is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// What ends a record; \n, \r, \t, \0, \\ and \xNN are understood
    #[arg(long, default_value = "\\n", value_parser = Delimiter::parse)]
    delimiter: Delimiter,
    /// Append the whole input as one record
    #[arg(long, conflicts_with = "delimiter")]
    whole: bool,
}

pub(super) async fn run(args: ProduceArgs, format: Format) -> anyhow::Result<()> {
    let producer = args.connection.client(None)?.producer()?;
    let mut source = match args.whole {
        true => RecordSource::whole(&args.file)?,
        false => RecordSource::split(&args.file, args.delimiter)?,
    };
    let bar = progress(files::input_bytes(&args.file), "appending");
    let started = Instant::now();

    let mut feeder = Feeder::new(&producer);
    let fed = async {
        while let Some(record) = source.next().await? {
            feeder.send(record).await?;
            if feeder.fed.records.is_multiple_of(PROGRESS_STRIDE) {
                bar.set_position(feeder.fed.bytes);
            }
        }
        feeder.settle().await.map_err(anyhow::Error::from)
    }
    .await;
    bar.finish_and_clear();
    let fed = match fed {
        Ok(()) => feeder.fed,
        Err(error) => return Err(error.context(acknowledged_text(producer.stats().acknowledged))),
    };
    let stats = producer.finish().await?;
    show(&fed, &stats, started.elapsed(), format).context("print the summary")
}

fn show(
    fed: &Fed,
    stats: &ProducerStats,
    elapsed: Duration,
    format: Format,
) -> std::io::Result<()> {
    let rate = per_second(fed.records, elapsed);
    if format == Format::Json {
        let summary = json!({
            "records": fed.records,
            "bytes": fed.bytes,
            "seconds": elapsed.as_secs_f64(),
            "records_per_second": rate,
            "first_offset": fed.first_offset,
            "last_offset": fed.last_offset,
            "longest_ack_gap_ms": millis(stats.longest_gap),
            "streams": stats.streams,
        });
        return output::print(&summary.to_string());
    }
    let offsets = match (fed.first_offset, fed.last_offset) {
        (Some(first), Some(last)) => format!(", offsets {first} to {last}"),
        _ => String::new(),
    };
    eprintln!(
        "appended {} records, {} bytes in {} ({}/s){offsets}; longest gap between acks {}",
        grouped(fed.records),
        grouped(fed.bytes),
        span(elapsed),
        grouped(rate),
        span(stats.longest_gap),
    );
    Ok(())
}

/// What was appended.
#[derive(Debug, Clone, Default)]
pub(super) struct Fed {
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) first_offset: Option<u64>,
    pub(super) last_offset: Option<u64>,
}

fn acknowledged_text(count: u64) -> String {
    match count {
        0 => "no record was acknowledged".to_owned(),
        1 => "only the first record was acknowledged".to_owned(),
        count => format!("only the first {count} records were acknowledged"),
    }
}

/// Sends records and collects their offsets without piling them up.
pub(super) struct Feeder<'a> {
    producer: &'a Producer,
    acks: VecDeque<Ack>,
    pub(super) fed: Fed,
}

impl<'a> Feeder<'a> {
    /// More than a producer's window, so that the oldest is acknowledged when it is asked.
    const ACKS_MAX: usize = 2048;

    pub(super) fn new(producer: &'a Producer) -> Self {
        Self {
            producer,
            acks: VecDeque::new(),
            fed: Fed::default(),
        }
    }

    pub(super) async fn send(&mut self, record: Bytes) -> Result<(), ClientError> {
        let bytes = record.len() as u64;
        self.acks.push_back(self.producer.send(record).await?);
        self.fed.records += 1;
        self.fed.bytes += bytes;
        if self.acks.len() > Self::ACKS_MAX {
            self.settle_one().await?;
        }
        Ok(())
    }

    /// Waits until all that was sent is acknowledged.
    pub(super) async fn settle(&mut self) -> Result<(), ClientError> {
        self.settle_first(self.fed.records).await
    }

    /// Waits until the first `count` records are acknowledged.
    pub(super) async fn settle_first(&mut self, count: u64) -> Result<(), ClientError> {
        while self.fed.records - (self.acks.len() as u64) < count.min(self.fed.records) {
            self.settle_one().await?;
        }
        Ok(())
    }

    async fn settle_one(&mut self) -> Result<(), ClientError> {
        if let Some(ack) = self.acks.pop_front() {
            let offset = ack.await?;
            self.fed.first_offset.get_or_insert(offset);
            self.fed.last_offset = Some(offset);
        }
        Ok(())
    }
}
