//! The producer against servers that break in the middle: same session, right sequence, nothing lost or doubled.

use std::collections::HashMap;

use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt};

use super::super::fake_server::{FakeCluster, Plan};
use super::*;

const COUNT: usize = 300;

fn value(number: usize) -> Bytes {
    Bytes::from(format!("record {number}"))
}

fn break_after(stored: usize, answered: usize) -> Plan {
    Plan::Break {
        stored,
        answered,
        status: Status::unavailable("broken on purpose"),
    }
}

/// Sends `COUNT` records while all are in the window, and answers with their offsets.
async fn send_all(producer: &Producer) -> Vec<Result<u64, ClientError>> {
    let mut acks = Vec::new();
    for number in 0..COUNT {
        acks.push(producer.send(value(number)).await.unwrap());
    }
    futures::future::join_all(acks).await
}

fn assert_exactly_once(cluster: &FakeCluster, offsets: &[Result<u64, ClientError>]) {
    let state = cluster.state.lock().unwrap();
    let expected: Vec<_> = (0..COUNT).map(value).collect();
    assert_eq!(
        state.records, expected,
        "in order, nothing lost, nothing twice"
    );
    let offsets: Vec<_> = offsets
        .iter()
        .map(|offset| *offset.as_ref().unwrap())
        .collect();
    assert_eq!(offsets, (0..COUNT as u64).collect::<Vec<_>>());
    assert_eq!(state.sessions.len(), 1, "one session throughout");
}

#[tokio::test(start_paused = true)]
async fn a_broken_stream_is_resumed_at_the_first_unacknowledged() {
    let plans = [
        break_after(100, 40),
        break_after(80, 0),
        break_after(90, 90),
    ];
    let cluster = FakeCluster::start(&["a:1", "b:1", "c:1"], plans).await;
    let producer = cluster
        .client(&["a:1", "b:1", "c:1"], 60)
        .producer()
        .unwrap();
    let offsets = send_all(&producer).await;
    let stats = producer.finish().await.unwrap();

    assert_exactly_once(&cluster, &offsets);
    assert_eq!((stats.acknowledged, stats.streams), (COUNT as u64, 4));
    let state = cluster.state.lock().unwrap();
    let walk: Vec<_> = state
        .produced
        .iter()
        .map(|(server, _, first)| (server.as_str(), *first))
        .collect();
    assert_eq!(walk, [("a:1", 0), ("b:1", 40), ("c:1", 40), ("a:1", 130)]);
    assert!(
        state
            .produced
            .iter()
            .all(|(_, session, _)| session.len() == 32 && *session == state.produced[0].1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_frozen_server_is_left_after_five_seconds() {
    let cluster = FakeCluster::start(&["a:1", "b:1"], [Plan::Silence]).await;
    let producer = cluster.client(&["a:1", "b:1"], 60).producer().unwrap();
    let offsets = send_all(&producer).await;
    let stats = producer.finish().await.unwrap();
    assert_exactly_once(&cluster, &offsets);
    assert!((5..7).contains(&stats.longest_gap.as_secs()), "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_and_a_cut_one_are_passed() {
    let cluster = FakeCluster::start(&["b:1", "c:1"], []).await;
    let producer = cluster
        .client(&["a:1", "b:1", "c:1"], 60)
        .producer()
        .unwrap();
    let first = producer.send(value(0)).await.unwrap().await.unwrap();
    cluster.network.cut("b:1");
    let second = producer.send(value(1)).await.unwrap().await.unwrap();
    assert_eq!((first, second), (0, 1));
    producer.finish().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_hinted_leader_goes_first() {
    let metadata = HashMap::from([("leader".to_owned(), "d:1".to_owned())]);
    let details = ErrorDetails::with_error_info("NOT_LEADER", "ferrolog", metadata);
    let status = Status::with_error_details(Code::Unavailable, "not the leader", details);
    let cluster = FakeCluster::start(&["a:1", "b:1", "d:1"], [Plan::Refuse(status)]).await;
    let producer = cluster.client(&["a:1", "b:1"], 60).producer().unwrap();
    producer.send(value(0)).await.unwrap().await.unwrap();
    let walk: Vec<_> = cluster
        .state
        .lock()
        .unwrap()
        .produced
        .iter()
        .map(|(server, ..)| server.clone())
        .collect();
    assert_eq!(walk, ["a:1", "d:1"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_record_ends_the_producer_with_its_reason() {
    let too_large = Status::out_of_range("the record has 9 bytes, the limit is 8");
    let plan = Plan::Break {
        stored: 10,
        answered: 10,
        status: too_large,
    };
    let cluster = FakeCluster::start(&["a:1", "b:1"], [plan]).await;
    let producer = cluster.client(&["a:1", "b:1"], 60).producer().unwrap();
    let mut acks = Vec::new();
    for number in 0..COUNT {
        acks.push(producer.send(value(number)).await.unwrap());
    }
    let outcomes = futures::future::join_all(acks).await;
    assert!(outcomes[..10].iter().all(Result::is_ok));
    assert!(
        outcomes[10..]
            .iter()
            .all(|outcome| matches!(outcome, Err(ClientError::OutOfRange { .. })))
    );
    let later = producer.send(value(0)).await;
    assert!(matches!(later, Err(ClientError::OutOfRange { .. })));
}

#[tokio::test(start_paused = true)]
async fn giving_up_says_whom_was_asked_and_why() {
    let cluster = FakeCluster::start(&[], []).await;
    let producer = cluster.client(&["a:1", "b:1"], 2).producer().unwrap();
    let started = Instant::now();
    let error = producer.send(value(0)).await.unwrap().await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Unreachable { servers, .. } if servers == "a:1,b:1"),
        "{error}"
    );
    assert!((2..4).contains(&started.elapsed().as_secs()));
    assert!(error.is_timeout());
    assert!(producer.finish().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_window_of_records_flows_through_a_small_one() {
    let cluster = FakeCluster::start(&["a:1"], [break_after(1500, 1200)]).await;
    let producer = cluster.client(&["a:1"], 60).producer().unwrap();
    let mut last = None;
    for number in 0..5000 {
        last = Some(producer.send(value(number)).await.unwrap());
    }
    assert_eq!(last.unwrap().await.unwrap(), 4999);
    assert_eq!(producer.finish().await.unwrap().acknowledged, 5000);
    assert_eq!(cluster.state.lock().unwrap().records.len(), 5000);
}
