//! Whether an index still says what its checkpoint says, and deriving it anew where it does not.
//!
//! A row per batch is all that an index holds, so it follows from the store, unless batches were refused or
//! known already. Only a full replay, or another replica, can tell which. The count of offsets shows whether
//! there were any.

use std::collections::HashMap;

use super::recovery::{Checkpoint, Recovered};
use crate::log::format::frame::HEADER_BYTES;
use crate::log::format::record;
use crate::log::format::row::Row;
use crate::log::segment::Segment;
use crate::log::segment::store;
use crate::log::{Error, Index, LogId, Offset, Position};

/// Drops the rows past the checkpoint, all of them without one; false if those up to it do not
/// hold and cannot be derived.
pub fn hold(found: &mut Recovered, checkpoint: Option<&Checkpoint>) -> Result<bool, Error> {
    let keep = checkpoint.map_or(Index(0), |checkpoint| Index(checkpoint.applied.0 + 1));
    let unsealed = |segment: &&mut Segment| segment.seal().is_none();
    for segment in found.segments.iter_mut().filter(unsealed) {
        segment.index.drop_from(keep)?;
    }
    let Some(checkpoint) = checkpoint else {
        return Ok(true);
    };
    let wanted = checkpoint.next_position;
    found.rows_hold = covered(found)? == Some(wanted) || derive(found, keep, checkpoint)?;
    found.next_position = wanted;
    Ok(found.rows_hold)
}

/// The position after the last row, if the rows of each segment follow those of the one before.
fn covered(found: &Recovered) -> Result<Option<Position>, Error> {
    let mut next = found.floor.position;
    for segment in &found.segments {
        let (first, end) = match segment.seal() {
            Some(seal) => (seal.first_position, Some(seal.next_position)),
            None => match segment.index.rows().checked_sub(1) {
                Some(_) if !in_order(segment)? => return Ok(None),
                Some(last) => {
                    let first = segment.first_position().unwrap_or(next);
                    (first, end_of(segment, last)?)
                }
                None => (next, Some(next)),
            },
        };
        match end {
            Some(end) if first == next => next = end,
            _ => return Ok(None),
        }
    }
    Ok(Some(next))
}

/// Whether an open segment's rows name places in frames that it has, each behind the one before.
fn in_order(segment: &Segment) -> Result<bool, Error> {
    let mut last: Option<Row> = None;
    for number in 0..segment.index.rows() {
        let row = segment.index.row(number)?;
        let follows = last.is_none_or(|last| {
            last.position < row.position && last.index <= row.index && last.place < row.place
        });
        if !follows || !segment.holds_at(row.index, row.place) {
            return Ok(false);
        }
        last = Some(row);
    }
    Ok(true)
}

/// The position after a segment's row, if the row agrees with the batch that it names.
fn end_of(segment: &Segment, number: usize) -> Result<Option<Position>, Error> {
    let row = segment.index.row(number)?;
    let Some(payload_at) = segment.payload_at(row.index) else {
        return Ok(None);
    };
    let Some(span) = segment.span(row.index, Index(row.index.0 + 1), 0) else {
        return Ok(None);
    };
    let Some((entry, _)) = store::parse(&segment.store.read(span.position, span.length)?) else {
        let what = "a frame changed while it was read";
        return Err(segment.store.corrupt(span.position.into(), what));
    };
    if !entry.kind.has_batches() {
        return Ok(None);
    }
    for batch in record::batches(&entry.payload)? {
        if place_of(payload_at, &batch) == row.place {
            let covered = batch.covered_by(row.check).filter(|_| batch.log == row.log);
            return Ok(covered.map(|count| Position(row.position.0 + u64::from(count))));
        }
    }
    Ok(None)
}

/// Where a batch stands in a store, by where its payload begins there.
pub fn place_of(payload_at: u32, batch: &record::Batch<'_>) -> u32 {
    // A store is smaller than 4 GiB. Damage that does not check may say otherwise.
    payload_at.saturating_add(u32::try_from(batch.at).unwrap_or(u32::MAX))
}

/// Writes the rows of the open segments' entries before `keep` anew, if they reach `wanted` when
/// every batch gets one; false if they do not.
fn derive(found: &mut Recovered, keep: Index, checkpoint: &Checkpoint) -> Result<bool, Error> {
    let mut next = found.floor.position;
    let mut derived: Vec<(usize, Vec<Row>)> = Vec::new();
    let mut logs = Grown::new();
    for (number, segment) in found.segments.iter().enumerate() {
        match segment.seal() {
            Some(seal) if seal.first_position != next => return Ok(false),
            Some(seal) => next = seal.next_position,
            None => derived.push((number, rows_from(segment, keep, &mut next, &mut logs)?)),
        }
    }
    if next != checkpoint.next_position {
        return Ok(false);
    }
    // Every batch was appended, so it is known what each log grew by. The checkpoint says where that ended.
    let ended = |log| checkpoint.logs.get(&log).map(|ends| ends.next);
    let rows = derived.iter_mut().flat_map(|(_, rows)| rows);
    count_back(rows, &logs, ended);
    for (number, rows) in derived {
        let index = &mut found.segments[number].index;
        index.drop_from(Index(0))?;
        for row in rows {
            index.push(row)?;
        }
    }
    Ok(true)
}

/// Counts rows, whose offsets begin at 0 in each log, back from where their logs ended.
pub fn count_back<'a>(
    rows: impl Iterator<Item = &'a mut Row>,
    grown: &Grown,
    ended: impl Fn(LogId) -> Option<Offset>,
) {
    for row in rows {
        let grew = grown.get(&row.log).copied().unwrap_or_default();
        // A log that was deleted has no end. What it held is read no more.
        let begins = ended(row.log).and_then(|ended| ended.0.checked_sub(grew.0));
        row.offset = Offset(row.offset.0 + begins.unwrap_or(0));
    }
}

/// For each log the offset of its next record, or how many were appended.
pub type Grown = HashMap<LogId, Offset>;

/// A row for each batch of a segment's entries before `keep`, from position `next` on, and in each log from
/// its offset in `logs` on.
pub fn rows_from(
    segment: &Segment,
    keep: Index,
    next: &mut Position,
    logs: &mut Grown,
) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    let mut scan = segment.store.scan_to(segment.end());
    while scan.position() < u64::from(segment.end()) {
        let position = scan.position();
        let store::Found::Frame(header) = scan.next()? else {
            return Err(segment.store.corrupt(position, "a frame does not check"));
        };
        if header.index >= keep {
            break;
        }
        if !header.kind.has_batches() {
            continue;
        }
        let payload_at = u32::try_from(position).expect("a store is smaller than 4 GiB");
        let payload_at = payload_at + HEADER_BYTES as u32;
        let batches = record::batches(scan.payload(&header)?)?.into_iter();
        for batch in batches.skip(header.kind.rowless()) {
            let in_log = logs.entry(batch.log).or_default();
            rows.push(Row {
                position: *next,
                index: header.index,
                place: place_of(payload_at, &batch),
                check: batch.check(0),
                log: batch.log,
                offset: *in_log,
            });
            *next = Position(next.0 + u64::from(batch.count));
            *in_log = Offset(in_log.0 + u64::from(batch.count));
        }
    }
    Ok(rows)
}
