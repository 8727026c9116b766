//! The consumer, where answers of nodes break off, are forged or do not come, and the calls of administrators.

use std::time::Duration;

use ferrolog::client::{
    AppenderOptions, ClientError, Consistency, ConsumeOptions, Consumer, Record, Start,
};
use ferrolog::log::Offset;
use ferrolog::proto::v1;
use ferrolog::reason::Reason;
use futures::FutureExt;
use tonic::Status;

use super::front::{Front, Plan, refusal};
use crate::harness::world::{ADDRS, START_MS, World};

/// How many bytes a reader grants before it has taken any.
const CREDIT_BYTES: u64 = 4 << 20;

/// A node whose log has batches of 3 records each, and two doors to it.
async fn cluster(batches: usize, plans: impl IntoIterator<Item = Plan>) -> (World, Front) {
    let world = World::alone(1).await;
    let records: Vec<_> = (0..3 * batches).map(|number| number.to_string()).collect();
    let threes = records.chunks(3);
    append(
        &world,
        threes.map(|three| three.iter().cloned().map(Record::from).collect()),
    )
    .await;
    let front = Front::of_one(&world, &["a:1", "b:1"], plans).await;
    (world, front)
}

/// Appends batches on the node itself, past the doors.
async fn append(world: &World, batches: impl IntoIterator<Item = Vec<Record>>) {
    let client = world.client(&[ADDRS[0]]);
    let mut appender = client.appender(AppenderOptions::default()).unwrap();
    for batch in batches {
        appender.append(batch).await.unwrap();
    }
    appender.close().await;
}

fn options(from: Start) -> ConsumeOptions {
    ConsumeOptions {
        from,
        ..ConsumeOptions::default()
    }
}

async fn offsets(mut consumer: Consumer) -> Result<Vec<u64>, ClientError> {
    let mut offsets = Vec::new();
    while let Some(record) = consumer.next().await {
        let record = record?;
        assert_eq!(record.record.value, record.offset.to_string());
        assert!(record.append_timestamp_ms >= START_MS);
        offsets.push(record.offset);
    }
    Ok(offsets)
}

fn break_after(answered: usize) -> Plan {
    Plan::Break {
        stored: 0,
        answered,
        status: Status::unavailable("broken on purpose"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_ends_at_the_end_of_the_log() {
    let (_world, front) = cluster(4, []).await;
    let client = front.client(&["a:1"], 60);
    client.admin().commit_cursor("c", 9, None).await.unwrap();
    for (from, expected) in [
        (Start::Earliest, 0..12),
        (Start::Offset(6), 6..12),
        (Start::Offset(12), 12..12),
        (Start::Latest, 12..12),
        (Start::Tail(3), 9..12),
        (Start::Timestamp(1), 0..12),
        (Start::Cursor("c".to_owned()), 9..12),
    ] {
        let read = offsets(client.consume(options(from)).unwrap()).await;
        assert_eq!(read.unwrap(), expected.collect::<Vec<_>>());
    }
    let past = offsets(client.consume(options(Start::Offset(13))).unwrap()).await;
    assert!(matches!(
        past,
        Err(ClientError::PastEnd {
            asked: 13,
            next: 12
        })
    ));
    let none = Start::Cursor("none".to_owned());
    let none = offsets(client.consume(options(none)).unwrap()).await;
    assert!(matches!(none, Err(ClientError::NoSuchCursor { name }) if name == "none"));
}

#[tokio::test(start_paused = true)]
async fn a_broken_read_goes_on_elsewhere_at_the_next_offset() {
    let (_world, front) = cluster(4, [break_after(2), break_after(0), Plan::Silence]).await;
    let client = front.client(&["a:1", "b:1"], 60);
    let strong = ConsumeOptions {
        consistency: Consistency::Strong,
        ..options(Start::Earliest)
    };
    let mut consumer = client.consume(strong).unwrap();
    assert!(consumer.freshness().is_none());
    assert_eq!(consumer.next().await.unwrap().unwrap().offset, 0);
    assert_eq!(consumer.end(), Some(12));
    let told = consumer.freshness().unwrap();
    assert_eq!((told.node.as_str(), told.applied_offset), ("n0", 12));
    let read = offsets(consumer).await.unwrap();
    assert_eq!(read, (1..12).collect::<Vec<_>>());
    let seen = front.seen();
    let at = |offset| v1::Start::from(&Start::Offset(offset));
    let walk = seen.consumed.iter().map(|(server, start)| {
        assert_eq!(start.consistency, Some(Consistency::Strong.into()));
        assert_eq!(start.heartbeat_ms, 1000);
        (server.as_str(), start.start.clone().unwrap())
    });
    assert_eq!(
        walk.collect::<Vec<_>>(),
        [
            ("a:1", (&Start::Earliest).into()),
            ("b:1", at(6)),
            ("a:1", at(6)),
            ("b:1", at(6))
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_wrong_offset_is_an_error() {
    let shifted = |answer: &mut v1::ConsumeStreamResponse| {
        for batch in &mut answer.batches {
            batch.first_offset += 1;
        }
    };
    let (_world, front) = cluster(1, [Plan::Forge(shifted)]).await;
    let client = front.client(&["a:1"], 60);
    let mut consumer = client.consume(options(Start::Earliest)).unwrap();
    let first = consumer.next().await.unwrap();
    assert!(
        matches!(
            first,
            Err(ClientError::Gap {
                expected: 0,
                got: 1,
                ..
            })
        ),
        "{first:?}"
    );
    assert!(consumer.next().await.is_none(), "an error ends the read");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_does_not_hold_what_it_says_is_an_error() {
    let longer = |answer: &mut v1::ConsumeStreamResponse| {
        for batch in &mut answer.batches {
            batch.batch.as_mut().unwrap().count = 4;
        }
        answer.freshness.as_mut().unwrap().applied_offset = 4;
    };
    let (_world, front) = cluster(1, [Plan::Forge(longer)]).await;
    let client = front.client(&["a:1"], 60);
    let read = offsets(client.consume(options(Start::Earliest)).unwrap()).await;
    let wanted = matches!(read, Err(ClientError::Batch { offset: 3, .. }));
    assert!(wanted, "{read:?}");
}

#[tokio::test(start_paused = true)]
async fn a_following_read_waits_at_the_tail() {
    let (_world, front) = cluster(2, []).await;
    let follow = ConsumeOptions {
        follow: true,
        ..options(Start::Offset(3))
    };
    let mut consumer = front.client(&["a:1"], 60).consume(follow).unwrap();
    for expected in 3..6 {
        assert_eq!(consumer.next().await.unwrap().unwrap().offset, expected);
    }
    assert!(consumer.next().now_or_never().is_none());
    assert_eq!(consumer.end(), None);
}

#[tokio::test(start_paused = true)]
async fn no_more_comes_than_the_reader_has_room_for() {
    const BATCHES: u64 = 80;
    const RECORDS: u64 = 31;
    const RECORD_BYTES: u64 = 8 << 10;
    const BATCH_BYTES: u64 = RECORDS * (RECORD_BYTES + 100);
    let world = World::alone(1).await;
    let record = || Record::from(vec![b'x'; RECORD_BYTES as usize]);
    let batch = || (0..RECORDS).map(|_| record()).collect();
    append(&world, (0..BATCHES).map(|_| batch())).await;
    let front = Front::of_one(&world, &["a:1"], []).await;
    let client = front.client(&["a:1"], 60);
    let mut consumer = client.consume(options(Start::Earliest)).unwrap();
    let told = || {
        let seen = front.seen();
        (seen.told_bytes, seen.granted_bytes)
    };
    let mut bytes = 0;
    while let Some(record) = consumer.next().await {
        bytes += record.unwrap().record.value.len() as u64;
        // Lets the servers run until they wait for credit; the clock stands still.
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        let (told, granted) = told();
        let ahead = told - bytes;
        assert!(ahead < CREDIT_BYTES + 2 * BATCH_BYTES, "{ahead}");
        assert!(told <= granted + 2 * BATCH_BYTES, "{told} of {granted}");
    }
    assert_eq!(bytes, BATCHES * RECORDS * RECORD_BYTES);
}

#[tokio::test(start_paused = true)]
async fn a_pinned_server_is_the_only_one_asked() {
    let (_world, front) = cluster(3, [break_after(1)]).await;
    let pinned = ConsumeOptions {
        server: Some("b:1".to_owned()),
        ..options(Start::Earliest)
    };
    let client = front.client(&["a:1"], 60);
    let read = offsets(client.consume(pinned).unwrap()).await.unwrap();
    assert_eq!(read.len(), 9);
    let seen = front.seen();
    assert!(seen.consumed.iter().all(|(server, _)| server == "b:1"));
}

#[tokio::test(start_paused = true)]
async fn a_stale_server_is_left_and_the_last_one_is_told() {
    let stale = || refusal(Reason::Stale, &[("staleness_ms", "9")]);
    let (_world, front) = cluster(3, [stale(), Plan::Work, stale(), stale()]).await;
    let client = front.client(&["a:1", "b:1"], 60);
    let bounded = || ConsumeOptions {
        consistency: Consistency::Bounded(Duration::from_millis(5)),
        ..options(Start::Earliest)
    };
    let read = offsets(client.consume(bounded()).unwrap()).await.unwrap();
    assert_eq!(read.len(), 9);
    let read = offsets(client.consume(bounded()).unwrap()).await;
    assert!(
        matches!(&read, Err(ClientError::Stale { server, .. }) if server == "b:1"),
        "{read:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_trimmed_offset_is_told_and_not_skipped() {
    let (world, front) = cluster(3, []).await;
    world.node(0).log().trim(Offset(2)).await.unwrap();
    let client = front.client(&["a:1"], 60);
    let read = offsets(client.consume(options(Start::Offset(0))).unwrap()).await;
    assert!(
        matches!(read, Err(ClientError::Trimmed { asked: 0, first: 2 })),
        "{read:?}"
    );
    // A read from the earliest record may begin anew only as long as it has handed out nothing.
    front.plan(break_after(1));
    let mut consumer = client.consume(options(Start::Earliest)).unwrap();
    assert_eq!(consumer.next().await.unwrap().unwrap().offset, 2);
    world.node(0).log().trim(Offset(6)).await.unwrap();
    let told = consumer.next().await.unwrap();
    assert!(
        matches!(told, Err(ClientError::Trimmed { asked: 3, first: 6 })),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_administrator_is_passed_on_past_dead_servers() {
    let world = World::new(1).await;
    append(&world, [vec![Record::from("x")]]).await;
    let doors = [("a:1", ADDRS[0]), ("b:1", ADDRS[1])];
    let plan = Plan::Refuse(Status::unavailable("no leader yet"));
    let front = Front::open(&world, &doors, [plan]).await;
    let admin = front.client(&["dead:1", "a:1", "b:1"], 60).admin();
    assert_eq!(admin.status(None).await.unwrap().node_name, "n0");
    let told = admin.status(Some("b:1")).await.unwrap();
    assert_eq!(told.node_name, "n1");
    let dead = admin.status(Some("dead:1")).await;
    assert!(dead.unwrap_err().is_timeout());
    assert_eq!(admin.transfer(Some("n0")).await.unwrap(), "n0");
    assert!(admin.remove("n2").await.unwrap());
    assert_eq!(world.node(0).log().view().members.len(), 2);
}
