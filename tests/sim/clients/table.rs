//! A client that keeps a table in a log that is compacted by key: it updates keys, deletes some, and reads all of it on
//! and on. What is held against it: the last record of each key is there, and none that came before it comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use ferrolog::client::{
    Client, ClientError, Compaction, Consistency, ConsumeOptions, ConsumedRecord, LogSettings,
    Record, Start,
};

use super::Hand;
use crate::events;
use crate::harness::checker::Outcome;
use crate::plan::{draw, one_in, pick};

/// What the names of such logs begin with.
pub const TABLES: &str = "table/";
/// The header that holds a record's number.
const NUMBER: &str = "number";
const KEYS: u64 = 9;

/// What was sent to a table's log.
#[derive(Debug, Default)]
pub struct Table {
    pub name: String,
    sent: Vec<Sent>,
    wrong: Vec<String>,
}

#[derive(Debug)]
struct Sent {
    key: u64,
    is_tombstone: bool,
    outcome: Outcome,
}

/// A record that was read: its number, its offset, its key, and whether it has no value.
type Seen = (usize, u64, u64, bool);

/// Writes and reads one table.
pub async fn keep(hand: Hand) {
    let client = hand.client();
    let name = format!("{TABLES}{}", hand.name);
    let settings = LogSettings {
        compaction: Some(Compaction {
            min_age_ms: pick(&hand.random, &[0, 0, 700]),
            tombstone_ms: pick(&hand.random, &[0, 500, 3000]),
        }),
        ..LogSettings::default()
    };
    while client
        .admin()
        .create_log(&name, settings.clone())
        .await
        .is_err()
    {
        if hand.is_told_to_stop() {
            return;
        }
        hand.think().await;
    }
    let number = hand.logs.new_table(&name);
    while !hand.is_told_to_stop() {
        let Ok(mut appender) = client.log(&*name).appender(Default::default()) else {
            return;
        };
        while !hand.is_told_to_stop() {
            hand.think().await;
            let (first, records) = batch(&hand, number);
            let appended = appender.append(records).await;
            events::note(format_args!("{} updates {appended:?}", hand.name));
            let Ok(appended) = appended else { break };
            hand.logs.tables()[number].acknowledge(first, appended.first_offset);
            if one_in(&hand.random, 5) {
                let asked = client.admin().compact_log(&name).await;
                events::note(format_args!("{} compacts {asked:?}", hand.name));
            }
            if one_in(&hand.random, 4) {
                read_on(&hand, &client.log(&*name), number).await;
            }
        }
        appender.close().await;
    }
}

/// Some records, as they are noted down.
fn batch(hand: &Hand, number: usize) -> (usize, Vec<Record>) {
    let mut tables = hand.logs.tables();
    let sent = &mut tables[number].sent;
    let first = sent.len();
    let mut records = Vec::new();
    for _ in 0..draw(&hand.random, 1..=6) {
        let key = draw(&hand.random, 0..=KEYS - 1);
        let is_tombstone = one_in(&hand.random, 4);
        let bytes = draw(&hand.random, 0..=hand.work.value_bytes_max) as usize;
        let record = match is_tombstone {
            true => Record::tombstone(key.to_string()),
            false => Record::new(Bytes::from(vec![b'.'; bytes])).with_key(key.to_string()),
        };
        records.push(record.with_header(NUMBER, sent.len().to_string()));
        sent.push(Sent {
            key,
            is_tombstone,
            outcome: Outcome::Unknown,
        });
    }
    (first, records)
}

/// Reads the table from its begin, and holds what it sees against what was sent.
async fn read_on(hand: &Hand, client: &Client, number: usize) {
    let server = pick(&hand.random, &hand.servers);
    let options = ConsumeOptions {
        from: Start::Earliest,
        consistency: Consistency::Relaxed,
        server: Some(server),
        ..ConsumeOptions::default()
    };
    let Ok(mut consumer) = client.consume(options) else {
        return;
    };
    let mut seen = Vec::new();
    while let Ok(Some(read)) = tokio::time::timeout(Duration::from_secs(3), consumer.next()).await {
        match read {
            Ok(record) => seen.extend(seen_of(&record)),
            Err(
                error @ (ClientError::Gap { .. }
                | ClientError::Protocol { .. }
                | ClientError::Trimmed { .. }),
            ) => {
                hand.record.wrong(format!("{}: {error}", hand.name));
            }
            Err(_) => break,
        }
    }
    let mut tables = hand.logs.tables();
    let table = &mut tables[number];
    let wrong = table.misread(&hand.name, &seen);
    table.wrong.extend(wrong);
}

fn seen_of(read: &ConsumedRecord) -> Option<Seen> {
    let number = read
        .record
        .headers
        .iter()
        .find(|header| header.name == NUMBER)?;
    let number = std::str::from_utf8(&number.value).ok()?.parse().ok()?;
    let key = read.record.key.as_ref()?;
    let key = std::str::from_utf8(key).ok()?.parse().ok()?;
    Some((number, read.offset, key, read.record.tombstone))
}

impl Table {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Notes where the records stand that were sent from this one on.
    fn acknowledge(&mut self, first: usize, offset: u64) {
        for (sent, offset) in self.sent[first..].iter_mut().zip(offset..) {
            sent.outcome = Outcome::Acked(offset);
        }
    }

    /// How many records were acknowledged.
    pub fn acked(&self) -> usize {
        let is_acked = |sent: &&Sent| matches!(sent.outcome, Outcome::Acked(_));
        self.sent.iter().filter(is_acked).count()
    }

    /// The offset that the log ends behind, as far as was told.
    pub fn next(&self) -> u64 {
        let next = self.sent.iter().map(|sent| match sent.outcome {
            Outcome::Acked(offset) => offset + 1,
            _ => 0,
        });
        next.max().unwrap_or(0)
    }

    /// What was never sent, stands elsewhere, or out of order.
    fn misread(&self, who: &str, seen: &[Seen]) -> Vec<String> {
        let mut wrong = Vec::new();
        let (mut last, mut numbers) = (None, BTreeSet::new());
        for one @ (number, offset, key, is_tombstone) in seen {
            let is_known = self.sent.get(*number).is_some_and(|sent| {
                let told = match sent.outcome {
                    Outcome::Acked(told) => told == *offset,
                    _ => true,
                };
                told && (sent.key, sent.is_tombstone) == (*key, *is_tombstone)
            });
            if !is_known || last >= Some(*offset) || !numbers.insert(*number) {
                wrong.push(format!(
                    "{who} reads {one:?} of {}: not as it was sent",
                    self.name
                ));
            }
            last = Some(*offset);
        }
        wrong
    }

    /// All that is wrong with what the nodes tell in the end.
    pub fn judge(&self, nodes: &[(String, Vec<ConsumedRecord>)]) -> Vec<String> {
        let mut wrong = self.wrong.clone();
        // The last of each key, by what was acknowledged and what any node has.
        let mut lasts = BTreeMap::<u64, (u64, usize)>::new();
        let mut is_last = |key: u64, offset: u64, number: usize| {
            let last = lasts.entry(key).or_default();
            *last = (*last).max((offset, number));
        };
        for (number, sent) in self.sent.iter().enumerate() {
            if let Outcome::Acked(offset) = sent.outcome {
                is_last(sent.key, offset, number);
            }
        }
        let mut all = Vec::new();
        for (node, records) in nodes {
            let seen: Vec<Seen> = records.iter().filter_map(seen_of).collect();
            if seen.len() < records.len() {
                wrong.push(format!(
                    "{node} has records of {} that nobody sent",
                    self.name
                ));
            }
            wrong.extend(self.misread(node, &seen));
            seen.iter()
                .for_each(|(number, offset, key, _)| is_last(*key, *offset, *number));
            all.push((node, seen));
        }
        // Deletions whose outcome was never told may be there, and gone again.
        let may_be_deleted = |key: u64| {
            let mut unknown = self
                .sent
                .iter()
                .filter(|sent| matches!(sent.outcome, Outcome::Unknown));
            unknown.any(|sent| sent.key == key && sent.is_tombstone)
        };
        for (node, seen) in &all {
            if seen.len() < self.acked() {
                events::sometimes("records were compacted");
            }
            for (key, (offset, number)) in &lasts {
                let of_key = seen.iter().filter(|(_, _, of, _)| of == key);
                let here = of_key.map(|(_, offset, ..)| *offset).max();
                let is_deleted = self.sent[*number].is_tombstone || may_be_deleted(*key);
                if here.is_none() && self.sent[*number].is_tombstone {
                    events::sometimes("a key was forgotten");
                }
                if here != Some(*offset) && !(here.is_none() && is_deleted) {
                    wrong.push(format!(
                        "{node} tells {here:?} of the key {key} of {}, whose last record is at {offset}",
                        self.name
                    ));
                }
            }
        }
        wrong
    }
}

/// All records of a table's log, as a node tells them.
pub async fn read_all(
    client: &Client,
    addr: &str,
    next: u64,
) -> Result<Vec<ConsumedRecord>, ClientError> {
    let options = ConsumeOptions {
        from: Start::Earliest,
        consistency: Consistency::AtLeast(next),
        server: Some(addr.to_owned()),
        ..ConsumeOptions::default()
    };
    let mut consumer = client.consume(options)?;
    let mut records = Vec::new();
    while let Some(record) = consumer.next().await {
        records.push(record?);
    }
    Ok(records)
}
