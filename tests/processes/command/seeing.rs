//! `cluster status`, `doctor` and `health` while nodes die, sleep, move, rot and come back: what an operator is told.
#![allow(
    clippy::disallowed_methods,
    reason = "it harms a file of a node that runs"
)]

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use ferrolog::cli::local_cluster::Signal;
use ferrolog::client::{Client, Consistency, ConsumeOptions};
use futures::future::join_all;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use crate::harness::command::{Lone, cluster, cluster_json, findings, serve_args};
use crate::harness::{PATIENCE, Stage, until};

/// Looks at a healthy cluster of which nothing may be said.
const LOOKS: usize = 100;

/// How soon a status is right after a fault, with something for a busy machine.
const SOON: Duration = Duration::from_millis(2_500);

/// Segments that fill, and calls that are slow, while the test looks on.
const FLAGS: [&str; 4] = ["--segment-bytes-max", "64KiB", "--slow-call-ms", "100"];
const SLOW: Duration = Duration::from_millis(100);

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

async fn found(stage: &Stage) -> (Vec<(String, String)>, Option<i32>) {
    findings(&stage.cluster).await
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

/// A write waits for a node without which there is no majority, and its leader's log tells where the time went.
async fn is_slow(stage: &Stage, leader: usize, other: usize) {
    let client = stage.client_of(leader);
    let logged = stage.log_len(leader);
    let line = until("a slow write is told", async || {
        // What opens the producer's session is no write.
        produce(&client).await;
        stage.cluster.signal(other, Signal::STOP).expect("asleep");
        let mut write = tokio::spawn({
            let client = client.clone();
            async move { produce(&client).await }
        });
        let early = timeout(SLOW + SLOW / 5, &mut write).await;
        assert!(early.is_err(), "without a majority");
        stage.cluster.signal(other, Signal::CONT).expect("awake");
        write.await.expect("it is written");
        // If another one was elected meanwhile, the write was not this leader's to tell of.
        let log = stage.log_since(leader, logged);
        let line = log.lines().find(|line| line.contains("a slow write"));
        line.map(str::to_owned)
    })
    .await;
    let ms = |stage: &str| {
        let (_, value) = line
            .split_once(&format!(" {stage}_ms="))
            .unwrap_or_else(|| panic!("no {stage}: {line}"));
        let value = value.split(' ').next().unwrap_or_default();
        Duration::from_millis(value.parse().unwrap_or_else(|_| panic!("{stage}: {line}")))
    };
    println!("{line}");
    let stages = ["queue", "append", "fsync", "quorum", "apply", "answer"].map(ms);
    let [queue, _, _, quorum, apply, answer] = stages;
    assert!(quorum >= SLOW, "it waited for the other node: {line}");
    let sum = queue + quorum + apply + answer;
    assert!(sum <= ms("took") + Duration::from_millis(10), "{line}");
    logs(stage, leader, logged, "a slow call").await;
    let log = stage.log_since(leader, logged);
    let call = log.lines().find(|line| line.contains("a slow call"));
    let call = call.expect("the call");
    assert!(
        call.contains("who=\"client\"") && call.contains("verb="),
        "{call}"
    );
}

async fn produce(client: &Client) {
    let record = Bytes::from_static(&[b'x'; 10 << 10]);
    client.produce(record).await.expect("a record");
}

/// So many records that the first segment of each node is full and sealed.
async fn seal(stage: &Stage) {
    let client = stage.client();
    for _ in 0..20 {
        produce(&client).await;
    }
    for place in 0..3 {
        let seal = first_segment(stage, place).with_extension("seal");
        until("the first segment is sealed", async || {
            seal.exists().then_some(())
        })
        .await;
    }
}

fn first_segment(stage: &Stage, place: usize) -> PathBuf {
    let dir = stage.cluster.data_dir(place);
    dir.join("00000000000000000000.store")
}

/// A sealed segment rots under a node that runs and that has nobody to ask: a reader meets it, and all are told.
async fn rots(stage: &Stage, place: usize) {
    let store = std::fs::File::options()
        .write(true)
        .open(first_segment(stage, place));
    let store = store.expect("a segment");
    store.write_all_at(&[7; 4096], 8 << 10).expect("harmed");
    let read = ConsumeOptions {
        consistency: Consistency::Relaxed,
        server: Some(stage.cluster.addr(place).to_owned()),
        ..ConsumeOptions::default()
    };
    let mut reader = stage.client_of(place).consume(read).expect("a consumer");
    let meets = tokio::spawn(async move { while let Some(Ok(_)) = reader.next().await {} });
    right(stage, "a segment is damaged", |told| {
        told["nodes"][place]["damaged_segments"] == 1
    })
    .await;
    meets.abort();
    finds(stage, "damaged", stage.cluster.name(place)).await;
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
    let mut stage = Stage::start_alone_with(&FLAGS).await;
    seal(&stage).await;
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
    // The leader heard it a moment ago.
    finds(&stage, "down", &name(follower)).await;
    stage.cluster.restart(follower).await.expect("restarted");
    stage.ready().await;
    stage.cluster.kill(follower).await.expect("killed");
    right(&stage, "a follower is killed", |told| {
        is_down(told, follower) && told["leader"] == name(leader)
    })
    .await;
    is_slow(&stage, leader, 3 - leader - follower).await;
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
    rots(&stage, third).await;

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
