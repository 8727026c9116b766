//! Copies segments from another node, for a snapshot or in place of damaged ones.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use tokio::sync::OwnedMutexGuard;
use tonic::{Status, Streaming};

use crate::disk::Disk;
use crate::log::{
    self, Index, KeptRows, Log, LogId, Offset, Placed, Position, RewrittenCopy, Seal, SegmentCopy,
    SegmentName,
};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::codec;
use crate::raft::entry::wire_error::WireError;
use crate::raft::error::FetchError;
use crate::raft::home::blocking::on_disk;
use crate::raft::snapshot;

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
    let coming = Coming::begin(client, request_of(wanted)).await?;
    let (dir, seal) = (dir.to_owned(), wanted.clone());
    let builder = on_disk_with(hold, move || Copy::new(disk, &dir, &seal)).await?;
    coming.copy(builder, hold).await
}

/// The same of a segment whose rows are here: a peer that has not applied its entries yet has none.
pub async fn fetch_entries(
    client: &mut PeerClient,
    disk: Arc<dyn Disk>,
    dir: &Path,
    (wanted, rows): (&Seal, KeptRows),
) -> Result<(), FetchError> {
    let request = pb::FetchSegmentRequest {
        without_rows: true,
        ..request_of(wanted)
    };
    let coming = Coming::begin(client, request).await?;
    let (dir, seal) = (dir.to_owned(), wanted.clone());
    let new = move || SegmentCopy::new(disk, &dir, &seal);
    let copy = Box::new(on_disk_with(None, new).await?);
    coming.copy(Copy::Entries(copy, rows), None).await
}

fn request_of(wanted: &Seal) -> pb::FetchSegmentRequest {
    pb::FetchSegmentRequest {
        first_index: wanted.base.0,
        next_index: wanted.next_index().0,
        rewritten: wanted.rewritten.map_or(0, |at| at.0),
        ..pb::FetchSegmentRequest::default()
    }
}

/// The rewritten segment that holds the entry `at` on a peer, whichever it is; its parts come behind that.
pub async fn newest(client: &mut PeerClient, at: Index) -> Result<(Seal, Coming), FetchError> {
    let request = pb::FetchSegmentRequest {
        first_index: at.0,
        next_index: at.0 + 1,
        newest: true,
        ..pb::FetchSegmentRequest::default()
    };
    let mut coming = Coming::begin(client, request).await?;
    let first = coming.next().await?;
    let seal = first.and_then(|part| part.segment);
    let seal = seal.ok_or(WireError::Missing("segment that comes"))?;
    Ok((snapshot::seal_from_pb(&seal), coming))
}

/// A segment that comes from a peer, part by part.
pub struct Coming {
    parts: Streaming<pb::SegmentPart>,
    base: Index,
}

impl Coming {
    async fn begin(
        client: &mut PeerClient,
        request: pb::FetchSegmentRequest,
    ) -> Result<Self, FetchError> {
        let base = Index(request.first_index);
        let call = tokio::time::timeout(PATIENCE, client.fetch_segment(request)).await;
        let answer = call.map_err(|_| FetchError::Silent { base })?;
        let answer = answer.map_err(|status| failed(base, status))?;
        let parts = answer.into_inner();
        Ok(Self { parts, base })
    }

    async fn next(&mut self) -> Result<Option<pb::SegmentPart>, FetchError> {
        let base = self.base;
        let part = tokio::time::timeout(PATIENCE, self.parts.message()).await;
        let part = part.map_err(|_| FetchError::Silent { base })?;
        part.map_err(|status| failed(base, status))
    }

    /// Adds what comes to a copy. It is checked and durable on return.
    pub async fn copy(mut self, mut copy: Copy, hold: Option<&Hold>) -> Result<(), FetchError> {
        while let Some(part) = self.next().await? {
            copy = on_disk_with(hold, move || copy.add(part)).await?;
        }
        on_disk_with(hold, move || copy.finish()).await?;
        Ok(())
    }
}

fn failed(base: Index, status: Status) -> FetchError {
    FetchError::Peer {
        base,
        status: Box::new(status),
    }
}

/// A copy that is built.
pub enum Copy {
    Appended(Box<SegmentCopy>),
    Rewritten(Box<RewrittenCopy>),
    /// Of entries that come beside rows that are here.
    Entries(Box<SegmentCopy>, KeptRows),
}

impl Copy {
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, wanted: &Seal) -> Result<Self, log::Error> {
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
            Self::Entries(copy, mut rows) => {
                let last = part.entries.last().and_then(|entry| entry.log_id.as_ref());
                let last = last.map(|id| Index(id.index));
                let placed = last.map_or_else(|| Ok(Vec::new()), |last| rows.up_to(last))?;
                let copy = add_entries(*copy, part.entries, placed.into_iter())?;
                Self::Entries(Box::new(copy), rows)
            }
        })
    }

    fn finish(self) -> Result<(), log::Error> {
        match self {
            Self::Appended(copy) => copy.finish(),
            Self::Rewritten(copy) => copy.finish(),
            Self::Entries(copy, _) => copy.finish(),
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

/// What a peer asks for of the segments here.
pub fn asked(
    log: Log,
    request: &pb::FetchSegmentRequest,
) -> Result<BoxStream<'static, Result<pb::SegmentPart, Status>>, Status> {
    let (from, to) = (Index(request.first_index), Index(request.next_index));
    Ok(match request.rewritten {
        0 if request.newest => newest_parts(log, from)?.boxed(),
        0 => parts(log, (from, to), !request.without_rows).boxed(),
        at => {
            let name = SegmentName {
                base: from,
                rewritten: Some(Index(at)),
            };
            store_parts(log, name).boxed()
        }
    })
}

/// Whether a peer that asks holds the same segments as this node.
pub fn compared(log: &Log, asked: &pb::CompareSegmentsRequest) -> pb::CompareSegmentsResponse {
    let digest = log.digest_of_names(Index(asked.first_index), Index(asked.next_index));
    pb::CompareSegmentsResponse {
        digest: digest.map_or(Bytes::new(), |digest| Bytes::copy_from_slice(&digest)),
    }
}

/// Whether a peer holds the same segments, by their digest here.
pub async fn holds_same(
    client: &mut PeerClient,
    (from, to): (Index, Index),
    digest: &[u8],
) -> Result<bool, FetchError> {
    let request = pb::CompareSegmentsRequest {
        first_index: from.0,
        next_index: to.0,
    };
    let call = tokio::time::timeout(PATIENCE, client.compare_segments(request)).await;
    let answer = call.map_err(|_| FetchError::Silent { base: from })?;
    let answer = answer.map_err(|status| failed(from, status))?;
    Ok(answer.into_inner().digest == digest)
}

/// The newest segment that holds an entry, if it is rewritten, as a peer fetches it: first which one it is.
pub fn newest_parts(
    log: Log,
    at: Index,
) -> Result<impl Stream<Item = Result<pb::SegmentPart, Status>>, Status> {
    let seal = log.rewritten_at(at);
    let seal = seal.ok_or_else(|| Status::not_found("no rewritten segment holds that here"))?;
    let first = pb::SegmentPart {
        segment: Some(snapshot::seal_to_pb(&seal)),
        ..pb::SegmentPart::default()
    };
    Ok(stream::once(async { Ok(first) }).chain(store_parts(log, seal.name())))
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

pub(crate) fn add(builder: SegmentCopy, part: pb::SegmentPart) -> Result<SegmentCopy, FetchError> {
    let rows = part.rows.into_iter().map(|row| Placed {
        position: Position(row.position),
        index: Index(row.index),
        check: row.check,
        log: LogId(row.log),
        offset: Offset(row.offset),
    });
    add_entries(builder, part.entries, rows)
}

fn add_entries(
    mut builder: SegmentCopy,
    entries: Vec<pb::Entry>,
    mut rows: impl Iterator<Item = Placed>,
) -> Result<SegmentCopy, FetchError> {
    let mut next = rows.next();
    let mut mine = Vec::new();
    for entry in entries {
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

/// The entries before `to`, as a peer fetches them, and their rows unless it has these: then they need not be applied
/// here.
pub fn parts(
    log: Log,
    (from, to): (Index, Index),
    with_rows: bool,
) -> impl Stream<Item = Result<pb::SegmentPart, Status>> {
    stream::try_unfold((log, from), move |(log, at)| async move {
        if at >= to {
            return Ok(None);
        }
        let read = on_disk(move || {
            let entries = log.entries(at, to, PART_BYTES)?;
            let next = Index(at.0 + entries.len() as u64);
            let rows = match with_rows {
                true => log.rows(at, next)?,
                false => Vec::new(),
            };
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
            ..pb::SegmentPart::default()
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
