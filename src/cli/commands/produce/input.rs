//! The records of an input, as the options shape them, and the log that each is for.
//!
//! What no server would take is refused here, because the error can name the line.

use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;

use super::json;
use super::{Lines, ProduceArgs};
use crate::cli::UsageError;
use crate::cli::connection::log_of_environment;
use crate::cli::records::{Delimiter, RecordSource};
use crate::client::{Header, Record};
use crate::env;
use crate::name::{self, Shown};
use crate::proto::v1::GetLimitsResponse;

/// A record, and the log that it names; none if the producer's own is meant.
#[derive(Debug)]
pub(super) struct Addressed {
    pub(super) log: Option<Arc<str>>,
    pub(super) record: Record,
}

/// The records of the input.
pub(super) struct Input {
    source: RecordSource,
    lines: Lines,
    key_delimiter: Option<Delimiter>,
    log_delimiter: Option<Delimiter>,
    headers: Vec<Header>,
    /// A record that says no time gets the one at which it was read.
    has_timestamps: bool,
    /// All records are for the producer's own log, whatever they say.
    is_of_one: bool,
    /// The log that was named last, so that a run of records names it once.
    named: Arc<str>,
    line: u64,
    is_whole: bool,
    /// What the servers take.
    pub(super) limits: GetLimitsResponse,
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

/// A line that names none.
#[derive(Debug, thiserror::Error)]
#[error(
    "line {line} names no log: a name has 1 to {} bytes, no control characters and no space at either end, and this is \
     {}",
    name::NAME_BYTES_MAX,
    Shown(name)
)]
struct NoLog {
    line: u64,
    name: String,
}

impl Input {
    pub(super) fn open(args: &ProduceArgs) -> anyhow::Result<Self> {
        let of_text = args.whole
            || args.delimiter.is_some()
            || args.key_delimiter.is_some()
            || args.log_delimiter.is_some();
        if args.input == Lines::Json && of_text {
            let text = "a line of JSON says by itself what its key and its log are: leave out --delimiter, --whole, \
                        --key-delimiter and --log-delimiter, or --input json";
            return Err(UsageError(text.to_owned()).into());
        }
        let delimiter = args.delimiter.clone().unwrap_or_else(Delimiter::newline);
        Ok(Self {
            source: match args.whole {
                true => RecordSource::whole(&args.file)?,
                false => RecordSource::split(&args.file, delimiter)?,
            },
            lines: args.input,
            key_delimiter: args.key_delimiter.clone(),
            log_delimiter: args.log_delimiter.clone(),
            headers: args.headers.clone(),
            has_timestamps: args.timestamps,
            is_of_one: args.log.is_some(),
            named: log_of_environment().into(),
            line: 0,
            is_whole: args.whole,
            limits: GetLimitsResponse::default(),
        })
    }

    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Addressed>> {
        let Some(piece) = self.source.next().await? else {
            return Ok(None);
        };
        self.line += 1;
        let (log, mut record) = match self.lines {
            Lines::Text => self.text(piece)?,
            Lines::Json => self.json(&piece)?,
        };
        record.headers.extend_from_slice(&self.headers);
        if self.has_timestamps && record.client_timestamp_ms == 0 {
            record.client_timestamp_ms = env::wall_clock_ms();
        }
        self.check(&record)?;
        Ok(Some(Addressed { log, record }))
    }

    fn text(&mut self, piece: Bytes) -> anyhow::Result<(Option<Arc<str>>, Record)> {
        let named = match &self.log_delimiter {
            None => None,
            Some(delimiter) => {
                let parts = delimiter.split_once(&piece);
                Some(parts.with_context(|| self.lacks("log", delimiter))?)
            }
        };
        let (log, piece) = match named {
            None => (None, piece),
            Some((name, rest)) => (Some(self.log_of(&name)?), rest),
        };
        let (key, value) = match &self.key_delimiter {
            None => (None, piece),
            Some(delimiter) => {
                let parts = delimiter.split_once(&piece);
                let (key, value) = parts.with_context(|| self.lacks("key", delimiter))?;
                (Some(key), value)
            }
        };
        let record = Record {
            value,
            key,
            ..Record::default()
        };
        Ok((log, record))
    }

    fn json(&mut self, piece: &[u8]) -> anyhow::Result<(Option<Arc<str>>, Record)> {
        let read = json::record(piece);
        let (log, record) = read.with_context(|| format!("line {} is no record", self.line))?;
        let log = match log.filter(|_| !self.is_of_one) {
            Some(log) => Some(self.log_of(log.as_bytes())?),
            None => None,
        };
        Ok((log, record))
    }

    /// The log of this name.
    fn log_of(&mut self, name: &[u8]) -> Result<Arc<str>, NoLog> {
        if *self.named.as_bytes() != *name {
            let is_name = |name: &&str| name::check(name).is_ok() && name.trim() == *name;
            let named = std::str::from_utf8(name).ok().filter(is_name);
            self.named = named.map(Arc::from).ok_or_else(|| NoLog {
                line: self.line,
                name: String::from_utf8_lossy(name).into_owned(),
            })?;
        }
        Ok(self.named.clone())
    }

    fn lacks(&self, what: &str, delimiter: &Delimiter) -> String {
        format!(
            "line {} has no {what}: {:?} does not stand in it; choose another --{what}-delimiter, or mend the line",
            self.line,
            String::from_utf8_lossy(delimiter.as_bytes())
        )
    }

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
        let hint = match self.lines {
            Lines::Text => "choose another --key-delimiter, or ",
            Lines::Json => "",
        };
        over(key, key_max, "the key", hint)?;
        let hint = match self.lines {
            Lines::Text => "choose another --delimiter, or ",
            Lines::Json => "",
        };
        over(all, self.limits.record_bytes_max, "the record", hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::files;

    /// What to read, and how.
    #[derive(Default)]
    struct Case<'a> {
        text: &'a str,
        key_delimiter: Option<&'a str>,
        log_delimiter: Option<&'a str>,
        is_json: bool,
        is_of_one: bool,
        has_timestamps: bool,
    }

    async fn records(case: Case<'_>) -> anyhow::Result<Vec<Addressed>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("input");
        files::write(&path, case.text)?;
        let delimiter = |text: &str| Delimiter::parse(text).unwrap();
        let mut input = Input {
            source: RecordSource::split(&path, Delimiter::newline())?,
            lines: if case.is_json {
                Lines::Json
            } else {
                Lines::Text
            },
            key_delimiter: case.key_delimiter.map(delimiter),
            log_delimiter: case.log_delimiter.map(delimiter),
            headers: vec![super::super::parse_header("n=v").unwrap()],
            has_timestamps: case.has_timestamps,
            is_of_one: case.is_of_one,
            named: "default".into(),
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

    fn plain<'a>(text: &'a str, key_delimiter: Option<&'a str>) -> Case<'a> {
        Case {
            text,
            key_delimiter,
            ..Case::default()
        }
    }

    #[tokio::test]
    async fn a_line_is_a_record_with_or_without_a_key() {
        let read = records(plain("a=1\n", None)).await.unwrap();
        let first = &read[0].record;
        assert_eq!((first.key.as_ref(), &first.value[..]), (None, &b"a=1"[..]));
        assert_eq!(first.headers[0].value, "v");
        assert_eq!(read[0].log, None);
        let keyed = records(plain("a=1=2\n=\n", Some("="))).await.unwrap();
        assert_eq!(keyed[0].record.key.as_deref(), Some(&b"a"[..]));
        assert_eq!(keyed[0].record.value, "1=2");
        assert_eq!(keyed[1].record.key.as_deref(), Some(&b""[..]));
        let error = records(plain("a=1\nb\n", Some("="))).await.unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with("line 2 has no key"), "{error}");
    }

    #[tokio::test]
    async fn a_record_without_a_time_gets_one_if_that_is_asked_for() {
        let lines = "{\"value\":\"1\"}\n{\"value\":\"2\",\"client_timestamp_ms\":7}\n";
        for has_timestamps in [false, true] {
            let case = Case {
                text: lines,
                is_json: true,
                has_timestamps,
                ..Case::default()
            };
            let read = records(case).await.unwrap();
            let times: Vec<_> = read
                .iter()
                .map(|one| one.record.client_timestamp_ms)
                .collect();
            assert_eq!((times[0] > 7, times[1]), (has_timestamps, 7));
        }
    }

    #[tokio::test]
    async fn a_line_names_its_log() {
        let text = |text| Case {
            text,
            log_delimiter: Some(":"),
            key_delimiter: Some("="),
            ..Case::default()
        };
        let read = records(text("a/b:k=v\na/b:=\nc d:k=x:y\n")).await.unwrap();
        let logs = read.iter().map(|one| one.log.as_deref().unwrap());
        assert_eq!(logs.collect::<Vec<_>>(), ["a/b", "a/b", "c d"]);
        assert_eq!(read[2].record.value, "x:y");
        let json = |text, is_of_one| Case {
            text,
            is_json: true,
            is_of_one,
            ..Case::default()
        };
        let lines = "{\"log\":\"a\",\"value\":\"1\"}\n{\"value\":\"2\"}\n";
        let read = records(json(lines, false)).await.unwrap();
        let logs: Vec<_> = read.iter().map(|one| one.log.as_deref()).collect();
        assert_eq!(logs, [Some("a"), None]);
        let read = records(json(lines, true)).await.unwrap();
        assert!(read.iter().all(|one| one.log.is_none()), "--log is for all");
        for (case, said) in [
            (text("a:k=v\nk=v\n"), "line 2 has no log: \":\""),
            (text("a:k=v\n:k=v\n"), "line 2 names no log"),
            (text("a:k=v\na :k=v\n"), "line 2 names no log"),
            (text("\u{7}:k=v\n"), "line 1 names no log"),
            (
                json("{\"log\":\"\",\"value\":\"\"}", false),
                "line 1 names no log",
            ),
            (json("{\"value\":\"\"}\n\n", false), "line 2 is no record"),
        ] {
            let error = records(case).await.unwrap_err().to_string();
            assert!(error.starts_with(said), "{error}");
        }
    }

    #[tokio::test]
    async fn a_line_that_no_server_takes_is_named() {
        let line = |text: &str| Err(text.to_owned());
        let read = async |text: &str, delimiter| {
            let read = records(plain(text, delimiter)).await;
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
