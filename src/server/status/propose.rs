//! What is told of batches that were not appended, or may not have been.

use std::collections::HashMap;

use tonic::Status;

use crate::name::Shown;
use crate::raft::{ProposeError, Refusal, Refused};
use crate::reason::Reason;

use super::{details, disk_full, draining};

/// A batch was not appended, or may not have been; `fence` is the name that it came in.
pub fn propose_under(error: &ProposeError, fence: Option<&str>) -> Status {
    match error {
        ProposeError::Refused(refused) => refused_under(refused.why, fence, ""),
        error => propose(error),
    }
}

/// Batches of one call were not appended, or may not have been; `of` tells of each its log and the name that it
/// came in.
pub fn propose_many(error: &ProposeError, of: &[(String, Option<String>)]) -> Status {
    let ProposeError::Refused(Refused { why, batch }) = error else {
        return propose(error);
    };
    let whose = usize::try_from(*batch)
        .ok()
        .and_then(|number| of.get(number));
    let Some((log, fence)) = whose else {
        return propose(error);
    };
    let log = Shown(log);
    let before = format!("nothing was appended, for the batch to {log} (number {batch}): ");
    refused_under(*why, fence.as_deref(), &before)
}

fn refused_under(why: Refusal, fence: Option<&str>, before: &str) -> Status {
    let (reason, mut metadata) = refused(&why);
    let message = match (fence, why) {
        (Some(name), Refusal::Fenced { epoch }) => {
            metadata.insert("name".to_owned(), name.to_owned());
            let name = Shown(name);
            format!("{before}{name} has epoch {epoch} now: the batch is fenced off")
        }
        _ => format!("{before}{why}"),
    };
    reason.status_with(&message, metadata)
}

/// Why the state machine refused a batch.
fn refused(why: &Refusal) -> (Reason, HashMap<String, String>) {
    let none = HashMap::new;
    match why {
        Refusal::SequenceGap { expected } => {
            (Reason::SequenceGap, details([("expected", expected)]))
        }
        Refusal::SequenceOverlap { expected } => {
            (Reason::SequenceOverlap, details([("expected", expected)]))
        }
        Refusal::SequenceReused { expected } => {
            (Reason::SequenceReused, details([("expected", expected)]))
        }
        Refusal::NotOwner | Refusal::NotHolder => (Reason::NotOwner, none()),
        Refusal::OffsetDiffers { next } => {
            (Reason::OffsetDiffers, details([("next_offset", next)]))
        }
        Refusal::Fenced { epoch } => (Reason::Fenced, details([("epoch", epoch)])),
        Refusal::NoSuchLog => (Reason::LogDeleted, none()),
        Refusal::SessionExpired => (Reason::SessionExpired, none()),
    }
}

pub fn propose(error: &ProposeError) -> Status {
    let none = HashMap::new;
    let (reason, metadata) = match error {
        ProposeError::NoLeader { leader, .. } => {
            let leader = leader.iter();
            let hint = leader.map(|leader| ("leader".to_owned(), leader.clone()));
            (Reason::NoLeader, hint.collect())
        }
        ProposeError::DiskFull(full) => disk_full(full),
        ProposeError::Unknown => (Reason::OutcomeUnknown, none()),
        ProposeError::Refused(Refused { why, .. }) => refused(why),
        ProposeError::Malformed => (Reason::MalformedBatch, none()),
        ProposeError::Stopping => return draining(),
    };
    reason.status_with(&error.to_string(), metadata)
}
