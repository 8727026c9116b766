//! What the tests of real clusters share: clusters under a temporary directory, waits with deadlines, calls.
//!
//! Load stands in [`load`], what its clients saw is filled into a history by it or by a [`recorder`], and judged
//! by the [`checker`]. Raw calls are in [`wire`], [`native`] and [`lane`], connections that break in [`proxy`], the command
//! line in [`command`], disks that lose power in [`loop_disk`], simulated nodes in [`world`],
//! their answers made late in [`late`].
#![allow(
    dead_code,
    clippy::disallowed_methods,
    reason = "each test file takes a part of it; it looks at the files of its nodes"
)]

pub mod checker;
pub mod command;
pub mod lane;
pub mod late;
pub mod load;
pub mod loop_disk;
pub mod native;
pub mod proxy;
pub mod recorder;
pub mod wire;
pub mod world;

use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

use ferrolog::cli::local_cluster::{LocalCluster, LocalClusterOptions};
use ferrolog::client::{Client, Consistency, ConsumeOptions, Start};
use ferrolog::net::stream_layer::StreamLayer;
use ferrolog::proto::v1::GetStatusResponse;
use tempfile::TempDir;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::time::{Instant, MissedTickBehavior};

use checker::Record;
use loop_disk::{DISK_BYTES, Filesystem, LoopDisk, Syncs};

pub const BINARY: &str = env!("CARGO_BIN_EXE_ferrolog");
/// The limit of every wait for something that surely comes in a sound build, on a machine and a disk that others use, too.
pub const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(10);

/// A cluster whose times are measured runs beside no other cluster of this test binary.
static TURNS: RwLock<()> = RwLock::const_new(());

/// Held for its end alone.
#[derive(Debug)]
enum Turn {
    Shared(#[expect(dead_code)] RwLockReadGuard<'static, ()>),
    Alone(#[expect(dead_code)] RwLockWriteGuard<'static, ()>),
}

/// A running cluster, its directory, and its turn.
pub struct Stage {
    // Dropped in this order: the nodes write into the directory until they are gone.
    pub cluster: LocalCluster,
    /// One for each node, or none: then the data lies in the directory itself.
    pub disks: Vec<LoopDisk>,
    pub dir: TempDir,
    _turn: Turn,
}

impl Stage {
    /// Three nodes over mutual TLS, ready, perhaps beside those of another test.
    pub async fn start() -> Self {
        Self::begin(Turn::Shared(TURNS.read().await)).await
    }

    /// Three nodes over mutual TLS, with no other test's cluster beside them: for tests that measure time.
    pub async fn start_alone() -> Self {
        Self::begin(Turn::Alone(TURNS.write().await)).await
    }

    /// Three nodes without TLS, alone, so that a proxy can stand before each.
    pub async fn start_plain() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut options = LocalClusterOptions::new(BINARY, dir.path());
        options.tls = false;
        let turn = Turn::Alone(TURNS.write().await);
        Self::begin_in(dir, options, Vec::new(), turn).await
    }

    /// Three nodes, alone, each with its data on a disk of its own.
    pub async fn start_on_disks(filesystem: Filesystem, syncs: Syncs) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut options = LocalClusterOptions::new(BINARY, dir.path());
        if syncs == Syncs::Faked {
            options.binary = dir.path().join("ferrolog-that-lies");
            loop_disk::write_liar(&options.binary);
        }
        Self::begin_on_disks(filesystem, DISK_BYTES, dir, options).await
    }

    /// Three nodes, alone, each on an ext4 disk of so many bytes, with these flags for `serve`.
    pub async fn start_on_small_disks(bytes: u64, serve_args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut options = LocalClusterOptions::new(BINARY, dir.path());
        options.serve_args = serve_args.iter().map(|&arg| arg.to_owned()).collect();
        Self::begin_on_disks(Filesystem::Ext4, bytes, dir, options).await
    }

    async fn begin_on_disks(
        filesystem: Filesystem,
        bytes: u64,
        dir: TempDir,
        options: LocalClusterOptions,
    ) -> Self {
        let turn = Turn::Alone(TURNS.write().await);
        let mut disks = Vec::new();
        for number in 1..=options.nodes {
            let image = dir.path().join(format!("n{number}.img"));
            let mount = dir.path().join(format!("n{number}"));
            disks.push(LoopDisk::create(filesystem, bytes, &image, mount).await);
        }
        Self::begin_in(dir, options, disks, turn).await
    }

    /// Three nodes with these flags besides the usual ones.
    pub async fn start_with(flags: &[&str]) -> Self {
        Self::begin_with(Turn::Shared(TURNS.read().await), flags).await
    }

    /// The same, alone.
    pub async fn start_alone_with(flags: &[&str]) -> Self {
        Self::begin_with(Turn::Alone(TURNS.write().await), flags).await
    }

    async fn begin_with(turn: Turn, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut options = LocalClusterOptions::new(BINARY, dir.path());
        options.serve_args = flags.iter().map(|&flag| flag.to_owned()).collect();
        Self::begin_in(dir, options, Vec::new(), turn).await
    }

    /// Three nodes under an access policy, with certificates of these clients. The client that the cluster
    /// itself uses may do everything.
    pub async fn start_under(policy: &str, clients: &[&str]) -> Self {
        let turn = Turn::Shared(TURNS.read().await);
        Self::begin_under(turn, policy, clients).await
    }

    /// Three nodes under an access policy, alone.
    pub async fn start_alone_under(policy: &str, clients: &[&str]) -> Self {
        let turn = Turn::Alone(TURNS.write().await);
        Self::begin_under(turn, policy, clients).await
    }

    async fn begin_under(turn: Turn, policy: &str, clients: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let certs = dir.path().join("certs");
        let clients = [&["client"], clients].concat().join(",");
        let out = certs.to_str().expect("a path in UTF-8");
        let minted = ["certs", "--out", out, "--clients", &clients].map(str::to_owned);
        command::run(&minted).await.expect_success();
        let all = ["produce", "consume", "commit", "admin"];
        let all = all
            .map(|action| format!("p, client, *, {action}\n"))
            .concat();
        let acl = dir.path().join("acl.csv");
        std::fs::write(&acl, all + policy).expect("a policy");
        let mut options = LocalClusterOptions::new(BINARY, dir.path());
        let acl = acl.to_str().expect("a path in UTF-8");
        options.serve_args = vec!["--acl".to_owned(), acl.to_owned()];
        Self::begin_in(dir, options, Vec::new(), turn).await
    }

    /// How the client `name` of this cluster dials.
    pub fn layer_of(&self, client: &str) -> StreamLayer {
        wire::layer_of(&self.cluster.tls_files(client).expect("TLS"))
    }

    async fn begin(turn: Turn) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let options = LocalClusterOptions::new(BINARY, dir.path());
        Self::begin_in(dir, options, Vec::new(), turn).await
    }

    async fn begin_in(
        dir: TempDir,
        options: LocalClusterOptions,
        disks: Vec<LoopDisk>,
        turn: Turn,
    ) -> Self {
        let cluster = LocalCluster::start(options).await.expect("a cluster");
        Self {
            cluster,
            disks,
            dir,
            _turn: turn,
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A client of all nodes.
    pub fn client(&self) -> Client {
        self.cluster.client(PATIENCE).expect("a client")
    }

    /// A client of one node.
    pub fn client_of(&self, place: usize) -> Client {
        let servers = vec![self.cluster.addr(place).to_owned()];
        self.cluster.client_of(servers, PATIENCE).expect("a client")
    }

    pub async fn leader(&self) -> usize {
        self.cluster.leader(PATIENCE).await.expect("a leader")
    }

    pub async fn status(&self, place: usize) -> GetStatusResponse {
        let client = self.client_of(place);
        until("a status", async || client.admin().status(None).await.ok()).await
    }

    pub async fn ready(&self) {
        let ready = self.cluster.wait_ready(PATIENCE).await;
        ready.unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// The places other than `place`.
    pub fn others(&self, place: usize) -> Vec<usize> {
        let places = 0..self.cluster.node_count();
        places.filter(|&other| other != place).collect()
    }

    /// What the node has logged since it had logged `from` bytes.
    pub fn log_since(&self, place: usize, from: usize) -> String {
        let bytes = std::fs::read(self.cluster.log_path(place)).expect("a log");
        String::from_utf8_lossy(&bytes[from..]).into_owned()
    }

    pub fn log_len(&self, place: usize) -> usize {
        self.log_since(place, 0).len()
    }

    /// Waits until the log of changes tells what is looked for.
    pub async fn audited(&self, what: &str, is_it: impl Fn(&serde_json::Value) -> bool) {
        audited_by(&self.client(), what, is_it).await;
    }

    /// The whole log, read from one node.
    pub async fn read_all(&self, place: usize, consistency: Consistency) -> Vec<Record> {
        self.read_from(place, Start::Offset(0), consistency).await
    }

    /// The log from an offset on, read from one node.
    pub async fn read_from(
        &self,
        place: usize,
        from: Start,
        consistency: Consistency,
    ) -> Vec<Record> {
        let options = ConsumeOptions {
            from,
            consistency,
            server: Some(self.cluster.addr(place).to_owned()),
            ..ConsumeOptions::default()
        };
        let mut consumer = self.client().consume(options).expect("a consumer");
        let mut records = Vec::new();
        while let Some(record) = consumer.next().await {
            let record = record.expect("a record");
            records.push(Record {
                offset: record.offset,
                value: record.record.value,
            });
        }
        records
    }
}

/// Waits until the log of changes, as this client reads it, tells what is looked for.
pub async fn audited_by(client: &Client, what: &str, is_it: impl Fn(&serde_json::Value) -> bool) {
    let options = ConsumeOptions {
        follow: true,
        ..ConsumeOptions::default()
    };
    let mut told = client.log("_audit").consume(options).expect("a consumer");
    let found = async {
        while let Some(record) = told.next().await {
            let record = record.expect("a record");
            if is_it(&command::json(&String::from_utf8_lossy(
                &record.record.value,
            ))) {
                return;
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    found.unwrap_or_else(|_| panic!("not told: {what}"));
}

/// Waits until `look` sees something; panics if it takes longer than [`PATIENCE`].
pub async fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    until_in(PATIENCE, what, look).await
}

/// Waits with a limit of its own, which is a claim about the product.
pub async fn until_in<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        ticks.tick().await;
    }
}

/// How often a fault is repeated: `FERROLOG_ROUNDS`, or `usual`.
pub fn rounds(usual: usize) -> usize {
    match std::env::var("FERROLOG_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("FERROLOG_ROUNDS is a number"),
        Err(_) => usual,
    }
}

/// The error of something that must have been refused.
pub fn refused<T: Debug, E>(outcome: Result<T, E>, what: &str) -> E {
    match outcome {
        Ok(value) => panic!("not refused: {what}: {value:?}"),
        Err(error) => error,
    }
}
