//! Standard output, and the cursor behind what was written there.

use std::future::pending;
use std::io::{self, BufWriter, Stdout, Write};
use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;

use super::pipe::taken;
use crate::cli::output::reader_gone;
use crate::cli::record_format::RecordFormat;
use crate::cli::signals::{Signals, interrupted};
use crate::client::{Admin, ClientError, ConsumedRecord, Consumer};

/// How many records a cursor may be behind what was written.
const COMMIT_RECORDS: u64 = 10_000;
const COMMIT_EVERY: Duration = Duration::from_secs(5);

/// A cursor of the cluster that this read moves.
pub(super) struct Cursor {
    /// Those of a log, or those of selections.
    cursors: Admin,
    name: String,
    /// The offset, or the position, at which the cursor stands, as far as is known.
    known: u64,
    /// Where it should stand: behind the last record that was written.
    next: Option<u64>,
    /// Records that were written since the cursor moved.
    behind: u64,
    moved: Instant,
}

impl Cursor {
    pub fn at(cursors: Admin, name: &str, offset: u64) -> Self {
        Self {
            cursors,
            name: name.to_owned(),
            known: offset,
            next: None,
            behind: 0,
            moved: Instant::now(),
        }
    }

    /// Makes the cursor where the read begins, before a record comes, so that a later read begins there too.
    pub async fn make(cursors: Admin, name: &str, consumer: &mut Consumer) -> anyhow::Result<Self> {
        let begins = consumer.position().await?;
        let made = cursors.create_cursor(name, begins).await;
        made.with_context(|| format!("make the cursor {name} at {begins}"))?;
        Ok(Self::at(cursors, name, begins))
    }

    fn stays(&self, why: &str) -> String {
        format!("{why}, so the cursor {} stays at {}", self.name, self.known)
    }

    fn is_due(&self) -> bool {
        self.behind >= COMMIT_RECORDS || (self.behind > 0 && self.moved.elapsed() >= COMMIT_EVERY)
    }

    async fn commit(&mut self) -> anyhow::Result<()> {
        self.moved = Instant::now();
        let Some(next) = self.next.take() else {
            return Ok(());
        };
        let moved = self
            .cursors
            .commit_cursor(&self.name, next, Some(self.known));
        match moved.await {
            Ok(()) => {
                self.known = next;
                self.behind = 0;
                Ok(())
            }
            Err(error) => Err(self.moved_by_somebody(next, error)),
        }
    }

    fn moved_by_somebody(&self, next: u64, error: ClientError) -> anyhow::Error {
        let about = match &error {
            ClientError::CursorDiffers { current } => format!(
                "somebody else moved the cursor {} from {} to {}; records before {next} were written here. \
                 Let one reader use it, or give each one a cursor of its own",
                self.name,
                self.known,
                current.map_or("nowhere".to_owned(), |at| at.to_string()),
            ),
            _ => format!("move the cursor {} to {next}", self.name),
        };
        anyhow::Error::new(error).context(about)
    }
}

/// Standard output, and the cursor behind it.
pub(super) struct Sink {
    pub out: BufWriter<Stdout>,
    pub form: RecordFormat,
    pub cursor: Option<Cursor>,
}

impl Sink {
    pub async fn write(
        &mut self,
        record: &ConsumedRecord,
        signals: &mut Option<Signals>,
    ) -> anyhow::Result<()> {
        let written = self.form.write(&mut self.out, record);
        written.context("write to standard output")?;
        let Some(cursor) = &mut self.cursor else {
            return Ok(());
        };
        cursor.next = Some(record.position.unwrap_or(record.offset) + 1);
        cursor.behind += 1;
        if cursor.is_due() {
            self.settle(signals).await?;
        }
        Ok(())
    }

    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.out.flush().context("write to standard output")
    }

    /// Waits until the cursor has to move although no record comes.
    pub async fn commit_due(&self) {
        match &self.cursor {
            Some(cursor) if cursor.behind > 0 => {
                tokio::time::sleep_until(cursor.moved + COMMIT_EVERY).await;
            }
            _ => pending().await,
        }
    }

    /// Waits until whoever reads standard output is gone.
    pub async fn reader_gone() -> anyhow::Error {
        anyhow::Error::new(reader_gone().await).context("write to standard output")
    }

    /// Flushes what was written; once it is taken the cursor may stand behind it.
    pub async fn settle(&mut self, signals: &mut Option<Signals>) -> anyhow::Result<()> {
        self.flush()?;
        let Some(cursor) = &mut self.cursor else {
            return Ok(());
        };
        tokio::select! {
            taken = taken(io::stdout()) => taken.context("write to standard output")?,
            told = interrupted(signals) => {
                let text = "standard output was not taken to its end";
                return Err(anyhow::Error::new(told).context(cursor.stays(text)));
            }
        }
        cursor.commit().await
    }
}
