//! The outcomes of groups that this node wrote as a leader, and the answers that their batches get. A write that was
//! slow is logged with its stages.

use std::sync::Arc;
use std::time::Duration;

use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::live::Live;
use crate::raft::entry::outcome::Outcome;
use crate::raft::entry::types::TypeConfig;
use crate::raft::error::ProposeError;
use crate::raft::view::View;
use crate::raft::view::clocks::millis;
use crate::raft::view::counts::Counts;
use crate::raft::view::space::Space;
use crate::retry::CALL_WAIT;
use crate::spans::Span;

use super::proposals::Group;

/// How long the outcome of a group is waited for while too few voters have room. After that its callers are told
/// that the outcome is unknown; later callers are told that the disks are full.
const FULL_WAIT: Duration = Duration::from_secs(1);
/// Between two looks at whether a group still has a chance.
const LOOK: Duration = Duration::from_millis(100);

type Outcomes = oneshot::Receiver<ClientWriteResult<TypeConfig>>;

/// A group under way, and since when.
pub(crate) type UnderWay = (Outcomes, Group, Instant);

/// Answers groups in the order in which they were written.
pub(crate) async fn complete(
    mut waits: mpsc::Receiver<UnderWay>,
    views: watch::Receiver<View>,
    space: Space,
    stages: Stages,
) {
    while let Some((mut outcome, group, since)) = waits.recv().await {
        let full = since + FULL_WAIT;
        let late = (group.came() + CALL_WAIT).max(since + LOOK);
        let is_hopeless = |now| {
            let view = views.borrow();
            let is_full = now >= full && space.full_voter(&view).is_some();
            is_full || now >= late && !view.writable
        };
        let Some(outcome) = unless_hopeless(&mut outcome, full.min(late), is_hopeless).await else {
            // Otherwise the group would keep its place in the window until somebody makes room, or a majority
            // comes back.
            group.fail(&ProposeError::Unknown);
            continue;
        };
        match outcome {
            Ok(Ok(response)) => {
                stages.answered(&group, response.log_id.index, since);
                match response.data {
                    Outcome::Appended(outcomes) => group.answer(outcomes),
                    _ => group.fail(&ProposeError::Unknown),
                }
            }
            // The engine refused the group before it was appended.
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

/// Waits for an outcome. From `first_look` on, `None` as soon as `is_hopeless` says that none will come.
async fn unless_hopeless<T>(
    mut outcome: impl Future<Output = T> + Unpin,
    first_look: Instant,
    is_hopeless: impl Fn(Instant) -> bool,
) -> Option<T> {
    let mut look = first_look;
    loop {
        match tokio::time::timeout_at(look, &mut outcome).await {
            Ok(outcome) => return Some(outcome),
            Err(_) if is_hopeless(Instant::now()) => return None,
            Err(_) => look = Instant::now() + LOOK,
        }
    }
}

/// What is known of the stages of writes that this node makes as a leader.
#[derive(Debug)]
pub struct Stages {
    counts: Arc<Counts>,
    slow: Live<Duration>,
}

impl Stages {
    /// Writes that take longer than `slow` are logged; zero: none is.
    pub fn new(counts: &Arc<Counts>, slow: Live<Duration>) -> Self {
        let counts = counts.clone();
        Self { counts, slow }
    }

    /// The group's entry was applied, and it is answered now; `handed`: when the engine got it.
    pub fn answered(&self, group: &Group, index: u64, handed: Instant) {
        let (counts, now) = (&self.counts, Instant::now());
        let applied = counts.applied_at.at(index);
        let answer = applied.map(|at| now.saturating_duration_since(at));
        answer.into_iter().for_each(|took| counts.answer.note(took));
        let came = group.came();
        let took = now.saturating_duration_since(came);
        let slow = self.slow.get();
        let is_slow = !slow.is_zero() && took >= slow;
        let mut traced = group.proposals.iter().map(|proposal| &proposal.span);
        if !is_slow && !traced.any(Span::is_on) {
            return;
        }
        let [appended, sync_began, synced, committed] = [
            &counts.appended_at,
            &counts.sync_began_at,
            &counts.synced_at,
            &counts.committed_at,
        ]
        .map(|passed| passed.at(index));
        let stages = [
            ("append", appended, sync_began),
            ("fsync", sync_began, synced),
            ("quorum", appended, committed),
            ("apply", committed, applied),
            ("answer", applied, Some(now)),
        ];
        for proposal in &group.proposals {
            trace(&proposal.span, handed, &stages);
        }
        if is_slow {
            let [append_ms, fsync_ms, quorum_ms, apply_ms, answer_ms] = stages.map(took_ms);
            tracing::warn!(
                index,
                batches = group.proposals.len(),
                bytes = group.bytes(),
                took_ms = millis(took),
                queue_ms = took_ms(("queue", Some(came), Some(handed))),
                append_ms,
                fsync_ms,
                quorum_ms,
                apply_ms,
                answer_ms,
                "a slow write"
            );
        }
    }
}

/// A stage of a write, and when it began and ended. Of an entry that others have overtaken in the table of times, some are
/// not known.
type Stage = (&'static str, Option<Instant>, Option<Instant>);

fn took_ms((_, from, to): Stage) -> Option<u64> {
    let (from, to) = from.zip(to)?;
    Some(millis(to.saturating_duration_since(from)))
}

/// The stages as spans, if somebody traces the batch.
fn trace(span: &Span, handed: Instant, stages: &[Stage]) {
    if span.is_on() {
        let trace = span.trace();
        trace.past("queue", span.began(), Some(handed));
        for (name, from, to) in stages {
            trace.past(name, *from, *to);
        }
    }
}
