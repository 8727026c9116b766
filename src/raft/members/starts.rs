//! Keeps two processes from running as the same node: they would share one vote.
//!
//! A copy of a data directory holds the same node id. So each start of a node draws a number, and the leader
//! registers it. While the registered start still answers, the leader refuses another one: the running process
//! goes on, and a copy that was started by mistake does not take its place. If the registered start does not
//! answer, as after every restart, the new one is registered in its place. The old start may come back from a
//! pause. Nodes that know of the new start refuse its calls, since they would otherwise believe that the node has
//! moved. The old start learns this from the refusal, and stops.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use crate::proto::raft_v1 as pb;
use crate::raft::entry::command::Command;
use crate::raft::entry::types::Member;
use crate::raft::error::{Error, MembershipError};
use crate::raft::home::directory::Identity;
use crate::raft::node::Node;
use crate::raft::peer::transport::Transport;
use crate::raft::state::applied::AppliedState;
use crate::raft::state::fsm::Fsm;

use super::Members;

/// How long a start may take to answer.
const ANSWER: Duration = Duration::from_secs(1);

/// The answer of the node at an address.
#[derive(Default)]
struct Found {
    /// It is another start of the node.
    is_another: bool,
    /// The members that it knows.
    members: Vec<pb::Member>,
}

/// Asks at an address whether another start of a node runs there.
async fn look(transport: &Transport, addr: &str, node_id: u64, start: u64) -> Found {
    let mut client = transport.client(0, addr);
    let call = client.identify(pb::IdentifyRequest {});
    let Ok(Ok(answer)) = timeout(ANSWER, call).await else {
        return Found::default();
    };
    let answer = answer.into_inner();
    Found {
        is_another: answer.node_id == node_id && answer.start != start,
        members: answer.members,
    }
}

/// Fails if another start of this node runs. All addresses are asked at which this node or the other members know it.
/// The node must not vote before this has returned.
pub async fn check_alone(
    transport: &Transport,
    identity: &Identity,
    start: u64,
    own_addr: &str,
    peers: &[String],
    fsm: &AppliedState,
) -> Result<(), Error> {
    let mut asked = BTreeSet::new();
    let mut next = fsm.read(Fsm::addrs);
    next.insert(own_addr.to_owned());
    next.extend(peers.iter().cloned());
    // The second round asks the addresses that the other members know this node by.
    for _ in 0..2 {
        let addrs: Vec<_> = next.difference(&asked).cloned().collect();
        let looks = addrs.iter();
        let looks = looks.map(|addr| look(transport, addr, identity.node_id, start));
        let found = join_all(looks).await;
        asked.extend(addrs.iter().cloned());
        next.clear();
        for (addr, found) in addrs.into_iter().zip(found) {
            if found.is_another {
                let name = identity.name.clone();
                return Err(Error::AnotherStart(MembershipError::AnotherStart {
                    name,
                    addr,
                }));
            }
            let me = |member: &pb::Member| member.id == identity.node_id;
            next.extend(found.members.into_iter().filter(me).map(|me| me.addr));
        }
    }
    Ok(())
}

impl Members {
    /// Registers a start of a node; an error if another start of it answers.
    pub(crate) async fn register_start(
        &self,
        request: &pb::JoinRequest,
    ) -> Result<(), MembershipError> {
        let (node_id, start) = (request.node_id, request.start);
        if self
            .node
            .state
            .read(|fsm| fsm.registrations.start_of(node_id))
            == Some(start)
        {
            return Ok(());
        }
        if self
            .node
            .state
            .read(|fsm| fsm.registrations.is_replaced(node_id, start))
        {
            return Err(replaced_by(&self.node, node_id));
        }
        if let Some(addr) = self.another_start(node_id, start).await {
            let name = request.name.clone();
            return Err(MembershipError::AnotherStart { name, addr });
        }
        let command = Command::RegisterStart { node_id, start };
        self.commands.write_here(command).await.map(drop)
    }

    /// The address at which another start of a node answers.
    async fn another_start(&self, node_id: u64, start: u64) -> Option<String> {
        if node_id == self.node.id() {
            return (start != self.node.start).then(|| self.node.addr.clone());
        }
        let addr = self.node.view().member(node_id)?.member.addr.clone();
        let found = look(&self.node.transport, &addr, node_id, start).await;
        found.is_another.then_some(addr)
    }
}

/// The error for a start whose place another start has taken.
pub fn replaced_by(node: &Node, node_id: u64) -> MembershipError {
    let view = node.view();
    let member = view.member(node_id).map(|known| known.member.clone());
    let Member { name, addr, .. } = member.unwrap_or_default();
    MembershipError::AnotherStart { name, addr }
}
