//! `log.v1.Log`: the API that the original's clients speak, verb by verb.

mod consume;
mod produce;

use std::sync::Arc;

use tonic::{Request, Response, Status, Streaming};

use crate::log::Offset;
use crate::name;
use crate::proto::log_v1::log_server;
use crate::proto::log_v1::{
    ConsumeRequest, ConsumeResponse, GetServersRequest, GetServersResponse, ProduceRequest,
    ProduceResponse, Record, Server,
};
use crate::raft::Demands;
use crate::reason::Reason;

use super::auth::Action;
use super::{ApiContext, CommitLog, Limits, accounts, status};
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
        let log = consume::log(&self.0, &request).await?;
        let offset = Offset(request.get_ref().offset);
        let accounts = accounts(&request);
        let read = consume::read(&self.0, &log, accounts.as_ref(), offset, 1);
        let (mut records, held) = read.await?;
        let record = records.pop_front().ok_or_else(status::draining)?;
        let mut response = Response::new(consume::response(record));
        self.0.unread.put_out(&mut response, held);
        Ok(response)
    }

    async fn consume_stream(
        &self,
        request: Request<ConsumeRequest>,
    ) -> Result<Response<Self::ConsumeStreamStream>, Status> {
        let log = consume::log(&self.0, &request).await?;
        let (first, next) = log.log().offsets(log.id());
        let offset = Offset(request.get_ref().offset);
        let outbox = self.0.unread.outbox();
        let accounts = accounts(&request);
        let stream = ConsumeStream::new(self.0.clone(), log, accounts, outbox.clone(), offset);
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
        let stream = produce::stream(self.0.clone(), request).await?;
        Ok(Response::new(stream))
    }

    async fn get_servers(
        &self,
        request: Request<GetServersRequest>,
    ) -> Result<Response<GetServersResponse>, Status> {
        let view = self.0.shared_for(&request, Action::Consume)?.view();
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

/// Request metadata: the name of the log that a call is about. Without it that is the default log.
const LOG: &str = "ferrolog-log";
/// The same for a name that is not plain ASCII.
const LOG_BIN: &str = "ferrolog-log-bin";

/// The log that a call is about; empty for the default one.
fn log_name<T>(request: &Request<T>) -> Result<String, Status> {
    let metadata = request.metadata();
    let plain = metadata.get_all(LOG).iter();
    let plain = plain.map(|value| Some(value.as_bytes().to_vec()));
    let encoded = metadata.get_all_bin(LOG_BIN).iter();
    let encoded = encoded.map(|value| value.to_bytes().ok().map(|bytes| bytes.to_vec()));
    let given: Vec<_> = plain.chain(encoded).take(2).collect();
    let name = match given.into_iter().collect::<Option<Vec<_>>>() {
        Some(none) if none.is_empty() => return Ok(String::new()),
        Some(mut given) if given.len() == 1 => String::from_utf8(given.remove(0)).ok(),
        Some(_) | None => None,
    };
    let name = name.filter(|name| name::check(name).is_ok());
    name.ok_or_else(|| {
        status::invalid(format!(
            "the metadata {LOG}, or {LOG_BIN} for what is not ASCII, is given once and is the name of a log"
        ))
    })
}

/// The record of a request, if it has one that the log takes. It bears no time of the client's.
pub fn record(
    request: ProduceRequest,
    limits: &Limits,
    demands: Demands,
) -> Result<Record, Status> {
    let record = request
        .record
        .ok_or_else(|| status::invalid("the request has no record"))?;
    let (bytes, limit) = (record.value.len(), limits.record_bytes_max);
    if bytes > limit {
        return Err(status::too_large(bytes, limit));
    }
    let own = limits.record_bytes_of(demands);
    if bytes > own {
        return Err(status::too_large_for_log(bytes, own));
    }
    if demands.timestamps_required {
        return Err(timestamp_required());
    }
    if demands.keys_required {
        return Err(key_required());
    }
    Ok(record)
}

/// The log asks for a time of the client's, and the record has none.
fn timestamp_required() -> Status {
    let message = "the log asks for the client's own time with each record: `log.v1` has none, `ferrolog.v1` has \
                   `client_timestamp_ms`";
    Reason::TimestampRequired.status(message)
}

/// The log is compacted by key, and the record has none.
fn key_required() -> Status {
    let message = "the log is compacted by key, so each record needs one: `log.v1` has none, `ferrolog.v1` has `key`";
    Reason::KeyRequired.status(message)
}
