//! Reading a range of records.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Request, Status};

use crate::log::Offset;
use crate::net::budget::{Accounts, Held, SMALL_BYTES_MAX};
use crate::proto::v1::{self, ConsumeRequest, ConsumeResponse, StoredBatch};
use crate::raft::ReplicatedLog;

use super::super::limits::ANSWER_BYTES_MAX;
use super::super::{ApiContext, accounts, deadline, status};
use super::batches::Wanted;
use super::position::{self, Consistency};
use crate::server::answers::reading::{Asked, Failed, PART_BYTES};

/// Bytes of records in one answer, unless its first batch is larger and passed on whole.
pub const READ_BYTES_MAX: usize = 1 << 20;
/// A read waits no longer at the end than this.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How far this node is, for an answer.
pub fn freshness(log: &ReplicatedLog) -> v1::Freshness {
    let freshness = log.freshness();
    // Records can be read a little before the wait for them ends.
    let applied = freshness.applied.max(log.offsets().1);
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    v1::Freshness {
        node: log.identity().name.clone(),
        applied_offset: applied.0,
        leader_commit_offset: freshness.leader_commit.max(applied).0,
        staleness_ms: freshness.staleness.map(millis),
        held_offset: freshness.held.max(applied).0,
        applied_position: log.log().positions().1.0,
        held_position: log.log().held_end().0,
    }
}

/// How far this node is with the records of all logs.
pub fn freshness_of_all(log: &ReplicatedLog) -> v1::Freshness {
    v1::Freshness {
        applied_offset: 0,
        leader_commit_offset: 0,
        held_offset: 0,
        ..freshness(log)
    }
}

/// The bytes of a sent batch's records.
pub fn bytes_of(sent: &StoredBatch) -> usize {
    sent.batch.as_ref().map_or(0, |batch| batch.records.len())
}

/// Answers with the records of a range.
pub async fn range(
    api: &ApiContext<ReplicatedLog>,
    log: &ReplicatedLog,
    request: Request<ConsumeRequest>,
) -> Result<(ConsumeResponse, Option<Held>), Status> {
    let (accounts, until) = (accounts(&request), deadline::of(&request));
    let request = request.into_inner();
    let consistency = Consistency::new(request.consistency);
    api.counts.reads.of(consistency.into()).one_more();
    consistency.reached(log).await?;
    let from = position::begin(api, log, request.start.clone()).await?;
    let wait = Duration::from_millis(request.wait_ms_max.into()).min(WAIT_MAX);
    let over = Instant::now() + wait;
    wait_for(api, log, from, until.map_or(over, |until| until.min(over))).await?;
    let wanted = Wanted {
        names: None,
        records_max: match request.records_max {
            0 => u64::MAX,
            records => records.into(),
        },
        accept: request.accept,
        bytes_max: match request.bytes_max as usize {
            0 => READ_BYTES_MAX,
            bytes => bytes.min(READ_BYTES_MAX),
        },
        whole_bytes_max: match request.bytes_max as usize {
            0 => ANSWER_BYTES_MAX,
            bytes => bytes.min(ANSWER_BYTES_MAX),
        },
    };
    // A few records are seldom large. If they are, the read begins again with more room.
    let few = wanted.records_max.saturating_mul(PART_BYTES as u64) < SMALL_BYTES_MAX as u64;
    let expected = if few {
        SMALL_BYTES_MAX
    } else {
        wanted.bytes_max
    };
    loop {
        if !log.is_there() {
            return Err(status::log_deleted());
        }
        let (first, next) = log.offsets();
        let (read, held) = if from == next {
            (Vec::new(), None)
        } else {
            let asked = Asked::Log(log.id(), from);
            read(api, log, accounts.as_ref(), asked, expected, wanted.clone()).await?
        };
        if !consistency.holds(log) {
            // The node was fresh enough, but the read took too long since.
            consistency.reached(log).await?;
            continue;
        }
        let answer = ConsumeResponse {
            next_offset: next_of(&read).unwrap_or(from).0,
            batches: read,
            first_offset: first.0,
            freshness: Some(freshness(log)),
        };
        return Ok((answer, held));
    }
}

/// The offset behind the last of these records of one log.
pub fn next_of(batches: &[StoredBatch]) -> Option<Offset> {
    let last = batches.last()?;
    Some(Offset(last.first_offset + count_of(last)))
}

/// How many records a sent batch holds.
pub fn count_of(sent: &StoredBatch) -> u64 {
    sent.batch.as_ref().map_or(0, |batch| batch.count).into()
}

/// Reads what is wanted, with the room that it takes.
pub async fn read(
    api: &ApiContext<ReplicatedLog>,
    log: &ReplicatedLog,
    accounts: Option<&Accounts>,
    asked: Asked,
    expected: usize,
    wanted: Wanted,
) -> Result<(Vec<StoredBatch>, Option<Held>), Status> {
    let mut due = match &asked {
        Asked::Log(_, from) => Some(from.0),
        Asked::Stretch(_) => None,
    };
    let read = api
        .reading
        .answer(log.log(), accounts, asked, expected, wanted);
    let read = read.await.map_err(|failed| match failed {
        Failed::Log(error) => status::log(&error),
        Failed::Status(status) => status,
    });
    let (mut batches, held) = read?;
    if let Some(due) = &mut due {
        for sent in &mut batches {
            // A batch of which a part was asked for begins with that part.
            sent.skipped = sent.first_offset.saturating_sub(*due);
            *due = sent.first_offset + count_of(sent);
        }
    }
    let (count, bytes) = batches.iter().fold((0, 0), |(count, bytes), sent| {
        (count + count_of(sent), bytes + bytes_of(sent) as u64)
    });
    api.counts.records_out.add(count);
    api.counts.bytes_out.add(bytes);
    Ok((batches, held))
}

/// Waits for a record at an offset until a time, if it is the next one.
async fn wait_for(
    api: &ApiContext<ReplicatedLog>,
    log: &ReplicatedLog,
    from: Offset,
    until: Instant,
) -> Result<(), Status> {
    let (_, next) = log.offsets();
    if from != next || until <= Instant::now() {
        return Ok(());
    }
    let mut applied = log.watch_applied();
    let mut drain = api.drain.clone();
    tokio::select! {
        biased;
        () = drain.began() => Err(status::draining()),
        _ = applied.wait_for(|_| log.is_past(from)) => Ok(()),
        () = tokio::time::sleep_until(until) => Ok(()),
    }
}
