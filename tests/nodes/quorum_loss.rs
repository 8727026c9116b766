//! A majority is lost under load: every call ends in time, and says no more than is known.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrolog::log::record::BatchBuilder;
use ferrolog::net::stream_layer::{ChannelOptions, StreamLayer};
use ferrolog::net::{Kind, Security};
use ferrolog::proto::log_v1;
use ferrolog::proto::log_v1::log_client::LogClient;
use ferrolog::proto::v1::{
    CommitCursorRequest, GetStatusResponse, ProduceRequest, ProduceStreamRequest,
};
use ferrolog::raft::ProposeError;
use futures::future::BoxFuture;
use tokio::time::{Instant, timeout};
use tonic::Status;
use tonic::transport::Channel;

use crate::harness::late::Links;
use crate::harness::native;
use crate::harness::world::{ADDRS, PATIENCE, World};

/// How long a call may take in all.
const SPAN: Duration = Duration::from_secs(5);
/// What is added for a last try and a busy machine.
const SLACK: Duration = Duration::from_millis(400);

/// Lets nothing pass between a node and the others, or everything again. Connections stay open.
fn silence(links: &Links, place: usize, is_silent: bool) {
    for other in (0..ADDRS.len()).filter(|other| *other != place) {
        for (from, to) in [(place, other), (other, place)] {
            let link = links.between(ADDRS[from], ADDRS[to]);
            link.hold(is_silent, is_silent);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_a_quorum_knows_what_it_has_appended() {
    let links = Links::default();
    let world = World::late(10, &links).await;
    world.produce(&ADDRS, 0, 50).await;
    world.check(50).await;
    let leader = world.leader();
    let log = world.node(leader).log();
    silence(&links, leader, true);
    let mut calls = Vec::new();
    for number in 0..3000_u64 {
        let log = log.clone();
        let mut batch = BatchBuilder::new(None);
        batch.push(format!("{number} {}", "x".repeat(4000)).as_bytes(), 0, 0);
        let batch = batch.finish();
        calls.push(tokio::spawn(async move {
            let came = Instant::now();
            let told = match log.propose(batch).await {
                Ok(answer) => answer.await.expect("an answer"),
                Err(error) => Err(error),
            };
            (told.expect_err("there is no quorum"), came.elapsed())
        }));
        // A load, and no burst: time itself is the subject.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut unknown = 0;
    for call in calls {
        let (error, took) = timeout(PATIENCE, call).await.expect("an end").unwrap();
        assert!(took < SPAN + SLACK, "{took:?}: {error}");
        match error {
            ProposeError::Unknown => unknown += 1,
            ProposeError::NoLeader { waited_ms, .. } => {
                assert!(waited_ms <= took.as_millis() as u64, "{waited_ms}");
            }
            other => panic!("{other}"),
        }
    }
    // What the window lets the leader append before it knows.
    assert!((1..1500).contains(&unknown), "{unknown} are unknown");
    let held = log.freshness().held.0 - 50;
    assert_eq!(held, unknown, "those that were not appended are known");
    silence(&links, leader, false);
}

/// Its engine takes nothing once no majority has answered for an election timeout, though nobody else leads.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_answered_late_refuses_nothing() {
    for seed in 12..15 {
        let links = Links::default();
        let world = World::late(seed, &links).await;
        world.produce(&ADDRS, 0, 20).await;
        world.check(20).await;
        let leader = world.leader();
        let term = world.node(leader).log().view().term;
        let hold_answers = |are_held| {
            for other in (0..ADDRS.len()).filter(|other| *other != leader) {
                let link = links.between(ADDRS[leader], ADDRS[other]);
                link.hold(false, are_held);
            }
        };
        hold_answers(true);
        // Longer than an election timeout, not so long that it leads no more: time itself is the subject.
        tokio::time::sleep(Duration::from_millis(350)).await;
        let mut waits = Vec::new();
        for place in 0..ADDRS.len() {
            let mut batch = BatchBuilder::new(None);
            batch.push(format!("through {place}").as_bytes(), 0, 0);
            let queued = world.node(place).log().propose(batch.finish()).await;
            waits.push(queued.expect("it is queued"));
            // Each comes a while after the other: time itself is the subject.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        hold_answers(false);
        for wait in waits {
            let told = timeout(PATIENCE, wait).await.expect("an answer").unwrap();
            told.unwrap_or_else(|error| panic!("{error}"));
        }
        let now = world.node(leader).log().view().term;
        assert_eq!(now, term, "nobody else led");
    }
}

/// A client of one node, of both APIs.
#[derive(Clone)]
struct Caller {
    place: usize,
    original: LogClient<Channel>,
    native: native::Client,
}

/// What became of one call.
struct Ended {
    what: &'static str,
    place: usize,
    value: String,
    came: Instant,
    took: Duration,
    told: Result<(), Status>,
}

type Call = (&'static str, BoxFuture<'static, Result<(), Status>>);

impl Caller {
    fn new(world: &World, place: usize) -> Self {
        let network = Arc::new(world.network.named("client"));
        let layer = StreamLayer::new(network, Security::Insecure);
        let options = ChannelOptions::default();
        let channel = layer.channel(Kind::Grpc, ADDRS[place], options.clone());
        Self {
            place,
            original: LogClient::new(channel),
            native: native::client(&layer, ADDRS[place], options),
        }
    }

    /// One call of each kind, with a value of its own.
    fn calls(&self, number: u64) -> Vec<(String, Call)> {
        let value = |kind: &str| format!("{kind} {number} of {}", self.place);
        let original = |value: &str| log_v1::ProduceRequest {
            record: Some(log_v1::Record {
                value: Bytes::copy_from_slice(value.as_bytes()),
                ..log_v1::Record::default()
            }),
        };
        let packed = |value: &str| ProduceRequest {
            batch: Some(native::batch([Bytes::copy_from_slice(value.as_bytes())])),
            ..ProduceRequest::default()
        };
        let mut calls: Vec<(String, Call)> = Vec::new();
        let (value_of, mut client) = (value("single"), self.original.clone());
        let request = original(&value_of);
        let call = async move { client.produce(request).await.map(drop) };
        calls.push((value_of, ("log.v1 Produce", Box::pin(call))));
        let (value_of, mut client) = (value("stream"), self.original.clone());
        let requests = tokio_stream::once(original(&value_of));
        let call = async move {
            let mut answers = client.produce_stream(requests).await?.into_inner();
            answers.message().await.map(drop)
        };
        calls.push((value_of, ("log.v1 ProduceStream", Box::pin(call))));
        let (value_of, mut client) = (value("native"), self.native.clone());
        let request = packed(&value_of);
        let call = async move { client.produce(request).await.map(drop) };
        calls.push((value_of, ("Produce", Box::pin(call))));
        let (value_of, mut client) = (value("native stream"), self.native.clone());
        let requests = tokio_stream::once(ProduceStreamRequest {
            produce: Some(packed(&value_of)),
            many: None,
        });
        let call = async move {
            let mut answers = client.produce_stream(requests).await?.into_inner();
            // The credit comes first.
            answers.message().await?;
            answers.message().await.map(drop)
        };
        calls.push((value_of, ("ProduceStream", Box::pin(call))));
        let (value_of, mut client) = (value("cursor"), self.native.clone());
        let request = CommitCursorRequest {
            name: value_of.replace(' ', "-"),
            ..CommitCursorRequest::default()
        };
        let call = async move { client.commit_cursor(request).await.map(drop) };
        calls.push((value_of, ("CommitCursor", Box::pin(call))));
        calls
    }
}

#[tokio::test(start_paused = true)]
async fn calls_of_both_apis_end_in_time_and_what_was_not_appended_stays_out() {
    /// Between two rounds of calls, and when the nodes hear each other no more, in such.
    const EVERY: Duration = Duration::from_millis(40);
    const LOST_AT: u64 = 25;
    const ROUNDS: u64 = 200;
    let links = Links::default();
    let world = World::late(11, &links).await;
    world.produce(&ADDRS, 0, 20).await;
    let callers: Vec<_> = (0..ADDRS.len())
        .map(|place| Caller::new(&world, place))
        .collect();
    let mut running = Vec::new();
    for number in 0..ROUNDS {
        if number == LOST_AT {
            (0..ADDRS.len()).for_each(|place| silence(&links, place, true));
        }
        let caller = &callers[number as usize % callers.len()];
        for (value, (what, call)) in caller.calls(number) {
            let place = caller.place;
            running.push(tokio::spawn(async move {
                let came = Instant::now();
                let told = call.await;
                let took = came.elapsed();
                Ended {
                    what,
                    place,
                    value,
                    came,
                    took,
                    told,
                }
            }));
        }
        // A load, and no burst: time itself is the subject.
        tokio::time::sleep(EVERY).await;
    }
    let began = Instant::now() - EVERY * ROUNDS as u32;
    let (mut acked, mut refused) = (BTreeSet::new(), BTreeSet::new());
    let mut unknown = BTreeSet::new();
    for call in running {
        let ended = timeout(PATIENCE, call).await.expect("an end").unwrap();
        let Ended {
            what,
            place,
            value,
            took,
            told,
            ..
        } = ended;
        let at = ended.came - began;
        assert!(
            took < SPAN + SLACK,
            "{what} at node {place}, {at:?}: {took:?}: {told:?}"
        );
        match told.as_ref().map_err(native::reason) {
            Ok(()) => acked.insert(value),
            Err(reason) if reason == "NO_LEADER" => refused.insert(value),
            Err(reason) if reason == "OUTCOME_UNKNOWN" => unknown.insert(value),
            Err(reason) => panic!("{what} at node {place}, {at:?}: {reason}: {told:?}"),
        };
    }
    let (done, not, open) = (acked.len(), refused.len(), unknown.len());
    println!("{done} done, {not} not, {open} unknown");
    // All that came before are done but for the last, and none that came a while after was taken by anybody.
    assert!(acked.len() > 80 && refused.len() > 600 && !unknown.is_empty());

    (0..ADDRS.len()).for_each(|place| silence(&links, place, false));
    world.settled().await;
    world
        .node(0)
        .log()
        .read_barrier()
        .await
        .expect("a leader again");
    let next = world.node(0).log().watch_applied().borrow().next_offset.0;
    let records = world.records(next).await.swap_remove(0);
    let there: BTreeSet<_> = records
        .iter()
        .map(|record| String::from_utf8_lossy(&record.value).into_owned())
        .collect();
    let wrong: Vec<_> = refused.intersection(&there).collect();
    assert!(
        wrong.is_empty(),
        "told that they were not appended: {wrong:?}"
    );
    let lost: Vec<_> = acked.difference(&there).collect();
    assert!(
        lost.iter().all(|value| value.starts_with("cursor")),
        "{lost:?}"
    );
    for (number, value) in refused.iter().chain(&acked).enumerate() {
        let is_cursor = value.starts_with("cursor");
        let cursor = world.node(0).log().cursor(&value.replace(' ', "-"));
        assert_eq!(
            cursor.is_some(),
            is_cursor && number >= refused.len(),
            "{value}"
        );
    }
}

/// What a node says of itself and of the others.
async fn said(world: &World, place: usize) -> GetStatusResponse {
    let client = world.client(&[ADDRS[place]]);
    client.admin().status(None).await.expect("an answer")
}

/// Waits until it is so, for two seconds at most.
async fn soon(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !look().await {
        assert!(begun.elapsed() < Duration::from_secs(2), "{what}");
        // Between two looks: time itself is the subject.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A status is true two seconds after a partition: of a follower, of the leader, and of all from all.
#[tokio::test(start_paused = true)]
async fn what_nodes_say_of_themselves_is_true_soon_after_they_are_cut_off() {
    let links = Links::default();
    let world = World::late(12, &links).await;
    world.produce(&ADDRS, 0, 10).await;
    world.check(10).await;
    let leader = world.leader();
    let leads = async |place: usize| said(&world, place).await.leads;
    let others: Vec<_> = (0..3).filter(|place| *place != leader).collect();
    assert!(leads(leader).await && !leads(others[0]).await && !leads(others[1]).await);

    let id = said(&world, others[0]).await.node_id;
    silence(&links, others[0], true);
    soon("the leader tells that it hears it no more", async || {
        let told = said(&world, leader).await;
        let node = told.nodes.iter().find(|node| node.id == id);
        told.leads && node.is_some_and(|node| node.heard_ms > Some(1_000))
    })
    .await;
    soon("it knows of no leader", async || {
        let alone = said(&world, others[0]).await;
        (alone.leader_id, alone.leads) == (0, false)
    })
    .await;
    silence(&links, others[0], false);
    soon("it is heard again", async || {
        let told = said(&world, leader).await;
        let node = told.nodes.iter().find(|node| node.id == id);
        node.is_some_and(|node| node.heard_ms < Some(500))
    })
    .await;

    let leader = world.leader();
    let others: Vec<_> = (0..3).filter(|place| *place != leader).collect();
    silence(&links, leader, true);
    soon(
        "another one leads, and the old one does not say so",
        async || {
            let another = leads(others[0]).await || leads(others[1]).await;
            another && !leads(leader).await
        },
    )
    .await;
    silence(&links, others[0], true);
    soon("nobody leads", async || {
        !leads(0).await && !leads(1).await && !leads(2).await
    })
    .await;
}
