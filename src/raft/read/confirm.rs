//! Confirms leadership: gives a read index, and proves by a round of questions that this node led when the index was
//! asked for.
//!
//! This is section 6.4 of Ongaro, "Consensus: Bridging Theory and Practice", 2014, without leases. The commit index
//! comes from the engine's core, once the leader's own blank entry, and so an entry of its term, is committed. The
//! proof does not come from the engine, which credits a late answer to requests that were sent after it. Instead
//! each voter is asked, after the read came, whether it has promised itself to a later term. If a majority of every
//! configuration in effect has not, no later leader was elected before the read came. So nothing was acknowledged by
//! then that this node's commit index does not cover.
//!
//! Questions are numbered, so that an answer counts for its own question and for no later one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::proto::raft_v1 as pb;
use crate::raft::engine::Raft;
use crate::raft::engine::promised::Promised;
use crate::raft::peer::transport::{PeerClient, Transport};
use crate::retry::Pauses;
use crate::tasks;

/// How long the voters may take to answer a round of questions.
const ROUND_TIMEOUT: Duration = Duration::from_secs(1);
/// How many reads may wait for one round.
pub const QUEUE_MAX: usize = 4096;
/// How many answers of voters may wait. A voter is asked one question at a time.
const ANSWERS_MAX: usize = 256;

/// Why leadership was not confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unconfirmed {
    /// Another node leads, or nobody does.
    #[error("this node does not lead")]
    NotLeader,
    /// This node is a new leader, and its own blank entry is not committed yet.
    #[error("this node leads, and does not know yet what is committed")]
    TooNew,
    /// Too few voters answered in time.
    #[error("too few voters confirmed this node's leadership within {} s", ROUND_TIMEOUT.as_secs())]
    NoMajority,
}

type Reply = oneshot::Sender<Result<u64, Unconfirmed>>;

/// Gives read indexes while this node leads; clones share the rounds.
#[derive(Debug, Clone)]
pub struct Confirmer {
    queue: mpsc::Sender<Reply>,
}

impl Confirmer {
    /// Starts the task that asks the voters. It ends when the last clone is dropped.
    pub fn start(raft: Raft, promised: Promised, transport: Transport) -> Self {
        let (queue, waits) = mpsc::channel(QUEUE_MAX);
        let (tell, answers) = mpsc::channel(ANSWERS_MAX);
        let rounds = Rounds {
            raft,
            promised,
            transport,
            number: 0,
            voters: BTreeMap::new(),
            tell,
            answers,
        };
        tasks::spawn("confirmations", rounds.run(waits));
        Self { queue }
    }

    /// An index that covers everything that any node has acknowledged before the call.
    pub async fn read_index(&self) -> Result<u64, Unconfirmed> {
        let (reply, confirmed) = oneshot::channel();
        let queued = self.queue.send(reply).await;
        queued.map_err(|_| Unconfirmed::NotLeader)?;
        confirmed.await.unwrap_or(Err(Unconfirmed::NotLeader))
    }
}

/// What the engine's core says of this node's reign at one moment.
struct Reign {
    term: u64,
    read_index: u64,
    /// The configurations in effect, each of which needs a majority.
    configs: Vec<BTreeSet<u64>>,
    addrs: BTreeMap<u64, String>,
}

/// One question to a voter.
#[derive(Debug, Clone, Copy, Default)]
struct Question {
    number: u64,
    term: u64,
    /// When the round is over, and the answer is no longer needed.
    until: Option<Instant>,
}

/// A voter's answer: the number of the question, and the term that the voter has promised itself to.
#[derive(Debug, Clone, Copy)]
struct Answer {
    voter: u64,
    number: u64,
    promised: u64,
}

/// The channel to the task that asks one voter. The task ends when this is dropped.
struct Voter {
    addr: String,
    ask: watch::Sender<Question>,
}

struct Rounds {
    raft: Raft,
    promised: Promised,
    transport: Transport,
    number: u64,
    voters: BTreeMap<u64, Voter>,
    tell: mpsc::Sender<Answer>,
    answers: mpsc::Receiver<Answer>,
}

impl Rounds {
    async fn run(mut self, mut waits: mpsc::Receiver<Reply>) {
        let mut replies = Vec::new();
        // Reads that come during a round wait for the next one together.
        while waits.recv_many(&mut replies, QUEUE_MAX).await > 0 {
            let result = self.round().await;
            for reply in replies.drain(..) {
                // A reader that gave up needs no answer.
                let _ = reply.send(result);
            }
        }
    }

    /// Asks the voters once. All of this happens after the reads that wait for it came.
    async fn round(&mut self) -> Result<u64, Unconfirmed> {
        let reign = self.reign().await?;
        let me = *self.raft.node_id();
        let until = Instant::now() + ROUND_TIMEOUT;
        self.number += 1;
        let question = Question {
            number: self.number,
            term: reign.term,
            until: Some(until),
        };
        self.ask(&reign, question);
        let mut held = BTreeSet::new();
        if self.promised.term() > reign.term {
            return Err(Unconfirmed::NotLeader);
        }
        held.insert(me);
        while !is_majority_of_each(&reign.configs, &held) {
            let answer = tokio::time::timeout_at(until, self.answers.recv()).await;
            // The channel does not close, since this task holds a sender: an error means that time is over.
            let Ok(Some(answer)) = answer else {
                return Err(Unconfirmed::NoMajority);
            };
            if answer.promised > reign.term {
                return Err(Unconfirmed::NotLeader);
            }
            // An answer to an earlier question proves nothing about this moment.
            if answer.number == question.number {
                held.insert(answer.voter);
            }
        }
        Ok(reign.read_index)
    }

    /// Asks the engine's core itself, since its metrics may lag behind what it has told followers.
    async fn reign(&self) -> Result<Reign, Unconfirmed> {
        let me = *self.raft.node_id();
        let seen = self.raft.with_raft_state(move |state| {
            let vote = *state.vote_ref();
            let leads = vote.committed && vote.leader_id.voted_for == me;
            let membership = state.membership_state.effective().membership();
            let addrs = membership.nodes();
            leads.then(|| {
                (
                    vote.leader_id.term,
                    state
                        .local_committed()
                        .max(state.cluster_committed())
                        .copied(),
                    membership.get_joint_config().clone(),
                    addrs.map(|(id, node)| (*id, node.addr.clone())).collect(),
                )
            })
        });
        let seen = seen.await.map_err(|_| Unconfirmed::NotLeader)?;
        let (term, committed, configs, addrs) = seen.ok_or(Unconfirmed::NotLeader)?;
        // The first entry of a term is the leader's blank one. Once any entry of this term is committed, so is
        // everything that earlier leaders acknowledged.
        let committed = committed.filter(|id| id.leader_id.term == term);
        let committed = committed.ok_or(Unconfirmed::TooNew)?;
        Ok(Reign {
            term,
            read_index: committed.index,
            configs,
            addrs,
        })
    }

    /// Asks every voter but this node.
    fn ask(&mut self, reign: &Reign, question: Question) {
        let me = *self.raft.node_id();
        let ids: BTreeSet<u64> = reign.configs.iter().flatten().copied().collect();
        let addr = |id: &u64| reign.addrs.get(id).map_or("", String::as_str);
        self.voters
            .retain(|id, voter| ids.contains(id) && voter.addr == addr(id));
        for id in ids.into_iter().filter(|id| *id != me) {
            let addr = addr(&id).to_owned();
            let voter = self.voters.entry(id).or_insert_with(|| {
                let (ask, questions) = watch::channel(Question::default());
                let client = self.transport.client(id, &addr);
                let asks = put_questions(id, client, questions, self.tell.clone());
                tasks::spawn("question to a voter", asks);
                Voter { addr, ask }
            });
            voter.ask.send_replace(question);
        }
    }
}

/// Asks one voter the latest question, one at a time, until the channel to this task is closed.
async fn put_questions(
    voter: u64,
    mut client: PeerClient,
    mut questions: watch::Receiver<Question>,
    tell: mpsc::Sender<Answer>,
) {
    while questions.changed().await.is_ok() {
        let question = *questions.borrow_and_update();
        let Some(until) = question.until else {
            continue;
        };
        let number = question.number;
        let mut pauses = Pauses::default();
        while let Some(promised) = put(&mut client, question, until).await {
            match promised {
                Ok(promised) => {
                    let answer = Answer {
                        voter,
                        number,
                        promised,
                    };
                    if tell.send(answer).await.is_err() {
                        return;
                    }
                    break;
                }
                Err(status) => tracing::debug!(voter, %status, "did not confirm a leadership"),
            }
            match tokio::time::timeout(pauses.take(), questions.changed()).await {
                Err(_) => {}
                // A newer question ends the pause.
                Ok(Ok(())) => {
                    questions.mark_changed();
                    break;
                }
                // The voter has left, or has moved and another task asks it there.
                Ok(Err(_)) => return,
            }
        }
    }
}

/// Asks one question; `None` if its time is over.
async fn put(
    client: &mut PeerClient,
    question: Question,
    until: Instant,
) -> Option<Result<u64, tonic::Status>> {
    let call = client.confirm(pb::ConfirmRequest {
        term: question.term,
    });
    let answer = tokio::time::timeout_at(until, call).await.ok()?;
    Some(answer.map(|answer| answer.into_inner().promised_term))
}

/// Whether each configuration has a majority in `held`.
fn is_majority_of_each(configs: &[BTreeSet<u64>], held: &BTreeSet<u64>) -> bool {
    let has_majority =
        |config: &BTreeSet<u64>| config.intersection(held).count() * 2 > config.len();
    !configs.is_empty() && configs.iter().all(has_majority)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::BoxFuture;

    use super::*;
    use crate::net::stream_layer::StreamLayer;
    use crate::net::{BoxIo, Listener, Network, Security};
    use crate::raft::peer::sender::Sender;

    /// Refuses so many dials at once and keeps all later ones waiting, so that a test without pauses ends as well.
    struct Refusing(Arc<AtomicUsize>);

    const DIALS_MAX: usize = 100;

    impl Network for Refusing {
        fn dial<'a>(&'a self, _addr: &'a str) -> BoxFuture<'a, io::Result<BoxIo>> {
            Box::pin(async move {
                if self.0.fetch_add(1, Ordering::Relaxed) >= DIALS_MAX {
                    std::future::pending::<()>().await;
                }
                Err(io::ErrorKind::ConnectionRefused.into())
            })
        }

        fn resolve<'a>(&'a self, _addr: &'a str) -> BoxFuture<'a, io::Result<()>> {
            Box::pin(async { Ok(()) })
        }

        fn listen<'a>(&'a self, _addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
            unreachable!("it calls, and is not called")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_voter_that_nobody_asks_any_more_is_not_dialled_again() {
        let dials = Arc::new(AtomicUsize::new(0));
        let layer = StreamLayer::new(Arc::new(Refusing(dials.clone())), Security::Insecure);
        let client = Transport::new(layer, Sender::default()).client(2, "n2:1");
        let (ask, questions) = watch::channel(Question::default());
        let (tell, _answers) = mpsc::channel(1);
        let asking = tokio::spawn(put_questions(2, client, questions, tell));
        ask.send_replace(Question {
            number: 1,
            term: 1,
            until: Some(Instant::now() + ROUND_TIMEOUT),
        });
        while dials.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        // It has left the membership, and pauses between two tries.
        drop(ask);
        tokio::time::timeout(ROUND_TIMEOUT * 2, asking)
            .await
            .expect("its task ends")
            .expect("no panic");
        assert!(dials.load(Ordering::Relaxed) <= 2, "{dials:?}");
    }

    fn set(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    #[test]
    fn a_joint_membership_needs_both_majorities() {
        let joint = [set(&[1, 2, 3]), set(&[3, 4, 5])];
        assert!(!is_majority_of_each(&joint, &set(&[1, 2, 3])));
        assert!(!is_majority_of_each(&joint, &set(&[3, 4])));
        assert!(is_majority_of_each(&joint, &set(&[1, 3, 4])));
        assert!(is_majority_of_each(&joint[..1], &set(&[1, 2])));
        assert!(!is_majority_of_each(&[], &set(&[1])), "nobody confirms");
        assert!(!is_majority_of_each(&[set(&[1, 2])], &set(&[1])));
        assert!(
            !is_majority_of_each(&[set(&[2, 3])], &set(&[1])),
            "a leader that is leaving does not count itself"
        );
    }
}
