//! What commands print: tables and numbers for people, progress on a terminal only.
//!
//! Results go to standard output, everything else to standard error.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

pub(super) mod help;
pub(super) mod quantities;

use self::quantities::utc;
use crate::config::quantity;
use crate::{name, stderr};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// How often a progress bar is told where things stand, in records.
pub(super) const PROGRESS_STRIDE: u64 = 1024;

/// How often a command that prints nothing looks whether somebody reads.
const READER_LOOK: Duration = Duration::from_millis(50);

/// Prints a result. An error, such as a closed pipe, is the caller's.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    // Names come from other clients and from servers: a terminal must not obey them.
    match out.is_terminal() {
        true => out.write_all(escaped(text.as_bytes()).as_bytes())?,
        false => out.write_all(text.as_bytes())?,
    }
    out.write_all(b"\n")?;
    out.flush()
}

/// Has what is printed next take the place of what a terminal shows.
pub(super) fn clear() -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        // To the first place, and all behind it blank: ECMA-48.
        out.write_all(b"\x1b[H\x1b[J").context(NOT_PRINTED)?;
    }
    Ok(())
}

/// Waits until whoever reads standard output is gone, though nothing is written: the error that a write would meet then.
/// Pending for ever where there is no reader, as of a file.
pub(super) async fn reader_gone() -> io::Error {
    let out = io::stdout();
    loop {
        // An error is told whatever is asked for.
        let mut watched = [PollFd::new(&out, PollFlags::empty())];
        let looked = poll(&mut watched, Some(&Timespec::default()));
        if looked.is_ok() && watched[0].revents().contains(PollFlags::ERR) {
            return io::ErrorKind::BrokenPipe.into();
        }
        tokio::time::sleep(READER_LOOK).await;
    }
}

/// A result: for people, and for programs.
pub(super) type Told = (String, Value);

const NOT_PRINTED: &str = "write to standard output";

/// Prints a result.
pub(super) fn print_as(format: Format, (text, json): Told) -> anyhow::Result<()> {
    let printed = match format {
        Format::Text => print(&text),
        Format::Json => print(&json.to_string()),
    };
    printed.context(NOT_PRINTED)
}

/// What stands in one column of a list.
pub(super) enum Cell {
    Text(String),
    /// The same, where there may be none.
    TextOrNone(Option<String>),
    /// A number that names something, or a time.
    Number(u64),
    /// A number of things: people read it in groups of three digits.
    Count(u64),
    /// The same, where there may be none.
    CountOrNone(Option<u64>),
    /// The same, where there may be fewer.
    AtMost(u64),
    /// Bytes: people read them in units.
    Bytes(u64),
    /// Milliseconds since 1970, 0 for never: people read a date.
    Time(u64),
}

/// A column of a list: its head for people, its key for programs, and what stands in it.
pub(super) struct Column<T>(pub &'static str, pub &'static str, pub fn(&T) -> Cell);

/// A list of `what`: a table for people, an array of objects for programs.
pub(super) fn listed<T>(what: &str, items: &[T], columns: &[Column<T>]) -> Told {
    let shown = |cell| match cell {
        Cell::Text(text) => text,
        Cell::TextOrNone(text) => text.unwrap_or_else(|| "-".to_owned()),
        Cell::Number(number) => number.to_string(),
        Cell::Count(count) => grouped(count),
        Cell::CountOrNone(count) => count.map_or("-".to_owned(), grouped),
        Cell::AtMost(count) => format!("<={}", grouped(count)),
        Cell::Bytes(bytes) => size(bytes),
        Cell::Time(ms) => time(ms),
    };
    let told = |cell| match cell {
        Cell::Text(text) => json!(text),
        Cell::TextOrNone(text) => json!(text),
        Cell::CountOrNone(count) => json!(count),
        Cell::Number(number)
        | Cell::Count(number)
        | Cell::AtMost(number)
        | Cell::Bytes(number)
        | Cell::Time(number) => json!(number),
    };
    let head = columns.iter().map(|Column(head, ..)| (*head).to_owned());
    let row = |item| {
        let cells = columns.iter().map(|Column(_, _, cell)| shown(cell(item)));
        cells.collect::<Vec<_>>()
    };
    let object = |item| {
        let cells = columns.iter();
        let cells = cells.map(|Column(_, key, cell)| ((*key).to_owned(), told(cell(item))));
        Value::Object(cells.collect())
    };
    let text = match items {
        [] => format!("there are no {what}"),
        _ => {
            let rows = items.iter().map(row);
            table(&[head.collect()].into_iter().chain(rows).collect::<Vec<_>>())
        }
    };
    let objects: Vec<_> = items.iter().map(object).collect();
    (text, json!({ what: objects }))
}

/// A thing that was deleted, if it was there.
pub(super) fn deleted(what: &str, name: &str, deleted: bool) -> Told {
    let text = match deleted {
        true => format!("{name} is deleted"),
        false => format!("there is no {what} {name}; nothing was changed"),
    };
    (text, json!({ "name": name, "deleted": deleted }))
}

/// Tells people something beside the result. Standard error may be gone: that is no failure.
pub(super) fn say(text: &str) {
    // The text may quote a server.
    stderr::say(&escaped(text.as_bytes()));
}

/// Tells something that is no error, beside the result.
pub(super) fn note(text: &str, format: Format) {
    say(&match format {
        Format::Text => format!("note: {text}"),
        Format::Json => json!({ "note": text }).to_string(),
    });
}

/// Bytes as a terminal may be shown them: lines and tabs stay, and what it would obey is written out.
pub(super) fn escaped(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\n' | '\t' => shown.push(char),
                // Escaped as JSON escapes it, so that a line of JSON stays JSON.
                char if name::misleads(char) => {
                    shown.push_str(&format!("\\u{:04x}", u32::from(char)));
                }
                char => shown.push(char),
            }
        }
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown
}

/// A bar over `bytes`, or a spinner; hidden unless standard error is a terminal.
pub(super) fn progress(bytes: Option<u64>, what: &'static str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = match bytes {
        Some(_) => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{msg} {spinner} {bytes} {bytes_per_sec} {elapsed}",
    };
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(bytes, ProgressDrawTarget::stderr())
        .with_style(style)
        .with_message(what)
}

/// A table whose columns are as wide as their widest cell; numbers are set right.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut lines = Vec::new();
    for row in rows {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            let digits = cell.strip_prefix("<=").unwrap_or(cell);
            let is_number = digits
                .chars()
                .all(|c| c.is_ascii_digit() || matches!(c, ',' | '.'));
            line.push_str(&if is_number {
                format!("{cell:>width$}  ")
            } else {
                format!("{cell:<width$}  ")
            });
        }
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}

/// `1 record`, `12,345 records`.
pub(super) fn counted(count: u64, one: &str, more: &str) -> String {
    let what = if count == 1 { one } else { more };
    format!("{} {what}", grouped(count))
}

/// A number for people, its digits in groups of three: `12,345`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `12B` or `1.50MiB`.
pub(super) fn size(bytes: u64) -> String {
    quantity::about_bytes(bytes)
}

/// The records between two offsets, the second one not among them: `2 records, offsets 0 to 1`.
pub(super) fn held(first: u64, next: u64) -> String {
    match next.saturating_sub(first) {
        0 => format!("no records, and offset {next} comes next"),
        count => format!(
            "{}, {}",
            counted(count, "record", "records"),
            offsets(first, next - 1)
        ),
    }
}

/// Where records stand, from the first to the last: `offset 7`, `offsets 7 to 9`.
pub(super) fn offsets(first: u64, last: u64) -> String {
    match first == last {
        true => format!("offset {first}"),
        false => format!("offsets {first} to {last}"),
    }
}

/// A time in milliseconds since 1970, as a date; `-` for 0, which is never.
pub(super) fn time(ms: u64) -> String {
    match ms {
        0 => "-".to_owned(),
        ms => utc(ms),
    }
}

/// Whole records a second, 0 for an immeasurably short time.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]
pub(super) fn per_second(count: u64, elapsed: Duration) -> u64 {
    if elapsed.is_zero() {
        0
    } else {
        (count as f64 / elapsed.as_secs_f64()).round() as u64
    }
}

/// `1.23s` or `12.34ms`.
pub(super) fn span(time: Duration) -> String {
    quantity::about_span(time)
}

/// Milliseconds with three decimals, for JSON.
pub(super) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let shown: Vec<_> = [0, 999, 1000, 1_234_567].into_iter().map(grouped).collect();
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
        let shown = [0, 1, 1000].map(|count| counted(count, "batch", "batches"));
        assert_eq!(shown, ["0 batches", "1 batch", "1,000 batches"]);
        assert_eq!(per_second(500, Duration::from_millis(250)), 2000);
        assert_eq!(per_second(5, Duration::ZERO), 0);
        assert_eq!(
            (
                span(Duration::from_millis(1500)),
                span(Duration::from_micros(250))
            ),
            ("1.50s".into(), "0.25ms".into())
        );
    }

    #[test]
    fn a_terminal_is_shown_nothing_that_it_would_obey() {
        let record = "a\u{1b}]0;owned\u{7}\r\u{9b}2J \u{202e}é\tb\n";
        let shown = escaped(record.as_bytes());
        assert_eq!(
            shown,
            "a\\u001b]0;owned\\u0007\\u000d\\u009b2J \\u202eé\tb\n"
        );
        assert_eq!(escaped(b"a\x9b\xffb"), "a\\x9b\\xffb");
    }

    #[test]
    fn a_list_is_a_table_and_an_array() {
        let columns = [
            Column("NAME", "name", |(name, _)| Cell::Text(format!("n{name}"))),
            Column("ID", "id", |(_, id)| Cell::Number(*id)),
            Column("RECORDS", "records", |(_, id)| Cell::Count(*id)),
            Column("KEPT", "kept", |(_, id)| Cell::AtMost(*id)),
            Column("BYTES", "bytes", |(_, id)| Cell::Bytes(*id << 10)),
            Column("LAST", "last_ms", |(_, id)| Cell::Time(*id - 1234)),
            Column("OF", "of", |_| Cell::TextOrNone(None)),
        ];
        let list = |items: &[(u8, u64)]| listed("things", items, &columns);
        let text = "NAME  ID    RECORDS  KEPT     BYTES    LAST  OF\n\
                    n7    1234    1,234  <=1,234  1.21MiB  -     -";
        let object = json!({
            "name": "n7", "id": 1234, "records": 1234, "kept": 1234, "bytes": 1_263_616, "last_ms": 0,
            "of": null,
        });
        let told = json!({ "things": [object] });
        assert_eq!(list(&[(7, 1234)]), (text.to_owned(), told));
        let none = "there are no things".to_owned();
        assert_eq!(list(&[]), (none, json!({ "things": [] })));
        let (text, json) = deleted("thing", "a", false);
        assert_eq!(text, "there is no thing a; nothing was changed");
        assert_eq!(json, json!({ "name": "a", "deleted": false }));
    }

    #[test]
    fn columns_line_up() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let shown = table(&[
            row(["NAME", "LAG"]),
            row(["n1", "1"]),
            row(["node-2", "100"]),
        ]);
        assert_eq!(shown, "NAME    LAG\nn1        1\nnode-2  100");
    }
}
