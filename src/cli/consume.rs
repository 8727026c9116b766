//! `ferrolog consume`: records to standard output, raw or as JSON lines.

use std::io::{self, BufWriter, Write};
use std::pin::pin;
use std::str::FromStr;

use anyhow::Context;
use data_encoding::BASE64;
use futures::FutureExt;
use serde_json::json;

use super::Format;
use super::connection::ConnectionArgs;
use super::records::Delimiter;
use crate::client::{Consistency, ConsumeOptions, Record, Start};

const OUT_BUFFER_BYTES: usize = 256 * 1024;

const HELP: &str = "\
Without --follow the read ends where the log ended when it began. With --output json each line is an object
with `offset` and `value`, or `value_base64` where the value is not UTF-8.

Examples:
  ferrolog consume --servers n1:8400,n2:8400,n3:8400 > copy.txt
  ferrolog consume --from latest --follow
  ferrolog consume --from 1000 --count 10 --output json
  ferrolog consume --server n2:8400 --consistency strong";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct ConsumeArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Where to begin: an offset, `earliest` or `latest`
    #[arg(long, default_value = "earliest", value_name = "N|earliest|latest")]
    from: Start,
    /// End after this many records
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Wait for new records at the end
    #[arg(long, short)]
    follow: bool,
    /// relaxed: what the node has. strong: at least everything acknowledged before now
    #[arg(long, value_enum, default_value_t = Level::Relaxed)]
    consistency: Level,
    /// Read from this node and no other
    #[arg(long, value_name = "HOST:PORT")]
    server: Option<String>,
    /// What to print after each record; \n, \r, \t, \0, \\ and \xNN are understood
    #[arg(long, default_value = "\\n", value_parser = Delimiter::parse)]
    delimiter: Delimiter,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Level {
    Relaxed,
    Strong,
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            number => {
                let wrong = |_| "give an offset such as 0, or `earliest`, or `latest`".to_owned();
                number.parse().map(Self::Offset).map_err(wrong)
            }
        }
    }
}

pub(super) async fn run(args: ConsumeArgs, format: Format) -> anyhow::Result<()> {
    let client = args.connection.client(args.server.as_deref())?;
    let mut consumer = client.consume(ConsumeOptions {
        from: args.from,
        consistency: match args.consistency {
            Level::Relaxed => Consistency::Relaxed,
            Level::Strong => Consistency::Strong,
        },
        follow: args.follow,
        server: args.server,
    })?;
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut out = BufWriter::with_capacity(OUT_BUFFER_BYTES, io::stdout());
    while left > 0 {
        let record = {
            let mut next = pin!(consumer.next());
            // Nothing at hand: what is buffered should be seen before the wait.
            match next.as_mut().now_or_never() {
                Some(record) => record,
                None => {
                    out.flush().context("write to standard output")?;
                    next.await
                }
            }
        };
        let Some(record) = record else { break };
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                // What was read is the user's, whatever came after.
                out.flush().context("write to standard output")?;
                return Err(error.into());
            }
        };
        write_record(&mut out, &record, format, &args.delimiter)
            .context("write to standard output")?;
        left -= 1;
    }
    out.flush().context("write to standard output")
}

fn write_record(
    out: &mut impl Write,
    record: &Record,
    format: Format,
    delimiter: &Delimiter,
) -> io::Result<()> {
    if format == Format::Text {
        out.write_all(&record.value)?;
        return out.write_all(delimiter.as_bytes());
    }
    let line = match std::str::from_utf8(&record.value) {
        Ok(value) => json!({ "offset": record.offset, "value": value }),
        Err(_) => json!({ "offset": record.offset, "value_base64": BASE64.encode(&record.value) }),
    };
    writeln!(out, "{line}")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn the_start_is_an_offset_or_a_word() {
        assert_eq!("earliest".parse(), Ok(Start::Earliest));
        assert_eq!("latest".parse(), Ok(Start::Latest));
        assert_eq!("17".parse(), Ok(Start::Offset(17)));
        assert_eq!("18446744073709551615".parse(), Ok(Start::Offset(u64::MAX)));
        for wrong in ["", "-1", "first", "1.5", "18446744073709551616"] {
            assert!(wrong.parse::<Start>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn records_are_printed_raw_or_as_json() {
        let printed = |value: &'static [u8], format| {
            let record = Record {
                offset: 3,
                value: Bytes::from_static(value),
            };
            let mut out = Vec::new();
            write_record(&mut out, &record, format, &Delimiter::newline()).unwrap();
            out
        };
        assert_eq!(printed(b"a\xff", Format::Text), b"a\xff\n");
        assert_eq!(
            printed(b"a\"b", Format::Json),
            b"{\"offset\":3,\"value\":\"a\\\"b\"}\n"
        );
        assert_eq!(
            printed(b"\xff", Format::Json),
            b"{\"offset\":3,\"value_base64\":\"/w==\"}\n"
        );
    }
}
