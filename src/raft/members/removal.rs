//! Takes nodes out of the cluster, unless those that stay could then commit nothing.
//!
//! A removal takes effect once it is appended, and is committed only by a majority of those that stay (joint
//! consensus). If fewer of them answer, the removal would never end, and nothing behind it would be committed. So
//! there is no way to force it: whoever does not answer is started again, or removed first.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::ChangeMembers;
use tokio::time::{Instant, sleep, timeout};

use crate::proto::raft_v1 as pb;
use crate::raft::entry::command::Command;
use crate::raft::error::MembershipError;
use crate::raft::view::View;
use crate::retry::CALL_WAIT;

use super::Members;

/// Who does not answer for so many heartbeats is taken for dead: that is more than three elections.
const SILENT_HEARTBEATS: u32 = 20;
/// And for no longer than this.
const LISTENS_MAX: Duration = Duration::from_secs(3);

impl Members {
    /// Removes the node of this name from the cluster; false if there was none. Any member takes the call.
    pub async fn remove(&self, name: &str) -> Result<bool, MembershipError> {
        if let Some((id, addr)) = self.node.other_leader() {
            let mut client = self.node.transport.client(id, &addr);
            let request = pb::RemoveNodeRequest {
                name: name.to_owned(),
            };
            let response: pb::RemoveNodeResponse = self
                .node
                .change_passed_on(id, client.remove_node(request))
                .await?;
            return Ok(response.removed);
        }
        // Nobody may be there any more who asked for it: it is not to happen at some later time.
        let begins = timeout(CALL_WAIT, self.changes.lock()).await;
        let _one_at_a_time = begins.map_err(|_| MembershipError::UnderWay {
            reason: "it has not ended yet".to_owned(),
        })?;
        self.be_current().await?;
        let view = self.node.view();
        let Some(known) = view.named(name) else {
            return self.node.as_leader(self.forget(name)).await;
        };
        let gone = BTreeSet::from([known.id]);
        let change = if known.voter {
            let can_go = async { self.can_do_without(&view, known.id).await };
            self.node.as_leader(can_go).await?;
            ChangeMembers::RemoveVoters(gone)
        } else {
            ChangeMembers::RemoveNodes(gone)
        };
        self.node.as_leader(self.change(change)).await?;
        Ok(true)
    }

    /// Returns once so many of the voters that stay have answered that they can commit without this one. An answer
    /// from before the call proves nothing: whoever gave it may be dead by now.
    async fn can_do_without(&self, view: &View, goes: u64) -> Result<(), MembershipError> {
        let begun = Instant::now();
        let name = view.member(goes).map(|known| known.member.name.clone());
        let name = name.unwrap_or_default();
        loop {
            let stay = view.members.iter();
            let stay = stay.filter(|member| member.voter && member.id != goes);
            let (me, since) = (self.node.id(), begun.elapsed());
            let answers = |id| id == me || self.node.clocks.heard_within(id, since);
            let (up, silent): (Vec<_>, Vec<_>) = stay.partition(|member| answers(member.id));
            let voters = up.len() + silent.len();
            if voters == 0 {
                return Err(MembershipError::LastVoter { name });
            }
            let needed = voters / 2 + 1;
            if up.len() >= needed {
                return Ok(());
            }
            if since >= self.patience() {
                let silent = silent.iter().map(|member| member.member.name.clone());
                let (up, silent) = (up.len(), silent.collect());
                return Err(MembershipError::QuorumAtRisk {
                    name,
                    up,
                    voters,
                    needed,
                    silent,
                });
            }
            sleep(self.heartbeat).await;
        }
    }

    /// How long a member that is up takes to answer, at most.
    pub(super) fn patience(&self) -> Duration {
        LISTENS_MAX.min(SILENT_HEARTBEATS * self.heartbeat)
    }

    /// Frees the name of a node that has an id and never became a member.
    async fn forget(&self, name: &str) -> Result<bool, MembershipError> {
        if self
            .node
            .state
            .read(|fsm| fsm.registrations.named(name).is_none())
        {
            return Ok(false);
        }
        let command = Command::Forget {
            name: name.to_owned(),
        };
        self.commands.write_here(command).await?;
        Ok(true)
    }
}
