//! What `ferrolog consume` is asked for: which logs, from where, how fresh, and how they are printed.

use super::positions::{parse_consistency, parse_start};
use crate::cli::UsageError;
use crate::cli::connection::{ConnectionArgs, log_of_environment};
use crate::cli::records::Delimiter;
use crate::client::{Admin, Client, Consistency, ConsumeOptions, Selection, Start};

const HELP: &str = "\
Without --follow the read ends where the log ended when it began. With --output json each line is an object
with `log`, `offset`, `append_timestamp_ms`, and `value`, or `value_base64` where the value is not UTF-8; with
`key` or `key_base64`, `headers` and `client_timestamp_ms` where the record has them.

Several logs, by --prefix or by more than one --log, are read as one, in the order in which their records were
committed. Each record is printed behind the name of its log, and in JSON with its `position` in that order: the next
read goes on at --from position:N, with a position one higher than the last. Such a read begins there, at earliest or
at latest. A --cursor of several logs holds such a position, and belongs to none of them.

With --cursor the read begins where the cursor stands. A name that does not exist is an error, lest a slip of the
pen reads all again; with --create it is made where the read begins, at --from. The cursor moves after records were
written out and, where standard output is a pipe, taken by its reader: at the end, and at least every 5 s or 10,000
records. Without --follow a signal ends the read with exit code 129, 130 or 143; the cursor stands behind what was taken.

Consistency:
  relaxed       what the node has
  strong        at least everything acknowledged before now
  at-least:N    everything before offset N
  bounded:TIME  at most so far behind, for as long as the read lasts, such as bounded:500ms or bounded:2s

Examples:
  ferrolog consume --servers n1:7400,n2:7400,n3:7400 > copy.txt
  ferrolog consume --log orders --from latest --follow
  ferrolog consume --prefix orders/ --follow --output json
  ferrolog consume --log orders --log payments --from position:1000
  ferrolog consume --from 1000 --count 10 --output json
  ferrolog consume --from tail:10 --keys --key-delimiter ': '
  ferrolog consume --from timestamp:2026-01-31T12:00:00Z
  ferrolog consume --server n2:7400 --consistency strong
  ferrolog consume --cursor billing --create --from latest --follow
  ferrolog consume --cursor billing --follow
  ferrolog consume --prefix orders/ --cursor billing-all --create --follow";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct ConsumeArgs {
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
    /// The log, as `ferrolog log list` names it; several times for several logs, read as one
    /// [env: FERROLOG_LOG_NAME] [default: default]
    #[arg(long = "log", value_name = "NAME")]
    pub(super) logs: Vec<String>,
    /// Read all logs whose names begin so as one, those too that are made later
    #[arg(long, value_name = "TEXT", conflicts_with = "logs")]
    pub(super) prefix: Option<String>,
    /// Where to begin: an offset, earliest, latest, tail:N, timestamp: with milliseconds or RFC 3339 in UTC, or
    /// position:N among the records of several logs [default: earliest]
    #[arg(long, value_name = "START", value_parser = parse_start)]
    pub(super) from: Option<Start>,
    /// End after this many records
    #[arg(long, value_name = "N")]
    pub(super) count: Option<u64>,
    /// Wait for new records at the end
    #[arg(long, short)]
    pub(super) follow: bool,
    /// How fresh: relaxed, strong, at-least:N or bounded:TIME
    #[arg(long, default_value = "relaxed", value_name = "LEVEL", value_parser = parse_consistency)]
    pub(super) consistency: Consistency,
    /// Begin at this cursor, and move it behind what was written
    #[arg(long, value_name = "NAME")]
    pub(super) cursor: Option<String>,
    /// Make the cursor where the read begins, if there is none of this name
    #[arg(long, requires = "cursor")]
    pub(super) create: bool,
    /// Read from this node and no other
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) server: Option<String>,
    /// What to print after each record; \n, \r, \t, \0, \\ and \xNN are understood
    #[arg(long, default_value = "\\n", value_parser = Delimiter::parse)]
    pub(super) delimiter: Delimiter,
    /// On a terminal, print control characters as they are: by themselves they are escaped there
    #[arg(long)]
    pub(super) raw: bool,
    /// Print each record's key and --key-delimiter before its value; a record without a key has an empty one
    #[arg(long)]
    pub(super) keys: bool,
    /// What to print after a key; escapes as in --delimiter
    #[arg(long, value_name = "STR", default_value = "\\t", value_parser = Delimiter::parse, requires = "keys")]
    pub(super) key_delimiter: Delimiter,
    /// What to print after the name of a record's log where several are read; escapes as in --delimiter
    #[arg(long, value_name = "STR", default_value = "\\t", value_parser = Delimiter::parse)]
    pub(super) log_delimiter: Delimiter,
}

impl ConsumeArgs {
    pub(in crate::cli) fn connection(&self) -> &ConnectionArgs {
        &self.connection
    }

    /// The logs that are read as one, if it is not a single one.
    fn selection(&self) -> Option<Selection> {
        match (&self.prefix, &*self.logs) {
            (Some(prefix), _) => Some(Selection::Prefix(prefix.clone())),
            (None, [] | [_]) => None,
            (None, logs) => Some(Selection::Logs(logs.to_vec())),
        }
    }

    /// The one log that is read.
    pub(super) fn log(&self) -> String {
        let named = self.logs.first().cloned();
        named.unwrap_or_else(log_of_environment)
    }

    /// What to read, from an edge on.
    pub(super) fn options(&self) -> ConsumeOptions {
        ConsumeOptions {
            selection: self.selection(),
            consistency: self.consistency,
            server: self.server.clone(),
            ..ConsumeOptions::default()
        }
    }

    /// The cursors of what is read.
    pub(super) fn cursors(&self, client: &Client) -> Admin {
        match self.selection() {
            Some(_) => client.admin().of_selections(),
            None => client.admin(),
        }
    }

    /// Refuses what is a place in one log where several are read, and the other way round.
    pub(super) fn check(&self) -> Result<(), UsageError> {
        let from = self.from.as_ref();
        let wrong = match self.selection() {
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
pub(super) fn place(selection: Option<&Selection>, next: u64) -> Start {
    match selection {
        Some(_) => Start::Position(next),
        None => Start::Offset(next),
    }
}
