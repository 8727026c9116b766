//! Strong reads: asks the leader for its read index, then waits until this node has applied that far.
//!
//! This is section 6.4 of Ongaro, "Consensus: Bridging Theory and Practice", 2014. No lease is used, since a
//! follower may vote right after a restart, which a lease rules out. Reads that wait at the same time share one
//! confirmation, which begins after the last of them came.

pub mod confirm;

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::log::{Log, LogId, Offset};
use crate::proto::raft_v1 as pb;
use crate::raft::error::ReadError;
use crate::raft::peer::transport::{PeerClient, Transport};
use crate::raft::state::applied::{Applied, AppliedState};
use crate::raft::view::View;
use crate::retry::{CALL_WAIT, Pauses};
use crate::tasks;

use self::confirm::{Confirmer, QUEUE_MAX};

/// How long one question to the leader may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// The time that a bounded read gives one confirmation at least.
const BOUND_WAIT_MIN: Duration = Duration::from_millis(200);

type Reply = oneshot::Sender<Result<(), ReadError>>;

/// Has reads wait until this node is fresh enough for them; clones share the queue.
#[derive(Debug, Clone)]
pub struct ReadBarrier {
    queue: mpsc::Sender<Reply>,
    confirmed: watch::Receiver<Option<Confirmed>>,
    applied: watch::Receiver<Applied>,
    confirmer: Confirmer,
    log: Log,
}

/// The last confirmation whose read index is applied here.
#[derive(Debug, Clone, Copy)]
struct Confirmed {
    /// A moment before the leader was asked. All that was acknowledged before it is applied here.
    began: Instant,
    /// The offset behind the last record that the leader had applied.
    next_offset: Offset,
}

/// How far this node has applied the log, and how old that state is at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// All records before this offset are applied here.
    pub applied: Offset,
    /// All records before this offset are committed, as the leader told this node last.
    pub leader_commit: Offset,
    /// Where the log would end if all that this node holds were committed.
    pub held: Offset,
    /// All records that were acknowledged before this span of time are applied here. `None` if no leader has
    /// confirmed that since the start.
    pub staleness: Option<Duration>,
}

impl ReadBarrier {
    pub fn start(
        me: u64,
        confirmer: Confirmer,
        views: watch::Receiver<View>,
        state: &AppliedState,
        transport: Transport,
        log: Log,
    ) -> Self {
        let applied = state.watch();
        let (queue, waits) = mpsc::channel(QUEUE_MAX);
        let (tell, confirmed) = watch::channel(None);
        let barrier = Barrier {
            me,
            confirmer: confirmer.clone(),
            views,
            applied: applied.clone(),
            transport,
            client: None,
            tell,
        };
        tasks::spawn("strong reads", barrier.run(waits));
        Self {
            queue,
            confirmed,
            applied,
            confirmer,
            log,
        }
    }

    /// Gives read indexes while this node leads.
    pub fn confirmer(&self) -> &Confirmer {
        &self.confirmer
    }

    /// Returns once this node has applied everything that was acknowledged before the call.
    pub async fn pass(&self, until: Instant) -> Result<(), ReadError> {
        let (reply, answer) = oneshot::channel();
        let stopped = ReadError::NoLeader { waited_ms: 0 };
        let confirmed = async {
            self.queue.send(reply).await.map_err(|_| stopped.clone())?;
            answer.await.unwrap_or(Err(stopped))
        };
        let came = Instant::now();
        let late = |_| ReadError::NoLeader {
            waited_ms: ms_since(came),
        };
        let passed = tokio::time::timeout_at(until, confirmed).await;
        passed.map_err(late)?
    }

    /// Has the leader asked soon, unless a read waits for that already.
    pub fn nudge(&self) {
        if self.queue.capacity() == QUEUE_MAX {
            let (reply, _) = oneshot::channel();
            // If the queue is full by now, the leader is asked anyway.
            let _ = self.queue.try_send(reply);
        }
    }

    /// How far this node is.
    pub fn freshness(&self, log: LogId) -> Freshness {
        // This is read before the offset, which only grows: so the offset covers it.
        let confirmed = *self.confirmed.borrow();
        let (_, applied) = self.log.offsets(log);
        // The leader tells of the default log alone.
        let told = confirmed.filter(|_| log == LogId::DEFAULT);
        Freshness {
            applied,
            leader_commit: told.map_or(applied, |told| told.next_offset.max(applied)),
            held: self.held(applied),
            staleness: confirmed.map(|told| told.began.elapsed()),
        }
    }

    /// Where a log would end with all that this node holds: at most, since what is held may be for
    /// other logs.
    fn held(&self, applied: Offset) -> Offset {
        let (_, next) = self.log.positions();
        let beyond = self.log.held_end().0.saturating_sub(next.0);
        Offset(applied.0.saturating_add(beyond))
    }

    /// Returns once this node is known to be at most `bound` behind.
    ///
    /// No clock but this node's is trusted: the bound counts from before the leader was asked.
    pub async fn be_fresh(&self, bound: Duration, until: Instant) -> Result<(), ReadError> {
        let is_fresh = |freshness: Freshness| {
            let staleness = freshness.staleness;
            staleness.is_some_and(|staleness| staleness <= bound)
        };
        if is_fresh(self.freshness(LogId::DEFAULT)) {
            return Ok(());
        }
        let wait = bound.clamp(BOUND_WAIT_MIN, CALL_WAIT);
        let until = until.min(Instant::now() + wait);
        // The state after this decides, whatever this returns: a confirmation that began too long ago proves too
        // little.
        let _ = self.pass(until).await;
        let freshness = self.freshness(LogId::DEFAULT);
        if is_fresh(freshness) {
            return Ok(());
        }
        Err(ReadError::Stale {
            bound_ms: ms(bound),
            staleness_ms: freshness.staleness.map(ms),
        })
    }

    /// Returns once this node has applied the records before `next`.
    pub async fn apply_to(
        &self,
        log: LogId,
        next: Offset,
        until: Instant,
    ) -> Result<(), ReadError> {
        let came = Instant::now();
        let mut applied = self.applied.clone();
        let there = applied.wait_for(|_| self.log.offsets(log).1 >= next);
        match tokio::time::timeout_at(until, there).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ReadError::Behind {
                offset: Offset(next.0.saturating_sub(1)),
                waited_ms: ms_since(came),
            }),
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn ms_since(came: Instant) -> u64 {
    ms(came.elapsed())
}

struct Barrier {
    /// This node's id.
    me: u64,
    confirmer: Confirmer,
    views: watch::Receiver<View>,
    applied: watch::Receiver<Applied>,
    transport: Transport,
    /// The leader that was asked last, its address, and a client of it.
    client: Option<(u64, String, PeerClient)>,
    tell: watch::Sender<Option<Confirmed>>,
}

/// A leader's answer: its read index, and the offset behind the last record that it has applied.
type ReadIndex = (Option<u64>, Offset);

impl Barrier {
    async fn run(mut self, mut waits: mpsc::Receiver<Reply>) {
        let mut replies = Vec::new();
        while waits.recv_many(&mut replies, QUEUE_MAX).await > 0 {
            let began = Instant::now();
            let result = self.confirm().await.map(|next_offset| {
                let confirmed = Confirmed { began, next_offset };
                self.tell.send_replace(Some(confirmed));
            });
            for reply in replies.drain(..) {
                let _ = reply.send(result.clone());
            }
        }
    }

    async fn confirm(&mut self) -> Result<Offset, ReadError> {
        let deadline = Instant::now() + CALL_WAIT;
        let waited_ms = ms(CALL_WAIT);
        let asked = tokio::time::timeout_at(deadline, self.read_index()).await;
        let (index, next) = asked.map_err(|_| ReadError::NoLeader { waited_ms })?;
        let caught_up = |applied: &Applied| applied.index >= index;
        let wait = self.applied.wait_for(caught_up);
        match tokio::time::timeout_at(deadline, wait).await {
            Ok(Ok(_)) => Ok(next),
            _ => Err(ReadError::Lagging { waited_ms }),
        }
    }

    /// Asks until some leader answers.
    async fn read_index(&mut self) -> ReadIndex {
        let mut pauses = Pauses::default();
        loop {
            let leader = {
                let view = self.views.borrow();
                view.leader_member()
                    .map(|leader| (leader.id, leader.member.addr.clone()))
            };
            let index = match leader {
                Some((id, _)) if id == self.me => {
                    let index = self.confirmer.read_index().await.ok();
                    let next = self.applied.borrow().next_offset;
                    index.map(|index| (Some(index), next))
                }
                Some((id, addr)) => self.ask(id, &addr).await,
                None => None,
            };
            if let Some(index) = index {
                return index;
            }
            pauses.wait().await;
        }
    }

    async fn ask(&mut self, leader: u64, addr: &str) -> Option<ReadIndex> {
        let known = self
            .client
            .take()
            .filter(|(id, at, _)| *id == leader && at == addr);
        let client = known.map(|(_, _, client)| client);
        let mut client = client.unwrap_or_else(|| self.transport.client(leader, addr));
        self.client = Some((leader, addr.to_owned(), client.clone()));
        let call = client.read_index(pb::ReadIndexRequest {});
        let answer = tokio::time::timeout(ASK_TIMEOUT, call).await.ok()?;
        let answer = answer.ok()?.into_inner();
        Some((answer.index, Offset(answer.next_offset)))
    }
}
