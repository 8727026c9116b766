//! Strong reads: the leader's read index, then a wait until this node has applied that far.
//!
//! Ongaro, "Consensus: Bridging Theory and Practice", 2014, section 6.4. No lease is used: a
//! restarted follower may vote at once, which breaks them. Reads that wait together share one
//! confirmation, which begins after the last of them came.

use std::time::Duration;

use openraft::ReadPolicy;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::proto::raft_v1 as pb;

use super::Raft;
use super::error::ReadError;
use super::state_machine::Applied;
use super::transport::{PeerClient, Transport};
use super::view::View;

/// How long a strong read waits for the leader, and then for this node to catch up.
const WAIT: Duration = Duration::from_secs(5);
/// For one question to the leader.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(20);
/// Reads that may wait for one confirmation.
const QUEUE_MAX: usize = 4096;

type Reply = oneshot::Sender<Result<(), ReadError>>;

/// Answers once a read may go ahead; clones share the queue.
#[derive(Debug, Clone)]
pub struct ReadBarrier(mpsc::Sender<Reply>);

impl ReadBarrier {
    pub fn start(
        raft: Raft,
        views: watch::Receiver<View>,
        applied: watch::Receiver<Applied>,
        transport: Transport,
    ) -> Self {
        let (queue, waits) = mpsc::channel(QUEUE_MAX);
        let barrier = Barrier {
            raft,
            views,
            applied,
            transport,
            client: None,
        };
        tokio::spawn(barrier.run(waits));
        Self(queue)
    }

    /// Returns once this node has applied everything that was acknowledged before the call.
    pub async fn pass(&self) -> Result<(), ReadError> {
        let (reply, answer) = oneshot::channel();
        let stopped = ReadError::NoLeader { waited_ms: 0 };
        self.0.send(reply).await.map_err(|_| stopped.clone())?;
        answer.await.unwrap_or(Err(stopped))
    }
}

struct Barrier {
    raft: Raft,
    views: watch::Receiver<View>,
    applied: watch::Receiver<Applied>,
    transport: Transport,
    /// The leader that was asked last.
    client: Option<(u64, String, PeerClient)>,
}

impl Barrier {
    async fn run(mut self, mut waits: mpsc::Receiver<Reply>) {
        let mut replies = Vec::new();
        while waits.recv_many(&mut replies, QUEUE_MAX).await > 0 {
            let result = self.confirm().await;
            for reply in replies.drain(..) {
                let _ = reply.send(result.clone());
            }
        }
    }

    async fn confirm(&mut self) -> Result<(), ReadError> {
        let deadline = Instant::now() + WAIT;
        let waited_ms = WAIT.as_millis() as u64;
        let asked = tokio::time::timeout_at(deadline, self.read_index()).await;
        let index = asked.map_err(|_| ReadError::NoLeader { waited_ms })?;
        let caught_up = |applied: &Applied| applied.index >= index;
        let wait = self.applied.wait_for(caught_up);
        match tokio::time::timeout_at(deadline, wait).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ReadError::Lagging { waited_ms }),
        }
    }

    /// Asks until some leader answers.
    async fn read_index(&mut self) -> Option<u64> {
        loop {
            let leader = {
                let view = self.views.borrow();
                view.leader_member()
                    .map(|leader| (leader.id, leader.member.addr.clone()))
            };
            let index = match leader {
                Some((id, _)) if id == *self.raft.node_id() => own_read_index(&self.raft).await,
                Some((id, addr)) => self.ask(id, &addr).await,
                None => None,
            };
            if index.is_some() {
                return index;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn ask(&mut self, leader: u64, addr: &str) -> Option<u64> {
        let known = self
            .client
            .take()
            .filter(|(id, at, _)| *id == leader && at == addr);
        let client = known.map(|(_, _, client)| client);
        let mut client = client.unwrap_or_else(|| self.transport.client(leader, addr));
        self.client = Some((leader, addr.to_owned(), client.clone()));
        let call = client.read_index(pb::ReadIndexRequest {});
        let answer = tokio::time::timeout(ASK_TIMEOUT, call).await.ok()?;
        answer.ok()?.into_inner().index
    }
}

/// The read index, if this node leads and a quorum confirms it.
pub async fn own_read_index(raft: &Raft) -> Option<u64> {
    let linearizer = raft.get_read_linearizer(ReadPolicy::ReadIndex);
    let linearizer = tokio::time::timeout(ASK_TIMEOUT, linearizer).await.ok()?;
    Some(linearizer.ok()?.read_log_id().index())
}
