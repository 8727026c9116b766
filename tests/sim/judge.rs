//! The verdict: the checker's rules, and those that need more than a history of single records.

use std::collections::HashMap;

use super::clients::{Record, SharedRecord};
use super::harness::checker::{self, Entry, FinalLogs, NodeLog, Outcome};

/// Where the records of a log are, or were seen before they were trimmed.
#[derive(Default)]
pub struct Places {
    /// By the hash of the value, the offset.
    pub of: HashMap<u64, u64>,
}

/// Holds what clients were told against a log as it is in the end. What was trimmed is taken as it was seen by then.
pub fn judge(shared: &SharedRecord, logs: Vec<NodeLog>) -> (Vec<String>, Places) {
    let record = &mut *shared.lock();
    let mut wrong = std::mem::take(&mut record.wrong);
    let asked = record.trim_asked;
    for log in logs
        .iter()
        .filter(|log| log.first > asked && !record.is_retained)
    {
        let (node, first) = (&log.node, log.first);
        wrong.push(format!(
            "the log of {node} begins at {first}, where {asked} was asked for at most"
        ));
    }
    let logs = with_trimmed(record, logs);
    let Some(log) = logs.first() else {
        return (vec!["there is no log".to_owned()], Places::default());
    };
    let places: HashMap<u64, u64> = log
        .entries
        .iter()
        .map(|entry| (entry.hash, entry.offset))
        .collect();
    batches(record, log, &places, &mut wrong);
    fences(record, &places, &mut wrong);
    if let Err(found) = checker::check(&record.history, &FinalLogs(logs)) {
        wrong.push(checker::shown(&found));
    }
    (wrong, Places { of: places })
}

/// The logs with what was seen right before they begin.
fn with_trimmed(record: &Record, mut logs: Vec<NodeLog>) -> Vec<NodeLog> {
    for log in &mut logs {
        let mut before = Vec::new();
        while let Some(offset) = log.first.checked_sub(1)
            && let Some(&hash) = record.seen.get(&offset)
        {
            before.push(Entry { offset, hash });
            log.first = offset;
        }
        before.reverse();
        before.append(&mut log.entries);
        log.entries = before;
    }
    logs
}

/// Records that were sent as one stand side by side, or none of them is there.
fn batches(record: &Record, log: &NodeLog, places: &HashMap<u64, u64>, wrong: &mut Vec<String>) {
    for batch in &record.batches {
        let appends = &record.history.appends[batch.first..batch.first + batch.count];
        let there: Vec<_> = appends
            .iter()
            .map(|append| places.get(&append.hash))
            .collect();
        let Some(at) = there.iter().position(Option::is_some) else {
            continue;
        };
        let first = there[at].map(|offset| offset.checked_sub(at as u64));
        let is_whole = there.iter().zip(0..).all(|(offset, place)| match offset {
            Some(offset) => first.flatten() == offset.checked_sub(place),
            // Those before may have been trimmed unseen.
            None => first
                .flatten()
                .is_some_and(|first| first + place < log.first),
        });
        if !is_whole {
            let producer = appends[0].producer;
            wrong.push(format!(
                "a batch of producer {producer} stands apart: {there:?}"
            ));
        }
    }
}

/// No record of an older epoch stands at or behind the place of a claim.
fn fences(record: &Record, places: &HashMap<u64, u64>, wrong: &mut Vec<String>) {
    for batch in &record.batches {
        let Some(epoch) = batch.epoch else { continue };
        let append = &record.history.appends[batch.first];
        let told = match append.outcome {
            Outcome::Acked(offset) => Some(offset),
            _ => None,
        };
        let Some(offset) = told.or(places.get(&append.hash).copied()) else {
            continue;
        };
        let later = record.claims.range(epoch + 1..);
        for (newer, next) in later.filter(|(_, next)| **next <= offset) {
            wrong.push(format!(
                "a record of epoch {epoch} stands at {offset}, though epoch {newer} began at {next}"
            ));
        }
    }
}
