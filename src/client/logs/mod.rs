//! The logs of a cluster: made, looked at, changed and deleted.
//!
//! A call that is made again after a lost answer does nothing twice: a log is made under a token, and deleted by
//! its id. Settings are replaced under a condition, or the call is not made again.

mod retention;
pub mod watch;

use super::info::{LogInfo, LogSettings};
use super::named::Log;
use super::session::Token;
use super::told::Again;
use super::{Admin, ClientError};
use crate::proto::v1::{
    self, CompactLogRequest, CreateLogRequest, DeleteLogRequest, GetLogRequest, ListLogsRequest,
    UpdateLogRequest,
};

impl Admin {
    /// Makes a log. One that is there already with these settings is answered as it is.
    ///
    /// # Errors
    ///
    /// [`ClientError::LogExists`] if a log of this name has other settings; a refusal of the name or the settings
    /// as its own variant; else as [`Self::delete_log`].
    pub async fn create_log(
        &self,
        name: &str,
        settings: LogSettings,
    ) -> Result<LogInfo, ClientError> {
        let request = CreateLogRequest {
            name: name.to_owned(),
            config: Some(settings.into()),
            token: Token::random().bytes(),
        };
        let call = |mut log: Log| {
            let request = request.clone();
            async move { log.create_log(request).await }
        };
        let (answer, _) = self.change_named(call).await?;
        described(answer.log)
    }

    /// What is known of a log.
    ///
    /// # Errors
    ///
    /// [`ClientError::NoSuchLog`] if there is none of this name; [`ClientError::Unreachable`] or
    /// [`ClientError::Stalled`] once the client's timeout is over; a refusal as its own variant.
    pub async fn get_log(&self, name: &str) -> Result<LogInfo, ClientError> {
        let request = GetLogRequest {
            name: name.to_owned(),
        };
        let call = |mut log: Log| {
            let request = request.clone();
            async move { log.get_log(request).await }
        };
        described(self.ask(call).await?.log)
    }

    /// The logs whose names begin with `prefix`, by name; all logs for an empty prefix.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] or [`ClientError::Stalled`] once the client's timeout is over; a refusal as
    /// its own variant.
    pub async fn list_logs(&self, prefix: &str) -> Result<Vec<LogInfo>, ClientError> {
        let call = |mut log: Log, page_token| {
            let request = ListLogsRequest {
                prefix: prefix.to_owned(),
                page_size: PAGE,
                page_token,
            };
            async move { log.list_logs(request).await }
        };
        let pages = self.all(call, |page| (page.logs, page.next_page_token));
        Ok(pages.await?.into_iter().map(LogInfo::from).collect())
    }

    /// Replaces a log's settings. With `expected_epoch`, only if they have this epoch.
    ///
    /// # Errors
    ///
    /// [`ClientError::NoSuchLog`] if there is none of this name; [`ClientError::LogEpochDiffers`] if the settings
    /// have another epoch; else as [`Self::delete_log`]. After a try whose outcome is not known, a log that has
    /// these settings is success, whoever set them. Without an epoch it is [`ClientError::ChangeInDoubt`].
    pub async fn update_log(
        &self,
        name: &str,
        settings: LogSettings,
        expected_epoch: Option<u64>,
    ) -> Result<LogInfo, ClientError> {
        let request = UpdateLogRequest {
            name: name.to_owned(),
            config: Some(settings.clone().into()),
            expected_epoch,
        };
        let call = |mut log: Log| {
            let request = request.clone();
            async move { log.update_log(request).await }
        };
        let again = match expected_epoch {
            Some(_) => Again::Always,
            None => Again::UnlessInDoubt,
        };
        match self.change_named_again(again, call).await {
            Ok((answer, _)) => described(answer.log),
            Err(doubt @ ClientError::ChangeInDoubt { .. }) if expected_epoch.is_some() => {
                match self.get_log(name).await {
                    // An earlier try made the change, and its answer was lost.
                    Ok(log) if log.settings == settings => Ok(log),
                    _ => Err(doubt),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Has a log that is compacted by key compacted as soon as may be. The work goes on behind the answer.
    ///
    /// # Errors
    ///
    /// [`ClientError::InvalidArgument`] for a log that is not compacted; else as [`Self::delete_log`].
    pub async fn compact_log(&self, name: &str) -> Result<(), ClientError> {
        let request = CompactLogRequest {
            name: name.to_owned(),
        };
        let call = |mut log: Log| {
            let request = request.clone();
            async move { log.compact_log(request).await }
        };
        self.change_named(call).await.map(drop)
    }

    /// Deletes the log that has this name and this id, with its records and cursors; false if there is none.
    /// [`Self::get_log`] tells the id. A log that was made anew under the name has another id, and stays.
    ///
    /// # Errors
    ///
    /// [`ClientError::InvalidArgument`] for the default log, which cannot be deleted;
    /// [`ClientError::Unreachable`] or [`ClientError::Stalled`] once the client's timeout is over; a refusal as
    /// its own variant; [`ClientError::ChangeInDoubt`] if an earlier try may have made the change and no later
    /// one could tell.
    pub async fn delete_log(&self, name: &str, id: u32) -> Result<bool, ClientError> {
        let request = DeleteLogRequest {
            name: name.to_owned(),
            id,
        };
        let call = |mut log: Log| {
            let request = request.clone();
            async move { log.delete_log(request).await }
        };
        let (answer, in_doubt) = self.change_named(call).await?;
        // If there was none, an earlier try may have deleted it, whose answer was lost.
        Ok(answer.deleted || in_doubt)
    }
}

/// Logs in a page: as many as servers give, since there may be a hundred thousand.
const PAGE: u32 = 1000;

fn described(log: Option<v1::Log>) -> Result<LogInfo, ClientError> {
    log.map(LogInfo::from).ok_or(ClientError::Protocol {
        server: "the server".to_owned(),
        what: "its answer holds no log",
    })
}
