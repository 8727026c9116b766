//! A line of JSON as `consume --output json` writes it, read back: the same record, byte for byte.

use bytes::Bytes;
use data_encoding::BASE64;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::client::{Header, Record};

/// What a line may hold. A member that is none of these is refused: it may be one of them, misspelt.
#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "an object, as `consume --output json` writes it"
)]
struct Line {
    log: Option<String>,
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(default)]
    headers: Vec<Pair>,
    /// `null` is a tombstone's.
    #[serde(default, deserialize_with = "given")]
    value: Option<Option<String>>,
    value_base64: Option<String>,
    #[serde(default)]
    client_timestamp_ms: u64,
    /// Where the record stood, which the cluster gives anew.
    #[serde(rename = "offset")]
    _offset: Option<IgnoredAny>,
    #[serde(rename = "position")]
    _position: Option<IgnoredAny>,
    #[serde(rename = "append_timestamp_ms")]
    _append_timestamp_ms: Option<IgnoredAny>,
}

/// What a member is, if it is there, `null` included.
fn given<'de, D: serde::Deserializer<'de>>(member: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(member).map(Some)
}

/// A header.
#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a header, as an object with `name` and `value`"
)]
struct Pair {
    name: String,
    value: Option<String>,
    value_base64: Option<String>,
}

/// Why a line is no record.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoRecord {
    #[error("it is not the JSON of a record: {what}")]
    Json { what: String },
    #[error("{member}_base64 is not base64")]
    Base64 {
        member: &'static str,
        source: data_encoding::DecodeError,
    },
    #[error("it has both {member} and {member}_base64; leave one of them out")]
    Twice { member: &'static str },
    #[error(
        "{what} has no value: add `value`, or `value_base64`; `\"value\": null` is a tombstone's"
    )]
    NoValue { what: &'static str },
}

/// The record, and the log that it names.
pub(super) fn record(line: &[u8]) -> Result<(Option<String>, Record), NoRecord> {
    let line: Line = serde_json::from_slice(line).map_err(|error| not_json(&error))?;
    let header = |pair: Pair| {
        let value = bytes("value", pair.value, pair.value_base64)?;
        Ok::<_, NoRecord>(Header {
            name: pair.name,
            value: value.ok_or(NoRecord::NoValue { what: "a header" })?,
        })
    };
    let tombstone = line.value == Some(None) && line.value_base64.is_none();
    let value = bytes("value", line.value.flatten(), line.value_base64)?;
    let value = value.or(tombstone.then(Bytes::new));
    let record = Record {
        value: value.ok_or(NoRecord::NoValue { what: "it" })?,
        tombstone,
        key: bytes("key", line.key, line.key_base64)?,
        headers: line
            .headers
            .into_iter()
            .map(header)
            .collect::<Result<_, _>>()?,
        client_timestamp_ms: line.client_timestamp_ms,
    };
    Ok((line.log, record))
}

/// Each line is read by itself, so that its number there says nothing.
fn not_json(error: &serde_json::Error) -> NoRecord {
    let what = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let what = match what.strip_suffix(&place) {
        Some(what) => format!("{what}, at column {}", error.column()),
        None => what,
    };
    NoRecord::Json { what }
}

/// Bytes that are text, or stand in base64 beside it.
fn bytes(
    member: &'static str,
    text: Option<String>,
    base64: Option<String>,
) -> Result<Option<Bytes>, NoRecord> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(NoRecord::Twice { member }),
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(base64)) => match BASE64.decode(base64.as_bytes()) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(source) => Err(NoRecord::Base64 { member, source }),
        },
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::record_format::to_json;
    use crate::client::ConsumedRecord;

    fn wrong(line: &str) -> String {
        let wrong = record(line.as_bytes()).unwrap_err();
        anyhow::Error::new(wrong)
            .chain()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(": ")
    }

    #[test]
    fn what_consume_writes_is_read_back_byte_for_byte() {
        let bytes = Bytes::from_static;
        let header = |name: &str, value: &'static [u8]| Header {
            name: name.to_owned(),
            value: bytes(value),
        };
        let records = [
            Record::default(),
            Record::new("text \u{1b} \"quoted\" \u{0}\n\u{2028}\u{1f980}"),
            Record {
                value: bytes(b"\xff\xfe\x00"),
                key: Some(bytes(b"")),
                headers: vec![header("", b""), header("n", b"\x80"), header("n", b"v")],
                client_timestamp_ms: u64::MAX,
                ..Record::default()
            },
            Record::tombstone("k"),
            Record {
                key: Some(bytes(b"\xc3\x28")),
                client_timestamp_ms: 1,
                ..Record::default()
            },
        ];
        for written in records {
            let consumed = ConsumedRecord {
                log: "orders/eu".into(),
                position: Some(8),
                offset: 7,
                append_timestamp_ms: 9,
                record: written.clone(),
            };
            let line = to_json(&consumed).to_string();
            let (log, read) = record(line.as_bytes()).unwrap();
            assert_eq!(
                (log.as_deref(), read),
                (Some("orders/eu"), written),
                "{line}"
            );
        }
    }

    #[test]
    fn what_is_no_record_is_said() {
        for (line, said) in [
            ("", "not the JSON of a record: EOF"),
            ("[1]", "invalid type"),
            (r#"{"value":"a""#, "EOF"),
            (r#"{"value":"a"} x"#, "trailing"),
            (r#"{"vaule":"a"}"#, "unknown field `vaule`"),
            (r#"{"value":1}"#, "expected a string"),
            (r#"{"value":"a","value":"b"}"#, "duplicate field"),
            ("{\"value\":\"\u{fffd}\u{7}\"}", "control character"),
            (r#"{"key":"a"}"#, "it has no value"),
            (
                r#"{"value":"a","value_base64":"YQ=="}"#,
                "both value and value_base64",
            ),
            (
                r#"{"value":"a","key_base64":"YQ"}"#,
                "key_base64 is not base64",
            ),
            (
                r#"{"value":"a","headers":[{"name":"n"}]}"#,
                "a header has no value",
            ),
            (r#"{"value":"a","client_timestamp_ms":-1}"#, "invalid value"),
        ] {
            let told = wrong(line);
            assert!(told.contains(said), "{line}: {told}");
        }
        assert!(record(b"{\"value\":\"\xff\"}").is_err(), "not UTF-8");
    }
}
