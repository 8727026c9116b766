//! Many logs through the client: each has its own offsets, cursors and end, and lost answers make none twice.

use std::collections::BTreeMap;

use ferrolog::client::{
    AppenderOptions, Client, ClientError, ConsumeOptions, Consumer, LogSettings, ProducerOptions,
    Record, Start,
};
use ferrolog::proto::v1::Retention;
use ferrolog::reason::Reason;
use tokio::time::timeout;
use tonic::Status;

use super::front::{Front, Plan, refused};
use crate::harness::world::{ADDRS, PATIENCE, START_MS, World};

const RECORDS: u64 = 300;

fn labelled(value: &str) -> LogSettings {
    LogSettings {
        labels: BTreeMap::from([("team".to_owned(), value.to_owned())]),
        ..LogSettings::default()
    }
}

/// The offsets and values that a read gets, up to where the log ends.
async fn read(client: &Client, from: Start) -> Result<Vec<(u64, String)>, ClientError> {
    let options = ConsumeOptions {
        from,
        ..ConsumeOptions::default()
    };
    let mut consumer = client.consume(options)?;
    let mut found = Vec::new();
    while let Some(read) = next(&mut consumer).await {
        let read = read?;
        let value = String::from_utf8_lossy(&read.record.value).into_owned();
        found.push((read.offset, value));
    }
    Ok(found)
}

async fn next(
    consumer: &mut Consumer,
) -> Option<Result<ferrolog::client::ConsumedRecord, ClientError>> {
    let next = timeout(PATIENCE, consumer.next()).await;
    next.expect("an answer")
}

/// What a log is to hold: the record of each number, from offset 0 on.
fn all(name: &str, count: u64) -> Vec<(u64, String)> {
    let record = |number| (number, format!("{name} {number}"));
    (0..count).map(record).collect()
}

/// Appends to several logs in turn, each by a producer of its own.
async fn interleave(client: &Client, names: &[&str], count: u64) {
    let producer = |name: &&str| {
        let log = client.log(*name);
        log.producer(ProducerOptions::default()).unwrap()
    };
    let producers: Vec<_> = names.iter().map(producer).collect();
    let mut acks = Vec::new();
    for number in 0..count {
        for (name, producer) in names.iter().zip(&producers) {
            let sent = producer.send(format!("{name} {number}")).await;
            acks.push((number, sent.unwrap()));
        }
    }
    for (number, ack) in acks {
        let offset = timeout(PATIENCE, ack).await.unwrap().unwrap();
        assert_eq!(offset, number, "each log counts for itself");
    }
    for producer in producers {
        producer.finish().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn each_log_has_offsets_and_cursors_of_its_own() {
    let world = World::new(1).await;
    let client = world.client(&ADDRS);
    let admin = client.admin();
    for name in ["orders", "bills"] {
        let made = admin.create_log(name, labelled(name)).await.unwrap();
        assert_eq!((&*made.name, made.next_offset), (name, 0));
        assert!(made.created_ms >= START_MS);
    }
    // The default log lies between them.
    interleave(&client, &["orders", "default", "bills"], RECORDS).await;
    for addr in ADDRS {
        let client = world.client(&[addr]);
        for name in ["orders", "bills", "default"] {
            let log = client.log(name);
            let shown = client.admin().get_log(name).await.unwrap();
            // After it this node has applied what was acknowledged.
            assert_eq!((shown.first_offset, shown.next_offset), (0, RECORDS));
            assert!(shown.appended_bytes >= RECORDS * 6);
            assert!(shown.last_append_ms >= START_MS);
            let found = read(&log, Start::Earliest).await.unwrap();
            assert_eq!(found, all(name, RECORDS), "{name} at {addr}");
            let tail = read(&log, Start::Tail(2)).await.unwrap();
            assert_eq!(tail, all(name, RECORDS)[RECORDS as usize - 2..]);
        }
        let without = read(&client, Start::Offset(RECORDS - 1)).await.unwrap();
        assert_eq!(without, all("default", RECORDS)[RECORDS as usize - 1..]);
    }

    let [orders, bills] = ["orders", "bills"].map(|name| client.log(name).admin());
    orders.create_cursor("c", 7).await.unwrap();
    assert_eq!(bills.cursor("c").await.unwrap(), None);
    bills.create_cursor("c", 290).await.unwrap();
    orders.commit_cursor("c", 8, Some(7)).await.unwrap();
    let past = bills.commit_cursor("c", RECORDS + 1, None).await;
    assert!(
        matches!(past, Err(ClientError::PastEnd { next: RECORDS, .. })),
        "{past:?}"
    );
    let from_cursor = read(&client.log("bills"), Start::Cursor("c".to_owned())).await;
    assert_eq!(from_cursor.unwrap()[0].0, 290);
    assert_eq!(admin.cursors().await.unwrap(), []);
    assert!(bills.delete_cursor("c").await.unwrap());
    assert_eq!(orders.cursors().await.unwrap()[0].offset, 8);

    // A trim is one log's.
    assert_eq!(orders.trim(100).await.unwrap(), 100);
    assert_eq!(admin.get_log("bills").await.unwrap().first_offset, 0);
    let rest = read(&client.log("orders"), Start::Earliest).await.unwrap();
    assert_eq!(rest, all("orders", RECORDS)[100..]);
    let gone = read(&client.log("orders"), Start::Offset(5)).await;
    assert!(
        matches!(gone, Err(ClientError::Trimmed { first: 100, .. })),
        "{gone:?}"
    );
}

fn follow() -> ConsumeOptions {
    ConsumeOptions {
        follow: true,
        ..ConsumeOptions::default()
    }
}

/// It waits at the end when the log goes.
#[tokio::test(start_paused = true)]
async fn a_deleted_log_ends_its_reads() {
    let world = World::new(2).await;
    let client = world.client(&ADDRS);
    let admin = client.admin();
    let made = admin.create_log("orders", LogSettings::default()).await;
    let made = made.unwrap();
    interleave(&client, &["orders"], 5).await;
    let mut readers = Vec::new();
    for addr in ADDRS {
        let options = ConsumeOptions {
            server: Some(addr.to_owned()),
            ..follow()
        };
        let mut reader = client.log("orders").consume(options).unwrap();
        for number in 0..5 {
            assert_eq!(next(&mut reader).await.unwrap().unwrap().offset, number);
        }
        readers.push(reader);
    }
    assert!(admin.delete_log("orders", made.id).await.unwrap());
    for mut reader in readers {
        let told = next(&mut reader).await.unwrap().unwrap_err();
        assert!(matches!(told, ClientError::LogDeleted), "{told:?}");
        assert_eq!(told.reason(), Some(Reason::LogDeleted));
        assert!(next(&mut reader).await.is_none(), "an error ends the read");
    }
}

/// No server tells it so, since the one that could was lost: to the others there is no such log.
#[tokio::test(start_paused = true)]
async fn a_read_that_goes_on_elsewhere_is_told_that_its_log_was_deleted() {
    let world = World::alone(5).await;
    let client = world.client(&ADDRS[..1]);
    let admin = client.admin();
    let made = admin.create_log("orders", LogSettings::default()).await;
    let id = made.unwrap().id;
    interleave(&client, &["orders"], 5).await;
    let broken = Plan::Break {
        stored: 0,
        answered: 2,
        status: Status::unavailable("lost on purpose"),
    };
    let front = Front::of_one(&world, &["a:1"], [broken]).await;
    let orders = front.client(&["a:1"], 60).log("orders");
    let mut reader = orders.consume(follow()).unwrap();
    for number in 0..5 {
        assert_eq!(next(&mut reader).await.unwrap().unwrap().offset, number);
    }
    assert!(admin.delete_log("orders", id).await.unwrap());
    let told = next(&mut reader).await.unwrap().unwrap_err();
    assert!(matches!(told, ClientError::LogDeleted), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn the_name_of_a_deleted_log_is_free_and_begins_anew() {
    let world = World::new(2).await;
    let client = world.client(&ADDRS);
    let admin = client.admin();
    let old = admin
        .create_log("orders", LogSettings::default())
        .await
        .unwrap();
    interleave(&client, &["orders"], 5).await;
    let orders = client.log("orders");
    orders.admin().create_cursor("c", 3).await.unwrap();
    let producer = orders.producer(ProducerOptions::default()).unwrap();
    assert_eq!(producer.send("more").await.unwrap().await.unwrap(), 5);

    // Another id is another log.
    assert!(!admin.delete_log("orders", old.id + 1).await.unwrap());
    assert!(admin.delete_log("orders", old.id).await.unwrap());
    assert!(!admin.delete_log("orders", old.id).await.unwrap());
    // One that produces is told, and is over.
    let told = producer.send("late").await.unwrap().await.unwrap_err();
    let reasons = [Some(Reason::LogDeleted), Some(Reason::NoSuchLog)];
    assert!(reasons.contains(&told.reason()), "{told:?}");
    assert!(producer.finish().await.is_err());

    // A name without a log is told so by every node, also by one that lags.
    for addr in ADDRS {
        let nothing = world.client(&[addr]).log("orders");
        let no_such = |error: &ClientError| matches!(error, ClientError::NoSuchLog { name } if name == "orders");
        let read = read(&nothing, Start::Earliest).await.unwrap_err();
        assert!(no_such(&read), "{read:?}");
        let mut appender = nothing.appender(AppenderOptions::default()).unwrap();
        let appended = appender.append(vec![Record::new("x")]).await.unwrap_err();
        assert!(no_such(&appended), "{appended:?}");
        let cursor = nothing.admin().cursor("c").await.unwrap_err();
        assert!(no_such(&cursor), "{cursor:?}");
        let trimmed = nothing.admin().trim(1).await.unwrap_err();
        assert!(no_such(&trimmed), "{trimmed:?}");
        let one = nothing.produce("x".into()).await.unwrap_err();
        assert!(no_such(&one), "{one:?}");
    }

    let new = admin
        .create_log("orders", LogSettings::default())
        .await
        .unwrap();
    assert_ne!(new.id, old.id);
    assert!(!admin.delete_log("orders", old.id).await.unwrap());
    for addr in ADDRS {
        let client = world.client(&[addr]);
        let shown = client.admin().get_log("orders").await.unwrap();
        assert_eq!((shown.id, shown.next_offset), (new.id, 0));
        let orders = client.log("orders");
        assert_eq!(read(&orders, Start::Earliest).await.unwrap(), []);
        assert_eq!(orders.admin().cursor("c").await.unwrap(), None);
    }
    assert_eq!(orders.produce("first".into()).await.unwrap(), 0);
}

/// More than one page holds, and the settings of each.
#[tokio::test(start_paused = true)]
async fn logs_are_listed_by_prefix_and_changed_at_their_epoch() {
    let world = World::alone(3).await;
    let admin = world.client(&ADDRS[..1]).admin();
    for number in 0..1100 {
        let name = format!("shop/{number:04}");
        admin
            .create_log(&name, LogSettings::default())
            .await
            .unwrap();
    }
    admin
        .create_log("shops", LogSettings::default())
        .await
        .unwrap();
    let listed = admin.list_logs("shop/").await.unwrap();
    let names: Vec<_> = listed.into_iter().map(|log| log.name).collect();
    let expected: Vec<_> = (0..1100)
        .map(|number| format!("shop/{number:04}"))
        .collect();
    assert_eq!(names, expected);
    assert_eq!(
        admin.list_logs("").await.unwrap().len(),
        1102,
        "with the default one"
    );
    assert_eq!(admin.list_logs("nothing").await.unwrap(), []);

    let same = admin
        .create_log("shops", LogSettings::default())
        .await
        .unwrap();
    let other = admin.create_log("shops", labelled("x")).await;
    assert!(matches!(other, Err(ClientError::LogExists)), "{other:?}");
    let changed = admin
        .update_log("shops", labelled("x"), Some(same.epoch))
        .await
        .unwrap();
    assert_eq!(
        (&changed.settings, changed.epoch),
        (&labelled("x"), same.epoch + 1)
    );
    let late = admin
        .update_log("shops", labelled("y"), Some(same.epoch))
        .await;
    let current = changed.epoch;
    assert!(
        matches!(late, Err(ClientError::LogEpochDiffers { current: c }) if c == current),
        "{late:?}"
    );
    let none = admin.update_log("nothing", labelled("x"), None).await;
    assert!(
        matches!(none, Err(ClientError::NoSuchLog { .. })),
        "{none:?}"
    );
    let default = admin.get_log("default").await.unwrap();
    let kept = admin.delete_log("default", default.id).await;
    assert!(
        matches!(kept, Err(ClientError::InvalidArgument { .. })),
        "{kept:?}"
    );
    for name in ["", " a", "a\nb", "_system", &"x".repeat(256)] {
        let bad = admin.create_log(name, LogSettings::default()).await;
        assert!(
            matches!(bad, Err(ClientError::InvalidArgument { .. })),
            "{name:?}: {bad:?}"
        );
    }
}

/// An answer that is lost leaves one log, or none, and not a refusal.
#[tokio::test(start_paused = true)]
async fn a_change_whose_answer_is_lost_was_made_once() {
    let world = World::alone(4).await;
    let front = Front::of_one(&world, &["a:1"], []).await;
    let admin = front.client(&["a:1"], 60).admin();
    let lost = |status| Plan::Break {
        stored: 0,
        answered: 0,
        status,
    };
    let lost = || lost(Status::unavailable("lost on purpose"));
    front.plan(lost());
    let made = admin.create_log("orders", labelled("x")).await.unwrap();
    assert_eq!(
        admin.list_logs("orders").await.unwrap(),
        std::slice::from_ref(&made)
    );
    front.plan(lost());
    let changed = admin
        .update_log("orders", labelled("y"), Some(made.epoch))
        .await
        .unwrap();
    assert_eq!(
        (&changed.settings, changed.epoch),
        (&labelled("y"), made.epoch + 1)
    );
    // Nobody else's change is taken for this one's.
    front.plan(Plan::Refuse(refused(Reason::OutcomeUnknown, &[])));
    let differs = admin
        .update_log("orders", labelled("z"), Some(made.epoch))
        .await;
    assert!(
        matches!(differs, Err(ClientError::ChangeInDoubt { .. })),
        "{differs:?}"
    );
    front.plan(lost());
    assert!(admin.delete_log("orders", made.id).await.unwrap());
    assert!(!admin.delete_log("orders", made.id).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_is_set_for_one_log_leaves_the_others_as_they_are() {
    let world = World::alone(1).await;
    let client = world.client(&ADDRS[..1]);
    let admin = client.admin();
    admin
        .create_log("orders", LogSettings::default())
        .await
        .unwrap();
    let kept = Retention {
        max_bytes: 1 << 30,
        ..Retention::default()
    };
    admin.set_retention(kept.clone()).await.unwrap();
    let orders = client.log("orders").admin();
    assert_eq!(orders.retention().await.unwrap(), Retention::default());
    let old = Retention {
        max_age_ms: 5,
        ..Retention::default()
    };
    for set in [Retention::default(), old] {
        orders.set_retention(set.clone()).await.unwrap();
        assert_eq!(orders.retention().await.unwrap(), set);
        assert_eq!(admin.retention().await.unwrap(), kept);
    }
    admin.set_retention(Retention::default()).await.unwrap();
    assert_eq!(orders.retention().await.unwrap().max_age_ms, 5);
    assert_eq!(admin.retention().await.unwrap(), Retention::default());
}
