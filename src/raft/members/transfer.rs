//! Hands leadership to another voter.

use std::time::Duration;

use tokio::time::Instant;

use crate::proto::raft_v1 as pb;
use crate::raft::error::MembershipError;
use crate::raft::view::View;

use super::Members;

/// How long a transfer of leadership may take.
const TRANSFER: Duration = Duration::from_secs(5);
/// How many heartbeats later a voter has surely told what it was told just now.
const HEARTBEATS_HEARD: u32 = 4;

impl Members {
    /// Hands leadership to the voter of this name, or to the one that holds the most of the log if `name` is empty.
    /// Returns the new leader's name. Any member takes the call.
    pub async fn transfer(&self, name: &str) -> Result<String, MembershipError> {
        if let Some((id, addr)) = self.node.other_leader() {
            let mut client = self.node.transport.client(id, &addr);
            let request = pb::TransferRequest {
                to: name.to_owned(),
            };
            let response: pb::TransferResponse = self
                .node
                .change_passed_on(id, client.transfer(request))
                .await?;
            return Ok(response.leader);
        }
        let view = self.node.view();
        if view.leader != Some(self.node.id()) {
            // It may be elected just now. If the engine were then asked to hand leadership to this node itself, it
            // would take no more commands, and wait for good.
            return Err(MembershipError::NoLeader {
                reason: "none is known".to_owned(),
            });
        }
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
        if !name.is_empty() && self.stays_drained(to).await {
            return Err(MembershipError::Drained { name: target });
        }
        // The engine would give up leading for one that cannot take it over, and an election would follow.
        if !name.is_empty() && !self.answers(to).await {
            let reason = "the leader hears nothing of it".to_owned();
            return Err(MembershipError::Silent {
                name: target,
                reason,
            });
        }
        tracing::info!(to = target, "hands leadership on");
        let asked = self.node.raft.trigger().transfer_leader(to).await;
        asked.map_err(|error| MembershipError::Unknown {
            reason: error.to_string(),
        })?;
        let mut views = self.node.views.clone();
        let wait = views.wait_for(|view| view.leader == Some(to));
        match tokio::time::timeout(TRANSFER, wait).await {
            Ok(Ok(_)) => Ok(target),
            _ => Err(MembershipError::Unknown {
                reason: format!("{target} did not take over within {} s", TRANSFER.as_secs()),
            }),
        }
    }

    /// Whether a voter says that it is drained, and goes on saying so: one that was undrained just now has not told its
    /// leader yet.
    async fn stays_drained(&self, id: u64) -> bool {
        for _ in 0..HEARTBEATS_HEARD {
            if !self.node.drained.is_peer(id) {
                return false;
            }
            tokio::time::sleep(self.heartbeat).await;
        }
        self.node.drained.is_peer(id)
    }

    /// Whether a member answers a heartbeat of now.
    async fn answers(&self, id: u64) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < self.patience() {
            if self.node.clocks.heard_within(id, begun.elapsed()) {
                return true;
            }
            tokio::time::sleep(self.heartbeat).await;
        }
        self.node.clocks.heard_within(id, begun.elapsed())
    }

    /// Hands leadership to the voter that holds the most of the log, if this node leads.
    pub async fn hand_on(&self) {
        let view = self.node.view();
        let leads = view.leader == Some(self.node.id());
        if leads && view.members.iter().filter(|member| member.voter).count() > 1 {
            match self.transfer("").await {
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "leadership was not handed on"),
            }
        }
    }

    /// The voter, other than this node, that holds the most of the log. Voters that have not answered within two
    /// heartbeats, and those that are drained, count only if there is no other.
    fn furthest_voter(&self, view: &View) -> Option<u64> {
        let matched = self.node.matched();
        let me = self.node.id();
        let others = view
            .members
            .iter()
            .filter(|member| member.voter && member.id != me);
        let (clocks, lately) = (&self.node.clocks, 2 * self.heartbeat);
        others
            .max_by_key(|member| {
                let answers = clocks.heard_within(member.id, lately);
                let undrained = !self.node.drained.is_peer(member.id);
                let held = matched.get(&member.id).copied().flatten();
                (answers, undrained, held)
            })
            .map(|member| member.id)
    }
}
