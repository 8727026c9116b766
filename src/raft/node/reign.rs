//! Work that must end with a leader's reign: the leader's own, and calls that were passed to it.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Response, Status};

use crate::raft::error::{MembershipError, WriteFailure, refusal};
use crate::raft::view::View;

use super::Node;

/// How long a call that was passed to the leader may take. The leader may wait for a learner to catch up in this
/// time.
const PASS_ON: Duration = Duration::from_secs(15);
/// How long this node still waits for the answer of a leader after it was deposed.
const LAST_ANSWER: Duration = Duration::from_secs(1);
/// How long a leader that was just elected waits for a majority to confirm it.
const CONFIRMED: Duration = Duration::from_secs(1);

/// Why a call that was passed to the leader has no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The leader refused the call, or the connection broke.
    Said(Status),
    /// No answer came. The call may have been carried out, or may be carried out later.
    Silent(String),
}

impl From<Unanswered> for WriteFailure {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Said(status) => refusal::write_failure(&status),
            Unanswered::Silent(reason) => Self::Unknown(reason),
        }
    }
}

impl From<Unanswered> for MembershipError {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Said(status) => refusal::membership_error(&status),
            Unanswered::Silent(reason) => Self::Unknown { reason },
        }
    }
}

impl Node {
    /// Waits for the leader's answer to a change of the members. A refusal keeps the leader's words.
    pub(crate) async fn change_passed_on<T>(
        &self,
        leader: u64,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, MembershipError> {
        let until = Instant::now() + PASS_ON;
        Ok(self.passed_on(leader, until, call).await?)
    }

    /// Waits for the leader's answer, for as long as it is not deposed.
    pub(crate) async fn passed_on<T>(
        &self,
        leader: u64,
        until: Instant,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Unanswered> {
        let mut views = self.views.clone();
        let lost = async {
            let another = |view: &View| view.leader != Some(leader);
            while views.wait_for(another).await.is_ok() {
                tokio::time::sleep(LAST_ANSWER).await;
                if another(&views.borrow()) {
                    return;
                }
            }
        };
        let silent = |why: &str| Err(Unanswered::Silent(why.to_owned()));
        tokio::select! {
            answer = tokio::time::timeout_at(until, call) => match answer {
                Ok(answer) => answer.map(Response::into_inner).map_err(Unanswered::Said),
                Err(_) => silent("the leader did not answer in time"),
            },
            () = lost => silent("the leader was lost before it answered"),
        }
    }

    /// Does a leader's work for as long as a majority follows this node. Without a majority the work is not begun,
    /// since it would not end, and others would wait for it.
    pub(crate) async fn as_leader<T>(
        &self,
        work: impl Future<Output = Result<T, MembershipError>>,
    ) -> Result<T, MembershipError> {
        let mut views = self.views.clone();
        let confirmed = views.wait_for(|view| view.writable);
        let confirmed = tokio::time::timeout(CONFIRMED, confirmed).await;
        if !confirmed.is_ok_and(|view| view.is_ok()) {
            return Err(MembershipError::NoLeader {
                reason: "no majority follows this node".to_owned(),
            });
        }
        let lost = async {
            // A leader that removes itself stops leading a moment before it hears the outcome.
            while views.wait_for(|view| !view.writable).await.is_ok() {
                tokio::time::sleep(LAST_ANSWER).await;
                if !views.borrow().writable {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            done = work => done,
            () = lost => Err(MembershipError::Unknown {
                reason: "no majority follows this node any more".to_owned(),
            }),
        }
    }
}
