//! What the clients were told, all of them, by one clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;

use crate::draw;
use crate::events;
use crate::harness::checker::{Append, Entry, History, Outcome, Read, hash, payload};
use crate::system;
use ferrolog::env::Random;

/// Records that were sent as one: all of them stand side by side, or none is there.
pub struct Batch {
    /// The number of its first append, and of its appends.
    pub first: usize,
    pub count: usize,
    /// Under which epoch of the fence.
    pub epoch: Option<u64>,
}

#[derive(Default)]
pub struct Record {
    pub history: History,
    pub batches: Vec<Batch>,
    /// Epochs that were claimed: no record of an older one at or after this offset.
    pub claims: BTreeMap<u64, u64>,
    /// What was seen at an offset by anybody, trimmed since or not.
    pub seen: BTreeMap<u64, u64>,
    /// What a client found by itself.
    pub wrong: Vec<String>,
    /// An offset that all before was acknowledged at some time.
    pub next: u64,
    /// The highest offset that a trim was asked for.
    pub trim_asked: u64,
    /// A retention may have trimmed, too.
    pub is_retained: bool,
    /// Where subscribers are.
    pub positions: BTreeMap<String, u64>,
    producers: u32,
    sessions: u32,
}

#[derive(Clone, Default)]
pub struct SharedRecord(Arc<Mutex<Record>>);

impl SharedRecord {
    /// Its producers' numbers are above this one.
    pub fn numbered_from(number: u32) -> Self {
        let shared = Self::default();
        shared.lock().producers = number;
        shared
    }

    pub fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().expect("no panic before")
    }

    /// A number that no other producer has.
    pub fn producer(&self) -> u32 {
        let mut record = self.lock();
        record.producers += 1;
        record.producers
    }

    /// A number of reads that must not go back.
    pub fn session(&self) -> u32 {
        let mut record = self.lock();
        record.sessions += 1;
        record.sessions
    }

    /// A batch is about to be sent: its number, and its values.
    pub fn begin(
        &self,
        random: &Random,
        (producer, seq): (u32, u32),
        count: u32,
        bytes_max: u64,
        epoch: Option<u64>,
    ) -> (usize, Vec<Bytes>) {
        let mut record = self.lock();
        let (now, first) = (system::elapsed(), record.history.appends.len());
        let mut values = Vec::new();
        for seq in seq..seq + count {
            let mut value = payload(producer, seq).to_vec();
            value.resize(value.len() + draw(random, 0..=bytes_max) as usize, b'.');
            record.history.appends.push(Append {
                producer,
                seq: u64::from(seq),
                hash: hash(&value),
                begin: now,
                end: Duration::MAX,
                outcome: Outcome::Unknown,
            });
            values.push(Bytes::from(value));
        }
        let count = count as usize;
        record.batches.push(Batch {
            first,
            count,
            epoch,
        });
        (record.batches.len() - 1, values)
    }

    /// What came of a batch.
    pub fn end(&self, batch: usize, outcome: Outcome) {
        events::note(format_args!("outcome {batch} {outcome:?}"));
        let record = &mut *self.lock();
        let Batch { first, count, .. } = record.batches[batch];
        for (append, place) in record.history.appends[first..first + count]
            .iter_mut()
            .zip(0..)
        {
            append.end = system::elapsed();
            append.outcome = match outcome {
                Outcome::Acked(offset) => Outcome::Acked(offset + place),
                other => other,
            };
            if let Outcome::Acked(offset) = append.outcome {
                record.next = record.next.max(offset + 1);
                record.seen.entry(offset).or_insert(append.hash);
            }
        }
    }

    /// A read that was answered.
    pub fn read(&self, read: Read) {
        events::note(format_args!(
            "read {:?} {} {}..{} {}",
            read.kind,
            read.node,
            read.from,
            read.from + read.seen.len() as u64,
            read.tail
        ));
        let record = &mut *self.lock();
        for Entry { offset, hash } in &read.seen {
            let known = *record.seen.entry(*offset).or_insert(*hash);
            if known != *hash {
                let what = format!("two records were seen at offset {offset}: by {read:?}");
                record.wrong.push(what);
            }
        }
        record.next = record.next.max(read.tail);
        record.history.reads.push(read);
    }

    pub fn wrong(&self, what: String) {
        events::note(format_args!("wrong: {what}"));
        self.lock().wrong.push(what);
    }
}
