//! Copies segments from another node, for a snapshot or in place of damaged ones.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use tokio::sync::OwnedMutexGuard;
use tonic::Status;

use crate::disk::Disk;
use crate::log::{
    self, Index, Log, LogId, Offset, Placed, Position, RewrittenCopy, Seal, SegmentCopy,
    SegmentName,
};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::codec;
use crate::raft::entry::wire_error::WireError;
use crate::raft::error::FetchError;
use crate::raft::home::blocking::on_disk;

use super::transport::PeerClient;

/// How many bytes of entries one message carries.
const PART_BYTES: usize = 1 << 20;
/// How long a peer may send nothing in the middle of a segment before the copy fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// The right to write into the directory that copies are built in; one task has it at a time. Work on the disk goes
/// on when its caller is dropped, so it holds a clone until it ends.
pub type Hold = Arc<OwnedMutexGuard<()>>;

/// Fetches the segment that `wanted` describes from a peer into `dir`. It is checked and durable on return.
pub async fn fetch(
    client: &mut PeerClient,
    disk: Arc<dyn Disk>,
    dir: &Path,
    wanted: &Seal,
    hold: Option<&Hold>,
) -> Result<(), FetchError> {
    let base = wanted.base;
    let failed = |status: Status| FetchError::Peer {
        base,
        status: Box::new(status),
    };
    let request = pb::FetchSegmentRequest {
        first_index: base.0,
        next_index: wanted.next_index().0,
        rewritten: wanted.rewritten.map_or(0, |at| at.0),
    };
    let silent = |_| FetchError::Silent { base };
    let call = tokio::time::timeout(PATIENCE, client.fetch_segment(request));
    let mut parts = call.await.map_err(silent)?.map_err(failed)?.into_inner();
    let (dir, seal) = (dir.to_owned(), wanted.clone());
    let mut builder = on_disk_with(hold, move || Copy::new(disk, &dir, &seal)).await?;
    loop {
        let part = tokio::time::timeout(PATIENCE, parts.message()).await;
        let Some(part) = part.map_err(silent)?.map_err(failed)? else {
            break;
        };
        builder = on_disk_with(hold, move || builder.add(part)).await?;
    }
    on_disk_with(hold, move || builder.finish()).await?;
    Ok(())
}

/// A copy that is built.
enum Copy {
    Appended(Box<SegmentCopy>),
    Rewritten(Box<RewrittenCopy>),
}

impl Copy {
    fn new(disk: Arc<dyn Disk>, dir: &Path, wanted: &Seal) -> Result<Self, log::Error> {
        Ok(match wanted.rewritten {
            None => Self::Appended(Box::new(SegmentCopy::new(disk, dir, wanted)?)),
            Some(_) => Self::Rewritten(Box::new(RewrittenCopy::new(disk, dir, wanted)?)),
        })
    }

    fn add(self, part: pb::SegmentPart) -> Result<Self, FetchError> {
        Ok(match self {
            Self::Appended(copy) => Self::Appended(Box::new(add(*copy, part)?)),
            Self::Rewritten(mut copy) => {
                copy.add(&part.store)?;
                Self::Rewritten(copy)
            }
        })
    }

    fn finish(self) -> Result<(), log::Error> {
        match self {
            Self::Appended(copy) => copy.finish(),
            Self::Rewritten(copy) => copy.finish(),
        }
    }
}

/// The store of a rewritten segment, as a peer fetches it.
pub fn store_parts(
    log: Log,
    name: SegmentName,
) -> impl Stream<Item = Result<pb::SegmentPart, Status>> {
    stream::try_unfold((log, name.base), move |(log, at)| async move {
        let read = on_disk(move || {
            let part = log.store_part(name, at, PART_BYTES as u32)?;
            Ok::<_, log::Error>((log, part))
        });
        let (log, (store, next)) = read.await.map_err(|error| status(&error))?;
        if store.is_empty() {
            return Ok(None);
        }
        let part = pb::SegmentPart {
            store,
            ..pb::SegmentPart::default()
        };
        Ok(Some((part, (log, next))))
    })
}

/// Works on the disk as [`on_disk`] does, and keeps a hold until the work has ended.
pub async fn on_disk_with<T: Send + 'static, E: From<log::Error> + Send + 'static>(
    hold: Option<&Hold>,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    let hold = hold.cloned();
    on_disk(move || {
        let _hold = hold;
        work()
    })
    .await
}

pub(crate) fn add(
    mut builder: SegmentCopy,
    part: pb::SegmentPart,
) -> Result<SegmentCopy, FetchError> {
    let mut rows = part.rows.iter().map(|row| Placed {
        position: Position(row.position),
        index: Index(row.index),
        check: row.check,
        log: LogId(row.log),
        offset: Offset(row.offset),
    });
    let mut next = rows.next();
    let mut mine = Vec::new();
    for entry in part.entries {
        let entry = codec::from_wire(entry)?;
        mine.clear();
        while let Some(row) = next.filter(|row| row.index <= entry.index) {
            mine.push(row);
            next = rows.next();
        }
        builder.add(&entry, &mine)?;
    }
    if next.is_some() {
        return Err(WireError::Unknown("row of an entry that did not come").into());
    }
    Ok(builder)
}

/// The entries before `to` and their rows, as a peer fetches them. They must be applied here.
pub fn parts(
    log: Log,
    from: Index,
    to: Index,
) -> impl Stream<Item = Result<pb::SegmentPart, Status>> {
    stream::try_unfold((log, from), move |(log, at)| async move {
        if at >= to {
            return Ok(None);
        }
        let read = on_disk(move || {
            let entries = log.entries(at, to, PART_BYTES)?;
            let next = Index(at.0 + entries.len() as u64);
            let rows = log.rows(at, next)?;
            Ok::<_, log::Error>((log, entries, rows, next))
        });
        let (log, entries, rows, next) = read.await.map_err(|error| status(&error))?;
        let row = |row: Placed| pb::PlacedRow {
            position: row.position.0,
            index: row.index.0,
            check: row.check,
            log: row.log.0,
            offset: row.offset.0,
        };
        let part = pb::SegmentPart {
            entries: entries.into_iter().map(codec::to_wire).collect(),
            rows: rows.into_iter().map(row).collect(),
            store: Bytes::new(),
        };
        Ok(Some((part, (log, next))))
    })
}

fn status(error: &log::Error) -> Status {
    match error {
        log::Error::NoEntry { .. } => Status::not_found(error.to_string()),
        log::Error::Damaged { .. } => Status::unavailable(error.to_string()),
        error if error.is_short_of_files() => Status::unavailable(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}
