//! Proposals: batches, each with the way back to its caller, and the groups of them that become entries.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::proto::raft_v1 as pb;
use crate::raft::entry::outcome::{BundleOutcome, Receipt};
use crate::raft::error::ProposeError;
use crate::raft::view::View;
use crate::raft::view::counts::Counts;
use crate::retry::CALL_WAIT;
use crate::spans::{Side, Span, Trace};

/// A caller. Batches of one caller keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller(u64);

impl Caller {
    /// A new caller.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// From whom a batch came, when, and by which way.
#[derive(Debug, Clone)]
pub struct Came {
    pub caller: Caller,
    /// Its wait for a leader counts from this time on.
    pub since: Instant,
    /// It came from another node.
    pub forwarded: bool,
    /// Where its spans hang.
    pub trace: Trace,
}

/// One batch, and the way back to its caller.
#[derive(Debug)]
pub struct Proposal {
    pub batch: Bytes,
    /// The batch came from another node, and so is not passed on to a third one.
    pub forwarded: bool,
    pub reply: Reply,
    pub caller: Caller,
    /// When the batch came. Its wait for a leader counts from this time on.
    pub(crate) since: Instant,
    // These end in this order: the one is a part of the other.
    /// Its time on the way to the leader and back.
    pub(crate) forward: Span,
    /// Its time here, up to its answer.
    pub(crate) span: Span,
    pub(crate) _bytes: OwnedSemaphorePermit,
}

impl Proposal {
    pub fn is_late(&self) -> bool {
        self.since.elapsed() >= CALL_WAIT
    }

    /// Answers that no leader took the batch for as long as it could wait.
    pub fn fail_without_leader(self, view: &View) {
        self.reply.send(Err(no_leader(view, self.since)));
    }
}

#[cfg(test)]
impl Proposal {
    /// A batch of this node's own clients, and the receiver of its answer.
    pub fn of_test(batch: &'static str) -> (Self, Answer) {
        let (reply, answer) = Reply::new(Arc::default(), batch.len(), false);
        let proposal = Self {
            batch: Bytes::from_static(batch.as_bytes()),
            forwarded: false,
            reply,
            caller: Caller::next(),
            since: Instant::now(),
            span: Span::default(),
            forward: Span::default(),
            _bytes: std::sync::Arc::new(tokio::sync::Semaphore::new(1))
                .try_acquire_owned()
                .unwrap(),
        };
        (proposal, answer)
    }
}

/// The way back to a caller. What becomes of the batches of this node's clients is counted on it.
#[derive(Debug)]
pub struct Reply {
    caller: oneshot::Sender<Result<Receipt, ProposeError>>,
    counts: Arc<Counts>,
    bytes: usize,
    forwarded: bool,
}

impl Reply {
    /// The two ends of the way back to the caller of a batch of so many bytes.
    pub fn new(counts: Arc<Counts>, bytes: usize, forwarded: bool) -> (Self, Answer) {
        let (caller, answer) = oneshot::channel();
        let reply = Self {
            caller,
            counts,
            bytes,
            forwarded,
        };
        (reply, answer)
    }

    /// Whether the caller went away.
    pub fn is_closed(&self) -> bool {
        self.caller.is_closed()
    }

    /// Answers. A caller that went away needs no answer.
    pub fn send(self, outcome: Result<Receipt, ProposeError>) {
        if !self.forwarded {
            self.count(&outcome);
        }
        let _ = self.caller.send(outcome);
    }

    fn count(&self, outcome: &Result<Receipt, ProposeError>) {
        match outcome {
            Ok(receipt) => {
                self.counts.committed.one_more();
                // What was appended before was counted then.
                if !receipt.duplicate {
                    let counts = receipt.ranges.iter().map(|range| u64::from(range.count));
                    self.counts.records.add(counts.sum());
                    self.counts.bytes.add(self.bytes as u64);
                }
            }
            Err(error) => self.counts.refused.of(error.into()).one_more(),
        }
    }
}

pub type Answer = oneshot::Receiver<Result<Receipt, ProposeError>>;

/// Batches that become one entry, and their place in the window.
#[derive(Debug)]
pub struct Group {
    pub proposals: Vec<Proposal>,
    pub place: OwnedSemaphorePermit,
}

impl Group {
    pub fn bytes(&self) -> usize {
        let bytes = self.proposals.iter().map(|proposal| proposal.batch.len());
        bytes.sum()
    }

    /// When the first of the batches came.
    pub fn came(&self) -> Instant {
        let came = self.proposals.iter().map(|proposal| proposal.since);
        came.min().unwrap_or_else(Instant::now)
    }

    /// From now on they are on the way to the leader: what it is told of those that somebody traces.
    pub fn pass_on(&mut self) -> Vec<pb::BatchTrace> {
        let mut traces = Vec::new();
        for (batch, proposal) in (0..).zip(&mut self.proposals) {
            if proposal.span.is_on() {
                proposal.forward = proposal.span.trace().span("forward", Side::Asked);
                let traceparent = proposal.forward.traceparent();
                traces.extend(traceparent.map(|traceparent| pb::BatchTrace { batch, traceparent }));
            }
        }
        traces
    }

    /// Gives every batch the same error.
    pub fn fail(self, error: &ProposeError) {
        for proposal in self.proposals {
            proposal.reply.send(Err(error.clone()));
        }
    }

    /// Answers the batches that have waited for a leader for too long, and takes them out. Returns the rest, and the
    /// callers of those.
    pub fn without_late(self, view: &View) -> (Self, HashSet<Caller>) {
        self.without(Proposal::is_late, view)
    }

    /// Answers the batches that came from another node, and takes them out, if this node does not lead. Returns the
    /// rest, and the callers of those.
    pub fn without_forwarded(self, view: &View) -> (Self, HashSet<Caller>) {
        self.without(|proposal| proposal.forwarded, view)
    }

    /// Answers the batches that are over and those that the same callers queued behind them, and takes them out.
    fn without(self, is_over: impl Fn(&Proposal) -> bool, view: &View) -> (Self, HashSet<Caller>) {
        let place = self.place;
        let (mut callers, mut proposals) = (HashSet::new(), Vec::new());
        for proposal in self.proposals {
            if !callers.contains(&proposal.caller) {
                if !is_over(&proposal) {
                    proposals.push(proposal);
                    continue;
                }
                callers.insert(proposal.caller);
            }
            proposal.fail_without_leader(view);
        }
        (Self { proposals, place }, callers)
    }

    /// Answers each bundle with its outcome.
    pub fn answer(self, outcomes: Vec<BundleOutcome>) {
        for (proposal, outcome) in self.proposals.into_iter().zip(outcomes) {
            proposal.reply.send(outcome.map_err(ProposeError::from));
        }
    }
}

/// The error of a batch that came at `since` and that no leader took.
pub fn no_leader(view: &View, since: Instant) -> ProposeError {
    ProposeError::NoLeader {
        waited_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
        leader: view
            .leader_member()
            .map(|leader| leader.member.addr.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_queued_behind_a_late_batch_is_not_taken_without_it() {
        let of = |caller: Caller, since: Instant| {
            let (mut proposal, answer) = Proposal::of_test("batch");
            (proposal.caller, proposal.since) = (caller, since);
            (proposal, answer)
        };
        let [late, other] = [0; 2].map(|_| Caller::next());
        let began = Instant::now();
        tokio::time::advance(CALL_WAIT).await;
        let now = Instant::now();
        let (proposals, mut answers): (Vec<_>, Vec<_>) =
            [of(late, began), of(other, now), of(late, now)]
                .into_iter()
                .unzip();
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let (group, callers) = Group { proposals, place }.without_late(&View::default());
        assert_eq!(callers, HashSet::from([late]));
        let left: Vec<_> = group.proposals.iter().map(|left| left.caller).collect();
        assert_eq!(left, [other]);
        for (answer, is_told) in answers.iter_mut().zip([true, false, true]) {
            let told = answer.try_recv();
            let is_refused = matches!(told, Ok(Err(ProposeError::NoLeader { .. })));
            assert_eq!(is_refused, is_told, "{told:?}");
        }
    }
}
