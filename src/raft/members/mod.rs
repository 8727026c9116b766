//! The membership: nodes join, leave, and hand leadership on.
//!
//! The leader makes every change, one at a time, as a replicated entry, by joint consensus (Ongaro, "Consensus:
//! Bridging Theory and Practice", 2014, section 4.3). A new node is a learner until it has caught up. Only an
//! operator removes a voter; no failure detector does.

pub mod drain;
pub mod hearing;
pub mod joining;
pub mod reach;
mod removal;
pub mod slow_disk;
pub mod starts;
pub mod transfer;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::errors::{ClientWriteError, RaftError};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::net::identity::is_valid_name;
use crate::proto::raft_v1 as pb;
use crate::raft::entry::audited::Origin;
use crate::raft::entry::command::Command;
use crate::raft::entry::outcome::{NotRegistered, Outcome};
use crate::raft::entry::types::{Member, TypeConfig};
use crate::raft::error::MembershipError;
use crate::raft::home::drained_file::DrainedFile;
use crate::raft::node::Node;
use crate::raft::read::ReadBarrier;
use crate::raft::state::fsm::Fsm;
use crate::raft::write::commands::Commands;
use crate::raft::write::execute::WriteError;
use crate::retry::CALL_WAIT;

use self::hearing::Hearing;

/// How long a call waits for a learner to catch up. After that the joining node has to ask again.
const CATCH_UP: Duration = Duration::from_secs(10);
/// How many entries a learner may lack when it becomes a voter.
const LAG_MAX: u64 = 1000;
/// By which call a node asks to join, as the log of changes tells it.
pub const JOIN: &str = "ferrolog.raft.v1.Raft/Join";
/// Between two tries to finish a change.
const FINISH_RETRY: Duration = Duration::from_millis(100);

/// The names that certificates can carry.
pub fn check_name(name: &str) -> Result<(), MembershipError> {
    if is_valid_name(name) {
        return Ok(());
    }
    Err(MembershipError::BadName {
        name: name.to_owned(),
    })
}

/// Changes the membership.
pub struct Members {
    node: Arc<Node>,
    commands: Arc<Commands>,
    reads: ReadBarrier,
    hearing: Arc<Hearing>,
    heartbeat: Duration,
    drained_file: DrainedFile,
    /// Held while the membership changes.
    changes: Mutex<()>,
}

impl Members {
    pub fn new(
        node: Arc<Node>,
        commands: Arc<Commands>,
        reads: ReadBarrier,
        hearing: Arc<Hearing>,
        heartbeat: Duration,
        drained_file: DrainedFile,
    ) -> Self {
        Self {
            node,
            commands,
            reads,
            hearing,
            heartbeat,
            drained_file,
            changes: Mutex::new(()),
        }
    }

    /// Gives a node its id, or makes a node that has one a voter. Any member takes the call.
    pub async fn join(
        &self,
        request: pb::JoinRequest,
    ) -> Result<pb::JoinResponse, MembershipError> {
        let ours = &self.node.identity.cluster_id;
        if !request.cluster_id.is_empty() && request.cluster_id != *ours {
            return Err(MembershipError::OtherCluster {
                theirs: request.cluster_id,
                ours: ours.clone(),
            });
        }
        if let Some((id, addr)) = self.node.other_leader() {
            let mut client = self.node.transport.client(id, &addr);
            return self.node.change_passed_on(id, client.join(request)).await;
        }
        let _one_at_a_time = self.changes.lock().await;
        self.be_current().await?;
        if request.node_id == 0 {
            self.node.as_leader(self.register(&request)).await
        } else {
            self.node.as_leader(self.admit(&request)).await
        }
    }

    /// Waits until this node has applied all that earlier leaders committed, as a new leader must before it decides.
    async fn be_current(&self) -> Result<(), MembershipError> {
        let current = self.reads.pass(Instant::now() + CALL_WAIT).await;
        current.map_err(|error| MembershipError::NoLeader {
            reason: error.to_string(),
        })
    }

    async fn register(
        &self,
        request: &pb::JoinRequest,
    ) -> Result<pb::JoinResponse, MembershipError> {
        self.commands.found().await?;
        let (name, directory_id) = (request.name.clone(), request.directory_id.clone());
        let entrance = self.commands.entrance(&request.token);
        // This is decided before anything is written: a node that may not join must not fill the log by asking.
        let may = |fsm: &Fsm| fsm.may_register(&name, &directory_id, entrance);
        let judged = self.node.state.read(may);
        let registered = match judged.transpose() {
            Some(known) => known,
            None => {
                let command = Command::Register {
                    name: name.clone(),
                    directory_id,
                    entrance,
                };
                let origin = Origin {
                    subject: name.clone(),
                    address: request.addr.clone(),
                    node: self.node.identity.name.clone(),
                    verb: JOIN.to_owned(),
                    ..Origin::default()
                };
                let Outcome::Registered(registered) =
                    self.commands.write_told(command, &origin).await?
                else {
                    return Err(MembershipError::other_answer());
                };
                registered
            }
        };
        let node_id = registered.map_err(|refused| match refused {
            NotRegistered::NameTaken { node_id } => self.name_taken(name, node_id),
            NotRegistered::NotAdmitted => MembershipError::NotAdmitted { name },
        })?;
        Ok(pb::JoinResponse {
            cluster_id: self.node.identity.cluster_id.clone(),
            node_id,
            voter: false,
            members: self.hearing.introduction(),
        })
    }

    /// The name belongs to a node with another directory: says where that one is.
    fn name_taken(&self, name: String, node_id: u64) -> MembershipError {
        let view = self.node.view();
        let known = view.member(node_id).map(|seen| seen.member.addr.clone());
        let addr = known.unwrap_or_else(|| "no address yet".to_owned());
        MembershipError::NameTaken { name, addr }
    }

    /// Makes a registered node a learner, waits until it has caught up, and makes it a voter.
    async fn admit(&self, request: &pb::JoinRequest) -> Result<pb::JoinResponse, MembershipError> {
        let id = request.node_id;
        let known = self.node.state.read(|fsm| {
            let known = fsm.registrations.named(&request.name);
            known.map(|(id, node)| (id, node.directory_id == request.directory_id))
        });
        match known {
            Some((known, true)) if known == id => {}
            Some((known, _)) if known == id => {
                return Err(self.name_taken(request.name.clone(), id));
            }
            _ => {
                return Err(MembershipError::Removed {
                    name: request.name.clone(),
                    node_id: id,
                });
            }
        }
        self.register_start(request).await?;
        let member = Member {
            name: request.name.clone(),
            addr: request.addr.clone(),
            directory_id: request.directory_id.clone(),
        };
        let view = self.node.view();
        match view.member(id) {
            None => {
                let added = self.node.raft.add_learner(id, member, false).await;
                added.map_err(|error| change_failed(&error))?;
            }
            Some(known) if known.member != member => {
                let change = ChangeMembers::SetNodes([(id, member)].into());
                self.change(change).await?;
            }
            Some(_) => {}
        }
        if !view.member(id).is_some_and(|known| known.voter) {
            self.wait_for_learner(id).await?;
            self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id])))
                .await?;
        }
        Ok(pb::JoinResponse {
            cluster_id: self.node.identity.cluster_id.clone(),
            node_id: id,
            voter: true,
            members: self.hearing.introduction(),
        })
    }

    async fn change(&self, change: ChangeMembers<u64, Member>) -> Result<(), MembershipError> {
        let changed = self.node.raft.change_membership(change, false).await;
        changed.map(drop).map_err(|error| change_failed(&error))
    }

    /// Finishes changes that an earlier leader began. While a membership is joint, the majorities of both its parts
    /// are needed, and one lost node may cost one of them. Never returns.
    pub async fn finish_changes(&self) {
        let mut views = self.node.views.clone();
        loop {
            let begun = views.wait_for(|view| view.writable && view.joint);
            let stopping = begun.await.is_err();
            if stopping {
                return std::future::pending().await;
            }
            // A change of this node's own holds the lock until it has ended.
            let _one_at_a_time = self.changes.lock().await;
            if self.node.view().joint {
                let nobody = ChangeMembers::AddVoterIds(BTreeSet::new());
                match self.node.as_leader(self.change(nobody)).await {
                    Ok(()) => tracing::info!("finished an earlier leader's change of membership"),
                    Err(error) => tracing::debug!(%error, "a joint membership stays for now"),
                }
            }
            tokio::time::sleep(FINISH_RETRY).await;
        }
    }

    async fn wait_for_learner(&self, id: u64) -> Result<(), MembershipError> {
        let caught_up = move |metrics: &openraft::RaftMetrics<TypeConfig>| {
            let last = metrics.last_log_index.unwrap_or(0);
            let matched = metrics
                .replication
                .as_ref()
                .and_then(|all| all.get(&id).copied());
            matched
                .flatten()
                .is_some_and(|matched| matched.index + LAG_MAX >= last)
        };
        let wait = self.node.raft.wait(Some(CATCH_UP));
        let waited = wait.metrics(caught_up, "a learner catches up").await;
        waited.map(drop).map_err(|error| MembershipError::Unknown {
            reason: format!("node {id} has not caught up yet: {error}"),
        })
    }
}

/// The error of a change that failed. A change has two steps, and the first one may have been made.
fn change_failed(error: &WriteError) -> MembershipError {
    match error {
        RaftError::APIError(ClientWriteError::ChangeMembershipError(refused)) => {
            MembershipError::UnderWay {
                reason: refused.to_string(),
            }
        }
        other => MembershipError::Unknown {
            reason: other.to_string(),
        },
    }
}
