//! `ferrolog produce`: a record a line, pipelined, through leader changes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use indicatif::ProgressBar;
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::cli::connection::{ConnectionArgs, OfLog};
use crate::cli::feeder::{Fed, Feeder, Unfinished};
use crate::cli::output::{PROGRESS_STRIDE, counted, grouped, millis, per_second, progress, span};
use crate::cli::records::{Delimiter, RecordSource};
use crate::cli::signals::{Interrupted, Signals};
use crate::cli::{Format, UsageError, files, output};
use crate::client::{
    AppenderOptions, Client, Compression, Fence, Header, ProducerOptions, ProducerStats, Record,
};
use crate::proto::v1::GetLimitsResponse;

/// How long acknowledgements are waited for after a signal.
const LAST_ACKS_MAX: Duration = Duration::from_secs(2);
const CLOSE_MAX: Duration = Duration::from_secs(1);

const HELP: &str = "\
Each record is appended exactly once, also when a server is lost on the way. SIGINT and SIGTERM end it within
a few seconds: it says how many records were acknowledged, and of how many that is not known. With --output json
that stands in `acknowledged` and `in_doubt` beside `error`.

Examples:
  ferrolog produce --servers n1:8400,n2:8400,n3:8400 words.txt
  journalctl -f | ferrolog produce          (with FERROLOG_SERVERS and the like set)
  ferrolog produce --log orders today.txt   (made before by `ferrolog log create orders`)
  ferrolog produce --whole photo.jpg        (one record)
  find . -print0 | ferrolog produce --delimiter '\\0'
  ferrolog produce --key-delimiter = --compression zstd settings.env
  ferrolog produce --header source=web1 --header kind=access access.log
  ferrolog produce --fence importer:3 dump.txt   (refused once somebody claims epoch 4)
  echo next | ferrolog produce --expected-next-offset 1000   (only if the log ends there)";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct ProduceArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    log: OfLog,
    /// What to append; - is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// What ends a record; \n, \r, \t, \0, \\ and \xNN are understood
    #[arg(long, default_value = "\\n", value_parser = Delimiter::parse)]
    delimiter: Delimiter,
    /// Append the whole input as one record
    #[arg(long, conflicts_with = "delimiter")]
    whole: bool,
    /// What stands before the first of these in a record is its key; escapes as in --delimiter
    #[arg(long, value_name = "STR", value_parser = Delimiter::parse)]
    key_delimiter: Option<Delimiter>,
    /// A header to put on every record; may be given several times
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<Header>,
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

/// The records of the input, as the options shape them.
struct Input {
    source: RecordSource,
    key_delimiter: Option<Delimiter>,
    headers: Vec<Header>,
    line: u64,
    is_whole: bool,
    /// What the servers take.
    limits: GetLimitsResponse,
}

/// No server would take this record.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} has {bytes} bytes, and the servers take {bytes_max}: {hint}cut the input into smaller records"
)]
struct TooLong {
    what: String,
    hint: &'static str,
    bytes: usize,
    bytes_max: u64,
}

impl Input {
    fn open(args: &ProduceArgs) -> anyhow::Result<Self> {
        Ok(Self {
            source: match args.whole {
                true => RecordSource::whole(&args.file)?,
                false => RecordSource::split(&args.file, args.delimiter.clone())?,
            },
            key_delimiter: args.key_delimiter.clone(),
            headers: args.headers.clone(),
            line: 0,
            is_whole: args.whole,
            limits: GetLimitsResponse::default(),
        })
    }

    async fn next(&mut self) -> anyhow::Result<Option<Record>> {
        let Some(piece) = self.source.next().await? else {
            return Ok(None);
        };
        self.line += 1;
        let (key, value) = match &self.key_delimiter {
            None => (None, piece),
            Some(delimiter) => {
                let parts = delimiter.split_once(&piece);
                let (key, value) = parts.with_context(|| no_key(self.line, delimiter))?;
                (Some(key), value)
            }
        };
        let record = Record {
            value,
            key,
            headers: self.headers.clone(),
            ..Record::default()
        };
        self.check(&record)?;
        Ok(Some(record))
    }

    /// Checks a record before it is sent, because the error can name its line here.
    fn check(&self, record: &Record) -> Result<(), TooLong> {
        let key = record.key.as_ref().map_or(0, Bytes::len);
        let headers = record.headers.iter();
        let headers = headers.map(|header| header.name.len() + header.value.len());
        let all = record.value.len() + key + headers.sum::<usize>();
        let over = |bytes: usize, bytes_max: u64, what: &str, hint| {
            if bytes as u64 <= bytes_max {
                return Ok(());
            }
            let (what, hint) = match self.is_whole {
                true => (what.to_owned(), ""),
                false => (format!("{what} of line {}", self.line), hint),
            };
            Err(TooLong {
                what,
                hint,
                bytes,
                bytes_max,
            })
        };
        let key_max = u64::from(self.limits.key_bytes_max);
        let hint = "choose another --key-delimiter, or ";
        over(key, key_max, "the key", hint)?;
        let hint = "choose another --delimiter, or ";
        over(all, self.limits.record_bytes_max, "the record", hint)
    }
}

fn no_key(line: u64, delimiter: &Delimiter) -> String {
    format!(
        "line {line} has no key: {:?} does not stand in it; choose another --key-delimiter, or mend the line",
        String::from_utf8_lossy(delimiter.as_bytes())
    )
}

pub(in crate::cli) async fn run(args: ProduceArgs, format: Format) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let client = args.log.of(&args.connection.client(None)?);
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
            Ok(Some(record)) => feeder.send(record).await?,
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
    let bytes = record.value.len();
    let mut appender = client.appender(AppenderOptions {
        compression: args.compression.into(),
        fence: args.fence.clone(),
    })?;
    let appended = tokio::select! {
        appended = appender.append_at(expected, vec![record]) => appended?,
        told = signals.next() => return Err(Unfinished {
            acknowledged: 0,
            in_doubt: 1,
            offsets: None,
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
        "appended 1 record, {} bytes at offset {}",
        grouped(bytes as u64),
        appended.first_offset
    ));
    Ok(())
}

async fn only_record(input: &mut Input) -> anyhow::Result<Record> {
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
    if format == Format::Json {
        let summary = json!({
            "records": fed.records,
            "bytes": fed.bytes,
            "batches": stats.batches,
            "duplicates": stats.duplicates,
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
    use crate::cli::files;

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

    async fn records(text: &str, key_delimiter: Option<&str>) -> anyhow::Result<Vec<Record>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("input");
        files::write(&path, text)?;
        let mut input = Input {
            source: RecordSource::split(&path, Delimiter::newline())?,
            key_delimiter: key_delimiter.map(|text| Delimiter::parse(text).unwrap()),
            headers: vec![parse_header("n=v").unwrap()],
            line: 0,
            is_whole: false,
            limits: GetLimitsResponse {
                record_bytes_max: 10,
                key_bytes_max: 4,
                ..GetLimitsResponse::default()
            },
        };
        let mut records = Vec::new();
        while let Some(record) = input.next().await? {
            records.push(record);
        }
        Ok(records)
    }

    #[tokio::test]
    async fn a_line_is_a_record_with_or_without_a_key() {
        let plain = records("a=1\n", None).await.unwrap();
        assert_eq!(
            (plain[0].key.as_ref(), &plain[0].value[..]),
            (None, &b"a=1"[..])
        );
        assert_eq!(plain[0].headers[0].value, "v");
        let keyed = records("a=1=2\n=\n", Some("=")).await.unwrap();
        assert_eq!(keyed[0].key.as_deref(), Some(&b"a"[..]));
        assert_eq!(keyed[0].value, "1=2");
        assert_eq!(keyed[1].key.as_deref(), Some(&b""[..]));
        let error = records("a=1\nb\n", Some("=")).await.unwrap_err();
        assert!(
            error.to_string().starts_with("line 2 has no key"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_line_that_no_server_takes_is_named() {
        let line = |text: &str| Err(text.to_owned());
        let read = async |text: &str, delimiter| {
            let read = records(text, delimiter).await;
            read.map(|records| records.len())
                .map_err(|error| error.to_string())
        };
        // The header counts two.
        assert_eq!(read("12345678\n", None).await, Ok(1));
        let said = "the record of line 2 has 11 bytes, and the servers take 10: choose another --delimiter, or \
                    cut the input into smaller records";
        assert_eq!(read("a\n123456789\n", None).await, line(said));
        assert_eq!(read("1234=1234\n", Some("=")).await, Ok(1));
        let said = "the key of line 3 has 5 bytes, and the servers take 4: choose another --key-delimiter, or \
                    cut the input into smaller records";
        assert_eq!(read("a=\nb=\n12345=\n", Some("=")).await, line(said));
    }
}
