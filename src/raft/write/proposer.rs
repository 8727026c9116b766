//! The proposer: takes batches from this node's clients to the leader.
//!
//! Batches that wait at the same time become one raft entry, a group, so that consensus is paid for once a group and
//! not once a record. They wait only while the window is full of earlier groups. A follower passes its groups to
//! the leader on one ordered stream. Order is kept from the queue to the log.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::impls::ProgressResponder;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use crate::live::Live;
use crate::log::record;
use crate::net::budget::SMALL_BYTES_MAX;
use crate::raft::engine::Raft;
use crate::raft::entry::command::Command;
use crate::raft::error::ProposeError;
use crate::raft::peer::transport::Transport;
use crate::raft::view::View;
use crate::raft::view::counts::Counts;
use crate::raft::view::space::Space;
use crate::raft::write::proposals::Caller;
use crate::retry::CALL_WAIT;
use crate::spans::{Side, Span};
use crate::tasks;

use super::forward::Forwarder;
use super::gate::Gate;
use super::lines::Lines;
use super::outcomes::{self, Stages, UnderWay};
use super::proposals::{Answer, Came, Group, Proposal, Reply, no_leader};
use super::stamps::Stamps;

/// How many batches the queue holds.
const QUEUE_MAX: usize = 16 << 10;
/// How many bytes of batches may wait or be under way. The batches of this node's clients are also counted by the
/// budget, before they come here; the batches that other nodes passed on are counted here alone.
const PENDING_BYTES_MAX: usize = 32 << 20;
/// How many bytes are kept for small batches, in addition to those.
const PENDING_BYTES_OF_SMALL: usize = PENDING_BYTES_MAX / 8;
/// How many bytes of batches make a group; fewer where segments are small. A larger batch is a group by itself. A
/// reader checks whole entries, so a group should not be larger than one read.
const GROUP_BYTES_MAX: usize = 256 << 10;
const GROUP_BATCHES_MAX: usize = 1024;
/// The places of the window. A group that is at least half full takes one place, a smaller group takes
/// [`PLACES_OF_SMALL`]. So only a few small groups are under way at a time: more of them would only be smaller. And
/// enough full groups are under way to keep the disks and the network busy.
const PLACES: usize = 16;
const PLACES_OF_SMALL: usize = 4;
/// The most places that one large batch takes. It takes one for each full group that its bytes would make, up to
/// this. So only one of the largest batches is under way at a time, and small ones beside it.
const PLACES_OF_LARGE_MAX: usize = PLACES - PLACES_OF_SMALL;
/// How long a batch whose time is over when its turn comes is still kept for a leader to become known.
const FORWARD_WAIT: Duration = Duration::from_millis(200);
/// Between two looks at the batches that wait for their turn.
const LOOK: Duration = Duration::from_millis(100);

/// Takes batches; clones share the queue.
#[derive(Debug, Clone)]
pub struct Proposer {
    queue: mpsc::Sender<Proposal>,
    bytes: Arc<Semaphore>,
    /// The bytes that are kept for small batches, so that they do not wait behind large ones.
    small_bytes: Arc<Semaphore>,
    me: u64,
    views: watch::Receiver<View>,
    counts: Arc<Counts>,
}

/// The parts with which a node writes groups as the leader, or passes them to the leader.
pub struct Leader {
    pub transport: Transport,
    pub space: Space,
    pub stamps: Stamps,
    pub gate: Gate,
    pub counts: Arc<Counts>,
    /// A write that takes longer is logged; zero: none is.
    pub slow_call: Live<Duration>,
}

impl Proposer {
    /// Starts the proposer's tasks on the callers' runtime. Only whole groups then cross to the engine's runtime and
    /// back, and not each batch.
    pub fn start(
        leader: Leader,
        raft: &Raft,
        views: &watch::Receiver<View>,
        group_bytes_max: usize,
        callers_on: &Handle,
    ) -> Self {
        let (queue, proposals) = mpsc::channel(QUEUE_MAX);
        let (under_way, waits) = mpsc::channel(PLACES);
        let counts = leader.counts;
        let (space, times) = (leader.space.clone(), Stages::new(&counts, leader.slow_call));
        let completed = outcomes::complete(waits, views.clone(), space, times);
        tasks::spawn_on(callers_on, "answers to proposals", completed);
        let dispatcher = Dispatcher {
            forwarder: Forwarder::new(leader.transport, views.clone()),
            raft: raft.clone(),
            views: views.clone(),
            under_way,
            space: leader.space,
            stamps: leader.stamps,
            gate: leader.gate,
            counts: counts.clone(),
            group_bytes_max: GROUP_BYTES_MAX.min(group_bytes_max),
        };
        tasks::spawn_on(callers_on, "proposals", dispatcher.run(proposals));
        Self {
            queue,
            bytes: Arc::new(Semaphore::new(PENDING_BYTES_MAX)),
            small_bytes: Arc::new(Semaphore::new(PENDING_BYTES_OF_SMALL)),
            me: *raft.node_id(),
            views: views.clone(),
            counts,
        }
    }

    /// How many batches are in the queue, and how many bytes are pending in all.
    pub fn pending(&self) -> (usize, usize) {
        let bytes = PENDING_BYTES_MAX.saturating_sub(self.bytes.available_permits());
        let small = PENDING_BYTES_OF_SMALL.saturating_sub(self.small_bytes.available_permits());
        let queued = self.queue.max_capacity() - self.queue.capacity();
        (queued, bytes + small)
    }

    /// Queues a batch. Waits while too many bytes are pending; but if no leader is known, only until the batch's time
    /// is over. The answer comes once the batch is committed.
    ///
    /// Batches that one caller queues one after another keep their order; callers are served in turn.
    pub async fn propose(&self, batch: Bytes, came: Came) -> Result<Answer, ProposeError> {
        let Came {
            caller,
            since,
            forwarded,
            trace,
        } = came;
        record::check_bundle(&batch).map_err(|_| ProposeError::Malformed)?;
        let side = if forwarded {
            Side::Served
        } else {
            Side::Within
        };
        let span = trace.span("proposal", side);
        let weight = u32::try_from(batch.len().min(PENDING_BYTES_MAX)).unwrap_or(u32::MAX);
        let small = self.small_bytes.clone();
        let small = (batch.len() <= SMALL_BYTES_MAX).then(|| small.try_acquire_many_owned(weight));
        let bytes = match small {
            Some(Ok(bytes)) => Ok(bytes),
            _ => {
                let bytes = self.bytes.clone().acquire_many_owned(weight);
                self.while_led(since, bytes).await?
            }
        };
        let place = self.while_led(since, self.queue.reserve()).await?;
        let (reply, answer) = Reply::new(self.counts.clone(), batch.len(), forwarded);
        place.map_err(|_| ProposeError::Stopping)?.send(Proposal {
            batch,
            forwarded,
            reply,
            caller,
            since,
            span,
            forward: Span::default(),
            _bytes: bytes.map_err(|_| ProposeError::Stopping)?,
        });
        Ok(answer)
    }

    /// Waits for `wait`. Fails once the batch's time is over and no leader is known.
    async fn while_led<T>(
        &self,
        since: Instant,
        wait: impl Future<Output = T>,
    ) -> Result<T, ProposeError> {
        let led_no_more = async {
            tokio::time::sleep_until(since + CALL_WAIT).await;
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
    under_way: mpsc::Sender<UnderWay>,
    space: Space,
    stamps: Stamps,
    gate: Gate,
    counts: Arc<Counts>,
    group_bytes_max: usize,
}

enum Route {
    Here,
    There(u64, String),
}

impl Dispatcher {
    async fn run(mut self, mut proposals: mpsc::Receiver<Proposal>) {
        let window = Arc::new(Semaphore::new(PLACES));
        let places = |count: usize| {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            window.clone().acquire_many_owned(count)
        };
        let mut waiting = Lines::default();
        loop {
            let place = self.turn(places(1), &mut waiting, &mut proposals).await;
            let Ok(mut place) = place else {
                return;
            };
            if waiting.is_empty() {
                let Some(first) = proposals.recv().await else {
                    return;
                };
                waiting.push(first);
            }
            self.turn(self.led(), &mut waiting, &mut proposals).await;
            gather(&mut waiting, &mut proposals);
            // The callers of these have gone, and count their outcome as unknown.
            self.give_up(&mut waiting, |proposal| proposal.reply.is_closed());
            if !waiting.is_empty() && waiting.bytes() < self.group_bytes_max / 2 {
                let more = places(PLACES_OF_SMALL - 1);
                let Ok(more) = self.turn(more, &mut waiting, &mut proposals).await else {
                    return;
                };
                place.merge(more);
                // Batches that came during this wait go along.
                gather(&mut waiting, &mut proposals);
            }
            let mut group = Group {
                proposals: waiting.take(GROUP_BATCHES_MAX, self.group_bytes_max),
                place,
            };
            let wanted = places_of(group.bytes());
            if wanted > group.place.num_permits() {
                let more = places(wanted - group.place.num_permits());
                let Ok(more) = self.turn(more, &mut waiting, &mut proposals).await else {
                    return;
                };
                group.place.merge(more);
            }
            if !group.proposals.is_empty() {
                let given_up = self.dispatch(group).await;
                if !given_up.is_empty() {
                    gather(&mut waiting, &mut proposals);
                    let is_over = |proposal: &Proposal| given_up.contains(&proposal.caller);
                    self.give_up(&mut waiting, is_over);
                }
            }
        }
    }

    /// Waits for what must come before the next group. While no leader is known, batches that have waited for too
    /// long are answered meanwhile: they were not appended.
    async fn turn<T>(
        &self,
        wait: impl Future<Output = T>,
        waiting: &mut Lines,
        proposals: &mut mpsc::Receiver<Proposal>,
    ) -> T {
        let mut wait = std::pin::pin!(wait);
        loop {
            if let Ok(waited) = tokio::time::timeout(LOOK, &mut wait).await {
                return waited;
            }
            if !self.views.borrow().is_led(*self.raft.node_id()) {
                gather(waiting, proposals);
                self.give_up(waiting, Proposal::is_late);
            }
        }
    }

    /// Answers the batches that are over, and those that their callers queued behind them: they were not appended.
    fn give_up(&self, waiting: &mut Lines, is_over: impl Fn(&Proposal) -> bool) {
        let view = self.views.borrow();
        for proposal in waiting.give_up(is_over) {
            proposal.fail_without_leader(&view);
        }
    }

    /// Returns once a leader is known, or the node stops.
    fn led(&self) -> impl Future<Output = ()> + use<> {
        let (me, mut views) = (*self.raft.node_id(), self.views.clone());
        async move {
            let led = views.wait_for(|view| view.is_led(me) || view.stopped.is_some());
            // An error means that the sender is gone: the node has stopped.
            drop(led.await);
        }
    }

    /// Hands a group to the leader, and waits until one is known. Returns the callers of those batches that it
    /// gave up. What these callers queued behind must be given up, too.
    async fn dispatch(&mut self, mut group: Group) -> HashSet<Caller> {
        let mut given_up = HashSet::new();
        // A batch that waited for its turn has not waited for a leader yet: it may do so here for a moment.
        let mut deadline = (group.came() + CALL_WAIT).max(Instant::now() + FORWARD_WAIT);
        loop {
            match tokio::time::timeout_at(deadline, self.route()).await {
                // The group, and all behind it, wait here until the gate opens or another node leads.
                Ok(Some(Route::Here)) if self.gate.shut().is_some() => self.gate.pause().await,
                Ok(Some(Route::Here)) => {
                    let room = self.space.check(&self.views.borrow());
                    match room {
                        Ok(()) => self.write(group).await,
                        Err(full) => group.fail(&full.into()),
                    }
                    return given_up;
                }
                Ok(Some(Route::There(leader, addr))) => {
                    let (own, others) = group.without_forwarded(&self.views.borrow());
                    group = own;
                    given_up.extend(others);
                    if group.proposals.is_empty() {
                        return given_up;
                    }
                    // Without a stream nothing of the group was sent, and it may be tried again.
                    let deadline = deadline.max(Instant::now() + FORWARD_WAIT);
                    match self.forwarder.forward(leader, &addr, group, deadline).await {
                        Ok(()) => return given_up,
                        Err(unsent) => group = unsent,
                    }
                }
                Ok(None) => {
                    group.fail(&ProposeError::Stopping);
                    return given_up;
                }
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                let (in_time, late) = group.without_late(&self.views.borrow());
                group = in_time;
                given_up.extend(late);
                if group.proposals.is_empty() {
                    return given_up;
                }
                deadline = group.came() + CALL_WAIT;
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
        let now = Instant::now();
        for proposal in &group.proposals {
            let waited = now.saturating_duration_since(proposal.since);
            self.counts.queue.note(waited);
        }
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

/// How many places of the window a group of so many bytes takes.
fn places_of(bytes: usize) -> usize {
    bytes.div_ceil(GROUP_BYTES_MAX).min(PLACES_OF_LARGE_MAX)
}

/// Moves batches from the queue into their lines, until [`QUEUE_MAX`] wait there.
fn gather(waiting: &mut Lines, proposals: &mut mpsc::Receiver<Proposal>) {
    while waiting.len() < QUEUE_MAX
        && let Ok(proposal) = proposals.try_recv()
    {
        waiting.push(proposal);
    }
}
