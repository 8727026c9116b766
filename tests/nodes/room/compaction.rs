//! Compaction by key: the last record of each key stays, on every node, and what was before it goes.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ferrolog::client::{
    Appender, Client, ClientError, Compaction, Consistency, ConsumeOptions, LogSettings, Record,
    Start,
};
use tokio::time::sleep;

use crate::harness::until;
use crate::harness::world::{ADDRS, World};

const LOG: &str = "prices";
const KEYS: u64 = 40;
const TOMBSTONE_MS: u64 = 4000;

/// The value of each key, and where it stands; `None` of one whose key was deleted.
type Table = BTreeMap<u64, (u64, Option<Bytes>)>;

fn record(key: u64, value: Option<Bytes>) -> Record {
    let key = format!("key {key}");
    match value {
        Some(value) => Record::new(value).with_key(key),
        None => Record::tombstone(key),
    }
}

/// Updates some keys, and deletes every seventh now and then.
async fn update(appender: &mut Appender, table: &mut Table, rounds: std::ops::Range<u64>) {
    for round in rounds {
        let keys: Vec<_> = (0..8)
            .map(|number| (round * 5 + number * 3) % KEYS)
            .collect();
        let value = |key: u64| {
            let is_gone = (key + round).is_multiple_of(5);
            (!is_gone).then(|| Bytes::from(format!("{round} of {key} {}", "x".repeat(200))))
        };
        let records = keys.iter().map(|key| record(*key, value(*key))).collect();
        let appended = appender.append(records).await.expect("it is appended");
        for (key, offset) in keys.into_iter().zip(appended.first_offset..) {
            table.insert(key, (offset, value(key)));
        }
    }
}

/// What a node tells from the log's begin on: the last of each key, and how many records that took.
async fn read(client: &Client, addr: &str, next: u64) -> Result<(Table, u64), ClientError> {
    let options = ConsumeOptions {
        from: Start::Earliest,
        consistency: Consistency::AtLeast(next),
        server: Some(addr.to_owned()),
        ..ConsumeOptions::default()
    };
    let mut consumer = client.log(LOG).consume(options)?;
    let (mut table, mut count, mut last) = (Table::new(), 0, None);
    while let Some(read) = consumer.next().await {
        let read = read?;
        assert!(last < Some(read.offset), "in order");
        last = Some(read.offset);
        count += 1;
        let key = read.record.key.expect("a key");
        let key = std::str::from_utf8(&key)
            .unwrap()
            .strip_prefix("key ")
            .unwrap()
            .parse()
            .unwrap();
        let value = (!read.record.tombstone).then_some(read.record.value);
        table.insert(key, (read.offset, value));
    }
    Ok((table, count))
}

/// Waits until every node holds so many records of the log at most, and none of them tells another last value.
async fn until_compacted(client: &Client, table: &Table, (next, most): (u64, u64)) {
    for addr in ADDRS {
        let what = format!("{addr} holds {most} records at most");
        until(&what, async || {
            let (found, count) = read(client, addr, next).await.expect("it can be read");
            // A key that was deleted may be gone altogether.
            for (key, (offset, value)) in table {
                let here = found.get(key);
                let is_gone = value.is_none() && here.is_none();
                assert!(
                    is_gone || here == Some(&(*offset, value.clone())),
                    "{key} on {addr}"
                );
            }
            (count <= most).then_some(())
        })
        .await;
    }
}

/// Makes the log.
async fn made(client: &Client) -> Appender {
    let settings = LogSettings {
        compaction: Some(Compaction {
            min_age_ms: 0,
            tombstone_ms: TOMBSTONE_MS,
        }),
        ..LogSettings::default()
    };
    let made = client.admin().create_log(LOG, settings).await;
    made.expect("it is made");
    let appender = client.log(LOG).appender(Default::default());
    appender.expect("an appender")
}

#[tokio::test(start_paused = true)]
async fn the_last_record_of_each_key_stays_on_every_node() {
    let mut world = World::new(11).await;
    let client = world.client(&ADDRS);
    let mut appender = made(&client).await;
    let refused = appender.append(vec![Record::new("no key")]).await;
    assert!(
        matches!(refused, Err(ClientError::InvalidArgument { .. })),
        "{refused:?}"
    );
    let mut table = Table::new();
    update(&mut appender, &mut table, 0..300).await;
    // A node that is down for all of it does it later, and tombstones wait for it.
    let late = (world.leader() + 1) % ADDRS.len();
    world.kill(late).await;
    update(&mut appender, &mut table, 300..400).await;
    client
        .admin()
        .compact_log(LOG)
        .await
        .expect("it is asked for");
    let next = 400 * 8;
    let deleted = table.values().filter(|(_, value)| value.is_none()).count() as u64;
    assert!(deleted > 2 && table.len() as u64 == KEYS);
    let leader = ADDRS[world.leader()];
    until("the leader holds the last ones alone", async || {
        let (_, count) = read(&client, leader, next).await.expect("it can be read");
        (count == KEYS).then_some(())
    })
    .await;
    world.start(late).await;
    until_compacted(&client, &table, (next, KEYS)).await;
    // Time passes for tombstones. Those go that are old enough by then, but for the last record of all.
    update(&mut appender, &mut table, 400..410).await;
    // A tombstone grows old: time itself is the subject.
    sleep(Duration::from_millis(2 * TOMBSTONE_MS)).await;
    update(&mut appender, &mut table, 410..411).await;
    client
        .admin()
        .compact_log(LOG)
        .await
        .expect("it is asked for");
    let next = 411 * 8;
    let is_old = |(offset, value): &&(u64, Option<Bytes>)| value.is_none() && *offset < 410 * 8;
    let deleted = table.values().filter(is_old).count() as u64;
    assert!(deleted > 2);
    until_compacted(&client, &table, (next, KEYS - deleted)).await;
    until("the leader tells that nothing is left to do", async || {
        let leader = ADDRS[world.leader()];
        let told = client.admin().status(Some(leader)).await.ok()?;
        let left = told.rewriting.expect("a node tells its own");
        let is_done = (left.due, left.looked_percent, left.asked) == (0, None, false);
        (is_done && left.superseded_records == 0).then_some(())
    })
    .await;
    // From the midst of what is gone the next record that lives is read.
    let options = ConsumeOptions {
        from: Start::Offset(5),
        ..ConsumeOptions::default()
    };
    let mut consumer = client.log(LOG).consume(options).expect("a reader");
    let first = consumer.next().await.expect("a record").expect("a record");
    assert!(first.offset > 5, "it was superseded: {}", first.offset);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_missed_twenty_rewritings_tells_the_same() {
    let mut world = World::new(12).await;
    let client = world.client(&ADDRS);
    let mut appender = made(&client).await;
    let mut table = Table::new();
    update(&mut appender, &mut table, 0..40).await;
    let late = (world.leader() + 1) % ADDRS.len();
    world.kill(late).await;
    // Each look has at least one run rewritten, and the state knows the last sixteen: what it missed comes as a snapshot.
    const LOOKS: u64 = 20;
    for look in 1..=LOOKS {
        update(&mut appender, &mut table, 40 * look..40 * (look + 1)).await;
        let asked = client.admin().compact_log(LOG).await;
        asked.expect("it is asked for");
        until("the leader holds the last ones alone", async || {
            let leader = ADDRS[world.leader()];
            let next = 320 * (look + 1);
            let (_, count) = read(&client, leader, next).await.ok()?;
            (count == KEYS).then_some(())
        })
        .await;
    }
    let next = 320 * (LOOKS + 1);
    world.start(late).await;
    until_compacted(&client, &table, (next, u64::MAX)).await;
    // It may hold records that a tombstone on the others deleted, and then that one stays, however old it is:
    // time itself is the subject.
    sleep(Duration::from_millis(2 * TOMBSTONE_MS)).await;
    let asked = client.admin().compact_log(LOG).await;
    asked.expect("it is asked for");
    until("the leader has done what was asked", async || {
        let leader = ADDRS[world.leader()];
        let told = client.admin().status(Some(leader)).await.ok()?;
        let left = told.rewriting.expect("a node tells its own");
        let is_done = (left.due, left.looked_percent, left.asked) == (0, None, false);
        is_done.then_some(())
    })
    .await;
    until_compacted(&client, &table, (next, u64::MAX)).await;
}
