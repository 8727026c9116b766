//! `cluster status`, `doctor` and `health` while nodes die, sleep and come back: what an operator is told.

use ferrolog::cli::local_cluster::Signal;
use serde_json::Value;

use crate::harness::command::{client, cluster, cluster_json};
use crate::harness::{Stage, until};

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

async fn finds(stage: &Stage, kind: &str, node: &str) {
    let (found, code) = found(stage).await;
    let wanted = (kind.to_owned(), node.to_owned());
    assert!(found.contains(&wanted), "{wanted:?} in {found:?}");
    assert_ne!(code, Some(0));
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

    let leader = stage.leader().await;
    let follower = stage.others(leader)[0];
    let name = |place: usize| format!("n{}", place + 1);
    stage
        .cluster
        .signal(follower, Signal::STOP)
        .expect("asleep");
    let status = cluster_json(&stage.cluster, &["status"]).await;
    let node = &status["nodes"][follower];
    assert_eq!(
        (&node["name"], &node["up"]),
        (&name(follower).into(), &false.into())
    );
    assert_eq!(
        (&status["quorum"], &status["voters_up"]),
        (&true.into(), &2.into())
    );
    finds(&stage, "down", &name(follower)).await;
    stage.cluster.signal(follower, Signal::CONT).expect("awake");
    until("nothing is wrong", async || {
        (found(&stage).await == healthy).then_some(())
    })
    .await;

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
    until("another one leads", async || {
        let ended = cluster(&stage.cluster, &["status"]).await;
        (ended.code == Some(0)).then_some(())
    })
    .await;
    finds(&stage, "down", &name(leader)).await;

    stage.cluster.kill(follower).await.expect("killed");
    let status = cluster(&stage.cluster, &["status"]).await;
    assert_eq!(status.code, Some(6), "{}", status.out);
    assert!(
        status.out.contains("quorum: no, 2 are needed"),
        "{}",
        status.out
    );
    let (kinds, code) = found(&stage).await;
    assert_eq!((&*kinds[0].0, code), ("no-quorum", Some(6)), "{kinds:?}");
    for place in [leader, follower] {
        stage.cluster.restart(place).await.expect("restarted");
    }
    stage.ready().await;
    until("nothing is wrong", async || {
        (found(&stage).await == healthy).then_some(())
    })
    .await;
}
