//! Forwarding: a follower sends its proposals to the leader on one ordered stream.
//!
//! The stream is opened before anything is sent on it. So a group that could not be sent was certainly not
//! appended. A group that was sent may have been appended if the stream breaks, or if the leader is deposed and
//! does not answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::log::Offset;
use crate::proto::raft_v1::{self as pb, ProposeErrorKind};
use crate::raft::entry::outcome::{OffsetRange, Receipt, Refusal, Refused};
use crate::raft::error::{DiskFull, ProposeError};
use crate::raft::peer::transport::{Lane, Transport};
use crate::raft::view::View;
use crate::retry::Pauses;
use crate::tasks;

use super::proposals::Group;

/// How long the opening of a stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
/// How many groups the stream's channel holds: more than the proposer's window lets out.
const CHANNEL: usize = 64;

/// How long this node still takes answers of a leader after it has heard of a newer one. A leader that handed
/// leadership on, or that hears of the newer one, answers within this time.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// How long this node waits for answers while it hears no leader at all. A node that is cut off never hears of
/// a newer leader, and its callers could ask another node meanwhile.
const SILENCE: Duration = Duration::from_secs(3);

/// Sends groups to the leader.
pub struct Forwarder {
    transport: Transport,
    views: watch::Receiver<View>,
    stream: Option<Opened>,
    /// The pauses between tries to open a stream.
    pauses: Pauses,
}

struct Opened {
    leader: u64,
    requests: mpsc::Sender<pb::ProposeRequest>,
    waiting: Arc<Sent>,
}

/// Groups that were sent and not answered; `None` once the stream broke.
type Sent = Mutex<Option<VecDeque<Group>>>;

impl Forwarder {
    pub fn new(transport: Transport, views: watch::Receiver<View>) -> Self {
        Self {
            transport,
            views,
            stream: None,
            pauses: Pauses::default(),
        }
    }

    /// Sends a group to the leader. Returns the group if there is no stream to send it on.
    pub async fn forward(
        &mut self,
        leader: u64,
        addr: &str,
        mut group: Group,
        deadline: Instant,
    ) -> Result<(), Group> {
        let open = self
            .stream
            .as_ref()
            .is_some_and(|stream| stream.leader == leader);
        if !open {
            let until = deadline.min(Instant::now() + OPEN_TIMEOUT);
            self.stream = tokio::time::timeout_at(until, self.open(leader, addr))
                .await
                .ok()
                .flatten();
        }
        let Some(stream) = &self.stream else {
            self.pauses.wait().await;
            return Err(group);
        };
        self.pauses.reset();
        let batches = group
            .proposals
            .iter()
            .map(|proposal| proposal.batch.clone());
        let request = pb::ProposeRequest {
            batches: batches.collect(),
            waited_ms: u64::try_from(group.came().elapsed().as_millis()).unwrap_or(u64::MAX),
            traces: group.pass_on(),
        };
        let Ok(slot) = stream.requests.reserve().await else {
            self.stream = None;
            return Err(group);
        };
        // The group is noted before it is sent, since the answer may come at once.
        let unsent = match &mut *stream.waiting.lock() {
            Some(waiting) => {
                waiting.push_back(group);
                None
            }
            None => Some(group),
        };
        if let Some(group) = unsent {
            drop(slot);
            self.stream = None;
            return Err(group);
        }
        slot.send(request);
        Ok(())
    }

    async fn open(&self, leader: u64, addr: &str) -> Option<Opened> {
        let (requests, sent) = mpsc::channel(CHANNEL);
        let mut client = self.transport.kept(leader, addr, Lane::Records);
        let answers = client.propose(ReceiverStream::new(sent)).await;
        let answers = answers.inspect_err(|status| {
            tracing::debug!(leader, %addr, %status, "no stream to the leader");
        });
        let waiting = Arc::new(Mutex::new(Some(VecDeque::new())));
        let answers = answers.ok()?.into_inner();
        let deposed = deposed(leader, self.views.clone());
        tasks::spawn(
            "answers of the leader",
            receive(answers, waiting.clone(), deposed),
        );
        Some(Opened {
            leader,
            requests,
            waiting,
        })
    }
}

/// Returns once this node has known another leader for [`LAST_ANSWERS`], or none for [`SILENCE`], or stops.
async fn deposed(leader: u64, mut views: watch::Receiver<View>) {
    let leads = |view: &View| view.leader == Some(leader) && view.stopped.is_none();
    while views.wait_for(|view| !leads(view)).await.is_ok() {
        let known = views.wait_for(|view| view.leader.is_some() || view.stopped.is_some());
        if !matches!(tokio::time::timeout(SILENCE, known).await, Ok(Ok(_))) {
            return;
        }
        tokio::time::sleep(LAST_ANSWERS).await;
        let view = views.borrow();
        if view.leader.is_some() && !leads(&view) || view.stopped.is_some() {
            return;
        }
    }
}

/// Takes the leader's answers until the stream ends or the leader is deposed. A deposed leader must not be waited
/// for: its groups would keep their places in the window for good.
async fn receive(
    answers: impl Stream<Item = Result<pb::ProposeResponse, Status>>,
    waiting: Arc<Sent>,
    deposed: impl Future<Output = ()>,
) {
    let answers = answers.take_until(deposed);
    let mut answers = std::pin::pin!(answers);
    while let Some(Ok(answer)) = answers.next().await {
        let group = waiting.lock().as_mut().and_then(VecDeque::pop_front);
        match group {
            Some(group) if group.proposals.len() == answer.outcomes.len() => {
                for (proposal, outcome) in group.proposals.into_iter().zip(answer.outcomes) {
                    proposal.reply.send(outcome_from_pb(outcome));
                }
            }
            // The answer does not fit the group that was sent, so nothing on this stream can be trusted.
            Some(group) => {
                group.fail(&ProposeError::Unknown);
                break;
            }
            None => break,
        }
    }
    // From here on the forwarder sends nothing on this stream, and opens another one.
    let unanswered = waiting.lock().take();
    for group in unanswered.into_iter().flatten() {
        group.fail(&ProposeError::Unknown);
    }
}

pub fn outcome_to_pb(outcome: Result<Receipt, ProposeError>) -> pb::BatchOutcome {
    match outcome {
        Ok(receipt) => {
            let range = |range: OffsetRange| pb::OffsetRange {
                first_offset: range.first.0,
                count: range.count,
            };
            pb::BatchOutcome {
                ranges: receipt.ranges.into_iter().map(range).collect(),
                error: None,
                timestamp_ms: receipt.timestamp_ms,
                duplicate: receipt.duplicate,
            }
        }
        Err(error) => pb::BatchOutcome {
            error: Some(error_to_pb(error)),
            ..pb::BatchOutcome::default()
        },
    }
}

fn error_to_pb(error: ProposeError) -> pb::ProposeError {
    let mut told = pb::ProposeError::default();
    let kind = match error {
        ProposeError::NoLeader { .. } | ProposeError::Stopping => ProposeErrorKind::NotLeader,
        ProposeError::Unknown => ProposeErrorKind::Unknown,
        ProposeError::Malformed => ProposeErrorKind::Malformed,
        ProposeError::Refused(Refused { why, batch }) => {
            let (kind, expected) = refusal_to_pb(why);
            (told.expected, told.batch) = (expected, batch);
            kind
        }
        ProposeError::DiskFull(full) => {
            told.disk_full = Some(full.into());
            ProposeErrorKind::DiskFull
        }
    };
    told.set_kind(kind);
    told
}

/// The kind of a refusal, and what was expected.
fn refusal_to_pb(why: Refusal) -> (ProposeErrorKind, u64) {
    match why {
        Refusal::SessionExpired => (ProposeErrorKind::SessionExpired, 0),
        Refusal::SequenceGap { expected } => (ProposeErrorKind::SequenceGap, expected),
        Refusal::SequenceOverlap { expected } => (ProposeErrorKind::SequenceOverlap, expected),
        Refusal::SequenceReused { expected } => (ProposeErrorKind::SequenceReused, expected),
        Refusal::NotOwner => (ProposeErrorKind::NotOwner, 0),
        Refusal::NotHolder => (ProposeErrorKind::NotHolder, 0),
        Refusal::NoSuchLog => (ProposeErrorKind::NoSuchLog, 0),
        Refusal::OffsetDiffers { next } => (ProposeErrorKind::OffsetDiffers, next.0),
        Refusal::Fenced { epoch } => (ProposeErrorKind::Fenced, epoch),
    }
}

fn outcome_from_pb(outcome: pb::BatchOutcome) -> Result<Receipt, ProposeError> {
    let Some(error) = outcome.error else {
        let range = |range: pb::OffsetRange| OffsetRange {
            first: Offset(range.first_offset),
            count: range.count,
        };
        return Ok(Receipt {
            ranges: outcome.ranges.into_iter().map(range).collect(),
            timestamp_ms: outcome.timestamp_ms,
            duplicate: outcome.duplicate,
        });
    };
    let (expected, batch) = (error.expected, error.batch);
    let why = match error.kind() {
        ProposeErrorKind::NotLeader => {
            let (waited_ms, leader) = (0, None);
            return Err(ProposeError::NoLeader { waited_ms, leader });
        }
        ProposeErrorKind::Malformed => return Err(ProposeError::Malformed),
        ProposeErrorKind::DiskFull => {
            return Err(DiskFull::from(error.disk_full.unwrap_or_default()).into());
        }
        ProposeErrorKind::SessionExpired => Refusal::SessionExpired,
        ProposeErrorKind::SequenceGap => Refusal::SequenceGap { expected },
        ProposeErrorKind::SequenceOverlap => Refusal::SequenceOverlap { expected },
        ProposeErrorKind::SequenceReused => Refusal::SequenceReused { expected },
        ProposeErrorKind::NotOwner => Refusal::NotOwner,
        ProposeErrorKind::NotHolder => Refusal::NotHolder,
        ProposeErrorKind::NoSuchLog => Refusal::NoSuchLog,
        ProposeErrorKind::OffsetDiffers => Refusal::OffsetDiffers {
            next: Offset(expected),
        },
        ProposeErrorKind::Fenced => Refusal::Fenced { epoch: expected },
        // Only a newer version sends other kinds. What they say of the batch is not known here.
        ProposeErrorKind::Unknown | ProposeErrorKind::Unspecified => {
            return Err(ProposeError::Unknown);
        }
    };
    Err(Refused { why, batch }.into())
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures::stream;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::raft::write::proposals::Proposal;

    fn answer(offset: u64) -> pb::ProposeResponse {
        let range = OffsetRange {
            first: Offset(offset),
            count: 1,
        };
        let receipt = Receipt {
            ranges: vec![range],
            timestamp_ms: 1,
            duplicate: false,
        };
        pb::ProposeResponse {
            outcomes: vec![outcome_to_pb(Ok(receipt))],
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_another_follows_keeps_no_place_in_the_window() {
        let places = Arc::new(Semaphore::new(3));
        let mut told = Vec::new();
        let mut groups = VecDeque::new();
        for _ in 0..3 {
            let (proposal, answer) = Proposal::of_test("batch");
            told.push(answer);
            groups.push_back(Group {
                proposals: vec![proposal],
                place: places.clone().acquire_owned().await.unwrap(),
            });
        }
        let view = |leader| View {
            leader,
            ..View::default()
        };
        let (tell, views) = watch::channel(view(Some(1)));
        let waiting: Arc<Sent> = Arc::new(Mutex::new(Some(groups)));
        // One answer comes before leadership moves, one just after it, and one never.
        let (sender, answers) = mpsc::unbounded_channel();
        let answers = tokio_stream::wrappers::UnboundedReceiverStream::new(answers);
        let received = tokio::spawn(receive(answers, waiting.clone(), deposed(1, views)));
        sender.send(Ok(answer(0))).unwrap();
        let first = told.remove(0).await.unwrap().unwrap();
        assert_eq!(first.ranges[0].first, Offset(0));
        // A leader that is not heard for a moment may still answer.
        tell.send_replace(view(None));
        tokio::time::sleep(LAST_ANSWERS * 4).await;
        assert_eq!(places.available_permits(), 1, "two still wait");

        tell.send_replace(view(Some(2)));
        sender.send(Ok(answer(1))).unwrap();
        assert!(told.remove(0).await.unwrap().is_ok(), "it was answered");
        let last = tokio::time::timeout(LAST_ANSWERS * 2, told.remove(0)).await;
        let last = last.expect("it is told in time").unwrap();
        assert_eq!(last, Err(ProposeError::Unknown), "it may be in the log");
        received.await.unwrap();
        assert_eq!(places.available_permits(), 3);
        assert!(waiting.lock().is_none(), "nothing more is sent there");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_falls_silent_keeps_nobody_waiting_for_good() {
        let (proposal, told) = Proposal::of_test("batch");
        let places = Arc::new(Semaphore::new(1));
        let group = Group {
            proposals: vec![proposal],
            place: places.acquire_owned().await.unwrap(),
        };
        let waiting: Arc<Sent> = Arc::new(Mutex::new(Some(VecDeque::from([group]))));
        let (tell, views) = watch::channel(View {
            leader: Some(1),
            ..View::default()
        });
        tokio::spawn(receive(stream::pending(), waiting, deposed(1, views)));
        tell.send_replace(View::default());
        let told = tokio::time::timeout(SILENCE * 2, told).await;
        let told = told.expect("it is told in time").unwrap();
        assert_eq!(told, Err(ProposeError::Unknown), "it may be in the log");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_breaks_leaves_its_outcomes_open() {
        let (proposal, told) = Proposal::of_test("batch");
        let places = Arc::new(Semaphore::new(1));
        let group = Group {
            proposals: vec![proposal],
            place: places.acquire_owned().await.unwrap(),
        };
        let waiting = Arc::new(Mutex::new(Some(VecDeque::from([group]))));
        let broken = stream::iter([Err(Status::unavailable("broken"))]);
        receive(broken, waiting, pending()).await;
        assert_eq!(told.await.unwrap(), Err(ProposeError::Unknown));
    }

    #[test]
    fn outcomes_come_back_as_they_went() {
        let range = OffsetRange {
            first: Offset(7),
            count: 3,
        };
        let full = |voter: Option<&str>| {
            ProposeError::DiskFull(DiskFull {
                available: 5,
                reserve: 6,
                voter: voter.map(str::to_owned),
            })
        };
        let outcomes = [
            Ok(Receipt {
                ranges: vec![range, range],
                timestamp_ms: 5,
                duplicate: true,
            }),
            Err(Refusal::SequenceOverlap { expected: 9 }.into()),
            Err(ProposeError::Refused(Refused {
                why: Refusal::Fenced { epoch: 2 },
                batch: 3,
            })),
            Err(Refusal::SequenceReused { expected: 9 }.into()),
            Err(Refusal::NotOwner.into()),
            Err(Refusal::NoSuchLog.into()),
            Err(Refusal::NotHolder.into()),
            Err(Refusal::OffsetDiffers { next: Offset(4) }.into()),
            Err(Refusal::Fenced { epoch: 3 }.into()),
            Err(ProposeError::Unknown),
            Err(ProposeError::Malformed),
            Err(Refusal::SessionExpired.into()),
            Err(Refusal::SequenceGap { expected: 9 }.into()),
            Err(full(Some("n2"))),
            Err(full(None)),
        ];
        for outcome in outcomes {
            assert_eq!(outcome_from_pb(outcome_to_pb(outcome.clone())), outcome);
        }
        let stopping = outcome_from_pb(outcome_to_pb(Err(ProposeError::Stopping)));
        assert!(matches!(stopping, Err(ProposeError::NoLeader { .. })));
    }
}
