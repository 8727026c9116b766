//! The rules of reads: what each kind must see, and what no read may show.

use std::collections::HashMap;
use std::time::Duration;

use super::verdict::{Rule, Violation};
use super::{Checker, Entry, Outcome};

/// What a read promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadKind {
    /// Everything that was acknowledged before it.
    Strong,
    /// Everything that was acknowledged so long before it.
    Bounded(Duration),
    /// What the node has applied.
    Relaxed,
    /// A part of a stream. Its session is the stream: the next part begins where this one ended.
    Stream,
}

/// A read that was answered. One that failed is none.
#[derive(Debug, Clone)]
pub struct Read {
    /// Reads that must not go back, one after the other: of one client that says what it saw.
    pub session: Option<u32>,
    pub kind: ReadKind,
    pub node: String,
    pub begin: Duration,
    pub end: Duration,
    /// The offset that was asked for.
    pub from: u64,
    pub seen: Vec<Entry>,
    /// The node said that it had all before this offset. An answer that there is nothing at an offset says so.
    pub tail: u64,
}

impl Read {
    fn next_offset(&self) -> u64 {
        self.from + self.seen.len() as u64
    }
}

impl Checker<'_> {
    pub(super) fn reads(&mut self) {
        for (number, read) in self.history.reads.iter().enumerate() {
            self.prefix(number, read);
        }
        self.fresh();
        self.strong_order();
        self.session_reads();
        self.streams();
    }

    /// A read gives what the log holds, without a gap, and tells of no more than there is.
    fn prefix(&mut self, number: usize, read: &Read) {
        let Some(log) = self.longest else { return };
        self.report.add(Rule::Prefix, read.seen.len().max(1));
        for (entry, expected) in read.seen.iter().zip(read.from..) {
            let there = log.at(entry.offset);
            let (offset, seen) = (entry.offset, entry.hash);
            if offset != expected {
                let (read, got) = (number, offset);
                // For a stream that is a rule of its own.
                let found = match self.history.reads[number].kind {
                    ReadKind::Stream => Violation::Stream {
                        read,
                        expected,
                        got,
                    },
                    _ => Violation::Gap {
                        read,
                        expected,
                        got,
                    },
                };
                self.found.push(found);
                break;
            }
            if offset >= log.first && there != Some(seen) {
                let read = number;
                self.found.push(Violation::Prefix {
                    read,
                    offset,
                    seen,
                    there,
                });
            }
        }
        let (tail, end) = (read.tail, log.next_offset());
        if tail > end || (!read.seen.is_empty() && read.next_offset() > tail) {
            let read = number;
            self.found.push(Violation::Tail { read, tail, end });
        }
    }

    /// Each read is as fresh as it promised: every offset that was acknowledged before then is before its tail.
    fn fresh(&mut self) {
        // When what must be seen was acknowledged, and by which read.
        let mut due: Vec<(Duration, usize)> = Vec::new();
        for (number, read) in self.history.reads.iter().enumerate() {
            match read.kind {
                ReadKind::Strong => due.push((read.begin, number)),
                ReadKind::Bounded(bound) => due.push((read.begin.saturating_sub(bound), number)),
                ReadKind::Relaxed | ReadKind::Stream => {}
            }
        }
        if due.is_empty() {
            return;
        }
        due.sort();
        // For each of them, the last offset that was acknowledged since the one before it.
        let mut last: Vec<Option<u64>> = vec![None; due.len() + 1];
        for append in &self.history.appends {
            if let Outcome::Acked(offset) = append.outcome {
                let first = due.partition_point(|(due, _)| *due <= append.end);
                last[first] = last[first].max(Some(offset));
            }
        }
        let mut acked = None;
        for ((_, number), offset) in due.into_iter().zip(last) {
            acked = acked.max(offset);
            let read = &self.history.reads[number];
            let strong = read.kind == ReadKind::Strong;
            let rule = [Rule::BoundedRead, Rule::StrongRead][usize::from(strong)];
            self.report.add(rule, 1);
            let Some(acked) = acked.filter(|acked| *acked >= read.tail) else {
                continue;
            };
            let (read, tail) = (number, read.tail);
            self.found.push(if strong {
                Violation::StrongRead { read, tail, acked }
            } else {
                Violation::BoundedRead { read, tail, acked }
            });
        }
    }

    /// A strong read that began after another ended sees no less.
    fn strong_order(&mut self) {
        let reads = &self.history.reads;
        let strong = |number: &usize| reads[*number].kind == ReadKind::Strong;
        let mut by_begin: Vec<_> = (0..reads.len()).filter(strong).collect();
        let mut by_end = by_begin.clone();
        by_begin.sort_by_key(|number| reads[*number].begin);
        by_end.sort_by_key(|number| reads[*number].end);
        let (mut ended, mut before) = (by_end.into_iter().peekable(), 0);
        for read in by_begin {
            while let Some(other) = ended.next_if(|other| reads[*other].end < reads[read].begin) {
                before = before.max(reads[other].tail);
            }
            let tail = reads[read].tail;
            if tail < before {
                let found = Violation::StrongOrder { read, tail, before };
                self.found.push(found);
            }
        }
    }

    /// Of one session, a read that began after another ended sees no less.
    fn session_reads(&mut self) {
        let reads = &self.history.reads;
        let mut order: Vec<_> = (0..reads.len()).collect();
        order.sort_by_key(|number| reads[*number].begin);
        // Of each session: the tails of reads under way with their ends, and the most that was seen before.
        let mut seen: HashMap<u32, (Vec<(Duration, u64)>, u64)> = HashMap::new();
        for number in order {
            let read = &reads[number];
            let Some(session) = read.session.filter(|_| read.kind != ReadKind::Stream) else {
                continue;
            };
            self.report.add(Rule::SessionRead, 1);
            let (open, before) = seen.entry(session).or_default();
            open.retain(|(end, tail)| {
                let ended = *end < read.begin;
                if ended {
                    *before = (*before).max(*tail);
                }
                !ended
            });
            open.push((read.end, read.tail));
            if read.tail < *before {
                self.found.push(Violation::SessionRead {
                    session,
                    read: number,
                    tail: read.tail,
                    before: *before,
                });
            }
        }
    }

    /// The parts of a stream join.
    fn streams(&mut self) {
        let reads = &self.history.reads;
        let mut order: Vec<_> = (0..reads.len()).collect();
        order.sort_by_key(|number| reads[*number].begin);
        let mut next: HashMap<u32, u64> = HashMap::new();
        for number in order {
            let read = &reads[number];
            if read.kind != ReadKind::Stream {
                continue;
            }
            self.report.add(Rule::Stream, read.seen.len());
            let Some(stream) = read.session else { continue };
            let expected = next.insert(stream, read.next_offset());
            if let Some(expected) = expected.filter(|expected| *expected != read.from) {
                let got = read.from;
                let read = number;
                self.found.push(Violation::Stream {
                    read,
                    expected,
                    got,
                });
            }
        }
    }
}
