//! How a record is printed: as raw bytes, or as a line of JSON.

use std::io::{self, Write};

use data_encoding::BASE64;
use serde_json::{Map, Value, json};

use super::Format;
use super::output::escaped;
use super::records::Delimiter;
use crate::client::ConsumedRecord;

/// How records are printed.
pub(super) struct RecordFormat {
    pub(super) format: Format,
    pub(super) delimiter: Delimiter,
    pub(super) key_delimiter: Option<Delimiter>,
    /// What stands behind the name of the log, if that is printed.
    pub(super) log_delimiter: Option<Delimiter>,
    /// Whether control characters are escaped, for a terminal would obey them.
    pub(super) escapes: bool,
}

impl RecordFormat {
    pub(super) fn write(&self, out: &mut impl Write, record: &ConsumedRecord) -> io::Result<()> {
        if self.format == Format::Json {
            let line = to_json(record).to_string();
            self.put(out, line.as_bytes())?;
            return out.write_all(b"\n");
        }
        if let Some(delimiter) = &self.log_delimiter {
            self.put(out, record.log.as_bytes())?;
            out.write_all(delimiter.as_bytes())?;
        }
        if let Some(delimiter) = &self.key_delimiter {
            self.put(out, record.record.key.as_deref().unwrap_or_default())?;
            out.write_all(delimiter.as_bytes())?;
        }
        self.put(out, &record.record.value)?;
        out.write_all(self.delimiter.as_bytes())
    }

    fn put(&self, out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
        match self.escapes {
            true => out.write_all(escaped(bytes).as_bytes()),
            false => out.write_all(bytes),
        }
    }
}

/// A record as a JSON object, with all its fields and its log.
pub(super) fn to_json(consumed: &ConsumedRecord) -> Value {
    let mut fields = fields(consumed);
    fields.insert("log".to_owned(), (*consumed.log).into());
    if let Some(position) = consumed.position {
        fields.insert("position".to_owned(), position.into());
    }
    Value::Object(fields)
}

/// The fields of a record, and where it stands in its log.
pub(super) fn fields(consumed: &ConsumedRecord) -> Map<String, Value> {
    let record = &consumed.record;
    let mut fields = Map::new();
    fields.insert("offset".to_owned(), consumed.offset.into());
    fields.insert(
        "append_timestamp_ms".to_owned(),
        consumed.append_timestamp_ms.into(),
    );
    if record.client_timestamp_ms > 0 {
        let client = record.client_timestamp_ms;
        fields.insert("client_timestamp_ms".to_owned(), client.into());
    }
    if let Some(key) = &record.key {
        put_bytes(&mut fields, "key", key);
    }
    if !record.headers.is_empty() {
        let headers = record.headers.iter().map(|header| {
            let mut fields = Map::new();
            fields.insert("name".to_owned(), json!(header.name));
            put_bytes(&mut fields, "value", &header.value);
            Value::Object(fields)
        });
        fields.insert("headers".to_owned(), headers.collect());
    }
    match record.tombstone {
        true => drop(fields.insert("value".to_owned(), Value::Null)),
        false => put_bytes(&mut fields, "value", &record.value),
    }
    fields
}

/// Adds a field: text, or base64 under another name if the bytes are not UTF-8.
pub(super) fn put_bytes(fields: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => fields.insert(name.to_owned(), text.into()),
        Err(_) => fields.insert(format!("{name}_base64"), BASE64.encode(bytes).into()),
    };
}

/// A value on one line: what is not text, or would end the line, is escaped.
pub(super) fn printable(value: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(value) else {
        return value.escape_ascii().to_string();
    };
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => line.push_str("\\\\"),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::client::{Header, Record};

    fn consumed(value: &'static [u8], key: Option<&'static [u8]>) -> ConsumedRecord {
        ConsumedRecord {
            log: "default".into(),
            position: None,
            offset: 3,
            append_timestamp_ms: 9,
            record: Record {
                value: Bytes::from_static(value),
                key: key.map(Bytes::from_static),
                ..Record::default()
            },
        }
    }

    fn printed(record: &ConsumedRecord, format: Format, keys: bool) -> Vec<u8> {
        let form = RecordFormat {
            format,
            delimiter: Delimiter::newline(),
            key_delimiter: keys.then(|| Delimiter::parse(": ").unwrap()),
            log_delimiter: None,
            escapes: false,
        };
        let mut out = Vec::new();
        form.write(&mut out, record).unwrap();
        out
    }

    #[test]
    fn a_terminal_does_not_obey_a_record() {
        let record = consumed(b"a\x1b[2J\x7fb", Some(b"\x07"));
        let shown = |format| {
            let form = RecordFormat {
                format,
                delimiter: Delimiter::newline(),
                key_delimiter: Some(Delimiter::newline()),
                log_delimiter: None,
                escapes: true,
            };
            let mut out = Vec::new();
            form.write(&mut out, &record).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(Format::Text), "\\u0007\na\\u001b[2J\\u007fb\n");
        let line = shown(Format::Json);
        assert!(!line.trim_end().contains(char::is_control), "{line}");
        let parsed: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed["value"], "a\u{1b}[2J\u{7f}b");
    }

    #[test]
    fn text_is_raw_bytes() {
        let record = consumed(b"a\xff", Some(b"k"));
        assert_eq!(printed(&record, Format::Text, false), b"a\xff\n");
        assert_eq!(printed(&record, Format::Text, true), b"k: a\xff\n");
        let form = RecordFormat {
            format: Format::Text,
            delimiter: Delimiter::newline(),
            key_delimiter: Some(Delimiter::parse(": ").unwrap()),
            log_delimiter: Some(Delimiter::parse("\\t").unwrap()),
            escapes: false,
        };
        let mut named = Vec::new();
        form.write(&mut named, &record).unwrap();
        assert_eq!(named, b"default\tk: a\xff\n");
        let keyless = consumed(b"a", None);
        assert_eq!(printed(&keyless, Format::Text, true), b": a\n");
    }

    #[test]
    fn json_has_what_the_record_has() {
        let parsed = |record: &ConsumedRecord| -> Value {
            serde_json::from_slice(&printed(record, Format::Json, false)).unwrap()
        };
        assert_eq!(
            parsed(&consumed(b"a\"b", None)),
            json!({ "log": "default", "offset": 3, "append_timestamp_ms": 9, "value": "a\"b" })
        );
        let mut tombstone = consumed(b"", Some(b"k"));
        tombstone.record.tombstone = true;
        assert_eq!(
            parsed(&tombstone),
            json!({ "log": "default", "offset": 3, "append_timestamp_ms": 9, "key": "k", "value": null })
        );
        let mut full = consumed(b"\xff", Some(b"\xfe"));
        full.record.client_timestamp_ms = 7;
        full.position = Some(11);
        let header = |name: &str, value: &'static [u8]| Header {
            name: name.to_owned(),
            value: Bytes::from_static(value),
        };
        full.record.headers = vec![header("n", b"v"), header("", b"\xff")];
        assert_eq!(
            parsed(&full),
            json!({
                "log": "default",
                "offset": 3,
                "position": 11,
                "append_timestamp_ms": 9,
                "client_timestamp_ms": 7,
                "key_base64": "/g==",
                "headers": [{ "name": "n", "value": "v" }, { "name": "", "value_base64": "/w==" }],
                "value_base64": "/w==",
            })
        );
    }
}
