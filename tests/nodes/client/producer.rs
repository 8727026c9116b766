//! The producer, where streams break in the middle: it sends the same batches again under the same session, and no
//! record is lost or doubled.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use ferrolog::client::{
    ClientError, Compression, Fence, Header, Producer, ProducerOptions, Record,
};
use ferrolog::reason::Reason;
use futures::future::join_all;
use tokio::time::Instant;
use tonic::Status;

use super::front::{Front, Plan, refusal, refused, values};
use crate::harness::world::{START_MS, World};

const COUNT: usize = 50;

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

/// Options with which every record is a batch of its own.
fn one_by_one() -> ProducerOptions {
    ProducerOptions {
        batch_records_max: 1,
        ..ProducerOptions::default()
    }
}

/// Sends `COUNT` records, all in the window at once, and returns their offsets.
async fn send_all(producer: &Producer) -> Vec<Result<u64, ClientError>> {
    let mut acks = Vec::new();
    for number in 0..COUNT {
        acks.push(producer.send(value(number)).await.unwrap());
    }
    join_all(acks).await
}

fn assert_exactly_once(world: &World, front: &Front, offsets: &[Result<u64, ClientError>]) {
    let expected: Vec<_> = (0..COUNT).map(value).collect();
    assert_eq!(values(world), expected, "in order, none lost, none twice");
    let offsets: Vec<_> = offsets
        .iter()
        .map(|offset| *offset.as_ref().unwrap())
        .collect();
    assert_eq!(offsets, (0..COUNT as u64).collect::<Vec<_>>());
    assert_eq!(front.sessions().len(), 1, "one session throughout");
}

#[tokio::test(start_paused = true)]
async fn a_broken_stream_is_resumed_with_the_same_batches() {
    let plans = [break_after(20, 8), break_after(16, 0), break_after(18, 18)];
    let world = World::alone(1).await;
    let front = Front::of_one(&world, &["a:1", "b:1", "c:1"], plans).await;
    let client = front.client(&["a:1", "b:1", "c:1"], 60);
    let producer = client.producer(one_by_one()).unwrap();
    let offsets = send_all(&producer).await;
    let stats = producer.finish().await.unwrap();

    assert_exactly_once(&world, &front, &offsets);
    assert_eq!((stats.acknowledged, stats.streams), (COUNT as u64, 4));
    // The first stream stored 8 to 20 without an answer, and the second 20 to 24. So 8 to 24 were sent again.
    assert_eq!((stats.batches, stats.duplicates), (COUNT as u64, 16));
    let seen = front.seen();
    assert_eq!(seen.produced, ["a:1", "b:1", "c:1", "a:1"]);
    let mut first_on = HashSet::new();
    let firsts = seen
        .came
        .iter()
        .filter(|came| first_on.insert(&came.server));
    let firsts: Vec<_> = firsts
        .map(|came| came.session.as_ref().unwrap().sequence)
        .collect();
    assert_eq!(firsts, [0, 8, 8]);
    // That the bytes sent again were the same is the node's own check. A session that is done with is closed.
    let open = world.node(0).log().sessions(0, 10);
    assert!(open.is_empty(), "{open:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_stopped_tells_what_is_sure_and_what_is_not() {
    let world = World::alone(1).await;
    let front = Front::of_one(&world, &["a:1", "b:1"], [break_after(20, 8), Plan::Silence]).await;
    let client = front.client(&["a:1", "b:1"], 60);
    let producer = client.producer(one_by_one()).unwrap();
    let mut acks = Vec::new();
    for number in 0..COUNT {
        acks.push(producer.send(value(number)).await.unwrap());
    }
    while producer.stats().streams < 2 {
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    let stats = producer.stop();
    assert_eq!(stats.acknowledged, 8);
    // The node took 20, of which 8 were answered; more may have been on their way when the stream broke.
    assert!((12..=42).contains(&stats.in_doubt), "{stats:?}");
    assert_eq!(producer.stats(), stats, "it is over");
    for (number, ack) in acks.into_iter().enumerate() {
        assert_eq!(ack.await.is_ok(), number < 8, "{number}");
    }
    producer.send(value(COUNT)).await.unwrap_err();
    producer.finish().await.ok();
    let stored = values(&world).len() as u64;
    assert!(
        stored <= 8 + stats.in_doubt,
        "{stored} are in the log: {stats:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn records_share_batches_and_keep_what_they_carry() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let world = World::alone(1).await;
        let front = Front::of_one(&world, &["a:1", "b:1"], [break_after(2, 1)]).await;
        let client = front.client(&["a:1", "b:1"], 60);
        let options = ProducerOptions {
            compression,
            ..ProducerOptions::default()
        };
        let producer = client.producer(options).unwrap();
        let record = |number: u64| Record {
            value: vec![b'v'; 100].into(),
            key: Some(Bytes::from(number.to_string())),
            headers: vec![Header {
                name: "n".to_owned(),
                value: Bytes::new(),
            }],
            client_timestamp_ms: number,
            ..Record::default()
        };
        let mut last = None;
        for number in 0..20_000 {
            last = Some(producer.send(record(number)).await.unwrap());
        }
        assert_eq!(last.unwrap().await.unwrap(), 19_999);
        let stats = producer.finish().await.unwrap();
        assert_eq!((stats.acknowledged, stats.duplicates), (20_000, 1));
        assert!((20..80).contains(&stats.batches), "{stats:?}");
        let came = front.seen().came.clone();
        let packed = came.iter().map(|came| came.batch.compression);
        assert_eq!(packed.max(), Some(compression as i32));

        let mut read = client.consume(Default::default()).unwrap();
        for number in 0..20_000 {
            let found = read.next().await.unwrap().unwrap();
            assert_eq!((found.offset, found.record), (number, record(number)));
        }
        assert!(read.next().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_its_own_is_appended_as_one() {
    let world = World::alone(1).await;
    let front = Front::of_one(&world, &["a:1"], []).await;
    let client = front.client(&["a:1"], 60);
    let producer = client.producer(ProducerOptions::default()).unwrap();
    let first = producer.send(value(0)).await.unwrap();
    let records = (1..4).map(|number| value(number).into()).collect();
    let batch = producer.send_batch(records).await.unwrap();
    assert_eq!(first.await.unwrap(), 0);
    let appended = batch.await.unwrap();
    assert_eq!((appended.first_offset, appended.count), (1, 3));
    assert!(appended.append_timestamp_ms >= START_MS);
    let empty = producer.send_batch(Vec::new()).await;
    assert!(matches!(empty, Err(ClientError::EmptyBatch)));
    producer.finish().await.unwrap();
    assert_eq!(front.seen().came.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_server_is_left_after_five_seconds() {
    let world = World::alone(1).await;
    let front = Front::of_one(&world, &["a:1", "b:1"], [Plan::Silence]).await;
    let client = front.client(&["a:1", "b:1"], 60);
    let producer = client.producer(one_by_one()).unwrap();
    let offsets = send_all(&producer).await;
    let stats = producer.finish().await.unwrap();
    assert_exactly_once(&world, &front, &offsets);
    assert!((5..7).contains(&stats.longest_gap.as_secs()), "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_and_a_cut_one_are_passed() {
    let world = World::alone(1).await;
    let front = Front::of_one(&world, &["b:1", "c:1"], []).await;
    let client = front.client(&["a:1", "b:1", "c:1"], 60);
    let producer = client.producer(ProducerOptions::default()).unwrap();
    let first = producer.send(value(0)).await.unwrap().await.unwrap();
    front.network.cut("b:1");
    let second = producer.send(value(1)).await.unwrap().await.unwrap();
    assert_eq!((first, second), (0, 1));
    producer.finish().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_hinted_leader_goes_first() {
    let plan = refusal(Reason::NoLeader, &[("leader", "d:1")]);
    let world = World::alone(1).await;
    let front = Front::of_one(&world, &["a:1", "b:1", "d:1"], [plan]).await;
    let client = front.client(&["a:1", "b:1"], 60);
    let producer = client.producer(ProducerOptions::default()).unwrap();
    producer.send(value(0)).await.unwrap().await.unwrap();
    assert_eq!(front.seen().produced, ["a:1", "d:1"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_record_ends_the_producer_with_its_reason() {
    let plan = Plan::Break {
        stored: 10,
        answered: 10,
        status: Status::out_of_range("the record has 9 bytes, the limit is 8"),
    };
    let world = World::alone(1).await;
    let front = Front::of_one(&world, &["a:1", "b:1"], [plan]).await;
    let client = front.client(&["a:1", "b:1"], 60);
    let producer = client.producer(one_by_one()).unwrap();
    let outcomes = send_all(&producer).await;
    assert!(outcomes[..10].iter().all(Result::is_ok));
    let refused = |outcome: &Result<u64, _>| matches!(outcome, Err(ClientError::OutOfRange { .. }));
    assert!(outcomes[10..].iter().all(refused));
    let later = producer.send(value(0)).await;
    assert!(matches!(later, Err(ClientError::OutOfRange { .. })));
}

#[tokio::test(start_paused = true)]
async fn without_a_session_a_loss_with_batches_under_way_is_the_end() {
    let options = || ProducerOptions {
        idempotent: false,
        ..ProducerOptions::default()
    };
    let no_leader = refused(Reason::NoLeader, &[]);
    let plans = [
        // After neither of these two is anything in doubt.
        Plan::Refuse(Status::unavailable("not now")),
        Plan::Break {
            stored: 0,
            answered: 0,
            status: no_leader,
        },
        break_after(2, 1),
    ];
    let world = World::alone(1).await;
    let front = Front::of_one(&world, &["a:1", "b:1"], plans).await;
    let client = front.client(&["a:1", "b:1"], 60);
    let producer = client.producer(options()).unwrap();
    assert_eq!(producer.send(value(0)).await.unwrap().await.unwrap(), 0);
    let lost = producer.send(value(1)).await.unwrap().await;
    assert!(matches!(lost, Err(ClientError::OutcomeUnknown)), "{lost:?}");
    let ended = producer.finish().await;
    assert!(matches!(ended, Err(ClientError::OutcomeUnknown)));
    assert!(front.sessions().is_empty());
    assert_eq!(values(&world), [value(0), value(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_session_is_replaced_if_nothing_is_in_doubt() {
    let world = World::alone(1).await;
    let front = Front::of_one(&world, &["a:1"], []).await;
    let client = front.client(&["a:1"], 60);
    let producer = client.producer(ProducerOptions::default()).unwrap();
    producer.send(value(0)).await.unwrap().await.unwrap();
    let log = world.node(0).log();
    let first = front.sessions()[0];
    log.close_session(first, None).await.unwrap();
    assert_eq!(producer.send(value(1)).await.unwrap().await.unwrap(), 1);
    producer.finish().await.unwrap();
    let seen = front.seen();
    let places = seen.came.iter().map(|came| came.session.as_ref().unwrap());
    let places: Vec<_> = places.map(|at| (at.session, at.sequence)).collect();
    let second = places[2].0;
    assert_eq!(places, [(first, 0), (first, 1), (second, 0)]);
    assert_ne!(first, second);
}

#[tokio::test(start_paused = true)]
async fn a_session_forgotten_in_doubt_is_an_error() {
    let plans = [break_after(1, 0), refusal(Reason::SessionExpired, &[])];
    let world = World::alone(1).await;
    let front = Front::of_one(&world, &["a:1"], plans).await;
    let client = front.client(&["a:1"], 60);
    let producer = client.producer(ProducerOptions::default()).unwrap();
    let told = producer.send(value(0)).await.unwrap().await;
    assert!(matches!(told, Err(ClientError::SessionExpired)), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_a_lost_answer_leaves_the_outcome_open() {
    let denied = Plan::Refuse(Status::permission_denied("not you"));
    let world = World::alone(1).await;
    let front = Front::of_one(&world, &["a:1", "b:1"], [break_after(1, 0), denied]).await;
    let client = front.client(&["a:1", "b:1"], 60);
    let producer = client.producer(ProducerOptions::default()).unwrap();
    let told = producer.send(value(0)).await.unwrap().await;
    assert!(matches!(told, Err(ClientError::OutcomeUnknown)), "{told:?}");
    assert_eq!(values(&world), [value(0)]);
}

#[tokio::test(start_paused = true)]
async fn a_fenced_producer_is_told_who_is_not() {
    let world = World::alone(1).await;
    let front = Front::of_one(&world, &["a:1"], []).await;
    let client = front.client(&["a:1"], 60);
    let claim = client.admin().claim_epoch("job", "me", Some(0)).await;
    let epoch = claim.unwrap().epoch;
    let options = ProducerOptions {
        fence: Some(Fence {
            name: "job".to_owned(),
            epoch,
        }),
        ..ProducerOptions::default()
    };
    let producer = client.producer(options).unwrap();
    producer.send(value(0)).await.unwrap().await.unwrap();
    client
        .admin()
        .claim_epoch("job", "you", None)
        .await
        .unwrap();
    let told = producer.send(value(1)).await.unwrap().await;
    let Err(ClientError::Fenced { name, epoch }) = told else {
        panic!("{told:?}");
    };
    assert_eq!((name.as_str(), epoch), ("job", 2));
}

#[tokio::test(start_paused = true)]
async fn giving_up_says_whom_was_asked_and_why() {
    let world = World::alone(1).await;
    let front = Front::of_one(&world, &[], []).await;
    let client = front.client(&["a:1", "b:1"], 2);
    let producer = client.producer(ProducerOptions::default()).unwrap();
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
