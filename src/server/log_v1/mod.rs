//! `log.v1.Log`: the API that the original's clients speak, verb by verb.

mod consume;
mod produce;

use std::sync::Arc;

use tonic::{Request, Response, Status, Streaming};

use crate::log::{LogId, Offset};
use crate::proto::log_v1::log_server;
use crate::proto::log_v1::{
    ConsumeRequest, ConsumeResponse, GetServersRequest, GetServersResponse, ProduceRequest,
    ProduceResponse, Record, Server,
};

use super::{ApiContext, CommitLog, accounts, deadline, status};
use consume::ConsumeStream;

/// The verbs, over any log.
pub struct LogV1<L>(pub Arc<ApiContext<L>>);

#[tonic::async_trait]
impl<L: CommitLog> log_server::Log for LogV1<L> {
    type ConsumeStreamStream = ConsumeStream<L>;
    type ProduceStreamStream = produce::Answers;

    async fn produce(
        &self,
        request: Request<ProduceRequest>,
    ) -> Result<Response<ProduceResponse>, Status> {
        let offset = produce::one(&self.0, request).await?;
        Ok(Response::new(ProduceResponse { offset: offset.0 }))
    }

    async fn consume(
        &self,
        request: Request<ConsumeRequest>,
    ) -> Result<Response<ConsumeResponse>, Status> {
        let log = self.0.log()?;
        if consume::is_strong(request.metadata())? {
            log.read_barrier(deadline::of(&request))
                .await
                .map_err(|error| status::read(&error))?;
        }
        let offset = Offset(request.get_ref().offset);
        let accounts = accounts(&request);
        let (mut records, held) = consume::read(&self.0, accounts.as_ref(), offset, 1).await?;
        let record = records.pop_front().ok_or_else(status::draining)?;
        let mut response = Response::new(consume::response(record));
        self.0.unread.put_out(&mut response, held);
        Ok(response)
    }

    async fn consume_stream(
        &self,
        request: Request<ConsumeRequest>,
    ) -> Result<Response<Self::ConsumeStreamStream>, Status> {
        let log = self.0.log()?;
        if consume::is_strong(request.metadata())? {
            log.read_barrier(deadline::of(&request))
                .await
                .map_err(|error| status::read(&error))?;
        }
        let (first, next) = log.log().offsets(LogId::DEFAULT);
        let offset = Offset(request.get_ref().offset);
        let outbox = self.0.unread.outbox();
        let accounts = accounts(&request);
        let stream = ConsumeStream::new(self.0.clone(), accounts, outbox.clone(), offset)?;
        let mut response = Response::new(stream);
        response.extensions_mut().insert(outbox);
        let metadata = response.metadata_mut();
        metadata.insert(consume::FIRST_OFFSET, first.0.into());
        metadata.insert(consume::NEXT_OFFSET, next.0.into());
        Ok(response)
    }

    async fn produce_stream(
        &self,
        request: Request<Streaming<ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        self.0.log()?;
        let stream = produce::stream(self.0.clone(), request)?;
        Ok(Response::new(stream))
    }

    async fn get_servers(
        &self,
        _request: Request<GetServersRequest>,
    ) -> Result<Response<GetServersResponse>, Status> {
        let view = self.0.log()?.view();
        let servers = view.members.iter().map(|known| Server {
            id: known.member.name.clone(),
            rpc_addr: known.member.addr.clone(),
            is_leader: view.leader == Some(known.id),
        });
        Ok(Response::new(GetServersResponse {
            servers: servers.collect(),
        }))
    }
}

/// The record of a request, if it has one within the limit.
pub fn record(request: ProduceRequest, limit: usize) -> Result<Record, Status> {
    let record = request
        .record
        .ok_or_else(|| status::invalid("the request has no record"))?;
    if record.value.len() > limit {
        return Err(status::too_large(record.value.len(), limit));
    }
    Ok(record)
}
