//! A node that needs a snapshot gets the records with it.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use tokio::time::timeout;
use tonic::transport::Server;

use crate::batch::{self, Compression};
use crate::disk::memory::MemoryDisk;
use crate::env::Random;
use crate::live::Live;
use crate::log::record::{BatchBuilder, Conditions, Producer, packed};
use crate::log::{self, Index, LogId, Offset};
use crate::net::memory::MemoryNetwork;
use crate::net::mux::{Mux, MuxLimits};
use crate::net::stream_layer::StreamLayer;
use crate::net::{Network, Security};
use crate::raft::engine::Timing;
use crate::raft::entry::types::TypeConfig;
use crate::raft::*;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn log_config() -> log::Config {
    log::Config {
        segment_bytes_max: 1 << 16,
        tail_cache_bytes_max: 1 << 12,
        inline_io: true,
        ..log::Config::default()
    }
}

/// Starts a node at `addr` and waits until it is a voter; the first one begins the cluster.
pub(crate) async fn start(
    network: &MemoryNetwork,
    disk: &MemoryDisk,
    addr: &str,
    peers: &[String],
) -> (ReplicatedLog, Mux) {
    let (node, mux) = begin(network, disk, addr, peers).await;
    // That its start is registered changes no view.
    let (mut views, mut applied) = (node.watch_view(), node.watch_applied());
    timeout(PATIENCE, async {
        while !node.is_settled_in(&node.view()) {
            let _ = node.join_cluster(peers).await;
            tokio::select! {
                changed = views.changed() => changed.unwrap(),
                changed = applied.changed() => changed.unwrap(),
            }
        }
    })
    .await
    .expect("it becomes a voter");
    (node, mux)
}

/// Starts a node at `addr`.
pub(crate) async fn begin(
    network: &MemoryNetwork,
    disk: &MemoryDisk,
    addr: &str,
    peers: &[String],
) -> (ReplicatedLog, Mux) {
    begin_with(network, disk, addr, peers, log_config()).await
}

/// Starts a node at `addr` whose log has these settings.
pub(crate) async fn begin_with(
    network: &MemoryNetwork,
    disk: &MemoryDisk,
    addr: &str,
    peers: &[String],
    config: log::Config,
) -> (ReplicatedLog, Mux) {
    let network: Arc<dyn Network> = Arc::new(network.named(addr));
    let listener = network.listen(addr).await.unwrap();
    let (mux, _, incoming) = Mux::start(listener, Security::Insecure, MuxLimits::default());
    let seat = Seat::default();
    tokio::spawn(
        Server::builder()
            .add_service(service(seat.clone(), Arc::new(|_, _| ())))
            .serve_with_incoming(incoming),
    );
    let layer = StreamLayer::new(network, Security::Insecure);
    let random = Random::seeded(addr.len() as u64 + peers.len() as u64);
    let name = addr.replace(':', "-");
    let mut directory =
        Directory::open(Arc::new(disk.clone()), Path::new("/node"), &name, &random).unwrap();
    if directory.identity().is_none() {
        match peers {
            [] => directory.bootstrap(&random).unwrap(),
            peers => join(&mut directory, &layer, peers, addr, "").await.unwrap(),
        }
    }
    let (timing, here) = (Timing::default(), tokio::runtime::Handle::current());
    let node = ReplicatedLog::start(
        directory,
        layer,
        addr,
        &timing,
        config,
        &Live::new(0),
        &here,
    )
    .await
    .unwrap();
    assert!(seat.set(node.clone()).is_ok());
    (node, mux)
}

/// Of the session that all records here come under.
const SECRET: u128 = 7;

pub(crate) fn batch(session: u64, sequence: u64) -> Bytes {
    let mut batch = BatchBuilder::new(Some(Producer {
        session: session.into(),
        sequence,
        owner: owner::of_session("", SECRET),
    }));
    batch.push(
        format!("record {sequence} {}", "y".repeat(200)).as_bytes(),
        0,
        0,
    );
    batch.finish()
}

pub(crate) async fn append(node: &ReplicatedLog, sequence: u64) -> u64 {
    // The secret is the same, so the session is.
    let mut views = node.watch_view();
    let session = loop {
        match node.open_session("", SECRET).await {
            Ok(session) => break session,
            Err(_) => drop(timeout(Duration::from_millis(50), views.changed()).await),
        }
    };
    let answer = node.propose(batch(session, sequence)).await.unwrap();
    let receipt = timeout(PATIENCE, answer).await.unwrap().unwrap();
    receipt.unwrap().ranges[0].first.0
}

/// Waits until a node has applied the records before `next`.
pub(crate) async fn catch_up(node: &ReplicatedLog, next: u64) {
    let mut applied = node.watch_applied();
    let there = applied.wait_for(|applied| applied.next_offset >= Offset(next));
    timeout(PATIENCE, there)
        .await
        .expect("it catches up")
        .unwrap();
}

/// Checks that records stand where [`append`] was told that they do.
pub(crate) fn check_records(node: &ReplicatedLog, offsets: Range<u64>) {
    for offset in offsets {
        let record = &node.log().read(LogId::DEFAULT, Offset(offset), 1).unwrap()[0];
        let expected = format!("record {offset} ");
        assert!(record.value.starts_with(expected.as_bytes()));
    }
}

pub(crate) async fn check(node: &ReplicatedLog, count: u64) {
    catch_up(node, count).await;
    check_records(node, 0..count);
}

/// Makes a log.
pub(crate) async fn make_log(
    node: &ReplicatedLog,
    name: &str,
    compaction: Option<Compaction>,
) -> LogId {
    let config = LogConfig {
        compaction,
        ..LogConfig::default()
    };
    let create = CreateLog {
        name: name.to_owned(),
        config,
        token: Bytes::new(),
        subject: String::new(),
        now_ms: 0,
        logs_max: 10,
    };
    node.create_log(create).await.unwrap().log
}

/// Batches of states.
pub(crate) const BATCHES: u64 = 40;

/// Appends batches that compress well, of which every other record is superseded.
pub(crate) async fn append_states(node: &ReplicatedLog, log: LogId) {
    for number in 0..BATCHES {
        let mut builder = batch::Builder::default();
        for record in 0..20 {
            let key = match record % 2 {
                0 => record.to_string(),
                _ => format!("{number} {record}"),
            };
            builder.push(&batch::Record {
                key: Some(key.into()),
                ..batch::Record::new(vec![b'x'; 5000])
            });
        }
        let (records, count) = builder.take();
        let compression = Compression::Zstd;
        let records = batch::compress(&records, compression).unwrap();
        let conditions = Conditions::default();
        let batch = packed(log, None, &conditions, compression, count, &records);
        let answer = node.propose(batch).await.unwrap();
        timeout(PATIENCE, answer).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_behind_the_purged_part_gets_the_records_and_the_sessions() {
    let network = MemoryNetwork::new();
    let first_disk = MemoryDisk::default();
    let (first, _mux) = start(&network, &first_disk, "first:1", &[]).await;
    for sequence in 0..500 {
        assert_eq!(append(&first, sequence).await, sequence);
    }
    first.raft().trigger().snapshot().await.unwrap();
    let applied = first.indexes()[2].unwrap();
    let built = |metrics: &openraft::RaftMetrics<TypeConfig>| metrics.snapshot.is_some();
    first
        .raft()
        .wait(Some(PATIENCE))
        .metrics(built, "built")
        .await
        .unwrap();
    first.raft().trigger().purge_log(applied).await.unwrap();
    let purged = |metrics: &openraft::RaftMetrics<TypeConfig>| metrics.purged.is_some();
    first
        .raft()
        .wait(Some(PATIENCE))
        .metrics(purged, "purged")
        .await
        .unwrap();
    check(&first, 500).await;

    let second_disk = MemoryDisk::default();
    let peers = ["first:1".to_owned()];
    let (second, second_mux) = start(&network, &second_disk, "second:1", &peers).await;
    assert!(
        second.raft().metrics().borrow_watched().snapshot.is_some(),
        "it needed one"
    );
    check(&second, 500).await;
    assert_eq!(
        second.log().first_index(),
        Index(0),
        "the entries came along"
    );
    assert_eq!(
        append(&second, 3).await,
        3,
        "a retry, told by the session that came along"
    );
    assert_eq!(append(&second, 500).await, 500);
    check(&first, 501).await;

    // What was installed survives a power cut.
    let kept = second_disk.crash();
    second_mux.shutdown().await;
    second.kill().await;
    drop(second);
    // As the end of a process ends its streams.
    network.cut("second:1");
    network.heal("second:1");
    let (second, _mux) = start(&network, &kept, "second:1", &peers).await;
    check(&second, 501).await;
}
