//! What the cluster keeps of its clients: epochs that fence, cursors, sessions; and what a node takes.
//!
//! Cursors are a log's. Epochs and sessions are the cluster's, so that their calls name no log.
//!
//! Each call is tried again until the client's timeout. A call that would not be idempotent bears a token or a condition,
//! or is not tried again once a try may have done it.

use tonic::{Response, Status};

use super::attempts::{Attempts, Limited, limited, within};
use super::info::{Claim, CursorInfo, FenceInfo, SessionInfo};
use super::session::Token;
use super::told::{Again, is_no_such_cursor, leaves_doubt, past_end};
use super::{Admin, ClientError, SILENCE_MAX, native};
use crate::proto::v1::log_service_client::LogServiceClient;
use crate::proto::v1::{
    ClaimEpochRequest, CloseSessionRequest, CommitCursorRequest, DeleteCursorRequest,
    DeleteFenceRequest, GetCursorRequest, GetEpochRequest, GetLimitsRequest, GetLimitsResponse,
    ListCursorsRequest, ListFencesRequest, ListSessionsRequest,
};

pub(super) type Log = LogServiceClient<Limited>;

impl Admin {
    /// Takes over `name`: appends under its older epochs are refused from then on. With `expected`, only if
    /// that is the present epoch; 0 for a name that nobody claimed.
    ///
    /// # Errors
    ///
    /// [`ClientError::EpochDiffers`] if `expected` is not the present epoch; else as [`Self::delete_fence`].
    pub async fn claim_epoch(
        &self,
        name: &str,
        holder: &str,
        expected: Option<u64>,
    ) -> Result<Claim, ClientError> {
        let request = ClaimEpochRequest {
            log: self.log.clone(),
            name: name.to_owned(),
            holder: holder.to_owned(),
            token: Token::random().bytes(),
            expected_epoch: expected,
        };
        let call = |mut log: Log| {
            let request = request.clone();
            async move { log.claim_epoch(request).await }
        };
        let (answer, _) = self.change_named(call).await?;
        Ok(Claim {
            epoch: answer.epoch,
            next_offset: answer.next_offset,
        })
    }

    /// The present epoch of `name` and who holds it; 0 if nobody claimed it.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] or [`ClientError::Stalled`] once the client's timeout is over; a refusal as
    /// its own variant.
    pub async fn epoch(&self, name: &str) -> Result<(u64, String), ClientError> {
        let request = GetEpochRequest {
            name: name.to_owned(),
            ..GetEpochRequest::default()
        };
        let call = |mut log: Log| {
            let request = request.clone();
            async move { log.get_epoch(request).await }
        };
        let answer = self.ask(call).await?;
        Ok((answer.epoch, answer.holder))
    }

    /// All names that were claimed.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] or [`ClientError::Stalled`] once the client's timeout is over; a refusal as
    /// its own variant.
    pub async fn fences(&self) -> Result<Vec<FenceInfo>, ClientError> {
        let call = |mut log: Log, page_token| async move {
            let request = ListFencesRequest {
                page_token,
                ..ListFencesRequest::default()
            };
            log.list_fences(request).await
        };
        let pages = self.all(call, |page| (page.fences, page.next_page_token));
        Ok(pages.await?.into_iter().map(FenceInfo::from).collect())
    }

    /// Forgets a name that was claimed: appends under any of its epochs are refused. False if there was none.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] or [`ClientError::Stalled`] once the client's timeout is over; a refusal as
    /// its own variant; [`ClientError::ChangeInDoubt`] if an earlier try may have made the change and no later
    /// one could tell.
    pub async fn delete_fence(&self, name: &str) -> Result<bool, ClientError> {
        let request = DeleteFenceRequest {
            name: name.to_owned(),
            ..DeleteFenceRequest::default()
        };
        let call = |mut log: Log| {
            let request = request.clone();
            async move { log.delete_fence(request).await }
        };
        let (answer, in_doubt) = self.change_named(call).await?;
        // If there was none, an earlier try may have deleted it, whose answer was lost.
        Ok(answer.deleted || in_doubt)
    }

    /// All sessions that are open.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] or [`ClientError::Stalled`] once the client's timeout is over; a refusal as
    /// its own variant.
    pub async fn sessions(&self) -> Result<Vec<SessionInfo>, ClientError> {
        let call = |mut log: Log, page_token| async move {
            let request = ListSessionsRequest {
                page_token,
                ..ListSessionsRequest::default()
            };
            log.list_sessions(request).await
        };
        let pages = self.all(call, |page| (page.sessions, page.next_page_token));
        Ok(pages.await?.into_iter().map(SessionInfo::from).collect())
    }

    /// Closes anybody's session: what its producer sends from then on is refused.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] or [`ClientError::Stalled`] once the client's timeout is over; a refusal as
    /// its own variant. To close a session again does no harm.
    pub async fn close_session(&self, session: u64) -> Result<(), ClientError> {
        let request = CloseSessionRequest {
            session,
            ..CloseSessionRequest::default()
        };
        let call = |mut log: Log| {
            let request = request.clone();
            async move { log.close_session(request).await }
        };
        self.ask(call).await.map(drop)
    }

    /// Sets a cursor. With `expected`, the call fails unless the cursor stands at that offset.
    ///
    /// # Errors
    ///
    /// [`ClientError::CursorDiffers`] if the cursor does not stand at `expected`; [`ClientError::PastEnd`]
    /// if `offset` lies behind the end of the log; else as [`Self::delete_cursor`]. After a try whose outcome
    /// is not known, a cursor that stands at `offset` is success, whoever put it there. Without `expected` such a try is
    /// the last one, and [`ClientError::ChangeInDoubt`]: if it was given again, one of the two could come late, and take
    /// the cursor back from where the caller put it since.
    pub async fn commit_cursor(
        &self,
        name: &str,
        offset: u64,
        expected: Option<u64>,
    ) -> Result<(), ClientError> {
        self.set_cursor(CommitCursorRequest {
            log: self.log.clone(),
            name: name.to_owned(),
            offset,
            expected_offset: expected,
            create_only: false,
            of_selections: self.of_selections,
        })
        .await
    }

    /// Sets a cursor, only if there is none of this name yet.
    ///
    /// # Errors
    ///
    /// [`ClientError::CursorDiffers`] if there is a cursor of this name; else as [`Self::delete_cursor`].
    pub async fn create_cursor(&self, name: &str, offset: u64) -> Result<(), ClientError> {
        self.set_cursor(CommitCursorRequest {
            log: self.log.clone(),
            name: name.to_owned(),
            offset,
            expected_offset: None,
            create_only: true,
            of_selections: self.of_selections,
        })
        .await
    }

    async fn set_cursor(&self, request: CommitCursorRequest) -> Result<(), ClientError> {
        let mut attempts = Attempts::new(&self.servers, None, self.timeout)?;
        let mut uncertain = false;
        let has_condition = request.create_only || request.expected_offset.is_some();
        loop {
            let limit = SILENCE_MAX.min(self.timeout);
            let mut log = native(limited(self.servers.channel(attempts.server()), limit));
            let Err(status) = within(limit, log.commit_cursor(request.clone())).await else {
                return Ok(());
            };
            if !has_condition && leaves_doubt(&status) {
                return Err(ClientError::in_doubt(&status));
            }
            match attempts.failed(&status).await {
                Ok(()) => uncertain |= leaves_doubt(&status),
                // An earlier try did it, and its answer was lost.
                Err(ClientError::CursorDiffers { current })
                    if uncertain && current == Some(request.offset) =>
                {
                    return Ok(());
                }
                Err(error) => {
                    if let Some(next) = past_end(&status) {
                        let asked = request.offset;
                        return Err(ClientError::PastEnd { asked, next });
                    }
                    return Err(error.after_doubt(uncertain || leaves_doubt(&status)));
                }
            }
        }
    }

    /// Where a cursor stands; `None` if there is none of this name.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] or [`ClientError::Stalled`] once the client's timeout is over; a refusal as
    /// its own variant.
    pub async fn cursor(&self, name: &str) -> Result<Option<CursorInfo>, ClientError> {
        let request = GetCursorRequest {
            log: self.log.clone(),
            name: name.to_owned(),
            of_selections: self.of_selections,
        };
        let call = |mut log: Log| {
            let request = request.clone();
            async move {
                match log.get_cursor(request).await {
                    Err(status) if is_no_such_cursor(&status) => Ok(Response::new(None)),
                    answer => answer.map(|answer| answer.map(|answer| answer.cursor)),
                }
            }
        };
        Ok(self.ask(call).await?.map(CursorInfo::from))
    }

    /// All cursors of the log, by name.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] or [`ClientError::Stalled`] once the client's timeout is over; a refusal as
    /// its own variant.
    pub async fn cursors(&self) -> Result<Vec<CursorInfo>, ClientError> {
        let call = |mut log: Log, page_token| {
            let request = ListCursorsRequest {
                log: self.log.clone(),
                page_size: 0,
                page_token,
                of_selections: self.of_selections,
            };
            async move { log.list_cursors(request).await }
        };
        let pages = self.all(call, |page| (page.cursors, page.next_page_token));
        Ok(pages.await?.into_iter().map(CursorInfo::from).collect())
    }

    /// Removes a cursor; false if there was none of this name.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] or [`ClientError::Stalled`] once the client's timeout is over; a refusal as
    /// its own variant; [`ClientError::ChangeInDoubt`] if an earlier try may have made the change and no later
    /// one could tell.
    pub async fn delete_cursor(&self, name: &str) -> Result<bool, ClientError> {
        let request = DeleteCursorRequest {
            log: self.log.clone(),
            name: name.to_owned(),
            of_selections: self.of_selections,
        };
        let call = |mut log: Log| {
            let request = request.clone();
            async move { log.delete_cursor(request).await }
        };
        let (answer, in_doubt) = self.change_named(call).await?;
        // If there was none, an earlier try may have deleted it, whose answer was lost.
        Ok(answer.deleted || in_doubt)
    }

    /// The limits of the node that answers: sizes, counts, and bytes under way.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] or [`ClientError::Stalled`] once the client's timeout is over; a refusal as
    /// its own variant.
    pub async fn limits(&self) -> Result<GetLimitsResponse, ClientError> {
        let call = |mut log: Log| async move { log.get_limits(GetLimitsRequest {}).await };
        self.ask(call).await
    }

    /// Asks for page after page of a list. `parts` cuts a page into its items and the token of the next page.
    pub(super) async fn all<P, T, F>(
        &self,
        call: impl Fn(Log, String) -> F,
        parts: impl Fn(P) -> (Vec<T>, String),
    ) -> Result<Vec<T>, ClientError>
    where
        F: Future<Output = Result<Response<P>, Status>>,
    {
        let (mut all, mut token) = (Vec::new(), String::new());
        loop {
            let page = self.ask(|log| call(log, token.clone())).await?;
            let (items, next) = parts(page);
            all.extend(items);
            if next.is_empty() {
                return Ok(all);
            }
            token = next;
        }
    }

    /// Asks for something that changes nothing.
    pub(super) async fn ask<T, F>(&self, call: impl Fn(Log) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let call = |channel| call(native(channel));
        self.asked(SILENCE_MAX, call).await
    }

    /// The answer to a change, and whether an earlier try may have made it.
    pub(super) async fn change_named<T, F>(
        &self,
        call: impl Fn(Log) -> F,
    ) -> Result<(T, bool), ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.change_named_again(Again::Always, call).await
    }

    /// The same, given again so long.
    pub(super) async fn change_named_again<T, F>(
        &self,
        again: Again,
        call: impl Fn(Log) -> F,
    ) -> Result<(T, bool), ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let call = |channel| call(native(channel));
        self.changed(SILENCE_MAX, again, call).await
    }
}
