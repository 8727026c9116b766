//! Each log keeps what its own configuration says, whatever the others hold.

use std::time::Duration;

use ferrolog::client::{Client, LogSettings, ProducerOptions};
use ferrolog::proto::v1::Retention;
use tokio::time::timeout;

use crate::harness::until;
use crate::harness::world::{ADDRS, PATIENCE, World};

const VALUE: usize = 1000;
/// Room for 40 records and what stands around them.
const SMALL: u64 = 42 * VALUE as u64;

/// Appends so many records, each in a batch of its own.
async fn append(client: &Client, log: &str, count: usize) {
    let options = ProducerOptions {
        batch_bytes_max: VALUE,
        ..ProducerOptions::default()
    };
    let producer = client.log(log).producer(options).unwrap();
    let mut acks = Vec::new();
    for _ in 0..count {
        acks.push(producer.send(vec![b'x'; VALUE]).await.unwrap());
    }
    for ack in acks {
        timeout(PATIENCE, ack).await.unwrap().unwrap();
    }
    producer.finish().await.unwrap();
}

fn keeping(retention: Retention) -> LogSettings {
    LogSettings {
        retention,
        ..LogSettings::default()
    }
}

fn small() -> Retention {
    Retention {
        max_bytes: SMALL,
        ..Retention::default()
    }
}

/// Waits until a log begins in this range, as every node tells, and gives where.
async fn begins(world: &World, log: &str, range: std::ops::RangeInclusive<u64>) -> u64 {
    let admins = ADDRS.map(|addr| world.client(&[addr]).admin());
    let what = format!("log {log} begins in {range:?} on every node");
    until(&what, async || {
        let mut first = None;
        for admin in &admins {
            let told = admin.get_log(log).await.unwrap().first_offset;
            assert!(told <= *range.end(), "{log} begins at {told}");
            let is_other = first.is_some_and(|first| first != told);
            if is_other || !range.contains(&told) {
                return None;
            }
            first = Some(told);
        }
        first
    })
    .await
}

async fn pass(span: Duration) {
    // time itself is the subject
    tokio::time::sleep(span).await;
}

#[tokio::test(start_paused = true)]
async fn each_log_keeps_what_is_set_for_it() {
    let world = World::new(11).await;
    let client = world.client(&ADDRS);
    let admin = client.admin();
    let young = Retention {
        max_age_ms: 60_000,
        ..Retention::default()
    };
    let waits = Retention {
        wait_for_cursors: vec!["reader".to_owned()],
        wait_bytes_max: 1 << 30,
        ..small()
    };
    let capped = Retention {
        wait_bytes_max: 85 * VALUE as u64,
        ..waits.clone()
    };
    for (name, retention) in [
        ("all", Retention::default()),
        ("small", small()),
        ("young", young),
        ("waits", waits),
        ("capped", capped),
    ] {
        admin.create_log(name, keeping(retention)).await.unwrap();
    }
    admin.set_retention(small()).await.unwrap();
    for name in ["waits", "capped"] {
        append(&client, name, 1).await;
        let waited = client.log(name).admin();
        waited.create_cursor("reader", 0).await.unwrap();
    }
    append(&client, "default", 10).await;
    for name in ["all", "small", "young", "waits", "capped"] {
        append(&client, name, 100).await;
    }
    // An eighth goes at a time: so much less than the limit may stay.
    begins(&world, "small", 60..=68).await;
    begins(&world, "capped", 15..=24).await;
    for name in ["all", "young", "waits", "default"] {
        begins(&world, name, 0..=0).await;
    }
    // The reader went on, so the log goes on to its limit.
    let waited = client.log("waits").admin();
    waited.commit_cursor("reader", 101, Some(0)).await.unwrap();
    begins(&world, "waits", 60..=69).await;
    begins(&world, "young", 0..=0).await;
    pass(Duration::from_secs(75)).await;
    begins(&world, "young", 100..=100).await;
    for name in ["all", "default"] {
        begins(&world, name, 0..=0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_retention_is_kept_by_whoever_leads_and_counts_what_was_there_before() {
    let mut world = World::new(12).await;
    let client = world.client(&ADDRS);
    let admin = client.admin();
    let names = ["default", "a", "b"];
    for name in &names[1..] {
        admin
            .create_log(name, LogSettings::default())
            .await
            .unwrap();
    }
    for name in names {
        append(&client, name, 200).await;
    }
    let limit = |max_bytes| Retention {
        max_bytes,
        ..Retention::default()
    };
    // There are marks for every 64 KiB, and nothing closer was needed.
    client
        .log("a")
        .admin()
        .set_retention(limit(140 * VALUE as u64))
        .await
        .unwrap();
    let first = begins(&world, "a", 60..=130).await;
    let leader = world.leader();
    world.power_cut(&[leader]).await;
    world.settled().await;
    begins(&world, "a", first..=first).await;
    for name in ["default", "b"] {
        begins(&world, name, 0..=0).await;
        client
            .log(name)
            .admin()
            .set_retention(small())
            .await
            .unwrap();
    }
    // One that is deleted while it is over its limit holds no other up.
    let gone = admin.get_log("b").await.unwrap();
    assert!(admin.delete_log("b", gone.id).await.unwrap());
    append(&client, "default", 100).await;
    begins(&world, "default", 260..=268).await;
    let made = admin.create_log("b", keeping(small())).await.unwrap();
    assert_eq!((made.first_offset, made.next_offset), (0, 0));
    append(&client, "b", 30).await;
    append(&client, "default", 100).await;
    begins(&world, "default", 360..=368).await;
    begins(&world, "b", 0..=0).await;
}
