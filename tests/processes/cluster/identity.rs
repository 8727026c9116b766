//! Who may be a node of a cluster: every impostor is refused, and told what to do.
//!
//! Each refusal stands beside the same act done rightly, so that it cannot pass because nothing works at all.
#![allow(
    clippy::disallowed_methods,
    reason = "it wipes and copies the directories of its nodes"
)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use ferrolog::cli::local_cluster::{LocalCluster, LocalClusterOptions, Signal};
use ferrolog::client::Consistency;
use ferrolog::net::Kind;
use ferrolog::net::tls::TlsFiles;
use ferrolog::proto::v1::NodeRole;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

use crate::harness::command::{Lone, cluster_json, serve_args, serve_refused};
use crate::harness::{BINARY, PATIENCE, Stage, command, refused, until, wire};

const RECORDS: u64 = 50;

async fn fill(cluster: &LocalCluster, place: usize) {
    let mut client = wire::log_client(cluster, place);
    for number in 0..RECORDS {
        let value = format!("record {number}");
        let ack = wire::produce(&mut client, value.as_bytes()).await;
        assert_eq!(ack.expect("an ack"), number);
    }
}

/// A cluster of one node, of the same authority as `stage`, with some records.
async fn another_cluster(stage: &Stage, dir: &Path) -> LocalCluster {
    let certs = dir.join("certs");
    fs::create_dir_all(&certs).expect("a directory");
    for entry in fs::read_dir(stage.path().join("certs")).expect("certificates") {
        let from = entry.expect("a file").path();
        // A copy keeps the mode, too: a key with another mode is refused.
        fs::copy(&from, certs.join(from.file_name().expect("a name"))).expect("copied");
    }
    let options = LocalClusterOptions {
        nodes: 1,
        ..LocalClusterOptions::new(BINARY, dir)
    };
    let other = LocalCluster::start(options).await.expect("a cluster");
    fill(&other, 0).await;
    other
}

fn files(stage: &Stage, name: &str) -> TlsFiles {
    stage.cluster.tls_files(name).expect("TLS")
}

/// The members as `(name, id)`, as the leader knows them.
async fn members(stage: &Stage) -> Vec<(String, u64)> {
    let status = stage.status(stage.leader().await).await;
    let nodes = status.nodes.into_iter();
    nodes.map(|node| (node.name, node.id)).collect()
}

#[tokio::test]
async fn a_wiped_node_is_refused_until_its_old_self_is_removed() {
    let mut stage = Stage::start().await;
    fill(&stage.cluster, 0).await;
    let before = members(&stage).await;
    let old_id = stage.status(2).await.node_id;

    stage.cluster.kill(2).await.expect("killed");
    fs::remove_dir_all(stage.cluster.data_dir(2)).expect("wiped");
    let seen = stage.log_len(2);
    stage.cluster.restart(2).await.expect("it listens first");
    let ended = stage.cluster.wait_exit(2, PATIENCE).await;
    let ended = ended.expect("it does not stay");
    assert!(ended.code().is_some_and(|code| code != 0), "{ended:?}");
    let told = stage.log_since(2, seen);
    assert!(told.contains("ferrolog cluster remove n3"), "{told}");
    assert_eq!(members(&stage).await, before, "a refusal changes nothing");

    let removed = cluster_json(&stage.cluster, &["remove", "n3"]).await;
    assert_eq!(removed["removed"], true);
    cluster_json(&stage.cluster, &["allow", "n3"]).await;
    stage.cluster.restart(2).await.expect("restarted");
    stage.ready().await;
    let status = stage.status(2).await;
    assert!(status.node_id > old_id, "ids are not used twice");
    assert_eq!(status.cluster_id, stage.status(0).await.cluster_id);
    let records = stage.read_all(2, Consistency::Strong).await;
    assert_eq!(records, stage.read_all(0, Consistency::Strong).await);
    assert_eq!(records.len() as u64, RECORDS);
}

/// A node that has a directory refuses to join a cluster that is not its own.
async fn foreign_node_is_refused(keeps_address: bool) {
    let stage = Stage::start().await;
    fill(&stage.cluster, 0).await;
    let dir = tempfile::tempdir().expect("a directory");
    let mut other = another_cluster(&stage, dir.path()).await;
    let theirs = other.client(PATIENCE).expect("a client");
    let theirs = theirs
        .admin()
        .status(None)
        .await
        .expect("a status")
        .cluster_id;
    let (before, ours) = (members(&stage).await, stage.status(0).await.cluster_id);
    assert_ne!(theirs, ours);

    other.kill(0).await.expect("killed");
    let listen = match keeps_address {
        true => other.addr(0),
        false => "127.0.0.1:0",
    };
    let rest = ["--join", stage.cluster.addr(1), "--listen", listen];
    let args = serve_args("n1", &other.data_dir(0), &files(&stage, "n1"), &rest);
    serve_refused(&args, &[&ours, &theirs, "empty data directory"]).await;
    assert_eq!(members(&stage).await, before);
    // Neither log has changed.
    other.restart(0).await.expect("restarted");
    other.wait_ready(PATIENCE).await.expect("its own again");
    let next = other
        .client(PATIENCE)
        .expect("a client")
        .admin()
        .status(None)
        .await;
    assert_eq!(next.expect("a status").next_offset, RECORDS);
    let records = stage.read_all(1, Consistency::Strong).await;
    assert_eq!(records.len() as u64, RECORDS);
}

#[tokio::test]
async fn a_node_of_another_cluster_refuses_to_join_at_its_old_address() {
    foreign_node_is_refused(true).await;
}

#[tokio::test]
async fn a_node_of_another_cluster_refuses_to_join_at_a_new_address() {
    foreign_node_is_refused(false).await;
}

#[tokio::test]
async fn a_call_from_another_cluster_is_refused() {
    let stage = Stage::start().await;
    let (ours, theirs) = (stage.status(0).await.cluster_id, "0".repeat(32));
    for place in 0..3 {
        let id = stage.status(place).await.node_id;
        let (name, from) = match place {
            0 => ("n2", stage.status(1).await.node_id),
            _ => ("n1", stage.status(0).await.node_id),
        };
        let answer = vote_of(&stage, name, place, &theirs, from, id).await;
        let foreign = refused(answer, "a vote of another cluster");
        assert_eq!(foreign.code(), Code::FailedPrecondition, "{foreign:?}");
        let told = foreign.message();
        assert!(told.contains(&ours) && told.contains(&theirs), "{told}");
        // The same call in the name of a neighbour gets through the checks.
        let answer = vote_of(&stage, name, place, &ours, from, id).await;
        let empty = refused(answer, "an empty vote");
        assert_eq!(empty.code(), Code::InvalidArgument, "{empty:?}");
    }
}

#[tokio::test]
async fn a_wiped_first_node_begins_no_second_cluster() {
    let mut stage = Stage::start().await;
    fill(&stage.cluster, 0).await;
    let before = members(&stage).await;
    let ours = stage.status(1).await.cluster_id;
    stage.cluster.kill(0).await.expect("killed");
    let dir = stage.cluster.data_dir(0);
    fs::remove_dir_all(&dir).expect("wiped");
    let peers = [stage.cluster.addr(1), stage.cluster.addr(2)].join(",");
    // Its usual flags, if they name the others; without their names it cannot know of them.
    let begin = ["--bootstrap", "--join", &peers];
    let args = serve_args("n1", &dir, &files(&stage, "n1"), &begin);
    serve_refused(&args, &[&ours, "leave --bootstrap out"]).await;
    let args = serve_args("n1", &dir, &files(&stage, "n1"), &["--join", &peers]);
    serve_refused(&args, &["ferrolog cluster remove n1"]).await;
    let after = stage.status(1).await.nodes.into_iter();
    let after: Vec<_> = after.map(|node| (node.name, node.id)).collect();
    assert_eq!(after, before);
}

/// Sends an empty vote, in the name of a node. One that passes the checks is refused for its emptiness.
async fn vote_of(
    stage: &Stage,
    certificate: &str,
    place: usize,
    cluster: &str,
    from: u64,
    to: u64,
) -> Result<wire::Identified, tonic::Status> {
    let metadata = [
        ("ferrolog-wire", "3".to_owned()),
        ("ferrolog-cluster", cluster.to_owned()),
        ("ferrolog-from", from.to_string()),
        ("ferrolog-to", to.to_string()),
    ];
    let layer = wire::layer_of(&files(stage, certificate));
    let addr = stage.cluster.addr(place);
    wire::raft_call(&layer, addr, "Vote", &metadata).await
}

#[tokio::test]
async fn no_second_cluster_begins_beside_a_living_one() {
    let stage = Stage::start().await;
    let before = members(&stage).await;
    let certs = stage.path().join("certs");
    let mint = [
        "certs",
        "--out",
        certs.to_str().expect("UTF-8"),
        "--nodes",
        "n4",
    ];
    let minted = command::run(&mint.map(str::to_owned)).await;
    minted.expect_success();

    let (dir, files) = (stage.path().join("n4"), files(&stage, "n4"));
    let ours = stage.status(0).await.cluster_id;
    let peers = stage.cluster.addrs().join(",");
    let args = serve_args("n4", &dir, &files, &["--bootstrap", "--join", &peers]);
    serve_refused(&args, &[&ours, "leave --bootstrap out"]).await;
    assert_eq!(members(&stage).await, before);

    // Nobody let it in; the directory that the refused starts left behind does not hurt.
    let join = serve_args("n4", &dir, &files, &["--join", &peers]);
    serve_refused(&join, &["ferrolog cluster allow n4", "--join-token"]).await;
    assert_eq!(members(&stage).await, before);
    cluster_json(&stage.cluster, &["allow", "n4"]).await;
    // What the refusal says to do, works, with the directory that the refused start left behind.
    let joined = Lone::start(&serve_args("n4", &dir, &files, &["--join", &peers])).await;
    until("n4 is a voter", async || {
        let status = stage.client().admin().status(None).await.ok()?;
        let mut nodes = status.nodes.iter();
        let n4 = nodes.find(|node| node.name == "n4")?;
        (n4.role() == NodeRole::Voter && n4.addr == joined.addr).then_some(())
    })
    .await;
    joined.kill().await;
}

#[tokio::test]
async fn a_node_joins_only_when_it_is_let_in() {
    let stage = Stage::start().await;
    let before = members(&stage).await;
    let certs = stage.path().join("certs");
    let certs = certs.to_str().expect("UTF-8");
    let mint = ["certs", "--out", certs, "--nodes", "n4,n5,n6"].map(str::to_owned);
    command::run(&mint).await.expect_success();
    let peers = stage.cluster.addrs().join(",");
    let args = |name: &str, rest: &[&str]| {
        let rest = [&["--join", &peers][..], rest].concat();
        serve_args(name, &stage.path().join(name), &files(&stage, name), &rest)
    };
    let is_voter = async |name: &str| {
        let status = stage.client().admin().status(None).await.ok()?;
        let mut nodes = status.nodes.into_iter();
        nodes
            .find(|node| node.name == name && node.role() == NodeRole::Voter)
            .map(drop)
    };
    serve_refused(&args("n4", &[]), &["ferrolog cluster allow n4"]).await;
    // Taken back, it is as if it had never been allowed.
    cluster_json(&stage.cluster, &["allow", "n4"]).await;
    let status = cluster_json(&stage.cluster, &["status"]).await;
    assert_eq!(status["allowed_names"], json!(["n4"]));
    let told = cluster_json(&stage.cluster, &["disallow", "n4"]).await;
    assert_eq!(told["withdrawn"], true);
    serve_refused(&args("n4", &[]), &["ferrolog cluster allow n4"]).await;
    let wrong = args("n4", &["--join-token", "0123"]);
    serve_refused(&wrong, &["ferrolog cluster allow n4"]).await;
    assert_eq!(members(&stage).await, before);
    stage
        .audited("who may not join", |told| {
            let reason = told["reason"].as_str().unwrap_or_default();
            told["verb"] == "ferrolog.raft.v1.Raft/Join"
                && (&told["subject"], &told["outcome"]) == (&json!("n4"), &json!("denied"))
                && told["address"]
                    .as_str()
                    .is_some_and(|addr| addr.starts_with("127.0.0.1:"))
                && reason.contains("ferrolog cluster allow n4")
        })
        .await;

    let token = cluster_json(&stage.cluster, &["token"]).await;
    let token = ["--join-token", token["token"].as_str().expect("a token")];
    let n4 = Lone::start(&args("n4", &token)).await;
    until("n4 is a voter", async || is_voter("n4").await).await;
    serve_refused(&args("n5", &token), &["ferrolog cluster allow n5"]).await;
    cluster_json(&stage.cluster, &["allow", "n5"]).await;
    let n5 = Lone::start(&args("n5", &[])).await;
    until("n5 is a voter", async || is_voter("n5").await).await;

    // Who was removed comes back when it is let in again, and not by what was said before.
    cluster_json(&stage.cluster, &["allow", "n5"]).await;
    let removed = cluster_json(&stage.cluster, &["remove", "n5"]).await;
    assert_eq!(removed["removed"], true);
    n5.kill().await;
    fs::remove_dir_all(stage.path().join("n5")).expect("wiped");
    serve_refused(&args("n5", &[]), &["ferrolog cluster allow n5"]).await;
    cluster_json(&stage.cluster, &["allow", "n5"]).await;
    let n5 = Lone::start(&args("n5", &[])).await;
    until("n5 is a voter again", async || is_voter("n5").await).await;
    n5.kill().await;
    n4.kill().await;
}

#[tokio::test]
async fn a_node_starts_with_its_own_certificate_and_no_other() {
    let stage = Stage::start().await;
    let dir = stage.path().join("fresh");
    let peers = stage.cluster.addrs().join(",");
    for start in [&["--bootstrap"][..], &["--join", &peers]] {
        let client = stage.cluster.client_tls_files().expect("TLS");
        let args = serve_args("n3", &dir, &client, start);
        serve_refused(&args, &["names no node", "ferrolog certs --nodes n3"]).await;
        let args = serve_args("n3", &dir, &files(&stage, "n2"), start);
        serve_refused(&args, &["for node n2, this is n3", "its own certificate"]).await;
    }
    assert!(!dir.exists(), "a refused start leaves nothing behind");

    // A process that does not check itself: the peers hold the name in the certificate against the id.
    let (status, id) = (stage.status(0).await, stage.status(2).await.node_id);
    let (to, cluster) = (status.node_id, status.cluster_id);
    let answer = vote_of(&stage, "n2", 0, &cluster, id, to).await;
    let lied = refused(answer, "n3's call with n2's certificate");
    assert_eq!(lied.code(), Code::PermissionDenied, "{lied:?}");
    assert!(
        lied.message().contains("ferrolog certs --nodes n3"),
        "{lied:?}"
    );
    let answer = vote_of(&stage, "n3", 0, &cluster, id, to).await;
    let honest = refused(answer, "an empty vote");
    assert_ne!(honest.code(), Code::PermissionDenied, "{honest:?}");
}

#[tokio::test]
async fn a_client_certificate_opens_no_raft_stream() {
    let stage = Stage::start().await;
    let (addr, cluster) = (stage.cluster.addr(0), stage.status(0).await.cluster_id);
    // A node's certificate gets an answer.
    let node = wire::layer_of(&files(&stage, "n2"));
    let known = wire::raft_call(&node, addr, "Identify", &[]).await;
    let known = known.expect("an answer");
    assert_eq!(known.cluster_id, cluster);
    assert_eq!(known.members.len(), 0, "it did not say that it is a member");

    let client = wire::layer_of(&stage.cluster.client_tls_files().expect("TLS"));
    let seen = stage.log_len(0);
    for verb in ["Identify", "Join", "Vote", "ReadIndex"] {
        let answer = wire::raft_call(&client, addr, verb, &[]).await;
        let status = refused(answer, verb);
        // No server wrote this: the stream was closed under the call.
        let by_server = status.metadata().contains_key("content-type");
        assert!(!by_server, "{verb} was answered: {status:?}");
    }
    // Byte by byte: after the handshake the node closes, and sends nothing.
    if let Ok(mut stream) = client.dial(Kind::Raft, addr, PATIENCE).await {
        // The preface may meet a closed stream; then it is refused, too.
        let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let _ = stream.flush().await;
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
        let _ = read.expect("the node closes the stream");
        assert_eq!(bytes, b"", "the node spoke to a client on a raft stream");
    }
    let told = stage.log_since(0, seen);
    assert!(
        told.contains("client certificate"),
        "its log says why: {told}"
    );
    // The client's certificate serves for a client's calls.
    let mut log = wire::log_client(&stage.cluster, 0);
    wire::produce(&mut log, b"allowed").await.expect("an ack");
}

#[tokio::test]
async fn two_processes_do_not_share_a_directory() {
    let stage = Stage::start().await;
    fill(&stage.cluster, 0).await;
    for place in 0..3 {
        let (name, dir) = (stage.cluster.name(place), stage.cluster.data_dir(place));
        let peers = stage.cluster.addrs().join(",");
        let args = serve_args(name, &dir, &files(&stage, name), &["--join", &peers]);
        serve_refused(&args, &["in use", "--data-dir"]).await;
    }
    // The first holders went on all the while.
    stage.ready().await;
    let strong = stage.read_all(1, Consistency::Strong).await;
    assert_eq!(strong.len() as u64, RECORDS);
}

/// Copies the files of a node that does nothing meanwhile.
fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a node's data") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a kind").is_dir() {
            true => copy_dir(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("copied")),
        }
    }
}

#[tokio::test]
async fn a_copied_directory_does_not_run_beside_its_original() {
    let mut stage = Stage::start().await;
    fill(&stage.cluster, 0).await;
    let peers = stage.cluster.addrs().join(",");
    let args = |copy: &Path| serve_args("n3", copy, &files(&stage, "n3"), &["--join", &peers]);
    let (earlier, later) = (stage.path().join("earlier"), stage.path().join("later"));
    let (of_earlier, of_later) = (args(&earlier), args(&later));
    stage.cluster.terminate(2).await.expect("stopped");
    copy_dir(&stage.cluster.data_dir(2), &earlier);
    stage.cluster.restart(2).await.expect("restarted");
    stage.ready().await;
    let addr = stage.cluster.addr(2).to_owned();
    // The original runs first, so it goes on at its address.
    serve_refused(&of_earlier, &["another start of node n3", &addr]).await;
    let at = async |addr: &str| {
        let status = stage.client().admin().status(None).await.ok()?;
        let mut nodes = status.nodes.into_iter();
        nodes
            .find(|node| node.name == "n3" && node.addr == addr)
            .map(drop)
    };
    until("n3 is where it was", async || at(&addr).await).await;
    stage.ready().await;

    // While it does not answer, a copy of what it holds takes its place, and it hears of that when
    // it comes back.
    stage.cluster.signal(2, Signal::STOP).expect("a signal");
    copy_dir(&stage.cluster.data_dir(2), &later);
    let twin = Lone::start(&of_later).await;
    until("the copy is n3", async || at(&twin.addr).await).await;
    let seen = stage.log_len(2);
    stage.cluster.signal(2, Signal::CONT).expect("a signal");
    let ended = stage.cluster.wait_exit(2, PATIENCE).await;
    let ended = ended.expect("it does not stay");
    assert!(ended.code().is_some_and(|code| code != 0), "{ended:?}");
    let told = stage.log_since(2, seen);
    assert!(told.contains("another start of node n3"), "{told}");
    assert!(told.contains(&twin.addr), "{told}");
    twin.kill().await;
}

#[tokio::test]
async fn a_directory_is_of_one_name() {
    let mut stage = Stage::start().await;
    stage.cluster.kill(1).await.expect("killed");
    let (dir, peers) = (stage.cluster.data_dir(1), stage.cluster.addrs().join(","));
    let args = serve_args("n3", &dir, &files(&stage, "n3"), &["--join", &peers]);
    serve_refused(&args, &["holds node n2, not n3", "--name n2"]).await;
    stage.cluster.restart(1).await.expect("restarted");
    let ready = stage.cluster.wait_ready(Duration::from_secs(20)).await;
    ready.expect("n2 is itself again");
}
