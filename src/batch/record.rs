//! One record, as programs hand it in and get it back.

use bytes::Bytes;

/// One record of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The payload; empty if there is none.
    pub value: Bytes,
    /// Whether there is no value, which differs from an empty one. In a log that is compacted by key such a record
    /// removes its key; elsewhere it is a record as any other.
    pub tombstone: bool,
    /// The key. A record without a key differs from one with an empty key.
    pub key: Option<Bytes>,
    /// The headers, in the order in which they were given.
    pub headers: Vec<Header>,
    /// The client's own time, in milliseconds since 1970; 0 if it gave none.
    pub client_timestamp_ms: u64,
}

impl Record {
    /// A record with a value, and without key, headers or time.
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self {
            value: value.into(),
            ..Self::default()
        }
    }

    /// A record without a value: in a log that is compacted by key it removes the key.
    pub fn tombstone(key: impl Into<Bytes>) -> Self {
        Self {
            tombstone: true,
            ..Self::default().with_key(key)
        }
    }

    /// Sets the key, in place of an earlier one. A key has at most 64 KiB.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Adds a header. A record has at most 128 of them, each of at most 64 KiB with its name.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header {
            name: name.into(),
            value: value.into(),
        });
        self
    }

    /// Sets the client's own time, in milliseconds since 1970.
    #[must_use]
    pub fn with_timestamp_ms(mut self, client_timestamp_ms: u64) -> Self {
        self.client_timestamp_ms = client_timestamp_ms;
        self
    }
}

impl From<Bytes> for Record {
    fn from(value: Bytes) -> Self {
        Self {
            value,
            ..Self::default()
        }
    }
}

impl From<Vec<u8>> for Record {
    fn from(value: Vec<u8>) -> Self {
        Bytes::from(value).into()
    }
}

impl From<String> for Record {
    fn from(value: String) -> Self {
        Bytes::from(value).into()
    }
}

impl From<&'static str> for Record {
    fn from(value: &'static str) -> Self {
        Bytes::from(value).into()
    }
}

/// A name and a value that travel with a record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    pub name: String,
    pub value: Bytes,
}
