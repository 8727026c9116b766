//! Reading records as they are kept.

use bytes::Bytes;

use crate::batch::{self, Compression, Part};

use super::{Batch, Record, SHORT, batch_header, record, skip};
use crate::log::format::row::Row;
use crate::log::{Error, LogId, Offset, Position};

/// The most bytes that packed records may decompress to. A frame holds no more without compression.
pub const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;

/// Records of one batch side by side, as they are kept: what a row leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The log that they belong to.
    pub log: LogId,
    /// The position of the first among the records of all logs.
    pub position: Position,
    /// The offset of the first in its log.
    pub first: Offset,
    /// The offset of the first that was asked for.
    pub from: Offset,
    /// How many.
    pub count: u32,
    /// When the leader took them, in milliseconds since 1970; 0 if it does not say.
    pub timestamp_ms: u64,
    /// Packed records and their compression; `None` for plain ones.
    pub packed: Option<Compression>,
    /// The records' bytes.
    pub bytes: Bytes,
}

/// The records that a row leads to: so many of the batch that these bytes begin with. Whether the batch is whole was
/// seen before.
pub fn stored(bytes: &Bytes, row: &Row, count: u64) -> Result<Stored, Error> {
    let batch = batch_header(bytes, 0)?;
    if covers(&batch, row).map(u64::from) != Some(count) {
        let what = "a row names another batch than the one that stands there";
        return Err(Error::Malformed(what));
    }
    let count = u32::try_from(count).map_err(|_| SHORT)?;
    let begins = skip(bytes, batch.records_at, batch.count - count)?;
    Ok(Stored {
        log: row.log,
        position: row.position,
        first: row.offset,
        from: row.offset,
        count,
        timestamp_ms: batch.timestamp_ms,
        packed: batch.packed,
        bytes: bytes.slice(begins..batch.end),
    })
}

/// How many records a row covers of the batch that these bytes begin with; `None` if it is of another one.
pub fn covered_by(bytes: &[u8], row: &Row) -> Result<Option<u32>, Error> {
    Ok(covers(&batch_header(bytes, 0)?, row))
}

fn covers(batch: &Batch<'_>, row: &Row) -> Option<u32> {
    let covered = batch.covered_by(row.check);
    covered.filter(|_| batch.log == row.log)
}

impl Stored {
    /// The offset after the last record.
    pub fn next(&self) -> Offset {
        Offset(self.first.0 + u64::from(self.count))
    }

    /// The bytes of its packed records without their compression.
    pub fn unpacked(&self, compression: Compression) -> Result<Bytes, Error> {
        let plain = batch::decompress(&self.bytes, compression, DECOMPRESSED_BYTES_MAX);
        plain.map_err(unreadable)
    }

    /// Its packed records without their compression.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] of plain records, which have no keys.
    pub fn plain(&self) -> Result<Bytes, Error> {
        let packed = self
            .packed
            .ok_or(Error::Malformed("plain records are not cut"))?;
        self.unpacked(packed)
    }

    /// Its records from offset `from` on into `out`; the values share its memory.
    ///
    /// Stops early, after at least one, once `budget` bytes were read; gives what is left of the
    /// budget.
    pub fn read_into(
        &self,
        from: Offset,
        mut budget: usize,
        out: &mut Vec<Record>,
    ) -> Result<usize, Error> {
        let passed = from.0.saturating_sub(self.first.0);
        let passed = u32::try_from(passed).map_err(|_| SHORT)?;
        if let Some(compression) = self.packed {
            let part = Part {
                first: passed,
                count: self.count.saturating_sub(passed),
                bytes_max: budget,
            };
            let part = batch::unpack(&self.bytes, compression, DECOMPRESSED_BYTES_MAX, part);
            let (records, _) = part.map_err(unreadable)?;
            for (number, record) in (u64::from(passed)..).zip(batch::records(&records)) {
                let value = record.map_err(unreadable)?.value;
                budget = budget.saturating_sub(value.len().max(1));
                out.push(Record {
                    offset: Offset(self.first.0 + number),
                    term: 0,
                    kind: 0,
                    value,
                });
            }
            // If a record did not fit, the budget counts as used up.
            let all = out
                .last()
                .is_some_and(|last| last.offset.0 + 1 == self.next().0);
            return Ok(if all { budget } else { 0 });
        }
        let mut at = skip(&self.bytes, 0, passed.min(self.count))?;
        for number in passed..self.count {
            let parts = record(&self.bytes, at)?;
            out.push(Record {
                offset: Offset(self.first.0 + u64::from(number)),
                term: parts.term,
                kind: parts.kind,
                value: self.bytes.slice(parts.value_at..parts.end),
            });
            budget = budget.saturating_sub(parts.end - at);
            if budget == 0 {
                break;
            }
            at = parts.end;
        }
        Ok(budget)
    }
}

/// These records were checked before they were appended, and cannot be read now: an older version wrote them,
/// or a checksum missed damage.
fn unreadable(source: batch::BatchError) -> Error {
    Error::Unreadable(source)
}
