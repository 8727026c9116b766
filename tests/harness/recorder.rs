//! Fills a history by hand: for tests whose calls are made one by one.

use std::time::Duration;

use ferrolog::client::Consistency;

use super::checker::Record;
use tokio::time::Instant;

use super::Stage;
use super::checker::{
    self, Append, Entry, FinalLogs, History, NodeLog, Outcome, Read, ReadKind, Report,
};

/// A history and its clock.
pub struct Recorder {
    origin: Instant,
    pub history: History,
}

/// A read as the test that made it knows it.
pub struct Seen<'a> {
    pub session: Option<u32>,
    pub kind: ReadKind,
    pub node: &'a str,
    pub begin: Duration,
    pub from: u64,
    pub seen: Vec<Entry>,
    pub tail: u64,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            history: History::default(),
        }
    }
}

impl Recorder {
    /// Now, as the history tells time.
    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// An append that began at `begin` and has just ended. Numbers are given in the order of these calls.
    pub fn append(&mut self, producer: u32, value: &[u8], begin: Duration, outcome: Outcome) {
        let append = Append {
            producer,
            seq: self.history.appends.len() as u64,
            hash: checker::hash(value),
            begin,
            end: self.now(),
            outcome,
        };
        self.history.appends.push(append);
    }

    /// Notes a read that has just ended.
    pub fn read(&mut self, seen: Seen<'_>) {
        let end = self.now();
        let Seen {
            session,
            kind,
            node,
            begin,
            from,
            seen,
            tail,
        } = seen;
        self.history.reads.push(Read {
            session,
            kind,
            node: node.to_owned(),
            begin,
            end,
            from,
            seen,
            tail,
        });
    }

    /// Reads the log from every node, checks all, and panics with the first violations.
    pub async fn assert_sound(&self, stage: &Stage) -> Report {
        let mut logs = Vec::new();
        for place in 0..stage.cluster.node_count() {
            let records = stage.read_all(place, Consistency::Strong).await;
            logs.push(NodeLog::whole(stage.cluster.name(place), &records));
        }
        assert_sound(&self.history, logs)
    }
}

/// The entries of records that a client read.
pub fn entries(records: &[Record]) -> Vec<Entry> {
    records.iter().map(Entry::of).collect()
}

/// Checks, and panics with the first violations.
pub fn assert_sound(history: &History, logs: Vec<NodeLog>) -> Report {
    let checked = checker::check(history, &FinalLogs(logs));
    checked.unwrap_or_else(|found| panic!("{}", checker::shown(&found)))
}
