//! A panic anywhere in a node ends it: nothing goes on half alive.
//!
//! Each case runs a node of this very program in a process of its own, on a disk or a network that
//! panics once it is told to, and looks at how that process ends.
#![allow(
    clippy::disallowed_methods,
    reason = "it runs itself again, and its faulty seams stand on the real ones"
)]

use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ferrolog::agent::{Agent, Bound, Policy, Runtimes, Seams};
use ferrolog::config::Options;
use ferrolog::disk::{DirLock, Disk, File, OsDisk};
use ferrolog::env::{Clock, Random};
use ferrolog::net::memory::MemoryNetwork;
use ferrolog::net::{BoxIo, Listener, Network, Security};
use ferrolog::tasks;
use futures::future::BoxFuture;

/// Tells the process that it is the node, and whether it has the program's hook.
const ROLE: &str = "FERROLOG_TEST_ROLE";
const PATIENCE: Duration = Duration::from_secs(20);
const ADDR: &str = "127.0.0.1:7401";

/// Where a node meets a panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Accept,
    Available,
    /// In a sync, on the log's own thread.
    Sync,
    /// Where a new segment is made.
    Create,
}

/// Panics at one place once it is armed.
#[derive(Debug, Clone)]
struct Trap {
    place: Place,
    armed: Arc<AtomicBool>,
}

impl Trap {
    fn spring(&self, place: Place) {
        let armed = self.place == place && self.armed.load(Ordering::Relaxed);
        assert!(!armed, "on purpose");
    }
}

#[derive(Debug)]
struct TrapDisk(OsDisk, Trap);

impl TrapDisk {
    fn trapped(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(TrapFile(file, self.1.clone()))
    }
}

impl Disk for TrapDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.0.open(path).map(|file| self.trapped(file))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.1.spring(Place::Create);
        self.0.create(path).map(|file| self.trapped(file))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn available(&self, dir: &Path) -> io::Result<u64> {
        self.1.spring(Place::Available);
        self.0.available(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }

    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        self.0.lock(dir)
    }
}

#[derive(Debug)]
struct TrapFile(Arc<dyn File>, Trap);

impl File for TrapFile {
    fn read_exact_at(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, position)
    }

    fn write_all_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        self.0.write_all_at(buf, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        if std::thread::current().name() == Some("log-io") {
            self.1.spring(Place::Sync);
        }
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }

    fn mappable(&self) -> Option<&std::fs::File> {
        self.0.mappable()
    }
}

struct TrapNetwork(MemoryNetwork, Trap);

impl Network for TrapNetwork {
    fn dial<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<BoxIo>> {
        self.0.dial(addr)
    }

    fn resolve<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.0.resolve(addr)
    }

    fn listen<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let inner = self.0.listen(addr).await?;
            Ok(Box::new(TrapListener(inner, self.1.clone())) as Box<dyn Listener>)
        })
    }
}

struct TrapListener(Box<dyn Listener>, Trap);

impl Listener for TrapListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxIo, String)>> {
        Box::pin(async move {
            let accepted = self.0.accept().await;
            self.1.spring(Place::Accept);
            accepted
        })
    }

    fn local_addr(&self) -> String {
        self.0.local_addr()
    }
}

/// A node alone, and what makes it reach the panic.
async fn start(place: Place, dir: &Path) -> (Agent, MemoryNetwork, Trap) {
    let armed = Arc::default();
    let trap = Trap { place, armed };
    let network = MemoryNetwork::new();
    let text = format!(
        "name = 'n1'\ndata_dir = '{}'\nlisten = '{ADDR}'\ninsecure = true\nbootstrap = true\n\
         segment_bytes_max = 65536\nrecord_bytes_max = 8192",
        dir.display()
    );
    let config = Options::parse(&text, "trapped.toml".into()).unwrap();
    let seams = Seams {
        disk: Arc::new(TrapDisk(OsDisk, trap.clone())),
        network: Arc::new(TrapNetwork(network.clone(), trap.clone())),
        random: Random::system(),
        clock: Clock::system(),
        runtimes: Runtimes::current(),
    };
    let config = config.resolve().unwrap();
    let bound = Bound::bind(config, Security::Insecure, Policy::default(), seams);
    let agent = bound.await.unwrap().start().await.unwrap();
    let mut views = agent.log().watch_view();
    views.wait_for(|view| view.writable).await.unwrap();
    (agent, network, trap)
}

/// The node's side: exits with 0 if it says by itself that it cannot go on.
fn run_node(place: Place) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (mut agent, network, trap) = start(place, dir.path()).await;
        trap.armed.store(true, Ordering::Relaxed);
        if place == Place::Accept {
            drop(network.dial(ADDR).await);
        }
        let log = agent.log().clone();
        let appends = async move {
            // The node may lose any of them: it must only not go on without saying so.
            while let Ok(answer) = log.propose(record()).await {
                let _ = answer.await;
            }
            std::future::pending().await
        };
        let failed = async {
            tokio::select! {
                failed = agent.failed() => failed,
                never = appends => never,
            }
        };
        let failed = tokio::time::timeout(PATIENCE, failed).await;
        let failed = failed.expect("a node that lost a part says so");
        println!("the node says: {failed}");
    });
    // The node's threads hang in the trap, or wait for threads that do.
    std::process::exit(0);
}

fn record() -> Bytes {
    let mut batch = ferrolog::log::record::BatchBuilder::new(None);
    batch.push(&[b'x'; 4096], 0, 0);
    batch.finish()
}

/// Runs the test of this name again, as a node, with and without the hook of the program.
///
/// What broke is told by both, though an embedded node may name what followed from it.
fn ends_at(place: Place, test: &str) {
    match std::env::var(ROLE).as_deref() {
        Ok("program") => {
            tasks::end_process_on_panic();
            return run_node(place);
        }
        Ok(_) => return run_node(place),
        Err(_) => {}
    }
    for (role, code, says) in [
        ("program", 101, "ferrolog panicked in its task"),
        ("embedded", 0, "the node says: "),
    ] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let child = child.args(["--exact", test, "--nocapture"]).env(ROLE, role);
        let ended = child.output().unwrap();
        let text = [&ended.stdout[..], &ended.stderr[..]].concat();
        let text = String::from_utf8_lossy(&text);
        assert_eq!(ended.status.code(), Some(code), "{role}: {text}");
        assert!(text.contains(says), "{role}: {text}");
        assert!(text.contains("on purpose"), "{role}: {text}");
    }
}

#[test]
fn of_the_accept_loop() {
    ends_at(Place::Accept, "of_the_accept_loop");
}

#[test]
fn of_the_writer_of_the_log() {
    ends_at(Place::Sync, "of_the_writer_of_the_log");
}

#[test]
fn of_the_engine() {
    ends_at(Place::Create, "of_the_engine");
}

#[test]
fn of_upkeep() {
    ends_at(Place::Available, "of_upkeep");
}
