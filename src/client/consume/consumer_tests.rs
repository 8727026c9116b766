//! The consumer against servers that break, lie or stay silent, and the administrator's calls beside it.

use futures::FutureExt;
use tonic::Code;

use super::*;
use crate::batch::Record;
use crate::client::build;
use crate::client::fake::server::{FakeCluster, Plan, refusal};

/// A log whose batches hold 3 records each.
async fn cluster(batches: usize, plans: impl IntoIterator<Item = Plan>) -> FakeCluster {
    let cluster = FakeCluster::start(&["a:1", "b:1"], plans).await;
    let records: Vec<_> = (0..3 * batches).map(|number| number.to_string()).collect();
    for three in records.chunks(3) {
        append(&cluster, three.iter().cloned().map(Record::from).collect());
    }
    cluster
}

fn append(cluster: &FakeCluster, records: Vec<Record>) {
    let (records, count) = build(&records).unwrap();
    cluster.state.lock().unwrap().append(v1::Batch {
        records,
        compression: 0,
        count,
    });
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
        assert_eq!(record.append_timestamp_ms, 7);
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
    let cluster = cluster(4, []).await;
    let client = cluster.client(&["a:1"], 60);
    cluster
        .state
        .lock()
        .unwrap()
        .cursors
        .insert("c".to_owned(), 9);
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
    let cluster = cluster(4, [break_after(2), break_after(0), Plan::Silence]).await;
    let client = cluster.client(&["a:1", "b:1"], 60);
    let strong = ConsumeOptions {
        consistency: Consistency::Strong,
        ..options(Start::Earliest)
    };
    let mut consumer = client.consume(strong).unwrap();
    assert!(consumer.freshness().is_none());
    assert_eq!(consumer.next().await.unwrap().unwrap().offset, 0);
    assert_eq!(consumer.end(), Some(12));
    let told = consumer.freshness().unwrap();
    assert_eq!((told.node.as_str(), told.applied_offset), ("a:1", 12));
    let read = offsets(consumer).await.unwrap();
    assert_eq!(read, (1..12).collect::<Vec<_>>());
    let state = cluster.state.lock().unwrap();
    let at = |offset| v1::Start::from(&Start::Offset(offset));
    let walk = state.consumed.iter().map(|(server, start)| {
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
    let cluster = cluster(1, []).await;
    cluster.state.lock().unwrap().shift = 1;
    let client = cluster.client(&["a:1"], 60);
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
    let cluster = cluster(1, []).await;
    {
        let mut state = cluster.state.lock().unwrap();
        state.batches[0].batch.as_mut().unwrap().count = 4;
        state.next_offset = 4;
    }
    let client = cluster.client(&["a:1"], 60);
    let read = offsets(client.consume(options(Start::Earliest)).unwrap()).await;
    let wanted = matches!(read, Err(ClientError::Batch { offset: 3, .. }));
    assert!(wanted, "{read:?}");
}

#[tokio::test(start_paused = true)]
async fn a_following_read_waits_at_the_tail() {
    let cluster = cluster(2, []).await;
    let follow = ConsumeOptions {
        follow: true,
        ..options(Start::Offset(3))
    };
    let mut consumer = cluster.client(&["a:1"], 60).consume(follow).unwrap();
    for expected in 3..6 {
        assert_eq!(consumer.next().await.unwrap().unwrap().offset, expected);
    }
    assert!(consumer.next().now_or_never().is_none());
    assert_eq!(consumer.end(), None);
}

#[tokio::test(start_paused = true)]
async fn no_more_comes_than_the_reader_has_room_for() {
    const BATCH_BYTES: u64 = 1 << 20;
    let cluster = FakeCluster::start(&["a:1"], []).await;
    for _ in 0..20 {
        append(&cluster, vec![vec![b'x'; BATCH_BYTES as usize].into()]);
    }
    let client = cluster.client(&["a:1"], 60);
    let mut consumer = client.consume(options(Start::Earliest)).unwrap();
    let told = || {
        let state = cluster.state.lock().unwrap();
        (state.told_bytes, state.granted_bytes)
    };
    let mut bytes = 0;
    while let Some(record) = consumer.next().await {
        bytes += record.unwrap().record.value.len() as u64;
        // Lets the servers run until they wait; the clock stands still.
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        let (told, granted) = told();
        let ahead = told - bytes;
        assert!(
            ahead < crate::client::consume::grants::CREDIT_BYTES + 2 * BATCH_BYTES,
            "{ahead}"
        );
        assert!(told <= granted + BATCH_BYTES + 100);
    }
    assert_eq!(bytes, 20 * BATCH_BYTES);
}

#[tokio::test(start_paused = true)]
async fn a_pinned_server_is_the_only_one_asked() {
    let cluster = cluster(3, [break_after(1)]).await;
    let pinned = ConsumeOptions {
        server: Some("b:1".to_owned()),
        ..options(Start::Earliest)
    };
    let client = cluster.client(&["a:1"], 60);
    let read = offsets(client.consume(pinned).unwrap()).await.unwrap();
    assert_eq!(read.len(), 9);
    let state = cluster.state.lock().unwrap();
    assert!(state.consumed.iter().all(|(server, _)| server == "b:1"));
}

#[tokio::test(start_paused = true)]
async fn a_stale_server_is_left_and_the_last_one_is_told() {
    let stale = || {
        Plan::Refuse(refusal(
            Code::Unavailable,
            "STALE",
            &[("staleness_ms", "9")],
        ))
    };
    let cluster = cluster(3, [stale(), Plan::Work, stale(), stale()]).await;
    let client = cluster.client(&["a:1", "b:1"], 60);
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
    let trimmed = || {
        let metadata = [("first_offset", "2"), ("next_offset", "9")];
        Plan::Refuse(refusal(Code::OutOfRange, "OFFSET_TRIMMED", &metadata))
    };
    let cluster = cluster(3, [trimmed(), break_after(1), trimmed()]).await;
    let client = cluster.client(&["a:1"], 60);
    let read = offsets(client.consume(options(Start::Offset(0))).unwrap()).await;
    assert!(
        matches!(read, Err(ClientError::Trimmed { asked: 0, first: 2 })),
        "{read:?}"
    );
    // Also where the earliest was asked for, once a record was handed out.
    let mut consumer = client.consume(options(Start::Earliest)).unwrap();
    for offset in 0..3 {
        assert_eq!(consumer.next().await.unwrap().unwrap().offset, offset);
    }
    let told = consumer.next().await.unwrap();
    assert!(
        matches!(told, Err(ClientError::Trimmed { asked: 3, .. })),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_administrator_is_passed_on_past_dead_servers() {
    let cluster = cluster(1, [Plan::Refuse(Status::unavailable("no leader yet"))]).await;
    let admin = cluster.client(&["dead:1", "a:1", "b:1"], 60).admin();
    assert_eq!(admin.status(None).await.unwrap().node_name, "a:1");
    assert_eq!(admin.status(Some("b:1")).await.unwrap().next_offset, 3);
    let dead = admin.status(Some("dead:1")).await;
    assert!(dead.unwrap_err().is_timeout());
    cluster.state.lock().unwrap().nodes.insert("n1".to_owned());
    assert!(admin.remove("n1").await.unwrap());
    assert_eq!(admin.transfer(Some("n2")).await.unwrap(), "n2");
}
