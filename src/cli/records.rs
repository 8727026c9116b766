//! Cuts a byte stream into records at a delimiter, in bounded memory.
//!
//! The last piece is a record only if it is not empty, so what `consume` prints with the same delimiter equals
//! an input that ends in one. Reading happens on a blocking thread, a few batches ahead.

use std::io::Read;
use std::path::Path;

use anyhow::Context;
use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::tasks;

use super::files;

/// The longest record in bytes. No server takes a longer one, and here the error can name the line.
const RECORD_BYTES_MAX: usize = 64 * 1024 * 1024;
const CHUNK_BYTES: usize = 256 * 1024;
const BATCHES_AHEAD: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line} is longer than {RECORD_BYTES_MAX} bytes; choose another --delimiter, or cut the input into \
     smaller records"
)]
pub(super) struct RecordTooLong {
    line: u64,
}

/// What separates records: one or more bytes, written with escapes on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Delimiter(Vec<u8>);

impl Delimiter {
    pub(super) fn newline() -> Self {
        Self(vec![b'\n'])
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Understands `\n`, `\r`, `\t`, `\0`, `\\` and `\xNN`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut bytes = Vec::new();
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            if char != '\\' {
                bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            bytes.push(match chars.next() {
                Some('n') => b'\n',
                Some('r') => b'\r',
                Some('t') => b'\t',
                Some('0') => 0,
                Some('\\') => b'\\',
                Some('x') => {
                    let digits: String = chars.by_ref().take(2).collect();
                    u8::from_str_radix(&digits, 16).map_err(|_| format!("\\x{digits} is no byte; write \\x1e"))?
                }
                _ => return Err("use \\n, \\r, \\t, \\0, \\\\ or \\xNN after a backslash".to_owned()),
            });
        }
        if bytes.is_empty() {
            return Err(
                "the delimiter is empty; name one character or more (for one record out of all the input there is --whole)"
                    .to_owned(),
            );
        }
        Ok(Self(bytes))
    }

    /// What stands before and after its first occurrence.
    pub(super) fn split_once(&self, bytes: &Bytes) -> Option<(Bytes, Bytes)> {
        let at = self.find(bytes)?;
        Some((bytes.slice(..at), bytes.slice(at + self.0.len()..)))
    }

    fn find(&self, bytes: &[u8]) -> Option<usize> {
        let first = self.0[0];
        let mut from = 0;
        while let Some(at) = bytes[from..].iter().position(|&byte| byte == first) {
            if bytes[from + at..].starts_with(&self.0) {
                return Some(from + at);
            }
            from += at + 1;
        }
        None
    }
}

/// Cuts chunks of any size into records.
pub(super) struct Splitter {
    delimiter: Delimiter,
    pending: BytesMut,
    /// Bytes of `pending` that hold no delimiter, so that a long line is searched once.
    searched: usize,
    records: u64,
}

impl Splitter {
    pub(super) fn new(delimiter: Delimiter) -> Self {
        Self {
            delimiter,
            pending: BytesMut::new(),
            searched: 0,
            records: 0,
        }
    }

    /// Reads once; answers with the whole records this completed, or `None` at the end of the input.
    fn read(&mut self, input: &mut dyn Read) -> anyhow::Result<Option<Vec<Bytes>>> {
        let filled = self.pending.len();
        self.pending.resize(filled + CHUNK_BYTES, 0);
        let count = loop {
            match input.read(&mut self.pending[filled..]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                outcome => break outcome.context("read the input")?,
            }
        };
        self.pending.truncate(filled + count);
        if count == 0 {
            return Ok(None);
        }
        Ok(Some(self.cut()?))
    }

    fn cut(&mut self) -> Result<Vec<Bytes>, RecordTooLong> {
        let mut records = Vec::new();
        let length = self.delimiter.0.len();
        while let Some(at) = self.delimiter.find(&self.pending[self.searched..]) {
            let record = self.pending.split_to(self.searched + at);
            self.pending.advance(length);
            self.searched = 0;
            self.records += 1;
            self.check(record.len())?;
            records.push(record.freeze());
        }
        // A delimiter may be cut in two by the chunks, so its possible beginning is searched again.
        self.searched = (self.pending.len() + 1).saturating_sub(length);
        if self.pending.len() > RECORD_BYTES_MAX {
            return Err(RecordTooLong {
                line: self.records + 1,
            });
        }
        Ok(records)
    }

    fn check(&self, length: usize) -> Result<(), RecordTooLong> {
        if length > RECORD_BYTES_MAX {
            Err(RecordTooLong { line: self.records })
        } else {
            Ok(())
        }
    }

    /// What is left after the last delimiter, unless it is empty.
    fn finish(self) -> Option<Bytes> {
        (!self.pending.is_empty()).then(|| self.pending.freeze())
    }
}

/// The records of an input, read ahead on a thread of its own.
pub(super) struct RecordSource {
    batches: mpsc::Receiver<anyhow::Result<Vec<Bytes>>>,
    batch: std::vec::IntoIter<Bytes>,
}

impl RecordSource {
    /// A record for each piece between delimiters.
    pub(super) fn split(path: &Path, delimiter: Delimiter) -> anyhow::Result<Self> {
        let mut input = files::open_input(path)?;
        Ok(Self::spawn(move |batches| {
            let mut splitter = Splitter::new(delimiter);
            while let Some(records) = splitter.read(&mut input)? {
                if !records.is_empty() && batches.blocking_send(Ok(records)).is_err() {
                    return Ok(());
                }
            }
            if let Some(last) = splitter.finish() {
                // If the receiver is gone, nobody needs the record.
                let _ = batches.blocking_send(Ok(vec![last]));
            }
            Ok(())
        }))
    }

    /// One record out of the whole input, which may be empty.
    pub(super) fn whole(path: &Path) -> anyhow::Result<Self> {
        let input = files::open_input(path)?;
        Ok(Self::spawn(move |batches| {
            let mut bytes = Vec::new();
            input
                .take(RECORD_BYTES_MAX as u64 + 1)
                .read_to_end(&mut bytes)
                .context("read the input")?;
            if bytes.len() > RECORD_BYTES_MAX {
                anyhow::bail!(
                    "the input is longer than {RECORD_BYTES_MAX} bytes; cut it into smaller records"
                );
            }
            let _ = batches.blocking_send(Ok(vec![bytes.into()]));
            Ok(())
        }))
    }

    fn spawn(
        read: impl FnOnce(&mpsc::Sender<anyhow::Result<Vec<Bytes>>>) -> anyhow::Result<()>
        + Send
        + 'static,
    ) -> Self {
        let (sender, batches) = mpsc::channel(BATCHES_AHEAD);
        tasks::spawn_blocking("reader of the input", move || {
            if let Err(error) = read(&sender) {
                let _ = sender.blocking_send(Err(error));
            }
        });
        Self {
            batches,
            batch: Vec::new().into_iter(),
        }
    }

    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            if let Some(record) = self.batch.next() {
                return Ok(Some(record));
            }
            match self.batches.recv().await {
                Some(batch) => self.batch = batch?.into_iter(),
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out at most `step` bytes a read.
    struct Chunks<'a>(&'a [u8], usize);

    impl Read for Chunks<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let step = self.1.min(self.0.len()).min(buffer.len());
            buffer[..step].copy_from_slice(&self.0[..step]);
            self.0 = &self.0[step..];
            Ok(step)
        }
    }

    fn split(input: &[u8], delimiter: &str, step: usize) -> Vec<Bytes> {
        let mut splitter = Splitter::new(Delimiter::parse(delimiter).unwrap());
        let mut records = Vec::new();
        let mut input = Chunks(input, step);
        while let Some(more) = splitter.read(&mut input).unwrap() {
            records.extend(more);
        }
        records.extend(splitter.finish());
        records
    }

    #[test]
    fn records_do_not_depend_on_chunks() {
        for step in 1..20 {
            assert_eq!(split(b"a\n\nbc\nd", "\\n", step), ["a", "", "bc", "d"]);
            assert_eq!(split(b"a\n\nbc\nd\n", "\\n", step), ["a", "", "bc", "d"]);
            assert_eq!(
                split(b"a\r\nb\rc\n\r\r\nd\r", "\\r\\n", step),
                ["a", "b\rc\n\r", "d\r"]
            );
            assert_eq!(split(b"a\0b", "\\0", step), ["a", "b"]);
            assert_eq!(split(b"\n", "\\n", step), [""]);
            assert!(split(b"", "\\n", step).is_empty());
        }
    }

    #[test]
    fn a_long_line_is_named() {
        let mut splitter = Splitter::new(Delimiter::newline());
        splitter.pending.extend_from_slice(b"short\n");
        splitter.pending.resize(RECORD_BYTES_MAX + 7, b'x');
        assert_eq!(splitter.cut(), Err(RecordTooLong { line: 2 }));
    }

    #[test]
    fn delimiters_are_written_with_escapes() {
        let parsed = |text| Delimiter::parse(text).map(|delimiter| delimiter.0);
        assert_eq!(parsed("\\n").unwrap(), b"\n");
        assert_eq!(parsed("\\t\\0\\\\").unwrap(), b"\t\0\\");
        assert_eq!(parsed("\\x1e").unwrap(), b"\x1e");
        assert_eq!(parsed("--").unwrap(), b"--");
        for wrong in ["", "\\", "\\q", "\\x", "\\xzz"] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn a_file_is_read_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("input");
        let text: String = (0..100_000).map(|number| format!("{number}\n")).collect();
        files::write(&path, &text).unwrap();
        let mut source = RecordSource::split(&path, Delimiter::newline()).unwrap();
        for number in 0..100_000 {
            assert_eq!(source.next().await.unwrap().unwrap(), number.to_string());
        }
        assert_eq!(source.next().await.unwrap(), None);
        let whole = RecordSource::whole(&path).unwrap().next().await.unwrap();
        assert_eq!(whole.unwrap(), text);
    }
}
