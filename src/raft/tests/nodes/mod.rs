//! Whole nodes in one process: how they are started, fed and looked at.

mod room_tests;
mod snapshot_tests;
mod trim_tests;

use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tokio::time::timeout;
use tonic::transport::Server;

use crate::batch::{self, Compression};
use crate::disk::memory::{Event, MemoryDisk};
use crate::env::Random;
use crate::live::Live;
use crate::log::record::{BatchBuilder, Conditions, Producer, packed};
use crate::log::{self, Index, LogId, Offset, Pin};
use crate::net::memory::MemoryNetwork;
use crate::net::mux::{Mux, MuxLimits};
use crate::net::stream_layer::StreamLayer;
use crate::net::{Network, Security};
use crate::raft::engine::Timing;
use crate::raft::*;

pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn log_config() -> log::Config {
    log::Config {
        segment_bytes_max: 1 << 16,
        tail_cache_bytes_max: 1 << 12,
        inline_io: true,
        ..log::Config::default()
    }
}

/// Starts a node at `addr` and waits until it is a voter; the first one begins the cluster.
pub async fn start(
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
pub async fn begin(
    network: &MemoryNetwork,
    disk: &MemoryDisk,
    addr: &str,
    peers: &[String],
) -> (ReplicatedLog, Mux) {
    begin_with(network, disk, addr, peers, log_config()).await
}

/// Starts a node at `addr` whose log has these settings.
pub async fn begin_with(
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
    let node = ReplicatedLog::start(Setup {
        directory,
        layer,
        addr: addr.to_owned(),
        timing: Timing::default(),
        log: config,
        disk_reserve_bytes: Live::new(0),
        callers_on: tokio::runtime::Handle::current(),
    });
    let node = node.await.unwrap();
    assert!(seat.set(node.clone()).is_ok());
    (node, mux)
}

/// Of the session that all records here come under.
const SECRET: u128 = 7;

pub fn batch(session: u64, sequence: u64) -> Bytes {
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

pub async fn append(node: &ReplicatedLog, sequence: u64) -> u64 {
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
pub async fn catch_up(node: &ReplicatedLog, next: u64) {
    let mut applied = node.watch_applied();
    let there = applied.wait_for(|applied| applied.next_offset >= Offset(next));
    timeout(PATIENCE, there)
        .await
        .expect("it catches up")
        .unwrap();
}

/// Checks that records stand where [`append`] was told that they do.
pub fn check_records(node: &ReplicatedLog, offsets: Range<u64>) {
    for offset in offsets {
        let record = &node.log().read(LogId::DEFAULT, Offset(offset), 1).unwrap()[0];
        let expected = format!("record {offset} ");
        assert!(record.value.starts_with(expected.as_bytes()));
    }
}

pub async fn check(node: &ReplicatedLog, count: u64) {
    catch_up(node, count).await;
    check_records(node, 0..count);
}

/// Makes a log.
pub async fn make_log(node: &ReplicatedLog, name: &str, compaction: Option<Compaction>) -> LogId {
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
pub const BATCHES: u64 = 40;

/// Appends batches that compress well, of which every other record is superseded.
pub async fn append_states(node: &ReplicatedLog, log: LogId) {
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

/// Upkeep, as the agent runs it.
pub fn keep_up(node: &ReplicatedLog) {
    let node = node.clone();
    tokio::spawn(async move { node.keep_up().await });
}

pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}"));
}

/// Stops a node without a chance to save anything.
pub async fn kill(node: ReplicatedLog, mux: Mux) {
    mux.shutdown().await;
    node.kill().await;
}

/// The first node of a cluster, with its upkeep.
pub struct First {
    pub network: MemoryNetwork,
    pub disk: MemoryDisk,
    node: ReplicatedLog,
    mux: Mux,
}

impl Deref for First {
    type Target = ReplicatedLog;

    fn deref(&self) -> &ReplicatedLog {
        &self.node
    }
}

/// Where others find the first node.
pub fn peers() -> [String; 1] {
    ["first:1".to_owned()]
}

impl First {
    /// Begins a cluster; so many records are appended.
    pub async fn with(records: u64) -> Self {
        let first = Self::on(MemoryNetwork::new(), MemoryDisk::default()).await;
        keep_up(&first);
        for sequence in 0..records {
            append(&first, sequence).await;
        }
        first
    }

    /// Starts it; its upkeep is the caller's.
    pub async fn on(network: MemoryNetwork, disk: MemoryDisk) -> Self {
        let (node, mux) = start(&network, &disk, &peers()[0], &[]).await;
        Self {
            network,
            disk,
            node,
            mux,
        }
    }

    /// The power fails, and comes back.
    pub async fn crash(self) -> Self {
        let kept = self.disk.crash();
        kill(self.node, self.mux).await;
        let first = Self::on(self.network, kept).await;
        keep_up(&first);
        first
    }

    /// A second node, once it is a voter.
    pub async fn second(&self, disk: &MemoryDisk) -> (ReplicatedLog, Mux) {
        start(&self.network, disk, "second:1", &peers()).await
    }

    /// A second node that nobody had join yet.
    pub async fn begin_second(&self, disk: &MemoryDisk) -> (ReplicatedLog, Mux) {
        begin(&self.network, disk, "second:1", &peers()).await
    }

    /// Gives up the records before an offset, and waits until segments go.
    pub async fn trim_away(&self, first: u64) {
        self.trim(Offset(first)).await.unwrap();
        until("segments go", || self.log().first_entry() > Index(0)).await;
    }

    /// Keeps segments from being removed once the floor above them is about to be saved: until what this gives is dropped.
    pub fn pin_at_the_last_moment(&self) -> Arc<Mutex<Option<Arc<Pin>>>> {
        let pinned = Arc::new(Mutex::new(None));
        let (node, pin) = (self.node.clone(), pinned.clone());
        self.disk.watch(move |event, path| {
            if event != Event::Sync || !path.ends_with(home::stable_store::FILE) {
                return Ok(());
            }
            // What follows may read the disk, and so comes here again.
            let mut pin = pin.lock();
            if pin.is_some() {
                return Ok(());
            }
            // The engine has let go of them: all that is left is to note where the log begins.
            let purged = node.raft().metrics().borrow_watched().purged;
            let goes = node.log().droppable(Index(u64::MAX)).unwrap();
            if goes.is_some_and(|(floor, _)| purged.is_some_and(|id| id.index + 1 >= floor.index.0))
            {
                *pin = Some(node.log().pin());
            }
            Ok(())
        });
        pinned
    }
}
