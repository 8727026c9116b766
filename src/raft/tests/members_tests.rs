//! Who may change a cluster, and what a node must know before it answers.

use std::path::Path;
use std::time::Duration;

use futures::stream;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::certs::testing::authority;
use crate::disk::memory::MemoryDisk;
use crate::env::Random;
use crate::live::Live;
use crate::log;
use crate::net::memory::MemoryNetwork;
use crate::net::stream_layer::StreamLayer;
use crate::net::tls::Tls;
use crate::net::{Network, Security};
use crate::proto::raft_v1 as pb;
use crate::raft::engine::Timing;
use crate::raft::entry::types::TypeConfig;
use crate::raft::peer::sender::Sender;
use crate::raft::peer::transport::{PeerClient, Transport};
use crate::raft::*;

use super::nodes::{PATIENCE, append, begin_with, log_config, start};

/// What a call comes to; its answer does not matter.
async fn outcome<T>(call: impl Future<Output = Result<T, Status>>) -> Result<(), Status> {
    let answer = timeout(PATIENCE, call).await.expect("an answer");
    answer.map(drop)
}

/// The calls that only members may make.
async fn calls_of_members(client: &mut PeerClient) -> Vec<(&'static str, Result<(), Status>)> {
    let remove = pb::RemoveNodeRequest::default();
    let transfer = pb::TransferRequest::default();
    let proposals = stream::empty::<pb::ProposeRequest>();
    vec![
        ("remove", outcome(client.remove_node(remove)).await),
        ("transfer", outcome(client.transfer(transfer)).await),
        (
            "drain",
            outcome(client.drain(pb::DrainRequest::default())).await,
        ),
        (
            "execute",
            outcome(client.execute(pb::ControlEntry::default())).await,
        ),
        ("propose", outcome(client.propose(proposals)).await),
        (
            "read_index",
            outcome(client.read_index(pb::ReadIndexRequest {})).await,
        ),
        (
            "fetch_segment",
            outcome(client.fetch_segment(pb::FetchSegmentRequest::default())).await,
        ),
        (
            "transfer_leader",
            outcome(client.transfer_leader(pb::TransferLeaderRequest::default())).await,
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_no_member_changes_and_reads_nothing() {
    let network = MemoryNetwork::new();
    let (node, _mux) = start(&network, &MemoryDisk::default(), "first:1", &[]).await;
    let peers = ["first:1".to_owned()];
    let (second, _second_mux) = start(&network, &MemoryDisk::default(), "second:1", &peers).await;
    let client_of = |node_id| {
        let layer = StreamLayer::new(Arc::new(network.named("peer:1")), Security::Insecure);
        let from = Sender {
            cluster_id: node.identity().cluster_id.clone(),
            node_id,
            addr: "peer:1".to_owned(),
            start: 0,
        };
        Transport::new(layer, from).client(node.identity().node_id, "first:1")
    };
    for unknown in [999, 0] {
        let mut client = client_of(unknown);
        for (verb, answer) in calls_of_members(&mut client).await {
            let status = answer.expect_err(verb);
            assert_eq!(status.code(), Code::PermissionDenied, "{verb}: {status:?}");
            assert!(status.message().contains("no member"), "{status:?}");
        }
    }
    let mut client = client_of(second.identity().node_id);
    for (verb, answer) in calls_of_members(&mut client).await {
        let code = answer.err().map(|status| status.code());
        assert_ne!(code, Some(Code::PermissionDenied), "{verb}");
    }
}

/// Asks a leader for an id, as a node of this name would.
async fn ask(node: &ReplicatedLog, name: &str, token: &str) -> Result<u64, MembershipError> {
    let request = pb::JoinRequest {
        name: name.to_owned(),
        directory_id: name.repeat(16),
        token: token.to_owned(),
        ..pb::JoinRequest::default()
    };
    let joined = timeout(PATIENCE, node.join(request)).await;
    joined.expect("an answer").map(|joined| joined.node_id)
}

/// With certificates, where the first node was told of two others.
#[tokio::test]
async fn who_may_not_join_makes_no_entry() {
    let network: Arc<dyn Network> = Arc::new(MemoryNetwork::new().named("n1:1"));
    let authority = authority();
    let own = authority.node("n1", &[]).unwrap();
    let ca = authority.ca_pem().as_bytes();
    let tls = Tls::from_pem(ca, own.cert.as_bytes(), own.key.as_bytes()).unwrap();
    let layer = StreamLayer::new(network, Security::Mutual(tls));
    let (disk, random) = (Arc::new(MemoryDisk::default()), Random::seeded(1));
    let mut directory = Directory::open(disk, Path::new("/node"), "n1", &random).unwrap();
    directory.bootstrap(&random).unwrap();
    directory.let_in(vec!["n2".to_owned(), "n3".to_owned()]);
    let node = ReplicatedLog::start(Setup {
        directory,
        layer,
        addr: "n1:1".to_owned(),
        timing: Timing::default(),
        log: log_config(),
        disk_reserve_bytes: Live::new(0),
        callers_on: tokio::runtime::Handle::current(),
    });
    let node = node.await.unwrap();
    let mut views = node.watch_view();
    let leads = timeout(PATIENCE, views.wait_for(|view| view.writable)).await;
    leads.unwrap().unwrap();

    // Taken back before anybody came, by a node that has not said yet who may come.
    assert!(node.withdraw("n3").await.unwrap());
    let n2 = ask(&node, "n2", "").await.unwrap();
    let token = node.make_token(TOKEN_LIFE_MAX).await.unwrap();
    let last = node.indexes()[0];
    for (name, token) in [("n3", ""), ("n4", ""), ("n4", "0123"), ("n3", "0123")] {
        let refused = ask(&node, name, token).await.unwrap_err();
        let expected = MembershipError::NotAdmitted {
            name: name.to_owned(),
        };
        assert_eq!(refused, expected);
    }
    assert_eq!(ask(&node, "n2", "").await.unwrap(), n2, "it has its id");
    assert_eq!(node.indexes()[0], last, "nothing was written");
    ask(&node, "n4", &token).await.unwrap();
    ask(&node, "n5", &token).await.unwrap_err();
    assert!(node.remove("n2").await.unwrap());
    ask(&node, "n2", "").await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_node_that_may_lack_a_registration_does_not_deny_it() {
    let network = MemoryNetwork::new();
    let (first, _first_mux) = start(&network, &MemoryDisk::default(), "first:1", &[]).await;
    let peers = ["first:1".to_owned()];
    let (second, _second_mux) = start(&network, &MemoryDisk::default(), "second:1", &peers).await;
    let request = pb::JoinRequest {
        name: "ghost".to_owned(),
        addr: "ghost:1".to_owned(),
        directory_id: "0".repeat(32),
        ..pb::JoinRequest::default()
    };
    let last = second.indexes()[0];
    let joining = tokio::spawn(async move { first.join(request).await });
    let waited = second.raft().wait(Some(PATIENCE));
    let came = |metrics: &openraft::RaftMetrics<TypeConfig>| metrics.last_log_index > last;
    waited.metrics(came, "the entry comes").await.unwrap();
    // The second node has the entry, and was not told yet that it is committed.
    network.cut("first:1");
    assert!(
        second
            .0
            .node
            .state
            .read(|fsm| fsm.registrations.named("ghost").is_none())
    );
    let mut views = second.watch_view();
    let alone = views.wait_for(|view| view.leader.is_none());
    timeout(PATIENCE, alone).await.unwrap().unwrap();
    let told = second.remove("ghost").await;
    assert!(
        matches!(told, Err(MembershipError::NoLeader { .. })),
        "{told:?}"
    );
    network.heal("first:1");
    let removed = timeout(PATIENCE, async {
        loop {
            match second.remove("ghost").await {
                Ok(removed) => return removed,
                Err(_) => drop(timeout(Duration::from_millis(50), views.changed()).await),
            }
        }
    });
    assert!(removed.await.expect("a leader answers"));
    // What it was told, if it was told: its answer may have been lost.
    let _ = joining.await;
}

#[tokio::test(start_paused = true)]
async fn a_join_ends_with_the_reign_that_it_began_in() {
    let network = MemoryNetwork::new();
    let (first, _first_mux) = start(&network, &MemoryDisk::default(), "first:1", &[]).await;
    let peers = ["first:1".to_owned()];
    let (second, _second_mux) = start(&network, &MemoryDisk::default(), "second:1", &peers).await;
    let mut request = pb::JoinRequest {
        name: "ghost".to_owned(),
        addr: "ghost:1".to_owned(),
        directory_id: "0".repeat(32),
        ..pb::JoinRequest::default()
    };
    request.node_id = first.join(request.clone()).await.unwrap().node_id;
    // It never catches up: nobody is there. The other node has passed the call on.
    let waits = [first.clone(), second.clone()].map(|node| {
        let request = request.clone();
        tokio::spawn(async move { (node.join(request).await, tokio::time::Instant::now()) })
    });
    let learner = |view: &View| view.members.len() == 3;
    let mut views = first.watch_view();
    let came = timeout(PATIENCE, views.wait_for(learner)).await;
    drop(came.expect("it is a learner").unwrap());
    let cut = tokio::time::Instant::now();
    network.cut("first:1");
    for wait in waits {
        let (told, ended) = timeout(PATIENCE, wait).await.unwrap().unwrap();
        let lost = matches!(told, Err(MembershipError::Unknown { .. }));
        assert!(lost, "{told:?}");
        let took = ended - cut;
        assert!(took.as_secs() < 4, "it took {took:?}");
    }
}

/// The engine stops taking commands as soon as it is asked to hand leadership on. Asked to hand it to its own node,
/// it would never take one again.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_being_elected_does_not_hand_leadership_to_itself() {
    let (network, disk) = (MemoryNetwork::new(), MemoryDisk::default());
    let (node, mux) = start(&network, &disk, "first:1", &[]).await;
    let name = node.identity().name.clone();
    append(&node, 0).await;
    mux.shutdown().await;
    node.kill().await;
    drop(node);

    // The engine leads for a while before it says so: it waits for its vote to be on the disk.
    let config = log::Config {
        io_delay: Some(log::IoDelay::new(|| Duration::from_millis(10))),
        ..log_config()
    };
    let (node, _mux) = begin_with(&network, &disk, "first:1", &[], config).await;
    let mut asked = Vec::new();
    while node.view().leader.is_none() {
        let (node, name) = (node.clone(), name.clone());
        asked.push(tokio::spawn(async move { node.transfer(&name).await }));
        // Time itself is the subject: the election comes when it is due.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!asked.is_empty(), "it leads only once it is elected");
    timeout(PATIENCE, append(&node, 1))
        .await
        .expect("it takes commands");
    for told in asked {
        let told = timeout(PATIENCE, told).await.unwrap().unwrap();
        let is_clear = matches!(told, Ok(_) | Err(MembershipError::NoLeader { .. }));
        assert!(is_clear, "{told:?}");
    }
}

/// What cannot lead is not given leadership: the engine would stop leading for it.
#[tokio::test(start_paused = true)]
async fn leadership_is_not_handed_to_who_does_not_answer() {
    let network = MemoryNetwork::new();
    let (first, _mux) = start(&network, &MemoryDisk::default(), "first:1", &[]).await;
    let peers = ["first:1".to_owned()];
    let (_second, _second_mux) = start(&network, &MemoryDisk::default(), "second:1", &peers).await;
    let (third, _third_mux) = start(&network, &MemoryDisk::default(), "third:1", &peers).await;
    append(&first, 0).await;
    let term = first.view().term;
    network.cut("third:1");
    // What is under way has come, so that time itself is the subject.
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..2 {
        let told = timeout(PATIENCE, first.transfer("third-1")).await.unwrap();
        let is_silent =
            matches!(&told, Err(MembershipError::Silent { name, .. }) if name == "third-1");
        assert!(is_silent, "{told:?}");
    }
    let view = first.view();
    assert!(view.writable && view.term == term, "it leads on: {view:?}");
    network.heal("third:1");
    let told = timeout(PATIENCE, async {
        loop {
            match first.transfer("third-1").await {
                Ok(leader) => break leader,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    });
    assert_eq!(told.await.unwrap(), "third-1");
    assert!(third.view().term > term);
}
