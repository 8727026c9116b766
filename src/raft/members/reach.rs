//! Finds a leader that nobody can call. Its own calls go out, so it keeps leading; but clients do not reach it, nor
//! do records that other nodes pass on.
//!
//! A leader asks the other voters to call it back. If enough of them answer and too few of those get through, some
//! times in a row, the leader hands leadership on. A leader that no majority answers does nothing here: the others
//! elect another one.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::{sleep, timeout};

use crate::proto::raft_v1 as pb;
use crate::raft::peer::transport::Lane;
use crate::raft::view::MemberView;

use super::Members;

/// Between two rounds of questions.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a voter may take to call back.
const CALL_BACK: Duration = Duration::from_secs(1);
/// How long a voter may take to say whether it got through.
const ANSWER: Duration = Duration::from_millis(1_500);
/// After so many rounds in a row in which it is not reached, a leader hands leadership on.
const MISSED_MAX: u32 = 3;
/// In one of so many rounds, voters open a new connection for the call: a kept connection may still work at a node
/// that accepts no new ones.
const FRESH_EVERY: u32 = 10;

impl Members {
    /// Hands leadership on if this node leads and cannot be called. Never returns.
    pub async fn stay_reachable(&self) {
        let (mut missed, mut round) = (0, 0_u32);
        loop {
            sleep(LOOK_EVERY).await;
            round = round.wrapping_add(1);
            // After a failed call the next one goes over a new connection.
            let fresh = missed > 0 || round.is_multiple_of(FRESH_EVERY);
            missed = if self.is_reached(fresh).await {
                0
            } else {
                missed + 1
            };
            if missed >= MISSED_MAX {
                missed = 0;
                tracing::warn!(
                    addr = %self.node.addr,
                    "the other voters answer this leader and cannot call it: leadership is handed \
                     on; check the address to advertise, and that its port lets them in"
                );
                if let Err(error) = self.transfer("").await {
                    tracing::warn!(%error, "leadership was not handed on");
                }
            }
        }
    }

    /// Whether this node can be called. False if it leads, and so many voters answer that they cannot call it that
    /// the others are no majority.
    async fn is_reached(&self, fresh: bool) -> bool {
        let view = self.node.view();
        let me = self.node.id();
        if view.leader != Some(me) || !view.writable {
            return true;
        }
        let voters = view.members.iter().filter(|member| member.voter);
        let majority = voters.clone().count() / 2 + 1;
        let asked = voters.filter(|voter| voter.id != me);
        let answers = join_all(asked.map(|voter| self.ask_for_a_call(voter, fresh))).await;
        let answered = answers.iter().flatten().count();
        let reached = answers.iter().flatten().filter(|reached| **reached).count();
        // This node counts itself.
        answered + 1 < majority || reached + 1 >= majority
    }

    /// Whether a voter's call gets through to this node; `None` if the voter does not answer.
    async fn ask_for_a_call(&self, voter: &MemberView, fresh: bool) -> Option<bool> {
        let mut client = self.node.transport.client(voter.id, &voter.member.addr);
        let call = client.call_back(pb::CallBackRequest { fresh });
        let answer = timeout(ANSWER, call).await.ok()?;
        Some(answer.ok()?.into_inner().reached)
    }

    /// Calls the leader that asked for it; whether the call got through.
    pub(crate) async fn call_back(&self, leader: u64, fresh: bool) -> bool {
        let view = self.node.view();
        let Some(member) = view.member(leader) else {
            return false;
        };
        let addr = &member.member.addr;
        let mut client = match fresh {
            true => self.node.transport.own_client(leader, addr),
            false => self.node.transport.kept(leader, addr, Lane::CallBacks),
        };
        let call = client.confirm(pb::ConfirmRequest { term: view.term });
        matches!(timeout(CALL_BACK, call).await, Ok(Ok(_)))
    }
}
