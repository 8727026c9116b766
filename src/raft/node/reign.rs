//! Work that ends with the reign that it began in: a leader's own, and what was passed to one.

use std::time::Duration;

use crate::raft::error::MembershipError;
use crate::raft::view::View;

use super::Node;

/// How long a call that was passed to the leader may take: while it lasts, the leader may wait for a learner to
/// catch up.
const PASS_ON: Duration = Duration::from_secs(15);
/// How long the last answers of a leader may take after it was deposed.
const LAST_ANSWER: Duration = Duration::from_secs(1);
/// How soon a majority confirms a leader that was just elected.
const CONFIRMED: Duration = Duration::from_secs(1);

impl Node {
    /// Waits for the leader's answer; its refusal comes with its own words. A leader that is lost
    /// meanwhile is not waited for.
    pub(crate) async fn passed_on<T>(
        &self,
        leader: u64,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, MembershipError> {
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
        tokio::select! {
            answer = tokio::time::timeout(PASS_ON, call) => match answer {
                Ok(Ok(response)) => Ok(response.into_inner()),
                Ok(Err(status)) => Err(crate::raft::error::refusal::membership_error(&status)),
                Err(_) => Err(MembershipError::Unknown {
                    reason: format!("it did not answer within {} s", PASS_ON.as_secs()),
                }),
            },
            () = lost => Err(MembershipError::Unknown {
                reason: "it was lost before it answered".to_owned(),
            }),
        }
    }

    /// Does a leader's work for as long as a majority follows this node. Without a majority no work is begun:
    /// it would not end, and others would wait for it.
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
            // A leader that removed itself hears the outcome a moment after it has stopped leading.
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
