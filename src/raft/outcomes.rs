//! The outcomes of groups that this node wrote as a leader, and the answers that their batches get.

use std::time::Duration;

use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::command::Outcome;
use super::error::ProposeError;
use super::proposer::Group;
use super::space::Space;
use super::types::TypeConfig;
use super::view::View;

/// How long a group stays under way while too few voters have room. Its outcome is unknown by then,
/// and others are told that the disks are full.
const FULL_WAIT: Duration = Duration::from_secs(1);

type Outcomes = oneshot::Receiver<ClientWriteResult<TypeConfig>>;

/// A group under way, and since when.
pub(super) type Waiting = (Outcomes, Group, Instant);

/// Answers groups in the order in which they were written.
pub(super) async fn complete(
    mut waits: mpsc::Receiver<Waiting>,
    views: watch::Receiver<View>,
    space: Space,
) {
    while let Some((mut outcome, group, since)) = waits.recv().await {
        let full = || space.full_voter(&views.borrow()).is_some();
        let Some(outcome) = unless_full(&mut outcome, since, full).await else {
            // The window would be taken for as long as nobody makes room.
            group.fail(&ProposeError::Unknown);
            continue;
        };
        match outcome {
            Ok(Ok(response)) => match response.data {
                Outcome::Appended(outcomes) => group.answer(outcomes),
                _ => group.fail(&ProposeError::Unknown),
            },
            // Rejected before it was appended.
            Ok(Err(ClientWriteError::ForwardToLeader(forward))) => {
                let leader = forward.leader_node.map(|member| member.addr);
                group.fail(&ProposeError::NoLeader {
                    waited_ms: 0,
                    leader,
                });
            }
            Ok(Err(_)) | Err(_) => group.fail(&ProposeError::Unknown),
        }
    }
}

/// Waits for an outcome; `None` if it takes long and there is no room for it.
async fn unless_full<T>(
    mut outcome: impl Future<Output = T> + Unpin,
    since: Instant,
    full: impl Fn() -> bool,
) -> Option<T> {
    let mut deadline = since + FULL_WAIT;
    loop {
        match tokio::time::timeout_at(deadline, &mut outcome).await {
            Ok(outcome) => return Some(outcome),
            Err(_) if full() => return None,
            Err(_) => deadline = Instant::now() + FULL_WAIT,
        }
    }
}
