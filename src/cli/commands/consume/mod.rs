//! `ferrolog consume`: records to standard output, raw or as JSON lines, and a cursor behind them.
//!
//! The cursor moves once the records before it were written and, into a pipe, taken by the process that reads it.
//! So a reader that dies gets some records again and misses none. The cursor moves by compare-and-set, so that two
//! readers under one name notice each other.

mod pipe;
mod positions;
mod sink;

use std::io::{self, BufWriter, IsTerminal};
use std::pin::pin;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;

use super::cursor::stands;
use crate::cli::connection::{ConnectionArgs, log_of_environment};
use crate::cli::output::note;
use crate::cli::record_format::RecordFormat;
use crate::cli::records::Delimiter;
use crate::cli::signals::{Interrupted, Signals, interrupted};
use crate::cli::{Format, UsageError};
use crate::client::{Client, Consistency, ConsumeOptions, Consumer, Selection, Start};
use pipe::was_closed;
use positions::{parse_consistency, parse_start};
use sink::{Cursor, Sink};

const OUT_BUFFER_BYTES: usize = 256 * 1024;
const SIGNAL_STRIDE: u64 = 1024;
/// How long a node may take to hear from a leader how far it is.
const CONFIRM_WAIT: Duration = Duration::from_secs(3);

const HELP: &str = "\
Without --follow the read ends where the log ended when it began. With --output json each line is an object
with `log`, `offset`, `append_timestamp_ms`, and `value`, or `value_base64` where the value is not UTF-8; with
`key` or `key_base64`, `headers` and `client_timestamp_ms` where the record has them.

Several logs, by --prefix or by more than one --log, are read as one, in the order in which their records were
committed. Each record is printed behind the name of its log, and in JSON with its `position` in that order: the next
read goes on at --from position:N, with a position one higher than the last. Such a read begins there, at earliest or
at latest.

With --cursor the read begins where the cursor stands. A name that does not exist is an error, lest a slip of the
pen reads all again; with --create it is made where the read begins, at --from. The cursor moves after records were
written out and, where standard output is a pipe, taken by its reader: at the end, and at least every 5 s or 10,000
records. Without --follow a signal ends the read with exit code 130 or 143; the cursor stands behind what was taken.

Consistency:
  relaxed       what the node has
  strong        at least everything acknowledged before now
  at-least:N    everything before offset N
  bounded:TIME  at most so far behind, for as long as the read lasts, such as bounded:500ms or bounded:2s

Examples:
  ferrolog consume --servers n1:8400,n2:8400,n3:8400 > copy.txt
  ferrolog consume --log orders --from latest --follow
  ferrolog consume --prefix orders/ --follow --output json
  ferrolog consume --log orders --log payments --from position:1000
  ferrolog consume --from 1000 --count 10 --output json
  ferrolog consume --from tail:10 --keys --key-delimiter ': '
  ferrolog consume --from timestamp:2026-01-31T12:00:00Z
  ferrolog consume --server n2:8400 --consistency strong
  ferrolog consume --cursor billing --create --from latest --follow
  ferrolog consume --cursor billing --follow";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct ConsumeArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// The log, as `ferrolog log list` names it; several times for several logs, read as one
    /// [env: FERROLOG_LOG_NAME] [default: default]
    #[arg(long = "log", value_name = "NAME")]
    logs: Vec<String>,
    /// Read all logs whose names begin so as one, those too that are made later
    #[arg(long, value_name = "TEXT", conflicts_with = "logs")]
    prefix: Option<String>,
    /// Where to begin: an offset, earliest, latest, tail:N, timestamp: with milliseconds or RFC 3339 in UTC, or
    /// position:N among the records of several logs [default: earliest]
    #[arg(long, value_name = "START", value_parser = parse_start)]
    from: Option<Start>,
    /// End after this many records
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Wait for new records at the end
    #[arg(long, short)]
    follow: bool,
    /// How fresh: relaxed, strong, at-least:N or bounded:TIME
    #[arg(long, default_value = "relaxed", value_name = "LEVEL", value_parser = parse_consistency)]
    consistency: Consistency,
    /// Begin at this cursor, and move it behind what was written
    #[arg(long, value_name = "NAME")]
    cursor: Option<String>,
    /// Make the cursor where the read begins, if there is none of this name
    #[arg(long, requires = "cursor")]
    create: bool,
    /// Read from this node and no other
    #[arg(long, value_name = "HOST:PORT")]
    server: Option<String>,
    /// What to print after each record; \n, \r, \t, \0, \\ and \xNN are understood
    #[arg(long, default_value = "\\n", value_parser = Delimiter::parse)]
    delimiter: Delimiter,
    /// On a terminal, print control characters as they are: by themselves they are escaped there
    #[arg(long)]
    raw: bool,
    /// Print each record's key and --key-delimiter before its value; a record without a key has an empty one
    #[arg(long)]
    keys: bool,
    /// What to print after a key; escapes as in --delimiter
    #[arg(long, value_name = "STR", default_value = "\\t", value_parser = Delimiter::parse, requires = "keys")]
    key_delimiter: Delimiter,
    /// What to print after the name of a record's log where several are read; escapes as in --delimiter
    #[arg(long, value_name = "STR", default_value = "\\t", value_parser = Delimiter::parse)]
    log_delimiter: Delimiter,
}

impl ConsumeArgs {
    /// The logs that are read as one, if it is not a single one.
    fn selection(&self) -> Option<Selection> {
        match (&self.prefix, &*self.logs) {
            (Some(prefix), _) => Some(Selection::Prefix(prefix.clone())),
            (None, [] | [_]) => None,
            (None, logs) => Some(Selection::Logs(logs.to_vec())),
        }
    }

    /// The one log that is read.
    fn log(&self) -> String {
        let named = self.logs.first().cloned();
        named.unwrap_or_else(log_of_environment)
    }

    /// What to read, from an edge on.
    fn options(&self) -> ConsumeOptions {
        ConsumeOptions {
            selection: self.selection(),
            consistency: self.consistency,
            server: self.server.clone(),
            ..ConsumeOptions::default()
        }
    }

    /// Refuses what is a place in one log where several are read, and the other way round.
    fn check(&self) -> Result<(), UsageError> {
        let from = self.from.as_ref();
        let wrong = match self.selection() {
            Some(_) if self.cursor.is_some() => {
                "a cursor stands in one log: leave it out, or read one --log"
            }
            Some(_)
                if !matches!(
                    from,
                    None | Some(Start::Earliest | Start::Latest | Start::Position(_))
                ) =>
            {
                "an offset or a time is a place in one log: with --prefix or several --log begin at earliest, latest or \
                 position:N"
            }
            Some(_) if matches!(self.consistency, Consistency::AtLeast(_)) => {
                "an offset is a place in one log: with --prefix or several --log use --consistency strong"
            }
            None if matches!(from, Some(Start::Position(_))) => {
                "a position is a place among the records of several logs: begin at an offset, or give --prefix or \
                 several --log"
            }
            _ => return Ok(()),
        };
        Err(UsageError(wrong.to_owned()))
    }
}

/// Where a read of these logs goes on.
fn place(selection: Option<&Selection>, next: u64) -> Start {
    match selection {
        Some(_) => Start::Position(next),
        None => Start::Offset(next),
    }
}

pub(in crate::cli) async fn run(args: ConsumeArgs, format: Format) -> anyhow::Result<()> {
    args.check()?;
    let client = args.connection.client(args.server.as_deref())?;
    let client = client.log(args.log());
    let options = args.options();
    let selection = options.selection.as_ref();
    // Without a cursor there is nothing to end cleanly: a signal kills.
    let mut signals = match args.cursor {
        Some(_) => Some(Signals::listen()?),
        None => None,
    };
    let from = args.from.clone().unwrap_or(Start::Earliest);
    let begins = match &args.cursor {
        Some(name) => tokio::select! {
            begins = begins(&client, name, &args, format) => begins?,
            told = interrupted(&mut signals) => return Err(told.into()),
        },
        None => None,
    };
    let mut consumer = client.consume(ConsumeOptions {
        from: begins.map_or(from, |next| place(selection, next)),
        follow: args.follow,
        ..options.clone()
    })?;
    let cursor = match (&args.cursor, begins) {
        (None, _) => None,
        (Some(name), Some(at)) => Some(Cursor::at(&client, name, at)),
        (Some(name), None) => tokio::select! {
            made = Cursor::make(&client, name, &mut consumer) => Some(made?),
            told = interrupted(&mut signals) => return Err(told.into()),
        },
    };
    let mut sink = Sink {
        out: BufWriter::with_capacity(OUT_BUFFER_BYTES, io::stdout()),
        form: RecordFormat {
            format,
            delimiter: args.delimiter,
            key_delimiter: args.keys.then_some(args.key_delimiter),
            log_delimiter: selection.is_some().then_some(args.log_delimiter),
            escapes: !args.raw && io::stdout().is_terminal(),
        },
        cursor,
    };
    let mut left = args.count.unwrap_or(u64::MAX);
    let ended = copy_and_settle(&mut consumer, &mut sink, &mut signals, &mut left).await?;
    // A signal is how a read that follows is meant to end.
    if let (Ended::Told(told), false) = (&ended, args.follow) {
        return Err((*told).into());
    }
    let (Some((end, held)), Ended::There) = (short(&consumer), ended) else {
        return Ok(());
    };
    confirm(&client, &options, end, held).await?;
    // Records that the disk held when the read began count, although they were known to be committed only later.
    left = left.min(held - end);
    let mut rest = client.consume(ConsumeOptions {
        from: place(selection, end),
        ..options.clone()
    })?;
    match copy_and_settle(&mut rest, &mut sink, &mut signals, &mut left).await? {
        Ended::Told(told) => Err(told.into()),
        // Another node answered that cannot tell, or this one cannot any more.
        Ended::There => match short(&rest) {
            Some((end, held)) => Err(StoppedShort { end, held }.into()),
            None => Ok(()),
        },
        Ended::Counted => Ok(()),
    }
}

/// Where the cursor stands, if there is one of this name yet.
async fn begins(
    client: &Client,
    name: &str,
    args: &ConsumeArgs,
    format: Format,
) -> anyhow::Result<Option<u64>> {
    check_output()?;
    let stands = stands(client, name, args.create).await?;
    if let (Some(at), Some(_)) = (stands, &args.from) {
        let text =
            format!("the cursor {name} stands at {at}: the read begins there, and not at --from");
        note(&text, format);
    }
    Ok(stands)
}

/// Why no more is written.
enum Ended {
    /// The log, or what there was of it when the read began.
    There,
    /// As many records as were asked for.
    Counted,
    Told(Interrupted),
}

/// Where the read ended and up to where the node's disk holds records, if it cannot tell which are committed.
fn short(consumer: &Consumer) -> Option<(u64, u64)> {
    consumer.end().zip(consumer.stopped_short())
}

async fn copy_and_settle(
    consumer: &mut Consumer,
    sink: &mut Sink,
    signals: &mut Option<Signals>,
    left: &mut u64,
) -> anyhow::Result<Ended> {
    let read = copy(consumer, sink, signals, left).await;
    // Records that were read are written out, however the read ended.
    let settled = sink.settle(signals).await;
    let ended = read?;
    settled?;
    Ok(ended)
}

/// Refuses a closed standard output: nobody would see the records, and the cursor would move past them.
fn check_output() -> anyhow::Result<()> {
    let closed = was_closed(io::stdout()).context("look at standard output")?;
    anyhow::ensure!(
        !closed,
        "standard output is closed, so the cursor is not moved: send the records somewhere, or to skip them use \
         `ferrolog cursor set`"
    );
    Ok(())
}

/// The read ended where the node cannot tell whether more is committed.
#[derive(Debug, thiserror::Error)]
#[error(
    "the read ended at {end}, and the node's disk holds records up to {held}: no leader has \
     confirmed lately which of them are committed. Read from another node, or again once a majority \
     is up"
)]
pub(in crate::cli) struct StoppedShort {
    pub end: u64,
    pub held: u64,
}

/// A node that lags for a moment tells more when it is asked once more; one without a leader cannot.
async fn confirm(
    client: &Client,
    options: &ConsumeOptions,
    end: u64,
    held: u64,
) -> Result<(), StoppedShort> {
    let again = client.consume(ConsumeOptions {
        from: place(options.selection.as_ref(), end),
        consistency: Consistency::Bounded(CONFIRM_WAIT),
        ..options.clone()
    });
    let confirmed = async {
        let mut again = again.ok()?;
        again.next().await.transpose().ok().map(drop)
    };
    match tokio::time::timeout(CONFIRM_WAIT, confirmed).await {
        Ok(Some(())) => Ok(()),
        _ => Err(StoppedShort { end, held }),
    }
}

/// Writes as many records as are left to be written; ends early at a signal.
async fn copy(
    consumer: &mut Consumer,
    sink: &mut Sink,
    signals: &mut Option<Signals>,
    left: &mut u64,
) -> anyhow::Result<Ended> {
    while *left > 0 {
        let mut next = pin!(consumer.next());
        let record = match next.as_mut().now_or_never() {
            Some(record) => record,
            None => loop {
                // No record is at hand: show what is buffered before waiting.
                sink.flush()?;
                tokio::select! {
                    record = &mut next => break record,
                    () = sink.commit_due() => sink.settle(signals).await?,
                    told = interrupted(signals) => return Ok(Ended::Told(told)),
                }
            },
        };
        let Some(record) = record else {
            return Ok(Ended::There);
        };
        sink.write(&record?, signals).await?;
        *left -= 1;
        // A read that never waits would never see a signal.
        if left.is_multiple_of(SIGNAL_STRIDE)
            && let Some(told) = interrupted(signals).now_or_never()
        {
            return Ok(Ended::Told(told));
        }
    }
    Ok(Ended::Counted)
}
