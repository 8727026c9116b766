//! How a node starts: its parts, from the directory up.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::live::Live;
use crate::log::{self, Log};
use crate::net::stream_layer::StreamLayer;
use crate::raft::engine::follow::{self, Heard};
use crate::raft::engine::log_store::LogStore;
use crate::raft::engine::news::News;
use crate::raft::engine::state_machine::StateMachine;
use crate::raft::engine::{self, Raft, Timing};
use crate::raft::error::Error;
use crate::raft::home::commit_file::{self, CommitFile};
use crate::raft::home::directory::{Directory, Identity};
use crate::raft::home::drained_file::DrainedFile;
use crate::raft::members::hearing::Hearing;
use crate::raft::members::{Members, starts};
use crate::raft::node::Node;
use crate::raft::peer::calling::{CallingNode, Successor};
use crate::raft::peer::sender::Sender;
use crate::raft::peer::transport::Transport;
use crate::raft::read::ReadBarrier;
use crate::raft::read::confirm::Confirmer;
use crate::raft::upkeep::{Kept, Upkeep};
use crate::raft::view::View;
use crate::raft::view::clocks::Clocks;
use crate::raft::view::counts::Counts;
use crate::raft::view::drained::Drained;
use crate::raft::view::elapsed::ElapsedTimes;
use crate::raft::view::space::{self, Space};
use crate::raft::write::commands::Commands;
use crate::raft::write::gate::Gate;
use crate::raft::write::proposer::{self, Proposer};
use crate::raft::write::rolls;
use crate::raft::write::stamps::Stamps;
use crate::tasks;

use super::staging::Staging;
use super::{ReplicaParts, ReplicatedLog};

/// What a node is started with.
pub struct Setup {
    /// Its directory, which must have an identity.
    pub directory: Directory,
    /// How it reaches the other nodes.
    pub layer: StreamLayer,
    /// Where they reach it, `host:port`.
    pub addr: String,
    pub timing: Timing,
    pub log: log::Config,
    /// The bytes of its disk that are to stay free.
    pub disk_reserve_bytes: Live<u64>,
    /// The runtime of those who append.
    pub callers_on: Handle,
}

impl ReplicatedLog {
    /// Starts a node, on the present runtime.
    pub async fn start(setup: Setup) -> Result<Self, Error> {
        let (directory, layer, addr) = (setup.directory, setup.layer, &setup.addr[..]);
        let (timing, reserve) = (&setup.timing, setup.disk_reserve_bytes);
        let identity = identity_of(&directory)?;
        let log_config = space::leave_room(setup.log, reserve.get());
        let (bytes_max, inline) = (log_config.segment_bytes_max, log_config.inline_io);
        let counts = Arc::<Counts>::default();
        let mut machine = StateMachine::open_in(&directory, log_config)?;
        machine.counts = counts.clone();
        let log = machine.log().clone();
        let state = machine.state();
        let checkpointer = machine.checkpointer();
        let snapshots = machine.snapshots.clone();
        let store = store(&directory, &log, inline)?.counting(identity.node_id, counts.clone());
        let (failure, promised, full) = (store.failure(), store.promised(), store.watch_full());
        let (disk, path) = (directory.disk.clone(), directory.path.clone());
        let space = Space::start(disk, path, reserve, log.clone());
        let (me, floor, start) = (identity.node_id, machine.floor.clone(), directory.start);
        let clocks = Clocks::new(timing.clock.clone(), me, timing.clock_bound_ms);
        let successor = Arc::<watch::Sender<Successor>>::default();
        let drained = drained(&directory)?;
        let watched = (&clocks, &drained, &counts);
        let node = CallingNode::new(&log, &floor, &space, watched, &successor);
        let transport = Transport::new(layer, Sender::new(&identity, addr, start)).with_node(node);
        starts::check_alone(&transport, &identity, start, addr, &directory.peers, &state).await?;
        let (stores, elects) = ((store, machine), !drained.is_own());
        let raft = engine::start(timing, &identity, addr, &transport, stores, elects).await?;
        let news = News::new(me, clocks.clone(), successor.subscribe());
        let (heard, views) = views(&raft, &transport, &counts, news);
        let stamps = Stamps::new(log.clone(), state.clone(), clocks.clone(), views.clone());
        let node = Arc::new(Node {
            identity,
            addr: addr.to_owned(),
            start,
            raft,
            log,
            state,
            views,
            heard,
            transport,
            space,
            clocks,
            drained,
            passed: Mutex::new(ElapsedTimes::default()),
            promised,
            failure,
            counts,
            tracer: timing.tracer.clone(),
        });
        rolls::start(node.clone(), full);
        let doors = doors(&node, &stamps, timing, bytes_max, &setup.callers_on);
        let heartbeat = Duration::from_millis(timing.heartbeat_ms);
        let kept = Kept {
            snapshots,
            checkpointer,
            stable: directory.stable.clone(),
            floor,
        };
        let parts = assemble(directory, node, stamps, doors, kept, heartbeat, successor);
        Ok(Self(Arc::new(parts), None, log::LogId::DEFAULT, None))
    }
}

/// Where batches and strong reads come in.
fn doors(
    node: &Node,
    stamps: &Stamps,
    timing: &Timing,
    segment_bytes_max: u32,
    callers_on: &Handle,
) -> (Proposer, ReadBarrier) {
    let (raft, views) = (&node.raft, &node.views);
    let leader = proposer::Leader {
        transport: node.transport.clone(),
        space: node.space.clone(),
        stamps: stamps.clone(),
        gate: Gate::new(&node.log, raft, timing),
        counts: node.counts.clone(),
        slow_call: timing.slow_call.clone(),
    };
    let transport = node.transport.clone();
    let confirmer = Confirmer::start(raft.clone(), node.promised.clone(), transport.clone());
    let reads = ReadBarrier::start(
        node.id(),
        confirmer,
        views.clone(),
        &node.state,
        transport,
        node.log.clone(),
    );
    let group_bytes_max = segment_bytes_max as usize / 4;
    let proposer = Proposer::start(leader, raft, views, group_bytes_max, callers_on);
    (proposer, reads)
}

/// The parts that stand on a node.
fn assemble(
    directory: Directory,
    node: Arc<Node>,
    stamps: Stamps,
    (proposer, reads): (Proposer, ReadBarrier),
    kept: Kept,
    heartbeat: Duration,
    successor: Arc<watch::Sender<Successor>>,
) -> ReplicaParts {
    let (founding, random) = (directory.founding, directory.random);
    let commands = Arc::new(Commands::new(node.clone(), stamps, founding, random));
    let hearing = Hearing::new(node.clone(), directory.introduced, successor);
    let hearing = Arc::new(hearing);
    let (asks, hears) = (commands.clone(), hearing.clone());
    let drained = DrainedFile::new(directory.disk.clone(), &directory.path);
    let members = Members::new(node.clone(), asks, reads.clone(), hears, heartbeat, drained);
    ReplicaParts {
        staging: Staging::new(kept.snapshots.clone()),
        upkeep: Upkeep::new(node.clone(), commands.clone(), kept),
        node,
        proposer,
        commands,
        reads,
        members,
        hearing,
        _lock: directory.lock,
    }
}

/// Who the node in a directory is.
fn identity_of(directory: &Directory) -> Result<Identity, Error> {
    let identity = directory.identity().cloned();
    identity.ok_or_else(|| Error::Engine("the node has no id".to_owned()))
}

/// Whether an operator had the node stay out of leadership.
fn drained(directory: &Directory) -> Result<Drained, Error> {
    let file = DrainedFile::new(directory.disk.clone(), &directory.path);
    let known = file.is_there().map_err(|source| Error::Directory {
        path: file.path(),
        source,
    })?;
    Ok(Drained::new(known))
}

/// The log as the engine stores into it, with its file of what is committed.
fn store(directory: &Directory, log: &Log, inline: bool) -> Result<LogStore, Error> {
    let store = LogStore::new(log.clone(), directory.stable.clone())?;
    keep_committed(directory, &store, inline)?;
    Ok(store)
}

/// Recalls how far an earlier process knew the log to be committed, and keeps what this one does.
fn keep_committed(directory: &Directory, store: &LogStore, inline: bool) -> Result<(), Error> {
    let file = CommitFile::open(&*directory.disk, &directory.path);
    let file = file.map_err(|source| Error::Directory {
        path: directory.path.join(commit_file::NAME),
        source,
    })?;
    if let Some(committed) = file.read() {
        store.recall(committed);
    }
    let follow = file.follow(store.watch_committed(), inline);
    tasks::spawn("commit index on disk", follow);
    Ok(())
}

/// When a leader called last, and the cluster as the engine sees it from now on.
fn views(
    raft: &Raft,
    transport: &Transport,
    counts: &Arc<Counts>,
    news: News,
) -> (Arc<Heard>, watch::Receiver<View>) {
    let heard = Arc::new(Heard::never());
    let (tell, views) = watch::channel(View::default());
    let addresses = transport.addresses().clone();
    let told = (tell, counts.clone());
    let follows = follow::follow(raft.clone(), heard.clone(), addresses, told, news);
    tasks::spawn("view", follows);
    (heard, views)
}
