//! Sets up the consensus engine of a node, and begins a cluster on its first node.

mod entries;
pub mod failure;
pub mod follow;
pub mod install;
pub mod log_store;
pub mod news;
pub mod promised;
pub mod state_machine;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use crate::env::Clock;
use crate::live::Live;
use crate::raft::entry::types::{Member, TypeConfig};
use crate::raft::error::Error;
use crate::raft::home::directory::{FIRST_NODE, Identity};
use crate::raft::peer::transport::Transport;
use crate::spans::Tracer;

use self::log_store::LogStore;
use self::state_machine::StateMachine;

/// The consensus engine of a node.
pub type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// How far this node's clock may be from the clocks of a majority, unless a setting says otherwise.
const CLOCK_BOUND_MS: u64 = 1000;

/// How often a leader sends heartbeats, how long a follower waits for one, by which clock the node goes, and who is told
/// how long things took.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Between two heartbeats, in milliseconds.
    pub heartbeat_ms: u64,
    /// The election timeout is drawn from this range, in milliseconds.
    pub election_ms: (u64, u64),
    /// The clock that the node takes the time of day from.
    pub clock: Clock,
    /// How far the clock may be from the clocks of a majority before it is not believed, in milliseconds.
    pub clock_bound_ms: u64,
    /// A write that takes longer is logged with its stages; zero: none is.
    pub slow_call: Live<Duration>,
    /// Makes the spans of calls that somebody traces.
    pub tracer: Tracer,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat_ms: 50,
            election_ms: (150, 300),
            clock: Clock::system(),
            clock_bound_ms: CLOCK_BOUND_MS,
            slow_call: Live::new(Duration::from_secs(1)),
            tracer: Tracer::default(),
        }
    }
}

/// Starts the engine; the first node begins the cluster. `elects`: whether the node asks for votes.
pub async fn start(
    timing: &Timing,
    identity: &Identity,
    addr: &str,
    transport: &Transport,
    (store, machine): (LogStore, StateMachine),
    elects: bool,
) -> Result<Raft, Error> {
    let config = config(timing, &identity.cluster_id, elects)?;
    let begun = store.clone();
    begun.set_applied_before(machine.applied());
    let raft = Raft::new(identity.node_id, config, transport.clone(), store, machine).await;
    begun.set_applied_before(None);
    let raft = raft.map_err(|error| Error::Engine(error.to_string()))?;
    begin_cluster(&raft, identity, addr).await?;
    Ok(raft)
}

/// Makes the first node the one voter of the cluster. After a restart this does nothing.
async fn begin_cluster(raft: &Raft, identity: &Identity, addr: &str) -> Result<(), Error> {
    let failed = |error: String| Error::Engine(error);
    let begun = raft
        .is_initialized()
        .await
        .map_err(|error| failed(error.to_string()))?;
    if identity.node_id != FIRST_NODE || begun {
        return Ok(());
    }
    let member = Member {
        name: identity.name.clone(),
        addr: addr.to_owned(),
        directory_id: identity.directory_id.clone(),
    };
    let members = BTreeMap::from([(FIRST_NODE, member)]);
    raft.initialize(members)
        .await
        .map_err(|error| failed(error.to_string()))
}

/// The engine's settings; consensus decisions are in `docs/decisions/`. A node that does not elect asks for no votes
/// until that is changed.
pub fn config(timing: &Timing, cluster_id: &str, elects: bool) -> Result<Arc<Config>, Error> {
    let config = Config {
        cluster_name: cluster_id.to_owned(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_ms.0,
        election_timeout_max: timing.election_ms.1,
        enable_elect: elects,
        enable_pre_vote: Some(true),
        // A leader that restarts is not leader again at once: it asks for votes like any other node.
        enable_leader_restore: Some(false),
        quorum_loss_probe_interval: Some(1000.max(2 * timing.election_ms.1)),
        // A follower whose log is shorter than what it confirmed has a failed disk. It must not be fed as if it
        // were new.
        allow_log_reversion: Some(false),
        max_append_entries: Some(4096),
        max_payload_entries: 1024,
        api_channel_size: Some(4096),
        api_batch_capacity: 4096,
        api_batch_linger_ms: 0,
        state_machine_channel_size: Some(1024),
        // Records are stored once, in the log: a purge would remove what readers read. Snapshots and purges
        // happen only when a trim needs them.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        install_snapshot_timeout: 30_000,
        ..Config::default()
    };
    let config = config
        .validate()
        .map_err(|error| Error::Engine(error.to_string()))?;
    Ok(Arc::new(config))
}
