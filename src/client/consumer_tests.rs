//! The consumer against servers that break, lie or stay silent, and the administrator's calls beside it.

use futures::FutureExt;
use tonic::Code;

use super::super::fake_server::{FakeCluster, Plan};
use super::*;

async fn cluster(count: usize, plans: impl IntoIterator<Item = Plan>) -> FakeCluster {
    let cluster = FakeCluster::start(&["a:1", "b:1"], plans).await;
    cluster.state.lock().unwrap().records = (0..count)
        .map(|number| Bytes::from(number.to_string()))
        .collect();
    cluster
}

fn options(from: Start) -> ConsumeOptions {
    ConsumeOptions {
        from,
        consistency: Consistency::Relaxed,
        follow: false,
        server: None,
    }
}

async fn offsets(mut consumer: Consumer) -> Result<Vec<u64>, ClientError> {
    let mut offsets = Vec::new();
    while let Some(record) = consumer.next().await {
        let record = record?;
        assert_eq!(record.value, record.offset.to_string());
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
    let cluster = cluster(10, []).await;
    let client = cluster.client(&["a:1"], 60);
    for (from, expected) in [
        (Start::Earliest, 0..10),
        (Start::Offset(7), 7..10),
        (Start::Offset(10), 10..10),
    ] {
        let read = offsets(client.consume(options(from)).unwrap())
            .await
            .unwrap();
        assert_eq!(read, expected.collect::<Vec<_>>());
    }
    assert!(
        offsets(client.consume(options(Start::Latest)).unwrap())
            .await
            .unwrap()
            .is_empty()
    );
    let past = offsets(client.consume(options(Start::Offset(11))).unwrap()).await;
    assert!(matches!(
        past,
        Err(ClientError::PastEnd {
            asked: 11,
            next: 10
        })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_broken_read_goes_on_elsewhere_at_the_next_offset() {
    let cluster = cluster(10, [break_after(4), break_after(0), Plan::Silence]).await;
    let client = cluster.client(&["a:1", "b:1"], 60);
    let strong = ConsumeOptions {
        consistency: Consistency::Strong,
        ..options(Start::Earliest)
    };
    let read = offsets(client.consume(strong).unwrap()).await.unwrap();
    assert_eq!(read, (0..10).collect::<Vec<_>>());
    let state = cluster.state.lock().unwrap();
    let walk = state
        .consumed
        .iter()
        .map(|(server, offset, how)| (server.as_str(), *offset, how.as_str()));
    assert_eq!(
        walk.collect::<Vec<_>>(),
        [
            ("a:1", 0, "strong"),
            ("b:1", 4, "strong"),
            ("a:1", 4, "strong"),
            ("b:1", 4, "strong")
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_wrong_offset_is_an_error() {
    let cluster = cluster(3, []).await;
    cluster.state.lock().unwrap().shift = 1;
    let mut consumer = cluster
        .client(&["a:1"], 60)
        .consume(options(Start::Earliest))
        .unwrap();
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
async fn a_following_read_waits_at_the_tail() {
    let cluster = cluster(3, []).await;
    let follow = ConsumeOptions {
        follow: true,
        ..options(Start::Offset(1))
    };
    let mut consumer = cluster.client(&["a:1"], 60).consume(follow).unwrap();
    for expected in 1..3 {
        assert_eq!(consumer.next().await.unwrap().unwrap().offset, expected);
    }
    assert!(consumer.next().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_pinned_server_is_the_only_one_asked() {
    let cluster = cluster(3, [break_after(1)]).await;
    let pinned = ConsumeOptions {
        server: Some("b:1".to_owned()),
        ..options(Start::Earliest)
    };
    assert_eq!(
        offsets(cluster.client(&["a:1"], 60).consume(pinned).unwrap())
            .await
            .unwrap()
            .len(),
        3
    );
    assert!(
        cluster
            .state
            .lock()
            .unwrap()
            .consumed
            .iter()
            .all(|(server, ..)| server == "b:1")
    );
}

#[tokio::test(start_paused = true)]
async fn a_trimmed_offset_is_told_and_not_skipped() {
    let cluster = cluster(
        3,
        [Plan::Refuse(Status::new(
            Code::OutOfRange,
            "the log begins at 2",
        ))],
    )
    .await;
    let read = offsets(
        cluster
            .client(&["a:1"], 60)
            .consume(options(Start::Offset(0)))
            .unwrap(),
    )
    .await;
    assert!(
        matches!(read, Err(ClientError::OutOfRange { .. })),
        "{read:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_administrator_is_passed_on_past_dead_servers() {
    let cluster = cluster(3, [Plan::Refuse(Status::unavailable("no leader yet"))]).await;
    let client = cluster.client(&["dead:1", "a:1", "b:1"], 60);
    assert_eq!(client.status(None).await.unwrap().node_name, "a:1");
    assert_eq!(client.status(Some("b:1")).await.unwrap().next_offset, 3);
    assert!(
        client
            .status(Some("dead:1"))
            .await
            .unwrap_err()
            .is_timeout()
    );
    assert!(client.remove("n1").await.unwrap());
    assert_eq!(client.transfer(Some("n2")).await.unwrap(), "n2");
    let one = cluster.client(&["a:1"], 60);
    assert_eq!(one.produce(Bytes::from_static(b"x")).await.unwrap(), 3);
}
