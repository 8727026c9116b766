//! One producer over many logs: one session and one stream, batches by log, each record once and the order of each
//! log kept, whichever leader is lost.

use std::collections::BTreeMap;

use bytes::Bytes;
use ferrolog::client::{
    AppenderOptions, BatchFor, Client, ClientError, Consistency, ConsumeOptions, LogSettings,
    ProducerOptions, Start,
};
use ferrolog::proto::v1::{Batch, SessionSequence};
use tokio::time::timeout;
use tonic::Status;

use super::front::{Front, Plan};
use crate::harness::world::{ADDRS, PATIENCE, World};

async fn make(client: &Client, names: &[&str]) {
    let admin = client.admin();
    for name in names.iter().filter(|name| **name != "default") {
        let made = admin.create_log(name, LogSettings::default()).await;
        made.unwrap();
    }
}

fn value(log: &str, number: u64) -> Bytes {
    format!("{log} {number}").into()
}

/// The values of a log, from its start.
async fn values(client: &Client, log: &str) -> Vec<Bytes> {
    let options = ConsumeOptions {
        consistency: Consistency::Strong,
        ..ConsumeOptions::default()
    };
    let mut consumer = client.log(log).consume(options).unwrap();
    let mut found = Vec::new();
    while let Some(read) = timeout(PATIENCE, consumer.next()).await.unwrap() {
        found.push(read.unwrap().record.value);
    }
    found
}

#[tokio::test(start_paused = true)]
async fn each_log_has_its_records_once_and_in_order_under_lost_leaders() {
    const LOGS: [&str; 5] = ["a", "b", "orders/1", "orders/2", "default"];
    const RECORDS: u64 = 400;
    let world = World::new(3).await;
    let client = world.client(&ADDRS);
    make(&client, &LOGS).await;
    let producer = client.producer(ProducerOptions::default()).unwrap();
    let (mut acks, mut sent) = (Vec::new(), BTreeMap::<_, u64>::new());
    for number in 0..RECORDS {
        // Some logs get many, some few, in runs and alone.
        let log = LOGS[(number * number % 7) as usize % LOGS.len()];
        let count = sent.entry(log).or_default();
        let ack = match log {
            "default" => producer.send(value(log, *count)).await,
            log => producer.send_to(log, value(log, *count)).await,
        };
        let (mut ack, expected) = (ack.unwrap(), *count);
        *count += 1;
        let is_time = number % 100 == 50;
        // What comes behind it is under way while the lead changes.
        if is_time {
            assert_eq!(
                timeout(PATIENCE, &mut ack).await.unwrap().unwrap(),
                expected
            );
        }
        acks.push((expected, ack));
        if is_time {
            let leader = world.leader();
            world.node(leader).log().hand_on().await;
        }
    }
    for (expected, ack) in acks {
        let offset = timeout(PATIENCE, ack).await.unwrap();
        assert_eq!(offset.unwrap(), expected);
    }
    let open = world.node(world.leader()).log().sessions(0, 10);
    assert_eq!(open.len(), 1, "one session for all: {open:?}");
    let stats = producer.finish().await.unwrap();
    assert_eq!(stats.acknowledged, RECORDS);
    for addr in ADDRS {
        let client = world.client(&[addr]);
        for (log, count) in &sent {
            let expected: Vec<_> = (0..*count).map(|number| value(log, number)).collect();
            assert_eq!(values(&client, log).await, expected, "{log} at {addr}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_sent_again_has_its_number_and_its_log() {
    const LOGS: [&str; 3] = ["a", "b", "c"];
    let lost = |stored, answered| Plan::Break {
        stored,
        answered,
        status: Status::unavailable("broken on purpose"),
    };
    let world = World::alone(1).await;
    make(&world.client(&ADDRS[..1]), &LOGS).await;
    let plans = [lost(20, 8), lost(16, 0), lost(18, 18)];
    let front = Front::of_one(&world, &["a:1", "b:1", "c:1"], plans).await;
    let client = front.client(&["a:1", "b:1", "c:1"], 60);
    let producer = client.producer(ProducerOptions::default()).unwrap();
    let mut acks = Vec::new();
    for number in 0..60_u64 {
        let log = LOGS[(number % 3) as usize];
        let record = value(log, number / 3);
        let batch = producer.send_batch_to(log, vec![record.into()]).await;
        acks.push((number / 3, batch.unwrap()));
    }
    for (offset, ack) in acks {
        assert_eq!(ack.await.unwrap().first_offset, offset);
    }
    let stats = producer.finish().await.unwrap();
    assert!(stats.duplicates > 0 && stats.streams > 1, "{stats:?}");

    let mut seen = BTreeMap::<u64, (String, Batch)>::new();
    let came = front.seen().came.clone();
    let mut again = 0;
    for came in came {
        let SessionSequence { sequence, .. } = came.session.expect("a session");
        let batch = (came.log, came.batch);
        match seen.get(&sequence) {
            Some(first) => {
                assert_eq!(*first, batch, "{sequence}");
                again += 1;
            }
            None => drop(seen.insert(sequence, batch)),
        }
    }
    assert!(again > 10, "only {again} came again");
    assert_eq!(front.sessions().len(), 1);
    for log in LOGS {
        let expected: Vec<_> = (0..20).map(|number| value(log, number)).collect();
        assert_eq!(values(&world.client(&ADDRS[..1]), log).await, expected);
    }
}

/// What comes behind a refused batch under its session is refused, too: nothing stays in doubt.
#[tokio::test(start_paused = true)]
async fn a_log_that_is_not_there_ends_it_with_nothing_in_doubt() {
    let world = World::alone(1).await;
    let client = world.client(&ADDRS[..1]);
    make(&client, &["a", "b"]).await;
    let producer = client.producer(ProducerOptions::default()).unwrap();
    let mut acks = Vec::new();
    for log in ["a", "b", "a", "missing", "a", "b", "missing"] {
        let batch = producer.send_batch_to(log, vec![value(log, 0).into()]);
        acks.push(batch.await.unwrap());
    }
    let mut told = Vec::new();
    for ack in acks {
        told.push(timeout(PATIENCE, ack).await.unwrap());
    }
    assert!(told[..3].iter().all(Result::is_ok), "{told:?}");
    for refused in &told[3..] {
        let Err(ClientError::NoSuchLog { name }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(name, "missing");
    }
    assert_eq!(producer.failed_log().as_deref(), Some("missing"));
    let stats = producer.stats();
    assert_eq!((stats.acknowledged, stats.in_doubt), (3, 0));
    producer.finish().await.unwrap_err();
    assert_eq!(values(&client, "a").await.len(), 2);
    assert_eq!(values(&client, "b").await.len(), 1);
}

/// Its name leads to the new log, where nothing arrives that was meant for the old one.
#[tokio::test(start_paused = true)]
async fn a_log_that_was_made_anew_is_not_taken_for_the_old_one() {
    let world = World::new(2).await;
    let client = world.client(&ADDRS);
    let admin = client.admin();
    let old = admin.create_log("orders", LogSettings::default()).await;
    let orders = client.log("orders");
    let producer = client.producer(ProducerOptions::default()).unwrap();
    let mut appender = orders.appender(AppenderOptions::default()).unwrap();
    let mut of_many = client.appender(AppenderOptions::default()).unwrap();
    let all = || [BatchFor::new("orders", vec![value("orders", 2).into()])];
    let sent = producer
        .send_to("orders", value("orders", 0))
        .await
        .unwrap();
    assert_eq!(timeout(PATIENCE, sent).await.unwrap().unwrap(), 0);
    let one = || vec![value("orders", 1).into()];
    appender.append(one()).await.unwrap();
    of_many.append_all(&all()).await.unwrap();
    // The first stream of a reader ends with what there is; a second one goes on where it was.
    let broken = Plan::Break {
        stored: 0,
        answered: 2,
        status: Status::unavailable("lost on purpose"),
    };
    let front = Front::of_one(&world, &["a:1"], [broken]).await;
    let follow = ConsumeOptions {
        follow: true,
        from: Start::Earliest,
        ..ConsumeOptions::default()
    };
    let behind = front.client(&["a:1"], 60).log("orders");
    let mut reader = behind.consume(follow).unwrap();
    for offset in 0..3 {
        let read = timeout(PATIENCE, reader.next()).await.unwrap().unwrap();
        assert_eq!(read.unwrap().offset, offset);
    }

    assert!(admin.delete_log("orders", old.unwrap().id).await.unwrap());
    let anew = admin.create_log("orders", LogSettings::default()).await;
    anew.unwrap();
    // Fewer records than the reader has seen: only the log's id tells it that this is another log, and not a node behind.
    let new = orders.producer(ProducerOptions::default()).unwrap();
    for number in 0..2 {
        let sent = new.send(value("new", number)).await.unwrap();
        assert_eq!(timeout(PATIENCE, sent).await.unwrap().unwrap(), number);
    }

    let sent = producer
        .send_to("orders", value("orders", 3))
        .await
        .unwrap();
    let told = [
        timeout(PATIENCE, sent).await.unwrap().map(drop),
        appender.append(one()).await.map(drop),
        of_many.append_all(&all()).await.map(drop),
        timeout(PATIENCE, reader.next())
            .await
            .unwrap()
            .unwrap()
            .map(drop),
    ];
    for told in told {
        assert!(matches!(told, Err(ClientError::LogDeleted)), "{told:?}");
    }
    assert_eq!(producer.stats().in_doubt, 0);
    let held: Vec<_> = (0..2).map(|number| value("new", number)).collect();
    assert_eq!(values(&client, "orders").await, held);
}

/// While logs are made for batches, those behind them wait in their order, and logs are made for them, too.
#[tokio::test(start_paused = true)]
async fn logs_are_made_for_what_a_producer_sends_and_its_order_is_kept() {
    const LOGS: u64 = 150;
    let world = World::new(5).await;
    world.creates_logs.set(true);
    let client = world.client(&ADDRS);
    make(&client, &["known"]).await;
    let producer = client.producer(ProducerOptions::default()).unwrap();
    let name = |log: u64| match log % 10 {
        0 => "known".to_owned(),
        _ => format!("new/{log}"),
    };
    let mut acks = Vec::new();
    for number in 0..LOGS {
        let (log, offset) = (name(number), if number % 10 == 0 { number / 10 } else { 0 });
        let sent = producer.send_batch_to(&log, vec![value(&log, offset).into()]);
        acks.push((offset, sent.await.unwrap()));
    }
    for (offset, ack) in acks {
        let ack = timeout(PATIENCE, ack).await.unwrap();
        assert_eq!(ack.unwrap().first_offset, offset);
    }
    let batch = |log: &str| BatchFor::new(log, vec![value(log, 0).into()]);
    let mut appender = client.appender(AppenderOptions::default()).unwrap();
    let both = [batch("many/1"), batch("many/2")];
    appender.append_all(&both).await.unwrap();

    let refused = producer.send_to("_ours", value("_ours", 0)).await.unwrap();
    let refused = timeout(PATIENCE, refused).await.unwrap();
    assert!(
        matches!(refused, Err(ClientError::InvalidArgument { .. })),
        "{refused:?}"
    );
    for log in (0..LOGS).filter(|log| log % 10 > 0).map(name) {
        assert_eq!(values(&client, &log).await, [value(&log, 0)]);
    }
    let known: Vec<_> = (0..LOGS / 10)
        .map(|number| value("known", number))
        .collect();
    assert_eq!(values(&client, "known").await, known);
}
