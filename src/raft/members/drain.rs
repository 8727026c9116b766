//! Keeps a node out of leadership, for as long as an operator has it drained.
//!
//! A drained node votes and holds the log as before, and asks for no votes itself. But it may be the one node that can
//! lead: the others may be down, or may lack what it has acknowledged. So one that has heard no leader for long stands
//! like any other node, and hands leadership on as soon as another one can take it. A cluster is never without a leader
//! for longer than that because nodes are drained.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::log;
use crate::proto::raft_v1 as pb;
use crate::raft::error::MembershipError;
use crate::raft::home::blocking::on_disk;
use crate::reason::Reason;

use super::{LAG_MAX, Members};

/// For so many heartbeats a drained node hears no leader before it stands: ten of the longest election timeouts.
const STANDS_AFTER_HEARTBEATS: u32 = 60;
/// Between two tries to hand leadership on. Records wait during each.
const HAND_ON_AGAIN: Duration = Duration::from_secs(5);
/// How long the node that is meant may take.
const ANSWER: Duration = Duration::from_secs(8);

impl Members {
    /// Has the node of this name stay out of leadership, or lead again. Returns who leads by then; empty if nobody is
    /// known to. Any member takes the call, and the node itself must be up.
    pub async fn drain(&self, name: &str, drained: bool) -> Result<String, MembershipError> {
        let view = self.node.view();
        let Some(member) = view.named(name) else {
            return Err(MembershipError::NoSuchMember {
                name: name.to_owned(),
            });
        };
        if member.id == self.node.id() {
            return self.be_drained(drained).await;
        }
        let mut client = self.node.transport.client(member.id, &member.member.addr);
        let call = client.drain(pb::DrainRequest { drained });
        let silent = |reason: String| MembershipError::Silent {
            name: name.to_owned(),
            reason,
        };
        match timeout(ANSWER, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().leader),
            Ok(Err(status)) => Err(match Reason::of(&status) {
                Some(reason) => MembershipError::Refused {
                    reason,
                    message: status.message().to_owned(),
                },
                None => silent(status.message().to_owned()),
            }),
            Err(_) => Err(silent(format!(
                "it took longer than {} s",
                ANSWER.as_secs()
            ))),
        }
    }

    /// Has this node stay out of leadership, or lead again. Durable on return.
    pub async fn be_drained(&self, drained: bool) -> Result<String, MembershipError> {
        let file = self.drained_file.clone();
        let path = file.path();
        let set = on_disk(move || file.set(drained).map_err(log::Error::io("write", &path)));
        set.await.map_err(|error| MembershipError::NotKept {
            reason: error.to_string(),
        })?;
        let was = self.node.drained.is_own();
        self.node.drained.set(drained);
        self.node.raft.runtime_config().elect(!drained);
        if drained != was {
            let told = if drained {
                "drained: this node stays out of leadership"
            } else {
                "this node may lead again"
            };
            tracing::info!("{told}");
        }
        if drained {
            self.hand_to_another().await;
        }
        let view = self.node.view();
        let leader = view
            .leader_member()
            .map(|leader| leader.member.name.clone());
        Ok(leader.unwrap_or_default())
    }

    /// Keeps this node out of leadership while it is drained, as far as others can lead. Never returns.
    pub async fn stay_drained(&self) {
        let patience = STANDS_AFTER_HEARTBEATS * self.heartbeat;
        // When this node last led or was not drained, or began.
        let mut since = Instant::now();
        let mut handed_on: Option<Instant> = None;
        let mut stands = true;
        loop {
            if !self.node.drained.is_own() {
                // It may have been undrained while this loop said otherwise.
                self.node.raft.runtime_config().elect(true);
                self.node.drained.own().await;
                (since, stands) = (Instant::now(), true);
            }
            sleep(self.heartbeat).await;
            if !self.node.drained.is_own() {
                continue;
            }
            let leads = self.node.view().leader == Some(self.node.id());
            if leads {
                since = Instant::now();
                if handed_on.is_none_or(|tried| tried.elapsed() >= HAND_ON_AGAIN) {
                    handed_on = Some(since);
                    self.hand_to_another().await;
                }
            }
            let silence = since.elapsed();
            let silence = self
                .node
                .heard
                .ago()
                .map_or(silence, |ago| ago.min(silence));
            let must_stand = silence >= patience;
            if must_stand && !stands {
                tracing::warn!(
                    "this node is drained, and stands for election all the same: no leader is heard, so no other node \
                     may be able to lead"
                );
            }
            stands = must_stand;
            self.node.raft.runtime_config().elect(must_stand);
        }
    }

    /// Hands leadership to a voter that is not drained, answers and holds about all of the log, if this node leads.
    async fn hand_to_another(&self) {
        let view = self.node.view();
        if view.leader != Some(self.node.id()) {
            return;
        }
        let last = self.node.indexes()[0].unwrap_or(0);
        let matched = self.node.matched();
        let lately = 2 * self.heartbeat;
        let can_lead = view.members.iter().filter(|member| {
            let held = matched.get(&member.id).copied().flatten();
            member.voter
                && member.id != self.node.id()
                && !self.node.drained.is_peer(member.id)
                && self.node.clocks.heard_within(member.id, lately)
                && held.is_some_and(|held| held + LAG_MAX >= last)
        });
        let furthest = can_lead.max_by_key(|member| matched.get(&member.id).copied().flatten());
        let Some(to) = furthest else {
            return;
        };
        match self.transfer(&to.member.name).await {
            Ok(leader) => tracing::info!(%leader, "drained: handed leadership on"),
            Err(error) => tracing::warn!(%error, "drained, and leadership was not handed on"),
        }
    }
}
