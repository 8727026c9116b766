//! Membership: who joins, who leaves, who leads next.
//!
//! Every change is a replicated one, made by the leader, one at a time, by joint consensus (Ongaro,
//! "Consensus: Bridging Theory and Practice", 2014, section 4.3). A new node is a learner until it
//! has caught up. No failure detector ever touches the voters: an operator does.

pub mod hearing;
pub mod joining;
pub mod lifetime;
pub mod reach;
pub mod reign;
pub mod starts;

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::errors::{ClientWriteError, RaftError};
use tokio::time::Instant;

use crate::log::Offset;
use crate::net::identity::is_valid_name;
use crate::proto::raft_v1 as pb;
use crate::raft::ReplicatedLog;
use crate::raft::entry::command::{Command, Retention};
use crate::raft::entry::outcome::{NotRegistered, Outcome};
use crate::raft::entry::types::{Member, TypeConfig};
use crate::raft::error::{MembershipError, OTHER_ANSWER};
use crate::raft::state::fsm::Fsm;
use crate::raft::view::View;
use crate::raft::write::execute::{WAIT, WriteError};

/// How long a learner may take to catch up before the joining node has to ask again.
const CATCH_UP: Duration = Duration::from_secs(10);
/// Entries that a learner may lack when it becomes a voter.
const LAG_MAX: u64 = 1000;
/// Between two tries to finish a change.
const FINISH_RETRY: Duration = Duration::from_millis(100);
/// How long a transfer of leadership may take.
const TRANSFER: Duration = Duration::from_secs(5);

fn other_answer() -> MembershipError {
    MembershipError::Unknown {
        reason: OTHER_ANSWER.to_owned(),
    }
}

/// The names that certificates can carry.
fn check_name(name: &str) -> Result<(), MembershipError> {
    if is_valid_name(name) {
        return Ok(());
    }
    Err(MembershipError::BadName {
        name: name.to_owned(),
    })
}

impl ReplicatedLog {
    /// Gives a node its id, or makes a node that has one a voter. Any member takes the call.
    pub async fn join(
        &self,
        request: pb::JoinRequest,
    ) -> Result<pb::JoinResponse, MembershipError> {
        check_name(&request.name)?;
        let ours = &self.identity().cluster_id;
        if !request.cluster_id.is_empty() && request.cluster_id != *ours {
            return Err(MembershipError::OtherCluster {
                theirs: request.cluster_id,
                ours: ours.clone(),
            });
        }
        if let Some((id, addr)) = self.other_leader() {
            let mut client = self.transport().client(id, &addr);
            return self.passed_on(id, client.join(request)).await;
        }
        let _one_at_a_time = self.0.changes.lock().await;
        self.be_current().await?;
        if request.node_id == 0 {
            self.as_leader(self.register(&request)).await
        } else {
            self.as_leader(self.admit(&request)).await
        }
    }

    /// A new leader may not have applied yet what it must know to judge.
    async fn be_current(&self) -> Result<(), MembershipError> {
        let current = self.read_barrier().await;
        current.map_err(|error| MembershipError::NoLeader {
            reason: error.to_string(),
        })
    }

    async fn register(
        &self,
        request: &pb::JoinRequest,
    ) -> Result<pb::JoinResponse, MembershipError> {
        self.found().await?;
        let (name, directory_id) = (request.name.clone(), request.directory_id.clone());
        let entrance = self.entrance(&request.token);
        // Judged here first: whoever may not join must not fill the log by asking.
        let may = |fsm: &Fsm| fsm.may_register(&name, &directory_id, entrance);
        let judged = self.0.fsm.read(may);
        let registered = match judged.transpose() {
            Some(known) => known,
            None => {
                let command = Command::Register {
                    name: name.clone(),
                    directory_id,
                    entrance,
                };
                let Outcome::Registered(registered) = self.write_here(command).await? else {
                    return Err(other_answer());
                };
                registered
            }
        };
        let node_id = registered.map_err(|refused| match refused {
            NotRegistered::NameTaken { .. } => MembershipError::NameTaken { name },
            NotRegistered::NotAdmitted => MembershipError::NotAdmitted { name },
        })?;
        Ok(pb::JoinResponse {
            cluster_id: self.identity().cluster_id.clone(),
            node_id,
            voter: false,
            members: self.introduction(),
        })
    }

    /// Makes a registered node a learner, waits for it, makes it a voter.
    async fn admit(&self, request: &pb::JoinRequest) -> Result<pb::JoinResponse, MembershipError> {
        let id = request.node_id;
        let known = self.0.fsm.read(|fsm| {
            let known = fsm.registrations.named(&request.name);
            known.map(|(id, node)| (id, node.directory_id == request.directory_id))
        });
        match known {
            Some((known, true)) if known == id => {}
            Some((known, _)) if known == id => {
                return Err(MembershipError::NameTaken {
                    name: request.name.clone(),
                });
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
        let view = self.view();
        match view.member(id) {
            None => {
                let added = self.0.raft.add_learner(id, member, false).await;
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
            tracing::info!(node = id, name = %request.name, "is a voter now");
        }
        Ok(pb::JoinResponse {
            cluster_id: self.identity().cluster_id.clone(),
            node_id: id,
            voter: true,
            members: self.introduction(),
        })
    }

    async fn change(&self, change: ChangeMembers<u64, Member>) -> Result<(), MembershipError> {
        let changed = self.0.raft.change_membership(change, false).await;
        changed.map(drop).map_err(|error| change_failed(&error))
    }

    /// Finishes changes that an earlier leader began and did not end: as long as a membership is
    /// joint, both its majorities are needed, and a lost node may cost one of them. Never returns.
    pub async fn finish_changes(&self) {
        let mut views = self.watch_view();
        loop {
            let begun = views.wait_for(|view| view.writable && view.joint);
            let stopping = begun.await.is_err();
            if stopping {
                return std::future::pending().await;
            }
            // A change of this node's own holds the lock until it has ended.
            let _one_at_a_time = self.0.changes.lock().await;
            if self.view().joint {
                let nobody = ChangeMembers::AddVoterIds(BTreeSet::new());
                match self.as_leader(self.change(nobody)).await {
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
        let wait = self.0.raft.wait(Some(CATCH_UP));
        let waited = wait.metrics(caught_up, "a learner catches up").await;
        waited.map(drop).map_err(|error| MembershipError::Unknown {
            reason: format!("node {id} has not caught up yet: {error}"),
        })
    }

    /// Takes a node out of the cluster, by name. False if there was none. Any member takes the
    /// call.
    pub async fn remove(&self, name: &str) -> Result<bool, MembershipError> {
        if let Some((id, addr)) = self.other_leader() {
            let mut client = self.transport().client(id, &addr);
            let request = pb::RemoveNodeRequest {
                name: name.to_owned(),
            };
            let response: pb::RemoveNodeResponse =
                self.passed_on(id, client.remove_node(request)).await?;
            return Ok(response.removed);
        }
        let _one_at_a_time = self.0.changes.lock().await;
        self.be_current().await?;
        let view = self.view();
        let Some(known) = view.named(name) else {
            return self.as_leader(self.forget(name)).await;
        };
        let voters = view.members.iter().filter(|member| member.voter).count();
        if known.voter && voters == 1 {
            return Err(MembershipError::LastVoter {
                name: name.to_owned(),
            });
        }
        let gone = BTreeSet::from([known.id]);
        let change = if known.voter {
            ChangeMembers::RemoveVoters(gone)
        } else {
            ChangeMembers::RemoveNodes(gone)
        };
        self.as_leader(self.change(change)).await?;
        Ok(true)
    }

    /// Frees the name of a node that got an id and never became a member.
    async fn forget(&self, name: &str) -> Result<bool, MembershipError> {
        if self
            .0
            .fsm
            .read(|fsm| fsm.registrations.named(name).is_none())
        {
            return Ok(false);
        }
        let command = Command::Forget {
            name: name.to_owned(),
        };
        self.write_here(command).await?;
        Ok(true)
    }

    /// Hands leadership to a voter, to the one that is furthest on if `name` is empty. Gives the
    /// new leader's name. Any member takes the call.
    pub async fn transfer(&self, name: &str) -> Result<String, MembershipError> {
        if let Some((id, addr)) = self.other_leader() {
            let mut client = self.transport().client(id, &addr);
            let request = pb::TransferRequest {
                to: name.to_owned(),
            };
            let response: pb::TransferResponse =
                self.passed_on(id, client.transfer(request)).await?;
            return Ok(response.leader);
        }
        let view = self.view();
        let to = match name {
            "" => self.furthest_voter(&view),
            name => view
                .named(name)
                .filter(|member| member.voter)
                .map(|member| member.id),
        };
        let to = to.ok_or_else(|| MembershipError::NoSuchVoter {
            name: name.to_owned(),
        })?;
        let target = view
            .member(to)
            .map_or_else(String::new, |known| known.member.name.clone());
        if view.leader == Some(to) {
            return Ok(target);
        }
        let asked = self.0.raft.trigger().transfer_leader(to).await;
        asked.map_err(|error| MembershipError::Unknown {
            reason: error.to_string(),
        })?;
        let mut views = self.watch_view();
        let wait = views.wait_for(|view| view.leader == Some(to));
        match tokio::time::timeout(TRANSFER, wait).await {
            Ok(Ok(_)) => Ok(target),
            _ => Err(MembershipError::Unknown {
                reason: format!("{target} did not take over within {} s", TRANSFER.as_secs()),
            }),
        }
    }

    /// Gives up the records before `first`, on every replica alike; gives the first offset that may
    /// be read from now on. Any member takes the call.
    pub async fn trim(&self, first: Offset) -> Result<Offset, MembershipError> {
        if let Some((id, addr)) = self.other_leader() {
            let mut client = self.transport().client(id, &addr);
            let request = pb::TrimRequest {
                first_offset: first.0,
            };
            let response: pb::TrimResponse = self.passed_on(id, client.trim(request)).await?;
            return Ok(Offset(response.first_offset));
        }
        match self.write_led(Command::Trim(first)).await? {
            Outcome::Trimmed(first) => Ok(first),
            _ => Err(other_answer()),
        }
    }

    /// Sets how much of the log is kept. Any member takes the call.
    pub async fn set_retention(&self, retention: Retention) -> Result<(), MembershipError> {
        if let Some((id, addr)) = self.other_leader() {
            let mut client = self.transport().client(id, &addr);
            let response = self
                .passed_on(id, client.set_retention(retention.to_pb()))
                .await;
            return response.map(drop);
        }
        let command = Command::SetRetention(retention);
        self.write_led(command).await.map(drop)
    }

    /// Replicates a command from here, within the time that calls have.
    pub(crate) async fn write_here(&self, command: Command) -> Result<Outcome, MembershipError> {
        let written = self.write(command, Instant::now() + WAIT).await;
        Ok(written?)
    }

    /// Replicates a command from here, for as long as this node leads.
    async fn write_led(&self, command: Command) -> Result<Outcome, MembershipError> {
        self.as_leader(self.write_here(command)).await
    }

    /// The voter, other than this node, that holds the most of the log: of those that answered
    /// within two heartbeats, if any did.
    fn furthest_voter(&self, view: &View) -> Option<u64> {
        let matched = self.matched();
        let me = self.identity().node_id;
        let others = view
            .members
            .iter()
            .filter(|member| member.voter && member.id != me);
        let (clocks, lately) = (&self.0.clocks, 2 * self.0.heartbeat);
        others
            .max_by_key(|member| {
                let answers = clocks.heard_within(member.id, lately);
                (answers, matched.get(&member.id).copied().flatten())
            })
            .map(|member| member.id)
    }

    /// The leader's id and address, if another node leads.
    pub(crate) fn other_leader(&self) -> Option<(u64, String)> {
        let view = self.view();
        let leader = view.leader_member()?;
        let other = leader.id != self.identity().node_id;
        other.then(|| (leader.id, leader.member.addr.clone()))
    }
}

/// A change is made in two steps, and one that fails may have made the first.
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
