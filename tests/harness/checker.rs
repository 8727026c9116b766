//! Judges a log by what its clients saw: the rules of a totally ordered log, each in linear time.
//!
//! A history is every append with its outcome and every read with what it saw; the final log of each node is
//! held against it. Values are known by their hashes, so every value of a history is unlike all others. Times
//! are spans from one origin, by one monotonic clock. The rules of order stand in `order`, of reads in `reads`.

mod order;
mod reads;
pub mod verdict;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use bytes::Bytes;

pub use reads::{Read, ReadKind};
pub use verdict::{Report, Rule, Violation, shown};

const NOWHERE: u64 = u64::MAX;
const NOBODY: u32 = u32::MAX;

/// A record as a node told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub offset: u64,
    pub value: Bytes,
}

/// What came of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has this offset.
    Acked(u64),
    /// It was refused in words: it must never be seen.
    Refused,
    /// It may be in the log once, or not at all.
    Unknown,
}

/// One record that a producer tried to append: once, however often it was sent. If two tries were answered
/// with two offsets, that is two entries.
#[derive(Debug, Clone, Copy)]
pub struct Append {
    pub producer: u32,
    /// Grows in the order of the producer's sending.
    pub seq: u64,
    pub hash: u64,
    /// When it was first sent.
    pub begin: Duration,
    /// When its outcome was known; without meaning if it never was.
    pub end: Duration,
    pub outcome: Outcome,
}

/// What the clients of one cluster saw. Tests fill it.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub appends: Vec<Append>,
    pub reads: Vec<Read>,
}

impl History {
    /// How many records were acknowledged.
    pub fn acked(&self) -> usize {
        let acked = |append: &&Append| matches!(append.outcome, Outcome::Acked(_));
        self.appends.iter().filter(acked).count()
    }
}

/// A record as a node tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub offset: u64,
    pub hash: u64,
}

impl Entry {
    pub fn of(record: &Record) -> Self {
        Self {
            offset: record.offset,
            hash: hash(&record.value),
        }
    }
}

/// The log as one node tells it.
#[derive(Debug, Clone)]
pub struct NodeLog {
    pub node: String,
    /// Where it begins: what stood before was trimmed.
    pub first: u64,
    pub entries: Vec<Entry>,
}

impl NodeLog {
    /// A log from offset 0 on.
    pub fn whole(node: &str, records: &[Record]) -> Self {
        Self {
            node: node.to_owned(),
            first: 0,
            entries: records.iter().map(Entry::of).collect(),
        }
    }

    /// What stands at an offset, in a log without gaps.
    fn at(&self, offset: u64) -> Option<u64> {
        let place = usize::try_from(offset.checked_sub(self.first)?).ok()?;
        self.entries.get(place).map(|entry| entry.hash)
    }

    fn next_offset(&self) -> u64 {
        self.first + self.entries.len() as u64
    }
}

/// What every node tells once all is well again.
#[derive(Debug, Clone, Default)]
pub struct FinalLogs(pub Vec<NodeLog>);

/// A value's hash: good against accidents, and quick in a build without optimisation.
pub fn hash(value: &[u8]) -> u64 {
    let mut state = mix(0x9e37_79b9_7f4a_7c15, value.len() as u64);
    let mut words = value.chunks_exact(8);
    for word in &mut words {
        state = mix(state, u64::from_le_bytes(word.try_into().expect("8 bytes")));
    }
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    mix(state, u64::from_le_bytes(last))
}

fn mix(state: u64, word: u64) -> u64 {
    let mixed = (state ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 32)
}

/// The least value that is unlike all others: producer, number, and the hash of both.
pub fn payload(producer: u32, seq: u32) -> [u8; 16] {
    let mut value = [0; 16];
    value[..4].copy_from_slice(&producer.to_le_bytes());
    value[4..8].copy_from_slice(&seq.to_le_bytes());
    let check = hash(&value[..8]);
    value[8..].copy_from_slice(&check.to_le_bytes());
    value
}

/// Holds the logs of all nodes against what the clients saw.
pub fn check(history: &History, logs: &FinalLogs) -> Result<Report, Vec<Violation>> {
    let mut checker = Checker::new(history, logs);
    checker.agreement();
    for log in &logs.0 {
        checker.density(log);
        checker.durability(log);
        checker.contents(log);
    }
    checker.real_time_order();
    checker.session_order();
    checker.reads();
    if checker.found.is_empty() {
        Ok(checker.report)
    } else {
        Err(checker.found)
    }
}

/// A check under way.
struct Checker<'a> {
    history: &'a History,
    logs: &'a FinalLogs,
    /// The log that the others are held against.
    longest: Option<&'a NodeLog>,
    /// By offset, which append was acknowledged with it.
    owners: Vec<u32>,
    /// By append, where it stands in the log.
    places: Vec<u64>,
    /// Which append a hash belongs to: made once something stands where it was not acknowledged.
    by_hash: Option<ByHash>,
    report: Report,
    found: Vec<Violation>,
}

type ByHash = HashMap<u64, u32, BuildHasherDefault<Hashed>>;

impl<'a> Checker<'a> {
    fn new(history: &'a History, logs: &'a FinalLogs) -> Self {
        let longest = logs.0.iter().max_by_key(|log| log.next_offset());
        let end = longest.map_or(0, NodeLog::next_offset);
        let mut owners = vec![NOBODY; usize::try_from(end).expect("a log in memory")];
        for (number, append) in (0..).zip(&history.appends) {
            if let Outcome::Acked(offset) = append.outcome
                && offset < end
            {
                owners[offset as usize] = number;
            }
        }
        Self {
            history,
            logs,
            longest,
            owners,
            places: vec![NOWHERE; history.appends.len()],
            by_hash: None,
            report: Report::default(),
            found: Vec::new(),
        }
    }

    /// The logs are equal: by the hashes of their chains first, and entry by entry only if those differ.
    fn agreement(&mut self) {
        let Some(longest) = self.longest else { return };
        for log in &self.logs.0 {
            let from = log.first.max(longest.first);
            let to = log.next_offset();
            self.report.add(Rule::Agreement, log.entries.len());
            let nodes = || (longest.node.clone(), log.node.clone());
            if chain(log, from, to) != chain(longest, from, to) {
                let differs = |offset: &u64| log.at(*offset) != longest.at(*offset);
                if let Some(offset) = (from..to).find(differs) {
                    let nodes = nodes();
                    self.found.push(Violation::Agreement { nodes, offset });
                }
            }
            if to != longest.next_offset() {
                let tails = (longest.next_offset(), to);
                let nodes = nodes();
                self.found.push(Violation::Tails { nodes, tails });
            }
        }
        self.report.chain = chain(longest, longest.first, longest.next_offset());
    }

    /// Offsets grow by one from where the log begins.
    fn density(&mut self, log: &NodeLog) {
        self.report.add(Rule::Density, log.entries.len());
        let mut places = log.entries.iter().zip(log.first..);
        let wrong = places.find(|(entry, place)| entry.offset != *place);
        if let Some((entry, place)) = wrong {
            self.found.push(Violation::Density {
                node: log.node.clone(),
                place,
                offset: entry.offset,
            });
        }
    }

    /// What was acknowledged stands at its offset. In a log with a gap, where the node says that it stands.
    fn durability(&mut self, log: &NodeLog) {
        let dense = log.entries.iter().zip(log.first..);
        let dense = { dense }.all(|(entry, place)| entry.offset == place);
        let told: HashMap<u64, u64> = if dense {
            HashMap::new()
        } else {
            log.entries.iter().map(|e| (e.offset, e.hash)).collect()
        };
        let mut checked = 0;
        for append in &self.history.appends {
            let Outcome::Acked(offset) = append.outcome else {
                continue;
            };
            if offset < log.first {
                continue;
            }
            checked += 1;
            let there = if dense {
                log.at(offset)
            } else {
                told.get(&offset).copied()
            };
            if there != Some(append.hash) {
                self.found.push(Violation::Durability {
                    node: log.node.clone(),
                    producer: append.producer,
                    seq: append.seq,
                    offset,
                    there,
                });
            }
        }
        self.report.add(Rule::Durability, checked);
    }

    /// What stands in the log was attempted, was not refused, and stands there once.
    fn contents(&mut self, log: &NodeLog) {
        let mut places = vec![NOWHERE; self.history.appends.len()];
        for entry in &log.entries {
            let offset = entry.offset;
            let Some(number) = self.attempt(entry) else {
                let (node, hash) = (log.node.clone(), entry.hash);
                self.found.push(Violation::Phantom { node, offset, hash });
                continue;
            };
            let append = &self.history.appends[number];
            let (producer, seq) = (append.producer, append.seq);
            if append.outcome == Outcome::Refused {
                let node = log.node.clone();
                self.found.push(Violation::Refused {
                    node,
                    producer,
                    seq,
                    offset,
                });
            }
            if places[number] == NOWHERE {
                places[number] = offset;
                continue;
            }
            self.found.push(Violation::Uniqueness {
                node: log.node.clone(),
                producer,
                seq,
                offsets: (places[number], offset),
            });
        }
        self.report.add(Rule::NoPhantom, log.entries.len());
        self.report.add(Rule::Uniqueness, log.entries.len());
        // The longest log counts; of an append that a shorter one alone holds, that one.
        let counts = self
            .longest
            .is_some_and(|longest| std::ptr::eq(longest, log));
        for (known, place) in self.places.iter_mut().zip(places) {
            if place != NOWHERE && (counts || *known == NOWHERE) {
                *known = place;
            }
        }
    }

    /// The append whose value this is.
    fn attempt(&mut self, entry: &Entry) -> Option<usize> {
        let owner = self.owners.get(usize::try_from(entry.offset).ok()?);
        if let Some(&owner) = owner.filter(|owner| **owner != NOBODY)
            && self.history.appends[owner as usize].hash == entry.hash
        {
            return Some(owner as usize);
        }
        let appends = &self.history.appends;
        let by_hash = self.by_hash.get_or_insert_with(|| {
            let numbered = (0..).zip(appends);
            numbered
                .map(|(number, append)| (append.hash, number))
                .collect()
        });
        by_hash.get(&entry.hash).map(|number| *number as usize)
    }
}

/// The hash of all hashes from one offset to another, each with its offset.
fn chain(log: &NodeLog, from: u64, to: u64) -> u64 {
    let skipped = usize::try_from(from.saturating_sub(log.first)).unwrap_or(usize::MAX);
    let count = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
    let entries = log.entries.iter().skip(skipped).take(count);
    entries.fold(0, |state, entry| mix(mix(state, entry.offset), entry.hash))
}

/// Passes on what is a hash already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("hashes are numbers")
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
