//! Proposals: batches from this node's clients, on their way to the leader.
//!
//! Batches that wait together become one raft entry, so that consensus works per group and not per
//! record; the window makes them wait only while earlier groups are under way. A follower passes
//! its groups to the leader on one ordered stream. Order is kept from queue to log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::impls::ProgressResponder;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::log::{Log, record};
use crate::tasks;

use super::Raft;
use super::command::{BatchOutcome, Command, Receipt};
use super::error::ProposeError;
use super::forward::Forwarder;
use super::outcomes::{self, Waiting};
use super::pace::Pace;
use super::space::Space;
use super::stamps::Stamps;
use super::transport::Transport;
use super::view::View;

/// Batches that may wait for a place in a group.
const QUEUE_MAX: usize = 16 << 10;
/// Bytes of batches that wait or are under way. Those of clients here are counted before they come so far;
/// those that other nodes passed on, by this alone.
const PENDING_BYTES_MAX: usize = 32 << 20;
/// A group's batches, in bytes, unless segments are small; a larger batch is a group of its own. A
/// reader checks whole entries, so an entry is not larger than what one read takes.
const GROUP_BYTES_MAX: usize = 256 << 10;
const GROUP_BATCHES_MAX: usize = 1024;
/// Places in the window: a group that is nearly full takes one, another one takes several. So few
/// small groups are under way, since more of them would be smaller and not faster, and enough full
/// ones to keep the disks and the network busy.
const PLACES: usize = 16;
const PLACES_OF_SMALL: u32 = 4;
/// How long a batch waits for a leader, wherever it waits. One that a leader has appended is given up after
/// as long, if that is no leader any more: its outcome is unknown.
pub const LEADER_WAIT: Duration = Duration::from_secs(5);
/// What waited so long may still be sent to a leader that is known by then.
const FORWARD_WAIT: Duration = Duration::from_millis(200);
/// Between two looks at what waits for its turn.
const LOOK: Duration = Duration::from_millis(100);

/// Takes batches; clones share the queue.
#[derive(Debug, Clone)]
pub struct Proposer {
    queue: mpsc::Sender<Proposal>,
    bytes: Arc<Semaphore>,
    me: u64,
    views: watch::Receiver<View>,
}

/// One batch and who waits for it.
#[derive(Debug)]
pub struct Proposal {
    pub batch: Bytes,
    /// Came from another node: it is not passed on a second time.
    pub forwarded: bool,
    pub reply: Reply,
    /// When it came: it waits for a leader from then on, however long others waited before it.
    since: Instant,
    _bytes: OwnedSemaphorePermit,
}

impl Proposal {
    fn is_late(&self) -> bool {
        self.since.elapsed() >= LEADER_WAIT
    }

    /// Nobody took it, for as long as it may wait.
    fn fail_without_leader(self, view: &View) {
        // A caller that went away needs no answer.
        let _ = self.reply.send(Err(no_leader(view, self.since)));
    }
}

#[cfg(test)]
impl Proposal {
    /// One of this node's own, and its answer.
    pub fn of_test(batch: &'static str) -> (Self, Answer) {
        let (reply, answer) = oneshot::channel();
        let proposal = Self {
            batch: Bytes::from_static(batch.as_bytes()),
            forwarded: false,
            reply,
            since: Instant::now(),
            _bytes: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap(),
        };
        (proposal, answer)
    }
}

pub type Reply = oneshot::Sender<Result<Receipt, ProposeError>>;
pub type Answer = oneshot::Receiver<Result<Receipt, ProposeError>>;

/// Batches that become one entry, and their place in the window.
#[derive(Debug)]
pub struct Group {
    pub proposals: Vec<Proposal>,
    pub place: OwnedSemaphorePermit,
}

impl Group {
    /// When the first of the batches came.
    pub fn came(&self) -> Instant {
        let came = self.proposals.iter().map(|proposal| proposal.since);
        came.min().unwrap_or_else(Instant::now)
    }

    /// Answers every batch alike.
    pub fn fail(self, error: &ProposeError) {
        for proposal in self.proposals {
            // A caller that went away needs no answer.
            let _ = proposal.reply.send(Err(error.clone()));
        }
    }

    /// Answers every batch: nobody took it.
    fn fail_without_leader(self, view: &View) {
        for proposal in self.proposals {
            proposal.fail_without_leader(view);
        }
    }

    /// Answers the batches that came from another node, if this one does not lead.
    fn without_forwarded(self, view: &View) -> Self {
        let place = self.place;
        let (theirs, proposals): (Vec<_>, Vec<_>) = self
            .proposals
            .into_iter()
            .partition(|proposal| proposal.forwarded);
        for proposal in theirs {
            proposal.fail_without_leader(view);
        }
        Self { proposals, place }
    }

    /// Answers each batch with its outcome.
    pub fn answer(self, outcomes: Vec<BatchOutcome>) {
        for (proposal, outcome) in self.proposals.into_iter().zip(outcomes) {
            let _ = proposal.reply.send(outcome.map_err(ProposeError::from));
        }
    }
}

/// What a dispatcher needs to lead, or to pass on to the leader.
pub struct Leader {
    transport: Transport,
    space: Space,
    stamps: Stamps,
    pace: Pace,
}

impl Leader {
    pub fn new(transport: &Transport, space: &Space, stamps: &Stamps, log: &Log) -> Self {
        Self {
            pace: Pace::new(log.clone()),
            transport: transport.clone(),
            space: space.clone(),
            stamps: stamps.clone(),
        }
    }
}

impl Proposer {
    /// Its tasks run beside those of the callers: a group crosses to consensus and back once, and not each
    /// of its batches.
    pub fn start(
        leader: Leader,
        raft: &Raft,
        views: &watch::Receiver<View>,
        group_bytes_max: usize,
        callers_on: &Handle,
    ) -> Self {
        let (queue, proposals) = mpsc::channel(QUEUE_MAX);
        let (under_way, waits) = mpsc::channel(PLACES);
        let me = *raft.node_id();
        let completed = outcomes::complete(waits, views.clone(), leader.space.clone());
        tasks::spawn_on(callers_on, "answers to proposals", completed);
        let dispatcher = Dispatcher {
            forwarder: Forwarder::new(leader.transport, views.clone()),
            raft: raft.clone(),
            views: views.clone(),
            under_way,
            space: leader.space,
            stamps: leader.stamps,
            pace: leader.pace,
            group_bytes_max: GROUP_BYTES_MAX.min(group_bytes_max),
        };
        tasks::spawn_on(callers_on, "proposals", dispatcher.run(proposals));
        Self {
            queue,
            bytes: Arc::new(Semaphore::new(PENDING_BYTES_MAX)),
            me,
            views: views.clone(),
        }
    }

    /// Queues a batch, waiting while too much is pending: for a leader no longer than it may. The answer
    /// comes once it is committed.
    ///
    /// Batches that one caller queues one after another keep their order.
    pub async fn propose(
        &self,
        batch: Bytes,
        forwarded: bool,
        since: Instant,
    ) -> Result<Answer, ProposeError> {
        record::check_batch(&batch).map_err(|_| ProposeError::Malformed)?;
        let weight = u32::try_from(batch.len().min(PENDING_BYTES_MAX)).unwrap_or(u32::MAX);
        let bytes = self.bytes.clone().acquire_many_owned(weight);
        let bytes = self.while_led(since, bytes).await?;
        let place = self.while_led(since, self.queue.reserve()).await?;
        let (reply, answer) = oneshot::channel();
        place.map_err(|_| ProposeError::Stopping)?.send(Proposal {
            batch,
            forwarded,
            reply,
            since,
            _bytes: bytes.map_err(|_| ProposeError::Stopping)?,
        });
        Ok(answer)
    }

    /// Waits until it is late and no leader is known.
    async fn while_led<T>(
        &self,
        since: Instant,
        wait: impl Future<Output = T>,
    ) -> Result<T, ProposeError> {
        let led_no_more = async {
            tokio::time::sleep_until(since + LEADER_WAIT).await;
            while self.views.borrow().is_led(self.me) {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            biased;
            waited = wait => Ok(waited),
            () = led_no_more => Err(no_leader(&self.views.borrow(), since)),
        }
    }
}

struct Dispatcher {
    raft: Raft,
    views: watch::Receiver<View>,
    forwarder: Forwarder,
    under_way: mpsc::Sender<Waiting>,
    space: Space,
    stamps: Stamps,
    pace: Pace,
    group_bytes_max: usize,
}

enum Route {
    Here,
    There(u64, String),
}

impl Dispatcher {
    async fn run(mut self, mut proposals: mpsc::Receiver<Proposal>) {
        let window = Arc::new(Semaphore::new(PLACES));
        let mut waiting = VecDeque::new();
        let mut fresh = Vec::new();
        loop {
            let place = window.clone().acquire_owned();
            let place = self.turn(place, &mut waiting, &mut proposals).await;
            let Ok(mut place) = place else {
                return;
            };
            if waiting.is_empty() {
                if proposals.recv_many(&mut fresh, GROUP_BATCHES_MAX).await == 0 {
                    return;
                }
                waiting.extend(fresh.drain(..));
            }
            let led = self.led();
            self.turn(led, &mut waiting, &mut proposals).await;
            // Nobody waits for these any more: their callers were told that the outcome is unknown.
            waiting.retain(|proposal: &Proposal| !proposal.reply.is_closed());
            if !waiting.is_empty() && !self.fills_a_group(&waiting) {
                let more = window.clone().acquire_many_owned(PLACES_OF_SMALL - 1);
                let more = self.turn(more, &mut waiting, &mut proposals).await;
                let Ok(more) = more else {
                    return;
                };
                place.merge(more);
                // What came while it waited goes along.
                gather(&mut waiting, &mut proposals, GROUP_BATCHES_MAX);
            }
            if waiting.is_empty() {
                continue;
            }
            let group = Group {
                proposals: take_group(&mut waiting, self.group_bytes_max),
                place,
            };
            self.dispatch(group).await;
        }
    }

    /// Waits for what must come before the next group. Without a leader, what has waited for too long is
    /// answered meanwhile: nothing of it was appended.
    async fn turn<T>(
        &self,
        wait: impl Future<Output = T>,
        waiting: &mut VecDeque<Proposal>,
        proposals: &mut mpsc::Receiver<Proposal>,
    ) -> T {
        let mut wait = std::pin::pin!(wait);
        loop {
            if let Ok(waited) = tokio::time::timeout(LOOK, &mut wait).await {
                return waited;
            }
            let view = self.views.borrow();
            if !view.is_led(*self.raft.node_id()) {
                gather(waiting, proposals, QUEUE_MAX);
                let (late, rest): (VecDeque<_>, _) = waiting.drain(..).partition(Proposal::is_late);
                *waiting = rest;
                for proposal in late {
                    proposal.fail_without_leader(&view);
                }
            }
        }
    }

    /// Returns once there is somebody to lead, or the node stops.
    fn led(&self) -> impl Future<Output = ()> + use<> {
        let (me, mut views) = (*self.raft.node_id(), self.views.clone());
        async move {
            let led = views.wait_for(|view| view.is_led(me) || view.stopped.is_some());
            // A sender that is gone is a node that has stopped.
            drop(led.await);
        }
    }

    /// Whether what was gathered makes a group that is nearly full.
    fn fills_a_group(&self, waiting: &VecDeque<Proposal>) -> bool {
        let bytes: usize = waiting.iter().map(|proposal| proposal.batch.len()).sum();
        bytes >= self.group_bytes_max / 2
    }

    /// Hands a group to the leader, waiting for one to be known.
    async fn dispatch(&mut self, mut group: Group) {
        let deadline = group.came() + LEADER_WAIT;
        loop {
            match tokio::time::timeout_at(deadline, self.route()).await {
                // It waits here, and all behind it, until the disk keeps up or another node leads.
                Ok(Some(Route::Here)) if self.pace.is_behind() => self.pace.pause().await,
                Ok(Some(Route::Here)) => {
                    let room = self.space.check(&self.views.borrow());
                    return match room {
                        Ok(()) => self.write(group).await,
                        Err(full) => group.fail(&full.into()),
                    };
                }
                Ok(Some(Route::There(leader, addr))) => {
                    group = group.without_forwarded(&self.views.borrow());
                    if group.proposals.is_empty() {
                        return;
                    }
                    // Nothing of the group was sent if there is no stream yet.
                    let deadline = deadline.max(Instant::now() + FORWARD_WAIT);
                    match self.forwarder.forward(leader, &addr, group, deadline).await {
                        Ok(()) => return,
                        Err(unsent) => group = unsent,
                    }
                }
                Ok(None) => return group.fail(&ProposeError::Stopping),
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                return group.fail_without_leader(&self.views.borrow());
            }
        }
    }

    /// Where the leader is, once that is known; `None` when the node stops.
    async fn route(&mut self) -> Option<Route> {
        self.led().await;
        let view = self.views.borrow();
        if view.stopped.is_some() {
            return None;
        }
        if view.writable {
            return Some(Route::Here);
        }
        let leader = view.leader_member()?;
        Some(Route::There(leader.id, leader.member.addr.clone()))
    }

    async fn write(&self, group: Group) {
        let batches = group.proposals.iter().map(|proposal| &proposal.batch);
        let command = Command::Append(record::join(batches, Some(self.stamps.next())));
        let (responder, outcome) = ProgressResponder::complete_only();
        match self.raft.client_write_ff(command, Some(responder)).await {
            Ok(()) => {
                // The window bounds the channel, so this never waits.
                let _ = self.under_way.send((outcome, group, Instant::now())).await;
            }
            Err(_) => group.fail(&ProposeError::Stopping),
        }
    }
}

/// Nobody took a batch that came then.
fn no_leader(view: &View, since: Instant) -> ProposeError {
    ProposeError::NoLeader {
        waited_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
        leader: view
            .leader_member()
            .map(|leader| leader.member.addr.clone()),
    }
}

/// Takes what is in the queue, until so many wait.
fn gather(
    waiting: &mut VecDeque<Proposal>,
    proposals: &mut mpsc::Receiver<Proposal>,
    count_max: usize,
) {
    while waiting.len() < count_max
        && let Ok(proposal) = proposals.try_recv()
    {
        waiting.push_back(proposal);
    }
}

/// The first batches, up to a group's limit.
fn take_group(waiting: &mut VecDeque<Proposal>, bytes_max: usize) -> Vec<Proposal> {
    // The count and the time come before the batches.
    let mut bytes = 12;
    let mut count = 0;
    for proposal in waiting.iter() {
        bytes += proposal.batch.len();
        if count > 0 && (bytes > bytes_max || count == GROUP_BATCHES_MAX) {
            break;
        }
        count += 1;
    }
    waiting.drain(..count).collect()
}
