//! `ferrolog produce`: a record a line, pipelined, through leader changes, to one log or to those that the lines name.

mod input;
mod json;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use indicatif::ProgressBar;
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::cli::connection::{ConnectionArgs, log_of_environment};
use crate::cli::feeder::{Fed, Feeder, Unfinished};
use crate::cli::output::{PROGRESS_STRIDE, counted, grouped, millis, per_second, progress, span};
use crate::cli::records::Delimiter;
use crate::cli::signals::{Interrupted, Signals};
use crate::cli::{Format, UsageError, files, output};
use crate::client::{
    AppenderOptions, Client, Compression, Fence, Header, ProducerOptions, ProducerStats,
};
use input::{Addressed, Input};

/// How long acknowledgements are waited for after a signal.
const LAST_ACKS_MAX: Duration = Duration::from_secs(2);
const CLOSE_MAX: Duration = Duration::from_secs(1);

const HELP: &str = "\
Each record is appended exactly once, also when a server is lost on the way. SIGINT and SIGTERM end it within
a few seconds: it says how many records were acknowledged, and of how many that is not known. With --output json
that stands in `acknowledged` and `in_doubt` beside `error`.

One pipe feeds many logs where each line names its own: before --log-delimiter, or as `log` in a line of JSON. With
--input json a line is an object as `consume --output json` writes it: `value` or `value_base64`, and as far as it
has them `log`, `key` or `key_base64`, `headers` and `client_timestamp_ms`; a `value` of null is none at
all, which differs from an empty one: a tombstone. `offset`, `position` and `append_timestamp_ms` are passed over,
since the cluster gives them anew. --log sends all of them to that log. A log that is not there ends it: the error
names the line, and what was appended before.

Examples:
  ferrolog produce --servers n1:7400,n2:7400,n3:7400 words.txt
  journalctl -f | ferrolog produce          (with FERROLOG_SERVERS and the like set)
  ferrolog produce --log orders today.txt   (made before by `ferrolog log create orders`)
  ferrolog produce --whole photo.jpg        (one record)
  find . -print0 | ferrolog produce --delimiter '\\0'
  ferrolog produce --key-delimiter = --compression zstd settings.env
  ferrolog produce --header source=web1 --header kind=access access.log
  ferrolog produce --fence importer:3 dump.txt   (refused once somebody claims epoch 4)
  echo next | ferrolog produce --expected-next-offset 1000   (only if the log ends there)
  ferrolog produce --log-delimiter '\\t' mixed.tsv           (orders/eu, a tab, and the record)
  ferrolog consume --log orders --output json | ferrolog produce --input json --log copy";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct ProduceArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// The log, as `ferrolog log list` names it, whatever the records say [env: FERROLOG_LOG_NAME, for those that
    /// name none] [default: default]
    #[arg(long, value_name = "NAME")]
    log: Option<String>,
    /// What to append; - is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// What a line is
    #[arg(long, value_enum, default_value_t = Lines::Text)]
    input: Lines,
    /// What ends a record; \n, \r, \t, \0, \\ and \xNN are understood [default: \n]
    #[arg(long, value_parser = Delimiter::parse)]
    delimiter: Option<Delimiter>,
    /// Append the whole input as one record
    #[arg(long, conflicts_with = "delimiter")]
    whole: bool,
    /// What stands before the first of these in a record is its key; escapes as in --delimiter
    #[arg(long, value_name = "STR", value_parser = Delimiter::parse)]
    key_delimiter: Option<Delimiter>,
    /// What stands before the first of these in a record, and before its key, names its log; escapes as in --delimiter
    #[arg(long, value_name = "STR", value_parser = Delimiter::parse, conflicts_with = "log")]
    log_delimiter: Option<Delimiter>,
    /// A header to put on every record; may be given several times
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<Header>,
    /// Give each record that has no client timestamp the time at which it was read: some logs ask for one
    #[arg(long)]
    timestamps: bool,
    /// How batches are compressed
    #[arg(long, value_enum, default_value_t = Codec::None)]
    compression: Codec,
    /// Append under a session, so that a batch that is sent again is there once
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    idempotent: bool,
    /// Append only while this epoch is the name's present one
    #[arg(long, value_name = "NAME:EPOCH", value_parser = parse_fence)]
    fence: Option<Fence>,
    /// Append the one record of the input only if the log ends at this offset
    #[arg(long, value_name = "N", conflicts_with = "idempotent")]
    expected_next_offset: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Lines {
    /// A record as it is
    Text,
    /// An object as `consume --output json` writes it
    Json,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Codec {
    /// Not at all
    None,
    /// Cheap
    Lz4,
    /// Small
    Zstd,
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::None,
            Codec::Lz4 => Self::Lz4,
            Codec::Zstd => Self::Zstd,
        }
    }
}

fn parse_header(text: &str) -> Result<Header, String> {
    let parts = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = parts.ok_or("write NAME=VALUE, such as source=web1")?;
    Ok(Header {
        name: name.to_owned(),
        value: Bytes::from(value.to_owned()),
    })
}

fn parse_fence(text: &str) -> Result<Fence, String> {
    let wrong = "write NAME:EPOCH, such as importer:3";
    // A name may hold colons, a number none.
    let (name, epoch) = text.rsplit_once(':').ok_or(wrong)?;
    let epoch = epoch.parse().map_err(|_| wrong)?;
    Ok(Fence {
        name: name.to_owned(),
        epoch,
    })
}

impl ProduceArgs {
    pub(in crate::cli) fn connection(&self) -> &ConnectionArgs {
        &self.connection
    }
}

pub(in crate::cli) async fn run(args: ProduceArgs, format: Format) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let own = args.log.clone().unwrap_or_else(log_of_environment);
    let client = args.connection.client(None)?.log(own);
    let mut input = Input::open(&args)?;
    let admin = client.admin();
    input.limits = tokio::select! {
        limits = admin.limits() => limits?,
        told = signals.next() => return Err(told.into()),
    };
    if let Some(expected) = args.expected_next_offset {
        return append_at(&client, input, &args, expected, (format, signals)).await;
    }
    let producer = client.producer(ProducerOptions {
        compression: args.compression.into(),
        idempotent: args.idempotent,
        fence: args.fence.clone(),
        ..ProducerOptions::default()
    })?;
    let bar = progress(files::input_bytes(&args.file), "appending");
    let started = Instant::now();
    let mut feeder = Feeder::new(&producer);
    let fed = tokio::select! {
        fed = feed(input, &mut feeder, &bar) => fed,
        told = signals.next() => Err(told.into()),
    };
    bar.finish_and_clear();
    if let Err(cause) = fed {
        if cause.is::<Interrupted>() {
            // Wait for the acknowledgements, so that few records stay in doubt. A second signal ends the wait.
            tokio::select! {
                _ = timeout(LAST_ACKS_MAX, feeder.settle()) => {}
                _ = signals.next() => {}
            }
        }
        let unfinished = feeder.stop(cause).await;
        // Whether the session could be closed or not, it is forgotten in time.
        let _ = timeout(CLOSE_MAX, producer.finish()).await;
        return Err(unfinished.into());
    }
    let fed = feeder.fed;
    let stats = producer.finish().await?;
    show(&fed, &stats, started.elapsed(), format).context("print the summary")
}

async fn feed(mut input: Input, feeder: &mut Feeder<'_>, bar: &ProgressBar) -> anyhow::Result<()> {
    let ended = loop {
        match input.next().await {
            Ok(Some(Addressed { log, record })) => match log {
                Some(log) => feeder.send_to(log, record).await?,
                None => feeder.send(record).await?,
            },
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
        if feeder.fed.records.is_multiple_of(PROGRESS_STRIDE) {
            bar.set_position(feeder.fed.bytes);
        }
    };
    // An input that ends in an error is settled, too, so that the error can say what was appended.
    feeder.settle().await?;
    ended
}

/// Appends the input's one record, if the log ends where it should.
async fn append_at(
    client: &Client,
    mut input: Input,
    args: &ProduceArgs,
    expected: u64,
    (format, mut signals): (Format, Signals),
) -> anyhow::Result<()> {
    let record = tokio::select! {
        record = only_record(&mut input) => record?,
        told = signals.next() => return Err(told.into()),
    };
    let Addressed { log, record } = record;
    let bytes = record.value.len();
    let client = match log {
        Some(log) => client.log(&*log),
        None => client.clone(),
    };
    let mut appender = client.appender(AppenderOptions {
        compression: args.compression.into(),
        fence: args.fence.clone(),
    })?;
    let appended = tokio::select! {
        appended = appender.append_at(expected, vec![record]) => appended?,
        told = signals.next() => return Err(Unfinished {
            acknowledged: 0,
            in_doubt: 1,
            logs: Default::default(),
            cause: told.into(),
        }
        .into()),
    };
    appender.close().await;
    if format == Format::Json {
        let summary = json!({
            "records": 1,
            "bytes": bytes,
            "batches": 1,
            "duplicates": u64::from(appended.duplicate),
            "first_offset": appended.first_offset,
            "last_offset": appended.first_offset,
            "append_timestamp_ms": appended.append_timestamp_ms,
        });
        return output::print(&summary.to_string()).context("print the summary");
    }
    output::say(&format!(
        "appended 1 record, {} at offset {}",
        counted(bytes as u64, "byte", "bytes"),
        appended.first_offset
    ));
    Ok(())
}

async fn only_record(input: &mut Input) -> anyhow::Result<Addressed> {
    let record = input.next().await?;
    let record = record.context("the input is empty; give one record")?;
    if input.next().await?.is_some() {
        let text = "--expected-next-offset appends one record, and the input has several; give one, or --whole";
        return Err(UsageError(text.to_owned()).into());
    }
    Ok(record)
}

fn show(
    fed: &Fed,
    stats: &ProducerStats,
    elapsed: Duration,
    format: Format,
) -> std::io::Result<()> {
    let rate = per_second(fed.records, elapsed);
    let offsets = fed.offsets();
    if format == Format::Json {
        let mut summary = json!({
            "records": fed.records,
            "bytes": fed.bytes,
            "batches": stats.batches,
            "duplicates": stats.duplicates,
            "seconds": elapsed.as_secs_f64(),
            "records_per_second": rate,
            "first_offset": offsets.map(|(first, _)| first),
            "last_offset": offsets.map(|(_, last)| last),
            "longest_ack_gap_ms": millis(stats.longest_gap),
            "streams": stats.streams,
        });
        if let Some(logs) = fed.logs_json() {
            summary["logs"] = logs;
        }
        return output::print(&summary.to_string());
    }
    let offsets = match (offsets, fed.logs.len()) {
        (Some((first, last)), _) => format!(", {}", output::offsets(first, last)),
        (None, 0) => String::new(),
        (None, logs) => format!(", to {} logs", grouped(logs as u64)),
    };
    output::say(&format!(
        "appended {}, {}, {} in {} ({}/s){offsets}; longest gap between acks {}",
        counted(fed.records, "record", "records"),
        counted(fed.bytes, "byte", "bytes"),
        counted(stats.batches, "batch", "batches"),
        span(elapsed),
        grouped(rate),
        span(stats.longest_gap),
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_fences_are_pairs() {
        let header = parse_header("a=b=c").unwrap();
        assert_eq!(
            (header.name.as_str(), &header.value[..]),
            ("a", &b"b=c"[..])
        );
        assert!(parse_header("a").is_err() && parse_header("=b").is_err());
        let fence = parse_fence("a:b:7").unwrap();
        assert_eq!((fence.name.as_str(), fence.epoch), ("a:b", 7));
        assert!(parse_fence("a").is_err() && parse_fence("a:x").is_err());
    }
}
