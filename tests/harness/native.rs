//! Raw calls of `ferrolog.v1`, by the generated stubs alone: batches in and out, whole logs, reasons of errors.

use std::time::Duration;

use bytes::Bytes;
use ferrolog::net::Kind;
use ferrolog::net::stream_layer::{ChannelOptions, StreamLayer};
use ferrolog::proto::v1::log_service_client::LogServiceClient;
use ferrolog::proto::v1::{
    Batch, Compression, Consistency, ConsumeRequest, ConsumeResponse, ConsumeStreamRequest,
    ConsumeStreamResponse, ConsumeStreamStart, Edge, ProduceRequest, Record, Records, Relaxed,
    Start, StoredBatch, Strong, consistency, start,
};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tonic_types::StatusExt;

use super::checker::{Entry, NodeLog, hash};
use super::wire::answer;
use super::{PATIENCE, Stage};

pub type Client = LogServiceClient<Channel>;

/// More bytes than any answer of these tests has.
const RESPONSE_BYTES_MAX: usize = 64 << 20;
/// The credit of a stream that reads all there is, in bytes.
const CREDIT: u64 = 4 << 20;

/// A client of one address, on a connection of its own.
pub fn client(layer: &StreamLayer, addr: &str, options: ChannelOptions) -> Client {
    let channel = layer.channel(Kind::Grpc, addr, options);
    LogServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX)
}

/// A client of a node.
pub fn client_of(stage: &Stage, place: usize) -> Client {
    let layer = stage.cluster.stream_layer().expect("a client's security");
    let options = ChannelOptions {
        connect_timeout: Duration::from_secs(5),
        ..ChannelOptions::default()
    };
    client(&layer, stage.cluster.addr(place), options)
}

/// A batch of these values, as it is sent.
pub fn batch<V: Into<Bytes>>(values: impl IntoIterator<Item = V>) -> Batch {
    let records: Vec<_> = values.into_iter().map(record).collect();
    Batch {
        count: u32::try_from(records.len()).expect("few records"),
        records: Records { records }.encode_to_vec().into(),
        compression: Compression::Unspecified.into(),
    }
}

fn record(value: impl Into<Bytes>) -> Record {
    Record {
        value: Some(value.into()),
        ..Record::default()
    }
}

/// Appends one record by a call of its own.
pub async fn produce(client: &mut Client, value: &[u8]) -> Result<u64, Status> {
    let request = ProduceRequest {
        batch: Some(batch([Bytes::copy_from_slice(value)])),
        ..ProduceRequest::default()
    };
    Ok(answer(client.produce(request)).await?.first_offset)
}

/// The values of a batch that came without compression, each with its offset.
pub fn values(stored: &StoredBatch) -> Vec<(u64, Bytes)> {
    let batch = stored.batch.as_ref().expect("a stored batch has its batch");
    assert_eq!(batch.compression(), Compression::Unspecified, "not asked");
    let records = Records::decode(batch.records.clone()).expect("a serialized `Records`");
    assert_eq!(records.records.len(), batch.count as usize);
    let values = records.records.into_iter();
    let values = values.map(|record| record.value.unwrap_or_default());
    (stored.first_offset..).zip(values).collect()
}

/// The records of some batches, as the checker takes them. A batch has one offset, and its records follow it.
pub fn entries(batches: &[StoredBatch]) -> Vec<Entry> {
    let values = batches.iter().flat_map(values);
    let entry = |(offset, value): (u64, Bytes)| Entry {
        offset,
        hash: hash(&value),
    };
    values.map(entry).collect()
}

pub fn strong() -> Option<Consistency> {
    level(consistency::Level::Strong(Strong {}))
}

pub fn relaxed() -> Option<Consistency> {
    level(consistency::Level::Relaxed(Relaxed {}))
}

pub fn bounded(ms: u64) -> Option<Consistency> {
    level(consistency::Level::BoundedMs(ms))
}

fn level(level: consistency::Level) -> Option<Consistency> {
    Some(Consistency { level: Some(level) })
}

pub fn at(offset: u64) -> Option<Start> {
    Some(Start {
        at: Some(start::At::Offset(offset)),
    })
}

fn latest() -> Option<Start> {
    Some(Start {
        at: Some(start::At::Edge(Edge::Latest.into())),
    })
}

/// Reads what there is from an offset on, without waiting.
pub async fn consume(
    client: &mut Client,
    offset: u64,
    consistency: Option<Consistency>,
) -> Result<ConsumeResponse, Status> {
    let request = ConsumeRequest {
        start: at(offset),
        consistency,
        ..ConsumeRequest::default()
    };
    answer(client.consume(request)).await
}

/// Where the log ends, by a strong read.
pub async fn tail(client: &mut Client) -> Result<u64, Status> {
    let request = ConsumeRequest {
        start: latest(),
        consistency: strong(),
        ..ConsumeRequest::default()
    };
    Ok(answer(client.consume(request)).await?.next_offset)
}

/// A stream of reads. Dropping it ends the stream.
pub struct Stream {
    credit: mpsc::UnboundedSender<ConsumeStreamRequest>,
    answers: Streaming<ConsumeStreamResponse>,
}

impl Stream {
    /// Opens a stream and takes its first answer, which says where it begins.
    pub async fn open(
        client: &mut Client,
        start: ConsumeStreamStart,
        credit_bytes: u64,
    ) -> Result<(Self, ConsumeStreamResponse), Status> {
        let (credit, requests) = mpsc::unbounded_channel();
        let first = ConsumeStreamRequest {
            start: Some(start),
            credit_bytes,
        };
        credit.send(first).expect("the receiver is here");
        let call = client.consume_stream(UnboundedReceiverStream::new(requests));
        let answers = answer(call).await?;
        let mut stream = Self { credit, answers };
        let first = stream.next().await?;
        assert!(first.batches.is_empty(), "the first answer is a heartbeat");
        Ok((stream, first))
    }

    /// Allows more bytes. A stream that has ended says so by its next answer.
    pub fn grant(&self, credit_bytes: u64) {
        let _ = self.credit.send(ConsumeStreamRequest {
            start: None,
            credit_bytes,
        });
    }

    /// The next answer, which may be a heartbeat. These streams end by errors alone.
    pub async fn next(&mut self) -> Result<ConsumeStreamResponse, Status> {
        let next = tokio::time::timeout(PATIENCE, self.answers.message()).await;
        let next = next.unwrap_or_else(|_| panic!("no heartbeat within {PATIENCE:?}"));
        next?.ok_or_else(|| Status::unavailable("the stream ended without a word"))
    }
}

/// Bytes of records in an answer: what its credit was spent on.
pub fn spent(answer: &ConsumeStreamResponse) -> u64 {
    let batches = answer
        .batches
        .iter()
        .filter_map(|stored| stored.batch.as_ref());
    batches.map(|batch| batch.records.len() as u64).sum()
}

/// The whole log from offset 0 on, read from one node by one stream.
pub async fn read_log(stage: &Stage, place: usize) -> NodeLog {
    let mut client = client_of(stage, place);
    let end = tail(&mut client).await.expect("a strong read");
    let start = ConsumeStreamStart {
        start: at(0),
        consistency: strong(),
        ..ConsumeStreamStart::default()
    };
    let opened = Stream::open(&mut client, start, CREDIT).await;
    let (mut stream, first) = opened.expect("a stream");
    assert_eq!(first.next_offset, 0);
    let mut found = Vec::new();
    while (found.len() as u64) < end {
        let answer = stream.next().await.expect("an answer");
        found.extend(entries(&answer.batches));
        stream.grant(spent(&answer));
    }
    NodeLog {
        node: stage.cluster.name(place).to_owned(),
        first: 0,
        entries: found,
    }
}

/// The reason in an error's details, or nothing.
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.filter(|info| info.domain == "ferrolog")
        .map_or_else(String::new, |info| info.reason)
}

/// A number in an error's details, by its key.
pub fn detail(status: &Status, key: &str) -> Option<u64> {
    let info = status.get_details_error_info()?;
    info.metadata.get(key)?.parse().ok()
}
