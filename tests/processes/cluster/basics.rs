//! Three real nodes over mutual TLS and what their clients see while all is well: offsets, both consistencies,
//! the tail, members and health. Faults stand in `faults.rs`, identities in `identity.rs`.

use std::collections::BTreeSet;
use std::time::Duration;

use ferrolog::client::Consistency;
use ferrolog::proto::log_v1::GetServersRequest;
use futures::{StreamExt, stream};
use tokio::time::Instant;
use tonic::Code;
use tonic_types::StatusExt;

use crate::harness::checker::{Entry, Outcome, ReadKind, Rule, hash};
use crate::harness::recorder::{Recorder, Seen, entries};
use crate::harness::wire::{NOT_SERVING, SERVING};
use crate::harness::{Stage, refused, rounds, until, until_in, wire};

/// Without a majority a leader steps down, and a follower forgets it, within this.
const DOUBT_MAX: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(3);
const IDLE_STREAMS: usize = 20;
/// CPU time that the streams may cost while nothing comes: HTTP/2 pings, and the clock's grain of 10 ms.
const IDLE_CPU_MAX: Duration = Duration::from_millis(50);

#[tokio::test]
async fn any_node_appends_and_every_node_tells_the_same() {
    let stage = Stage::start().await;
    let mut recorder = Recorder::default();
    for round in 0..10 {
        for place in 0..3 {
            let value = format!("{round} through {place}");
            let mut client = wire::log_client(&stage.cluster, place);
            let begin = recorder.now();
            let offset = wire::produce(&mut client, value.as_bytes()).await;
            let outcome = Outcome::Acked(offset.expect("an offset"));
            recorder.append(0, value.as_bytes(), begin, outcome);
        }
    }
    let count = recorder.history.appends.len();
    for place in 0..3 {
        let read = async || {
            let begin = recorder.now();
            let records = stage.read_all(place, Consistency::Relaxed).await;
            // A relaxed read may be behind, and is never wrong.
            recorder.read(Seen {
                session: Some(u32::try_from(place).expect("three")),
                kind: ReadKind::Relaxed,
                node: stage.cluster.name(place),
                begin,
                from: 0,
                tail: records.len() as u64,
                seen: entries(&records),
            });
            (records.len() == count).then_some(())
        };
        until("a relaxed read sees all", read).await;
    }
    println!("{}", recorder.assert_sound(&stage).await);
}

#[tokio::test]
async fn a_strong_read_through_another_node_sees_what_was_acknowledged() {
    let stage = Stage::start().await;
    let mut clients: Vec<_> = (0..3)
        .map(|p| wire::log_client(&stage.cluster, p))
        .collect();
    let (count, mut behind) = (rounds(1_000), 0);
    let mut recorder = Recorder::default();
    let begun = Instant::now();
    for round in 0..count {
        // All six pairs of different nodes in turn.
        let producer = round % 3;
        let reader = (producer + 1 + (round / 3) % 2) % 3;
        let value = format!("round {round}");
        let begin = recorder.now();
        let offset = wire::produce(&mut clients[producer], value.as_bytes()).await;
        let offset = offset.expect("an offset");
        recorder.append(0, value.as_bytes(), begin, Outcome::Acked(offset));
        let begin = recorder.now();
        let read = wire::consume(&mut clients[reader], offset, true).await;
        let read = read.unwrap_or_else(|status| {
            panic!("round {round}: {reader} does not see {offset} of {producer}: {status}")
        });
        recorder.read(Seen {
            session: None,
            kind: ReadKind::Strong,
            node: stage.cluster.name(reader),
            begin,
            from: offset,
            seen: vec![Entry {
                offset: read.offset,
                hash: hash(&read.value),
            }],
            tail: offset + 1,
        });
    }
    let report = recorder.assert_sound(&stage).await;
    assert_eq!(report.of(Rule::StrongRead), count);
    let took = begun.elapsed() / u32::try_from(count).expect("few rounds");
    // A relaxed read may miss it: if none did, the rounds above would prove little.
    for round in 0..count / 10 {
        let (producer, reader) = (round % 3, (round + 1) % 3);
        let offset = wire::produce(&mut clients[producer], b"relaxed").await;
        let read = wire::consume(&mut clients[reader], offset.expect("an offset"), false).await;
        behind += usize::from(read.is_err());
    }
    println!("{count} strong reads after an ack elsewhere: all fresh, {took:?} a round");
    println!("relaxed reads that were behind: {behind} of {}", count / 10);
}

#[tokio::test]
async fn past_the_end_is_404_with_a_localized_message() {
    let stage = Stage::start().await;
    let mut client = wire::log_client(&stage.cluster, 0);
    for records in 0..2 {
        for (place, strong) in [(0, false), (1, true), (2, true), (2, false)] {
            for offset in [records, 7, u64::MAX] {
                let channel = wire::channel(&stage.cluster, place);
                let (read, number) = wire::consume_raw(channel, offset, strong).await;
                let status = refused(read, "a read past the end");
                let about = format!("offset {offset} of {records} on node {place}: {status:?}");
                assert_eq!(number.as_deref(), Some("404"), "{about}");
                assert_eq!(status.code(), Code::Unknown, "tonic's name for it: {about}");
                let localized = status.get_details_localized_message();
                let localized = localized.unwrap_or_else(|| panic!("no detail: {about}"));
                assert_eq!(localized.locale, "en-US");
                assert!(localized.message.contains(&offset.to_string()), "{about}");
                let inner = status.metadata().get("ferrolog-status-number");
                assert_eq!(inner, None, "our own header stays inside");
            }
        }
        wire::produce(&mut client, b"a record").await.expect("ack");
    }
    // The number is for errors alone: a good answer has its status in the trailers.
    let (read, number) = wire::consume_raw(wire::channel(&stage.cluster, 1), 0, true).await;
    assert_eq!(read.expect("a record").value, "a record");
    assert_eq!(number, None);
}

/// The CPU time that a node uses in a span of idleness: the least of some, since other work on the machine
/// only ever adds to it.
async fn idle_cpu(stage: &Stage, place: usize) -> Duration {
    let mut least = Duration::MAX;
    for _ in 0..2 {
        let before = stage.cluster.cpu_time(place).expect("a process");
        // time itself is the subject
        tokio::time::sleep(IDLE).await;
        let after = stage.cluster.cpu_time(place).expect("a process");
        least = least.min(after - before);
    }
    least
}

#[tokio::test]
async fn a_stream_at_the_tail_waits_without_burning_cpu() {
    let stage = Stage::start_alone().await;
    let follower = stage.others(stage.leader().await)[0];
    let mut client = wire::log_client(&stage.cluster, follower);
    let first = wire::produce(&mut client, b"first").await.expect("ack");
    // Connected before both measurements, so that they differ in the streams alone.
    let without = idle_cpu(&stage, follower).await;

    let mut streams = Vec::new();
    for _ in 0..IDLE_STREAMS {
        let call = client.consume_stream(wire::request(first, false));
        let mut stream = wire::answer(call).await.expect("a stream");
        let record = stream.next().await.expect("a record").expect("a record");
        assert_eq!(record.record.expect("a record").value, "first");
        streams.push(stream);
    }
    let with = idle_cpu(&stage, follower).await;
    println!(
        "CPU in {IDLE:?}: {without:?} without streams, {with:?} with {IDLE_STREAMS} at the tail"
    );
    let extra = with.saturating_sub(without);
    assert!(extra < IDLE_CPU_MAX, "{extra:?} for waiting");

    let mut elsewhere = wire::log_client(&stage.cluster, stage.others(follower)[0]);
    let next = wire::produce(&mut elsewhere, b"next").await.expect("ack");
    let arrived = stream::iter(streams).map(|mut stream| async move {
        let record = stream.next().await.expect("a record").expect("a record");
        record.record.expect("a record")
    });
    let arrived = arrived.buffer_unordered(IDLE_STREAMS).collect::<Vec<_>>();
    let arrived = tokio::time::timeout(DOUBT_MAX, arrived).await;
    let arrived = arrived.expect("the record reaches every stream");
    assert_eq!(arrived.len(), IDLE_STREAMS);
    for record in arrived {
        assert_eq!((record.offset, &record.value[..]), (next, &b"next"[..]));
    }
}

#[tokio::test]
async fn get_servers_lists_all_members_and_one_leader() {
    let stage = Stage::start().await;
    let expected: BTreeSet<_> = (0..3)
        .map(|place| {
            let (name, addr) = (stage.cluster.name(place), stage.cluster.addr(place));
            (name.to_owned(), addr.to_owned())
        })
        .collect();
    let leader = stage.leader().await;
    for place in 0..3 {
        let mut client = wire::log_client(&stage.cluster, place);
        let answer = wire::answer(client.get_servers(GetServersRequest {})).await;
        let servers = answer.expect("the servers").servers;
        let listed = servers.iter().map(|s| (s.id.clone(), s.rpc_addr.clone()));
        assert_eq!(listed.collect::<BTreeSet<_>>(), expected);
        assert_eq!(servers.len(), 3, "none twice");
        let leaders = servers.iter().filter(|server| server.is_leader);
        let leaders: Vec<_> = leaders.map(|server| server.id.as_str()).collect();
        assert_eq!(leaders, [stage.cluster.name(leader)], "as {place} sees it");
    }
}

/// Kills all nodes but one, waits until that one says so, and brings the others back.
async fn health_after_a_lost_majority(stage: &mut Stage, survivor: usize) -> Duration {
    let channel = wire::channel(&stage.cluster, survivor);
    let begun = Instant::now();
    for place in stage.others(survivor) {
        stage.cluster.kill(place).await.expect("killed");
    }
    let doubts = async || {
        let told = wire::health(channel.clone(), "log.v1.Log").await;
        (told.ok() == Some(NOT_SERVING)).then_some(())
    };
    until_in(DOUBT_MAX, "the survivor says NOT_SERVING", doubts).await;
    let took = begun.elapsed();
    for place in stage.others(survivor) {
        stage.cluster.restart(place).await.expect("restarted");
    }
    stage.ready().await;
    until("all serve again", async || all_serve(stage).await).await;
    took
}

async fn all_serve(stage: &Stage) -> Option<()> {
    for place in 0..3 {
        for service in ["", "log.v1.Log", "ferrolog.v1.ClusterService"] {
            let told = wire::health(wire::channel(&stage.cluster, place), service).await;
            if told.ok() != Some(SERVING) {
                return None;
            }
        }
    }
    Some(())
}

#[tokio::test]
async fn health_is_told_of_a_follower_that_lost_the_others() {
    let mut stage = Stage::start_alone().await;
    assert_eq!(all_serve(&stage).await, Some(()), "all is well");
    let follower = stage.others(stage.leader().await)[0];
    let took = health_after_a_lost_majority(&mut stage, follower).await;
    println!("a follower left alone says NOT_SERVING {took:?} after the kills");
}

#[tokio::test]
async fn health_is_told_of_a_leader_that_lost_its_followers() {
    let mut stage = Stage::start_alone().await;
    assert_eq!(all_serve(&stage).await, Some(()), "all is well");
    let leader = stage.leader().await;
    let took = health_after_a_lost_majority(&mut stage, leader).await;
    println!("a leader left alone says NOT_SERVING {took:?} after the kills");
}
