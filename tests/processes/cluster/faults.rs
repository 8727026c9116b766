//! Three real nodes under faults and load: the leader killed, all killed at once, the leader frozen past an
//! election. Whatever happens, every acknowledged record is on every node, once, in order.
#![allow(
    clippy::disallowed_methods,
    reason = "a test takes a file away from a node"
)]

use std::time::Duration;

use ferrolog::cli::local_cluster::Signal;
use ferrolog::client::ProducerOptions;
use tokio::time::Instant;
use tonic::Code;

use crate::harness::checker::History;
use crate::harness::command::client;
use crate::harness::load::Load;
use crate::harness::{Stage, rounds, until, wire};

const PRODUCERS: usize = 4;
/// A longer gap fails the test; the goal is only printed.
const GAP_MAX: Duration = Duration::from_secs(5);
const GAP_GOAL: Duration = Duration::from_secs(1);
/// Records of each producer between two faults.
const BETWEEN: u64 = 50;

/// Prints the longest gap after each fault and fails if one is too long. `faults` are in order of time.
fn judge_gaps(history: &History, what: &str, faults: &[Duration], end: Duration) {
    for (number, fault) in faults.iter().enumerate() {
        let next = faults.get(number + 1).copied().unwrap_or(end);
        let (all, worst) = history.longest_gaps(*fault, next);
        let met = if all <= GAP_GOAL { "met" } else { "MISSED" };
        println!(
            "{what} {}: longest gap in acks {} ms, of the worst producer {} ms; goal {GAP_GOAL:?} {met}",
            number + 1,
            all.as_millis(),
            worst.as_millis()
        );
        assert!(all < GAP_MAX, "{what} {}: {all:?}", number + 1);
        assert!(worst < GAP_MAX, "{what} {}: {worst:?}", number + 1);
    }
}

#[tokio::test]
async fn nothing_is_lost_when_leaders_are_killed() {
    let mut stage = Stage::start_alone().await;
    let load = Load::start(&stage, PRODUCERS);
    let mut kills = Vec::new();
    for _ in 0..rounds(5) {
        load.progress(BETWEEN).await;
        let leader = stage.leader().await;
        kills.push(load.now());
        stage.cluster.kill(leader).await.expect("killed");
        // Two nodes carry on alone, and then take the third back under load.
        load.progress(BETWEEN).await;
        let next = stage.leader().await;
        assert_ne!(next, leader, "the dead lead no longer");
        stage.cluster.restart(leader).await.expect("restarted");
        stage.ready().await;
    }
    load.progress(BETWEEN).await;
    let end = load.now();
    let history = load.finish().await;
    judge_gaps(&history, "kill of the leader", &kills, end);
    history.assert_sound(&stage).await;
}

#[tokio::test]
async fn nothing_is_lost_when_all_nodes_are_killed_at_once() {
    let mut stage = Stage::start_alone().await;
    let load = Load::start(&stage, PRODUCERS);
    let mut kills = Vec::new();
    for _ in 0..rounds(5) {
        load.progress(BETWEEN).await;
        kills.push(load.now());
        for place in 0..3 {
            stage.cluster.signal(place, Signal::KILL).expect("signal");
        }
        for place in 0..3 {
            let ended = stage.cluster.wait_exit(place, GAP_MAX).await;
            ended.expect("it is killed");
        }
        for place in 0..3 {
            stage.cluster.restart(place).await.expect("restarted");
        }
        stage.ready().await;
    }
    load.progress(BETWEEN).await;
    let end = load.now();
    let history = load.finish().await;
    judge_gaps(&history, "kill of all", &kills, end);
    history.assert_sound(&stage).await;
}

/// The name of the leader, as this node knows it now.
async fn leader_known_to(stage: &Stage, place: usize) -> Option<String> {
    let status = stage.client_of(place).admin().status(None).await.ok()?;
    let mut nodes = status.nodes.into_iter();
    let leader = nodes.find(|node| node.id == status.leader_id)?;
    Some(leader.name)
}

/// Freezes the leader until another one has acknowledged a record, and reads that record from the old leader:
/// by calls that wait in its socket while it sleeps, and by one made as it wakes. True if they were answered.
async fn strong_reads_of_a_frozen_leader(stage: &Stage, round: usize) -> bool {
    let old = stage.leader().await;
    let (name, others) = (stage.cluster.name(old), stage.others(old));
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = wire::log_client(&stage.cluster, old);
        // Connects now: a handshake would need the node awake.
        let warm = wire::consume(&mut client, 0, false).await;
        warm.expect("the first record");
        clients.push(client);
    }
    let mut late = clients.pop().expect("four");

    stage.cluster.signal(old, Signal::STOP).expect("frozen");
    until("another node leads", async || {
        let leader = leader_known_to(stage, others[round % 2]).await?;
        (leader != name).then_some(())
    })
    .await;
    let value = format!("behind the leader's back, {round}");
    let mut writer = wire::log_client(&stage.cluster, others[round % 2]);
    let offset = wire::produce(&mut writer, value.as_bytes()).await;
    let offset = offset.expect("the new leader acknowledges");

    // The record is acknowledged: every read from here on must see it.
    let early = clients.into_iter().map(|mut client| {
        tokio::spawn(async move { wire::consume(&mut client, offset, true).await })
    });
    let early: Vec<_> = early.collect();
    // On one thread, tasks run when this one waits: now they have been sent.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    stage.cluster.signal(old, Signal::CONT).expect("awake");
    let mut reads = vec![wire::consume(&mut late, offset, true).await];
    for read in early {
        reads.push(read.await.expect("a task"));
    }
    let mut answered = true;
    for read in reads {
        match read {
            Ok(record) => assert_eq!(record.value, value.as_bytes(), "round {round}"),
            // It may fail for want of a leader, and must not say that there is no such record.
            Err(status) if status.code() == Code::Unavailable => answered = false,
            Err(status) => panic!("round {round}: a stale read of {offset}: {status:?}"),
        }
    }
    answered
}

#[tokio::test]
async fn a_leader_that_wakes_from_a_pause_serves_no_stale_strong_read() {
    let stage = Stage::start_alone().await;
    let mut first = wire::log_client(&stage.cluster, 0);
    wire::produce(&mut first, b"first").await.expect("ack");
    let (count, mut answered) = (rounds(20), 0);
    let begun = Instant::now();
    for round in 0..count {
        answered += usize::from(strong_reads_of_a_frozen_leader(&stage, round).await);
        stage.ready().await;
    }
    println!(
        "{count} pauses of the leader: 0 stale reads, in {answered} all reads were answered, {:.0?} a round",
        begun.elapsed() / u32::try_from(count).expect("few rounds")
    );
    assert!(answered > 0, "refusing every read proves nothing");
}

/// Kills every node at once.
async fn kill_all(stage: &mut Stage) {
    for place in 0..3 {
        stage.cluster.signal(place, Signal::KILL).expect("signal");
    }
    for place in 0..3 {
        let ended = stage.cluster.wait_exit(place, GAP_MAX).await;
        ended.expect("it is killed");
    }
}

#[tokio::test]
async fn a_node_that_comes_back_alone_shows_what_was_acknowledged_or_says_that_it_cannot_tell() {
    const RECORDS: u64 = 10_000;
    let mut stage = Stage::start_alone().await;
    let options = ProducerOptions::default();
    let producer = stage.client().producer(options).expect("a producer");
    let mut acks = Vec::new();
    for number in 0..RECORDS {
        let sent = producer.send(format!("record {number}")).await;
        acks.push(sent.expect("sent"));
    }
    for ack in acks {
        ack.await.expect("an ack");
    }
    for place in 0..3 {
        until("it has applied all", async || {
            (stage.status(place).await.next_offset == RECORDS).then_some(())
        })
        .await;
    }
    // What is told is written a moment later: time itself is the subject.
    tokio::time::sleep(Duration::from_millis(300)).await;
    kill_all(&mut stage).await;
    stage.cluster.restart(0).await.expect("restarted");
    let addr = stage.cluster.addr(0).to_owned();
    let consume = ["consume", "--server", &addr];
    let read = client(&stage.cluster, &consume).await.expect_success();
    assert_eq!(read.lines().count() as u64, RECORDS);

    // Without what it knew it says so, and does not end like a read of an empty log.
    stage.cluster.kill(0).await.expect("killed");
    let known = stage.cluster.data_dir(0).join("committed");
    std::fs::remove_file(known).expect("the file");
    stage.cluster.restart(0).await.expect("restarted");
    let read = client(&stage.cluster, &consume).await;
    assert!(read.out.lines().count() < RECORDS as usize);
    assert_eq!(read.code, Some(4), "{}", read.err);
    // Which log the records are of that are not applied, it does not know: a few tell who joined.
    let up_to = |text: &str, before: &str| {
        let rest = text.split_once(before).expect("a bound").1;
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
        let held: u64 = digits.expect("digits").parse().expect("a number");
        assert!((RECORDS..RECORDS + 10).contains(&held), "{text}");
    };
    up_to(&read.err, "records up to ");
    read.expect_refusal(&["no leader has confirmed", "another node"]);
    let status = ["cluster", "status", "--server", &addr];
    let status = client(&stage.cluster, &status).await.expect_success();
    up_to(&status, "up to offset ");

    for place in 1..3 {
        stage.cluster.restart(place).await.expect("restarted");
    }
    stage.ready().await;
    let read = client(&stage.cluster, &consume).await.expect_success();
    assert_eq!(read.lines().count() as u64, RECORDS);
}
