//! How much of a log is kept.

use super::super::admin::{CHANGE_MAX, Cluster};
use super::super::told::Again;
use super::super::{Admin, ClientError, FIRST_ANSWER_MAX};
use crate::proto::v1::{GetRetentionRequest, Retention, SetRetentionRequest};

impl Admin {
    /// How much of the log is kept.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] or [`ClientError::Stalled`] once the client's timeout is over; a refusal as
    /// its own variant.
    pub async fn retention(&self) -> Result<Retention, ClientError> {
        let request = GetRetentionRequest {
            log: self.log.clone(),
        };
        let call = |channel| {
            let request = request.clone();
            async move { Cluster::new(channel).get_retention(request).await }
        };
        let answer = self.asked(FIRST_ANSWER_MAX, call).await?;
        Ok(answer.retention.unwrap_or_default())
    }

    /// Sets how much of the log is kept.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] or [`ClientError::Stalled`] once the client's timeout is over; a refusal as
    /// its own variant; [`ClientError::ChangeInDoubt`] if a try may have made the change, and no answer says so: it is not
    /// made again.
    pub async fn set_retention(&self, retention: Retention) -> Result<(), ClientError> {
        let request = SetRetentionRequest {
            log: self.log.clone(),
            retention: Some(retention),
        };
        let call = |channel| {
            let request = request.clone();
            async move { Cluster::new(channel).set_retention(request).await }
        };
        let set = self.changed(CHANGE_MAX, Again::UnlessInDoubt, call).await;
        set.map(drop)
    }
}
