//! `ferrolog consume`: records to standard output, raw or as JSON lines, and a cursor behind them.
//!
//! The cursor moves once the records before it were written and, into a pipe, taken by the process that reads it.
//! So a reader that dies gets some records again and misses none. The cursor moves by compare-and-set, so that two
//! readers under one name notice each other.

mod args;
mod pipe;
mod positions;
mod sink;

use std::io::{self, BufWriter, IsTerminal};
use std::pin::pin;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;

use super::cursor::stands;
use crate::cli::Format;
use crate::cli::output::note;
use crate::cli::record_format::RecordFormat;
use crate::cli::signals::{Interrupted, Signals, interrupted};
use crate::client::{Admin, Client, Consistency, ConsumeOptions, Consumer, Start};
pub(in crate::cli) use args::ConsumeArgs;
use args::place;
use pipe::was_closed;
use sink::{Cursor, Sink};

const OUT_BUFFER_BYTES: usize = 256 * 1024;
const SIGNAL_STRIDE: u64 = 1024;
/// How long a node may take to hear from a leader how far it is.
const CONFIRM_WAIT: Duration = Duration::from_secs(3);

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
    let cursors = args.cursors(&client);
    let begins = match &args.cursor {
        Some(name) => tokio::select! {
            begins = begins(&cursors, name, &args, format) => begins?,
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
        (Some(name), Some(at)) => Some(Cursor::at(cursors, name, at)),
        (Some(name), None) => tokio::select! {
            made = Cursor::make(cursors, name, &mut consumer) => Some(made?),
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
    cursors: &Admin,
    name: &str,
    args: &ConsumeArgs,
    format: Format,
) -> anyhow::Result<Option<u64>> {
    check_output()?;
    let stands = stands(cursors, name, args.create).await?;
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
    "the read ended at {end}, and the node's disk holds records up to {held} at most: no leader has \
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
                    gone = Sink::reader_gone() => return Err(gone),
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
