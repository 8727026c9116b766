//! `ferrolog.v1.LogService`: the native API, verb by verb.

use std::sync::Arc;

use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use crate::name::{self, NAME_BYTES_MAX, Shown};
use crate::net::budget::{ANSWERS, Accounts};
use crate::proto::v1::log_service_server::LogService;
use crate::proto::v1::*;
use crate::raft::{CURSORS_MAX, FENCES_MAX, OF_SUBJECT_MAX, ReplicatedLog, SESSIONS_MAX};

use super::answers::UNREAD_MAX;
use super::answers::telling;
use super::api_context::with_id;
use super::auth::{Action, Actions};
use super::limits::{
    ANSWER_BYTES_MAX, BATCH_RECORDS_MAX, HEADER_BYTES_MAX, HEADERS_MAX, KEY_BYTES_MAX,
    MANY_BATCHES_MAX,
};
use super::{ApiContext, accounts, auth, deadline, status};

mod batches;
pub mod cluster;
mod consume;
mod logs;
mod many;
mod position;
mod produce;
mod selection;
mod shared;
mod tail;
mod watch;

pub use consume::freshness;

/// The verbs, which only a replicated log has.
pub struct Native(pub Arc<ApiContext<ReplicatedLog>>);

impl Native {
    /// A list, which counts until its client takes it.
    fn listed<T: Message>(
        &self,
        accounts: Option<Accounts>,
        list: T,
    ) -> Result<Response<T>, Status> {
        let held = accounts.map(|accounts| accounts.answers.try_take(list.encoded_len()));
        let held = held.transpose().map_err(|full| status::in_flight(&full))?;
        let mut response = Response::new(list);
        self.0.unread.put_out(&mut response, held);
        Ok(response)
    }
}

/// A name of a cursor, a fence or a holder.
fn check_name(what: &str, name: &str) -> Result<(), Status> {
    name::check(name).map_err(|bad| status::invalid(format!("{what}: {bad}, not {}", Shown(name))))
}

/// A secret of a session, or the token of a claim.
fn secret(bytes: &[u8]) -> Result<u128, Status> {
    let bytes = bytes.try_into();
    let bytes = bytes.map_err(|_| status::invalid("a secret or a token is 16 random bytes"))?;
    Ok(u128::from_be_bytes(bytes))
}

/// A read of the replicated state must see what was acknowledged.
pub(super) async fn be_current(log: &ReplicatedLog) -> Result<(), Status> {
    let passed = log.read_barrier().await;
    passed.map_err(|error| status::read(&error))
}

#[tonic::async_trait]
impl LogService for Native {
    type ProduceStreamStream = produce::Answers;
    type ConsumeStreamStream = tail::Answers;
    type WatchLogsStream = telling::Answers<WatchLogsResponse>;

    async fn create_log(
        &self,
        request: Request<CreateLogRequest>,
    ) -> Result<Response<CreateLogResponse>, Status> {
        let log = self
            .0
            .catalogue_for(&request, &request.get_ref().name, Action::Admin)?;
        let subject = auth::subject(&request).to_owned();
        let made = logs::create(&log, &subject, &self.0.limits, request.into_inner()).await?;
        Ok(Response::new(CreateLogResponse { log: Some(made) }))
    }

    async fn get_log(
        &self,
        request: Request<GetLogRequest>,
    ) -> Result<Response<GetLogResponse>, Status> {
        let log = self
            .0
            .log_for(&request, &request.get_ref().name, Actions::ANY)
            .await?;
        let described = logs::describe(&log).await;
        let name = &request.get_ref().name;
        let told = self.0.as_named(name, described).await?;
        let told = logs::with_cursor(&log, &self.0.rights(&request), told);
        let told = logs::with_stored(&self.0, &log, vec![told]).await?.pop();
        Ok(Response::new(GetLogResponse { log: told }))
    }

    async fn list_logs(
        &self,
        request: Request<ListLogsRequest>,
    ) -> Result<Response<ListLogsResponse>, Status> {
        let log = self.0.shared_for(&request, Actions::ANY)?;
        let rights = self.0.rights(&request);
        let listed = logs::list(&self.0, &log, &rights, request.get_ref()).await;
        self.listed(accounts(&request), listed?)
    }

    async fn watch_logs(
        &self,
        request: Request<WatchLogsRequest>,
    ) -> Result<Response<Self::WatchLogsStream>, Status> {
        let (answers, outbox) = watch::stream(self.0.clone(), request)?;
        let mut response = Response::new(answers);
        response.extensions_mut().insert(outbox);
        Ok(response)
    }

    async fn update_log(
        &self,
        request: Request<UpdateLogRequest>,
    ) -> Result<Response<UpdateLogResponse>, Status> {
        let log = self
            .0
            .log_for(&request, &request.get_ref().name, Action::Admin)
            .await?;
        let name = request.get_ref().name.clone();
        let updated = logs::update(&log, &self.0.limits, request.into_inner()).await;
        let log = Some(self.0.as_named(&name, updated).await?);
        Ok(Response::new(UpdateLogResponse { log }))
    }

    async fn delete_log(
        &self,
        request: Request<DeleteLogRequest>,
    ) -> Result<Response<DeleteLogResponse>, Status> {
        let log = self
            .0
            .catalogue_for(&request, &request.get_ref().name, Action::Admin)?;
        let deleted = logs::delete(&log, request.into_inner()).await?;
        Ok(Response::new(DeleteLogResponse { deleted }))
    }

    async fn compact_log(
        &self,
        request: Request<CompactLogRequest>,
    ) -> Result<Response<CompactLogResponse>, Status> {
        let name = &request.get_ref().name;
        let log = self.0.log_for(&request, name, Action::Admin).await?;
        logs::compact(&log, name).await?;
        Ok(Response::new(CompactLogResponse {}))
    }

    async fn produce(
        &self,
        request: Request<ProduceRequest>,
    ) -> Result<Response<ProduceResponse>, Status> {
        let (rights, until) = (self.0.rights(&request), deadline::of(&request));
        let (to, id) = (request.get_ref().log.clone(), request.get_ref().log_id);
        let log = self.0.log_to(&rights, (&to, id), until).await?;
        let answer = produce::one(&self.0, &log, request).await;
        self.0.as_named(&to, answer).await.map(Response::new)
    }

    async fn produce_many(
        &self,
        request: Request<ProduceManyRequest>,
    ) -> Result<Response<ProduceManyResponse>, Status> {
        many::produce(&self.0, request).await.map(Response::new)
    }

    async fn produce_stream(
        &self,
        request: Request<Streaming<ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        self.0.started()?;
        Ok(Response::new(produce::stream(self.0.clone(), request)))
    }

    async fn open_session(
        &self,
        request: Request<OpenSessionRequest>,
    ) -> Result<Response<OpenSessionResponse>, Status> {
        shared::open_session(&self.0, request)
            .await
            .map(Response::new)
    }

    async fn close_session(
        &self,
        request: Request<CloseSessionRequest>,
    ) -> Result<Response<CloseSessionResponse>, Status> {
        shared::close_session(&self.0, request)
            .await
            .map(Response::new)
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let accounts = accounts(&request);
        self.listed(accounts, shared::list_sessions(&self.0, request).await?)
    }

    async fn claim_epoch(
        &self,
        request: Request<ClaimEpochRequest>,
    ) -> Result<Response<ClaimEpochResponse>, Status> {
        shared::claim_epoch(&self.0, request)
            .await
            .map(Response::new)
    }

    async fn get_epoch(
        &self,
        request: Request<GetEpochRequest>,
    ) -> Result<Response<GetEpochResponse>, Status> {
        shared::get_epoch(&self.0, request).await.map(Response::new)
    }

    async fn list_fences(
        &self,
        request: Request<ListFencesRequest>,
    ) -> Result<Response<ListFencesResponse>, Status> {
        let accounts = accounts(&request);
        self.listed(accounts, shared::list_fences(&self.0, request).await?)
    }

    async fn delete_fence(
        &self,
        request: Request<DeleteFenceRequest>,
    ) -> Result<Response<DeleteFenceResponse>, Status> {
        shared::delete_fence(&self.0, request)
            .await
            .map(Response::new)
    }

    async fn consume(
        &self,
        request: Request<ConsumeRequest>,
    ) -> Result<Response<ConsumeResponse>, Status> {
        let (name, id) = (request.get_ref().log.clone(), request.get_ref().log_id);
        let log = self.0.log_for(&request, &name, Action::Consume).await?;
        let log = with_id(log, &name, id).await?;
        let read = consume::range(&self.0, &log, request).await;
        let (answer, held) = self.0.as_named(&name, read).await?;
        let mut response = Response::new(answer);
        self.0.unread.put_out(&mut response, held);
        Ok(response)
    }

    async fn consume_stream(
        &self,
        request: Request<Streaming<ConsumeStreamRequest>>,
    ) -> Result<Response<Self::ConsumeStreamStream>, Status> {
        self.0.started()?;
        let (answers, outbox) = tail::stream(self.0.clone(), request);
        let mut response = Response::new(answers);
        response.extensions_mut().insert(outbox);
        Ok(response)
    }

    async fn commit_cursor(
        &self,
        request: Request<CommitCursorRequest>,
    ) -> Result<Response<CommitCursorResponse>, Status> {
        shared::commit_cursor(&self.0, request)
            .await
            .map(Response::new)
    }

    async fn get_cursor(
        &self,
        request: Request<GetCursorRequest>,
    ) -> Result<Response<GetCursorResponse>, Status> {
        shared::get_cursor(&self.0, request)
            .await
            .map(Response::new)
    }

    async fn list_cursors(
        &self,
        request: Request<ListCursorsRequest>,
    ) -> Result<Response<ListCursorsResponse>, Status> {
        let accounts = accounts(&request);
        self.listed(accounts, shared::list_cursors(&self.0, request).await?)
    }

    async fn delete_cursor(
        &self,
        request: Request<DeleteCursorRequest>,
    ) -> Result<Response<DeleteCursorResponse>, Status> {
        shared::delete_cursor(&self.0, request)
            .await
            .map(Response::new)
    }

    async fn get_limits(
        &self,
        _request: Request<GetLimitsRequest>,
    ) -> Result<Response<GetLimitsResponse>, Status> {
        let limits = &self.0.limits;
        Ok(Response::new(GetLimitsResponse {
            record_bytes_max: limits.record_bytes_max as u64,
            batch_bytes_max: limits.native_bytes_max() as u64,
            batch_decompressed_bytes_max: limits.decompressed_bytes_max() as u64,
            batch_records_max: BATCH_RECORDS_MAX,
            key_bytes_max: KEY_BYTES_MAX as u32,
            headers_max: HEADERS_MAX as u32,
            header_bytes_max: HEADER_BYTES_MAX as u32,
            name_bytes_max: NAME_BYTES_MAX as u32,
            streams_per_connection_max: limits.streams_per_connection_max,
            stream_bytes_in_flight_max: produce::STREAM_BYTES_MAX as u64,
            connection_bytes_in_flight_max: limits.bytes.connection_bytes_max as u64,
            node_bytes_in_flight_max: limits.bytes.node_bytes_max as u64,
            stream_batches_in_flight_max: produce::STREAM_BATCHES_MAX as u32,
            read_bytes_max: consume::READ_BYTES_MAX as u64,
            sessions_max: SESSIONS_MAX as u32,
            cursors_max: CURSORS_MAX as u32,
            fences_max: FENCES_MAX as u32,
            logs_max: limits.logs_max.get(),
            of_subject_max: OF_SUBJECT_MAX as u32,
            message_bytes_max: limits.message_bytes_max() as u64,
            subject_bytes_in_flight_max: limits.bytes.subject_bytes_max as u64,
            answer_bytes_max: ANSWER_BYTES_MAX as u64,
            connection_answer_bytes_max: ANSWERS.connection_bytes_max as u64,
            subject_answer_bytes_max: ANSWERS.subject_bytes_max as u64,
            node_answer_bytes_max: ANSWERS.node_bytes_max as u64,
            answer_not_taken_ms_max: UNREAD_MAX.as_millis() as u64,
            many_batches_max: MANY_BATCHES_MAX as u32,
            labels_max: logs::LABELS_MAX as u32,
            labels_bytes_max: logs::LABELS_BYTES_MAX as u32,
        }))
    }
}
