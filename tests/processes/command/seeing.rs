//! `cluster status`, `doctor` and `health` while nodes die, sleep and come back: what an operator is told.

use std::time::Duration;

use ferrolog::cli::local_cluster::Signal;
use futures::future::join_all;
use serde_json::Value;
use tokio::time::Instant;

use crate::harness::command::{Lone, client, cluster, cluster_json, serve_args};
use crate::harness::{PATIENCE, Stage, until};

/// Looks at a healthy cluster of which nothing may be said.
const LOOKS: usize = 100;

/// How soon a status is right after a fault, with something for a busy machine.
const SOON: Duration = Duration::from_millis(2_500);

/// Looks at the status of the cluster until it is right, which must be soon.
async fn right(stage: &Stage, what: &str, is_right: impl Fn(&Value) -> bool) -> Value {
    right_in(SOON, stage, what, is_right).await
}

async fn right_in(
    soon: Duration,
    stage: &Stage,
    what: &str,
    is_right: impl Fn(&Value) -> bool,
) -> Value {
    let begun = Instant::now();
    loop {
        let ended = cluster(&stage.cluster, &["status", "--output", "json"]).await;
        let told = serde_json::from_str::<Value>(&ended.out).unwrap_or_default();
        let took = begun.elapsed();
        if is_right(&told) {
            println!("{what}: the status is right after {took:.1?}");
            assert!(took < soon, "{what}: {took:?}");
            return told;
        }
        assert!(took < PATIENCE, "{what}: {}", ended.out);
    }
}

/// The kinds of faults that `doctor` finds, each with its node, and its exit code.
async fn found(stage: &Stage) -> (Vec<(String, String)>, Option<i32>) {
    let ended = client(&stage.cluster, &["doctor", "--output", "json"]).await;
    let told: Value = serde_json::from_str(&ended.out).expect("JSON");
    let findings = told["findings"].as_array().expect("findings");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kinds = findings
        .iter()
        .map(|one| (text(&one["kind"]), text(&one["node"])));
    (kinds.collect(), ended.code)
}

/// Waits until a node has logged this.
async fn logs(stage: &Stage, place: usize, since: usize, what: &str) {
    until(what, async || {
        stage.log_since(place, since).contains(what).then_some(())
    })
    .await;
}

async fn finds(stage: &Stage, kind: &str, node: &str) {
    let (found, code) = found(stage).await;
    let wanted = (kind.to_owned(), node.to_owned());
    assert!(found.contains(&wanted), "{wanted:?} in {found:?}");
    assert_ne!(code, Some(0));
}

/// A node comes back at another address, and back again.
async fn moves(stage: &mut Stage, place: usize) {
    let name = stage.cluster.name(place).to_owned();
    stage.cluster.kill(place).await.expect("killed");
    let files = stage.cluster.tls_files(&name).expect("TLS");
    let other = stage.others(place)[0];
    let rest = [
        "--listen",
        "127.0.0.1:0",
        "--join",
        stage.cluster.addr(other),
    ];
    let args = serve_args(&name, &stage.cluster.data_dir(place), &files, &rest);
    let moved = Lone::start(&args).await;
    let addr = moved.addr.clone();
    // It is a member there once it has started, which takes longer than the look.
    let start = Duration::from_secs(2);
    right_in(start + SOON, stage, "a node has another address", |told| {
        let node = &told["nodes"][place];
        node["addr"] == *addr && node["up"] == true && told["voters_up"] == 3
    })
    .await;
    let log = moved.kill().await;
    assert!(!log.contains("ERROR"), "{log}");
    stage.cluster.restart(place).await.expect("restarted");
    stage.ready().await;
}

#[tokio::test]
async fn a_node_that_dies_or_sleeps_does_not_look_alive() {
    let mut stage = Stage::start_alone().await;
    let healthy = found(&stage).await;
    assert_eq!(healthy, (Vec::new(), Some(0)));
    let status = cluster_json(&stage.cluster, &["status"]).await;
    assert_eq!(
        (&status["quorum"], &status["voters_up"]),
        (&true.into(), &3.into())
    );
    // Certificates of a new cluster are good for longer than that.
    let ends_ms = status["nodes"][0]["certificate_ends_ms"].as_u64();
    let soon_ms = status["clock_ms"].as_u64().expect("a time") + 30 * 86_400_000;
    assert!(ends_ms.is_some_and(|ends| ends > soon_ms), "{status}");
    for look in 0..LOOKS / 4 {
        let four = join_all([(); 4].map(|()| found(&stage))).await;
        assert!(four.iter().all(|told| *told == healthy), "{look}: {four:?}");
    }

    let leader = stage.leader().await;
    let follower = stage.others(leader)[0];
    let name = |place: usize| format!("n{}", place + 1);
    stage
        .cluster
        .signal(follower, Signal::STOP)
        .expect("asleep");
    let is_down = |status: &Value, place: usize| {
        let node = &status["nodes"][place];
        node["name"] == name(place) && node["up"] == false && status["voters_up"] == 2
    };
    let status = right(&stage, "a node sleeps", |told| is_down(told, follower)).await;
    assert_eq!(status["quorum"], true);
    finds(&stage, "down", &name(follower)).await;
    let logged = stage.log_len(leader);
    stage.cluster.signal(follower, Signal::CONT).expect("awake");
    logs(&stage, leader, logged, "a member is heard again").await;
    until("nothing is wrong", async || {
        (found(&stage).await == healthy).then_some(())
    })
    .await;

    stage.cluster.kill(follower).await.expect("killed");
    right(&stage, "a follower is killed", |told| {
        is_down(told, follower) && told["leader"] == name(leader)
    })
    .await;
    stage.cluster.restart(follower).await.expect("restarted");
    stage.ready().await;
    let third = 3 - leader - follower;
    moves(&mut stage, third).await;

    let leader = stage.leader().await;
    let follower = stage.others(leader)[0];
    let third = 3 - leader - follower;
    let logged = [0, 1, 2].map(|place| stage.log_len(place));
    stage.cluster.kill(leader).await.expect("killed");
    let text = cluster(&stage.cluster, &["status"]).await;
    let told = text.out;
    assert!(told.contains("2 of 3 voters up"), "{told}");
    assert!(
        !told.contains(&format!("leader {}", name(leader))),
        "{told}"
    );
    assert!(
        told.contains(&format!("{} does not answer", name(leader))),
        "{told}"
    );
    right(&stage, "the leader is killed", |told| {
        is_down(told, leader) && told["quorum"] == true && told["leader"] != name(leader)
    })
    .await;
    finds(&stage, "down", &name(leader)).await;
    let won = [follower, third].map(|place| stage.log_since(place, logged[place]));
    let why = "the leader before was not heard";
    let told = |log: &String| log.contains("won the election") && log.contains(why);
    assert!(won.iter().any(told), "{won:?}");

    stage.cluster.kill(follower).await.expect("killed");
    right(&stage, "the quorum is lost", |told| {
        told["quorum"] == false && told["voters_up"] == 1 && told["leader"] == Value::Null
    })
    .await;
    let status = cluster(&stage.cluster, &["status"]).await;
    assert_eq!(status.code, Some(6), "{}", status.out);
    assert!(
        status.out.contains("quorum: no, 2 are needed"),
        "{}",
        status.out
    );
    let (kinds, code) = found(&stage).await;
    assert_eq!((&*kinds[0].0, code), ("no-quorum", Some(6)), "{kinds:?}");
    // One that starts without a quorum says so, and not ten times a second.
    stage.cluster.kill(third).await.expect("killed");
    let logged = stage.log_len(third);
    stage.cluster.restart(third).await.expect("restarted");
    logs(
        &stage,
        third,
        logged,
        "nobody leads, so nothing is committed",
    )
    .await;
    let log = stage.log_since(third, logged);
    let warnings = log.lines().filter(|line| !line.contains(" INFO "));
    assert!(warnings.count() < 5 && log.lines().count() < 20, "{log}");

    for place in [leader, follower] {
        stage.cluster.restart(place).await.expect("restarted");
    }
    stage.ready().await;
    until("nothing is wrong", async || {
        (found(&stage).await == healthy).then_some(())
    })
    .await;
    // A stop that was asked for is no failure.
    for place in 0..3 {
        let logged = stage.log_len(place);
        stage.cluster.terminate(place).await.expect("stopped");
        let log = stage.log_since(place, logged);
        assert!(!log.contains("ERROR"), "{log}");
    }
}
