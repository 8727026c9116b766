//! Whether an index still says what its checkpoint says, and deriving it anew where it does not.
//!
//! A row per batch is all that an index holds, so it follows from the store, unless batches were refused or
//! known already. Only a full replay, or another replica, can tell which. The count of offsets shows whether
//! there were any.

use super::recovery::{Checkpoint, Recovered};
use crate::log::format::frame::Kind;
use crate::log::format::record;
use crate::log::format::row::Row;
use crate::log::segment::Segment;
use crate::log::segment::store;
use crate::log::{Error, Index, Offset};

/// Drops the rows past the checkpoint, all of them without one; false if those up to it do not
/// hold and cannot be derived.
pub fn hold(found: &mut Recovered, checkpoint: Option<Checkpoint>) -> Result<bool, Error> {
    let keep = checkpoint.map_or(Index(0), |checkpoint| Index(checkpoint.applied.0 + 1));
    let unsealed = |segment: &&mut Segment| segment.seal().is_none();
    for segment in found.segments.iter_mut().filter(unsealed) {
        segment.index.drop_from(keep)?;
    }
    let Some(checkpoint) = checkpoint else {
        return Ok(true);
    };
    let wanted = checkpoint.next_offset;
    found.rows_hold = covered(found)? == Some(wanted) || derive(found, keep, wanted)?;
    found.next_offset = wanted;
    Ok(found.rows_hold)
}

/// The offset after the last row, if the rows of each segment follow those of the one before.
fn covered(found: &Recovered) -> Result<Option<Offset>, Error> {
    let mut next = found.floor.offset;
    for segment in &found.segments {
        let (first, end) = match segment.seal() {
            Some(seal) => (seal.first_offset, Some(seal.next_offset)),
            None => match segment.index.rows().checked_sub(1) {
                Some(_) if !in_order(segment)? => return Ok(None),
                Some(last) => {
                    let first = segment.first_offset().unwrap_or(next);
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

/// Whether an open segment's rows name frames that it has, each behind the one before.
fn in_order(segment: &Segment) -> Result<bool, Error> {
    let mut last: Option<Row> = None;
    for number in 0..segment.index.rows() {
        let row = segment.index.row(number)?;
        let follows = last.is_none_or(|last| last.offset < row.offset && last.index <= row.index);
        if !follows || segment.position(row.index) != Some(row.position) {
            return Ok(false);
        }
        last = Some(row);
    }
    Ok(true)
}

/// The offset after a segment's row, if the row agrees with the frame that it names.
fn end_of(segment: &Segment, number: usize) -> Result<Option<Offset>, Error> {
    let row = segment.index.row(number)?;
    if segment.position(row.index) != Some(row.position) {
        return Ok(None);
    }
    let Some(span) = segment.span(row.index, Index(row.index.0 + 1), 0) else {
        return Ok(None);
    };
    let Some((entry, _)) = store::parse(&segment.store.read(span.position, span.length)?) else {
        let what = "a frame changed while it was read";
        return Err(segment.store.corrupt(span.position.into(), what));
    };
    if entry.kind != Kind::Records {
        return Ok(None);
    }
    for batch in record::batches(&entry.payload)? {
        if let Some(count) = batch.left_from(&entry.payload, row.skip)? {
            return Ok(Some(Offset(row.offset.0 + u64::from(count))));
        }
    }
    Ok(None)
}

/// Writes the rows of the open segments' entries before `keep` anew, if they reach `wanted` when
/// every batch gets one; false if they do not.
fn derive(found: &mut Recovered, keep: Index, wanted: Offset) -> Result<bool, Error> {
    let mut next = found.floor.offset;
    let mut derived = Vec::new();
    for (number, segment) in found.segments.iter().enumerate() {
        match segment.seal() {
            Some(seal) if seal.first_offset != next => return Ok(false),
            Some(seal) => next = seal.next_offset,
            None => derived.push((number, rows_from(segment, keep, &mut next)?)),
        }
    }
    if next != wanted {
        return Ok(false);
    }
    for (number, rows) in derived {
        let index = &mut found.segments[number].index;
        index.drop_from(Index(0))?;
        for row in rows {
            index.push(row)?;
        }
    }
    Ok(true)
}

/// A row for each batch of a segment's entries before `keep`, from offset `next` on.
pub fn rows_from(segment: &Segment, keep: Index, next: &mut Offset) -> Result<Vec<Row>, Error> {
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
        if header.kind != Kind::Records {
            continue;
        }
        for batch in record::batches(scan.payload(&header)?)? {
            rows.push(Row {
                offset: *next,
                index: header.index,
                position: u32::try_from(position).expect("a store is smaller than 4 GiB"),
                skip: batch.row_skip()?,
            });
            *next = Offset(next.0 + u64::from(batch.count));
        }
    }
    Ok(rows)
}
