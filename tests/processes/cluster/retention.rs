//! Trims and retention of a living cluster: what goes, what stays, and what readers and late nodes are told.

use ferrolog::client::{ClientError, Consistency, ConsumeOptions, ProducerOptions, Start};
use tonic_types::StatusExt;

use crate::harness::checker::{NodeLog, Outcome};
use crate::harness::command::{client, cluster_json};
use crate::harness::recorder::{Recorder, assert_sound, entries};
use crate::harness::{Stage, until, wire};

const SMALL: [&str; 2] = ["--segment-bytes-max", "65536"];

/// Records whose value tells their number.
async fn produce(stage: &Stage, recorder: &mut Recorder, from: u64, to: u64) {
    let producer = stage
        .client()
        .producer(ProducerOptions {
            // Many batches fit into the small segments here.
            batch_bytes_max: 4096,
            ..ProducerOptions::default()
        })
        .expect("a producer");
    let value = |number| format!("record {number} {}", "x".repeat(200));
    let mut acks = Vec::new();
    for number in from..to {
        let begin = recorder.now();
        let sent = producer.send(value(number)).await;
        acks.push((number, begin, sent.expect("sent")));
    }
    for (number, begin, ack) in acks {
        let offset = ack.await.expect("an ack");
        assert_eq!(offset, number);
        let outcome = Outcome::Acked(offset);
        recorder.append(0, value(number).as_bytes(), begin, outcome);
    }
}

async fn offsets(stage: &Stage, place: usize) -> (u64, u64) {
    let status = stage.status(place).await;
    (status.first_offset, status.next_offset)
}

/// Every node begins the log where all others do, holds what follows, and fewer segments than before.
async fn check(stage: &Stage, recorder: &Recorder, first: u64, next: u64) {
    let mut logs = Vec::new();
    for place in 0..stage.cluster.node_count() {
        until("a node has applied the trim", async || {
            (offsets(stage, place).await == (first, next)).then_some(())
        })
        .await;
        let records = stage
            .read_from(place, Start::Earliest, Consistency::Strong)
            .await;
        assert_eq!(records.len() as u64, next - first, "node {place}");
        logs.push(NodeLog {
            node: stage.cluster.name(place).to_owned(),
            first,
            entries: entries(&records),
        });
        let mut log = wire::log_client(&stage.cluster, place);
        let gone = wire::consume(&mut log, first - 1, false).await;
        let status = gone.expect_err("it was trimmed");
        let info = status.get_details_error_info().expect("details");
        assert_eq!(info.reason, "OFFSET_TRIMMED");
        assert_eq!(info.metadata["first_offset"], first.to_string());
    }
    assert_sound(&recorder.history, logs);
}

#[tokio::test]
async fn a_trim_goes_everywhere_and_to_those_who_come_back() {
    let mut stage = Stage::start_with(&SMALL).await;
    let mut recorder = Recorder::default();
    produce(&stage, &mut recorder, 0, 3000).await;
    let away = stage.others(stage.leader().await)[0];
    stage.cluster.terminate(away).await.expect("it stops");
    produce(&stage, &mut recorder, 3000, 5000).await;

    assert!(stage.status(stage.leader().await).await.segments > 12);
    let trimmed = client(&stage.cluster, &["log", "trim", "4000"]).await;
    assert!(trimmed.expect_success().contains("4000"));
    // An offset behind the end gives nothing up.
    let slip = client(&stage.cluster, &["log", "trim", "40000"]).await;
    slip.expect_refusal(&["40000", "5000"]);
    for place in stage.others(away) {
        until("segments are removed", async || {
            (stage.status(place).await.segments < 10).then_some(())
        })
        .await;
    }
    // The records that the node lacks are gone, so it gets a snapshot.
    stage.cluster.restart(away).await.expect("it starts");
    stage.ready().await;
    check(&stage, &recorder, 4000, 5000).await;

    // A reader of what is gone is told so, and not given something else.
    let options = ConsumeOptions {
        from: Start::Offset(10),
        ..ConsumeOptions::default()
    };
    let mut reader = stage.client().consume(options).expect("a consumer");
    let told = reader.next().await.expect("an answer");
    let told = told.expect_err("it was trimmed");
    let (asked, first) = (10, 4000);
    assert!(
        matches!(told, ClientError::Trimmed { asked: a, first: f } if (a, f) == (asked, first)),
        "{told}"
    );

    // All of them at once, from what they have on disk.
    for place in 0..3 {
        stage.cluster.kill(place).await.expect("killed");
    }
    for place in 0..3 {
        stage.cluster.restart(place).await.expect("it starts");
    }
    stage.ready().await;
    check(&stage, &recorder, 4000, 5000).await;
    produce(&stage, &mut recorder, 5000, 5100).await;
    check(&stage, &recorder, 4000, 5100).await;
}

#[tokio::test]
async fn retention_keeps_the_log_small_by_bytes_and_by_age() {
    let stage = Stage::start_with(&SMALL).await;
    let mut recorder = Recorder::default();
    let set = ["log", "retention", "--max-bytes", "300KiB"];
    client(&stage.cluster, &set).await.expect_success();
    let shown = client(&stage.cluster, &["log", "retention", "--output", "json"]).await;
    let shown: serde_json::Value = serde_json::from_str(&shown.expect_success()).expect("JSON");
    assert_eq!(shown["max_bytes"], 300 << 10);
    assert_eq!(shown["max_age_ms"], serde_json::Value::Null);

    produce(&stage, &mut recorder, 0, 5000).await;
    for place in 0..3 {
        until("the log is small", async || {
            let status = stage.status(place).await;
            // An eighth may be over, what stands around the records, and the segment in which the log begins.
            (status.segment_bytes <= 450 << 10 && status.first_offset > 0).then_some(())
        })
        .await;
    }
    let (first, next) = offsets(&stage, 0).await;
    assert!(first > 1000 && next == 5000, "{first}..{next}");
    check(&stage, &recorder, first, next).await;

    let set = [
        "log",
        "retention",
        "--max-bytes",
        "none",
        "--max-age",
        "500ms",
    ];
    client(&stage.cluster, &set).await.expect_success();
    until("everything is old", async || {
        let status = cluster_json(&stage.cluster, &["status"]).await;
        (status["first_offset"] == 5000).then_some(())
    })
    .await;
    produce(&stage, &mut recorder, 5000, 5010).await;
    let (_, next) = offsets(&stage, stage.leader().await).await;
    assert_eq!(next, 5010);
}

#[tokio::test]
async fn retention_waits_for_a_cursor_as_far_as_it_may() {
    let stage = Stage::start_with(&SMALL).await;
    let mut recorder = Recorder::default();
    let run = async |line: &[&str]| client(&stage.cluster, line).await.expect_success();
    produce(&stage, &mut recorder, 0, 700).await;
    let wait = ["--wait-for-cursor", "reader", "--wait-max-bytes", "800KiB"];
    let retention = [&["log", "retention", "--max-bytes", "200KiB"], &wait[..]].concat();
    // For what does not exist nothing would wait, nor would a reader that goes by another name.
    let unknown = client(&stage.cluster, &retention).await;
    unknown.expect_refusal(&["there is no cursor reader"]);
    let unknown = client(&stage.cluster, &["cursor", "set", "reader", "700"]).await;
    unknown.expect_refusal(&["there is no cursor reader", "--create"]);
    run(&["cursor", "set", "reader", "700", "--create"]).await;
    run(&retention).await;
    produce(&stage, &mut recorder, 700, 2500).await;
    // What is before the cursor goes, and nothing else.
    until("the log begins near the cursor", async || {
        let (first, _) = offsets(&stage, 0).await;
        assert!(first <= 700, "{first} is past the cursor");
        (first > 300).then_some(())
    })
    .await;
    run(&["cursor", "set", "reader", "2400", "--expected", "700"]).await;
    until("the log is small", async || {
        let status = stage.status(0).await;
        (status.segment_bytes <= 330 << 10).then_some(())
    })
    .await;
    let (first, _) = offsets(&stage, 0).await;
    assert!(first > 700, "the cursor moved on");
    // Above the cap retention waits for no cursor.
    produce(&stage, &mut recorder, 2500, 8000).await;
    until("the cap counts", async || {
        let (first, _) = offsets(&stage, 0).await;
        (first > 2400).then_some(())
    })
    .await;
    // What is read here must stand still.
    run(&["log", "retention", "--max-bytes", "none"]).await;
    let next = 8000;
    let (first, _) = offsets(&stage, stage.leader().await).await;
    check(&stage, &recorder, first, next).await;
    let shown = run(&["cursor", "list", "--output", "json"]).await;
    assert!(shown.contains("\"offset\":2400"), "it stays: {shown}");
}
