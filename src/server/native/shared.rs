//! Sessions, fences and cursors. Sessions and fences are the cluster's, and belong to no log.
//!
//! A call of them may name a log all the same, which then must be one that its caller may use so. The name of a fence
//! stands in the policy as a log's name does: whoever may `produce` to all that begins with `orders/` may claim
//! `orders/leader`, and depose nobody else's leader. So does the name of a cursor of selections, which belongs to no log,
//! either: any selection can be read on from it.

use tonic::{Request, Status};

use crate::log::{self, LogId, Offset, Position};
use crate::proto::v1::*;
use crate::raft::{self, ClaimEpoch, CommitCursor, ReplicatedLog, SESSION_IDLE_MS_MAX, owner};

use super::{be_current, check_name, secret};
use crate::server::auth::{Action, Actions, On};
use crate::server::pages::{bad_page, page, page_of};
use crate::server::{ApiContext, auth, status};

type Api = ApiContext<ReplicatedLog>;

/// What all producers share; if the call names a log, that one, which must be there.
async fn shared<T: Sync>(
    api: &Api,
    request: &Request<T>,
    log: &str,
    needed: Actions,
) -> Result<ReplicatedLog, Status> {
    let all = api.shared_for(request, needed)?;
    match log {
        "" => Ok(all),
        log => api.log_for(request, log, needed).await,
    }
}

/// The same for what others of all logs have.
async fn cluster<T: Sync>(
    api: &Api,
    request: &Request<T>,
    log: &str,
    needed: Action,
) -> Result<ReplicatedLog, Status> {
    api.cluster_for(request, needed)?;
    shared(api, request, log, needed.into()).await
}

/// The same for one fence.
async fn fence<T: Sync>(
    api: &Api,
    request: &Request<T>,
    (log, name): (&str, &str),
    needed: Action,
) -> Result<ReplicatedLog, Status> {
    api.rights(request).check(needed, On::Fence(name))?;
    shared(api, request, log, needed.into()).await
}

pub async fn open_session(
    api: &Api,
    request: Request<OpenSessionRequest>,
) -> Result<OpenSessionResponse, Status> {
    let log = shared(
        api,
        &request,
        &request.get_ref().log,
        Action::Produce.into(),
    )
    .await?;
    let secret = secret(&request.get_ref().secret)?;
    let session = log.open_session(auth::subject(&request), secret).await;
    Ok(OpenSessionResponse {
        session: session.map_err(|error| status::execute(&error))?,
        idle_ms_max: SESSION_IDLE_MS_MAX,
    })
}

pub async fn close_session(
    api: &Api,
    request: Request<CloseSessionRequest>,
) -> Result<CloseSessionResponse, Status> {
    let close = request.get_ref();
    let owner = if close.secret.is_empty() {
        // A caller without the session's secret closes the session of another client.
        api.cluster_for(&request, Action::Admin)?;
        None
    } else {
        let secret = secret(&close.secret)?;
        Some(owner::of_session(auth::subject(&request), secret))
    };
    let either = [Action::Produce, Action::Admin].into_iter().collect();
    let log = shared(api, &request, &close.log, either).await?;
    let closed = log.close_session(close.session, owner).await;
    closed.map_err(|error| status::execute(&error))?;
    Ok(CloseSessionResponse {})
}

pub async fn list_sessions(
    api: &Api,
    request: Request<ListSessionsRequest>,
) -> Result<ListSessionsResponse, Status> {
    let log = cluster(api, &request, &request.get_ref().log, Action::Admin).await?;
    be_current(&log).await?;
    let request = request.get_ref();
    let after = match &*request.page_token {
        "" => 0,
        token => token.parse().map_err(|_| bad_page())?,
    };
    let size = page(request.page_size);
    let found = log.sessions(after, size + 1);
    let (found, next_page_token) = page_of(found, size, |last| last.id.to_string());
    let session = |session: raft::SessionInfo| Session {
        session: session.id,
        subject: session.subject,
        records: session.records,
        last_used_ms: session.last_used_ms,
    };
    Ok(ListSessionsResponse {
        next_page_token,
        sessions: found.into_iter().map(session).collect(),
    })
}

pub async fn claim_epoch(
    api: &Api,
    request: Request<ClaimEpochRequest>,
) -> Result<ClaimEpochResponse, Status> {
    let log = fence(
        api,
        &request,
        (&request.get_ref().log, &request.get_ref().name),
        Action::Produce,
    )
    .await?;
    let subject = auth::subject(&request).to_owned();
    let request = request.get_ref();
    check_name("what is claimed", &request.name)?;
    check_name("the holder", &request.holder)?;
    let claim = ClaimEpoch {
        name: request.name.clone(),
        holder: request.holder.clone(),
        token: owner::of_claim(&subject, secret(&request.token)?),
        subject: Some(subject),
        expected: request.expected_epoch,
        log: log.id(),
    };
    let claimed = log.claim_epoch(claim).await;
    let claimed = claimed.map_err(|error| status::execute(&error))?;
    Ok(ClaimEpochResponse {
        epoch: claimed.epoch,
        next_offset: claimed.next_offset.0,
    })
}

pub async fn get_epoch(
    api: &Api,
    request: Request<GetEpochRequest>,
) -> Result<GetEpochResponse, Status> {
    let log = fence(
        api,
        &request,
        (&request.get_ref().log, &request.get_ref().name),
        Action::Consume,
    )
    .await?;
    be_current(&log).await?;
    let held = log.epoch(&request.get_ref().name);
    let held = held.unwrap_or_default();
    Ok(GetEpochResponse {
        epoch: held.epoch,
        holder: held.holder,
        subject: held.subject.unwrap_or_default(),
    })
}

pub async fn list_fences(
    api: &Api,
    request: Request<ListFencesRequest>,
) -> Result<ListFencesResponse, Status> {
    let log = cluster(api, &request, &request.get_ref().log, Action::Consume).await?;
    be_current(&log).await?;
    let request = request.get_ref();
    let size = page(request.page_size);
    let found = log.fences(&request.page_token, size + 1);
    let (found, next_page_token) = page_of(found, size, |(name, _)| name.clone());
    let fence = |(name, held): (String, raft::Epoch)| HeldFence {
        name,
        epoch: held.epoch,
        holder: held.holder,
        subject: held.subject.unwrap_or_default(),
    };
    Ok(ListFencesResponse {
        next_page_token,
        fences: found.into_iter().map(fence).collect(),
    })
}

pub async fn delete_fence(
    api: &Api,
    request: Request<DeleteFenceRequest>,
) -> Result<DeleteFenceResponse, Status> {
    let log = cluster(api, &request, &request.get_ref().log, Action::Admin).await?;
    let deleted = log.delete_fence(&request.get_ref().name).await;
    let deleted = deleted.map_err(|error| status::execute(&error))?;
    Ok(DeleteFenceResponse { deleted })
}

/// What has the cursors of selections.
fn of_selections<T>(
    api: &Api,
    request: &Request<T>,
    log: &str,
    needed: Action,
) -> Result<ReplicatedLog, Status> {
    let all = api.shared_for(request, needed)?;
    if !log.is_empty() {
        let what =
            "a cursor of selections belongs to no log: name none, or ask for a cursor of that log";
        return Err(status::invalid(what));
    }
    Ok(all.of(LogId::SEVERAL))
}

/// The same for one of them.
fn of_selections_named<T>(
    api: &Api,
    request: &Request<T>,
    (log, name): (&str, &str),
    needed: Action,
) -> Result<ReplicatedLog, Status> {
    let on = On::Cursor { log: None, name };
    api.rights(request).check(needed, on)?;
    of_selections(api, request, log, needed)
}

/// A cursor, for an answer.
pub fn cursor(name: String, cursor: raft::Cursor) -> Cursor {
    Cursor {
        name,
        offset: cursor.offset.0,
        updated_ms: cursor.updated_ms,
    }
}

pub async fn commit_cursor(
    api: &Api,
    request: Request<CommitCursorRequest>,
) -> Result<CommitCursorResponse, Status> {
    let asked = request.get_ref();
    let of = (&*asked.log, &*asked.name, asked.of_selections);
    let log = cursors_changed(api, &request, of).await?;
    let subject = auth::subject(&request).to_owned();
    let request = request.into_inner();
    check_name("a cursor", &request.name)?;
    if request.of_selections {
        not_ahead(&log, Position(request.offset)).await?;
    }
    let commit = CommitCursor {
        log: log.id(),
        name: request.name,
        subject,
        offset: Offset(request.offset),
        expected: request.expected_offset.map(Offset),
        create_only: request.create_only,
        now_ms: 0,
    };
    let committed = log.commit_cursor(commit).await;
    let committed = committed.map_err(|error| status::execute(&error));
    match request.of_selections {
        true => committed?,
        false => api.as_named(&request.log, committed).await?,
    }
    Ok(CommitCursorResponse {})
}

/// Refuses a position behind the last record of all. One that was reached once is reached for good, so it is looked at
/// here and not where the cursor is set.
async fn not_ahead(log: &ReplicatedLog, asked: Position) -> Result<(), Status> {
    if asked <= log.log().positions().1 {
        return Ok(());
    }
    // This node may lag.
    be_current(log).await?;
    let next = log.log().positions().1;
    match asked <= next {
        true => Ok(()),
        false => Err(status::log(&log::Error::PastEnd { asked, next })),
    }
}

/// What has the cursor that a request changes: of this log, of this name, of selections or not.
async fn cursors_changed<T: Sync>(
    api: &Api,
    request: &Request<T>,
    (log, name, of_selections): (&str, &str, bool),
) -> Result<ReplicatedLog, Status> {
    match of_selections {
        true => of_selections_named(api, request, (log, name), Action::Commit),
        false => {
            let of = (log, name);
            api.log_with_cursor(request, of, Action::Commit).await
        }
    }
}

/// What has cursors, once all that was acknowledged is applied here.
async fn current(all: ReplicatedLog) -> Result<ReplicatedLog, Status> {
    be_current(&all).await?;
    Ok(all)
}

pub async fn get_cursor(
    api: &Api,
    request: Request<GetCursorRequest>,
) -> Result<GetCursorResponse, Status> {
    let asked = request.get_ref();
    let of = (&*asked.log, &*asked.name);
    let log = match asked.of_selections {
        true => current(of_selections_named(api, &request, of, Action::Consume)?).await?,
        false => {
            let log = api.current_log_with_cursor(&request, of, Action::Consume);
            log.await?
        }
    };
    let name = request.into_inner().name;
    let found = log.cursor(&name);
    let found = found.ok_or_else(|| status::no_such_cursor(&name))?;
    Ok(GetCursorResponse {
        cursor: Some(cursor(name, found)),
    })
}

pub async fn list_cursors(
    api: &Api,
    request: Request<ListCursorsRequest>,
) -> Result<ListCursorsResponse, Status> {
    let asked = request.get_ref();
    let log = match asked.of_selections {
        true => current(of_selections(api, &request, &asked.log, Action::Consume)?).await?,
        false => {
            let log = api.current_log_for(&request, &asked.log, Action::Consume);
            log.await?
        }
    };
    let rights = api.rights(&request);
    let size = page(asked.page_size);
    let found = log.cursors(&asked.page_token, size + 1);
    let (mut found, next_page_token) = page_of(found, size, |(name, _)| name.clone());
    if asked.of_selections {
        found.retain(|(name, _)| rights.may_on(Action::Consume, On::Cursor { log: None, name }));
    }
    Ok(ListCursorsResponse {
        next_page_token,
        cursors: found
            .into_iter()
            .map(|(name, found)| cursor(name, found))
            .collect(),
    })
}

pub async fn delete_cursor(
    api: &Api,
    request: Request<DeleteCursorRequest>,
) -> Result<DeleteCursorResponse, Status> {
    let asked = request.get_ref();
    let of = (&*asked.log, &*asked.name, asked.of_selections);
    let log = cursors_changed(api, &request, of).await?;
    let deleted = log.delete_cursor(&asked.name).await;
    let deleted = deleted.map_err(|error| status::execute(&error));
    let deleted = match asked.of_selections {
        true => deleted?,
        false => api.as_named(&asked.log, deleted).await?,
    };
    Ok(DeleteCursorResponse { deleted })
}
