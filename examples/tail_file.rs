//! Tails a file into the log: every line once, through crashes of this program and of nodes.
//!
//! There is no state file. Each record carries in a header how far the file is read with it, so where to go on
//! stands in the log itself: in the last record of this source. Two things make that safe:
//!
//! - The source's name is claimed first. From then on the cluster refuses what an older run, stuck somewhere on
//!   the way, still sends: what is read back is final.
//! - The producer has a session, so a batch that is sent again is there once.
//!
//! ```text
//! ferrolog dev --dir /tmp/try --base-port 7401      # then, in another terminal:
//! export FERROLOG_SERVERS=127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403
//! cd /tmp/try/certs; export FERROLOG_TLS_CA=$PWD/ca.pem FERROLOG_TLS_CERT=$PWD/client.pem \
//!     FERROLOG_TLS_KEY=$PWD/client-key.pem; cd -
//! cargo run --example tail_file -- /var/log/syslog
//! kill -9 it, and start it again: no line is lost, none is doubled
//! cargo run --example tail_file -- --once --name words /usr/share/dict/words
//! ```
#![allow(
    clippy::disallowed_methods,
    reason = "an example reads its user's file"
)]

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Parser;
use ferrolog::client::{
    Ack, Client, ClientError, Consistency, ConsumeOptions, Fence, Header, Producer,
    ProducerOptions, Record, Start,
};
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader, SeekFrom};

/// The header that names the file whose line a record is.
const SOURCE: &str = "tail-file.source";
/// The header that says how many bytes of the file the line and all before it take.
const POSITION: &str = "tail-file.position";
/// How often the end of the file is looked at for more.
const POLL: Duration = Duration::from_millis(200);
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Lines that wait for their acknowledgement.
const ACKS_MAX: usize = 4096;
/// How many records at the end of the log are searched first for one of this source.
const TAIL_FIRST: u64 = 1000;

#[derive(Parser)]
#[command(
    about = "Tails a file into the log: every line once",
    after_help = "Ctrl-C ends it."
)]
struct Args {
    /// The file; it may grow, and may be neither cut nor replaced
    file: PathBuf,
    /// Under which name the log knows the file [default: its path]
    #[arg(long)]
    name: Option<String>,
    /// End where the file ends
    #[arg(long)]
    once: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::from_env()?;
    let name = match args.name {
        Some(name) => name,
        None => {
            let path = tokio::fs::canonicalize(&args.file).await;
            let path = path.with_context(|| format!("find {}", args.file.display()))?;
            path.to_string_lossy().into_owned()
        }
    };
    let fence = format!("tail-file/{name}");
    let holder = format!("process {}", std::process::id());
    let claim = client.admin().claim_epoch(&fence, &holder, None).await?;
    // The first claim of all: no record of this source can be there.
    let position = match claim.epoch {
        1 => 0,
        _ => last_position(&client, &name, claim.next_offset).await?,
    };
    eprintln!(
        "{name}: goes on at byte {position}, as number {}",
        claim.epoch
    );

    let producer = client.producer(ProducerOptions {
        fence: Some(Fence {
            name: fence,
            epoch: claim.epoch,
        }),
        ..ProducerOptions::default()
    })?;
    let mut tail = Tail {
        lines: Lines::open(&args.file, position).await?,
        name: Bytes::from(name),
        producer: &producer,
        acks: VecDeque::new(),
        sent: 0,
    };
    tokio::select! {
        copied = tail.copy(args.once) => copied.map_err(explain)?,
        _ = tokio::signal::ctrl_c() => {}
    }
    let lines = tail.sent;
    // Wait for the records that were sent.
    let finished = producer.finish().await;
    finished.map_err(|error| explain(error.into()))?;
    eprintln!("{lines} lines appended");
    Ok(())
}

fn explain(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Fenced { .. }) => {
            error.context("another run tails this file now; this one ends")
        }
        _ => error,
    }
}

/// How far the file is in the log: looks at ever more of its end for a record of this source.
async fn last_position(client: &Client, name: &str, end: u64) -> anyhow::Result<u64> {
    let mut looked_at = TAIL_FIRST;
    let last = loop {
        let from = end.saturating_sub(looked_at);
        let last = match last_between(client, name, from, end).await {
            // Retention took the log's beginning.
            Err(ClientError::Trimmed { first, .. }) => {
                let lost = "the log holds no record of the file, and its beginning is trimmed: where to go on \
                            is not known. Give another --name to begin anew";
                let last = last_between(client, name, first, end).await?;
                break last.context(lost)?;
            }
            last => last?,
        };
        match last {
            Some(last) => break last,
            None if from == 0 => return Ok(0),
            None => looked_at = looked_at.saturating_mul(8),
        }
    };
    let position = header(&last, POSITION).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let position = position.and_then(|text| text.parse().ok());
    position.with_context(|| format!("the last record of {name} does not say how far the file is"))
}

/// The last record of this source in a part of the log.
async fn last_between(
    client: &Client,
    name: &str,
    from: u64,
    end: u64,
) -> Result<Option<Record>, ClientError> {
    let mut consumer = client.consume(ConsumeOptions {
        from: Start::Offset(from),
        // Whatever node answers must have all that was appended before the claim.
        consistency: Consistency::AtLeast(end),
        ..ConsumeOptions::default()
    })?;
    let mut last = None;
    let mut next = from;
    while next < end {
        let Some(consumed) = consumer.next().await else {
            break;
        };
        let consumed = consumed?;
        next = consumed.offset + 1;
        if header(&consumed.record, SOURCE) == Some(name.as_bytes()) {
            last = Some(consumed.record);
        }
    }
    Ok(last)
}

fn header<'a>(record: &'a Record, name: &str) -> Option<&'a [u8]> {
    let mut headers = record.headers.iter();
    let header = headers.find(|header| header.name == name)?;
    Some(&header.value)
}

/// The whole lines of a growing file.
struct Lines {
    path: PathBuf,
    file: BufReader<File>,
    /// Behind the last whole line.
    position: u64,
    /// A line that has no end yet.
    partial: Vec<u8>,
}

impl Lines {
    async fn open(path: &Path, position: u64) -> anyhow::Result<Self> {
        let opened = File::open(path).await;
        let mut file = opened.with_context(|| format!("open {}", path.display()))?;
        file.seek(SeekFrom::Start(position)).await?;
        let lines = Self {
            path: path.to_owned(),
            file: BufReader::new(file),
            position,
            partial: Vec::new(),
        };
        lines.check_length().await?;
        Ok(lines)
    }

    /// The next line without its end; `None` if the file has no whole one now.
    async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        let room = LINE_BYTES_MAX - self.partial.len() as u64;
        let mut limited = (&mut self.file).take(room);
        let read = limited.read_until(b'\n', &mut self.partial).await;
        read.with_context(|| format!("read {}", self.path.display()))?;
        if self.partial.pop_if(|byte| *byte == b'\n').is_none() {
            ensure!(
                (self.partial.len() as u64) < LINE_BYTES_MAX,
                "the line at byte {} of {} is over {LINE_BYTES_MAX} bytes",
                self.position,
                self.path.display()
            );
            self.check_length().await?;
            return Ok(None);
        }
        self.position += self.partial.len() as u64 + 1;
        Ok(Some(std::mem::take(&mut self.partial).into()))
    }

    /// A file that was cut or replaced has other bytes at the positions in the log.
    async fn check_length(&self) -> anyhow::Result<()> {
        let metadata = tokio::fs::metadata(&self.path).await;
        let length = metadata
            .with_context(|| format!("look at {}", self.path.display()))?
            .len();
        ensure!(
            length >= self.position,
            "{} has {length} bytes, and {} of them are in the log: it was cut or replaced. Give another --name \
             to append it from its beginning",
            self.path.display(),
            self.position
        );
        Ok(())
    }
}

/// A file on its way into the log.
struct Tail<'a> {
    lines: Lines,
    name: Bytes,
    producer: &'a Producer,
    acks: VecDeque<Ack>,
    sent: u64,
}

impl Tail<'_> {
    async fn copy(&mut self, once: bool) -> anyhow::Result<()> {
        loop {
            let Some(line) = self.lines.next().await? else {
                self.settle(0).await?;
                if once {
                    return Ok(());
                }
                tokio::time::sleep(POLL).await;
                continue;
            };
            let header = |name: &str, value: Bytes| Header {
                name: name.to_owned(),
                value,
            };
            let position = Bytes::from(self.lines.position.to_string());
            let record = Record {
                value: line,
                headers: vec![
                    header(SOURCE, self.name.clone()),
                    header(POSITION, position),
                ],
                ..Record::default()
            };
            self.acks.push_back(self.producer.send(record).await?);
            self.sent += 1;
            self.settle(ACKS_MAX).await?;
        }
    }

    /// Waits until at most so many lines are not acknowledged.
    async fn settle(&mut self, most: usize) -> anyhow::Result<()> {
        while self.acks.len() > most {
            if let Some(ack) = self.acks.pop_front() {
                ack.await?;
            }
        }
        Ok(())
    }
}
