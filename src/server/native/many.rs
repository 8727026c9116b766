//! Appending to several logs in one step: all batches of a call, or none.

use std::collections::HashSet;

use bytes::Bytes;
use tokio::time::Instant;
use tonic::{Request, Status};

use super::super::appending::{append, counted, taken};
use super::super::auth::Rights;
use super::super::limits::MANY_BATCHES_MAX;
use super::super::{ApiContext, accounts, auth, deadline, status};
use super::batches::{self, Packing, Sender, Target};
use super::produce::response;
use crate::log::{LogId, record};
use crate::net::budget::Accounts;
use crate::proto::v1::{ManyBatch, ProduceManyRequest, ProduceManyResponse, ProduceRequest};
use crate::raft::{ProposeError, Receipt, ReplicatedLog};

/// So many further batches of a call count as one among those under way.
const MORE_PER_PLACE: usize = 4;

/// What of the batches under way a call is. Only a session remembers them.
pub fn places(request: &ProduceManyRequest) -> usize {
    let more = match request.session {
        Some(_) => request.batches.len().saturating_sub(1),
        None => 0,
    };
    1 + more.div_ceil(MORE_PER_PLACE)
}

/// What the answer tells of the batches of a call.
pub struct Whose {
    /// The log of each, and the name in which it comes.
    names: Vec<(String, Option<String>)>,
    ids: Vec<LogId>,
}

/// Whose the batches of a call are, for these logs.
pub fn whose(request: &ProduceManyRequest, logs: &[Target]) -> Whose {
    let fence = |batch: &ManyBatch| batch.fence.as_ref().map(|fence| fence.name.clone());
    let batches = request.batches.iter();
    let names = batches.map(|batch| (batch.log.clone(), fence(batch)));
    Whose {
        names: names.collect(),
        ids: logs.iter().map(|log| log.id).collect(),
    }
}

/// The logs of a call's batches, each another one, to all of which the caller may append. The first is given as a
/// handle, too.
pub async fn logs(
    api: &ApiContext<ReplicatedLog>,
    rights: &Rights,
    until: Option<Instant>,
    request: &ProduceManyRequest,
) -> Result<(ReplicatedLog, Vec<Target>), Status> {
    let count = request.batches.len();
    let none = || {
        let what = format!("a call appends 1 to {MANY_BATCHES_MAX} batches, not {count}");
        status::invalid(what)
    };
    if count > MANY_BATCHES_MAX {
        return Err(none());
    }
    let (mut first, mut logs) = (None, Vec::with_capacity(count));
    let mut known = HashSet::with_capacity(count);
    for batch in &request.batches {
        let log = api
            .log_to(rights, (&batch.log, batch.log_id), until)
            .await?;
        if !known.insert(log.id()) {
            let what =
                "a call appends one batch to each log: put all records for a log into one batch";
            return Err(status::invalid(what));
        }
        logs.push(Target::of(&log));
        first.get_or_insert(log);
    }
    Ok((first.ok_or_else(none)?, logs))
}

/// The batches of a call, as the log keeps them.
pub async fn bundle(
    api: &ApiContext<ReplicatedLog>,
    logs: Vec<Target>,
    request: ProduceManyRequest,
    subject: &str,
    accounts: Option<&Accounts>,
) -> Result<Bytes, Status> {
    let mut all = request
        .batches
        .iter()
        .filter_map(|batch| batch.batch.as_ref());
    if !all.any(batches::is_compressed) {
        return pack(&api.limits, logs, request, subject);
    }
    let (limits, subject) = (api.limits.clone(), subject.to_owned());
    let packed = move || pack(&limits, logs, request, &subject);
    let packed = api.reading.bulk().run(accounts, packed).await;
    packed.unwrap_or_else(|| Err(status::draining()))
}

fn pack(
    limits: &super::super::Limits,
    logs: Vec<Target>,
    request: ProduceManyRequest,
    subject: &str,
) -> Result<Bytes, Status> {
    let mut packing = Packing::new(limits);
    // The first batch carries the session of all.
    let mut session = request.session;
    let mut all = Vec::with_capacity(logs.len());
    for (to, batch) in logs.into_iter().zip(request.batches) {
        let request = ProduceRequest {
            log: batch.log,
            log_id: None,
            batch: batch.batch,
            session: session.take(),
            expected_next_offset: batch.expected_next_offset,
            fence: batch.fence,
        };
        all.push(packing.pack(request, Sender { to, subject })?);
    }
    Ok(record::bundle(&all))
}

/// What became of a call's batches.
pub fn answer(receipt: &Receipt, whose: &Whose) -> ProduceManyResponse {
    let appended = receipt.ranges.iter().zip(&whose.ids);
    let appended = appended.map(|(range, log)| response(receipt, *range, *log));
    ProduceManyResponse {
        appended: appended.collect(),
    }
}

/// What became of a call's batches, as it is told to whoever named their logs.
pub async fn told(
    api: &ApiContext<ReplicatedLog>,
    outcome: Result<Receipt, ProposeError>,
    whose: &Whose,
) -> Result<Receipt, Status> {
    let refused = match &outcome {
        Err(ProposeError::Refused(refused)) => usize::try_from(refused.batch).ok(),
        _ => None,
    };
    let named = refused.and_then(|batch| whose.names.get(batch));
    let told = outcome.map_err(|error| status::propose_many(&error, &whose.names));
    match named {
        Some((log, _)) => api.as_named(log, told).await,
        None => told,
    }
}

/// Appends the batches of a call.
pub async fn produce(
    api: &ApiContext<ReplicatedLog>,
    request: Request<ProduceManyRequest>,
) -> Result<ProduceManyResponse, Status> {
    let (held, until) = (taken(&request).take(), deadline::of(&request));
    let rights = api.rights(&request);
    let accounts = accounts(&request);
    let subject = auth::subject(&request).to_owned();
    let request = request.into_inner();
    let (log, logs) = logs(api, &rights, until, &request).await?;
    let whose = whose(&request, &logs);
    let bundle = bundle(api, logs, request, &subject, accounts.as_ref()).await?;
    let appended = append(&log, counted(bundle, held), until).await;
    let receipt = told(api, appended, &whose).await?;
    Ok(answer(&receipt, &whose))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::SessionSequence;

    #[test]
    fn a_call_takes_more_than_a_place_only_where_a_session_remembers_it() {
        for (batches, under_session) in [(1, 1), (2, 2), (5, 2), (6, 3), (10, 4), (100, 26)] {
            let call = |session| ProduceManyRequest {
                batches: vec![ManyBatch::default(); batches],
                session,
            };
            assert_eq!(
                places(&call(Some(SessionSequence::default()))),
                under_session
            );
            assert_eq!(places(&call(None)), 1, "{batches}");
        }
    }
}
