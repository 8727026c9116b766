//! Reading a range of records.

use std::time::Duration;

use tonic::Status;

use crate::log::record::Stored;
use crate::log::{self, Offset};
use crate::proto::v1::{self, ConsumeRequest, ConsumeResponse, StoredBatch};
use crate::raft::ReplicatedLog;

use super::super::{Shared, read_log, status};
use super::batches::{self, Wanted};
use super::position::{self, Consistency};

/// Bytes of records in one answer, beyond those of its first batch.
pub const READ_BYTES_MAX: usize = 1 << 20;
/// No answer is larger: a batch that has to be sent without its compression, and what stands
/// around it.
pub const ANSWER_BYTES_MAX: usize = log::record::DECOMPRESSED_BYTES_MAX + (1 << 20);
/// A read waits no longer at the end than this.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How far this node is, for an answer.
pub fn freshness(log: &ReplicatedLog) -> v1::Freshness {
    let freshness = log.freshness();
    // Records can be read a little before the wait for them ends.
    let applied = freshness.applied.max(log.log().offsets().1);
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    v1::Freshness {
        node: log.identity().name.clone(),
        applied_offset: applied.0,
        leader_commit_offset: freshness.leader_commit.max(applied).0,
        staleness_ms: freshness.staleness.map(millis),
        held_offset: freshness.held.max(applied).0,
    }
}

/// Reads what is kept from an offset on.
pub async fn read_stored(
    log: &log::Log,
    offset: Offset,
    bytes_max: usize,
) -> Result<Vec<Stored>, log::Error> {
    read_log(log, offset, move |log| log.read_stored(offset, bytes_max)).await
}

/// What was read, as it is sent, and the offset after it. What is decompressed counts as it is sent,
/// against about `bytes_max` bytes: at least one batch.
pub fn send(
    stored: &[Stored],
    mut wanted: Wanted,
    bytes_max: usize,
) -> Result<(Vec<StoredBatch>, Offset), Status> {
    let mut next = wanted.from;
    let mut left = bytes_max.max(1);
    let mut all = Vec::with_capacity(stored.len());
    for stored in stored {
        if wanted.records_max == 0 || left == 0 {
            break;
        }
        let sent = batches::sent(stored, &wanted).map_err(|error| status::log(&error))?;
        let count = sent.batch.as_ref().map_or(0, |batch| batch.count);
        next = Offset(sent.first_offset + u64::from(count));
        wanted.records_max -= u64::from(count);
        left = left.saturating_sub(bytes_of(&sent).max(1));
        all.push(sent);
    }
    Ok((all, next))
}

/// The bytes of a sent batch's records.
pub fn bytes_of(sent: &StoredBatch) -> usize {
    sent.batch.as_ref().map_or(0, |batch| batch.records.len())
}

/// Answers with the records of a range.
pub async fn range(
    shared: &Shared<ReplicatedLog>,
    request: ConsumeRequest,
) -> Result<ConsumeResponse, Status> {
    let log = shared.log()?;
    let consistency = Consistency::new(request.consistency);
    consistency.reached(log).await?;
    let from = position::begin(log, request.start.clone()).await?;
    wait_for(shared, log, from, request.wait_ms_max).await?;
    let bytes_max = match request.bytes_max as usize {
        0 => READ_BYTES_MAX,
        bytes => bytes.min(READ_BYTES_MAX),
    };
    loop {
        let (first, next) = log.log().offsets();
        let stored = if from == next {
            Vec::new()
        } else {
            let read = read_stored(log.log(), from, bytes_max).await;
            read.map_err(|error| status::log(&error))?
        };
        if !consistency.holds(log) {
            // It took too long since the node was fresh.
            consistency.reached(log).await?;
            continue;
        }
        let wanted = Wanted {
            from,
            records_max: match request.records_max {
                0 => u64::MAX,
                records => records.into(),
            },
            accept: request.accept,
        };
        let (batches, next_offset) = send(&stored, wanted, bytes_max)?;
        return Ok(ConsumeResponse {
            batches,
            next_offset: next_offset.0,
            first_offset: first.0,
            freshness: Some(freshness(log)),
        });
    }
}

/// Waits for a record at an offset, if it is the next one.
async fn wait_for(
    shared: &Shared<ReplicatedLog>,
    log: &ReplicatedLog,
    from: Offset,
    wait_ms: u32,
) -> Result<(), Status> {
    let (_, next) = log.log().offsets();
    if wait_ms == 0 || from != next {
        return Ok(());
    }
    let mut applied = log.watch_applied();
    let mut drain = shared.drain.clone();
    let wait = Duration::from_millis(wait_ms.into()).min(WAIT_MAX);
    tokio::select! {
        biased;
        () = drain.began() => Err(status::draining()),
        _ = applied.wait_for(|applied| applied.next_offset > from) => Ok(()),
        () = tokio::time::sleep(wait) => Ok(()),
    }
}
