//! What the checker says: the rules, where one is broken, and how much was held against each.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A rule that may be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// An acknowledged record stands at its offset on every node.
    Durability,
    /// All nodes tell the same.
    Agreement,
    /// Offsets grow by one, without a gap.
    Density,
    /// No record stands twice, and no number has two offsets.
    Uniqueness,
    /// Everything in the log was attempted, and nothing of it refused.
    NoPhantom,
    /// What was acknowledged before another began stands before it.
    RealTimeOrder,
    /// A producer's records stand in the order of its sending.
    SessionOrder,
    /// A strong read sees what was acknowledged before it, and what strong reads before it saw.
    StrongRead,
    /// A bounded read sees what was acknowledged so long before it.
    BoundedRead,
    /// What is read is what stands in the log, from where it was asked on, and no more.
    Prefix,
    /// The reads of a session never go back.
    SessionRead,
    /// A stream gives each offset once, in order, across connections.
    Stream,
}

/// Where a rule is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// Another hash is there, or nothing.
    Durability {
        node: String,
        producer: u32,
        seq: u64,
        offset: u64,
        there: Option<u64>,
    },
    /// The first offset at which two nodes differ.
    Agreement {
        nodes: (String, String),
        offset: u64,
    },
    /// Where two nodes end.
    Tails {
        nodes: (String, String),
        tails: (u64, u64),
    },
    /// The first offset that is not at its place.
    Density {
        node: String,
        place: u64,
        offset: u64,
    },
    Uniqueness {
        node: String,
        producer: u32,
        seq: u64,
        offsets: (u64, u64),
    },
    /// Two tries of one record were answered with two offsets.
    TwoAnswers {
        producer: u32,
        seq: u64,
        offsets: (u64, u64),
    },
    /// Nobody sent it.
    Phantom {
        node: String,
        offset: u64,
        hash: u64,
    },
    Refused {
        node: String,
        producer: u32,
        seq: u64,
        offset: u64,
    },
    /// The one below began only after this one was acknowledged.
    RealTimeOrder {
        offset: u64,
        acked: Duration,
        below: u64,
        began: Duration,
    },
    SessionOrder {
        producer: u32,
        seqs: (u64, u64),
        offsets: (u64, u64),
    },
    /// A read by its number in the history, and an offset that was acknowledged before it began.
    StrongRead {
        read: usize,
        tail: u64,
        acked: u64,
    },
    /// A strong read before it saw more.
    StrongOrder {
        read: usize,
        tail: u64,
        before: u64,
    },
    BoundedRead {
        read: usize,
        tail: u64,
        acked: u64,
    },
    /// It gave something else than the log holds there.
    Prefix {
        read: usize,
        offset: u64,
        seen: u64,
        there: Option<u64>,
    },
    /// It left out an offset, or began elsewhere.
    Gap {
        read: usize,
        expected: u64,
        got: u64,
    },
    /// It told of a tail after the last record, or gave records after its own tail.
    Tail {
        read: usize,
        tail: u64,
        end: u64,
    },
    SessionRead {
        session: u32,
        read: usize,
        tail: u64,
        before: u64,
    },
    Stream {
        read: usize,
        expected: u64,
        got: u64,
    },
}

impl Violation {
    /// The rule that is broken.
    pub fn rule(&self) -> Rule {
        match self {
            Self::Durability { .. } => Rule::Durability,
            Self::Agreement { .. } | Self::Tails { .. } => Rule::Agreement,
            Self::Density { .. } => Rule::Density,
            Self::Uniqueness { .. } | Self::TwoAnswers { .. } => Rule::Uniqueness,
            Self::Phantom { .. } | Self::Refused { .. } => Rule::NoPhantom,
            Self::RealTimeOrder { .. } => Rule::RealTimeOrder,
            Self::SessionOrder { .. } => Rule::SessionOrder,
            Self::StrongRead { .. } | Self::StrongOrder { .. } => Rule::StrongRead,
            Self::BoundedRead { .. } => Rule::BoundedRead,
            Self::Prefix { .. } | Self::Gap { .. } | Self::Tail { .. } => Rule::Prefix,
            Self::SessionRead { .. } => Rule::SessionRead,
            Self::Stream { .. } => Rule::Stream,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is broken: {self:?}", self.rule())
    }
}

/// How often each rule was held against something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub checked: BTreeMap<Rule, usize>,
    /// The hash of the whole log, in order.
    pub chain: u64,
}

impl Report {
    pub fn of(&self, rule: Rule) -> usize {
        self.checked.get(&rule).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, rule: Rule, count: usize) {
        *self.checked.entry(rule).or_default() += count;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (rule, count) in &self.checked {
            write!(f, "{rule:?} {count}, ")?;
        }
        write!(f, "chain {:016x}", self.chain)
    }
}

/// How often a rule is broken.
pub fn count(found: &[Violation], rule: Rule) -> usize {
    found.iter().filter(|found| found.rule() == rule).count()
}

/// The first violations, one a line.
pub fn shown(found: &[Violation]) -> String {
    let lines: Vec<_> = found.iter().take(10).map(ToString::to_string).collect();
    format!("{} violations\n{}", found.len(), lines.join("\n"))
}
