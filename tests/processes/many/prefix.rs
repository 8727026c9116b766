//! A reader of a thousand logs by their prefix beside a producer to all of them: broken off again and again, it is
//! told every record once, in one order. `FERROLOG_RECORDS=` makes it long, `FERROLOG_RECORDS_PER_SECOND=` fast.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ferrolog::client::{Client, LogSettings, ProducerOptions};
use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::Instant;

use super::following::{Following, end_of};
use crate::harness::Stage;

const PREFIX: &str = "feed/";
/// Logs made at the same time.
const MADE_TOGETHER: usize = 64;
const TICK: Duration = Duration::from_millis(10);
/// Records of a usual run, and how many of them a second.
const USUAL: (u64, u64) = (20_000, 10_000);
const BREAKS: u64 = 100;
/// A reader that keeps up has what was produced so soon after.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(30);
const RECORD_BYTES: usize = 100;
/// Records that go to one log after the other.
const RUN: u64 = 10;

fn number(variable: &str, usual: u64) -> u64 {
    let said = std::env::var(variable);
    said.map_or(usual, |said| {
        said.parse()
            .unwrap_or_else(|_| panic!("{variable} is a number"))
    })
}

fn name(log: u64) -> String {
    format!("{PREFIX}{log}")
}

/// Sends `records` at so many a second, in runs of one log after the other. Each value tells which of its log's it is.
async fn produce(client: Client, logs: u64, records: u64, per_second: u64) {
    let options = ProducerOptions {
        linger: TICK,
        ..ProducerOptions::default()
    };
    let producer = client.producer(options).expect("a producer");
    let names: Vec<_> = (0..logs).map(name).collect();
    let begun = Instant::now();
    let mut sent_of = vec![0_u64; names.len()];
    let mut ticks = tokio::time::interval(TICK);
    let mut sent = 0;
    while sent < records {
        ticks.tick().await;
        let due = (begun.elapsed().as_secs_f64() * per_second as f64) as u64;
        while sent < due.min(records) {
            let log = (sent / RUN % logs) as usize;
            let mut value = sent_of[log].to_le_bytes().to_vec();
            value.resize(RECORD_BYTES, b'.');
            let ack = producer.send_to(&names[log], value).await;
            drop(ack.expect("sent"));
            sent_of[log] += 1;
            sent += 1;
        }
    }
    let stats = producer.finish().await.expect("all are acknowledged");
    assert_eq!(stats.acknowledged, records);
}

#[tokio::test]
async fn a_reader_of_a_thousand_logs_is_told_everything_once_however_often_it_is_broken_off() {
    let records = number("FERROLOG_RECORDS", USUAL.0);
    let per_second = number("FERROLOG_RECORDS_PER_SECOND", USUAL.1);
    // Each log gets some.
    let logs = (records / 20).clamp(RUN, 1_000);
    let stage = Stage::start().await;
    let admin = stage.client().admin();
    let make = |log| {
        let (admin, name) = (admin.clone(), name(log));
        async move { admin.create_log(&name, LogSettings::default()).await }
    };
    let made: Vec<_> = futures::stream::iter((0..logs).map(make))
        .buffer_unordered(MADE_TOGETHER)
        .collect()
        .await;
    assert!(made.iter().all(Result::is_ok), "{made:?}");

    // What tells that they were made has positions, too.
    let begin = end_of(&stage, PREFIX).await;
    let (end, until) = watch::channel(None);
    let (seen, at) = watch::channel(0);
    let breaks = 1..2 * records / BREAKS;
    let following = Following::new(stage.client(), PREFIX, breaks, records);
    let reader = tokio::spawn(async move {
        let mut next_of: HashMap<Arc<str>, u64> = HashMap::new();
        let followed = following.run(until, seen, |_, record| {
            let next = next_of.entry(record.log.clone()).or_default();
            let value = record.record.value[..8].try_into().expect("8 bytes");
            let told = (record.offset, u64::from_le_bytes(value));
            assert_eq!(told, (*next, *next), "of {}", record.log);
            *next += 1;
        });
        let followed = followed.await;
        (followed, next_of)
    });
    let begun = Instant::now();
    produce(stage.client(), logs, records, per_second).await;
    let produced = begun.elapsed();
    let behind = (begin + records).saturating_sub(*at.borrow());
    // All records from here on are of the prefix.
    end.send_replace(Some(begin + records));
    let (followed, next_of) = reader.await.expect("a reader");
    let caught_up = begun.elapsed() - produced;

    assert_eq!(next_of.len() as u64, logs);
    assert_eq!(next_of.values().sum::<u64>(), records);
    assert!(
        followed.gaps.iter().all(|gap| gap.end <= begin),
        "{:?}",
        followed.gaps
    );
    assert_eq!(followed.errors, 0);
    assert!(caught_up < CAUGHT_UP_WITHIN, "{caught_up:?}");
    println!(
        "{records} records of {logs} logs in {produced:.1?}, {:.0} a second; the reader, broken off {} times, was {behind} \
         records behind at their end and had all of them {caught_up:.1?} later: each once, in one order",
        records as f64 / produced.as_secs_f64(),
        followed.broken_off
    );
}
