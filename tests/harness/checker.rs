//! Judges a log by what its producers saw: the rules of a totally ordered log, each in linear time.
//!
//! A history is every attempt with its outcome; an attempt without one may be in the log once or not at all.
//! The final log of every node is held against it. Times are spans from one origin, by one monotonic clock.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use ferrolog::client::Record;

/// One record that a producer tried to append.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub producer: usize,
    /// Counts the producer's attempts, in the order of their sending.
    pub seq: u64,
    pub value: Bytes,
    pub started: Duration,
    /// The offset and when it was known; `None` if the outcome is unknown.
    pub acked: Option<(u64, Duration)>,
}

/// The log as one node tells it.
#[derive(Debug, Clone)]
pub struct NodeLog {
    pub node: String,
    pub records: Vec<Record>,
}

/// A rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// An acknowledged record stands at its offset on every node.
    Durability,
    /// All nodes tell the same bytes.
    Agreement,
    /// Offsets are 0, 1, 2 and so on.
    Density,
    /// No value stands twice.
    Uniqueness,
    /// Everything in the log was attempted.
    NoPhantom,
    /// A producer's records stand in the order of their sending.
    ProducerOrder,
    /// What was acknowledged before another began stands before it.
    RealTimeOrder,
}

/// Where a rule is broken.
#[derive(Debug, Clone)]
pub struct Violation {
    pub rule: Rule,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

/// Holds the logs of all nodes against what the producers saw.
pub fn check(attempts: &[Attempt], logs: &[NodeLog]) -> Vec<Violation> {
    let mut found = Vec::new();
    for log in logs {
        durability(attempts, log, &mut found);
        density(log, &mut found);
        uniqueness(log, &mut found);
    }
    agreement(logs, &mut found);
    let placed = place(attempts, logs, &mut found);
    producer_order(&placed, &mut found);
    real_time_order(&placed, &mut found);
    found
}

fn violated(found: &mut Vec<Violation>, rule: Rule, what: String) {
    found.push(Violation { rule, what });
}

/// A value as a message shows it.
fn shown(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(&value[..value.len().min(24)]);
    format!("{text:?} of {} bytes", value.len())
}

fn durability(attempts: &[Attempt], log: &NodeLog, found: &mut Vec<Violation>) {
    // By the offset that the node says, so that a gap is not reported as many lost records.
    let at: HashMap<u64, &Bytes> = log.records.iter().map(|r| (r.offset, &r.value)).collect();
    for attempt in attempts {
        let Some((offset, _)) = attempt.acked else {
            continue;
        };
        let there = at.get(&offset).copied();
        if there != Some(&attempt.value) {
            let there = there.map_or_else(|| "nothing".to_owned(), |value| shown(value));
            let wanted = shown(&attempt.value);
            let what = format!(
                "{}: offset {offset} was acknowledged for {wanted}, there is {there}",
                log.node
            );
            violated(found, Rule::Durability, what);
        }
    }
}

fn density(log: &NodeLog, found: &mut Vec<Violation>) {
    let misplaced = log.records.iter().zip(0..);
    let first = misplaced
        .filter(|(record, place)| record.offset != *place)
        .map(|(record, place)| (record.offset, place))
        .next();
    if let Some((offset, place)) = first {
        let what = format!("{}: offset {offset} stands at place {place}", log.node);
        violated(found, Rule::Density, what);
    }
}

fn uniqueness(log: &NodeLog, found: &mut Vec<Violation>) {
    let mut first: HashMap<&Bytes, u64> = HashMap::new();
    for record in &log.records {
        if let Some(before) = first.insert(&record.value, record.offset) {
            let (value, again) = (shown(&record.value), record.offset);
            let what = format!("{}: {value} stands at {before} and {again}", log.node);
            violated(found, Rule::Uniqueness, what);
        }
    }
}

fn agreement(logs: &[NodeLog], found: &mut Vec<Violation>) {
    for pair in logs.windows(2) {
        let (a, b) = (&pair[0], &pair[1]);
        let nodes = format!("{} and {}", a.node, b.node);
        let (left, right) = (a.records.len(), b.records.len());
        if left != right {
            let what = format!("{nodes} hold {left} and {right} records");
            violated(found, Rule::Agreement, what);
        }
        let differing = a.records.iter().zip(&b.records).position(|(a, b)| a != b);
        if let Some(place) = differing {
            violated(
                found,
                Rule::Agreement,
                format!("{nodes} differ at place {place}"),
            );
        }
    }
}

/// Each attempt that is in some node's log, with its offset, in the order of offsets. What nobody attempted
/// is a phantom.
fn place<'a>(
    attempts: &'a [Attempt],
    logs: &[NodeLog],
    found: &mut Vec<Violation>,
) -> Vec<(u64, &'a Attempt)> {
    let known: HashMap<&Bytes, &Attempt> = attempts.iter().map(|a| (&a.value, a)).collect();
    let mut placed = Vec::new();
    let mut seen: HashSet<(u64, &Bytes)> = HashSet::new();
    for log in logs {
        for record in &log.records {
            if !seen.insert((record.offset, &record.value)) {
                continue;
            }
            match known.get(&record.value) {
                Some(attempt) => placed.push((record.offset, *attempt)),
                None => {
                    let (node, value) = (&log.node, shown(&record.value));
                    let what = format!("{node}: {value} at {} was never sent", record.offset);
                    violated(found, Rule::NoPhantom, what);
                }
            }
        }
    }
    placed.sort_by_key(|(offset, _)| *offset);
    placed
}

fn producer_order(placed: &[(u64, &Attempt)], found: &mut Vec<Violation>) {
    let mut last: HashMap<usize, u64> = HashMap::new();
    for (offset, attempt) in placed {
        let (producer, seq) = (attempt.producer, attempt.seq);
        if let Some(before) = last.insert(producer, seq).filter(|before| *before > seq) {
            let what =
                format!("producer {producer}: {seq} at offset {offset} stands after {before}");
            violated(found, Rule::ProducerOrder, what);
        }
    }
}

/// Wrong is a record at a higher offset that was acknowledged before one at a lower offset began: so each is
/// held against the latest start below it.
fn real_time_order(placed: &[(u64, &Attempt)], found: &mut Vec<Violation>) {
    let mut latest: Option<(Duration, u64)> = None;
    for (offset, attempt) in placed {
        if let (Some((started, below)), Some((_, acked))) = (latest, attempt.acked)
            && acked < started
        {
            let what = format!(
                "offset {offset} was acknowledged at {acked:?}, and {below} began only at {started:?}"
            );
            violated(found, Rule::RealTimeOrder, what);
        }
        if latest.is_none_or(|(started, _)| attempt.started > started) {
            latest = Some((attempt.started, *offset));
        }
    }
}
