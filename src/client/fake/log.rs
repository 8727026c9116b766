//! The log service of the fake servers: dedups by session, heeds conditions and credit, and follows the plans.

use std::collections::BTreeSet;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};

use super::server::{Came, Fake, Plan, refusal};
use crate::proto::v1::log_service_server::LogService;
use crate::proto::v1::*;

type Answers<T> = BoxStream<'static, Result<T, Status>>;
type Answer<T> = Result<Response<T>, Status>;

impl Fake {
    fn plan(&self) -> Plan {
        let mut state = self.state.lock().unwrap();
        state.plans.pop_front().unwrap_or(Plan::Work)
    }

    fn take(&self, request: ProduceRequest) -> Result<ProduceResponse, Status> {
        let mut state = self.state.lock().unwrap();
        state.came.push(Came {
            server: self.addr.clone(),
            session: request.session.clone(),
            batch: request.batch.clone().unwrap(),
        });
        state.store(request)
    }

    /// Does as asked, or refuses if that is the plan.
    fn refusing<T>(&self, work: impl FnOnce() -> T) -> Answer<T> {
        match self.plan() {
            Plan::Refuse(status) => Err(status),
            _ => Ok(Response::new(work())),
        }
    }

    /// What follows the first answer of a consume stream from here on, as far as credit goes.
    fn told(
        self,
        requests: Streaming<ConsumeStreamRequest>,
        begin: u64,
    ) -> impl Stream<Item = Result<ConsumeStreamResponse, Status>> {
        let state = self.state.lock().unwrap();
        let batches = state.batches.clone().into_iter();
        let shift = state.shift;
        drop(state);
        let batches = batches.filter(move |batch| batch.first_offset >= begin);
        let begin = (self, requests, 0i64, batches);
        stream::unfold(
            begin,
            move |(fake, mut requests, mut credit, mut batches)| async move {
                let Some(mut batch) = batches.next() else {
                    // At the tail: for as long as the client stays.
                    while let Some(Ok(request)) = requests.next().await {
                        fake.state.lock().unwrap().granted_bytes += request.credit_bytes;
                    }
                    return None;
                };
                while credit <= 0 {
                    let granted = requests.next().await?.ok()?.credit_bytes;
                    credit += granted as i64;
                    fake.state.lock().unwrap().granted_bytes += granted;
                }
                let held = batch.batch.as_ref().unwrap();
                let (bytes, count) = (held.records.len() as u64, u64::from(held.count));
                credit -= bytes as i64;
                fake.state.lock().unwrap().told_bytes += bytes;
                batch.first_offset += shift;
                let answer = ConsumeStreamResponse {
                    next_offset: batch.first_offset + count,
                    batches: vec![batch],
                    ..ConsumeStreamResponse::default()
                };
                Some((Ok(answer), (fake, requests, credit, batches)))
            },
        )
    }

    fn begin(&self, start: &ConsumeStreamStart) -> Result<u64, Status> {
        use start::At;
        let state = self.state.lock().unwrap();
        let next = state.next_offset;
        Ok(match start.start.clone().unwrap().at.unwrap() {
            At::Edge(edge) if edge == i32::from(Edge::Latest) => next,
            At::Edge(_) | At::TimestampMs(_) => 0,
            At::Offset(offset) => offset,
            At::Tail(count) => next.saturating_sub(count),
            At::Cursor(name) => match state.cursors.get(&name) {
                Some(offset) => *offset,
                None => return Err(refusal(Code::NotFound, "NO_SUCH_CURSOR", &[])),
            },
        })
    }
}

#[tonic::async_trait]
impl LogService for Fake {
    type ConsumeStreamStream = Answers<ConsumeStreamResponse>;
    type ProduceStreamStream = Answers<ProduceStreamResponse>;

    async fn produce(&self, request: Request<ProduceRequest>) -> Answer<ProduceResponse> {
        let plan = self.plan();
        self.state.lock().unwrap().produced.push(self.addr.clone());
        if let Plan::Refuse(status) = plan {
            return Err(status);
        }
        let answer = self.take(request.into_inner())?;
        match plan {
            Plan::Silence => std::future::pending().await,
            Plan::Break { status, .. } => Err(status),
            _ => Ok(Response::new(answer)),
        }
    }

    async fn produce_stream(
        &self,
        request: Request<Streaming<ProduceStreamRequest>>,
    ) -> Answer<Self::ProduceStreamStream> {
        let plan = self.plan();
        let credit = {
            let mut state = self.state.lock().unwrap();
            state.produced.push(self.addr.clone());
            state.credit.unwrap_or((4 << 20, 64))
        };
        let first = Ok(ProduceStreamResponse {
            credit_bytes: credit.0,
            credit_batches: credit.1,
            ack: None,
        });
        let fake = self.clone();
        let stored = request.into_inner().map(move |request| {
            let ack = Some(fake.take(request?.produce.unwrap())?);
            Ok(ProduceStreamResponse {
                ack,
                ..ProduceStreamResponse::default()
            })
        });
        let first = stream::once(async { first });
        Ok(Response::new(match plan {
            Plan::Refuse(status) => return Err(status),
            Plan::Work => first.chain(stored).boxed(),
            Plan::Silence => {
                let none = stored.filter(|_| futures::future::ready(false));
                first.chain(none).boxed()
            }
            Plan::Break {
                stored: count,
                answered,
                status,
            } => {
                let answers = stored.take(count).enumerate();
                let answers = answers.filter_map(move |(place, answer)| {
                    futures::future::ready((place < answered).then_some(answer))
                });
                let last = stream::once(async { Err(status) });
                first.chain(answers).chain(last).boxed()
            }
        }))
    }

    async fn open_session(
        &self,
        request: Request<OpenSessionRequest>,
    ) -> Answer<OpenSessionResponse> {
        let token = request.into_inner().secret;
        assert_eq!(token.len(), 16);
        let mut state = self.state.lock().unwrap();
        let fresh = state.tokens.len() as u64 + 100;
        let session = *state.tokens.entry(token).or_insert(fresh);
        state.sessions.entry(session).or_default();
        Ok(Response::new(OpenSessionResponse {
            session,
            idle_ms_max: 1000,
        }))
    }

    async fn close_session(
        &self,
        request: Request<CloseSessionRequest>,
    ) -> Answer<CloseSessionResponse> {
        let session = request.into_inner().session;
        self.state.lock().unwrap().closed_sessions.push(session);
        Ok(Response::new(CloseSessionResponse {}))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Answer<ListSessionsResponse> {
        // One a page.
        let after: u64 = request.into_inner().page_token.parse().unwrap_or(0);
        let state = self.state.lock().unwrap();
        let ids: BTreeSet<u64> = state.sessions.keys().copied().collect();
        let mut left = ids.range(after + 1..);
        let session = left.next().map(|session| Session {
            session: *session,
            subject: "me".to_owned(),
            records: 3,
            last_used_ms: 9,
        });
        let next_page_token = match (&session, left.next()) {
            (Some(session), Some(_)) => session.session.to_string(),
            _ => String::new(),
        };
        Ok(Response::new(ListSessionsResponse {
            sessions: session.into_iter().collect(),
            next_page_token,
        }))
    }

    async fn claim_epoch(&self, request: Request<ClaimEpochRequest>) -> Answer<ClaimEpochResponse> {
        let request = request.into_inner();
        let mut state = self.state.lock().unwrap();
        let next_offset = state.next_offset;
        let (epoch, holder) = state.epochs.entry(request.name).or_default();
        if request
            .expected_epoch
            .is_some_and(|expected| expected != *epoch)
        {
            let metadata = [("epoch", &*epoch.to_string())];
            return Err(refusal(Code::Aborted, "EPOCH_DIFFERS", &metadata));
        }
        (*epoch, *holder) = (*epoch + 1, request.holder);
        let epoch = *epoch;
        Ok(Response::new(ClaimEpochResponse { epoch, next_offset }))
    }

    async fn get_epoch(&self, request: Request<GetEpochRequest>) -> Answer<GetEpochResponse> {
        let state = self.state.lock().unwrap();
        let held = state.epochs.get(&request.get_ref().name).cloned();
        let (epoch, holder) = held.unwrap_or_default();
        Ok(Response::new(GetEpochResponse {
            epoch,
            holder,
            subject: "me".to_owned(),
        }))
    }

    async fn list_fences(&self, request: Request<ListFencesRequest>) -> Answer<ListFencesResponse> {
        // One a page.
        let token = request.into_inner().page_token;
        let state = self.state.lock().unwrap();
        let mut left = state.epochs.iter().filter(|(name, _)| **name > token);
        let fence = left.next().map(|(name, (epoch, holder))| HeldFence {
            name: name.clone(),
            epoch: *epoch,
            holder: holder.clone(),
            subject: "me".to_owned(),
        });
        let next_page_token = match (&fence, left.next()) {
            (Some(fence), Some(_)) => fence.name.clone(),
            _ => String::new(),
        };
        Ok(Response::new(ListFencesResponse {
            fences: fence.into_iter().collect(),
            next_page_token,
        }))
    }

    async fn delete_fence(
        &self,
        request: Request<DeleteFenceRequest>,
    ) -> Answer<DeleteFenceResponse> {
        let plan = self.plan();
        let name = request.into_inner().name;
        let deleted = self.state.lock().unwrap().epochs.remove(&name).is_some();
        match plan {
            Plan::Break { status, .. } => Err(status),
            _ => Ok(Response::new(DeleteFenceResponse { deleted })),
        }
    }

    async fn consume(&self, _: Request<ConsumeRequest>) -> Answer<ConsumeResponse> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn consume_stream(
        &self,
        request: Request<Streaming<ConsumeStreamRequest>>,
    ) -> Answer<Self::ConsumeStreamStream> {
        let mut requests = request.into_inner();
        let start = requests.message().await?.unwrap().start.unwrap();
        let plan = self.plan();
        let applied = {
            let mut state = self.state.lock().unwrap();
            state.consumed.push((self.addr.clone(), start.clone()));
            state.next_offset
        };
        let begin = self.begin(&start)?;
        let first = Ok(ConsumeStreamResponse {
            next_offset: begin,
            freshness: Some(Freshness {
                node: self.addr.clone(),
                applied_offset: applied,
                leader_commit_offset: applied,
                staleness_ms: Some(3),
                held_offset: applied,
            }),
            ..ConsumeStreamResponse::default()
        });
        let answers = self.clone().told(requests, begin);
        let first = stream::once(async { first });
        Ok(Response::new(match plan {
            Plan::Refuse(status) => return Err(status),
            Plan::Work => first.chain(answers).boxed(),
            Plan::Silence => stream::pending().boxed(),
            Plan::Break {
                answered, status, ..
            } => {
                let last = stream::once(async { Err(status) });
                first.chain(answers.take(answered)).chain(last).boxed()
            }
        }))
    }

    async fn commit_cursor(
        &self,
        request: Request<CommitCursorRequest>,
    ) -> Answer<CommitCursorResponse> {
        let request = request.into_inner();
        let plan = self.plan();
        if let Plan::Refuse(status) = plan {
            return Err(status);
        }
        let mut state = self.state.lock().unwrap();
        let at = state.cursors.get(&request.name).copied();
        let differs = request.expected_offset.is_some() && request.expected_offset != at;
        if differs || (request.create_only && at.is_some()) {
            let at = at.map(|at| at.to_string());
            let metadata: Vec<_> = at.iter().map(|at| ("offset", at.as_str())).collect();
            return Err(refusal(Code::Aborted, "CURSOR_DIFFERS", &metadata));
        }
        state.cursors.insert(request.name, request.offset);
        match plan {
            Plan::Break { status, .. } => Err(status),
            _ => Ok(Response::new(CommitCursorResponse {})),
        }
    }

    async fn get_cursor(&self, request: Request<GetCursorRequest>) -> Answer<GetCursorResponse> {
        let name = request.into_inner().name;
        let state = self.state.lock().unwrap();
        let Some(&offset) = state.cursors.get(&name) else {
            return Err(refusal(Code::NotFound, "NO_SUCH_CURSOR", &[]));
        };
        let cursor = Some(Cursor {
            name,
            offset,
            updated_ms: 9,
        });
        Ok(Response::new(GetCursorResponse { cursor }))
    }

    async fn list_cursors(
        &self,
        request: Request<ListCursorsRequest>,
    ) -> Answer<ListCursorsResponse> {
        // One a page.
        let token = request.into_inner().page_token;
        let state = self.state.lock().unwrap();
        let mut left = state.cursors.iter().filter(|(name, _)| **name > token);
        let cursors = left.next().map(|(name, &offset)| Cursor {
            name: name.clone(),
            offset,
            updated_ms: 9,
        });
        let next_page_token = match (&cursors, left.next()) {
            (Some(cursor), Some(_)) => cursor.name.clone(),
            _ => String::new(),
        };
        Ok(Response::new(ListCursorsResponse {
            cursors: cursors.into_iter().collect(),
            next_page_token,
        }))
    }

    async fn delete_cursor(
        &self,
        request: Request<DeleteCursorRequest>,
    ) -> Answer<DeleteCursorResponse> {
        let plan = self.plan();
        let name = request.into_inner().name;
        let deleted = self.state.lock().unwrap().cursors.remove(&name).is_some();
        match plan {
            Plan::Break { status, .. } => Err(status),
            _ => Ok(Response::new(DeleteCursorResponse { deleted })),
        }
    }

    async fn get_limits(&self, _: Request<GetLimitsRequest>) -> Answer<GetLimitsResponse> {
        self.refusing(|| GetLimitsResponse {
            batch_records_max: 1000,
            ..GetLimitsResponse::default()
        })
    }
}
