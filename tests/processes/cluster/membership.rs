//! Changes that an operator makes to a living cluster: restarts, leaving, removal, transfer, a graceful stop.

use std::time::Duration;

use ferrolog::client::Consistency;
use ferrolog::proto::v1::GetStatusResponse;
use tokio::time::Instant;

use crate::harness::command::{Lone, serve_args};
use crate::harness::command::{client_of, cluster, cluster_json};
use crate::harness::load::Load;
use crate::harness::{PATIENCE, Stage, rounds, until, wire};

const PRODUCERS: usize = 3;
/// How long a node may take from SIGTERM to its end.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Leadership is handed on, so acks pause for less than an election takes after a crash.
const GAP_MAX: Duration = Duration::from_secs(1);

/// The part of a node's status that no restart may change.
#[derive(Debug, PartialEq)]
struct Lasting {
    cluster_id: String,
    node_id: u64,
    node_name: String,
    nodes: Vec<(u64, String, String, i32)>,
}

fn lasting(status: GetStatusResponse) -> Lasting {
    let nodes = status.nodes.into_iter();
    let nodes = nodes.map(|node| (node.id, node.name, node.addr, node.role));
    Lasting {
        cluster_id: status.cluster_id,
        node_id: status.node_id,
        node_name: status.node_name,
        nodes: nodes.collect(),
    }
}

#[tokio::test]
async fn restarts_with_the_same_flags_change_nothing() {
    let mut stage = Stage::start().await;
    let mut client = wire::log_client(&stage.cluster, 0);
    for number in 0..50 {
        let value = format!("record {number}");
        let ack = wire::produce(&mut client, value.as_bytes()).await;
        ack.expect("an ack");
    }
    let records = stage.read_all(0, Consistency::Strong).await;
    let mut before = Vec::new();
    for place in 0..3 {
        before.push(lasting(stage.status(place).await));
    }
    // One after another, then all at once; by a clean stop and by a crash.
    for (places, clean) in [
        (vec![0], true),
        (vec![1], false),
        (vec![2], true),
        (vec![0, 1, 2], true),
        (vec![2, 1, 0], false),
    ] {
        for &place in &places {
            let ended = match clean {
                true => stage.cluster.terminate(place).await,
                false => stage.cluster.kill(place).await,
            };
            let ended = ended.expect("it ends");
            assert_eq!(ended.code(), clean.then_some(0), "{place} of {places:?}");
        }
        for &place in &places {
            stage.cluster.restart(place).await.expect("restarted");
        }
        stage.ready().await;
        for (place, before) in before.iter().enumerate() {
            assert_eq!(lasting(stage.status(place).await), *before, "{places:?}");
            assert_eq!(stage.read_all(place, Consistency::Strong).await, records);
        }
    }
}

#[tokio::test]
async fn leadership_moves_where_it_is_sent() {
    let stage = Stage::start().await;
    for round in 0..6 {
        let leader = stage.leader().await;
        let to = stage.others(leader)[round % 2];
        let name = stage.cluster.name(to);
        let moved = cluster_json(&stage.cluster, &["transfer", name]).await;
        assert_eq!(moved["leader"], name);
        // The answer comes once the other node leads.
        assert_eq!(stage.leader().await, to);
    }
    let leader = stage.leader().await;
    let moved = cluster_json(&stage.cluster, &["transfer"]).await;
    assert_ne!(moved["leader"], stage.cluster.name(leader));
    let nobody = cluster(&stage.cluster, &["transfer", "n9"]).await;
    nobody.expect_refusal(&["n9", "ferrolog cluster status"]);
}

#[tokio::test]
async fn nodes_leave_and_are_removed_down_to_the_last() {
    let mut stage = Stage::start().await;
    let mut client = wire::log_client(&stage.cluster, 0);
    wire::produce(&mut client, b"one").await.expect("an ack");
    let nobody = cluster(&stage.cluster, &["remove", "n9"]).await;
    nobody.expect_refusal(&["no member \"n9\"", "the members are n1, n2, n3"]);

    // A follower leaves, and then the leader is removed.
    let leader = stage.leader().await;
    let (follower, last) = (stage.others(leader)[0], stage.others(leader)[1]);
    let addr = stage.cluster.addr(follower).to_owned();
    let left = cluster_json(&stage.cluster, &["leave", "--server", &addr]).await;
    assert_eq!(left["name"], stage.cluster.name(follower));
    assert_eq!(left["removed"], true);
    stage.cluster.kill(follower).await.expect("killed");
    // Two of two: it would not go on if the third were still counted and one more died.
    let mut client = wire::log_client(&stage.cluster, last);
    wire::produce(&mut client, b"two").await.expect("an ack");
    let name = stage.cluster.name(leader).to_owned();
    // By an operator who knows of it alone: it ends before it can answer, perhaps.
    let addr = stage.cluster.addr(leader).to_owned();
    let remove = ["cluster", "remove", &name, "--output", "json"];
    let removed = client_of(&stage.cluster, &addr, &remove).await;
    let removed = removed.expect_success();
    assert!(removed.contains("\"removed\":true"), "{removed}");
    stage.cluster.kill(leader).await.expect("killed");

    let alone = async || wire::produce(&mut client, b"three").await.ok();
    until("the last node goes on alone", alone).await;
    let only = stage.status(last).await;
    let names: Vec<_> = only.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, [stage.cluster.name(last)]);
    let refused = cluster(&stage.cluster, &["remove", stage.cluster.name(last)]).await;
    refused.expect_refusal(&["only voter", "add another"]);
    let records = stage.read_all(last, Consistency::Strong).await;
    assert_eq!(
        &records[..2]
            .iter()
            .map(|r| &r.value[..])
            .collect::<Vec<_>>(),
        &[b"one", b"two"]
    );
}

#[tokio::test]
async fn a_node_that_left_is_told_so_when_it_comes_back() {
    let mut stage = Stage::start().await;
    let place = stage.others(stage.leader().await)[0];
    let name = stage.cluster.name(place).to_owned();
    stage.cluster.terminate(place).await.expect("stopped");
    cluster_json(&stage.cluster, &["remove", &name]).await;
    let seen = stage.log_len(place);
    stage
        .cluster
        .restart(place)
        .await
        .expect("it listens first");
    let ended = stage.cluster.wait_exit(place, PATIENCE).await;
    let told = stage.log_since(place, seen);
    let ended = ended.unwrap_or_else(|error| panic!("{error:#}: {told}"));
    assert!(ended.code().is_some_and(|code| code != 0), "{ended:?}");
    assert!(told.contains("empty data directory"), "{told}");
}

#[tokio::test]
async fn a_graceful_stop_hands_leadership_on() {
    let mut stage = Stage::start_alone().await;
    let load = Load::start(&stage, PRODUCERS);
    let mut stops = Vec::new();
    for _ in 0..rounds(3) {
        load.progress(100).await;
        let leader = stage.leader().await;
        let name = stage.cluster.name(leader).to_owned();
        let (at, begun) = (load.now(), Instant::now());
        let ended = stage.cluster.terminate(leader).await.expect("it ends");
        let took = begun.elapsed();
        assert_eq!(ended.code(), Some(0));
        assert!(took < DRAIN_MAX, "{took:?}");
        // By the time that it is gone another one leads: nobody had to miss it. The third one may not have
        // voted for it, and then hears of it by its first message.
        let mut leads = Vec::new();
        for other in stage.others(leader) {
            let status = stage.status(other).await;
            leads.push(status.leader_id == status.node_id);
        }
        assert!(leads.contains(&true), "nobody leads after {name}");
        for other in stage.others(leader) {
            until("every node knows the next leader", async || {
                let status = stage.status(other).await;
                let mut nodes = status.nodes.iter();
                let known = nodes.find(|node| node.id == status.leader_id)?;
                (known.name != name).then_some(())
            })
            .await;
        }
        load.progress(100).await;
        stops.push((at, load.now(), took));
        stage.cluster.restart(leader).await.expect("restarted");
        stage.ready().await;
    }
    let history = load.finish().await;
    for (from, to, took) in stops {
        let (all, worst) = history.longest_gaps(from, to);
        println!(
            "graceful stop: exit 0 after {took:.0?}, longest gap in acks {all:.0?}, of the worst producer {worst:.0?}"
        );
        assert!(all < GAP_MAX && worst < 5 * GAP_MAX, "{all:?}, {worst:?}");
    }
    history.assert_sound(&stage).await;
}

#[tokio::test]
async fn a_graceful_stop_ends_streams_at_the_tail() {
    let mut stage = Stage::start().await;
    let place = stage.leader().await;
    let mut client = wire::log_client(&stage.cluster, place);
    let call = client.consume_stream(wire::request(0, false));
    let mut stream = wire::answer(call).await.expect("a stream");
    let watch = tokio::spawn(async move { stream.message().await });
    let begun = Instant::now();
    let ended = stage.cluster.terminate(place).await.expect("it ends");
    assert_eq!(ended.code(), Some(0));
    println!(
        "exit 0 {:.0?} after SIGTERM with a stream open",
        begun.elapsed()
    );
    assert!(begun.elapsed() < DRAIN_MAX);
    let told = tokio::time::timeout(DRAIN_MAX, watch).await;
    let told = told.expect("the stream ends").expect("a task");
    let status = told.expect_err("no record came");
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
}

#[tokio::test]
async fn a_lone_node_may_move_to_another_address() {
    let stage = Stage::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let files = stage.cluster.tls_files("n1").expect("TLS");
    let args = serve_args("n1", &dir.path().join("n1"), &files, &["--bootstrap"]);
    let mut addrs = Vec::new();
    for start in 0..2 {
        // Port 0: another address each time.
        let mut node = Lone::start(&args).await;
        let servers = vec![node.addr.clone()];
        let client = stage.cluster.client_of(servers.clone(), PATIENCE);
        let client = client.expect("a client");
        let settled = until("it is known under its address", async || {
            if node.has_ended() {
                return Some(None);
            }
            let status = client.admin().status(None).await.ok()?;
            let me = status.nodes.first()?;
            (me.addr == node.addr).then_some(Some(status.next_offset))
        })
        .await;
        if settled.is_none() {
            panic!("start {start}: it ended: {}", node.kill().await);
        }
        let ack = client.produce("a record".into()).await;
        assert_eq!(ack.expect("an ack"), start, "nothing is lost by the move");
        addrs.extend(servers);
        node.kill().await;
    }
    assert_ne!(addrs[0], addrs[1]);
}
